"""The step `swap`: the new release's engine comes up beside the old one, is proved, and takes new requests.

    engine wanted → ready → golden prompts → route flipped → every door has seen it → finished → older engines drained

The release before stays warm, so that a rollback is one flip. Every stage can be repeated: a swapper that dies in the
middle leaves an order that the next one carries to its end.

An order flips the route only while it is held and the newest of its domain. Where no order is open and the route is not what the
log names as live (`work` was lost, or an order was given up after its flip), `keep_level` makes it so.
"""

import time
from uuid import UUID, uuid5

from msgspec import Struct
from sqlalchemy import Connection, text

from streams.errors import Invalid, Unavailable
from streams.facts.releases import ReleaseFinished, ReleaseRolledBack, ReleaseStarted
from streams.orders import SwapRelease
from streams.store import postgres_trouble
from workers import orders
from workers.context import Cancelled, Context
from workers.engines import golden_tolerance
from workers.models.golden import compare_with_golden

READY_DEADLINE_S = 660.0  # longer than any engine may take to start
DRAIN_DEADLINE_S = 120.0
LOOK_EVERY_S = 1.0  # whether an order that waits is still the newest
DOOR_SILENT_S = 5.0  # a door that has not been heard of for so long is gone


class Flip(Struct, frozen=True):
    generation: int
    flip_ms: float


def engine_id(domain: str, release: int) -> str:
    return f"{domain}@{release}"


def run(order: SwapRelease, context: Context) -> None:
    began = time.monotonic()
    name = engine_id(order.domain, order.release)
    warm = _want(context, order.domain, order.release, order.engine, order.model)
    if not order.rollback:
        started = ReleaseStarted(domain=order.domain, release=order.release, order_id=order.order_id, model=order.model)
        context.publish(order, started, "release_started")
    base_url = _wait_ready(context, order, name)
    ready_s = time.monotonic() - began
    # A warm engine was proved when its release went live, and going back to it must take no longer than the flip.
    difference = 0.0 if order.rollback and warm else _prove(context, order, name, base_url)
    live = _live(context, order.domain)
    flip = _flip(context, order, name)
    if order.rollback:
        rolled = ReleaseRolledBack(
            domain=order.domain,
            release=order.release if live is None else live,
            to=order.release,
            order_id=order.order_id,
            flip_ms=flip.flip_ms,
            ready_s=ready_s,
        )
        context.publish(order, rolled, "release_rolled_back")
    else:
        finished = ReleaseFinished(
            domain=order.domain,
            release=order.release,
            order_id=order.order_id,
            model=order.model,
            golden_difference=difference,
            ready_s=ready_s,
            flip_ms=flip.flip_ms,
        )
        context.publish(order, finished, "release_finished")
    _cool(context, order.domain, keep={order.release} | ({live} if live is not None else set()))


def _prove(context: Context, order: SwapRelease, name: str, base_url: str) -> float:
    """The largest difference of the golden prompts. Raises Invalid when it is too large; the engine is not wanted then."""
    key = context.keyring.derive(f"engine:{name}")
    compared = compare_with_golden(base_url, key, context.artifacts.path(order.model) / "golden.jsonl")
    allowed = golden_tolerance(order.engine)
    if not compared.within(allowed):
        _unwant(context, name)
        raise Invalid(
            f"the engine of {name} differs from its trainer by {compared.max_difference:.3f} in log-probability"
            f" (at most {allowed} is allowed)"
            f"{'' if compared.prompt_tokens_equal else ' and cuts prompts into other tokens'}"
        )
    return compared.max_difference


def _want(context: Context, domain: str, release: int, kind: str, model: str) -> bool:
    """Ask for the engine; whether it is ready already."""
    with postgres_trouble(), context.engine.begin() as connection:
        state = connection.execute(
            text(
                "INSERT INTO work.engines (engine_id, domain, release, kind, model, wanted, state, changed_at)"
                " VALUES (:id, :domain, :release, :kind, :model, true, 'asked', now())"
                " ON CONFLICT (engine_id) DO UPDATE SET wanted = true, error = NULL, model = excluded.model,"
                " state = CASE WHEN work.engines.wanted AND work.engines.state = 'ready' THEN 'ready' ELSE 'asked' END"
                " RETURNING state"
            ),
            {
                "id": engine_id(domain, release),
                "domain": domain,
                "release": release,
                "kind": kind,
                "model": model,
            },
        ).scalar_one()
        connection.execute(text("NOTIFY noria_engines"))
    return bool(state == "ready")


def _unwant(context: Context, name: str) -> None:
    with postgres_trouble(), context.engine.begin() as connection:
        connection.execute(text("UPDATE work.engines SET wanted = false WHERE engine_id = :id"), {"id": name})
        connection.execute(text("NOTIFY noria_engines"))


def _wait_ready(context: Context, order: SwapRelease, name: str) -> str:
    """The engine's address, once it answers. Raises Invalid when it cannot start or a newer order has been decided on, which must
    not wait for this one; Unavailable when it takes too long."""
    deadline = time.monotonic() + READY_DEADLINE_S
    looked_at = time.monotonic()
    while time.monotonic() < deadline:
        context.check()
        with postgres_trouble(), context.engine.connect() as connection:
            if time.monotonic() - looked_at > LOOK_EVERY_S:
                _check_newest(connection, order)
                looked_at = time.monotonic()
            row = connection.execute(
                text("SELECT state, base_url, error FROM work.engines WHERE engine_id = :id"), {"id": name}
            ).one()
        if row.state == "ready":
            return str(row.base_url)
        if row.state == "failed":
            raise Invalid(f"the engine of {name} does not start: {row.error}")
        context.cancelled.wait(0.05)
    raise Unavailable(f"the engine of {name} was not ready within {READY_DEADLINE_S:.0f} s")


def _live(context: Context, domain: str) -> int | None:
    with postgres_trouble(), context.engine.connect() as connection:
        found = connection.execute(
            text("SELECT live_release FROM noria.domains WHERE domain = :domain"), {"domain": domain}
        ).scalar_one_or_none()
    return None if found is None else int(found)


def keep_level(context: Context) -> None:
    """Let the release answer that the log names as live, where no order is open that may change it. Raises Unavailable."""
    with postgres_trouble(), context.engine.connect() as connection:
        off = connection.execute(text(_OFF_LEVEL), {"domain": None}).all()
    for row in off:
        name = engine_id(row.domain, row.live_release)
        if not row.wanted or row.state == "asleep":
            _want(context, row.domain, row.live_release, row.engine, row.model)
        elif row.state == "ready":
            with postgres_trouble(), context.engine.begin() as connection:
                # What an order told before it was closed must be in the tables before they are believed.
                known = orders.caught_up(connection, context.log)
                still = connection.execute(text(_OFF_LEVEL), {"domain": row.domain}).one_or_none()
                if known and still == row:  # nobody has moved the route since
                    _move_route(connection, row.domain, row.live_release, name)


_OFF_LEVEL = (
    "SELECT d.domain, d.live_release, d.engine, r.model, e.wanted, e.state, t.generation FROM noria.domains d"
    " JOIN noria.releases r ON r.domain = d.domain AND r.release = d.live_release"
    " LEFT JOIN work.routes t ON t.domain = d.domain"
    " LEFT JOIN work.engines e ON e.engine_id = d.domain || '@' || d.live_release"
    " WHERE t.release IS DISTINCT FROM d.live_release AND (cast(:domain AS text) IS NULL OR d.domain = :domain)"
    " AND NOT EXISTS (SELECT FROM work.claims c WHERE c.domain = d.domain AND c.kind = 'swap_release'"
    " AND c.state = 'open')"
)


def _check_newest(connection: Connection, order: SwapRelease) -> None:
    """Raises Invalid when an order of the domain was decided on after this one: what shall answer is what was decided last."""
    decisions = connection.execute(
        text(
            "SELECT event_id FROM noria.events WHERE domain = :domain AND type IN ('domain_created',"
            " 'candidate_evaluated', 'rollback_asked') ORDER BY \"offset\" DESC"
        ),
        {"domain": order.domain},
    ).scalars()
    newer: list[str] = []
    for event_id in decisions:
        asked = uuid5(UUID(event_id), "swap_release")
        if asked == order.order_id:
            break
        newer.append(str(asked))
    else:
        return  # the tables do not know its own decision, and are being rebuilt: `keep_level` has the last word
    found = connection.execute(
        text(
            "SELECT EXISTS (SELECT FROM noria.outbox WHERE message_id = ANY(:ids))"
            " OR EXISTS (SELECT FROM work.claims WHERE order_id = ANY(:ids))"
        ),
        {"ids": newer},
    )
    if found.scalar_one():
        raise Invalid(f"a newer decision about {order.domain} stands on the log")


def _move_route(connection: Connection, domain: str, release: int, name: str) -> int:
    """New requests go to `name` once this is committed; the route's new generation."""
    generation = connection.execute(
        text(
            "INSERT INTO work.routes (domain, release, engine_id, generation, flipped_at)"
            " VALUES (:domain, :release, :id, 1, now()) ON CONFLICT (domain) DO UPDATE"
            " SET release = excluded.release, engine_id = excluded.engine_id, flipped_at = now(),"
            " generation = work.routes.generation + 1 RETURNING generation"
        ),
        {"domain": domain, "release": release, "id": name},
    ).scalar_one()
    connection.execute(text("NOTIFY noria_routes"))
    return int(generation)


def _flip(context: Context, order: SwapRelease, name: str) -> Flip:
    """New requests go to `name` from here on; returns once every living door has said that it knows.

    Raises Cancelled if the order is another's by now, Invalid if a newer one has been decided on."""
    began = time.monotonic()
    with postgres_trouble(), context.engine.begin() as connection:
        if context.held is None or not orders.is_held(connection, context.held):
            raise Cancelled
        _check_newest(connection, order)
        generation = _move_route(connection, order.domain, order.release, name)
    deadline = time.monotonic() + 2 * DOOR_SILENT_S
    while time.monotonic() < deadline:
        with postgres_trouble(), context.engine.connect() as connection:
            behind = connection.execute(
                text(
                    "SELECT count(*) FROM work.doors WHERE seen_at > now() - make_interval(secs => :silent)"
                    " AND coalesce((generations ->> :domain)::bigint, 0) < :generation"
                ),
                {"silent": DOOR_SILENT_S, "domain": order.domain, "generation": generation},
            ).scalar_one()
        if behind == 0:
            return Flip(generation, (time.monotonic() - began) * 1000)
        time.sleep(0.005)
    raise Unavailable(f"a door did not take up generation {generation} of {order.domain}")


def _cool(context: Context, domain: str, keep: set[int]) -> None:
    """Stop the domain's engines that are neither live nor the one to roll back to, once nothing is in flight there."""
    with postgres_trouble(), context.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT engine_id, release FROM work.engines WHERE domain = :domain AND wanted"), {"domain": domain}
        ).all()
    for row in rows:
        if row.release in keep:
            continue
        deadline = time.monotonic() + DRAIN_DEADLINE_S
        while time.monotonic() < deadline and _in_flight(context, row.engine_id):
            context.check()
            context.cancelled.wait(0.05)
        _unwant(context, row.engine_id)


def _in_flight(context: Context, name: str) -> int:
    with postgres_trouble(), context.engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT coalesce(sum((in_flight ->> :id)::int), 0) FROM work.doors"
                " WHERE seen_at > now() - make_interval(secs => :silent)"
            ),
            {"id": name, "silent": DOOR_SILENT_S},
        ).scalar_one()
    return int(found)
