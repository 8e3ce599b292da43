"""Rebuild the projections from the first event, and compare them with the live ones.

A replay reads the log with a plain consumer into the schema `noria_shadow`, through the same `Store.apply`. Nothing is
sent: what `react` said in the replay is compared with what stands on the log.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, Text

from streams.events import CONVERSATIONS, DOMAINS, ORDERS, QUARANTINE
from streams.following import pass_over_marks
from streams.log import Log, Record
from streams.schema import LIVE, SHADOW, projections
from streams.store import Store, positions, postgres_trouble, quarantine_id

BATCH_RECORDS = 2000
LISTED = 1000
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
    # The first LISTED, each:
    unsaid: tuple[str, ...]  # ids that react implies, and that stand neither on the log nor in the live outbox
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
            newest = live.exec_driver_sql(f"SELECT coalesce(max(id), 0) FROM {LIVE}.outbox").scalar_one()
        unsaid, unexplained = _compare_outbox(engine, log, newest)
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
    """Both tables are read side by side, in the order of their keys."""
    keys = _key(name)
    sides = (_hashed(live, LIVE, name), _hashed(shadow, SHADOW, name))
    ours, theirs = (next(side, None) for side in sides)
    while ours is not None or theirs is not None:
        if ours is None or theirs is None or ours[0] != theirs[0]:
            only_live = theirs is None or (ours is not None and ours[0] < theirs[0])
            (first,) = [row for row in (ours if only_live else theirs,) if row is not None]
            key = {column: str(value) for column, value in zip(keys, first[0], strict=True)}
            return Difference(name, key, (), "only live" if only_live else "only replay")
        if ours[1] != theirs[1]:
            differing = tuple(c for c, a, b in zip(_columns(name), ours[1], theirs[1], strict=True) if a != b)
            key = {column: str(value) for column, value in zip(keys, ours[0], strict=True)}
            return Difference(name, key, differing, "both")
        ours, theirs = (next(side, None) for side in sides)
    return None


def _hashed(connection: Connection, schema: str, name: str) -> Iterator[tuple[tuple[Any, ...], tuple[str, ...]]]:
    """The rows by their keys, each with the hashes of its columns."""
    table, keys = projections.tables[f"{LIVE}.{name}"], _key(name)
    words = {str(column.name) for column in table.columns if isinstance(column.type, Text)}
    # Whatever order of words the database has, this is Python's.
    order = ", ".join(f'"{key}" COLLATE "C"' if key in words else f'"{key}"' for key in keys)
    hashes = ", ".join(f'md5("{column}"::text)' for column in _columns(name))
    named = ", ".join(f'"{key}"' for key in keys)
    rows = connection.exec_driver_sql(
        f"SELECT {named}, {hashes} FROM {schema}.{name} ORDER BY {order}",
        execution_options={"yield_per": BATCH_RECORDS},
    )
    for row in rows:
        yield tuple(row[: len(keys)]), tuple(row[len(keys) :])


def _compare_outbox(engine: Engine, log: Log, newest: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was to be said and what was: the outbox keeps no row for ever that was sent, so the log is asked too. `newest`: the last
    row of the live outbox that the comparison is about."""
    with postgres_trouble(), engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {SHADOW}.said (message_id text)")
        waiting = _sent_elsewhere(log)
        while ids := list(islice(waiting, BATCH_RECORDS)):
            connection.exec_driver_sql(f"INSERT INTO {SHADOW}.said SELECT unnest(%s)", (ids,))
        unsaid = connection.exec_driver_sql(
            f"SELECT message_id FROM {SHADOW}.outbox s"
            f" WHERE NOT EXISTS (SELECT FROM {SHADOW}.said t WHERE t.message_id = s.message_id)"
            f" AND NOT EXISTS (SELECT FROM {LIVE}.outbox o WHERE o.message_id = s.message_id)"
            f" AND NOT EXISTS (SELECT FROM {LIVE}.events e WHERE e.event_id = s.message_id)"
            f" ORDER BY message_id LIMIT {LISTED}"
        ).scalars()
        unexplained = connection.exec_driver_sql(
            f"SELECT message_id FROM {LIVE}.outbox o WHERE id <= %s"
            f" AND NOT EXISTS (SELECT FROM {SHADOW}.outbox s WHERE s.message_id = o.message_id)"
            f" ORDER BY message_id LIMIT {LISTED}",
            (newest,),
        ).scalars()
        return tuple(unsaid), tuple(unexplained)


def _sent_elsewhere(log: Log) -> Iterator[str]:
    """The ids of what stands on the topics that the tables do not hold."""
    for topic in (ORDERS, QUARANTINE):
        for partition, end in log.ends(topic).items():
            for record in log.read(topic, partition, 0, end):
                key = (record.key or b"").decode(errors="replace").replace("\0", "")
                yield key if topic == ORDERS else quarantine_id(key)


def as_json(report: VerifyReport) -> bytes:
    return msgspec.json.encode(report)
