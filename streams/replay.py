"""Rebuild the projections from the first event, and compare them with the live ones.

A replay reads the log with a plain consumer into the schema `noria_shadow`, through the same `Store.apply`. Nothing is
sent: what `react` said in the replay is compared with what stands on the log.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, Text, text

from streams.codec import decode
from streams.erasures import destroy_named, recorded, untold
from streams.errors import Invalid
from streams.events import DOMAINS, ORDERS, QUARANTINE
from streams.facts.rounds import GatePassed, GateRefused, RoundRequested
from streams.following import pass_over_marks
from streams.loading import FOLLOWED, NotSoFast, load, records_of
from streams.log import Log, message_of
from streams.schema import projections
from streams.schemas import create_schema, drop_before, put_live
from streams.store import PARKED, Store, positions, positions_lock, postgres_trouble, quarantine_id
from streams.tables import LIVE, SHADOW

BATCH_RECORDS = 2000
LISTED = 1000
APPEND_TIMEOUT_S = 30.0
# Of a row of an outbox. Without a percent sign: it stands in statements with parameters.
_IS_DECISION = (
    f"(CASE WHEN topic = '{DOMAINS}' THEN convert_from(value, 'UTF8')::json ->> 'type'"
    " IN ('noria.round_requested', 'noria.gate_passed', 'noria.gate_refused') ELSE false END)"
)
# Of a row of an outbox: it names a parked key, which code that can do its events takes up.
_IS_PARKED = f"(topic = '{QUARANTINE}' AND right(key, {len(PARKED)}) = '{PARKED}')"
_NOT_COMPARED = {
    # By which a log is known again: an older row has none until its partition goes on.
    ("positions", "last_offset"),
    ("positions", "last_digest"),
    # When a bug was met, and at which line of the code of then.
    ("parked", "since"),
    ("parked", "reason"),
}
_Ends = dict[tuple[str, int], int]
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


class Otherwise(Struct, frozen=True):
    """A decision that stands on the log, and what today's code would have decided in its place: no error, for what was decided has
    happened. `what` is `round` or `gate`; None: nothing."""

    domain: str
    number: int
    what: str
    recorded: str | None
    today: str | None


class VerifyReport(Struct, frozen=True):
    equal: bool
    tables: tuple[TableDigest, ...]
    differences: tuple[Difference, ...]
    # The first LISTED, each:
    unsaid: tuple[str, ...]  # ids that react implies, and that stand neither on the log nor in the live outbox
    unexplained: tuple[str, ...]  # ids in the live outbox that the replay does not imply
    otherwise: tuple[Otherwise, ...]
    records: int
    records_per_s: float
    checked_at: datetime


def rebuild(
    database: Engine,
    log: Log,
    upto: dict[tuple[str, int], int],
    schema: str = SHADOW,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    parked_stay: bool = False,
) -> Rebuilt:
    """Apply every record before `upto` to an empty `schema`. `progress(done, total)` is called after each batch. `parked_stay`:
    what stands parked in the live tables has no effect; else it is tried as anything else. Raises TooManyParked."""
    began, total = time.monotonic(), sum(upto.values())
    try:
        done = load(database, log, upto, schema, lambda done: progress(done, total), parked_stay=parked_stay)
    except NotSoFast:
        create_schema(database, schema, parked_stay=parked_stay)
        store = Store(database, schema, invalid_per_minute=None)
        done = apply_upto(store, log, upto, lambda done: progress(done, total))
    return Rebuilt(done, time.monotonic() - began)


def apply_upto(store: Store, log: Log, upto: dict[tuple[str, int], int], progress: Callable[[int], None]) -> int:
    """Apply what the store does not have before `upto`; how many records that was."""
    done, reached = 0, store.positions()
    records = records_of(log, reached, upto)
    while batch := list(islice(records, BATCH_RECORDS)):
        done += store.apply(batch).records
        progress(done)
    reached = store.positions()
    for place, end in upto.items():
        if reached.get(place, 0) < end:
            pass_over_marks(store, log, place, reached.get(place, 0), end)
    return done


@contextmanager
def alone(database: Engine, waits: bool = False) -> Iterator[None]:
    """There is one shadow schema, and one replay at a time: Invalid where there is another, unless it `waits` for its end."""
    with postgres_trouble(), database.connect() as connection:
        if waits:
            connection.execute(text("SELECT pg_advisory_lock(hashtext('noria.replay'))"))
            free = True
        else:
            free = connection.execute(text("SELECT pg_try_advisory_lock(hashtext('noria.replay'))")).scalar_one()
        connection.commit()
        if not free:
            raise Invalid("another replay is under way (`noria verify` or `noria rebuild`): wait for its end")
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(hashtext('noria.replay'))"))
            connection.commit()


def verify(database: Engine, log: Log, progress: Callable[[int, int], None] = lambda done, total: None) -> VerifyReport:
    """Rebuild into the shadow schema up to where the live one stands, and compare table by table.

    The live tables are read in one snapshot (repeatable read), so they may go on changing meanwhile. Raises Invalid while another
    replay runs.
    """
    options = {"isolation_level": "REPEATABLE READ"}
    with alone(database), postgres_trouble(), database.connect().execution_options(**options) as live:
        upto = positions(live, LIVE)
        rebuilt = rebuild(database, log, upto, progress=progress)
        # A snapshot sees what was committed before it began; so the rebuilt rows are read beside it.
        with database.connect() as fresh:
            digests = tuple(
                TableDigest(name, *_digest(live, LIVE, name), _digest(fresh, SHADOW, name)[1]) for name in COMPARED
            )
            differences = tuple(
                found
                for digest in digests
                if not digest.equal and (found := _first_difference(live, fresh, digest.table))
            )
            newest = live.exec_driver_sql(f"SELECT coalesce(max(id), 0) FROM {LIVE}.outbox").scalar_one()
            otherwise = _decided_otherwise(fresh)
        unsaid, unexplained = _compare_outbox(database, log, newest)
    return VerifyReport(
        equal=all(digest.equal for digest in digests) and not unsaid and not unexplained,
        tables=digests,
        differences=differences,
        unsaid=unsaid,
        unexplained=unexplained,
        otherwise=otherwise,
        records=rebuilt.records,
        records_per_s=round(rebuilt.records_per_s, 1),
        checked_at=datetime.now(UTC),
    )


def rebuild_live(
    database: Engine, log: Log, progress: Callable[[int, int], None] = lambda done, total: None
) -> Rebuilt:
    """Let the live tables be what the log says, whatever they were; they are read as they were until then.

    What the log implies and does not hold is said (again). Claims on orders are dropped: they are taken in anew, by what the log
    says of each; an order that it does not imply (what it followed from was lost) is carried out no more. Raises Unavailable, or
    Invalid while another replay runs."""
    with alone(database):
        drop_before(database, patience_ms=0)
        rebuilt = rebuild(database, log, _ends(log), progress=progress)
        shadow = Store(database, SHADOW, invalid_per_minute=None)
        apply_upto(shadow, log, _ends(log), lambda done: None)
        with postgres_trouble(), database.begin() as connection:
            read = _write_down_said(connection, log)  # before anybody waits: it may be much
            for lock in (positions_lock(LIVE), f"noria.relay.{LIVE}", "noria.intake"):  # who writes the tables waits
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:lock))"), {"lock": lock})
            apply_upto(shadow, log, _ends(log), lambda done: None)  # what came meanwhile
            _write_down_said(connection, log, read)
            erased = recorded(connection)  # the log may have lost it
            put_live(connection)
            raw = connection.connection.driver_connection
            assert raw is not None
            with raw.cursor() as cursor:
                destroy_named(cursor, [*erased, *recorded(connection)])  # the keyring may be older than either
            _mark_said(connection)
            connection.execute(text("TRUNCATE work.claims, work.intake"))
            connection.execute(
                text(
                    # Unless they are said again: what they follow from may have been decided, and the decision lost.
                    "INSERT INTO work.claims (order_id, kind, domain, body, state, attempts, received_at)"
                    " SELECT message_id, 'unexplained', '', convert_to(until::text, 'UTF8'), 'cancelled', 0, now() FROM said s"
                    f" WHERE topic = :orders AND NOT EXISTS (SELECT FROM {LIVE}.outbox o WHERE o.message_id = s.message_id)"
                    " ON CONFLICT (order_id) DO NOTHING"
                ),
                {"orders": ORDERS},
            )
        drop_before(database)
        apply_upto(
            Store(database), log, _ends(log), lambda done: None
        )  # what came meanwhile; whoever follows goes on from there
        return rebuilt


def tell_erasures(database: Engine, log: Log, by: str) -> int:
    """Tell the domains of erasures that the log does not know of, and take that in; how many there were. Raises Unavailable."""
    with postgres_trouble(), database.connect() as connection:
        envelopes = untold(connection, by, f"/noria/{by}", datetime.now(UTC))
    if envelopes:
        log.append([message_of(envelope) for envelope in envelopes], APPEND_TIMEOUT_S)
        apply_upto(Store(database), log, _ends(log), lambda done: None)
    return len(envelopes)


def mark_said(connection: Connection, log: Log) -> None:
    """In the live outbox, mark as sent what stands on the log. It was made long ago, whatever a rebuilding says: who counts what
    could not be read of late does not count it."""
    _write_down_said(connection, log)
    _mark_said(connection)


def _mark_said(connection: Connection) -> None:
    connection.exec_driver_sql(
        f"UPDATE {LIVE}.outbox o SET sent_at = now(), made_at = now() - interval '1 hour'"
        f" WHERE EXISTS (SELECT FROM {LIVE}.events e WHERE e.event_id = o.message_id)"
        " OR EXISTS (SELECT FROM said s WHERE s.message_id = o.message_id)"
    )


def _ends(log: Log) -> dict[tuple[str, int], int]:
    return {(topic, partition): end for topic in FOLLOWED for partition, end in log.ends(topic).items()}


def _key(name: str) -> list[str]:
    return [str(column.name) for column in projections.tables[f"{LIVE}.{name}"].primary_key]


def _columns(name: str) -> list[str]:
    """Not what no log tells."""
    columns = (str(column.name) for column in projections.tables[f"{LIVE}.{name}"].columns)
    return [column for column in columns if (name, column) not in _NOT_COMPARED]


def _digest(connection: Connection, schema: str, name: str) -> tuple[int, str]:
    """How many rows, and a digest of 128 bits: two sums of the rows' hashes, as long as one row's however many there are, and the
    same in whatever order they are read. No two rows of a table are equal, so none cancel out."""
    columns = ", ".join(f'"{c}"' for c in _columns(name))
    sums = ", ".join(f"sum(hashtextextended(ROW({columns})::text, {seed})::numeric)" for seed in (0, 1))
    rows, *totals = connection.exec_driver_sql(f"SELECT count(*), {sums} FROM {schema}.{name}").one()
    return int(rows), "".join(f"{int(total or 0) % 2**64:016x}" for total in totals)


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


def _decided_otherwise(shadow: Connection) -> tuple[Otherwise, ...]:
    """Where the replay proposed another decision than the one that stands on the log, of which `rounds` tells."""
    recorded: dict[tuple[str, int, str], str | None] = {}
    numbers: dict[str, tuple[str, int]] = {}
    for row in shadow.exec_driver_sql(f"SELECT round_id, domain, number, pin, verdict FROM {SHADOW}.rounds"):
        numbers[row.round_id] = row.domain, row.number
        recorded[row.domain, row.number, "round"] = f"pinned at {row.pin}"
        if row.verdict is not None:
            recorded[row.domain, row.number, "gate"] = row.verdict["outcome"]
    today: dict[tuple[str, int, str], str | None] = {}
    # One that was said and has had no effect, or has none yet, is the same decision.
    proposed = shadow.exec_driver_sql(
        f"SELECT value, EXISTS (SELECT FROM {LIVE}.events e WHERE e.event_id = message_id)"
        f" OR EXISTS (SELECT FROM {LIVE}.outbox o WHERE o.message_id = s.message_id) AS said"
        f" FROM {SHADOW}.outbox s WHERE {_IS_DECISION} ORDER BY id",
        execution_options={"yield_per": BATCH_RECORDS},
    )
    for value, said in proposed:
        subject: tuple[str, int, str]
        match decode(bytes(value)).event:
            case RoundRequested() as event:
                subject, words = (event.domain, event.number, "round"), f"pinned at {event.pin}"
            case GatePassed() | GateRefused() as event:
                subject, words = (*numbers[event.round_id], "gate"), event.verdict.outcome
            case event:
                raise AssertionError(f"{type(event).__name__} is no decision")
        if subject in recorded or not said:
            today[subject] = words
    return tuple(
        Otherwise(*subject, recorded.get(subject), today.get(subject))
        for subject in sorted({*recorded, *today})
        if recorded.get(subject) != today.get(subject)
    )[:LISTED]


def _compare_outbox(database: Engine, log: Log, newest: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was to be said and what was: the outbox keeps no row for ever that was sent, so the log is asked too. `newest`: the last
    row of the live outbox that the comparison is about. Decisions are compared by what they are about, apart from this."""
    with postgres_trouble(), database.begin() as connection:
        _write_down_said(connection, log)
        unsaid = connection.exec_driver_sql(
            f"SELECT message_id FROM {SHADOW}.outbox s"
            f" WHERE NOT {_IS_DECISION} AND NOT {_IS_PARKED} AND NOT EXISTS (SELECT FROM said t WHERE t.message_id = s.message_id)"
            f" AND NOT EXISTS (SELECT FROM {LIVE}.outbox o WHERE o.message_id = s.message_id)"
            f" AND NOT EXISTS (SELECT FROM {LIVE}.events e WHERE e.event_id = s.message_id)"
            f" ORDER BY message_id LIMIT {LISTED}"
        ).scalars()
        unexplained = connection.exec_driver_sql(
            f"SELECT message_id FROM {LIVE}.outbox o WHERE id <= %s AND NOT {_IS_DECISION} AND NOT {_IS_PARKED}"
            f" AND NOT EXISTS (SELECT FROM {SHADOW}.outbox s WHERE s.message_id = o.message_id)"
            f" ORDER BY message_id LIMIT {LISTED}",
            (newest,),
        ).scalars()
        return tuple(unsaid), tuple(unexplained)


def _write_down_said(connection: Connection, log: Log, read: Mapping[tuple[str, int], int] | None = None) -> _Ends:
    """What stands on the topics that the tables do not hold, as the table `said`, until the transaction ends; up to where. `read`:
    so far it has been written down. `until`: where its partition ended then."""
    if read is None:
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE said (message_id text, topic text, until bigint) ON COMMIT DROP"
        )
    ends = {(topic, partition): end for topic in (ORDERS, QUARANTINE) for partition, end in log.ends(topic).items()}
    for (topic, partition), end in ends.items():
        records = log.read(topic, partition, (read or {}).get((topic, partition), 0), end)
        while batch := list(islice(records, BATCH_RECORDS)):
            keys = [(record.key or b"").decode(errors="replace").replace("\0", "") for record in batch]
            ids = keys if topic == ORDERS else [quarantine_id(key) for key in keys]
            connection.exec_driver_sql("INSERT INTO said SELECT unnest(%s), %s, %s", (ids, topic, end))
    connection.exec_driver_sql("ANALYZE said")
    return ends


def as_json(report: VerifyReport) -> bytes:
    return msgspec.json.encode(report)
