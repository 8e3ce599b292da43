"""A key at which a bug was met: its events from there on have no effect until code that can do them takes them up.

The others go on. A key is that of a state: an exchange's or a domain's. States and rows of different keys have nothing in common
but counts, which are sums; what follows from an event has its id and its time from that event alone; and a domain acts on it when
and where it stands on the domain's own partition. So it makes no other table when a key is taken up. Whoever reads the log, live or
again, parks alike: the step of an event is pure. What is told of the bug is nobody's words: the kind of the error, and the place in
our code.
"""

import traceback
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values
from sqlalchemy import Connection

from streams.envelope import Recorded
from streams.errors import Invalid
from streams.tables import LIVE

# So many keys may stand parked at once. One more, and it is a bug for everybody: whoever reads the log stops there instead.
AT_MOST = 50
_OURS = Path(__file__).parent
_COLUMNS = 'kind, key, domain, topic, partition, "offset", reason'

Key = tuple[str, str]  # the kind of a state, and its name


class TooManyParked(Invalid):
    """More keys than may would stand parked: stop, rather than let the log go by without effect."""


class Parked(Struct, frozen=True):
    """A key, the place of its first event without effect, and the bug that it met there."""

    kind: str
    key: str
    domain: str
    topic: str
    partition: int
    offset: int
    reason: str

    @property
    def place(self) -> str:
        return f"{self.topic}-{self.partition}@{self.offset}"

    def holds(self, recorded: Recorded) -> bool:
        """Whether an event of the key has no effect: it stands there or behind."""
        return (recorded.topic, recorded.partition) == (self.topic, self.partition) and recorded.offset >= self.offset


def parked_at(recorded: Recorded, key: Key, error: Exception) -> Parked:
    """The key of which `error` was met at that event."""
    domain = recorded.envelope.event.domain
    return Parked(*key, domain, recorded.topic, recorded.partition, recorded.offset, reason_of(error))


def reason_of(error: Exception) -> str:
    """The kind of an error, and where in our code it came up."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(_OURS)]
    where = (
        f" at {Path(frames[-1].filename).relative_to(_OURS.parent)}:{frames[-1].lineno} {frames[-1].name}"
        if frames
        else ""
    )
    return f"{type(error).__name__}{where}"


def read_parked(cursor: Cursor, schema: str) -> dict[Key, Parked]:
    """What stands parked in a schema."""
    cursor.execute(f"SELECT {_COLUMNS} FROM {schema}.parked")
    return {(parked.kind, parked.key): parked for parked in (Parked(*row) for row in cursor.fetchall())}


def park(cursor: Cursor, schema: str, parked: Iterable[Parked], standing: int) -> None:
    """Write down keys that are parked from now on, beside those `standing` so already. Raises TooManyParked."""
    new = list(parked)
    if standing + len(new) > AT_MOST:
        last = new[-1]
        raise TooManyParked(
            f"{standing + len(new)} keys met a bug (limit {AT_MOST}), the last at {last.place}: {last.reason}"
        )
    rows = [(p.kind, p.key, p.domain, p.topic, p.partition, p.offset, p.reason) for p in new]
    execute_values(cursor, f"INSERT INTO {schema}.parked ({_COLUMNS}) VALUES %s", rows)


def move(cursor: Cursor, schema: str, parked: Parked) -> None:
    """Let a key stand parked at another place, or for another reason."""
    cursor.execute(
        f'UPDATE {schema}.parked SET "offset" = %s, reason = %s WHERE kind = %s AND key = %s',
        (parked.offset, parked.reason, parked.kind, parked.key),
    )


def release(cursor: Cursor, schema: str, key: Key) -> None:
    """Let a key be parked no more."""
    cursor.execute(f"DELETE FROM {schema}.parked WHERE kind = %s AND key = %s", key)


def copy_parked(connection: Connection, schema: str) -> None:
    """Let what stands parked in the live tables stand so in `schema`; tables of older code know of nothing such."""
    if connection.exec_driver_sql(f"SELECT to_regclass('{LIVE}.parked')").scalar_one() is not None:
        columns = f"{_COLUMNS}, since"
        connection.exec_driver_sql(f"INSERT INTO {schema}.parked ({columns}) SELECT {columns} FROM {LIVE}.parked")


def first_places(connection: Connection) -> dict[tuple[str, int], int]:
    """Of each partition of which something is parked, the first offset without effect."""
    rows = connection.exec_driver_sql(
        f'SELECT topic, partition, min("offset") FROM {LIVE}.parked GROUP BY topic, partition'
    )
    return {(topic, partition): int(offset) for topic, partition, offset in rows}
