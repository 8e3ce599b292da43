"""`work` is lost: what was done is not done again, what was not is, and the route comes to what the log says is live."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from streams.events import ORDERS
from streams.facts.orders import OrderFailed
from streams.facts.people import PersonErased
from streams.facts.releases import RebuildAsked, RollbackAsked
from streams.facts.rounds import RoundAsked
from streams.log import MemoryLog
from streams.orders import SelectSnapshot, SwapRelease
from streams.recipes import LoraRecipe
from streams.sealing import Keyring
from tests.door_world import make_settings
from tests.integration.by_hand import AT, CANDIDATE, MODEL, ByHand, answer, change, empty, live_domain, rows, talk
from workers import orders
from workers.context import Context
from workers.orders import failure_name


@pytest.fixture
def world(database: Engine) -> ByHand:
    """A domain on its release 1; its orders were carried out by nobody that `work` knows of."""
    empty(database)
    world = ByHand(database, MemoryLog())
    live_domain(world, "roads", corrections=2)
    world.say(*talk("roads", "ann"), *talk("roads", "bob"))
    world.settle()
    world.work(done=frozenset(order.order_id for order in world.orders()[:1]))
    assert rows(database, "SELECT live_release FROM noria.domains") == [(1,)]
    return world


@pytest.fixture
def context(world: ByHand, keyring: Keyring, tmp_path: Path) -> Context:
    return Context(make_settings(tmp_path, "unused", "unused"), world.database, world.log, keyring, "worker-1")


def states(world: ByHand) -> list[tuple[object, ...]]:
    return rows(world.database, "SELECT kind, state, attempts FROM work.claims ORDER BY received_at")


def test_an_order_whose_outcome_stands_on_the_log_is_not_claimed(world: ByHand) -> None:
    world.say(RoundAsked(domain="roads", by="ops"), PersonErased(domain="roads", person="eva", kids=("k",), by="ops"))
    world.settle()
    assert orders.Intake(world.database, world.log).take_in() == 7
    assert states(world) == [
        *((kind, "done", 0) for kind in ("swap_release", "select_snapshot", "train_candidate")),
        *((kind, "done", 0) for kind in ("evaluate_candidate", "swap_release")),
        ("purge_places", "open", 0),
        ("select_snapshot", "open", 0),  # asked for when it stood there that a round begins
    ]


def test_nothing_is_taken_in_before_the_projections_know_what_came_of_it(world: ByHand) -> None:
    world.say(RoundAsked(domain="roads", by="ops"))
    intake = orders.Intake(world.database, world.log)
    assert intake.take_in() == 0
    world.settle()
    assert intake.take_in() > 0
    world.say(RoundAsked(domain="roads", by="ops"), RollbackAsked(domain="roads", to=0, by="ops"))
    world.settle()
    world.say(RoundAsked(domain="roads", by="ops"))
    assert intake.take_in() > 0, "from here on it waits for nothing"


def test_a_worker_that_starts_upon_tables_of_yesterday_takes_nothing_in_before_they_know_what_came_of_it(
    world: ByHand,
) -> None:
    """`work` and the projections were put back together: the intake stands before orders that were carried out since."""
    then, taken = world.records(), world.log.ends(ORDERS)[0]
    world.say(RollbackAsked(domain="roads", to=0, by="ops"), RoundAsked(domain="roads", by="ops"))
    world.settle()
    world.work(done=frozenset(order.order_id for order in world.orders()[:taken]))
    empty(world.database)
    world.store.apply(then)
    change(
        world.database, "INSERT INTO work.intake (topic, partition, next_offset) VALUES (:t, 0, :n)", t=ORDERS, n=taken
    )
    intake = orders.Intake(world.database, world.log)
    assert intake.take_in() == 0
    world.follow()
    assert intake.take_in() > 4
    assert {state for _, state, _ in states(world)} == {"done"}


def test_attempts_that_failed_are_counted_and_what_was_given_up_stays_so(world: ByHand) -> None:
    world.say(RoundAsked(domain="roads", by="ops"), RollbackAsked(domain="roads", to=0, by="ops"))
    world.settle()
    swap, select = world.orders()[-2:]
    assert isinstance(select, SelectSnapshot) and isinstance(swap, SwapRelease)
    for order, attempt, again in ((select, 1, True), (select, 2, True), (swap, 1, False)):
        failed = OrderFailed(
            domain="roads",
            round_id=order.round_id,
            order_id=order.order_id,
            step="select" if order is select else "swap",
            reason="the disk is full",
            will_retry=again,
            attempt=attempt,
        )
        world.log.append([answer(order, failure_name(attempt), failed, AT)], 10)
    world.settle()
    orders.Intake(world.database, world.log).take_in()
    assert states(world)[-2:] == [("swap_release", "failed", 1), ("select_snapshot", "open", 2)]
    held = orders.claim(world.database, ["select_snapshot"], "worker-1", "here")
    assert held is not None and held.attempt == 3, "whose failure is not taken for one that was told before"


def test_an_order_of_a_round_that_has_ended_is_not_claimed(world: ByHand) -> None:
    world.say(RoundAsked(domain="roads", by="ops"))
    world.settle()
    change(world.database, "UPDATE noria.rounds SET ended_at = now()")
    orders.Intake(world.database, world.log).take_in()
    assert states(world)[-1] == ("select_snapshot", "cancelled", 0)


def test_an_order_that_makes_something_again_is_claimed_although_its_round_has_ended(world: ByHand) -> None:
    ((round_id,),) = rows(world.database, "SELECT round_id FROM noria.rounds")
    asked = RebuildAsked(
        domain="roads",
        round_id=str(round_id),
        pin=1,
        snapshot=MODEL,
        base_release=0,
        recipe=LoraRecipe(),
        release=None,
        model=CANDIDATE,
        adapter=CANDIDATE,
        by="ops",
    )
    world.say(asked)
    world.settle()
    orders.Intake(world.database, world.log).take_in()
    assert states(world)[-1] == ("rebuild_candidate", "open", 0)
    held = orders.claim(world.database, ["rebuild_candidate"], "worker-1", "here")
    assert held is not None and orders.renew(world.database, held)
    world.work(done=frozenset(order.order_id for order in world.orders()[:-1]))
    assert not orders.renew(world.database, held)
    change(world.database, "TRUNCATE work.claims, work.intake")
    orders.Intake(world.database, world.log).take_in()
    assert states(world)[-1] == ("rebuild_candidate", "done", 0)
