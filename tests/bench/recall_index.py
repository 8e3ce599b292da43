"""The index of what is remembered: how fast, how large and how right it is among 1,000, 10,000 and 100,000 memories.

NORIA_BENCH_EVENTS: the most memories.
"""

import gc
import os
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import psutil
from numpy.typing import NDArray

from deploy.demo.domain import Language
from tests.bench.recall_memory import FACTS, Distractors, correction
from tests.bench.report import Row, percentile, row
from tests.bench.size import size
from workers.recall.calibration import KINDS
from workers.recall.encoder import sentence_encoder
from workers.recall.index import Index, Memory, texts_of

SIZES = (1_000, 10_000, 100_000)
LANGUAGES: tuple[Language, ...] = ("en", "zh")
EMBEDDED = 200  # questions whose embedding is timed
EXACT = 40  # questions that are also answered by looking at every memory
PUTS = 60
WITHIN = 3
ALL = frozenset(KINDS)


def measure(home: Path) -> list[Row]:
    encoder = sentence_encoder()
    facts = [correction(fact, language) for language in LANGUAGES for fact in FACTS]
    known = [encoder.embed(texts_of(memory)) for memory in facts]
    asked = [(q, f.id, lang) for lang in LANGUAGES for f in FACTS for q in f.wording(lang).held_out]
    vectors = encoder.embed([question for question, _, _ in asked])
    distractors = Distractors()
    rows = [_embedding([question for question, _, _ in asked[:: len(asked) // EMBEDDED]])]
    most = size("EVENTS", SIZES[-1])
    for memories in [number for number in SIZES if number < most] + [most]:
        others, theirs = distractors.make(memories - len(facts))
        rows += _of_size(memories, facts + others, known + theirs, asked, vectors)
    return rows


def _embedding(questions: list[str]) -> Row:
    runs = []
    for question in questions:
        began = perf_counter()
        sentence_encoder().embed([question])
        runs.append((perf_counter() - began) * 1000)
    return row("a question", "embedding it, p50 and p99", "ms", [percentile(runs, 50), percentile(runs, 99)])


def _of_size(
    number: int,
    memories: list[Memory],
    given: list[NDArray[np.float32]],
    asked: list[tuple[str, str, Language]],
    vectors: NDArray[np.float32],
) -> list[Row]:
    case = f"{number:,} memories"
    gc.collect()
    before, began = _rss(), perf_counter()
    index = Index(vectors.shape[1])
    index.put_all(memories, given)
    filled_s = perf_counter() - began
    gc.collect()
    each = (_rss() - before) / number
    runs, cpu = [], []
    places: dict[Language, list[int]] = {language: [] for language in LANGUAGES}
    for at, (question, right, language) in enumerate(asked):
        worked, began = process_time(), perf_counter()
        index.search(question, vectors[at], WITHIN, ALL)
        runs.append((perf_counter() - began) * 1000)
        cpu.append((process_time() - worked) * 1000)
        # Of the passages none is known to be wrong. The same fact in the other language is as right.
        hits = index.search(question, vectors[at], WITHIN, frozenset({"correction"}))
        ids = [hit.id.rpartition("/")[0] for hit in hits]
        places[language].append(ids.index(right) if right in ids else WITHIN)
    rows = [
        row(case, "put_all", "s", [filled_s]),
        row(case, "resident memory of one", "bytes", [each]),
        row(case, "search, p50", "ms", [percentile(runs, 50)]),
        row(case, "search, p99", "ms", [percentile(runs, 99)]),
        row(case, "search, CPU", "ms", [percentile(cpu, 50)]),
        row(case, f"recall@{WITHIN} against looking at all", "share", [_against_exact(index, asked, vectors)]),
    ]
    for language, found in places.items():
        rows.append(row(case, f"right one first, {language}", "share", [float(np.mean(np.array(found) == 0))]))
        rows.append(
            row(case, f"right one within {WITHIN}, {language}", "share", [float(np.mean(np.array(found) < WITHIN))])
        )
    return rows + _changes(case, index)


def _against_exact(index: Index, asked: list[tuple[str, str, Language]], vectors: NDArray[np.float32]) -> float:
    """What part is found of those three of a kind that are best among all, as far as they are good enough. (Of both kinds together
    it would not say it: scores that differ in their last digits may change places.)"""
    found, breadth = [], index.breadth
    for at in range(0, len(asked), max(1, len(asked) // EXACT)):
        for kind in KINDS:
            usual = {hit.id for hit in index.search(asked[at][0], vectors[at], WITHIN, frozenset({kind}))}
            index.breadth = len(index)
            hits = index.search(asked[at][0], vectors[at], WITHIN, frozenset({kind}))
            index.breadth = breadth
            found += [hit.id in usual for hit in hits if hit.score >= index.calibration.of(kind).least]
    return float(np.mean(found))


def _changes(case: str, index: Index) -> list[Row]:
    encoder, found, gone = sentence_encoder(), [], []
    for n in range(PUTS):
        memory = Memory(
            f"new {n}", "correction", (f"What does the sign number {n} at the bridge say?",), f"It says {n}."
        )
        vectors = encoder.embed(texts_of(memory))
        began = perf_counter()
        index.put(memory, vectors)
        assert index.search(memory.wordings[0], vectors[0], 1, ALL)[0].id == memory.id
        found.append((perf_counter() - began) * 1000)
    for n in range(PUTS):
        began = perf_counter()
        index.drop([f"new {n}"])
        gone.append((perf_counter() - began) * 1000)
    return [
        row(case, "put to found, p50 and p99", "ms", [percentile(found, 50), percentile(found, 99)]),
        row(case, "drop, p50 and p99", "ms", [percentile(gone, 50), percentile(gone, 99)]),
    ]


def _rss() -> int:
    return int(psutil.Process(os.getpid()).memory_info().rss)
