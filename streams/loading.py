"""An empty schema, filled from the log as fast as it can be: what a rebuild is, whose tables nobody else reads or writes.

What happens of an event is `streams.store.take_effect`, as everywhere, and the rows come out equal. What differs is how they are
written: by COPY; the tables that are only ever added to without a key or an index until all rows are there; states when their
batch ends, and those of domains at the very end. Partitions have nothing in common but the ids of events, so several processes
share them out. What only a key would have noticed (an event that stands there twice, far apart; a value that no index holds) is
noticed when the keys are made, and then the log is read once more, without these short cuts: there are few such logs.
"""

import gc
import io
import os
import queue
import select
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from operator import itemgetter
from types import NoneType
from typing import IO, Any, Generic, TypeVar
from uuid import UUID

import msgspec
import psycopg2
from msgspec import Struct
from psycopg2.errors import UniqueViolation
from psycopg2.extensions import connection as PostgresConnection
from psycopg2.extensions import cursor as Cursor
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex

from streams.cluster import Cluster, named_cluster
from streams.domain import Domain, pack
from streams.envelope import Recorded
from streams.erasures import destroy_told
from streams.errors import Unavailable
from streams.events import CONVERSATIONS, DOMAINS
from streams.facts.conversations import Exchange
from streams.facts.people import PersonErased
from streams.log import KafkaLog, Log, LostHistory, Record
from streams.parking import Key, Parked, TooManyParked, park, read_parked
from streams.schema import projections
from streams.schemas import create_schema, loading_lock
from streams.sqlstate import meaning_of
from streams.store import (
    EVENT_COLUMNS,
    Buffer,
    Said,
    event_row,
    in_order,
    open_database,
    packed,
    postgres_trouble,
    read_records,
    state_of,
    take_effect,
)
from streams.tables import LIVE
from streams.writes import Count, Insert, Row, Write

BATCH_RECORDS = 10_000
BATCH_BYTES = 32_000_000
# Of what was read last, so much at least, and at most twice as much:
REMEMBERED_IDS = 100_000
REMEMBERED_BYTES = 16_000_000  # of the states of exchanges
GARBAGE_OBJECTS = (
    500_000  # more than a batch makes: looked for after each 700, as is usual, it takes a seventh of the time
)
PROCESSES = 3  # at most: each has a connection, and the command that waits for them has two of its five
SHARED_FROM = 50_000  # records; fewer are sooner read than another process is started
FOLLOWED = (CONVERSATIONS, DOMAINS)
# Only ever added to: without keys and indexes until all rows are there.
LOOSE = ("events", "prompts", "replies", "feedback")
# Of which many rows may come at once; what they hold can be copied as text.
_COPIED = frozenset({"examples", "exam_items", "fresh", "learned", "preferences", "rankings"})

_BACKSLASH = "\0"  # one that stays one; in no text that the log may hold
_NULL = f"{_BACKSLASH}N"
_ESCAPED = (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))
K = TypeVar("K")
V = TypeVar("V")
Places = dict[tuple[str, int], int]
Progress = Callable[[int], None]


class Repeated(Exception):
    """Events stand on the log twice, further apart than is remembered. `ids`: all of them."""

    def __init__(self, ids: frozenset[UUID]) -> None:
        super().__init__(f"{len(ids)} events stand on the log more than once")
        self.ids = ids


class NotSoFast(Exception):
    """There is something on the log that only `Store.apply` knows what to do about."""


def records_of(log: Log, since: Mapping[tuple[str, int], int], upto: Mapping[tuple[str, int], int]) -> Iterator[Record]:
    """Partition by partition, conversations first: tables must come out equal whatever the order across topics."""
    for topic, partition in sorted(upto, key=lambda place: (FOLLOWED.index(place[0]), place[1])):
        yield from log.read(topic, partition, since.get((topic, partition), 0), upto[topic, partition])


def load(
    database: Engine, log: Log, upto: Places, schema: str, progress: Progress, *, parked_stay: bool = False
) -> int:
    """Fill `schema`, which is made anew, with all that stands before `upto`; how many records that was. `parked_stay`: keys that
    stand parked in the live tables have no effect here either. Raises TooManyParked, and NotSoFast: then it holds something or
    other, and is to be filled by `Store.apply`."""

    def filled(repeated: frozenset[UUID]) -> int:
        create_schema(database, schema, parked_stay=parked_stay)
        return _load(database, log, upto, schema, repeated, progress)

    try:
        return filled(frozenset())
    except Repeated as found:
        return filled(found.ids)


def _load(database: Engine, log: Log, upto: Places, schema: str, repeated: frozenset[UUID], progress: Progress) -> int:
    with postgres_trouble(), database.begin() as connection:
        _loosen(connection, schema)
    shared = isinstance(log, KafkaLog) and sum(upto.values()) >= SHARED_FROM and not repeated
    if shared and isinstance(log, KafkaLog):
        done = _shared(database, log.cluster, upto, schema, progress)
    else:
        done = Loader(database, schema, repeated).fill(log, upto, progress)
    _fasten(database, schema)
    return done


class Loader:
    """Fills a schema with whole partitions. `repeated`: ids that are known to come more than once."""

    def __init__(self, database: Engine, schema: str, repeated: frozenset[UUID] = frozenset()) -> None:
        self._database = database
        self._schema = schema
        self._came = {id_.int: False for id_ in repeated}
        self._ids = _Remembered[int, None](REMEMBERED_IDS)
        self._talks = _Remembered[str, Exchange](REMEMBERED_BYTES)
        self._domains: dict[str, Domain] = {}
        self._parked: dict[Key, Parked] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._next: Places = {}
        self._last: dict[tuple[str, int], Record] = {}

    def fill(self, log: Log, upto: Places, progress: Progress, locked: Callable[[], None] = lambda: None) -> int:
        """Apply all that stands before `upto`; how many records that was. `locked` is called once nobody can make the schema
        anew."""
        done = 0
        self._next = dict.fromkeys(upto, 0)
        with _quickly(), _own_connection(self._database) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SET synchronous_commit = off")
                cursor.execute("SELECT pg_advisory_lock_shared(hashtext(%s))", (loading_lock(self._schema),))
                self._parked = read_parked(cursor, self._schema)
            connection.commit()
            locked()
            for batch in _batches(records_of(log, {}, upto)):
                done += self._apply(connection, batch)
                progress(done)
            for place, end in upto.items():
                if self._next[place] < end and next(iter(log.read(*place, self._next[place], end)), None) is None:
                    self._next[place] = end  # marks of transactions, and no record
            self._end(connection)
        return done

    def _apply(self, connection: PostgresConnection, records: Sequence[Record]) -> int:
        fresh = in_order(records, self._next)
        readable, _, said = read_records(fresh, {})
        found = [recorded for recorded in readable if self._is_new(recorded.envelope.id)]
        with connection.cursor() as cursor:
            talks = self._talks_of(cursor, found)
            rows = _Rows(self._schema, cursor, self._counts)
            standing = len(self._parked)
            said += take_effect(found, talks, self._domains, self._parked, rows.add_event, rows.add)
            if new := list(self._parked.values())[standing:]:
                park(cursor, self._schema, new, standing)
            rows.flush()
            if self._schema == LIVE:  # the keyring may have been put back as it was before them
                destroy_told(cursor, (r.envelope.event for r in found if isinstance(r.envelope.event, PersonErased)))
            states = list(packed(talks))
            _put_states(cursor, self._schema, (("exchange", key, body) for key, body in states))
            _put_said(cursor, self._schema, said)
        connection.commit()
        for key, body in states:
            self._talks.put(key, talks[key], len(body))
        self._last |= {(record.topic, record.partition): record for record in fresh}
        return len(fresh)

    def _is_new(self, id_: UUID) -> bool:
        number = id_.int
        if number in self._came:
            came, self._came[number] = self._came[number], True
            return not came
        if number in self._ids:
            return False
        self._ids.put(number, None)
        return True

    def _talks_of(self, cursor: Cursor, found: Iterable[Recorded]) -> dict[str, Exchange]:
        """The exchanges that these events belong to, so far as there are any."""
        keys = {key for kind, key in map(state_of, (recorded.envelope for recorded in found)) if kind == "exchange"}
        talks = {key: talk for key in keys if (talk := self._talks.get(key)) is not None}
        missing = [key for key in keys if key not in talks]
        if missing:
            cursor.execute(
                f"SELECT key, body FROM {self._schema}.states WHERE kind = 'exchange' AND key = ANY(%s)", (missing,)
            )
            talks |= {key: msgspec.msgpack.decode(body, type=Exchange) for key, body in cursor.fetchall()}
        return talks

    def _end(self, connection: PostgresConnection) -> None:
        """What is only known, or only needed, when all is read."""
        with connection.cursor() as cursor:
            _put_states(cursor, self._schema, (("domain", key, pack(s)) for key, s in self._domains.items()))
            names = ("domain", "kind", "number")
            _stage(cursor, self._schema, "feedback_counts", names, ((*key, n) for key, n in self._counts.items()))
            cursor.execute(
                f"INSERT INTO {self._schema}.feedback_counts AS t (domain, kind, number)"
                " SELECT domain, kind, number FROM stage_feedback_counts ORDER BY domain, kind"  # as every process does
                " ON CONFLICT (domain, kind) DO UPDATE SET number = t.number + excluded.number"
            )
            for place, end in self._next.items():
                last = self._last.get(place)
                if end:
                    cursor.execute(
                        f"INSERT INTO {self._schema}.positions (topic, partition, next_offset, last_offset, last_digest)"
                        " VALUES (%s, %s, %s, %s, %s)",
                        (*place, end, last and last.offset, last and last.digest),
                    )
        connection.commit()


class _Remembered(Generic[K, V]):
    """What was put in of late, in bounded memory: of two generations the elder is forgotten when the younger is full."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._weight = 0
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._young or key in self._old

    def get(self, key: K) -> V | None:
        return self._young.get(key) or self._old.get(key)

    def put(self, key: K, value: V, weight: int = 1) -> None:
        self._young[key] = value
        self._weight += weight
        if self._weight >= self._limit:
            self._old, self._young, self._weight = self._young, {}, 0


class _Rows(Buffer):
    """The writes of one batch: rows of LOOSE tables as COPY takes them, the rest as `Buffer` has them."""

    def __init__(self, schema: str, cursor: Cursor, counts: Counter[tuple[str, str]]) -> None:
        super().__init__(schema, cursor)
        self._into = schema
        self._copied_by = cursor
        self._total = counts
        self._lines: dict[str, list[str]] = {name: [] for name in LOOSE}
        self._names = {"events": EVENT_COLUMNS}
        self._values: dict[str, Callable[[Row], tuple[Any, ...]]] = {}

    def add_event(self, recorded: Recorded) -> None:
        self._lines["events"].append(_event_line(event_row(recorded)))

    def add(self, write: Write) -> None:
        if isinstance(write, Insert) and write.table in self._lines:
            if write.table not in self._names:
                self._names[write.table] = tuple(write.row)
                self._values[write.table] = itemgetter(*write.row)
            self._lines[write.table].append(_line(self._values[write.table](write.row)))
        elif isinstance(write, Count) and write.table == "feedback_counts":
            self._total[write.key["domain"], write.key["kind"]] += 1
        else:
            super().add(write)

    def insert(self, table: str, rows: Iterable[Row]) -> None:
        listed = list(rows)
        if table not in _COPIED:
            return super().insert(table, listed)
        names = tuple(listed[0])
        _stage(self._copied_by, self._into, table, names, ([row[name] for name in names] for row in listed))
        columns = ", ".join(f'"{name}"' for name in names)
        self._copied_by.execute(
            f"INSERT INTO {self._into}.{table} ({columns}) SELECT {columns} FROM stage_{table} ON CONFLICT DO NOTHING"
        )
        self._copied_by.execute(f"TRUNCATE stage_{table}")

    def flush(self) -> None:
        super().flush()
        for table, lines in self._lines.items():
            if lines:
                _copy(self._copied_by, f"{self._into}.{table}", self._names[table], lines)
                lines.clear()


def _put_states(cursor: Cursor, schema: str, states: Iterable[tuple[str, str, bytes]]) -> None:
    _stage(cursor, schema, "states", ("kind", "key", "body"), states)
    cursor.execute(
        f"INSERT INTO {schema}.states (kind, key, body) SELECT kind, key, body FROM stage_states"
        " ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body"
    )
    cursor.execute("TRUNCATE stage_states")


def _put_said(cursor: Cursor, schema: str, said: Sequence[Said]) -> None:
    if not said:
        return
    names = ("id", "message_id", "topic", "key", "value")
    _stage(cursor, schema, "outbox", names, ((number, *one) for number, one in enumerate(said)))
    cursor.execute(
        f"INSERT INTO {schema}.outbox (message_id, topic, key, value)"
        " SELECT message_id, topic, key, value FROM stage_outbox ORDER BY id ON CONFLICT (message_id) DO NOTHING"
    )


def _stage(cursor: Cursor, schema: str, table: str, names: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Put rows into `stage_<table>`, which has no keys and is empty again when the transaction ends."""
    columns = ", ".join(f'"{name}"' for name in names)
    cursor.execute(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS stage_{table} ON COMMIT DELETE ROWS"
        f" AS SELECT {columns} FROM {schema}.{table} WITH NO DATA"
    )
    _copy(cursor, f"stage_{table}", names, [_line(row) for row in rows])


def _copy(cursor: Cursor, table: str, names: Sequence[str], lines: list[str]) -> None:
    columns = ", ".join(f'"{name}"' for name in names)
    lines.append("")
    data = io.BytesIO("\n".join(lines).encode())
    cursor.copy_expert(f"COPY {table} ({columns}) FROM STDIN", data, size=1 << 20)


def _line(values: Iterable[Any]) -> str:
    """One row as COPY takes it."""
    fields = [v if type(v) is str else _WRITTEN[type(v)](v) for v in values]
    line = "\t".join(fields)
    if "\\" in line or "\n" in line or "\r" in line or line.count("\t") >= len(fields):
        for text, escaped in _ESCAPED:
            fields = [field.replace(text, escaped) for field in fields]
        line = "\t".join(fields)
    return line.replace(_BACKSLASH, "\\")


def _event_line(row: tuple[Any, ...]) -> str:
    """As `_line`, of the table that has a row for each event."""
    id_, topic, partition, offset, type_, time, source, key, domain, person, correlation, causation = row
    line = (
        f"{id_}\t{topic}\t{partition}\t{offset}\t{type_}\t{time}\t{source}\t{key}\t{domain}"
        f"\t{_NULL if person is None else person}\t{correlation}\t{_NULL if causation is None else causation}"
    )
    plain = "\\" not in line and "\n" not in line and "\r" not in line and line.count("\t") == len(row) - 1
    return line.replace(_BACKSLASH, "\\") if plain else _line(row)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# By kind; whatever else there is, is a bug.
_WRITTEN: dict[type, Callable[[Any], str]] = {
    bool: str,
    int: str,
    float: repr,
    datetime: datetime.isoformat,
    bytes: lambda value: f"{_BACKSLASH}{_BACKSLASH}x{value.hex()}",
    dict: _json,
    list: _json,
    tuple: _json,
    NoneType: lambda nothing: _NULL,
}


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.value)
        if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def _own_connection(database: Engine) -> Iterator[PostgresConnection]:
    """One beside the pool: what was set, locked and made for a while goes with it."""
    lent = database.raw_connection()
    connection = lent.driver_connection
    lent.detach()
    assert connection is not None
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _quickly() -> Iterator[None]:
    """Turn what PostgreSQL says of content, or of a key that is there twice, into NotSoFast."""
    try:
        with postgres_trouble():
            yield
    except (OverflowError, psycopg2.Error, SQLAlchemyError) as error:
        said = error.orig if isinstance(error, SQLAlchemyError) and hasattr(error, "orig") else error
        if meaning_of(error) == "content" or isinstance(said, UniqueViolation):
            raise NotSoFast from error
        raise


def _loosen(connection: Connection, schema: str) -> None:
    for name in LOOSE:
        table = projections.tables[f"{LIVE}.{name}"]
        for index in table.indexes:
            connection.exec_driver_sql(f"DROP INDEX {schema}.{index.name}")
        connection.exec_driver_sql(f"ALTER TABLE {schema}.{name} DROP CONSTRAINT {table.primary_key.name}")


def _fasten(database: Engine, schema: str) -> None:
    """Give the LOOSE tables their keys and indexes. Raises Repeated, NotSoFast."""
    try:
        with _quickly(), database.begin() as connection:
            translated = connection.execution_options(schema_translate_map={LIVE: schema})
            for name in LOOSE:
                table = projections.tables[f"{LIVE}.{name}"]
                keys = ", ".join(f'"{column.name}"' for column in table.primary_key)
                connection.exec_driver_sql(
                    f"ALTER TABLE {schema}.{name} ADD CONSTRAINT {table.primary_key.name} PRIMARY KEY ({keys})"
                )
                for index in sorted(table.indexes, key=lambda index: str(index.name)):
                    translated.execute(CreateIndex(index))
            for table in projections.sorted_tables:
                connection.exec_driver_sql(f"ANALYZE {schema}.{table.name}")
    except NotSoFast:
        with postgres_trouble(), database.connect() as connection:
            twice = connection.exec_driver_sql(
                f"SELECT event_id FROM {schema}.events GROUP BY event_id HAVING count(*) > 1"
            ).scalars()
            if ids := frozenset(UUID(event_id) for event_id in twice):
                raise Repeated(ids) from None
        raise


class _Share(Struct, frozen=True):
    """What one process reads, and where to. Handed to it by its input: the database's address holds a password."""

    database_url: str
    kafka: dict[str, str]  # the settings that name it
    schema: str
    places: list[tuple[str, int, int]]  # topic, partition, and where it ends


class _Told(Struct, frozen=True):
    """What a process says: how many records it has read so far, that it is done, or why it is not."""

    done: int = 0
    ended: bool = False
    error: str | None = None
    words: str = ""


_ENDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (NotSoFast, Unavailable, LostHistory, TooManyParked)
}


def _shared(database: Engine, cluster: Cluster, upto: Places, schema: str, progress: Progress) -> int:
    """The partitions shared out among the cores."""
    shares: list[Places] = [{} for _ in range(min(os.cpu_count() or 1, PROCESSES, len(upto)))]
    for place in sorted(upto, key=lambda place: -upto[place]):
        min(shares, key=lambda share: sum(share.values()))[place] = upto[place]
    url = database.url.render_as_string(hide_password=False)
    told: queue.Queue[tuple[int, bytes]] = queue.Queue()
    done, running = [0] * len(shares), set(range(len(shares)))
    processes = []
    try:
        for number, share in enumerate(shares):
            process = subprocess.Popen(
                [sys.executable, "-m", "streams.loading"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            processes.append(process)
            assert process.stdin is not None and process.stdout is not None
            given = _Share(url, cluster.environ(), schema, [(*place, end) for place, end in share.items()])
            process.stdin.write(msgspec.json.encode(given) + b"\n")
            process.stdin.flush()  # and left open: the process ends when it is closed, in whatever way
            threading.Thread(target=_hear, args=(number, process.stdout, told), daemon=True).start()
        while running:
            number, line = told.get()
            if not line and number not in running:
                continue  # it had done its share
            said = msgspec.json.decode(line or b'{"error": "Unavailable", "words": "a process ended"}', type=_Told)
            if said.error is not None:
                raise _ENDS.get(said.error, RuntimeError)(said.words)
            if said.ended:
                running.discard(number)
            else:
                done[number] = said.done
                progress(sum(done))
        return sum(done)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _hear(number: int, pipe: IO[bytes], told: "queue.Queue[tuple[int, bytes]]") -> None:
    with suppress(ValueError):  # closed meanwhile
        for line in pipe:
            told.put((number, line))
    told.put((number, b""))


def main() -> int:
    """One share, as it comes by the input; what there is to say goes to the output, line by line."""
    share = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Share)
    threading.Thread(target=_end_with_input, daemon=True).start()
    gc.set_threshold(GARBAGE_OBJECTS)
    cluster = named_cluster(share.kafka)
    assert cluster is not None
    database, log = open_database(share.database_url), KafkaLog(cluster, "noria-loading")
    upto = {(topic, partition): end for topic, partition, end in share.places}
    try:
        Loader(database, share.schema).fill(log, upto, lambda done: _tell(_Told(done)), _check_input)
        _tell(_Told(ended=True))
    except tuple(_ENDS.values()) as error:
        _tell(_Told(error=type(error).__name__, words=str(error)))
    except Exception as error:
        _tell(_Told(error="bug", words=type(error).__name__))
        raise
    finally:
        log.close()
        database.dispose()
    return 0


def _tell(told: _Told) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(70)


def _check_input() -> None:
    """End at once where whoever started this process is gone: what it is to fill may be another's by now."""
    if select.select([sys.stdin], [], [], 0)[0]:
        os._exit(70)


if __name__ == "__main__":
    os._exit(main())  # the thread that waits at the input would be in the way of any other end
