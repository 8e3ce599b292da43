"""What recall adds to an answer: one door, two domains that differ in nothing but their memory, asked in turns.

Then: how long after a correction it is recalled, and the memory killed: how long until it holds everything again, from vectors
that were kept sealed, and how large it is. The engine is a stub in a process of its own, as in `capture`.
NORIA_BENCH_EVENTS (passages, 10,000), _RATE, _RUNS and _SECONDS change its size.
"""

import time
from functools import partial
from pathlib import Path

import httpx
import psutil

from api.client import Door
from streams.recall_client import KEY, RecallClient
from streams.recalled import Recall
from streams.sealing import Keyring, MasterKey
from streams.store import open_database
from tests.bench.capture import QUESTION, WARM_UP_S, Asker, answer_by_stub, stub
from tests.bench.report import Row, percentile, row
from tests.bench.size import size
from tests.local_noria import LocalNoria, running, until

PASSAGES = 10_000
A_DOCUMENT = 5_000  # passages
RATE = 10  # requests a second, of both domains in turns
SECONDS = 20
RUNS = 3
CORRECTIONS = 40
PLAIN, RECALLING = "plain", "recalling"
BOTH = Recall(of="both")
TAKES_IN_WITHIN_S = 1800.0


def measure(home: Path) -> list[Row]:
    passages, rate, runs, seconds = (
        size(name, usual)
        for name, usual in (("EVENTS", PASSAGES), ("RATE", RATE), ("RUNS", RUNS), ("SECONDS", SECONDS))
    )
    with running(home / "noria") as noria, stub() as engine, noria.door() as door:
        for domain, recall in ((PLAIN, {"of": "off"}), (RECALLING, {"of": "both", "least": 0.0})):
            policy = {"thresholds": {"corrections": None}, "recall": recall}
            door.create_domain({"domain": domain, "policy": policy})
        until(
            lambda: {PLAIN, RECALLING} <= {m["id"] for m in door.models()}, "the first releases answer", patience_s=300
        )
        for domain in (PLAIN, RECALLING):
            answer_by_stub(noria, engine.url, domain)
        began = time.monotonic()
        for start in range(0, passages, A_DOCUMENT):
            numbers = range(start, min(start + A_DOCUMENT, passages))
            door.add_document(RECALLING, f"statute-{start}.md", statute(numbers), "text/markdown")
        entered_s = time.monotonic() - began
        until(lambda: held(noria) >= passages, "the memory holds every passage", patience_s=TAKES_IN_WITHIN_S)
        rows = [
            row(f"{passages} passages", "entered", "s", [entered_s]),
            row(f"{passages} passages", "entered and held", "s", [time.monotonic() - began]),
            row(f"{passages} passages", "memory of the process", "MiB", [memory_of(noria).memory_info().rss / 2**20]),
        ]
        rows += added(noria, passages, rate, runs, seconds)
        rows += recalled_after(noria, door)
        rows += made_again(noria, passages)
    return rows


def statute(numbers: range) -> bytes:
    """Articles that are all different, in words that many of them share."""
    things = ("a cart", "a tram", "a ferry", "a bicycle", "a lorry", "a pedestrian", "a horse", "a coach")
    places = ("bridge", "crossing", "tunnel", "square", "quay", "market", "school", "depot", "station", "ring road")
    lines = []
    for n in numbers:
        thing, place = things[n % 8], places[n // 8 % 10]
        lines.append(
            f"Article {n + 1}  Within {n % 97 + 3} metres of {place} {n // 80} {thing} may not park longer than {n % 45} minutes."
        )
    return "\n\n".join(lines).encode()


def added(noria: LocalNoria, passages: int, rate: int, runs: int, seconds: int) -> list[Row]:
    found = []
    with httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)) as http:
        key = {"Authorization": f"Bearer {noria.key}"}
        askers = [Asker(http, noria.door_url, key, domain) for domain in (PLAIN, RECALLING)]
        for asker in askers:
            asker.load(rate, WARM_UP_S)
        for _ in range(runs):
            found.append([asker.load(rate, seconds) for asker in askers])
    rows = []
    for percent in (50, 99):
        plain, recalling = ([percentile(run[place], percent) for run in found] for place in (0, 1))
        rows.append(row("recall off", f"latency p{percent}", "ms", plain))
        rows.append(row(f"recalled from {passages}", f"latency p{percent}", "ms", recalling))
        rows.append(
            row("added by recall", f"latency p{percent}", "ms", [b - a for a, b in zip(plain, recalling, strict=True)])
        )
    return rows


def recalled_after(noria: LocalNoria, door: Door) -> list[Row]:
    """From the moment that a correction was acknowledged until the memory says it."""
    memory, took = client(noria), list[float]()
    of_corrections = Recall(of="corrections", least=0.5)
    for number in range(CORRECTIONS):
        question = f"Who may cross the canal at lock number {number} by night?"
        messages = [{"role": "user", "content": question}]
        said = list(door.chat(RECALLING, messages, person="ann"))[-1]
        door.feedback(said.reply_ids[0], person="ann", correction=f"At lock {number} only the keeper.")  # type: ignore[union-attr]
        began = time.monotonic()
        asked = f"at lock number {number}, who crosses by night"
        until(partial(memory.recall, RECALLING, asked, of_corrections), "it is recalled", patience_s=30)
        took.append((time.monotonic() - began) * 1000)
    return [row("a correction", "recalled after, p50 and p99", "ms", [percentile(took, 50), percentile(took, 99)])]


def made_again(noria: LocalNoria, passages: int) -> list[Row]:
    began = time.monotonic()
    before = memory_of(noria)
    before.kill()
    until(
        lambda: noria.processes()["recall"].pid != before.pid and held(noria) >= passages,
        "the memory is whole",
        patience_s=TAKES_IN_WITHIN_S,
    )
    whole_s = time.monotonic() - began
    assert client(noria).recall(RECALLING, QUESTION, Recall(of="both", least=0.0))
    return [
        row("killed", f"{passages} held again after", "s", [whole_s]),
        row("killed", "memory of the process then", "MiB", [memory_of(noria).memory_info().rss / 2**20]),
    ]


def client(noria: LocalNoria) -> RecallClient:
    settings = noria.settings()
    keyring = Keyring(open_database(noria.database_url), MasterKey(settings.master_key))
    return RecallClient(settings.recall_url, keyring.derive(KEY), 10.0)


def memory_of(noria: LocalNoria) -> psutil.Process:
    return psutil.Process(noria.processes()["recall"].pid)


def held(noria: LocalNoria) -> int:
    """How many memories are held, once all are."""
    try:
        told = httpx.get(f"{noria.settings().recall_url}/healthz", trust_env=False).json()
    except httpx.HTTPError:
        return 0
    domain = told["domains"].get(RECALLING, {"memories": 0, "pending": 1})
    return int(domain["memories"]) if told["ready"] and not domain["pending"] else 0
