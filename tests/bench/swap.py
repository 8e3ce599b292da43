"""Five swaps under load: requests, failures, answers that mixed two versions, and the longest wait that a client saw.

The first swap brings a new release (of 12 facts, by NORIA_BENCH_FACTS), the others roll back and forth.
"""

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from deploy.demo import story
from deploy.demo.load import Answered, Load
from tests.bench.report import Row, row
from tests.bench.wheel import facts_of_size, fresh_domain, turn

FACTS = 12
ROLLS = 4
WINDOW_S = 5.0  # what clients see is taken from so long a time around each roll, and of a steady time to compare with
STEADY_WINDOWS = 4


def measure(home: Path) -> list[Row]:
    facts = facts_of_size(FACTS)
    with fresh_domain(home) as door:
        load = Load(door, story.DOMAIN, [fact.en.question for fact in facts])
        rolled_at, roll_ms = [], []
        try:
            released = turn(door, home, facts, load, guarded=False)
            time.sleep(WINDOW_S)
            for number in range(ROLLS):
                rolled_at.append(time.monotonic())
                roll_ms.append(story.roll(door, number % 2))
                time.sleep(max(0.0, rolled_at[-1] + WINDOW_S - time.monotonic()))
            steady_at = [time.monotonic() + n * WINDOW_S for n in range(STEADY_WINDOWS)]
            time.sleep(STEADY_WINDOWS * WINDOW_S)
        finally:
            load.stop()
        mixed = load.mixed()
    seen = load.seen
    releases = {answer.release for answer in seen.answers}
    assert releases == {f"{story.DOMAIN}@0", f"{story.DOMAIN}@1"}, releases
    assert not seen.failures, seen.failures[:3]
    assert mixed == 0, f"{mixed} answers are not what their release says by itself"
    first_at = min(answer.asked_at for answer in seen.answers)
    windows = {
        "a new release": [_within(seen.answers, first_at, rolled_at[0] - first_at)],
        "a roll back or forth": [_within(seen.answers, at, WINDOW_S) for at in rolled_at],
        "no swap": [_within(seen.answers, at, WINDOW_S) for at in steady_at],
    }
    case = f"{1 + ROLLS} swaps under load"
    return [
        row(case, "requests", "requests", [seen.requests]),
        row(case, "failed", "requests", [len(seen.failures)]),
        row(case, "answers of mixed versions", "answers", [mixed]),
        row("a new release", "step swap", "s", [released.steps_s["swap"]]),
        row("a roll back or forth", "until it answers", "ms", roll_ms),
        *(row(name, "longest answer", "ms", [_longest_ms(w) for w in found]) for name, found in windows.items()),
        *(row(name, "longest gap", "ms", [_gap_ms(w) for w in found]) for name, found in windows.items()),
    ]


def _within(answers: Sequence[Answered], at: float, seconds: float) -> list[Answered]:
    """Those that were asked in the window."""
    return [answer for answer in answers if at <= answer.asked_at < at + seconds]


def _longest_ms(answers: Sequence[Answered]) -> float:
    return max(answer.took_s for answer in answers) * 1000


def _gap_ms(answers: Sequence[Answered]) -> float:
    """The longest time in which no client got an answer."""
    ends = sorted(answer.asked_at + answer.took_s for answer in answers)
    return max(later - earlier for earlier, later in pairwise(ends)) * 1000
