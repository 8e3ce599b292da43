"""Whether the log still holds what was read of it.

A log can lose its tail (a broker that was not flushed, a disk), be made anew, or be another: then positions lie past its end, and
what is appended below them would never be applied. So the last record that was read is remembered beside each position, in the
same transaction, and who reads or writes the log looks whether it still stands there: when it starts, whenever the log was away,
and now and then. Nothing goes on upon a log that is not the one that was read; `noria rebuild` begins again from what it holds.
"""

import time
from collections.abc import Callable, Mapping
from itertools import groupby

from msgspec import Struct
from sqlalchemy import Connection, Engine

from streams.errors import Unavailable
from streams.log import Log, LostHistory
from streams.store import postgres_trouble
from streams.tables import LIVE

CHECK_EVERY_S = 1.0  # whether each partition is as long as what was read of it
LOOK_EVERY_S = 30.0  # into the records, too

Place = tuple[str, int]  # topic and partition


class ReadTo(Struct, frozen=True):
    """The next offset to be read of a partition, and the last record before it, if one is known."""

    next_offset: int
    last_offset: int | None = None
    last_digest: str | None = None


class Found(Struct, frozen=True):
    """How a partition stands that was read: `lost` says what is missing of it."""

    topic: str
    partition: int
    read_to: int
    end: int
    lost: str | None

    @property
    def place(self) -> str:
        return f"{self.topic}-{self.partition}"


def read_to(connection: Connection) -> dict[Place, ReadTo]:
    """What the projections and the intake of orders have read."""
    rows = connection.exec_driver_sql(
        f"SELECT topic, partition, next_offset, last_offset, last_digest FROM {LIVE}.positions"
        " UNION ALL SELECT topic, partition, next_offset, last_offset, last_digest FROM work.intake"
    )
    return {(row.topic, row.partition): ReadTo(row.next_offset, row.last_offset, row.last_digest) for row in rows}


def look(log: Log, read: Mapping[Place, ReadTo], into_records: bool = True) -> list[Found]:
    """How each partition stands. `read` is what was read before this was called. Raises Unavailable."""
    found = []
    for topic, places in groupby(sorted(read), key=lambda place: place[0]):
        ends = log.ends(topic)
        for place in places:
            end = ends.get(place[1], 0)
            found.append(Found(*place, read[place].next_offset, end, _lost(log, place, read[place], end, into_records)))
    return found


def _lost(log: Log, place: Place, read: ReadTo, end: int, into_records: bool) -> str | None:
    if read.next_offset > end:
        return f"it ends at offset {end}, and was read up to {read.next_offset}"
    if not into_records or read.last_offset is None:
        return None
    try:
        last = next(iter(log.read(*place, read.last_offset, read.last_offset + 1)), None)
    except LostHistory:
        last = None
    if last is None:
        return f"the record at offset {read.last_offset} was read, and is not there"
    if last.digest != read.last_digest:
        return f"at offset {read.last_offset} stands another record than was read"
    return None


class Continuity:
    """Looks again and again whether the log is still the one that was read."""

    def __init__(self, database: Engine, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._log = log
        self._clock = clock
        self._check_at = self._look_at = float("-inf")

    def doubt(self) -> None:
        """The log was away: what comes back may be another."""
        self._check_at = self._look_at = float("-inf")

    def check(self) -> None:
        """Look, if that is due. Raises LostHistory, naming each partition and what it lacks, or Unavailable."""
        now = self._clock()
        if now < self._check_at:
            return
        into_records = now >= self._look_at
        try:
            with postgres_trouble(), self._database.connect() as connection:
                read = read_to(connection)
            found = look(self._log, read, into_records)
        except Unavailable:
            self.doubt()
            raise
        if lost := [f"{one.place}: {one.lost}" for one in found if one.lost is not None]:
            raise LostHistory(f"the log is not the one that was read: {'; '.join(lost)}. See `noria log check`")
        self._check_at = now + CHECK_EVERY_S
        if into_records:
            self._look_at = now + LOOK_EVERY_S
