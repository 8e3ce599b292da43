"""After a rollback, what the release above had learned is not learned: it is new again, to the round and to its people."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from streams.codec import decode_order
from streams.events import ORDERS
from streams.facts.releases import RollbackAsked
from streams.facts.rounds import RoundAsked, SnapshotSelected
from streams.log import KafkaLog
from streams.orders import EvaluateCandidate, Order, SelectSnapshot, SwapRelease, TrainCandidate
from tests.door_world import World, wait_until
from tests.integration.by_hand import answer, results
from tests.waiting import PATIENCE_S
from workers.context import Context
from workers.selector import step as selection

Kind = TypeVar("Kind", bound=Order)


@pytest.fixture
def context(world: World) -> Iterator[Context]:
    log = KafkaLog(world.kafka, "test-rollback")
    yield Context(world.settings, world.database, log, world.services.keyring, "worker-1")
    log.close()


def newest(context: Context, domain: str, kind: type[Kind], after: int) -> Kind:
    """The order of that kind that comes on the log at or after the offset."""

    def look() -> Kind | None:
        records = context.log.read(ORDERS, 0, after, context.log.ends(ORDERS)[0])
        orders = [decode_order(record.value) for record in records]
        return next((order for order in orders if isinstance(order, kind) and order.domain == domain), None)

    found = wait_until(look, what=f"an order {kind.__name__}")
    assert isinstance(found, kind)
    return found


def carry_out(world: World, context: Context, order: Order) -> None:
    """As a worker would, with made-up results."""
    told = [answer(order, name, event, datetime.now(UTC)) for name, event in results(order)]
    world.caught_up(str(context.log.append(told, PATIENCE_S)[-1]))


def select(world: World, context: Context, domain: str, after: int) -> SnapshotSelected:
    """Ask for a round, and let the real selector choose."""
    world.caught_up(world.say(RoundAsked(domain=domain, by="ops")))
    order = newest(context, domain, SelectSnapshot, after)
    selection.run(replace(order, base_model=None, recipe=None), context)  # there is no model here to measure rows by
    shown = f"/v1/rounds/{order.round_id}"
    wait_until(lambda: world.as_data.get(shown).json()["step"] != "select", what="the snapshot")
    said = world.events(domain, "snapshot_selected")[-1]["data"]
    assert said["round_id"] == order.round_id
    return SnapshotSelected(**said | {"kept": tuple(said["kept"])})


def corrected(world: World, user: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.as_data.get(f"/v1/people/{user}/corrections").json()["data"]
    return found


def test_what_a_release_that_was_rolled_back_had_learned_is_new_again(world: World, context: Context) -> None:
    domain = world.domain(policy={"thresholds": {"corrections": 400}})
    for words in ("How fast?", "How far?"):
        reply_id = world.chat(domain, words, user="zoe")["metadata"]["reply_ids"][0]
        said = {"reply_id": reply_id, "user": "zoe", "correction": f"The answer to {words}"}
        assert world.as_chat.post("/v1/feedback", json=said).status_code == 200
    wait_until(lambda: len(world.events(domain, "example_accepted")) == 2)
    start = context.log.ends(ORDERS)[0]
    first = select(world, context, domain, start)
    assert len(first.kept) == 2 and first.earlier == 0
    for kind in (TrainCandidate, EvaluateCandidate, SwapRelease):
        carry_out(world, context, newest(context, domain, kind, start))
    assert {(c["state"], c["release"]) for c in corrected(world, "zoe")} == {("live", 1)}

    start = context.log.ends(ORDERS)[0]
    again = select(world, context, domain, start)
    assert again.kept == () and again.earlier == 2, "release 1 has learned them"

    start = context.log.ends(ORDERS)[0]
    world.caught_up(world.say(RollbackAsked(domain=domain, to=0, by="ops")))
    carry_out(world, context, newest(context, domain, SwapRelease, start))
    assert {(c["state"], c["release"]) for c in corrected(world, "zoe")} == {("waiting", None)}

    start = context.log.ends(ORDERS)[0]
    anew = select(world, context, domain, start)
    assert sorted(anew.kept) == sorted(first.kept) and anew.earlier == 0
    carry_out(world, context, newest(context, domain, TrainCandidate, start))

    erased = world.as_operator.post("/v1/people/zoe/erase").json()["learned_by"]
    assert [(r["number"], r["release"], r["examples"]) for r in erased] == [(1, 1, 2), (3, None, 2)]
