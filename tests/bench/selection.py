"""Selecting a training set: each step that computes much against the plain way to the same result, and the whole of it.

NORIA_BENCH_EVENTS: rows. NORIA_BENCH_FACTS: shots of nuggets. NORIA_BENCH_CASES: k_center, dedupe, nuggets, whole,
incremental.
"""

import os
import resource
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeVar

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray

from deploy.demo.domain import load_facts
from streams.selection import USUAL, Budget, Dedupe, KCenter, Leakage, Selection
from streams.settings import home_of
from tests.bench.report import Row, row
from tests.bench.size import size
from tests.candidates import Measures, candidate
from tests.plain_golden import official_gains, plain_gains
from workers.cores import fast_precision
from workers.models.base import prepare_base
from workers.selector import dedupe, golden, k_center
from workers.selector.candidates import OpenExample
from workers.selector.golden import Task, Turn
from workers.selector.nuggets import golden_scores
from workers.selector.pipeline import choose

ROWS, DIMS, PICKS = 100_000, 384, 1_000
SHOTS, TASKS = 40, 16
NEW = 1_000
NEAR = 0.9
PLANTED = 0.3  # of the rows are near duplicates of others
Vectors = NDArray[np.float32]
T = TypeVar("T")


def measure(home: Path) -> list[Row]:
    rows = size("EVENTS", ROWS)
    wanted = os.environ.get("NORIA_BENCH_CASES", "k_center dedupe nuggets whole incremental").replace(",", " ").split()
    cases: dict[str, Callable[[], list[Row]]] = {
        "k_center": lambda: _k_center(rows),
        "dedupe": lambda: _dedupe(rows),
        "nuggets": _nuggets,
        "whole": lambda: _whole(rows),
        "incremental": lambda: _incremental(rows),
    }
    return [found for case in wanted for found in cases[case]()]


def clusters(rows: int, middles: int, spread: float, planted: float = 0.0) -> Vectors:
    """Unit vectors around `middles`, as sentence embeddings lie; the share `planted` of them near others, at cosines of about 0.75
    to 0.995, in no order."""
    random = np.random.default_rng(0)
    own = round(rows * (1 - planted))
    middle = random.standard_normal((middles, DIMS)).astype(np.float32)
    found = middle[random.integers(0, middles, own)] + np.float32(spread) * random.standard_normal(
        (own, DIMS), dtype=np.float32
    )
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    apart = random.uniform(0.005, 0.03, rows - own).astype(np.float32)[:, None]
    near = found[random.integers(0, own, rows - own)] + apart * random.standard_normal(
        (rows - own, DIMS), dtype=np.float32
    )
    found = np.concatenate([found, near])[random.permutation(rows)]
    return np.ascontiguousarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def matvec_picks(vectors: NDArray[np.floating], k: int, first: int) -> list[int]:
    """The plain loop: one product of all rows with the last pick at each step."""
    near, picks = vectors @ vectors[first], [first]
    while len(picks) < k:
        picks.append(int(near.argmin()))
        np.maximum(near, vectors @ vectors[picks[-1]], out=near)
    return picks


def _k_center(rows: int) -> list[Row]:
    vectors = clusters(rows, 500, 0.8)
    k = min(PICKS, rows)
    ours, ours_t = _timed(lambda: k_center.pick(vectors, k))
    peak = _peak_mb()
    _, plain_t = _timed(lambda: matvec_picks(vectors, k, ours[0]))
    exact = matvec_picks(vectors.astype(np.float64), k, ours[0])
    same = row("k_center", "same_result", "1 or 0", [float(ours == exact)])
    return [*_rows("k_center", ours_t, plain_t, peak), same]


def _dedupe(rows: int) -> list[Row]:
    vectors = clusters(rows, 2_000, 0.9, PLANTED)
    (left, right, _), ours_t = _timed(lambda: dedupe.near_pairs(vectors, NEAR))
    peak = _peak_mb()
    (exact_left, exact_right, _), plain_t = _timed(lambda: dedupe.exact_pairs(vectors, NEAR))
    found = set(zip(left.tolist(), right.tolist(), strict=True))
    known = set(zip(exact_left.tolist(), exact_right.tolist(), strict=True))
    return [
        *_rows("dedupe", ours_t, plain_t, peak),
        row("dedupe", "pair_recall", "share", [len(found & known) / max(1, len(known))]),
        row("dedupe", "pairs", "pairs", [float(len(known))]),
    ]


def _whole(rows: int) -> list[Row]:
    """With vectors that are known already, as of all but a round's new examples they are."""
    given = _round(rows, rows)
    chosen, took = _timed(lambda: choose(*given))
    return [
        row("whole", "seconds", "s", [took.seconds]),
        row("whole", "cpu_seconds", "s", [took.cpu_s]),
        row("whole", "peak_mb", "MB", [_peak_mb()]),
        row("whole", "kept", "rows", [float(len(chosen.kept))]),
    ]


def _incremental(rows: int) -> list[Row]:
    """A round, and the next with NEW rows more: how much less that costs than all of it anew."""
    given, more = _round(rows, rows), _round(rows, rows + NEW)
    _, first = _timed(lambda: choose(*given))
    _, following = _timed(lambda: choose(*more))
    return _rows("incremental", following, first, _peak_mb())


def _round(rows: int, there: int) -> tuple[Selection, list[OpenExample], Measures]:
    """The first `there` of rows that are the same whatever `there` is."""
    vectors = clusters(rows + NEW, 2_000, 0.9, PLANTED)[:there]
    asked = [
        candidate(f"e-{number}", f"Question {word(number)}?", f"Answer {word(number)}.", source="annotation")
        for number in range(there)
    ]
    given = dict(zip((one.example_id for one in asked), vectors, strict=True))
    exam = {f"i-{number}": f"Question {word(number * 97)} of the exam?" for number in range(200)}
    selection: Selection = (
        Leakage(overlap=0.9),
        *USUAL[1:],
        Dedupe(cosine=NEAR),
        KCenter(k=min(PICKS, rows)),
        Budget(tokens=9_000),
    )
    return selection, asked, Measures(exam, given=given)


def _nuggets() -> list[Row]:
    """Facts of the demo as shots and as tasks, on the model that comes along, on one thread: one forward a pair (plain), as the
    paper's own code does it, ours in fp32, and ours as a round does it on this processor."""
    torch.set_num_threads(1)
    folder = prepare_base(home_of(os.environ))
    turns = [Turn(fact.en.question, fact.en.answer) for fact in load_facts()]
    count = size("FACTS", SHOTS)
    shots, tasks = turns[:count], turns[-TASKS:]
    task = Task(str(folder), tuple(shots), tuple(tasks))
    plain, plain_t = _timed(lambda: plain_gains(folder, shots, tasks))
    _, official_t = _timed(lambda: official_gains(folder, shots, tasks))
    everyone = np.ones((len(shots), len(tasks)), bool)
    known = golden_scores(np.array(plain), everyone)
    rows = []
    ways = ("nuggets", False), ("nuggets, screened", True)
    for case, screened in ways if fast_precision() == "bfloat16" else ways[:1]:
        ours, ours_t = _timed(lambda screened=screened: golden.work(task, screened).gains)
        peak = _peak_mb()
        away = np.abs(np.array(ours) - np.array(plain))
        same = (golden_scores(np.array(ours), everyone) == known).all()
        rows += [
            *_rows(case, ours_t, plain_t, peak),
            row(case, "seconds_official", "s", [official_t.seconds]),
            row(case, "ratio_to_official", "times", [official_t.seconds / ours_t.seconds]),
            row(case, "cpu_ratio_to_official", "times", [official_t.cpu_s / ours_t.cpu_s]),
            row(case, "same_result", "1 or 0", [float(same)]),
            row(case, "largest_difference", "nats", [float(away.max())]),
            row(case, "asked_of_fp32", "share", [float((np.abs(np.array(ours)) < golden.UNSURE).mean())]),
        ]
    return rows


def word(number: int) -> str:
    """A number in letters: one in digits would tell apart what means the same."""
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


class Timed(Struct, frozen=True):
    seconds: float
    cpu_s: float  # of the process: the honest measure where others work beside it


def _timed(work: Callable[[], T]) -> tuple[T, Timed]:
    began, cpu = perf_counter(), process_time()
    done = work()
    return done, Timed(perf_counter() - began, process_time() - cpu)


def _rows(case: str, ours: Timed, plain: Timed, peak_mb: float) -> list[Row]:
    return [
        row(case, "seconds", "s", [ours.seconds]),
        row(case, "cpu_seconds", "s", [ours.cpu_s]),
        row(case, "seconds_plain", "s", [plain.seconds]),
        row(case, "cpu_seconds_plain", "s", [plain.cpu_s]),
        row(case, "ratio_to_plain", "times", [plain.seconds / ours.seconds]),
        row(case, "cpu_ratio_to_plain", "times", [plain.cpu_s / ours.cpu_s]),
        row(case, "peak_mb", "MB", [peak_mb]),
    ]


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
