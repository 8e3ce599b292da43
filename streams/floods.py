"""Where the stream stands still because too much could not be read, and the operator's word that lets it past.

Both are events on `noria.operations`. They say how fast quarantine may fill, never what goes there: a replay knows no limit, and
comes to the same without them.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import uuid4

from msgspec import Struct

from streams.codec import encode_operation, operation_key, read_event, read_operation
from streams.errors import Invalid
from streams.events import OPERATIONS
from streams.facts.operations import OperationsEvent, SkipAllowed, StreamStopped
from streams.log import Log, Message, Position, Record

TIMEOUT_S = 10.0
LOOK_AHEAD = 5000  # records
Place = tuple[str, int]


class Operations(Struct, frozen=True):
    """What was said, in order, each with its time."""

    said: list[tuple[datetime, OperationsEvent]]

    @property
    def allowed(self) -> dict[Place, int]:
        """By partition, up to and with which offset an operator lets everything past."""
        found: dict[Place, int] = {}
        for _, event in self.said:
            if isinstance(event, SkipAllowed):
                place = (event.topic, event.partition)
                found[place] = max(event.to, found.get(place, -1))
        return found

    @property
    def stopped(self) -> dict[Place, tuple[datetime, StreamStopped]]:
        """By partition, where the stream stopped last. It may have gone on since."""
        return {
            (event.topic, event.partition): (at, event) for at, event in self.said if isinstance(event, StreamStopped)
        }


def read_operations(log: Log) -> Operations:
    """Raises Unavailable. What cannot be read there is passed over: nothing hangs on it but that an operator says it again."""
    said = []
    for partition, end in sorted(log.ends(OPERATIONS).items()):
        for record in log.read(OPERATIONS, partition, 0, end):
            try:
                said.append(read_operation(record.value))
            except Invalid:
                continue
    return Operations(said)


def say(log: Log, event: OperationsEvent, source: str) -> Position:
    """Raises Unavailable."""
    value = encode_operation(event, id=uuid4(), source=source, time=datetime.now(UTC))
    (position,) = log.append([Message(OPERATIONS, operation_key(event), value)], TIMEOUT_S)
    return position


def tell_stops(log: Log, met: Sequence[Record], source: str) -> None:
    """Say where the stream stands still, having `met` what is too much, unless that was said before. Raises Unavailable and
    LostHistory.

    What cannot be read after it is told too, so that one word gets past, however the records were batched."""
    known = {event for _, event in read_operations(log).stopped.values()}
    offsets: dict[Place, set[int]] = {}
    for record in met:
        offsets.setdefault((record.topic, record.partition), set()).add(record.offset)
    for (topic, partition), found in sorted(offsets.items()):
        start = min(found)
        end = min(log.ends(topic)[partition], start + LOOK_AHEAD)
        found |= {record.offset for record in log.read(topic, partition, start, end) if not _is_readable(record)}
        stop = StreamStopped(topic=topic, partition=partition, first=start, last=max(found), unreadable=len(found))
        if stop not in known:
            say(log, stop, source)


def _is_readable(record: Record) -> bool:
    try:
        read_event(record.topic, record.key, record.value)
    except Invalid:
        return False
    return True
