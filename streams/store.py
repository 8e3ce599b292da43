"""One transaction: position, states, projections and what is to be said. The only writer of the projections.

`apply` is what makes a delivery effective exactly once: the position moves in the same commit as everything the records
imply, and an event that stands on the log twice is dropped by its id. Live following and replay both call it.
"""

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec
import psycopg2
from msgspec import Struct
from msgspec.structs import replace
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import Json, execute_values
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from streams import projections, rounds, versions
from streams.codec import encode, encode_order, envelope_for, is_of_domain, name_of, read_event, topic_of
from streams.connections import SHARES, Share
from streams.domain import Domain, pack, unpack
from streams.envelope import Consequence, Envelope, Recorded
from streams.erasures import destroy_told
from streams.errors import Invalid, Unavailable
from streams.events import ORDERS, QUARANTINE
from streams.facts import conversations
from streams.facts.conversations import Exchange
from streams.facts.domains import DomainCreated, DomainRetired
from streams.facts.people import PersonErased
from streams.fresh import Fresh
from streams.log import LostHistory, Record
from streams.orders import Order
from streams.parking import Key, Parked, move, park, parked_at, read_parked, release
from streams.schema import projections as tables
from streams.sqlstate import meaning_of, words_of
from streams.tables import LIVE
from streams.writes import Change, Count, Delete, Insert, Retire, Row, Update, Write

SOURCE = "/noria/streams"
CONNECT_TIMEOUT_S = 5
QUARANTINE_VALUE_BYTES = 400_000
PARKED = (
    " parked"  # ends the key of a message of quarantine that names a parked key, and no record that could not be read
)
# Tables whose rows come again and are changed then: an insert may meet one that is there, so a change is not merged into it.
_COME_AGAIN = frozenset({"bases", "erasures", "fresh", "preferences"})
JSONB = {str(t.name): {str(c.name) for c in t.columns if str(c.type) == "JSONB"} for t in tables.tables.values()}
_KEYS = {str(t.name): tuple(str(c.name) for c in t.primary_key) for t in tables.tables.values()}
_UNKNOWN = Exchange()
EVENT_COLUMNS = tuple(str(c.name) for c in tables.tables[f"{LIVE}.events"].columns)
Said = tuple[str, str, str, bytes]  # message id, topic, key, value: of a row of the outbox


class TooManyInvalid(Exception):
    """More records than the limit could not be read within a minute: stop, rather than empty the log into quarantine. `met`: those
    of this batch."""

    def __init__(self, within_a_minute: int, limit: int, met: Sequence[Record]) -> None:
        first = f"{met[0].topic}-{met[0].partition}@{met[0].offset}"
        super().__init__(
            f"{within_a_minute} records within a minute could not be read (limit {limit}), {len(met)} of them from {first} on"
        )
        self.met = met


class Applied(Struct, frozen=True):
    """How many records were new, of which how many events took effect and how many were quarantined."""

    records: int
    events: int
    quarantined: int


def open_database(database_url: str, share: Share = SHARES["command"]) -> Engine:
    """A pool of connections that read and write UTC, give up on a dead server soon, and take no more than their `share`."""
    database = create_engine(
        database_url.replace("postgresql://", "postgresql+psycopg2://", 1),
        pool_pre_ping=True,
        pool_size=share.pool,
        max_overflow=0,
        pool_timeout=share.wait_s,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S},
    )
    event.listen(database, "connect", lambda connection, record: settle(connection, share))
    return database


def settle(connection: "psycopg2.extensions.connection", share: Share) -> None:
    """What holds for every connection of a process, once it is made."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SET TIME ZONE 'UTC'; SET statement_timeout = '{share.statement_s}s'; SET lock_timeout = '{share.lock_s}s';"
            f" SET idle_in_transaction_session_timeout = '{share.idle_in_transaction_s}s'"
        )
    if not connection.autocommit:
        connection.commit()


@contextmanager
def postgres_trouble() -> Iterator[None]:
    """Turn what goes by itself into Unavailable: a server that does not answer, is full, or was busy with somebody else."""
    try:
        yield
    except (psycopg2.Error, SQLAlchemyError) as error:
        if meaning_of(error) != "unavailable":
            raise
        raise Unavailable(words_of(error)) from error


class Buffer:
    """Writes of one batch, merged by row, so that a table is written once."""

    def __init__(self, schema: str, cursor: Cursor) -> None:
        self._schema = schema
        self._cursor = cursor
        self._inserts: dict[str, dict[tuple[Any, ...], Row]] = {}
        self._updates: dict[str, dict[tuple[Any, ...], tuple[Row, Row]]] = {}
        self._counts: Counter[tuple[str, tuple[tuple[str, Any], ...]]] = Counter()

    def add(self, write: Write) -> None:
        match write:
            case Insert(table, row):
                key = tuple([row[name] for name in _KEYS[table]])
                self._inserts.setdefault(table, {}).setdefault(key, dict(row))
            case Update(table, key_row, row):
                key = tuple([key_row[name] for name in _KEYS[table]])
                inserted = self._inserts.get(table, {}).get(key)
                if inserted is not None and table not in _COME_AGAIN:
                    inserted.update(row)
                    return
                found = self._updates.setdefault(table, {}).setdefault(key, (key_row, {}))
                found[1].update(row)
            case Count(table, key_row):
                self._counts[table, tuple(key_row.items())] += 1
            case Retire(table, named):
                where = self._named(table, named)
                retired = {"retired_offset": write.offset, "retired_reason": write.reason, **write.more}
                sets = ", ".join(f'"{name}" = %s' for name in retired)
                self._cursor.execute(
                    f"UPDATE {self._schema}.{table} SET {sets} WHERE {where} AND retired_offset IS NULL",
                    (*retired.values(), *_adapted(table, named.items())),
                )
            case Change(table, named, row):
                where, sets = self._named(table, named), ", ".join(f'"{name}" = %s' for name in row)
                values = (*_adapted(table, row.items()), *named.values())
                self._cursor.execute(f"UPDATE {self._schema}.{table} SET {sets} WHERE {where}", values)
            case Delete(table, named):
                where, values = self._named(table, named), tuple(named.values())
                if write.before_offset is not None:
                    where, values = f'{where} AND "offset" < %s', (*values, write.before_offset)
                self._cursor.execute(f"DELETE FROM {self._schema}.{table} WHERE {where}", values)

    def _named(self, table: str, named: Row) -> str:
        """The rows that `named` names as a condition, once all that was written of that table stands there."""
        if table in self._inserts or table in self._updates:
            self.flush()
        return " AND ".join(f'"{name}" {"@>" if isinstance(value, tuple) else "="} %s' for name, value in named.items())

    def insert(self, table: str, rows: Iterable[Row]) -> None:
        """Rows of one table that all have other keys."""
        insert_rows(self._cursor, self._schema, table, rows)

    def flush(self) -> None:
        for table, rows in self._inserts.items():
            self.insert(table, rows.values())
        for table, changed in self._updates.items():
            for key, row in changed.values():
                sets = ", ".join(f'"{name}" = %s' for name in row)
                where = " AND ".join(f'"{name}" = %s' for name in key)
                self._cursor.execute(
                    f"UPDATE {self._schema}.{table} SET {sets} WHERE {where}",
                    (*_adapted(table, row.items()), *key.values()),
                )
        for (table, named), more in self._counts.items():
            columns = ", ".join(f'"{name}"' for name, _ in named)
            self._cursor.execute(
                f"INSERT INTO {self._schema}.{table} AS t ({columns}, number) VALUES %s"
                f" ON CONFLICT ({columns}) DO UPDATE SET number = t.number + excluded.number",
                ((*(value for _, value in named), more),),
            )
        self._inserts.clear()
        self._updates.clear()
        self._counts.clear()


class Store:
    """The projections of one schema. `invalid_per_minute`: None switches the limit off (a replay meets old ones again)."""

    def __init__(self, database: Engine, schema: str = LIVE, invalid_per_minute: int | None = 50) -> None:
        self._database = database
        self._schema = schema
        self._invalid_per_minute = invalid_per_minute
        self._versions = versions.ours()
        self._allowed: Mapping[tuple[str, int], int] = {}
        # Of each domain, and which transaction wrote its state then: a row that somebody else wrote since says so.
        self._fresh: dict[str, tuple[str, Fresh]] = {}

    def positions(self) -> dict[tuple[str, int], int]:
        """The next offset to be applied of every partition that has been read."""
        with postgres_trouble(), self._database.connect() as connection:
            return positions(connection, self._schema)

    def apply(self, records: Sequence[Record]) -> Applied:
        """Apply records in order, in one transaction. What was applied before is skipped.

        Raises Unavailable (nothing happened: call again), LostHistory, OtherVersion, TooManyInvalid or TooManyParked (nothing
        happened: stop).
        """
        try:
            return self._apply(records, {})
        except (OverflowError, psycopg2.Error) as error:
            if meaning_of(error) != "content":
                raise
            if len(records) > 1:
                done = [self.apply([record]) for record in records]
                return Applied(*(sum(getattr(d, f) for d in done) for f in ("records", "events", "quarantined")))
            record = records[0]
            place = (record.topic, record.partition, record.offset)
            return self._apply(records, {place: _cannot_hold(error)})

    def let_past(self, allowed: Mapping[tuple[str, int], int]) -> bool:
        """What cannot be read of a partition, up to and with the offset that stands here, counts towards no limit; False if nothing
        is new in it."""
        known, self._allowed = self._allowed, allowed
        return allowed != known

    def pass_over(self, topic: str, partition: int, start: int, end: int) -> bool:
        """Move the position from `start` to `end`, between which the log holds no record; False if it does not stand at `start`.

        Raises Unavailable."""
        with postgres_trouble(), self._database.begin() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            with raw.cursor() as cursor:
                if self._locked_positions(cursor, [(topic, partition)])[topic, partition] != start:
                    return False
                self._move(cursor, {(topic, partition): end}, {})
        return True

    def _apply(self, records: Sequence[Record], refused: dict[tuple[str, int, int], str]) -> Applied:
        with postgres_trouble(), self._database.begin() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            with raw.cursor() as cursor:
                fresh, ends = self._fence(cursor, records)
                if not fresh:
                    return Applied(0, 0, 0)
                readable, unread, said = read_records(fresh, refused)
                if unread:
                    self._check_flood(cursor, unread)
                readable = self._drop_repeated(cursor, readable)
                standing = read_parked(cursor, self._schema)
                parked = dict(standing)
                events, implied, known = self._take_effect(cursor, readable, parked)
                if new := [parked[key] for key in parked.keys() - standing.keys()]:
                    park(cursor, self._schema, new, len(standing))
                self._put_said(cursor, [*said, *implied])
                self._move(cursor, ends, {(record.topic, record.partition): record for record in fresh})
        self._fresh |= known
        return Applied(len(fresh), events, len(unread))

    def parked(self) -> dict[Key, Parked]:
        """What stands parked. Raises Unavailable."""
        with postgres_trouble(), self._database.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            with raw.cursor() as cursor:
                return read_parked(cursor, self._schema)

    def take_up(self, parked: Parked, records: Sequence[Record], upto: int) -> Parked | None:
        """Apply `records`, which are what the log holds of that parked key before offset `upto`, from where it stands on. Where it
        stands then; None: it is parked no more, for nothing else was passed over. Raises Unavailable (nothing happened)."""
        try:
            return self._take_up(parked, records, upto, {})
        except (OverflowError, psycopg2.Error) as error:
            if meaning_of(error) != "content":
                raise
            if len(records) == 1:
                place = (records[0].topic, records[0].partition, records[0].offset)
                return self._take_up(parked, records, upto, {place: _cannot_hold(error)})
        for record, following in zip(records, [*(r.offset for r in records[1:]), upto], strict=True):
            stands = self.take_up(parked, [record], following)
            if stands is None or stands.offset != following:
                return stands
            parked = stands
        return parked

    def _take_up(
        self, parked: Parked, records: Sequence[Record], upto: int, refused: dict[tuple[str, int, int], str]
    ) -> Parked | None:
        key, place = (parked.kind, parked.key), (parked.topic, parked.partition)
        with postgres_trouble(), self._database.begin() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            with raw.cursor() as cursor:
                passed = self._locked_positions(cursor, [place])[place]
                standing = read_parked(cursor, self._schema)
                if standing.get(key) != parked:
                    return standing.get(key)  # somebody else was there
                readable, _, said = read_records(records, refused)
                again: dict[Key, Parked] = {}
                _, implied, known = self._take_effect(cursor, self._drop_repeated(cursor, readable), again)
                known_of = quarantine_id(f"{parked.place}{PARKED}")  # and said
                self._put_said(cursor, [one for one in (*said, *implied) if one[0] != known_of])
                stands = again.get(key) or (None if upto == passed else replace(parked, offset=upto))
                if stands is None:
                    release(cursor, self._schema, key)
                elif stands != parked:
                    move(cursor, self._schema, stands)
        self._fresh |= known
        return stands

    def _put_said(self, cursor: Cursor, said: Sequence[Said]) -> None:
        if said:
            execute_values(
                cursor,
                f"INSERT INTO {self._schema}.outbox (message_id, topic, key, value) VALUES %s"
                " ON CONFLICT (message_id) DO NOTHING",
                said,
            )
            cursor.execute("NOTIFY noria_outbox")

    def _fence(self, cursor: Cursor, records: Sequence[Record]) -> tuple[list[Record], dict[tuple[str, int], int]]:
        """What lies at or after the position of its partition, locked until the commit, and where that ends."""
        next_offset = self._locked_positions(cursor, sorted({(record.topic, record.partition) for record in records}))
        return in_order(records, next_offset), next_offset

    def _locked_positions(self, cursor: Cursor, places: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (positions_lock(self._schema),))
        versions.check(cursor, self._schema, self._versions)
        cursor.execute(
            f"SELECT topic, partition, next_offset FROM {self._schema}.positions"
            " WHERE (topic, partition) IN %s FOR UPDATE",
            (tuple(places),),
        )
        return dict.fromkeys(places, 0) | {(t, p): n for t, p, n in cursor.fetchall()}

    def _move(self, cursor: Cursor, ends: dict[tuple[str, int], int], last: Mapping[tuple[str, int], Record]) -> None:
        """`last`: the last record before each end, where there is a new one."""
        execute_values(
            cursor,
            f"INSERT INTO {self._schema}.positions AS p (topic, partition, next_offset, last_offset, last_digest)"
            " VALUES %s ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset,"
            " last_offset = coalesce(excluded.last_offset, p.last_offset),"
            " last_digest = coalesce(excluded.last_digest, p.last_digest)",
            [
                (*place, end, record and record.offset, record and record.digest)
                for place, end in ends.items()
                for record in (last.get(place),)
            ],
        )
        cursor.execute("NOTIFY noria_positions")

    def _drop_repeated(self, cursor: Cursor, found: list[Recorded]) -> list[Recorded]:
        cursor.execute(
            f"SELECT event_id FROM {self._schema}.events WHERE event_id = ANY(%s)",
            ([str(recorded.envelope.id) for recorded in found],),
        )
        seen = {row[0] for row in cursor.fetchall()}
        once = []
        for recorded in found:
            if str(recorded.envelope.id) not in seen:
                seen.add(str(recorded.envelope.id))
                once.append(recorded)
        return once

    def _take_effect(
        self, cursor: Cursor, found: list[Recorded], parked: dict[Key, Parked]
    ) -> tuple[int, list[Said], dict[str, tuple[str, Fresh]]]:
        """How many took effect, what is to be said, and what is fresh of each domain once this is committed. `parked`: as
        `take_effect` has it."""
        keys = {state_of(r.envelope) for r in found}
        talks: dict[str, Exchange] = {}
        domains: dict[str, Domain] = {}
        if keys:
            cursor.execute(
                f"SELECT kind, key, body, xmin::text FROM {self._schema}.states WHERE (kind, key) IN %s",
                (tuple(sorted(keys)),),
            )
            for kind, key, body, written_by in cursor.fetchall():
                if kind == "exchange":
                    talks[key] = msgspec.msgpack.decode(body, type=Exchange)
                else:
                    domains[key] = unpack(body, self._fresh_of(cursor, key, written_by))
        buffer = Buffer(self._schema, cursor)
        events = 0

        def happen(recorded: Recorded) -> None:
            nonlocal events
            events += 1
            buffer.add(Insert("events", dict(zip(EVENT_COLUMNS, event_row(recorded), strict=True))))

        said = take_effect(found, talks, domains, parked, happen, buffer.add)
        buffer.flush()
        if any(isinstance(recorded.envelope.event, DomainCreated | DomainRetired) for recorded in found):
            cursor.execute("NOTIFY noria_domains")
        if self._schema == LIVE:  # the keyring may have been put back as it was before them; of what is parked, too
            destroy_told(cursor, (r.envelope.event for r in found if isinstance(r.envelope.event, PersonErased)))
        states: list[tuple[str, str, Any]] = [("exchange", k, body) for k, body in packed(talks)]
        states += [("domain", k, pack(s)) for k, s in domains.items()]
        if not states:
            return events, said, {}
        written = execute_values(
            cursor,
            f"INSERT INTO {self._schema}.states (kind, key, body) VALUES %s"
            " ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body RETURNING kind, key, xmin::text",
            states,
            fetch=True,
        )
        return events, said, {key: (by, domains[key].fresh) for kind, key, by in written if kind == "domain"}

    def _fresh_of(self, cursor: Cursor, domain: str, written_by: str) -> Fresh:
        known_by, fresh = self._fresh.get(domain, (None, Fresh()))
        if known_by == written_by:
            return fresh
        cursor.execute(
            f'SELECT kind, given_id, person, service, "offset", own_words FROM {self._schema}.fresh WHERE domain = %s',
            (domain,),
        )
        return Fresh.of(cursor.fetchall())

    def _check_flood(self, cursor: Cursor, unread: Sequence[Record]) -> None:
        counted = [r for r in unread if not self._is_allowed(r.topic, r.partition, r.offset)]
        if self._invalid_per_minute is None or not counted:
            return
        cursor.execute(
            f"SELECT key FROM {self._schema}.outbox WHERE topic = %s AND made_at > now() - interval '1 minute'"
            " AND right(key, %s) != %s",
            (QUARANTINE, len(PARKED), PARKED),
        )
        recent = [place for (key,) in cursor.fetchall() if not self._is_allowed(*(place := _place_of(key)))]
        if len(recent) + len(counted) > self._invalid_per_minute:
            raise TooManyInvalid(len(recent) + len(counted), self._invalid_per_minute, counted)

    def _is_allowed(self, topic: str, partition: int, offset: int) -> bool:
        return offset <= self._allowed.get((topic, partition), -1)


def in_order(records: Sequence[Record], next_offset: dict[tuple[str, int], int]) -> list[Record]:
    """What lies at or after the next offset of its partition, which moves on. Raises LostHistory."""
    fresh = []
    for record in records:
        place = (record.topic, record.partition)
        if record.offset < next_offset[place]:
            continue
        if record.offset > next_offset[place] and not (record.since is not None and record.since <= next_offset[place]):
            raise LostHistory(f"{place[0]}-{place[1]}: expected offset {next_offset[place]}, got {record.offset}")
        next_offset[place] = record.offset + 1
        fresh.append(record)
    return fresh


def read_records(
    records: Iterable[Record], refused: Mapping[tuple[str, int, int], str]
) -> tuple[list[Recorded], list[Record], list[Said]]:
    """What can be read, what cannot or is `refused` (by place, with the reason), and what is to be said of that."""
    readable: list[Recorded] = []
    unread: list[Record] = []
    said: list[Said] = []
    for record in records:
        place = (record.topic, record.partition, record.offset)
        try:
            if place in refused:
                raise Invalid(refused[place])
            readable.append(Recorded(read_event(record.topic, record.key, record.value), *place))
        except Invalid as error:
            unread.append(record)
            said.append(_quarantined(record, str(error)))
    return readable, unread, said


def take_effect(
    found: Iterable[Recorded],
    talks: dict[str, Exchange],
    domains: dict[str, Domain],
    parked: dict[Key, Parked],
    happen: Callable[[Recorded], None],
    write: Callable[[Write], None],
) -> list[Said]:
    """What is to be said of events, in their order. `talks` and `domains` are the states by key, so far as there are any, and are
    brought up to date; `happen` is called with each event that takes effect, and `write` with each row that it writes besides.
    Events of the keys that are `parked` take none, nor does one that meets a bug: its key is parked from there on."""
    said: list[Said] = []
    for recorded in found:
        envelope, happened = recorded.envelope, recorded.envelope.event
        state = state_of(envelope)
        stands = parked.get(state)
        if stands is not None and stands.holds(recorded):
            continue
        writes: Iterable[Write]
        consequences: Iterable[Consequence | Order]
        after, talk = None, None
        try:
            # All of it before anything is written: what is half done would be no place to stand at.
            if is_of_domain(happened):
                before = domains.get(envelope.key) or Domain()
                after = rounds.fold(before, recorded, happened)
                writes = projections.of_domain(before, after, recorded, happened)
                consequences = rounds.react(before, after, recorded, happened)
            else:
                was = talks.get(state[1]) or Exchange()
                talk = conversations.fold(was, envelope, happened)
                writes = list(conversations.rows(recorded, happened))
                consequences = conversations.react(was, envelope, happened)
            messages = [_message(consequence, recorded) for consequence in consequences]
        except (MemoryError, OverflowError):
            raise  # the machine's trouble; a number that nothing holds, which the record says
        except Exception as error:
            if stands is not None:
                raise  # somebody wrote the key to another partition than its own
            parked[state] = parked_at(recorded, state, error)
            said.append(_of_parked(parked[state]))
            continue
        if after is not None:
            domains[envelope.key] = after
        if talk is not None:
            talks[state[1]] = talk
        happen(recorded)
        for row in writes:
            write(row)
        said.extend(messages)
    return said


def packed(talks: Mapping[str, Exchange]) -> Iterator[tuple[str, bytes]]:
    """The states as they are kept. One of which nothing is known (somebody rated what was never said) needs no row."""
    return ((key, msgspec.msgpack.encode(talk)) for key, talk in talks.items() if talk != _UNKNOWN)


def positions_lock(schema: str) -> str:
    """What whoever writes the projections of a schema holds."""
    return f"noria.positions.{schema}"


def positions(connection: Connection, schema: str) -> dict[tuple[str, int], int]:
    rows = connection.exec_driver_sql(f"SELECT topic, partition, next_offset FROM {schema}.positions").all()
    return {(row.topic, row.partition): row.next_offset for row in rows}


def insert_rows(cursor: Cursor, schema: str, table: str, rows: Iterable[Row]) -> None:
    """Insert rows that all have the same columns; a row whose key is there already stays as it is."""
    listed = list(rows)
    names = list(listed[0])
    columns = ", ".join(f'"{name}"' for name in names)
    execute_values(
        cursor,
        f"INSERT INTO {schema}.{table} ({columns}) VALUES %s ON CONFLICT DO NOTHING",
        [tuple(_adapted(table, ((name, row[name]) for name in names))) for row in listed],
        page_size=1000,
    )


def _adapted(table: str, items: Iterable[tuple[str, Any]]) -> list[Any]:
    jsonb = JSONB[table]
    return [
        Json(value) if name in jsonb and value is not None else list(value) if isinstance(value, tuple) else value
        for name, value in items
    ]


def state_of(envelope: Envelope) -> tuple[str, str]:
    """The kind and the key of the state that the event changes."""
    event = envelope.event
    return ("domain", envelope.key) if is_of_domain(event) else ("exchange", conversations.key_of(event))


def is_of(record: Record, state: Key) -> bool:
    """Whether it changes that state; not, if it cannot be read."""
    try:
        return state_of(read_event(record.topic, record.key, record.value)) == state
    except Invalid:
        return False


def event_row(recorded: Recorded) -> tuple[Any, ...]:
    """By EVENT_COLUMNS."""
    envelope, happened = recorded.envelope, recorded.envelope.event
    return (
        str(envelope.id),
        recorded.topic,
        recorded.partition,
        recorded.offset,
        name_of(happened),
        envelope.time,
        envelope.source,
        envelope.key,
        happened.domain,
        getattr(happened, "person", None) or getattr(happened, "by", None),
        envelope.correlation_id,
        str(envelope.causation_id) if envelope.causation_id else None,
    )


def _message(consequence: Consequence | Order, cause: Recorded) -> Said:
    try:
        return _saying(consequence, cause.envelope)
    except Invalid as error:
        # The log would never take it, and whatever comes after it would wait.
        record = Record(cause.topic, cause.partition, cause.offset, None, b"")
        return _quarantined(record, f"what follows from it cannot be said: {error}")


def _saying(consequence: Consequence | Order, cause: Envelope) -> Said:
    if not isinstance(consequence, Consequence):
        value = encode_order(consequence, source=SOURCE, time=cause.time, causation_id=cause.id)
        return str(consequence.order_id), ORDERS, str(consequence.order_id), value
    implied = envelope_for(
        consequence.event,
        id=consequence.id,
        source=SOURCE,
        time=cause.time,
        correlation_id=getattr(consequence.event, "round_id", None) or cause.correlation_id,
        causation_id=cause.id,
    )
    return str(implied.id), topic_of(implied.event), implied.key, encode(implied)


def _quarantined(record: Record, reason: str) -> Said:
    place = f"{record.topic}-{record.partition}@{record.offset}"
    whole = len(record.value) <= QUARANTINE_VALUE_BYTES
    value = {
        "place": place,
        "reason": reason,
        "time": datetime.now(UTC).isoformat(),
        "bytes": len(record.value),
        # What is too large to be repeated still stands where `place` says.
        "value_base64": base64.b64encode(record.value).decode() if whole else None,
    }
    return quarantine_id(place), QUARANTINE, place, msgspec.json.encode(value)


def _of_parked(parked: Parked) -> Said:
    """That a key stands parked from there on: its event can be read, and stands where it stood."""
    value = {
        "place": parked.place,
        "reason": parked.reason,
        "time": datetime.now(UTC).isoformat(),
        "bytes": 0,
        "value_base64": None,
        "parked": parked.kind,
    }
    key = f"{parked.place}{PARKED}"
    return quarantine_id(key), QUARANTINE, key, msgspec.json.encode(value)


def _cannot_hold(error: Exception) -> str:
    return f"the store cannot hold it: {type(error).__name__}"


def _place_of(key: str) -> tuple[str, int, int]:
    """Of a message of quarantine, which names it."""
    stood, _, offset = key.rpartition("@")
    topic, _, partition = stood.rpartition("-")
    return topic, int(partition), int(offset)


def quarantine_id(place: str) -> str:
    """The id of the message that names what could not be read at `place`, or was parked there (then it ends with PARKED)."""
    return str(uuid5(UUID(int=0), f"quarantine:{place}"))
