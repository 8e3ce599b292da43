"""The swap: an engine is proved before it is asked, every door knows before it is told, and each stage can be repeated."""

import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec import structs
from sqlalchemy import Engine

from streams.cluster import Cluster
from streams.codec import decode
from streams.errors import Invalid, Unavailable
from streams.events import DOMAINS, Event
from streams.facts.releases import ReleaseFinished, ReleaseRolledBack, ReleaseStarted, RollbackAsked
from streams.log import KafkaLog, MemoryLog
from streams.orders import SwapRelease
from streams.sealing import Keyring
from tests import door_world
from tests.door_world import World, make_settings
from tests.engine_server import EngineServer
from tests.integration.by_hand import ByHand, change, empty, live_domain, rows
from tests.integration.conftest import eventually
from workers import swapper
from workers.context import Cancelled, Context
from workers.engines import golden_tolerance
from workers.models.golden import GoldenLine
from workers.orders import Claim

GOLDEN = [
    GoldenLine(
        prompt=f"question {n}", prompt_ids=[1, 2, 3], token_ids=[7, 8], logprobs=[-0.5, -1.0], whole=[True, True]
    )
    for n in range(3)
]


class GoldenEngine(EngineServer):
    """An engine that answers golden prompts as the trainer would, but for `off` in log-probability."""

    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.off = off
        self.more_prompt_tokens = 0

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if body.get("stream"):
            super()._answer(handler, body)
            return
        self.hold.wait(30)
        (line,) = [line for line in GOLDEN if line.prompt == body["messages"][0]["content"]]
        steps = [
            {"id": token, "logprob": logprob - self.off}
            for token, logprob in zip(line.token_ids, line.logprobs, strict=True)
        ]
        said = {
            "choices": [{"message": {"content": "x"}, "logprobs": {"content": steps}}],
            "usage": {"prompt_tokens": len(line.prompt_ids) + self.more_prompt_tokens},
        }
        raw = json.dumps(said).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)


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


def model(context: Context, tmp_path: Path) -> str:
    folder = tmp_path / f"model-{uuid4().hex}"
    folder.mkdir()
    (folder / "golden.jsonl").write_text("".join(json.dumps(structs.asdict(line)) + "\n" for line in GOLDEN))
    (folder / "which").write_text(uuid4().hex)
    return context.artifacts.put_dir(folder)


def order_for(context: Context, tmp_path: Path, release: int = 1, **more: Any) -> SwapRelease:
    return SwapRelease(
        order_id=uuid4(),
        domain=more.pop("domain", "roads"),
        release=release,
        model=model(context, tmp_path),
        engine=more.pop("engine", "llamacpp"),
        current=release - 1 if release else None,
        round_id=None,
        **more,
    )


def host_says(context: Context, order: SwapRelease, state: str, engine: EngineServer | None = None) -> None:
    """What the process that holds the engines does once one is wanted."""
    wanted = "SELECT 1 FROM work.engines WHERE engine_id = :id AND wanted"
    name = swapper.engine_id(order.domain, order.release)
    eventually(lambda: rows(context.engine, wanted, id=name), f"{name} is wanted", 15)
    update = (
        "UPDATE work.engines SET state = :state, base_url = :url, error = :error, control_tokens = '{}',"
        " context_tokens = 2048 WHERE engine_id = :id"
    )
    url, error = (engine.base_url, None) if engine else (None, "no such file")
    change(context.engine, update, state=state, url=url, error=error, id=name)


def carry_out(context: Context, order: SwapRelease) -> None:
    """As the worker that holds the order."""
    context.held = claimed(context, order)
    swapper.run(order, context)


def claimed(context: Context, order: SwapRelease) -> Claim:
    change(
        context.engine,
        "INSERT INTO work.claims (order_id, kind, domain, body, state, attempts, worker, received_at)"
        " VALUES (:id, 'swap_release', :domain, '', 'open', 1, 'swapper-1', clock_timestamp()) ON CONFLICT DO NOTHING",
        id=str(order.order_id),
        domain=order.domain,
    )
    return Claim(order, 1, "swapper-1")


def run_with_host(context: Context, order: SwapRelease, engine: EngineServer) -> None:
    host = threading.Thread(target=host_says, args=(context, order, "ready", engine))
    host.start()
    try:
        carry_out(context, order)
    finally:
        host.join()


def in_thread(action: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except (Invalid, Unavailable, Cancelled) as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def door(context: Context, door_id: str, generation: int, in_flight: str = "{}", seen: str = "1 hour") -> None:
    """A door that was seen `seen` from now, so that it does not fall silent while a test runs."""
    change(
        context.engine,
        "INSERT INTO work.doors (door_id, generations, in_flight, seen_at) VALUES (:id, CAST(:gen AS jsonb),"
        " CAST(:busy AS jsonb), now() + CAST(:seen AS interval)) ON CONFLICT (door_id) DO UPDATE SET"
        " generations = excluded.generations, in_flight = excluded.in_flight, seen_at = excluded.seen_at",
        id=door_id,
        gen=json.dumps({"roads": generation}),
        busy=in_flight,
        seen=seen,
    )


def live(context: Context, release: int, domain: str = "roads") -> None:
    """The projections say that `release` is live."""
    change(
        context.engine,
        "INSERT INTO noria.domains (domain, title, languages, system_prompt, base_model, engine, policy, live_release,"
        " corrections, preferences, people, due, missing, created_at)"
        " VALUES (:d, '', '{}', '', 'm', 'llamacpp', '{}', :r, 0, 0, 0, false, '{}', now())"
        " ON CONFLICT (domain) DO UPDATE SET live_release = excluded.live_release",
        d=domain,
        r=release,
    )


def route(context: Context) -> tuple[object, ...] | None:
    found = rows(context.engine, "SELECT release, engine_id, generation FROM work.routes WHERE domain = 'roads'")
    return found[0] if found else None


def wanted(context: Context) -> dict[object, object]:
    return dict(rows(context.engine, "SELECT engine_id, wanted FROM work.engines"))  # type: ignore[arg-type]


def told(context: Context, order: SwapRelease) -> list[Event]:
    found: list[Event] = []
    for partition, end in context.log.ends(DOMAINS).items():
        for record in context.log.read(DOMAINS, partition, 0, end):
            event = decode(record.value).event
            if getattr(event, "order_id", None) == order.order_id:
                found.append(event)
    return found


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
    eventually(lambda: engine.requests, "the first golden prompt is asked", 15)
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
    eventually(lambda: wanted(context), "the engine is wanted", 15)
    context.cancelled.set()
    thread.join()
    assert [type(error) for error in raised] == [Cancelled]
    assert route(context) is None


def test_a_release_is_finished_only_when_every_living_door_knows(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    order = order_for(context, tmp_path)
    door(context, "knows", 1)
    door(context, "slow", 0)
    door(context, "gone", 0, seen="-1 minute")
    thread, raised = in_thread(lambda: run_with_host(context, order, engine))
    eventually(lambda: route(context), "the route is flipped", 15)
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
    assert rows(context.engine, "SELECT engine_id, state, wanted FROM work.engines") == [("roads@1", "ready", True)]
    ids = set()
    for partition, end in context.log.ends(DOMAINS).items():
        for record in context.log.read(DOMAINS, partition, 0, end):
            envelope = decode(record.value)
            if getattr(envelope.event, "order_id", None) == order.order_id:
                ids.add(envelope.id)
    assert len(told(context, order)) == 4 and len(ids) == 2  # readers drop the second of each


def test_the_release_before_stays_warm_and_an_older_one_stops_once_nothing_is_in_flight_there(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    for release in (0, 1):
        run_with_host(context, order_for(context, tmp_path, release=release), engine)
        live(context, release)
    order = order_for(context, tmp_path, release=2)
    door(context, "busy", 3, in_flight='{"roads@0": 2}')
    thread, raised = in_thread(lambda: run_with_host(context, order, engine))
    eventually(lambda: len(told(context, order)) == 2, "the release is finished", 20)
    assert wanted(context) == {"roads@0": True, "roads@1": True, "roads@2": True}
    assert thread.is_alive()
    door(context, "busy", 3, in_flight='{"roads@0": 0, "roads@2": 1}')
    thread.join()
    assert not raised
    assert wanted(context) == {"roads@0": False, "roads@1": True, "roads@2": True}


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


def close_all(context: Context) -> None:
    change(context.engine, "UPDATE work.claims SET state = 'done'")


def released(context: Context, order: SwapRelease) -> None:
    """The projections say that the order's release is live."""
    live(context, order.release)
    change(
        context.engine,
        "INSERT INTO noria.releases (domain, release, model, state, started_at) VALUES (:d, :r, :m, 'live', now())",
        d=order.domain,
        r=order.release,
        m=order.model,
    )
    for partition, end in context.log.ends(DOMAINS).items():
        change(
            context.engine,
            "INSERT INTO noria.positions VALUES (:t, :p, :n) ON CONFLICT (topic, partition)"
            " DO UPDATE SET next_offset = excluded.next_offset",
            t=DOMAINS,
            p=partition,
            n=end,
        )


def test_a_swapper_that_has_lost_its_order_moves_no_route(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    order = order_for(context, tmp_path)
    engine.hold.clear()
    thread, raised = in_thread(lambda: run_with_host(context, order, engine))
    eventually(lambda: engine.requests, "the first golden prompt is asked", 15)
    change(context.engine, "UPDATE work.claims SET worker = 'swapper-2', attempts = 2")  # its lease ran out
    engine.hold.set()
    thread.join()
    assert [type(error) for error in raised] == [Cancelled]
    assert route(context) is None and [type(event) for event in told(context, order)] == [ReleaseStarted]


def test_an_order_that_a_newer_decision_has_overtaken_moves_no_route(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    world = ByHand(context.engine, MemoryLog())
    live_domain(world, "roads", corrections=400)
    (first,) = world.orders()
    world.say(RollbackAsked(domain="roads", to=0, by="ops"))  # it is live: nothing comes of it
    world.settle()
    assert isinstance(first, SwapRelease)
    first = structs.replace(first, model=model(context, tmp_path))
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


def test_an_order_that_waits_for_its_engine_makes_way_for_a_newer_decision(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapper, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(swapper, "READY_DEADLINE_S", 20.0)
    world = ByHand(context.engine, MemoryLog())
    live_domain(world, "roads", corrections=400)
    (first,) = world.orders()
    assert isinstance(first, SwapRelease)
    first = structs.replace(first, model=model(context, tmp_path))
    thread, raised = in_thread(lambda: carry_out(context, first))
    eventually(lambda: wanted(context), "the engine is wanted", 15)
    world.say(ReleaseFinished(**FINISHED), RollbackAsked(domain="roads", to=0, by="ops"))
    world.settle()
    thread.join()
    assert [str(error) for error in raised] == ["a newer decision about roads stands on the log"]
    assert route(context) is None


def test_a_route_that_was_moved_by_an_order_that_was_then_given_up_comes_back_to_what_is_live(
    context: Context, engine: GoldenEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapper, "DOOR_SILENT_S", 0.2)
    first = order_for(context, tmp_path, release=0)
    run_with_host(context, first, engine)
    door(context, "slow", 1)
    with pytest.raises(Unavailable, match="did not take up"):
        run_with_host(context, order_for(context, tmp_path, release=1), engine)
    released(context, first)
    swapper.keep_level(context)
    assert route(context) == (1, "roads@1", 2), "while an order is open, it decides"
    close_all(context)
    change(context.engine, "UPDATE noria.positions SET next_offset = 0")
    swapper.keep_level(context)
    assert route(context) == (1, "roads@1", 2), "the tables may not know yet what the order has told"
    change(context.engine, "DELETE FROM noria.releases")
    released(context, first)
    swapper.keep_level(context)
    assert route(context) == (0, "roads@0", 3)
    swapper.keep_level(context)
    assert route(context) == (0, "roads@0", 3)


def test_when_engines_and_routes_were_lost_the_release_that_the_log_names_answers_again(
    context: Context, engine: GoldenEngine, tmp_path: Path
) -> None:
    order = order_for(context, tmp_path, release=3)
    released(context, order)
    swapper.keep_level(context)
    assert wanted(context) == {"roads@3": True} and route(context) is None
    host_says(context, order, "ready", engine)
    swapper.keep_level(context)
    assert route(context) == (3, "roads@3", 1)
    assert told(context, order) == [], "nothing has happened that the log does not know"


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
    eventually(lambda: world.engine.busy, "a request is under way", 15)
    order = order_for(context, tmp_path, domain=domain)
    run_with_host(context, order, engine)
    assert world.chat(domain)["model"] == f"{domain}@1"
    world.engine.hold.set()
    asking.join()
    assert answers[0]["model"] == f"{domain}@0"
    finished = [event for event in told(context, order) if isinstance(event, ReleaseFinished)]
    assert len(finished) == 1 and finished[0].flip_ms < 5000
