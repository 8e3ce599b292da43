"""Tables that other code made are rebuilt from the log, beside those that serve, and put in their place.

Up to where the live tables stand, so that nothing is said anew of what happened: what waits to be sent goes over as it is, and what
today's code would have said of the past is not said (`noria verify` tells it). For the same reason a key that stands parked stays
so until the stream starts, which takes it up and says what follows (`streams.parking`). Until the tables change places the live
ones are read and, by a stream of their own version, written; that stream stops when it meets the new ones.
"""

from collections.abc import Callable

from sqlalchemy import Connection, Engine

from streams import versions
from streams.errors import Invalid
from streams.log import Log
from streams.replay import Rebuilt, alone, apply_upto, rebuild
from streams.schema import projections
from streams.schemas import create_schema, drop_before, put_live
from streams.store import Store, positions, positions_lock, postgres_trouble
from streams.tables import LIVE, SHADOW

SHORT = 2_000  # records that may be applied while the stream waits


def wanted(database: Engine) -> list[str]:
    """What of the live tables was made by other code, or by code that did not tell."""
    with postgres_trouble(), database.connect() as connection:
        return versions.differing(versions.found(connection))


def upgrade(
    database: Engine, open_log: Callable[[], Log], progress: Callable[[int, int], None] = lambda done, total: None
) -> Rebuilt | None:
    """Let the live tables be what this code makes of the log, up to where they stand; None: they are. `open_log` is called where
    something was read of it. Raises Unavailable, LostHistory, or Invalid: then they are as they were."""
    with alone(database, waits=True):
        if not wanted(database):
            return None
        with postgres_trouble(), database.connect() as connection:
            upto = positions(connection, LIVE)
        drop_before(database, patience_ms=0)
        if any(upto.values()):
            log = open_log()
            try:
                rebuilt = rebuild(database, log, upto, progress=progress, parked_stay=True)
                while not _swapped(database, log):
                    pass
            finally:
                log.close()
        else:
            create_schema(database, SHADOW, parked_stay=True)
            rebuilt = Rebuilt(0, 0.0)
            with postgres_trouble(), database.begin() as connection:
                _hold(connection)
                if any(positions(connection, LIVE).values()):
                    raise Invalid("the log began to be read meanwhile: once more")
                _swap(connection)
        drop_before(database)
        return rebuilt


def _swapped(database: Engine, log: Log) -> bool:
    """Put the shadow in the place of the live tables, if it is nearly as far as they are; else bring it so far."""
    store = Store(database, SHADOW, invalid_per_minute=None)
    with postgres_trouble(), database.connect() as connection:
        upto = positions(connection, LIVE)
    apply_upto(store, log, upto, lambda done: None)
    with postgres_trouble(), database.begin() as connection:
        _hold(connection)
        upto = positions(connection, LIVE)
        there = store.positions()
        if sum(end - there.get(place, 0) for place, end in upto.items()) > SHORT:
            return False
        apply_upto(store, log, upto, lambda done: None)
        _compare(connection)
        _swap(connection)
    return True


def _hold(connection: Connection) -> None:
    for lock in (positions_lock(LIVE), f"noria.relay.{LIVE}"):  # who writes the tables waits
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext(%s))", (lock,))


def _compare(connection: Connection) -> None:
    """What no version of the code may change: how far was read, what is parked, and which events took effect. Raises Invalid."""
    before, after = (_parked(connection, schema) for schema in (LIVE, SHADOW))
    if new := sorted(after.items() - before.items()):
        (_, _, place), reason = new[0]
        raise Invalid(
            f"this version meets a bug at {place}, where that before met none: {reason}; the tables stay as they are"
        )
    if before != after:
        raise Invalid("what stands parked has changed meanwhile: once more")
    if positions(connection, LIVE) != positions(connection, SHADOW):
        raise Invalid("the rebuilt tables stand elsewhere on the log than the live ones: see `noria log check`")
    both = [
        connection.exec_driver_sql(
            f"SELECT count(*), coalesce(sum(hashtextextended(event_id, 0)::numeric), 0) FROM {schema}.events"
        ).one()
        for schema in (LIVE, SHADOW)
    ]
    if tuple(both[0]) != tuple(both[1]):
        raise Invalid(
            f"of the log {both[1][0]} events take effect, and of the live tables {both[0][0]} did: see `noria log check`;"
            " `noria rebuild` lets the tables be what the log says"
        )


def _parked(connection: Connection, schema: str) -> dict[tuple[str, str, str], str]:
    """The keys that stand parked, each with its place, and why. Tables of older code know of nothing such."""
    if connection.exec_driver_sql(f"SELECT to_regclass('{schema}.parked')").scalar_one() is None:
        return {}
    rows = connection.exec_driver_sql(f'SELECT kind, key, topic, partition, "offset", reason FROM {schema}.parked')
    return {(row.kind, row.key, f"{row.topic}-{row.partition}@{row.offset}"): row.reason for row in rows}


def _swap(connection: Connection) -> None:
    """The outbox is a queue, and no projection: it goes over as it stands, but for its numbers."""
    names = [str(c.name) for c in projections.tables[f"{LIVE}.outbox"].columns if c.identity is None]
    columns = ", ".join(f'"{name}"' for name in names)
    connection.exec_driver_sql(f"TRUNCATE {SHADOW}.outbox RESTART IDENTITY")
    connection.exec_driver_sql(
        f"INSERT INTO {SHADOW}.outbox ({columns}) SELECT {columns} FROM {LIVE}.outbox ORDER BY id"
    )
    put_live(connection)
