"""Material: novelty beside `rouge_score`, a file of a million rows, and Self-Instruct by a teacher that takes 200 ms.

NORIA_BENCH_INSTRUCTIONS: so many are kept (10,000); NORIA_BENCH_COMPARED: of so many `rouge_score` is measured (300; what it would
take for all is reckoned by its pairs a second); NORIA_BENCH_ROWS: of the file (1,000,000); NORIA_BENCH_CALLS: of the rate (400);
NORIA_BENCH_IN_FLIGHT: of the build to so many instructions (32). Without the package `rouge_score` only ours is measured.
"""

import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from sqlalchemy import Engine

from api.cli.bringing import check
from api.documents.china_law import statute
from api.formats.checking import brought, good
from api.items import read_example, read_seed
from api.sending import Import
from deploy.demo.domain import ROAD_TRAFFIC
from streams.codec import encode, envelope_for, read_event
from streams.endpoints import Teacher
from streams.events import DOMAINS, DomainEvent
from streams.facts.material import ExampleProposed, MaterialBuilt, SeedAdded
from streams.log import KafkaLog, Record
from streams.orders import BuildMaterial
from streams.passages import passages_of
from streams.sealing import Keyring, MasterKey, domain_subject, open_sealed, seal
from streams.settings import Settings, from_env
from streams.store import Store, open_database
from tests import scripted_questions, scripted_tasks
from tests.bench.generate import BEGAN, Generator
from tests.bench.report import Row, row
from tests.bench.size import size
from tests.local_noria import log_and_database
from tests.teacher_server import Reply, ScriptedDesk, TeacherServer
from workers.builder import self_instruct, self_qa, step
from workers.builder.material import Dropped, Material, Passage, Proposed
from workers.builder.novelty import MOST, Kept, tokens_of
from workers.builder.self_qa import made_of
from workers.builder.teacher import Desk
from workers.context import Context

DOMAIN = "domain-0"
DELAY_S = 0.2
STATUTE = "道路交通安全法"
_IDS = uuid5(NAMESPACE_URL, "urn:noria:bench:material")
WORDS = 3000  # that the scripted teacher makes its tasks of
PROPOSALS_AN_INSTRUCTION = 2.1  # a little less comes of the script's


def measure(home: Path) -> list[Row]:
    instructions = size("INSTRUCTIONS", 10_000)
    rows = [
        *_grounded(),
        *_asked(),
        *_novelty(instructions, size("COMPARED", 300)),
        *_imported(home, size("ROWS", 1_000_000)),
    ]
    with log_and_database(home) as settings:
        database = open_database(settings.database_url)
        try:
            keyring = Keyring(database, MasterKey.made(settings.master_key))
            _seed(database, keyring)
            for in_flight in (8, 32):
                rows.append(_rate(database, keyring, in_flight, size("CALLS", 400)))
            rows += _built(home, settings, keyring, instructions, size("IN_FLIGHT", 32))
        finally:
            database.dispose()
    return rows


def _novelty(number: int, compared: int) -> list[Row]:
    """Of tasks of which about a third come near an earlier one."""
    by = random.Random(3)
    found: list[str] = []
    while len(found) < number:
        said = scripted_tasks.answer(f"1. {by.random()}\n{'请' if by.random() < 0.5 else 'x'}\n9.", WORDS)
        for task in self_instruct.tasks_of(said if isinstance(said, str) else ""):
            found.append(task)
            if by.random() < 0.3:
                found.append(f"{by.choice(found).rstrip('.。')} again.")
    found = found[:number]
    began = time.process_time()
    ours = _kept(found)
    spent_s = time.process_time() - began
    case = f"{number:,} instructions"
    rows = [row(case, "kept", "", [len(ours)]), row(case, "novelty, ours", "CPU-s", [spent_s])]
    if find_spec("rouge_score"):
        from rouge_score.rouge_scorer import RougeScorer

        class Tokens:
            def tokenize(self, text: str) -> list[str]:
                return tokens_of(text)

        scorer, theirs, pairs = RougeScorer(["rougeL"], tokenizer=Tokens()), list[str](), 0
        began = time.process_time()
        for task in found[:compared]:
            pairs += len(theirs)
            if all(scorer.score(kept, task)["rougeL"].fmeasure <= MOST for kept in theirs):
                theirs.append(task)
        a_pair_s = (time.process_time() - began) / pairs
        all_pairs = _pairs(found, ours)
        rows += [
            row(f"{compared} instructions", "pairs a second, rouge_score", "pairs/CPU-s", [1 / a_pair_s]),
            row(f"{compared} instructions", "kept otherwise", "", [len(set(theirs) ^ set(_kept(found[:compared])))]),
            row(case, "novelty, rouge_score (reckoned)", "CPU-s", [a_pair_s * all_pairs]),
            row(case, "ours is faster by", "times", [a_pair_s * all_pairs / spent_s]),
        ]
    return rows


def _grounded() -> list[Row]:
    """What Self-QA lets through of answers to a statute's passages whose truth is known: the passage's own sentences, and the same
    with one thing made wrong."""
    full, text = statute(STATUTE)
    found = passages_of(text)
    said: dict[str, Counter[str]] = {}
    for number, one in enumerate(found):
        passage = Passage(str(number), one.place, text[one.start : one.end])
        for sentence in re.split(r"(?<=[。；])", passage.text):
            sentence = re.sub(r"^第[一二三四五六七八九十百]+条", "", sentence.strip()).strip("　；")
            if len(sentence) < 10 or "\n" in sentence:
                continue
            for kind, answer in _variants(sentence):
                made = made_of(passage, "这条规定说了什么？", f"答案：{answer}")
                reason = (
                    "let through" if isinstance(made, Proposed) else made.reason if isinstance(made, Dropped) else ""
                )
                said.setdefault(kind, Counter())[reason] += 1
    rows = [row(full, "passages", "", [len(found)])]
    for kind, reasons in said.items():
        rows.append(row(f"{full}: {kind}", "answers", "", [reasons.total()]))
        rows += [row(f"{full}: {kind}", reason, "", [times]) for reason, times in reasons.most_common()]
    return rows


def _asked() -> list[Row]:
    """What becomes of the questions that a script asks of a statute's passages, and of its answers, a fifth of which are wrong."""
    full, text = statute(STATUTE)
    passages = [Passage(str(n), one.place, text[one.start : one.end]) for n, one in enumerate(passages_of(text))]

    class Statute(Material):
        def __init__(self) -> None:
            pass

        def passages(self) -> list[Passage]:
            return passages

    desk = ScriptedDesk(scripted_questions.answer, 8)
    made = list(self_qa.build(Statute(), desk))
    desk.close()
    proposed = [one for one in made if isinstance(one, Proposed)]
    told = {one.id: f"{one.place}\n{one.text}" for one in passages}
    turned = [one for one in proposed if one.output.rstrip("。") not in told[one.sources[0].id]]
    case = f"{full}: questions of a script"
    return [
        row(case, "proposed", "", [len(proposed)]),
        row(case, "of these no sentence of the passage (turned into its opposite)", "", [len(turned)]),
        *(
            row(case, f"dropped: {reason}", "", [times])
            for reason, times in Counter(one.reason for one in made if isinstance(one, Dropped)).most_common()
        ),
    ]


def _variants(sentence: str) -> Iterator[tuple[str, str]]:
    yield "as it stands", sentence
    if wrong := re.subn(r"[二三四五六七八九十百千]+(?=[日年个元倍])", "四十三", sentence, count=1)[::-1]:
        times, changed = wrong
        if times:
            yield "another number", changed
            yield "the number in figures", re.sub(r"二百元", "200元", re.sub(r"十五日", "15日", sentence))
    yield "another article", f"依照第三百条，{sentence}"
    yield "an office that is not there", f"经仲裁委员会决定，{sentence}"
    for right, turned in (("不得", "可以"), ("应当", "不必"), ("吊销", "发还")):
        if right in sentence:
            yield "turned into its opposite", sentence.replace(right, turned, 1)
            break


def _kept(instructions: list[str]) -> list[str]:
    kept, found = Kept(), []
    for instruction in instructions:
        if kept.is_new(instruction):
            kept.add(instruction)
            found.append(instruction)
    return found


def _pairs(instructions: list[str], kept: list[str]) -> int:
    """That are compared when each is held against all that were kept before it."""
    there, pairs, before = Counter(kept), 0, 0
    for instruction in instructions:
        pairs += before
        if there[instruction]:
            there[instruction] -= 1
            before += 1
    return pairs


def _imported(home: Path, rows: int) -> list[Row]:
    """Read, checked and cut into requests as `noria examples import` does; what the door makes of each is in no file's size."""
    file = home / "rows.jsonl"
    home.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as out:
        for number in range(rows):
            asked = f"What does rule {number} of the harbour say of mooring at pier {number % 97}?"
            out.write(
                f'{{"instruction": "{asked}", "input": "", "output": "Boats moor at pier {number % 97} in turn."}}\n'
            )
    megabytes = file.stat().st_size / 2**20
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        before, peak, spent_s, sent = pool.apply(_import, (str(file),))
    file.unlink()
    assert sent == rows
    case = f"{rows:,} rows, {megabytes:.0f} MB"
    return [
        row(case, "the process before it reads", "MB", [before]),
        row(case, "the process at its largest", "MB", [peak]),
        row(case, "read twice, checked and batched", "s", [spent_s]),
    ]


def _import(file: str) -> tuple[float, float, float, int]:
    sent = 0

    def send(batch: list[Any]) -> dict[str, Any]:
        nonlocal sent
        sent += len(batch)
        return {"added": len(batch), "known": 0, "position": None}

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.monotonic()
    found = brought(Path(file), read_example)
    check(found)
    Import("rows.jsonl", "examples", DOMAIN).send(
        ((place, msgspec.to_builtins(item)) for place, item in good(found)), send
    )
    spent_s = time.monotonic() - began
    return before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, spent_s, sent


def _seed(database: Engine, keyring: Keyring) -> None:
    """The domain, and the demo's tasks, as they stand after their events."""
    key = keyring.key_for(domain_subject(DOMAIN))
    events: list[tuple[UUID, DomainEvent]] = []
    for number, created in enumerate(Generator().domain(DOMAIN)):
        events.append((uuid5(_IDS, f"domain {number}"), created))  # type: ignore[arg-type]
    for number, line in enumerate((ROAD_TRAFFIC / "tasks.jsonl").read_bytes().splitlines()):
        words = msgspec.json.encode(read_seed(msgspec.json.decode(line)).item).decode()
        id_ = uuid5(_IDS, f"seed {number}")
        sealed = seal(words, key, f"{id_}#seed")
        events.append((id_, SeedAdded(domain=DOMAIN, seed_id=id_.hex, kind="task", seed=sealed, by="bench")))
    records = []
    for offset, (id_, event) in enumerate(events):
        envelope = envelope_for(event, id=id_, source="/bench", time=BEGAN, correlation_id="bench")
        records.append(Record(DOMAINS, 0, offset, envelope.key.encode(), encode(envelope)))
    assert Store(database).apply(records).events == len(records)


class _Teacher:
    """The scripted teacher, in a process of its own: it takes no time from the interpreter of whoever is measured."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._here, there = spawn.Pipe()
        self._process = spawn.Process(target=_teach, args=(there,), daemon=True)
        self._process.start()
        self.base_url, self.place = self._here.recv()

    def asked(self) -> tuple[int, int]:
        """How many calls came, and how many of them were different."""
        self._here.send("asked")
        calls, different = self._here.recv()
        return calls, different

    def stop(self) -> None:
        self._here.send("stop")
        self._process.join()


def _teach(there: "Connection[Any, Any]") -> None:
    server = TeacherServer(_slow)
    there.send((server.base_url, server.place))
    while there.recv() == "asked":
        there.send((len(server.asked), len(set(server.asked))))
    server.stop()


def _slow(prompt: str) -> Reply:
    time.sleep(DELAY_S)
    return scripted_tasks.answer(prompt, WORDS)


def _rate(database: Engine, keyring: Keyring, in_flight: int, calls: int) -> Row:
    """From the first call to the last, of what a teacher could answer that takes DELAY_S and so many at once."""
    server = _Teacher()
    teacher = Teacher(base_url=server.base_url, model="scripted", in_flight=in_flight, tokens=10**9)
    desk = Desk(teacher, "", DOMAIN, uuid5(_IDS, f"rate {in_flight}"), database, keyring, time.sleep)
    began = time.monotonic()
    try:
        for _ in self_instruct.build(Material(database, keyring, DOMAIN, 10**6 + in_flight), desk):
            if desk.counts.calls >= calls:
                break
        share = desk.counts.calls / (time.monotonic() - began) / (in_flight / DELAY_S)
    finally:
        desk.close()
        server.stop()
    return row(f"{in_flight} in flight, a teacher of {DELAY_S * 1000:.0f} ms", "of the possible rate", "share", [share])


def _built(home: Path, settings: Settings, keyring: Keyring, instructions: int, in_flight: int) -> list[Row]:
    """The order itself in a process of its own, which is killed half-way, and then taken up."""
    server = _Teacher()
    most = int(instructions * PROPOSALS_AN_INSTRUCTION)
    log = KafkaLog(settings.kafka, "bench-material")
    try:
        began = time.monotonic()
        running = _process(home, server, most, in_flight)
        killed_after = 0
        while running.poll() is None and killed_after < 2.2 * instructions / 2:
            killed_after, _ = server.asked()
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
        killed_s = time.monotonic() - began
        began = time.monotonic()
        assert _process(home, server, most, in_flight).wait() == 0
        spent_s = time.monotonic() - began
        proposed: dict[str, str] = {}
        built: MaterialBuilt | None = None
        calls, different = server.asked()
        for event in _events(log):
            if isinstance(event, ExampleProposed):
                said = msgspec.json.decode(open_sealed(event.proposal, keyring))
                proposed[event.proposal_id] = said["instruction"]
            elif isinstance(event, MaterialBuilt):
                built = event
    finally:
        log.close()
        server.stop()
    assert built is not None
    case = f"Self-Instruct to {len(proposed):,} proposals, {in_flight} in flight"
    return [
        row(case, "killed after", "calls", [killed_after]),
        row(case, "to the kill, and from then on", "s", [killed_s, spent_s]),
        row(case, "calls of the teacher", "calls", [calls]),
        row(case, "paid twice: on their way or being kept when it was killed", "calls", [calls - different]),
        row(case, "different instructions among the proposals", "", [len(set(proposed.values()))]),
        *(row(case, f"dropped: {reason}", "", [number]) for reason, number in built.dropped.items()),
    ]


def _process(home: Path, server: _Teacher, most: int, in_flight: int) -> "subprocess.Popen[bytes]":
    said = [str(home), server.base_url, server.place, str(most), str(in_flight)]
    return subprocess.Popen([sys.executable, "-m", "tests.bench.material", *said], env=os.environ)


def _events(log: KafkaLog) -> Iterator[Any]:
    for partition, end in log.ends(DOMAINS).items():
        for record in log.read(DOMAINS, partition, 0, end):
            yield read_event(record.topic, record.key, record.value).event


def _build(home: str, base_url: str, place: str, most: str, in_flight: str) -> None:
    settings = from_env({"NORIA_HOME": home, "NORIA_PRIVATE_ENDPOINTS": place})
    database = open_database(settings.database_url)
    keyring = Keyring(database, MasterKey.made(settings.master_key))
    context = Context(settings, database, KafkaLog(settings.kafka, "bench-builder"), keyring, "bench")
    teacher = Teacher(base_url=base_url, model="scripted", in_flight=int(in_flight), tokens=10**9)
    id_ = uuid5(_IDS, "build")
    step.run(
        BuildMaterial(order_id=id_, domain=DOMAIN, builder="self-instruct", most=int(most), pin=10**6, teacher=teacher),
        context,
    )


if __name__ == "__main__":
    _build(*sys.argv[1:])
