"""A door, engines and swappers that run while something is lost, killed or on another host: what the log names answers."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import psycopg2
import pytest
from msgspec.structs import replace
from sqlalchemy import Engine as Database

from migrations.roles import url_of
from migrations.work import make_work_again
from streams.cluster import Cluster
from streams.codec import decode, decode_order
from streams.connections import SHARES, WORKERS
from streams.errors import Unavailable
from streams.events import DOMAINS, ORDERS
from streams.facts.releases import ReleaseFinished, ReleaseRolledBack, RollbackAsked
from streams.facts.rounds import CandidateTrained, RoundAsked
from streams.log import KafkaLog
from streams.orders import EvaluateCandidate, Order, SelectSnapshot, SwapRelease, TrainCandidate
from streams.store import open_database
from tests import door_world
from tests.door_world import CONTROL_TOKENS, PASSWORDS, World, wait_until
from tests.integration.by_hand import answer, change, results, rows
from tests.integration.swaps import GoldenEngine, model
from tests.waiting import PATIENCE_S
from workers import orders, swapper
from workers.context import Context
from workers.engines import host as hosting
from workers.engines.host import Host
from workers.loop import steps, work_once
from workers.reconciler import Reconciler

SWAPS = steps(["swap"])


class Engine:
    """What a keeper starts and stops: a process that is a server of this test's."""

    start_deadline_s = 5.0
    pid = 4711
    started = 0  # of all of them

    def start(self) -> None:
        Engine.started += 1
        self._server = GoldenEngine()

    def ready(self, deadline_s: float) -> None:
        self.base_url = self._server.base_url

    def alive(self) -> bool:
        return True

    def stop(self) -> None:
        self._server.stop()


class Machine:
    """A host's processes: its engines, its swapper with the reconciler, each until it is told to stop. `name`: None: the door's."""

    def __init__(self, world: World, name: str | None = None) -> None:
        settings = replace(world.settings, host=name or world.settings.host)
        as_workers = url_of(WORKERS, settings.database_url, PASSWORDS)
        self.database = open_database(as_workers, SHARES["swapper"])
        self.log = KafkaLog(world.kafka, f"test-{uuid4().hex[:6]}")
        self.context = Context(settings, self.database, self.log, world.services.keyring, f"{settings.host}-1")
        self.host = Host(settings, self.database)
        self.stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def keep_engines(self) -> None:
        self._again(self.host.step)

    def reconcile(self) -> None:
        thread = threading.Thread(target=Reconciler(self.context).keep, args=(self.stopping,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def swap(self) -> None:
        self._again(lambda: work_once(self.context, SWAPS, self.stopping))

    def all(self) -> "Machine":
        for begin in (self.keep_engines, self.reconcile, self.swap):
            begin()
        return self

    def stop(self) -> None:
        self.stopping.set()
        self.context.cancelled.set()
        for thread in self._threads:
            thread.join()
        self.host.stop()
        self.log.close()
        self.database.dispose()

    def _again(self, act: Callable[[], object]) -> None:
        def run() -> None:
            while not self.stopping.wait(0.05):
                try:
                    act()
                except Unavailable:
                    self.stopping.wait(0.2)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)


@pytest.fixture(scope="module")
def world(empty_log: Cluster, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    make_work_again(database_url)  # it leaves what the workers may call
    with door_world.running(empty_log, database_url, tmp_path_factory.mktemp("door")) as running:
        yield running


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "make_engine", lambda spec, key: Engine())
    monkeypatch.setattr(hosting, "control_tokens", lambda folder: CONTROL_TOKENS)
    monkeypatch.setattr(hosting, "EngineSpec", lambda **given: SimpleNamespace(context_tokens=2048))


@pytest.fixture
def machines(world: World) -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(name: str | None = None) -> Machine:
        made.append(Machine(world, name))
        return made[-1]

    yield make
    for machine in made:
        machine.stop()


class Line:
    """A domain with a model line of its own, whose rounds are answered by hand and whose swaps by who runs."""

    def __init__(self, world: World, context: Context, folder: Path) -> None:
        self.world = world
        self.context = context
        self.folder = folder
        self.name = f"d-{uuid4().hex[:8]}"
        policy = {"thresholds": {"corrections": 400}}
        body = {"domain": self.name, "base_model": model(context, folder), "policy": policy}
        created = world.as_operator.post("/v1/domains", json=body)
        assert created.status_code == 201, created.text

    def live(self) -> int | None:
        found = rows(self.world.database, "SELECT live_release FROM noria.domains WHERE domain = :d", d=self.name)
        return found[0][0] if found else None  # type: ignore[return-value]

    def until_live(self, release: int) -> None:
        wait_until(lambda: self.live() == release, f"release {release} is live")

    def orders(self) -> list[Order]:
        records = self.context.log.read(ORDERS, 0, 0, self.context.log.ends(ORDERS)[0])
        return [order for r in records if (order := decode_order(r.value)).domain == self.name]

    def outcomes(self) -> Counter[Any]:
        """How many outcomes of each swap stand on the log, each record counted."""
        found: Counter[Any] = Counter()
        for partition, end in self.context.log.ends(DOMAINS).items():
            for record in self.context.log.read(DOMAINS, partition, 0, end):
                event = decode(record.value).event
                if isinstance(event, ReleaseFinished | ReleaseRolledBack) and event.domain == self.name:
                    found[event.order_id] += 1
        return found

    def next_release(self) -> None:
        """A round that ends with a release; its swap is left to whoever runs."""
        self.world.caught_up(self.world.say(RoundAsked(domain=self.name, by="ops")))
        done = {order.order_id for order in self.orders() if not isinstance(order, SwapRelease)}
        for kind in (SelectSnapshot, TrainCandidate, EvaluateCandidate):

            def found(kind: type[Order] = kind) -> list[Order]:
                return [o for o in self.orders() if isinstance(o, kind) and o.round_id == self._round()]

            order = wait_until(found, what=f"an order {kind.__name__}")[-1]
            assert order.order_id not in done or kind is SelectSnapshot
            told = [
                replace(event, model=model(self.context, self.folder)) if isinstance(event, CandidateTrained) else event
                for _, event in results(order)
            ]
            names = [name for name, _ in results(order)]
            messages = [answer(order, *one, datetime.now(UTC)) for one in zip(names, told, strict=True)]
            self.world.caught_up(str(self.context.log.append(messages, PATIENCE_S)[-1]))

    def _round(self) -> str:
        query = "SELECT round_id FROM noria.rounds WHERE domain = :d ORDER BY number DESC LIMIT 1"
        return str(rows(self.world.database, query, d=self.name)[0][0])

    def roll_back(self, to: int) -> None:
        self.world.caught_up(self.world.say(RollbackAsked(domain=self.name, to=to, by="ops")))


class Clients:
    """People who chat without a pause; what each got, and when."""

    def __init__(self, world: World, domain: str, number: int = 4) -> None:
        self._world = world
        self._domain = domain
        self._over = threading.Event()
        self.got: list[tuple[float, str]] = []  # when, and the release that answered or the status
        self._pool = ThreadPoolExecutor(number)
        self._running = [self._pool.submit(self._chat, f"person-{n}") for n in range(number)]

    def _chat(self, person: str) -> None:
        while not self._over.is_set():
            body = {"model": self._domain, "messages": [{"role": "user", "content": "hello"}], "user": person}
            try:
                answered = self._world.as_chat.post("/v1/chat/completions", json=body)
            except httpx.HTTPError as error:
                self.got.append((monotonic(), type(error).__name__))
                continue
            said = answered.json()["model"] if answered.status_code == 200 else str(answered.status_code)
            self.got.append((monotonic(), said))

    def since(self, moment: float) -> list[str]:
        return [said for at, said in list(self.got) if at > moment]

    def leave(self) -> None:
        self._over.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()


def drop_work(world: World) -> None:
    """As somebody does by hand, who tries again when others hold it."""
    connection = psycopg2.connect(world.settings.database_url)
    connection.autocommit = True

    def dropped() -> bool:
        try:
            connection.cursor().execute("DROP SCHEMA work CASCADE")
            return True
        except psycopg2.errors.DeadlockDetected:
            return False

    wait_until(dropped, what="the schema is dropped")
    connection.close()


def test_while_people_chat_the_schema_work_is_dropped_and_the_release_that_the_log_names_goes_on(
    world: World, machines: Callable[..., Machine], tmp_path: Path
) -> None:
    machine = machines().all()
    line = Line(world, machine.context, tmp_path)
    line.until_live(0)
    line.next_release()
    line.until_live(1)
    line.roll_back(0)
    line.until_live(0)
    clients = Clients(world, line.name)
    try:
        wait_until(lambda: len(clients.got) > 10, what="people chat")
        started = Engine.started
        drop_work(world)
        at = monotonic()
        query = "SELECT release FROM work.routes WHERE domain = :d"
        made = "SELECT to_regclass('work.routes') IS NOT NULL"
        wait_until(lambda: rows(world.database, made) == [(True,)], "the tables")
        wait_until(lambda: rows(world.database, query, d=line.name) == [(0,)], "the route")
        back = monotonic()
        wait_until(lambda: len(clients.since(back)) > 40, what="people go on")
        assert set(clients.since(at)) == {f"{line.name}@0"}, "nobody was refused, or answered by another release"
        assert Engine.started == started, "the engines ran on"
        line.roll_back(1)  # what worked works
        line.until_live(1)
    finally:
        clients.leave()
    asked = [order.order_id for order in line.orders() if isinstance(order, SwapRelease)]
    assert line.outcomes() == Counter(asked) and len(asked) == 4


class Killed(BaseException):
    """The process is gone: nothing that it would have done afterwards is done."""


def killed_after(patch: pytest.MonkeyPatch, owner: Any, name: str, time: int) -> None:
    """Once it was called so often."""
    whole, called = getattr(owner, name), Counter[str]()

    def call(*given: Any, **named: Any) -> Any:
        found = whole(*given, **named)
        called[name] += 1
        if called[name] == time:
            raise Killed
        return found

    patch.setattr(owner, name, call)


def killed_before(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    def call(*given: Any) -> None:
        raise Killed

    patch.setattr(owner, name, call)


STAGES = ("want", "started", "_wait_ready", "_prove", "_flip", "told", "closed")


@pytest.mark.parametrize("stage", STAGES)
def test_a_swap_that_is_killed_at_any_stage_ends_with_its_release_and_one_outcome(
    world: World, machines: Callable[..., Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    first, second = machines(), machines()
    first.keep_engines()
    second.reconcile()
    line = Line(world, first.context, tmp_path)
    wait_until(line.orders, what="the order")
    with monkeypatch.context() as patch:
        match stage:
            case "started":
                killed_after(patch, first.context, "publish", 1)
            case "told":
                killed_after(patch, first.context, "publish", 2)
            case "closed":
                killed_before(patch, orders, "finish")
            case _:
                killed_after(patch, swapper, stage, 1)
        with pytest.raises(Killed):
            wait_until(lambda: work_once(first.context, SWAPS, threading.Event()), what="the order is begun")
    if stage in ("told", "closed"):
        line.until_live(0)
    mine = "UPDATE work.claims SET lease_until = now() WHERE domain = :d AND state = 'open' AND worker IS NOT NULL"
    change(world.database, mine, d=line.name)
    wait_until(lambda: work_once(second.context, SWAPS, threading.Event()), what="another takes it up")
    line.until_live(0)
    assert world.chat(line.name)["model"] == f"{line.name}@0"
    assert line.outcomes() == Counter(order.order_id for order in line.orders())
    assert rows(world.database, "SELECT state FROM work.claims WHERE domain = :d", d=line.name) == [("done",)]


def engines_of(database: Database, domain: str) -> list[tuple[object, ...]]:
    return rows(database, "SELECT engine_id, host, state FROM work.engines WHERE domain = :d ORDER BY 1", d=domain)


def test_engines_stay_on_their_host_until_it_has_been_gone_for_long_and_two_hosts_do_no_swap_twice(
    world: World, machines: Callable[..., Machine], tmp_path: Path
) -> None:
    here, there = world.settings.host, "another-host"
    far = machines(there).all()
    line = Line(world, far.context, tmp_path)
    line.until_live(0)
    name = f"{line.name}@0"
    assert engines_of(world.database, line.name) == [(name, there, "ready")]
    asked = {"model": line.name, "messages": [{"role": "user", "content": "hello"}], "user": "ann"}
    refused = world.as_chat.post("/v1/chat/completions", json=asked)
    assert refused.status_code == 503, "what listens on another host's loopback is no engine here"
    near = machines().all()
    near.host.forget_the_past()
    near.host.step()
    assert engines_of(world.database, line.name) == [(name, there, "ready")]
    assert not near.host._keepers
    far.stopping.set()  # it is gone, and says nothing
    for thread in far._threads:
        thread.join()
    change(world.database, "UPDATE work.engines SET held_until = now() WHERE host = :h", h=there)
    wait_until(lambda: engines_of(world.database, line.name) == [(name, here, "ready")], what="the engine has moved")
    assert wait_until(lambda: world.chat(line.name), what="an answer")["model"] == name
    far.host.step()  # it is back, with an engine that is not its own any more
    wait_until(lambda: far.host.step() is None and not far.host._keepers, what="it has ended")
    assert engines_of(world.database, line.name) == [(name, here, "ready")]
    line.next_release()
    line.until_live(1)
    assert line.outcomes() == Counter(order.order_id for order in line.orders() if isinstance(order, SwapRelease))
