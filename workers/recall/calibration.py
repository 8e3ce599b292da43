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
_LEAST_CASES = 20  # of each sort, to be calibrated by
_RIDGE = 1e-5
_STEPS, _HALVINGS, _FLAT = 100, 30, 1e-10
_WORTH = {"answered": 0.5, "unanswered": 0.25, "outside": 0.25}


class Weights(Struct, frozen=True):
    """Of one kind of memory: what a cosine of 1, all of a question's words, and every e-fold in the number of a memory's texts add
    to the logit (the centre of many texts is sooner near by chance: less than nothing); the logit of none; and `least`, the score
    from which on a memory is good enough to be put before the model."""

    cosine: float
    words: float
    texts: float
    none: float
    least: float


class Calibration(Struct, frozen=True):
    correction: Weights
    passage: Weights

    def of(self, kind: Kind) -> Weights:
        return self.correction if kind == "correction" else self.passage


class Candidates(Struct, frozen=True):
    """What a search has found of one kind, before it is judged: `ids`, in arrays of the same length the cosine of each with the
    question, its share of the question's words, how many texts it has, and a number that those have in common which say the
    same."""

    ids: tuple[str, ...]
    cosines: NDArray[np.float64]
    shares: NDArray[np.float64]
    texts: NDArray[np.int64]
    same: NDArray[np.int64]


def probabilities(weights: Weights, found: Candidates) -> NDArray[np.float64]:
    """Of each candidate, that it is the right one: 0..1, and never less for a higher cosine or share of its own."""
    logits = weights.cosine * found.cosines + weights.words * found.shares + weights.texts * np.log(found.texts)
    top = max(weights.none, float(logits.max(initial=-np.inf)))
    odds = np.exp(logits - top)
    _, group = np.unique(found.same, return_inverse=True)
    rivals = odds.sum() - np.bincount(group, odds)[group] if len(odds) else odds
    return np.asarray(odds / (np.exp(weights.none - top) + np.maximum(rivals, 0.0) + odds), np.float64)


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
    weights = {kind: before.of(kind) for kind in KINDS}
    for kind in KINDS:
        here = [case for case in cases if case.kind == kind]
        if min(Counter(map(_group, here))[group] for group in _WORTH) >= _LEAST_CASES:
            likeliest = _likeliest(here)
            highest = [best_score(likeliest, case) for case in here if case.outside]
            least = float(np.quantile(highest, 1 - OUTSIDE_RECALLED, method="higher"))
            weights[kind] = replace(likeliest, least=round(least, 4))
    return Calibration(weights["correction"], weights["passage"])


def best_score(weights: Weights, case: Case) -> float:
    """The score of what would be recalled first."""
    return float(probabilities(weights, case.found).max(initial=0.0))


def _likeliest(cases: Sequence[Case]) -> Weights:
    """The weights under which what is right is likeliest, by Newton's method; a ridge keeps them finite where the pairs can be told
    apart without a fault, and a weight that would turn out below nothing is left at nothing."""
    groups = Counter(_group(case) for case in cases)
    worth = np.array([_WORTH[_group(case)] / groups[_group(case)] for case in cases])
    most = max(len(case.found.ids) for case in cases) + 1
    # Of each case the choices: first none (0, 0, 0, 1), then the candidates (cosine, share, log of texts, 0); the rest is padding.
    choices, open_, taken = (
        np.zeros((len(cases), most, 4)),
        np.zeros((len(cases), most), bool),
        np.zeros(len(cases), int),
    )
    for at, case in enumerate(cases):
        found, end = case.found, len(case.found.ids) + 1
        choices[at, 0, 3] = 1.0
        choices[at, 1:end, :3] = np.column_stack([found.cosines, found.shares, np.log(found.texts)])
        open_[at, :end] = True
        if case.right is not None:
            # What says the same as the right one is no rival of it.
            taken[at] = case.right + 1
            open_[at, 1:end] = found.same != found.same[case.right]
            open_[at, taken[at]] = True
    free = np.ones(4, bool)
    while True:
        weights = np.zeros(4)
        weights[free] = _climb(choices[:, :, free], open_, taken, worth)
        below = free & (weights < 0) & np.array([True, True, False, False])
        if not below.any():
            break
        free &= ~below
    cosine, words, texts, none = (round(float(weight), 2) for weight in weights)
    return Weights(cosine, words, texts, none, least=0.0)


def _climb(
    choices: NDArray[np.float64], open_: NDArray[np.bool_], taken: NDArray[np.int64], worth: NDArray[np.float64]
) -> NDArray[np.float64]:
    cases, width = np.arange(len(choices)), choices.shape[2]

    def chances(at: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        logits = np.where(open_, choices @ at, -np.inf)
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        whole = odds.sum(axis=1, keepdims=True)
        likelihood = worth @ (logits[cases, taken] - np.log(whole[:, 0])) - _RIDGE / 2 * at @ at
        return odds / whole, float(likelihood)

    at = np.zeros(width)
    chance, height = chances(at)
    for _ in range(_STEPS):
        mean = np.einsum("cmf,cm->cf", choices, chance)
        slope = worth @ (choices[cases, taken] - mean) - _RIDGE * at
        spread = np.einsum("cmf,cmg,cm,c->fg", choices, choices, chance, worth, optimize=True)
        step = np.linalg.solve(spread - (mean.T * worth) @ mean + _RIDGE * np.eye(width), slope)
        # The likelihood has one top, and the step points uphill: if it goes too far, half of it is tried.
        for halving in range(_HALVINGS):
            tried, (chance, reached) = at + step / 2**halving, chances(at + step / 2**halving)
            if reached >= height:
                break
        done = reached - height < _FLAT
        at, height = tried, reached
        if done:
            break
    return at


def _group(case: Case) -> str:
    if case.right is not None:
        return "answered"
    return "outside" if case.outside else "unanswered"


# Fitted by `python -m tests.bench.recall_fit` to the demo's wordings that may be trained on, in English and Chinese: as corrections
# 12, 48 and 129 of them in one, two and four wordings, as passages the statutes that they rest on.
DEFAULT = Calibration(Weights(18.57, 12.41, -1.96, 12.61, 0.006), Weights(18.58, 15.63, 0.0, 9.8, 0.1372))
