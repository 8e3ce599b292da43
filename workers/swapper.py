"""The step `swap`: the new release's engine comes up beside the old one, is proved, and takes new requests.

    engine wanted → ready → golden prompts → route flipped → every door has seen it → finished

The release before stays warm, so that a rollback is one flip. Every stage can be repeated: a swapper that dies in the
middle leaves an order that the next one carries to its end.

An order flips the route only while it is held, and only if the route follows from no newer decision than its own. All else about
engines and routes is `workers.reconciler`'s.
"""

import time

from msgspec import Struct
from sqlalchemy import Connection, text

from streams.engines import serving_kind
from streams.errors import Invalid, Unavailable
from streams.facts.releases import ReleaseFinished, ReleaseRolledBack, ReleaseStarted
from streams.orders import SwapRelease
from streams.reading.learning import live_releases
from streams.store import postgres_trouble
from workers import orders
from workers.context import Cancelled, Context
from workers.engines import golden_tolerance
from workers.models.golden import compare_with_golden
from workers.routes import engine_id, flip, unwant, want

READY_DEADLINE_S = 660.0  # longer than any engine may take to start
LOOK_EVERY_S = 1.0  # whether an order that waits is still the newest
DOOR_SILENT_S = 5.0  # a door that has not been heard of for so long is gone


class Ready(Struct, frozen=True):
    base_url: str
    host: str | None


class Flip(Struct, frozen=True):
    generation: int
    flip_ms: float


def run(order: SwapRelease, context: Context) -> None:
    began = time.monotonic()
    name = engine_id(order.domain, order.release)
    kind = serving_kind(order.engine, order.needs)
    warm = want(context.database, context.settings.host, order.domain, order.release, kind, order.model)
    if not order.rollback:
        started = ReleaseStarted(domain=order.domain, release=order.release, order_id=order.order_id, model=order.model)
        context.publish(order, started, "release_started")
    ready = _wait_ready(context, order, name)
    ready_s = time.monotonic() - began
    # A warm engine was proved when its release went live, and going back to it must take no longer than the flip.
    difference = 0.0 if order.rollback and warm else _prove(context, order, name, ready)
    with postgres_trouble(), context.database.connect() as connection:
        live = live_releases(connection, [order.domain]).get(order.domain)
    flipped = _flip(context, order, name)
    if order.rollback:
        rolled = ReleaseRolledBack(
            domain=order.domain,
            release=order.release if live is None else live,
            to=order.release,
            order_id=order.order_id,
            flip_ms=flipped.flip_ms,
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
            flip_ms=flipped.flip_ms,
        )
        context.publish(order, finished, "release_finished")


def _prove(context: Context, order: SwapRelease, name: str, ready: Ready) -> float:
    """The largest difference of the golden prompts. Raises Invalid when it is too large; the engine is not wanted then."""
    if ready.host not in (None, context.settings.host):
        raise Unavailable(f"the engine of {name} is on {ready.host}: a swapper there can reach it")
    key = context.keyring.derive(f"engine:{name}")
    compared = compare_with_golden(ready.base_url, key, context.artifacts.path(order.model) / "golden.jsonl")
    allowed = golden_tolerance(serving_kind(order.engine, order.needs))
    if not compared.within(allowed):
        unwant(context.database, name)
        raise Invalid(
            f"the engine of {name} differs from its trainer by {compared.max_difference:.3f} in log-probability"
            f" (at most {allowed} is allowed)"
            f"{'' if compared.prompt_tokens_equal else ' and cuts prompts into other tokens'}"
        )
    return compared.max_difference


def _wait_ready(context: Context, order: SwapRelease, name: str) -> Ready:
    """Where the engine is, once it answers. Raises Invalid when it cannot start or a newer order has been decided on, which must
    not wait for this one; Unavailable when it takes too long."""
    deadline = time.monotonic() + READY_DEADLINE_S
    looked_at = time.monotonic()
    while time.monotonic() < deadline:
        context.check()
        if time.monotonic() - looked_at > LOOK_EVERY_S:
            context.intake.take_in()
            with postgres_trouble(), context.database.connect() as connection:
                _check_newest(context, connection, order)
            looked_at = time.monotonic()
        with postgres_trouble(), context.database.connect() as connection:
            row = connection.execute(
                text("SELECT state, base_url, error, host FROM work.engines WHERE engine_id = :id"), {"id": name}
            ).one_or_none()
        if row is None:
            raise Unavailable(f"the row of the engine {name} was lost")
        if row.state == "ready":
            return Ready(row.base_url, row.host)
        if row.state == "failed":
            raise Invalid(f"the engine of {name} does not start: {row.error}")
        context.cancelled.wait(0.05)
    raise Unavailable(f"the engine of {name} was not ready within {READY_DEADLINE_S:.0f} s")


def _check_newest(context: Context, connection: Connection, order: SwapRelease) -> int:
    """Where the decision stands that the order carries out. Raises Invalid when none does, or when an order of the domain was
    decided on after it: what shall answer is what was decided last."""
    held = context.held
    if held is None or held.decided_offset is None:
        raise Invalid(f"no decision about {order.domain} stands on the log that this order follows from")
    newer = connection.execute(
        text(
            "SELECT EXISTS (SELECT FROM work.claims WHERE domain = :domain AND kind = 'swap_release'"
            " AND decided_offset > :decided)"
        ),
        {"domain": order.domain, "decided": held.decided_offset},
    )
    if newer.scalar_one():
        raise Invalid(f"a newer decision about {order.domain} stands on the log")
    return held.decided_offset


def _flip(context: Context, order: SwapRelease, name: str) -> Flip:
    """New requests go to `name` from here on; returns once every living door has said that it knows.

    Raises Cancelled if the order is another's by now, Invalid if a newer one has been decided on, Unavailable if the route follows
    from a newer one that is not known."""
    began = time.monotonic()
    context.intake.take_in()
    with postgres_trouble(), context.database.begin() as connection:
        if context.held is None or not orders.is_held(connection, context.held):
            raise Cancelled
        decided_offset = _check_newest(context, connection, order)
        generation = flip(connection, order.domain, order.release, name, decided_offset)
        if generation is None:
            # Its order is not known here yet, or somebody has changed the route by hand: the next attempt finds out.
            raise Unavailable(f"the route of {order.domain} follows from a newer decision than this order")
    deadline = time.monotonic() + 2 * DOOR_SILENT_S
    while time.monotonic() < deadline:
        with postgres_trouble(), context.database.connect() as connection:
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
