"""Engines that are wanted, and the route that new requests take: what the swapper and the reconciler change of `work`.

A route follows from a decision and says where that stands on the log. An order moves it only if its own decision is no older, and
the reconciler only if it is still as it was seen; whoever was paused in between, for however long, moves nothing.
"""

from msgspec import Struct
from sqlalchemy import Connection, Engine, text

from streams.store import postgres_trouble

HOLD_S = 60.0  # a host that has not been heard of for so long gives its engines to another


class Route(Struct, frozen=True):
    """The row as it was read. `age_s`: since it was last moved."""

    release: int
    engine_id: str
    generation: int
    decided_offset: int
    age_s: float = 0.0


class Seen(Struct, frozen=True):
    """Which row it was: whoever has moved the route since made another of it."""

    generation: int
    decided_offset: int


def engine_id(domain: str, release: int) -> str:
    return f"{domain}@{release}"


def want(database: Engine, host: str, domain: str, release: int, kind: str, model: str) -> bool:
    """Ask for the engine, on this host unless another one holds it; whether it is ready already. Raises Unavailable."""
    with postgres_trouble(), database.begin() as connection:
        state = connection.execute(
            text(
                "INSERT INTO work.engines AS e (engine_id, domain, release, kind, model, wanted, state, changed_at, host,"
                " held_until) VALUES (:id, :domain, :release, :kind, :model, true, 'asked', now(), :host,"
                " now() + make_interval(secs => :hold)) ON CONFLICT (engine_id) DO UPDATE SET"
                " wanted = true, error = NULL, model = excluded.model,"
                " state = CASE WHEN e.wanted AND e.state = 'ready' THEN 'ready' ELSE 'asked' END,"
                " host = CASE WHEN e.wanted AND e.held_until > now() THEN e.host ELSE excluded.host END,"
                " held_until = CASE WHEN e.wanted AND e.held_until > now() THEN e.held_until ELSE excluded.held_until END"
                " RETURNING state"
            ),
            {
                "id": engine_id(domain, release),
                "domain": domain,
                "release": release,
                "kind": kind,
                "model": model,
                "host": host,
                "hold": HOLD_S,
            },
        ).scalar_one()
        connection.execute(text("NOTIFY noria_engines"))
    return bool(state == "ready")


def unwant(database: Engine, name: str, version: str | None = None) -> None:
    """Let the engine end: whatever became of its row, or only if that is still the `version` that was read. Raises Unavailable."""
    with postgres_trouble(), database.begin() as connection:
        connection.execute(
            text(
                "UPDATE work.engines SET wanted = false WHERE engine_id = :id"
                " AND (cast(:version AS text) IS NULL OR xmin::text = :version)"
            ),
            {"id": name, "version": version},
        )
        connection.execute(text("NOTIFY noria_engines"))


def flip(connection: Connection, domain: str, release: int, name: str, decided_offset: int) -> int | None:
    """New requests go to `name` once this is committed; the route's new generation. None, and nothing has changed, where the route
    follows from a decision that is newer than the one at `decided_offset`."""
    generation = connection.execute(
        text(
            _INSERT + " ON CONFLICT (domain) DO UPDATE SET release = excluded.release, engine_id = excluded.engine_id,"
            " decided_offset = excluded.decided_offset, flipped_at = now(), generation = t.generation + 1"
            " WHERE t.decided_offset <= excluded.decided_offset RETURNING generation"
        ),
        {"domain": domain, "release": release, "id": name, "decided": decided_offset},
    ).scalar_one_or_none()
    connection.execute(text("NOTIFY noria_routes"))
    return None if generation is None else int(generation)


def point(connection: Connection, domain: str, release: int, name: str, decided_offset: int, seen: Seen | None) -> bool:
    """Let the route be what the log says, if it is still as it was `seen` (None: there was none); whether it was."""
    given = {"domain": domain, "release": release, "id": name, "decided": decided_offset}
    if seen is None:
        moved = connection.execute(text(_INSERT + " ON CONFLICT (domain) DO NOTHING"), given)
    else:
        moved = connection.execute(
            text(
                "UPDATE work.routes SET release = :release, engine_id = :id, decided_offset = :decided, flipped_at = now(),"
                " generation = generation + 1 WHERE domain = :domain AND generation = :generation"
                " AND decided_offset = :was"
            ),
            given | {"generation": seen.generation, "was": seen.decided_offset},
        )
    connection.execute(text("NOTIFY noria_routes"))
    return bool(moved.rowcount)


def close(connection: Connection, domain: str) -> None:
    """Nobody is sent to the domain any more."""
    connection.execute(text("DELETE FROM work.routes WHERE domain = :domain"), {"domain": domain})
    connection.execute(text("NOTIFY noria_routes"))


# A door may remember a generation of a route that was lost: the next one is above it.
_INSERT = (
    "INSERT INTO work.routes AS t (domain, release, engine_id, generation, decided_offset, flipped_at)"
    " SELECT :domain, :release, :id, 1 + coalesce(max((generations ->> :domain)::bigint), 0), :decided, now()"
    " FROM work.doors"
)
