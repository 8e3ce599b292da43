"""Rebuild the projections from the first event, and compare them with the live ones.

A replay reads the log with a plain consumer into the schema `noria_shadow`, through the same `Store.apply`. Nothing is
sent: what `react` said in the replay is compared with what stands on the log.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine

from streams.events import CONVERSATIONS, DOMAINS
from streams.following import pass_over_marks
from streams.log import Log, Record
from streams.schema import LIVE, SHADOW, projections
from streams.store import Store, positions, postgres_trouble

BATCH_RECORDS = 2000
# The outbox is a queue with marks of its own sending, not a projection; its contents are compared by id.
COMPARED = tuple(str(table.name) for table in projections.sorted_tables if table.name != "outbox")


class Rebuilt(Struct, frozen=True):
    records: int
    duration_s: float

    @property
    def records_per_s(self) -> float:
        return self.records / self.duration_s if self.duration_s else 0.0


class TableDigest(Struct, frozen=True):
    table: str
    rows: int
    live: str
    shadow: str

    @property
    def equal(self) -> bool:
        return self.live == self.shadow


class Difference(Struct, frozen=True):
    """The first differing row of a table, by primary key; only column names are told, never values of text."""

    table: str
    key: dict[str, str]
    columns: tuple[str, ...]
    where: str  # "both", "only live", "only replay"


class VerifyReport(Struct, frozen=True):
    equal: bool
    tables: tuple[TableDigest, ...]
    differences: tuple[Difference, ...]
    unsaid: tuple[str, ...]  # ids that react implies and nobody put into the live outbox
    unexplained: tuple[str, ...]  # ids in the live outbox that the replay does not imply
    records: int
    records_per_s: float
    checked_at: datetime


def create_schema(engine: Engine, schema: str) -> None:
    """Drop `schema` and make its tables anew, empty."""
    with postgres_trouble(), engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        projections.create_all(connection.execution_options(schema_translate_map={LIVE: schema}), checkfirst=False)


def rebuild(
    engine: Engine,
    log: Log,
    upto: dict[tuple[str, int], int],
    schema: str = SHADOW,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rebuilt:
    """Apply every record before `upto` to an empty `schema`. `progress(done, total)` is called after each batch."""
    create_schema(engine, schema)
    store = Store(engine, schema, invalid_per_minute=None)
    began, done, total = time.monotonic(), 0, sum(upto.values())
    batch: list[Record] = []
    for record in _records(log, upto):
        batch.append(record)
        if len(batch) == BATCH_RECORDS:
            done += store.apply(batch).records
            progress(done, total)
            batch.clear()
    if batch:
        done += store.apply(batch).records
        progress(done, total)
    reached = store.positions()
    for place, end in upto.items():
        if reached.get(place, 0) < end:
            pass_over_marks(store, log, place, reached.get(place, 0), end)
    return Rebuilt(done, time.monotonic() - began)


def verify(engine: Engine, log: Log, progress: Callable[[int, int], None] = lambda done, total: None) -> VerifyReport:
    """Rebuild into the shadow schema up to where the live one stands, and compare table by table.

    The live tables are read in one snapshot (repeatable read), so they may go on changing meanwhile.
    """
    with postgres_trouble(), engine.connect().execution_options(isolation_level="REPEATABLE READ") as live:
        upto = positions(live, LIVE)
        rebuilt = rebuild(engine, log, upto, progress=progress)
        # A snapshot sees what was committed before it began; so the rebuilt rows are read beside it.
        with engine.connect() as fresh:
            digests = tuple(
                TableDigest(name, *_digest(live, LIVE, name), _digest(fresh, SHADOW, name)[1]) for name in COMPARED
            )
            differences = tuple(
                found
                for digest in digests
                if not digest.equal and (found := _first_difference(live, fresh, digest.table))
            )
            said, implied = _outbox(live, LIVE), _outbox(fresh, SHADOW)
    unsaid, unexplained = tuple(sorted(implied - said)), tuple(sorted(said - implied))
    return VerifyReport(
        equal=all(digest.equal for digest in digests) and not unsaid and not unexplained,
        tables=digests,
        differences=differences,
        unsaid=unsaid,
        unexplained=unexplained,
        records=rebuilt.records,
        records_per_s=round(rebuilt.records_per_s, 1),
        checked_at=datetime.now(UTC),
    )


def _records(log: Log, upto: dict[tuple[str, int], int]) -> Iterator[Record]:
    """Partition by partition, conversations first: tables must come out equal whatever the order across topics."""
    for topic, partition in sorted(upto, key=lambda place: ((CONVERSATIONS, DOMAINS).index(place[0]), place[1])):
        yield from log.read(topic, partition, 0, upto[topic, partition])


def _key(name: str) -> list[str]:
    return [str(column.name) for column in projections.tables[f"{LIVE}.{name}"].primary_key]


def _columns(name: str) -> list[str]:
    return [str(column.name) for column in projections.tables[f"{LIVE}.{name}"].columns]


def _digest(connection: Connection, schema: str, name: str) -> tuple[int, str]:
    columns = ", ".join(f'"{c}"' for c in _columns(name))
    order = ", ".join(f'"{c}"' for c in _key(name))
    row = connection.exec_driver_sql(
        f"SELECT count(*), md5(coalesce(string_agg(md5(ROW({columns})::text), '' ORDER BY {order}), ''))"
        f" FROM {schema}.{name}"
    ).one()
    return int(row[0]), str(row[1])


def _first_difference(live: Connection, shadow: Connection, name: str) -> Difference | None:
    keys, columns = _key(name), _columns(name)
    listed = ", ".join(f'md5("{c}"::text)' for c in columns)
    order = ", ".join(f'"{c}"' for c in keys)
    query = (
        f"SELECT {', '.join(f'{chr(34)}{c}{chr(34)}::text' for c in keys)}, {listed} FROM %s.{name} ORDER BY {order}"
    )
    left = {tuple(row[: len(keys)]): tuple(row[len(keys) :]) for row in live.exec_driver_sql(query % LIVE)}
    right = {tuple(row[: len(keys)]): tuple(row[len(keys) :]) for row in shadow.exec_driver_sql(query % SHADOW)}
    for key in sorted(left.keys() | right.keys()):
        ours, theirs = left.get(key), right.get(key)
        if ours == theirs:
            continue
        named = dict(zip(keys, key, strict=True))
        if ours is None or theirs is None:
            return Difference(name, named, (), "only live" if theirs is None else "only replay")
        differing = tuple(c for c, a, b in zip(columns, ours, theirs, strict=True) if a != b)
        return Difference(name, named, differing, "both")
    return None


def _outbox(connection: Connection, schema: str) -> set[str]:
    return set(connection.exec_driver_sql(f"SELECT message_id FROM {schema}.outbox").scalars())


def as_json(report: VerifyReport) -> bytes:
    return msgspec.json.encode(report)
