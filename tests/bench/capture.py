"""What capture adds to an answer at 50 requests a second: the door against the same engine asked directly, side by side.

The engine is a stub in a process of its own, so what is measured is the door: its checks, two appends that Kafka has
acknowledged, and the way through. Times count from when a request was due, so waiting for a free client is not left out.
NORIA_BENCH_RUNS and NORIA_BENCH_SECONDS make it shorter.
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

from api.client import sse
from streams.codec import decode
from streams.events import CONVERSATIONS, PromptAsked, ReplyDrafted
from streams.log import KafkaLog
from streams.store import open_engine
from tests.bench.report import Row, percentile, row
from tests.bench.size import size
from tests.engine_server import EngineServer
from tests.local_noria import LocalNoria, running, until

RATE = 50  # requests a second
SECONDS = 20
RUNS = 5
WARM_UP_S = 3
CLIENTS = 48
DOMAIN = "capture"
QUESTION = "How far from a crossing may I park my car, and where does the law say so?"
PIECES = [f" word{n}" for n in range(32)]


def measure(home: Path) -> list[Row]:
    runs, seconds = size("RUNS", RUNS), size("SECONDS", SECONDS)
    # As many slots as clients: the door must take what comes, and not say that the engine's queue is full.
    with running(home / "noria", {"NORIA_ENGINE_SLOTS": str(CLIENTS // 4)}) as noria, stub() as engine_url:
        with noria.door() as door:
            door.create_domain({"domain": DOMAIN, "policy": {"thresholds": {"corrections": None}}})
            until(lambda: any(model["id"] == DOMAIN for model in door.models()), "the first release answers", 120)
        answer_by_stub(noria, engine_url)
        with httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)) as http:
            direct = Asker(http, engine_url, {"Authorization": "Bearer none"})
            captured = Asker(http, noria.door_url, {"Authorization": f"Bearer {noria.key}"})
            for asker in (direct, captured):
                asker.load(WARM_UP_S)
            found = [(direct.load(seconds), captured.load(seconds)) for _ in range(runs)]
        assert len(captured.prompts) == RATE * (WARM_UP_S + runs * seconds)
        check_log(noria, captured.prompts)
    rows = [
        row("load", "rate", "requests/s", [RATE]),
        row("load", "answered requests through the door", "requests", [len(captured.prompts)]),
    ]
    for name, percent in (("p50", 50), ("p99", 99)):
        plain = [percentile(times, percent) for times, _ in found]
        through = [percentile(times, percent) for _, times in found]
        rows.append(row("engine alone", f"latency {name}", "ms", plain))
        rows.append(row("through the door", f"latency {name}", "ms", through))
        rows.append(
            row("added by capture", f"latency {name}", "ms", [b - a for a, b in zip(plain, through, strict=True)])
        )
    return rows


class Asker:
    """Asks at a steady rate whatever the answers take. `prompts` are the ids of what was answered by a door."""

    def __init__(self, http: httpx.Client, url: str, headers: dict[str, str]) -> None:
        self._http = http
        self._url = f"{url}/v1/chat/completions"
        self._headers = headers
        self._lock = threading.Lock()
        self.prompts: set[str] = set()

    def load(self, seconds: int) -> list[float]:
        """RATE requests a second for so long; how long each took from when it was due, in ms. All must be answered."""
        began = time.monotonic() + 0.2
        with ThreadPoolExecutor(CLIENTS) as clients:
            return list(clients.map(self._ask, [began + n / RATE for n in range(RATE * seconds)]))

    def _ask(self, due: float) -> float:
        time.sleep(max(0.0, due - time.monotonic()))
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": DOMAIN, "messages": messages, "stream": True, "max_tokens": 64, "user": "load"}
        with self._http.stream("POST", self._url, json=body, headers=self._headers) as response:
            assert response.status_code == 200, response.read()
            data = list(sse(response.iter_lines()))
            took_ms = (time.monotonic() - due) * 1000
            prompt = response.headers.get("X-Noria-Prompt")
        assert data[-1] == "[DONE]", data[-1]
        chunks = [msgspec.json.decode(chunk) for chunk in data[:-1]]
        said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))
        assert said == "".join(PIECES), said
        if prompt is not None:
            with self._lock:
                self.prompts.add(prompt)
        return took_ms


def check_log(noria: LocalNoria, prompts: set[str]) -> None:
    """Whatever was answered stands on the log: the prompt and its reply, each once."""
    log = KafkaLog(noria.kafka, "bench-capture")
    try:
        records = [r for part, end in log.ends(CONVERSATIONS).items() for r in log.read(CONVERSATIONS, part, 0, end)]
    finally:
        log.close()
    events = [decode(record.value).event for record in records]
    asked = [event.prompt_id for event in events if isinstance(event, PromptAsked)]
    replied = [event.prompt_id for event in events if isinstance(event, ReplyDrafted)]
    assert sorted(asked) == sorted(replied) == sorted(prompts)


def answer_by_stub(noria: LocalNoria, engine_url: str) -> None:
    """From here on the domain's release is answered by the stub. (Nobody asks its host to start it: it is not `wanted`.)"""
    database = open_engine(noria.database_url)
    with database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO work.engines (engine_id, domain, release, kind, model, wanted, state, base_url, changed_at,"
            " control_tokens, context_tokens) VALUES ('stub', %s, 0, 'llamacpp', 'stub', false, 'ready', %s, now(),"
            " '{<|im_end|>}', 2048)",
            (DOMAIN, engine_url),
        )
        connection.exec_driver_sql(
            "UPDATE work.routes SET engine_id = 'stub', generation = generation + 1 WHERE domain = %s", (DOMAIN,)
        )
        connection.exec_driver_sql("NOTIFY noria_routes")

    def known() -> bool:
        with database.connect() as connection:
            wanted = connection.exec_driver_sql("SELECT generation FROM work.routes WHERE domain = %s", (DOMAIN,))
            there = connection.exec_driver_sql("SELECT (generations ->> %s)::bigint FROM work.doors", (DOMAIN,))
            return bool(set(there.scalars()) == {wanted.scalar_one()})

    until(known, "the door has seen the route")
    database.dispose()


@contextmanager
def stub() -> Iterator[str]:
    """The stub engine's address."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    child = spawn.Process(target=_serve, args=(there,), daemon=True)
    child.start()
    try:
        yield here.recv()
    finally:
        here.send("stop")
        child.join(10)


def _serve(parent: Connection) -> None:
    engine = EngineServer(lambda messages: PIECES)
    parent.send(engine.base_url)
    parent.recv()
    engine.stop()
