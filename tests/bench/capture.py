"""What capture adds to an answer at 100 requests a second: the door against the same engine asked directly, side by side.

The engine is a stub in a process of its own, so what is measured is the door: its checks, two appends that Kafka has
acknowledged, and the way through. Times count from when a request was due, so waiting for a free client is not left out.
Clients, stub, broker, database and stream share the machine with the door; what the door itself spends is told beside.

Then: as many requests as go through, two hundred streams held open at once, the door's memory under load, and kill -9 of the
door and of the broker, after which everything that a client was given whole must stand on the log.
NORIA_BENCH_RATE, _RUNS and _SECONDS make it smaller; _MEMORY_SECONDS (600 for ten minutes) makes that case longer.
"""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import msgspec
import psutil

from api.client import sse
from streams.codec import decode
from streams.errors import Unavailable
from streams.events import CONVERSATIONS
from streams.facts.conversations import PromptAsked, ReplyDrafted
from streams.log import KafkaLog
from streams.store import open_database
from tests.bench.report import Row, percentile, row
from tests.bench.size import size
from tests.engine_server import EngineServer
from tests.faults.killer import Killer
from tests.local_noria import LocalNoria, running, until

RATE = 100  # requests a second
SECONDS = 15
RUNS = 3
MEMORY_SECONDS = 60
KILL_SECONDS = 20
STREAMS = 200
STREAM_PIECE_S = 0.25
WARM_UP_S = 3
CLIENTS = 48
DOMAIN = "capture"
QUESTION = "How far from a crossing may I park my car, and where does the law say so?"
PIECES = [f" word{n}" for n in range(32)]


def measure(home: Path) -> list[Row]:
    rate, runs, seconds = size("RATE", RATE), size("RUNS", RUNS), size("SECONDS", SECONDS)
    # As many slots as streams, and all for one key: the door must take what comes, and not say that this is too much.
    given = {
        "NORIA_ENGINE_SLOTS": str(STREAMS // 4 + 2),
        "NORIA_LIMIT_QUEUE_PERCENT": "25,100",
        "NORIA_LIMIT_OPEN": f"16,{2 * STREAMS}",
    }
    with running(home / "noria", given) as noria, stub() as engine:
        with noria.door() as door:
            door.create_domain({"domain": DOMAIN, "policy": {"thresholds": {"corrections": None}}})
            until(
                lambda: any(model["id"] == DOMAIN for model in door.models()),
                "the first release answers",
                patience_s=120,
            )
        answer_by_stub(noria, engine.url)
        with httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)) as http:
            direct = Asker(http, engine.url, {"Authorization": "Bearer none"})
            captured = Asker(http, noria.door_url, {"Authorization": f"Bearer {noria.key}"})
            for asker in (direct, captured):
                asker.load(rate, WARM_UP_S)
            spent = Spent(noria)
            found = [(direct.load(rate, seconds), captured.load(rate, seconds)) for _ in range(runs)]
            rows = [*latencies(rate, found), *spent.a_request(rate * runs * seconds)]
            rows += sustained(noria, captured, seconds)
            rows += held_open(engine, captured)
            rows += memory(noria, captured, rate, size("MEMORY_SECONDS", MEMORY_SECONDS))
            check_log(noria, captured, exactly=True)
            rows += killed(noria, captured, rate)
            check_log(noria, captured, exactly=False)
    return rows


def latencies(rate: int, found: list[tuple[list[float], list[float]]]) -> list[Row]:
    rows = [row("load", "rate", "requests/s", [rate])]
    for name, percent in (("p50", 50), ("p99", 99)):
        plain = [percentile(times, percent) for times, _ in found]
        through = [percentile(times, percent) for _, times in found]
        added = [b - a for a, b in zip(plain, through, strict=True)]
        rows.append(row("engine alone", f"latency {name}", "ms", plain))
        rows.append(row("through the door", f"latency {name}", "ms", through))
        rows.append(row("added by capture", f"latency {name}", "ms", added))
    return rows


def sustained(noria: LocalNoria, captured: "Asker", seconds: int) -> list[Row]:
    """Every client asks again as soon as it was answered; the projections must have followed before the clock stops."""
    before, began = len(captured.prompts), time.monotonic()
    captured.load(None, seconds)
    asked_s = time.monotonic() - began
    caught_up(noria)
    events = 2 * (len(captured.prompts) - before)
    return [
        row("as fast as it goes", "answers", "requests/s", [events / 2 / asked_s]),
        row("as fast as it goes", "recorded", "events/s", [events / asked_s]),
        row("as fast as it goes", "recorded and applied", "events/s", [events / (time.monotonic() - began)]),
    ]


def held_open(engine: "Stub", captured: "Asker") -> list[Row]:
    engine.piece_s(STREAM_PIECE_S)
    try:
        began = time.monotonic()
        captured.all_at_once(STREAMS)
        took_s = time.monotonic() - began
    finally:
        engine.piece_s(0.0)
    assert captured.most_open == STREAMS, captured.most_open
    return [
        row("streams held open", "at once", "streams", [captured.most_open]),
        row("streams held open", "all whole after", "s", [took_s]),
        row("streams held open", "the engine alone would take", "s", [STREAM_PIECE_S * len(PIECES)]),
    ]


def memory(noria: LocalNoria, captured: "Asker", rate: int, seconds: int) -> list[Row]:
    """The door's resident memory after each sixth of the time."""
    sizes = []
    for _ in range(6):
        captured.load(rate, max(1, seconds // 6))
        sizes.append(door_of(noria).memory_info().rss / 2**20)
    return [
        row(f"{seconds} s of load", "memory of the door", "MiB", sizes),
        row(f"{seconds} s of load", "more at the end than after a sixth", "MiB", [sizes[-1] - sizes[0]]),
    ]


def killed(noria: LocalNoria, captured: "Asker", rate: int) -> list[Row]:
    """Ask on at half the rate while the door and then the broker are killed. A request may fail; what was given whole may not."""
    rows = []
    for kind in ("door", "kafka"):
        before, killer = len(captured.prompts), Killer(noria, 1)
        killing = threading.Timer(KILL_SECONDS / 5, killer.kill, (kind,))
        killing.start()
        failed = captured.load_whatever_fails(rate // 2, KILL_SECONDS)
        killing.join()
        assert killer.killed[kind] == 1
        rows.append(row(f"kill -9 of {kind}", "answered whole", "requests", [len(captured.prompts) - before]))
        rows.append(row(f"kill -9 of {kind}", "failed", "requests", [failed]))
    caught_up(noria)
    return rows


class Spent:
    """The CPU time of the door and of the stream, from when this was made."""

    def __init__(self, noria: LocalNoria) -> None:
        self._processes = {name: psutil.Process(noria.processes()[name].pid) for name in ("door", "streams")}
        self._before = {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}

    def a_request(self, requests: int) -> list[Row]:
        return [
            row(
                "through the door",
                f"CPU of {name}",
                "ms/request",
                [1000 * (sum(process.cpu_times()[:2]) - b) / requests],
            )
            for (name, process), b in zip(self._processes.items(), self._before.values(), strict=True)
        ]


class Asker:
    """Asks, at a steady rate whatever the answers take or as fast as it is answered. `prompts` are the ids of what a door has
    answered whole; `most_open`: of the last `all_at_once`, how many answers had begun before any had ended."""

    def __init__(self, http: httpx.Client, url: str, headers: dict[str, str], domain: str = DOMAIN) -> None:
        self._http = http
        self._domain = domain
        self._url = f"{url}/v1/chat/completions"
        self._headers = headers
        self._lock = threading.Lock()
        self.prompts: set[str] = set()
        self._open = 0
        self.most_open = 0

    def load(self, rate: int | None, seconds: int) -> list[float]:
        """`rate` requests a second for so long; how long each took from when it was due, in ms. All must be answered."""
        began = time.monotonic() + 0.2
        with ThreadPoolExecutor(CLIENTS) as clients:
            if rate is None:
                until_then = [clients.submit(self._again_and_again, began + seconds) for _ in range(CLIENTS)]
                return [took for each in until_then for took in each.result()]
            return list(clients.map(self._ask, [began + n / rate for n in range(rate * seconds)]))

    def load_whatever_fails(self, rate: int, seconds: int) -> int:
        """As `load`; how many failed."""

        def failed(due: float) -> bool:
            try:
                self._ask(due)
            except (httpx.HTTPError, AssertionError):
                return True
            return False

        began = time.monotonic() + 0.2
        with ThreadPoolExecutor(CLIENTS) as clients:
            return sum(clients.map(failed, [began + n / rate for n in range(rate * seconds)]))

    def all_at_once(self, number: int) -> None:
        self.most_open = 0
        with ThreadPoolExecutor(number) as clients:
            list(clients.map(self._ask, [time.monotonic()] * number))

    def _again_and_again(self, end: float) -> list[float]:
        took = []
        while time.monotonic() < end:
            took.append(self._ask(time.monotonic()))
        return took

    def _ask(self, due: float) -> float:
        time.sleep(max(0.0, due - time.monotonic()))
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": self._domain, "messages": messages, "stream": True, "max_tokens": 64, "user": "load"}
        with self._http.stream("POST", self._url, json=body, headers=self._headers) as response:
            assert response.status_code == 200, response.read()
            self._count(1)
            data = list(sse(response.iter_lines()))
            self._count(-1)
            took_ms = (time.monotonic() - due) * 1000
            prompt = response.headers.get("X-Noria-Prompt")
        assert data and data[-1] == "[DONE]", data[-1:]
        chunks = [msgspec.json.decode(chunk) for chunk in data[:-1]]
        said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))
        assert said == "".join(PIECES), said
        if prompt is not None:
            with self._lock:
                self.prompts.add(prompt)
        return took_ms

    def _count(self, one: int) -> None:
        with self._lock:
            self._open += one
            self.most_open = max(self.most_open, self._open)


def door_of(noria: LocalNoria) -> psutil.Process:
    return psutil.Process(noria.processes()["door"].pid)


def caught_up(noria: LocalNoria) -> None:
    """The projections stand where the log ends."""
    log, database = KafkaLog(noria.kafka, "bench-capture"), open_database(noria.database_url)

    def reached() -> bool:
        with database.connect() as connection:
            query = "SELECT partition, next_offset FROM noria.positions WHERE topic = %s"
            there = {part: offset for part, offset in connection.exec_driver_sql(query, (CONVERSATIONS,)).all()}
        try:
            ends = log.ends(CONVERSATIONS)
        except Unavailable:
            return False  # the broker that was killed is not back yet
        return all(there.get(part, 0) >= end for part, end in ends.items())

    try:
        until(reached, "the projections have followed", patience_s=120)
    finally:
        log.close()
        database.dispose()


def check_log(noria: LocalNoria, captured: Asker, exactly: bool) -> None:
    """Whatever was answered stands on the log: the prompt and its reply, each once; if `exactly`, nothing else does."""
    log = KafkaLog(noria.kafka, "bench-capture")
    try:
        records = [r for part, end in log.ends(CONVERSATIONS).items() for r in log.read(CONVERSATIONS, part, 0, end)]
    finally:
        log.close()
    envelopes = {envelope.id: envelope for envelope in (decode(record.value) for record in records)}
    events = [envelope.event for envelope in envelopes.values()]
    asked = [event.prompt_id for event in events if isinstance(event, PromptAsked)]
    replied = [event.prompt_id for event in events if isinstance(event, ReplyDrafted)]
    assert len(set(asked)) == len(asked) and len(set(replied)) == len(replied)
    assert captured.prompts <= set(asked) and captured.prompts <= set(replied), "an answer that was given is lost"
    if exactly:
        assert len(envelopes) == len(records)
        assert sorted(asked) == sorted(replied) == sorted(captured.prompts)


def answer_by_stub(noria: LocalNoria, engine_url: str, domain: str = DOMAIN) -> None:
    """From here on the domain's release is answered by the stub. (Nobody asks its host to start it: it is not `wanted`.)"""
    database = open_database(noria.database_url)
    with database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO work.engines (engine_id, domain, release, kind, model, wanted, state, base_url, changed_at,"
            " control_tokens, context_tokens) VALUES (%s, %s, 0, 'llamacpp', 'stub', false, 'ready', %s, now(),"
            " '{<|im_end|>}', 2048)",
            (f"stub of {domain}", domain, engine_url),
        )
        connection.exec_driver_sql(
            "UPDATE work.routes SET engine_id = %s, generation = generation + 1 WHERE domain = %s",
            (f"stub of {domain}", domain),
        )
        connection.exec_driver_sql("NOTIFY noria_routes")

    def known() -> bool:
        with database.connect() as connection:
            wanted = connection.exec_driver_sql("SELECT generation FROM work.routes WHERE domain = %s", (domain,))
            there = connection.exec_driver_sql("SELECT (generations ->> %s)::bigint FROM work.doors", (domain,))
            return bool(set(there.scalars()) == {wanted.scalar_one()})

    until(known, "the door has seen the route")
    database.dispose()


class Stub:
    """The stub engine: where it answers, and how fast."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.url: str = pipe.recv()

    def piece_s(self, seconds: float) -> None:
        """From here on each piece comes so long after the one before."""
        self._pipe.send(seconds)


@contextmanager
def stub() -> Iterator[Stub]:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    child = spawn.Process(target=_serve, args=(there,), daemon=True)
    child.start()
    try:
        yield Stub(here)
    finally:
        here.send(None)
        child.join(10)


def _serve(parent: Connection) -> None:
    engine = EngineServer(lambda messages: PIECES)
    parent.send(engine.base_url)
    while (piece_s := parent.recv()) is not None:
        engine.piece_s = piece_s
    engine.stop()
