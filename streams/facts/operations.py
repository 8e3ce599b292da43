"""Operations, keyed by the partition that they are about: of how the log is read and not of what is read, so nothing folds them.
Apart from what the stream follows, which may be the very thing that stands still."""

from msgspec import Struct

from streams.envelope import Number, Offset


class StreamStopped(Struct, frozen=True, kw_only=True):
    """More records than may be within a minute could not be read, and the stream goes no further. Of this partition `unreadable`
    stand there, from offset `first` to `last`."""

    topic: str
    partition: Number
    first: Offset
    last: Offset
    unreadable: Number


class SkipAllowed(Struct, frozen=True, kw_only=True):
    """An operator's word: what cannot be read of this partition, up to and with offset `to`, goes to quarantine however much it is.
    What can be read there takes effect as ever."""

    topic: str
    partition: Number
    to: Offset
    by: str


OperationsEvent = StreamStopped | SkipAllowed
