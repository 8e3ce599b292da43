"""How near is near enough: what was measured about a question and some memories, as the probability that one is the right one.

A question has one right memory, or none: a conditional logit with "none of these" among the choices (McFadden, 1974). So memories
compete: one that is near a question says less when three others are as near, however many there are beside. Memories that say the
same do not compete with each other, nor do corrections with passages, which may both be right.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

Kind = Literal["correction", "passage"]
KINDS: tuple[Kind, ...] = get_args(Kind)

OUTSIDE_RECALLED = 0.02  # of the questions that nothing answers, so many may recall something
_LEAST_PAIRS = 20  # of one kind, to be calibrated by
_RIDGE = 1e-5
_STEPS = 100
_LONGEST_STEP = 20.0


class Weights(Struct, frozen=True):
    """Of one kind of memory: what a cosine of 1, and all of a question's words, add to the logit; and the logit of none."""

    cosine: float
    words: float
    none: float


class Calibration(Struct, frozen=True):
    """`least`: the score from which on a memory is good enough to be put before the model."""

    correction: Weights
    passage: Weights
    least: float

    def of(self, kind: Kind) -> Weights:
        return self.correction if kind == "correction" else self.passage


class Candidates(Struct, frozen=True):
    """What a search has found of one kind, before it is judged: `ids`, in arrays of the same length the cosine of each with the
    question and its share of the question's words, and a number that those have in common whose text is the same."""

    ids: tuple[str, ...]
    cosines: NDArray[np.float64]
    shares: NDArray[np.float64]
    texts: NDArray[np.int64]


def probabilities(weights: Weights, found: Candidates) -> NDArray[np.float64]:
    """Of each candidate, that it is the right one: 0..1, and never less for a higher cosine or share of its own."""
    logits = weights.cosine * found.cosines + weights.words * found.shares
    top = max(weights.none, float(logits.max(initial=-np.inf)))
    odds = np.exp(logits - top)
    _, group = np.unique(found.texts, return_inverse=True)
    others = odds.sum() - np.bincount(group, odds)[group] if len(odds) else odds
    return np.asarray(odds / (np.exp(weights.none - top) + others + odds), np.float64)


class Encodes(Protocol):
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class Searched(Protocol):
    """An `Index`, as far as it is needed here."""

    calibration: Calibration

    def candidates(
        self,
        question: str,
        vector: NDArray[np.float32],
        kind: Kind,
        without: frozenset[str] = frozenset(),
        without_wording: str | None = None,
    ) -> Candidates: ...


class Case(Struct, frozen=True):
    """One question and what was found for it of one kind. `right`: the place of the right one among the candidates; None when the
    memory does not hold it."""

    kind: Kind
    found: Candidates
    right: int | None
    outside: bool  # a question of another subject altogether


def cases_of(index: Searched, encoder: Encodes, pairs: Sequence[tuple[str, str]], outside: Sequence[str]) -> list[Case]:
    """What the index finds for questions with the id of their right memory, each asked twice: with its own wording left out of the
    memory, and with the right memory left out, as somebody asks who is the first to ask it; and for `outside`, which nothing
    answers. A pair whose right memory is not even a candidate tells nothing of how near is near enough, and is passed over."""
    texts = list(dict.fromkeys([*(question for question, _ in pairs), *outside]))
    vectors = dict(zip(texts, encoder.embed(texts), strict=True))
    cases = []
    for kind in KINDS:
        asked_in_vain = [index.candidates(question, vectors[question], kind) for question in outside]
        cases += [Case(kind, found, None, True) for found in asked_in_vain if found.ids]
        for question, right in pairs:
            found = index.candidates(question, vectors[question], kind, without_wording=question)
            if right in found.ids:
                cases.append(Case(kind, found, found.ids.index(right), False))
                found = index.candidates(question, vectors[question], kind, without=frozenset({right}))
                cases.append(Case(kind, found, None, False))
    return cases


def calibrate(
    index: Searched, encoder: Encodes, pairs: Sequence[tuple[str, str]], outside: Sequence[str]
) -> Calibration:
    """The calibration under which the pairs are likeliest. A kind of memory that too few pairs are about keeps what it has."""
    return fit(cases_of(index, encoder, pairs, outside), index.calibration)


def fit(cases: Sequence[Case], before: Calibration) -> Calibration:
    """As `calibrate`, from cases of any number of memories. Questions whose answer is there weigh as much as all others, and of
    those the ones on the subject as much as the ones outside of it. `least` is the lowest score at which at most
    OUTSIDE_RECALLED of the questions outside recall something."""
    weights = {}
    for kind in KINDS:
        here = [case for case in cases if case.kind == kind]
        answered = sum(case.right is not None for case in here)
        weights[kind] = _likeliest(here) if answered >= _LEAST_PAIRS else before.of(kind)
    calibration = Calibration(weights["correction"], weights["passage"], before.least)
    highest = [best_score(calibration, case) for case in cases if case.outside]
    if not highest:
        return calibration
    least = float(np.quantile(highest, 1 - OUTSIDE_RECALLED, method="higher"))
    return replace(calibration, least=round(least, 3))


def best_score(calibration: Calibration, case: Case) -> float:
    """The score of what would be recalled first."""
    return float(probabilities(calibration.of(case.kind), case.found).max(initial=0.0))


def _likeliest(cases: Sequence[Case]) -> Weights:
    """By Newton's method; the ridge keeps it finite where the pairs can be told apart without a fault."""
    groups = Counter(_group(case) for case in cases)
    worth = {"answered": 0.5, "unanswered": 0.25, "outside": 0.25}
    # Rows of a choice: of each candidate (cosine, share, 0), and (0, 0, 1) of none.
    rows, taken, shares = [], [], []
    for case in cases:
        found = case.found
        choices = np.zeros((len(found.ids) + 1, 3))
        choices[:-1, 0], choices[:-1, 1], choices[-1, 2] = found.cosines, found.shares, 1.0
        kept = np.ones(len(choices), bool)
        if case.right is not None:
            # What says the same as the right one is no rival of it.
            kept[:-1] = found.texts != found.texts[case.right]
            kept[case.right] = True
        rows.append(choices[kept])
        taken.append(choices[-1 if case.right is None else case.right])
        shares.append(worth[_group(case)] / groups[_group(case)])
    at = np.array([20.0, 10.0, 15.0])
    for _ in range(_STEPS):
        slope, bend = -_RIDGE * at, -_RIDGE * np.eye(3)
        for choices, chosen, share in zip(rows, taken, shares, strict=True):
            logits = choices @ at
            chance = np.exp(logits - logits.max())
            chance /= chance.sum()
            mean = chance @ choices
            slope += share * (chosen - mean)
            bend -= share * ((choices * chance[:, None]).T @ choices - np.outer(mean, mean))
        step = np.linalg.solve(bend, slope)
        at = at - step * min(1.0, _LONGEST_STEP / float(np.abs(step).max()))
        if float(np.abs(step).max()) < 1e-6:
            break
    cosine, words, none = (round(float(value), 2) for value in at)
    return Weights(max(cosine, 0.0), max(words, 0.0), none)


def _group(case: Case) -> str:
    if case.right is not None:
        return "answered"
    return "outside" if case.outside else "unanswered"


DEFAULT = Calibration(Weights(17.68, 12.38, 14.54), Weights(17.68, 12.38, 14.54), 0.015)
