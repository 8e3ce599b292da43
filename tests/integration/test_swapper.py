"""The swap: an engine is proved before it is asked, every door knows before it is told, and each stage can be repeated."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec import structs
from sqlalchemy import Engine

from streams.cluster import Cluster
from streams.codec import decode
from streams.errors import Invalid, Unavailable
from streams.events import DOMAINS
from streams.facts.releases import ReleaseFinished, ReleaseRolledBack, ReleaseStarted, RollbackAsked
from streams.log import KafkaLog, MemoryLog
from streams.orders import SwapRelease
from streams.sealing import Keyring
from tests import door_world
from tests.door_world import World, make_settings
from tests.integration.by_hand import ByHand, change, empty, live_domain, rows
from tests.integration.conftest import eventually
from tests.integration.swaps import (
    GOLDEN,
    GoldenEngine,
    carry_out,
    claimed,
    door,
    host_says,
    in_thread,
    live,
    model,
    order_for,
    route,
    run_with_host,
    told,
    wanted,
)
from tests.waiting import PATIENCE_S
from workers import swapper
from workers.context import Cancelled, Context
from workers.engines import golden_tolerance

FINISHED: dict[str, Any] = {
    "domain": "roads",
    "release": 1,
    "order_id": uuid4(),
    "model": "sha256:" + "2" * 64,
    "golden_difference": 0.0,
    "ready_s": 0.1,
    "flip_ms": 1.0,
}


@pytest.fixture(scope="module")
def log(empty_log: Cluster) -> Iterator[KafkaLog]:
    log = KafkaLog(empty_log, "test-swapper")
    yield log
    log.close()


@pytest.fixture
def context(database: Engine, log: KafkaLog, keyring: Keyring, tmp_path: Path, empty_log: Cluster) -> Context:
    empty(database)
    return Context(make_settings(tmp_path, empty_log, "unused"), database, log, keyring, "swapper-1")


@pytest.fixture
def engine() -> Iterator[GoldenEngine]:
    made = GoldenEngine()
    yield made
    made.stop()


def following(context: Context, world: ByHand) -> Context:
    """The same worker, on the log of that world."""
    return Context(context.settings, context.database, world.log, context.keyring, context.worker)


def test_an_engine_is_wanted_proved_and_then_asked(context: Context, engine: GoldenEngine, tmp_path: Path) -> None:
    order = order_for(context, tmp_path)
    engine.off = 0.02
    run_with_host(context, order, engine)
    assert route(context) == (1, "roads@1", 1)
    started, finished = told(context, order)
    assert started == ReleaseStarted(domain="roads", release=1, order_id=order.order_id, model=order.model)
    assert isinstance(finished, ReleaseFinished)
    assert (finished.release, finished.model) == (1, order.model)
    assert math.isclose(finished.golden_difference, 0.02, abs_tol=1e-9)
    assert finished.ready_s > 0 and finished.flip_ms > 0
    assert [body["messages"][0]["content"] for body in engine.requests] == [line.prompt for line in GOLDEN]
    secret = context.keyring.derive("engine:roads@1")
    assert set(engine.keys) == {f"Bearer {secret}"}


def test_the_route_stays_until_the_golden_prompts_are_answered(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    order = order_for(context, tmp_path)
    engine.hold.clear()
    thread, _ = in_thread(lambda: run_with_host(context, order, engine))
    eventually(lambda: engine.requests, "the first golden prompt is asked")
    assert route(context) is None
    engine.hold.set()
    thread.join()
    assert route(context) == (1, "roads@1", 1)


def test_an_engine_that_differs_from_its_trainer_is_refused_and_the_route_stays(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    good = GoldenEngine()
    first = order_for(context, tmp_path, release=0)
    run_with_host(context, first, good)
    live(context, 0)
    order = order_for(context, tmp_path)
    engine.off = 0.06
    with pytest.raises(Invalid, match=r"roads@1 differs from its trainer by 0\.060 in log-probability"):
        run_with_host(context, order, engine)
    assert wanted(context) == {"roads@0": True, "roads@1": False}
    assert route(context) == (0, "roads@0", 1)
    assert [type(event) for event in told(context, order)] == [ReleaseStarted]
    good.stop()


def test_an_engine_that_cuts_prompts_otherwise_is_refused_however_near_its_answers_are(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    engine.more_prompt_tokens = 2
    with pytest.raises(Invalid, match="cuts prompts into other tokens"):
        run_with_host(context, order_for(context, tmp_path), engine)
    assert wanted(context) == {"roads@1": False} and route(context) is None


def test_an_engine_whose_probabilities_are_no_numbers_is_refused(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    engine.off = math.nan
    with pytest.raises(Invalid, match="differs from its trainer"):
        run_with_host(context, order_for(context, tmp_path), engine)
    assert route(context) is None


@pytest.mark.parametrize("kind", ["llamacpp", "lightllm"])
def test_each_kind_of_engine_may_differ_as_far_as_its_own_arithmetic(
    context: Context, engine: GoldenEngine, tmp_path: Path, kind: str
) -> None:
    engine.off = golden_tolerance(kind) - 0.01
    run_with_host(context, order_for(context, tmp_path, release=1, engine=kind), engine)
    assert route(context) == (1, "roads@1", 1)
    engine.off = golden_tolerance(kind) + 0.01
    with pytest.raises(Invalid):
        run_with_host(context, order_for(context, tmp_path, release=2, engine=kind), engine)
    assert route(context) == (1, "roads@1", 1)


def test_an_engine_that_does_not_start_is_told_with_its_reason(context: Context, tmp_path: Path) -> None:
    order = order_for(context, tmp_path)
    host = threading.Thread(target=host_says, args=(context, order, "failed"))
    host.start()
    with pytest.raises(Invalid, match="the engine of roads@1 does not start: no such file"):
        carry_out(context, order)
    host.join()
    assert route(context) is None


def test_an_engine_that_is_never_ready_is_unavailable(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapper, "READY_DEADLINE_S", 0.3)
    with pytest.raises(Unavailable, match="was not ready"):
        carry_out(context, order_for(context, tmp_path))
    assert route(context) is None


def test_a_swap_that_is_no_longer_wanted_is_dropped_while_it_waits(context: Context, tmp_path: Path) -> None:
    order = order_for(context, tmp_path)
    thread, raised = in_thread(lambda: carry_out(context, order))
    eventually(lambda: wanted(context), "the engine is wanted")
    context.cancelled.set()
    thread.join()
    assert [type(error) for error in raised] == [Cancelled]
    assert route(context) is None


def test_a_release_is_finished_only_when_every_living_door_knows(
    context: Context, engine: GoldenEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapper, "DOOR_SILENT_S", 50.0)  # these say nothing between their two lines
    order = order_for(context, tmp_path)
    door(context, "knows", 0)
    door(context, "slow", 0)
    door(context, "gone", 0, seen="-1 minute")
    thread, raised = in_thread(lambda: run_with_host(context, order, engine))
    eventually(lambda: route(context), "the route is flipped")
    door(context, "knows", 1)
    assert thread.is_alive()
    assert [type(event) for event in told(context, order)] == [ReleaseStarted]
    assert thread.is_alive()
    door(context, "slow", 1)
    thread.join()
    assert not raised
    assert [type(event) for event in told(context, order)] == [ReleaseStarted, ReleaseFinished]


def test_a_door_that_lives_and_never_learns_is_unavailable_and_nothing_is_told(
    context: Context, engine: GoldenEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapper, "DOOR_SILENT_S", 0.2)
    order = order_for(context, tmp_path)
    door(context, "slow", 0)
    with pytest.raises(Unavailable, match="a door did not take up generation 1 of roads"):
        run_with_host(context, order, engine)
    assert [type(event) for event in told(context, order)] == [ReleaseStarted]


def test_an_order_that_is_carried_out_again_changes_nothing_that_is_seen(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    order = order_for(context, tmp_path)
    run_with_host(context, order, engine)
    live(context, 1)
    carry_out(context, order)  # the engine is ready already: nobody has to start it again
    assert route(context) == (1, "roads@1", 2)
    assert rows(context.database, "SELECT engine_id, state, wanted FROM work.engines") == [("roads@1", "ready", True)]
    ids = set()
    for partition, end in context.log.ends(DOMAINS).items():
        for record in context.log.read(DOMAINS, partition, 0, end):
            envelope = decode(record.value)
            if getattr(envelope.event, "order_id", None) == order.order_id:
                ids.add(envelope.id)
    assert len(told(context, order)) == 4 and len(ids) == 2  # readers drop the second of each


def test_a_rollback_flips_to_the_warm_engine_and_says_from_where_to_where(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    for release in (0, 1):
        run_with_host(context, order_for(context, tmp_path, release=release), engine)
        live(context, release)
    back = order_for(context, tmp_path, release=0, rollback=True)
    engine.requests.clear()
    carry_out(context, back)
    assert engine.requests == []  # it was proved when its release went live
    assert route(context) == (0, "roads@0", 3)
    (rolled,) = told(context, back)
    assert isinstance(rolled, ReleaseRolledBack)
    assert (rolled.release, rolled.to) == (1, 0)
    assert wanted(context) == {"roads@0": True, "roads@1": True}


def test_a_rollback_to_an_engine_that_has_stopped_proves_it_again(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    for release in (0, 1, 2):
        run_with_host(context, order_for(context, tmp_path, release=release), engine)
        live(context, release)
    engine.requests.clear()
    change(context.database, "UPDATE work.engines SET wanted = false, state = 'stopped' WHERE engine_id = 'roads@0'")
    back = order_for(context, tmp_path, release=0, rollback=True)
    run_with_host(context, back, engine)
    assert len(engine.requests) == len(GOLDEN)
    assert [type(event) for event in told(context, back)] == [ReleaseRolledBack]


def test_the_route_stays_where_it_was_when_the_models_golden_answers_are_not_there(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    order = structs.replace(order_for(context, tmp_path), model="sha256:" + "0" * 64)
    with pytest.raises(Invalid, match="there is no artifact"):
        run_with_host(context, order, engine)
    assert route(context) is None


def test_a_swapper_that_has_lost_its_order_moves_no_route(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    order = order_for(context, tmp_path)
    engine.hold.clear()
    thread, raised = in_thread(lambda: run_with_host(context, order, engine))
    eventually(lambda: engine.requests, "the first golden prompt is asked")
    change(context.database, "UPDATE work.claims SET worker = 'swapper-2', attempts = 2")  # its lease ran out
    engine.hold.set()
    thread.join()
    assert [type(error) for error in raised] == [Cancelled]
    assert route(context) is None and [type(event) for event in told(context, order)] == [ReleaseStarted]


def test_an_order_that_a_newer_decision_has_overtaken_moves_no_route(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    world = ByHand(context.database, MemoryLog())
    context = following(context, world)
    live_domain(world, "roads", corrections=400)
    (first,) = world.orders()
    world.say(RollbackAsked(domain="roads", to=0, by="ops"))  # it is live: nothing comes of it
    world.settle()
    assert isinstance(first, SwapRelease)
    first = structs.replace(first, model=model(context, tmp_path))
    context.intake.take_in()
    run_with_host(context, first, engine)
    assert route(context) == (0, "roads@0", 1)
    asked = RollbackAsked(domain="roads", to=1, by="ops")
    world.say(ReleaseFinished(**FINISHED), asked, RollbackAsked(domain="roads", to=0, by="ops"))
    world.settle()
    with pytest.raises(Invalid, match="a newer decision about roads stands on the log"):
        carry_out(context, first)
    assert route(context) == (0, "roads@0", 1)
    newest = world.orders()[-1]
    assert isinstance(newest, SwapRelease) and newest.rollback
    carry_out(context, newest)
    assert route(context) == (0, "roads@0", 2)
    asked_at = rows(context.database, "SELECT max(\"offset\") FROM noria.events WHERE type = 'rollback_asked'")
    assert rows(context.database, "SELECT decided_offset FROM work.routes") == asked_at


def test_a_worker_that_was_paused_with_its_order_moves_no_route_back_that_a_newer_decision_has_moved(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    older, newer = order_for(context, tmp_path, release=1), order_for(context, tmp_path, release=2)
    engine.hold.clear()
    context.held = claimed(context, older)
    thread, raised = in_thread(lambda: swapper.run(older, context))
    host_says(context, older, "ready", engine)
    eventually(lambda: engine.requests, "the first golden prompt is asked")
    other, awake = (
        Context(context.settings, context.database, context.log, context.keyring, "swapper-2"),
        GoldenEngine(),
    )
    run_with_host(other, newer, awake)
    # Nobody has taken its order from it, and all that knew of the newer one is forgotten, but the route.
    change(context.database, "DELETE FROM work.claims WHERE order_id = :id", id=str(newer.order_id))
    engine.hold.set()
    thread.join()
    awake.stop()
    assert [str(error) for error in raised] == ["the route of roads follows from a newer decision than this order"]
    assert route(context) == (2, "roads@2", 1)
    assert [type(event) for event in told(context, older)] == [ReleaseStarted]


def test_an_order_that_no_decision_on_the_log_stands_behind_moves_no_route(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    order = order_for(context, tmp_path)
    context.held = structs.replace(claimed(context, order), decided_offset=None)
    thread, raised = in_thread(lambda: swapper.run(order, context))
    host_says(context, order, "ready", engine)
    thread.join()
    assert [str(error) for error in raised] == [
        "no decision about roads stands on the log that this order follows from"
    ]
    assert route(context) is None


def test_an_order_that_waits_for_its_engine_makes_way_for_a_newer_decision(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapper, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(swapper, "READY_DEADLINE_S", PATIENCE_S)
    world = ByHand(context.database, MemoryLog())
    context = following(context, world)
    live_domain(world, "roads", corrections=400)
    (first,) = world.orders()
    assert isinstance(first, SwapRelease)
    first = structs.replace(first, model=model(context, tmp_path))
    context.intake.take_in()
    thread, raised = in_thread(lambda: carry_out(context, first))
    eventually(lambda: wanted(context), "the engine is wanted")
    world.say(ReleaseFinished(**FINISHED), RollbackAsked(domain="roads", to=0, by="ops"))
    world.settle()
    thread.join()
    assert [str(error) for error in raised] == ["a newer decision about roads stands on the log"]
    assert route(context) is None


@pytest.fixture
def world(empty_log: Cluster, database: Engine, database_url: str, tmp_path: Path) -> Iterator[World]:
    empty(database)
    with door_world.running(empty_log, database_url, tmp_path / "door") as running:
        yield running


def test_a_real_door_answers_from_the_new_release_once_it_is_told_and_pins_what_is_under_way(
    world: World, log: KafkaLog, engine: GoldenEngine, tmp_path: Path
) -> None:
    domain = world.domain()
    context = Context(world.settings, world.database, log, world.services.keyring, "swapper-1")
    assert world.chat(domain)["model"] == f"{domain}@0"
    world.engine.hold.clear()
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(world.chat(domain, "a long question")))
    asking.start()
    eventually(lambda: world.engine.busy, "a request is under way")
    order = order_for(context, tmp_path, domain=domain)
    context.intake.take_in()
    run_with_host(context, order, engine)
    assert world.chat(domain)["model"] == f"{domain}@1"
    world.engine.hold.set()
    asking.join()
    assert answers[0]["model"] == f"{domain}@0"
    finished = [event for event in told(context, order) if isinstance(event, ReleaseFinished)]
    assert len(finished) == 1 and 0 < finished[0].flip_ms < 60_000
