"""Rankings as a loss, and what a reward model that was learned from them is worth.

Equation 1 of Ouyang et al. 2022 (arXiv 2203.02155): -1/C(K,2) E[log sigmoid(r(x, better) - r(x, worse))] over all pairs of the K
answers to a prompt, which are run once each and count as one.

Length. Scores that grow with the length of an answer please nobody (Singhal et al. 2023, arXiv 2310.03716), and a regression of the
score on it may be taken out afterwards (Huang et al. 2024, arXiv 2409.17407). But where people do like short answers, that is their
taste. So of the slope of the score by length, within rankings, what people's own choices explain stays (the slope of a
Bradley-Terry model that knows the length alone), and the rest of it is taken out.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from streams.facts.rounds import Calibrated
from streams.recipes import RewardRecipe
from workers.trainer.preference import Answers, enough
from workers.trainer.rows import EncodedRow
from workers.trainer.spec import TrainingPair

Z_95 = 1.959964  # of the normal distribution, two-sided
BINS = 5  # of how sure it is, from a half to one


@dataclass(frozen=True, repr=False)
class Ranking:
    """`rows`: its answers behind their prompts; `tokens`: of each answer alone; `pairs`: of each the better and the worse, by their
    place in `rows`, which weigh `weights`. `lot`: by which it is held out, or not."""

    rows: list[tuple[int, ...]]
    tokens: list[int]
    pairs: list[tuple[int, int]]
    weights: list[float]
    lot: bytes

    @property
    def encoded(self) -> list[EncodedRow]:
        """As rows of which the model's state at the last token is wanted: the one behind it is never looked at."""
        return [EncodedRow((*row, 0), len(row), 0) for row in self.rows]


def rankings_of(recipe: RewardRecipe, pairs: Sequence[TrainingPair], tokenizer: Any, limit: int) -> list[Ranking]:
    """In the order of the pairs. Raises TooFew where nothing can be learned."""
    answers, groups = Answers(tokenizer, limit), dict[str, list[TrainingPair]]()
    for number, pair in enumerate(pairs):
        sides = answers.ids(pair.chosen), answers.ids(pair.rejected)
        if sides[0] != sides[1] and answers.prompt(pair, *sides) is not None:
            groups.setdefault(f"one {number}" if pair.ranking is None else f"of {pair.ranking}", []).append(pair)
    found = [_ranking(recipe, group, answers) for group in groups.values()]
    count = sum(len(ranking.pairs) for ranking in found)
    what = f"of {len(pairs)} pairs {count} can be learned from: the others are above {limit} tokens, or of equal sides"
    enough(recipe, count, what if pairs else "there is no pair of answers")
    return found


def _ranking(recipe: RewardRecipe, pairs: Sequence[TrainingPair], answers: Answers) -> Ranking:
    rows, tokens, places = list[tuple[int, ...]](), list[int](), dict[tuple[Any, str], int]()
    longest = max((answers.ids(words) for pair in pairs for words in (pair.chosen, pair.rejected)), key=len)
    for pair in pairs:
        for words in (pair.chosen, pair.rejected):
            key = (pair.system, pair.history, pair.prompt), words
            if key not in places:
                own = answers.ids(words)
                prompt = answers.prompt(pair, longest) or answers.prompt(pair, own)
                assert prompt is not None
                places[key] = len(rows)
                rows.append(prompt + own)
                tokens.append(len(own))
    first = pairs[0]
    words = "\n".join(
        (str(recipe.seed), first.system or "", first.prompt, *(one for turn in first.history for one in turn))
    )
    return Ranking(
        rows,
        tokens,
        [
            (places[asked, pair.chosen], places[asked, pair.rejected])
            for pair in pairs
            for asked in [(pair.system, pair.history, pair.prompt)]
        ],
        [pair.weight for pair in pairs],
        hashlib.sha256(words.encode()).digest(),
    )


def dealt(recipe: RewardRecipe, rankings: Sequence[Ranking]) -> tuple[list[Ranking], list[Ranking]]:
    """Those that are learned and those that are held out, whole: a ranking is on one side only. By lot, the same in whatever order
    they come. None is held out where there are too few."""
    count = int(recipe.held_out_share * len(rankings))
    held = sorted(range(len(rankings)), key=lambda number: (rankings[number].lot, number))[:count]
    learned = [ranking for number, ranking in enumerate(rankings) if number not in held]
    if sum(len(ranking.pairs) for ranking in learned) < recipe.least:
        return list(rankings), []
    return learned, [rankings[number] for number in held]


def ranking_loss(rankings: Sequence[Ranking], scores: torch.Tensor) -> torch.Tensor:
    """Summed over the rankings. `scores`: of all of their rows, one ranking behind the other, (rows,)."""
    better, worse, weights, first = list[int](), list[int](), list[float](), 0
    for ranking in rankings:
        better += [first + one for one, _ in ranking.pairs]
        worse += [first + other for _, other in ranking.pairs]
        weights += ranking.weights
        first += len(ranking.rows)
    return -(scores.new_tensor(weights) * functional.logsigmoid(scores[better] - scores[worse])).sum()


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` (Wilson 1927, JASA 22, 209)."""
    middle = share + Z_95**2 / (2 * count)
    apart = Z_95 * math.sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2))
    below = 1 + Z_95**2 / count
    return max(0.0, (middle - apart) / below), min(1.0, (middle + apart) / below)


Scores = Sequence[Sequence[float]]
"""Of each ranking's rows."""


def slope(rankings: Sequence[Ranking], scores: Scores) -> float:
    """By how much the score grows with a token of the answer, within rankings (least squares)."""
    up, down = 0.0, 0.0
    for ranking, own in zip(rankings, scores, strict=True):
        score, tokens = sum(own) / len(own), sum(ranking.tokens) / len(ranking.tokens)
        up += sum((s - score) * (t - tokens) for s, t in zip(own, ranking.tokens, strict=True))
        down += sum((t - tokens) ** 2 for t in ranking.tokens)
    return up / down if down else 0.0


def correlation(rankings: Sequence[Ranking], scores: Scores) -> float | None:
    """Pearson's, of score and length, within rankings; None where either is always the same."""
    pairs = list[tuple[float, float]]()
    for ranking, own in zip(rankings, scores, strict=True):
        score, tokens = sum(own) / len(own), sum(ranking.tokens) / len(ranking.tokens)
        pairs += [(s - score, t - tokens) for s, t in zip(own, ranking.tokens, strict=True)]
    square = sum(s * s for s, _ in pairs) * sum(t * t for _, t in pairs)
    return sum(s * t for s, t in pairs) / math.sqrt(square) if square > 1e-12 else None


def peoples_slope(rankings: Sequence[Ranking], most: float) -> float:
    """By how much an answer's odds grow with a token of it, as people chose: of a Bradley-Terry model that knows the length alone,
    from none to `most`. What is beyond that need not be known: then all of the score's slope is theirs."""
    apart = [
        (ranking.tokens[better] - ranking.tokens[worse], weight)
        for ranking in rankings
        for (better, worse), weight in zip(ranking.pairs, ranking.weights, strict=True)
    ]

    def rises(at: float) -> float:
        """The derivative of the log-likelihood, which falls all the way, times the sign of `most`."""
        return math.copysign(1.0, most) * sum(w * t / (1 + math.exp(min(500.0, at * t))) for t, w in apart)

    if rises(0.0) <= 0:
        return 0.0
    low, high = 0.0, most
    if rises(most) >= 0:
        return most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) > 0 else (low, middle)
    return low


def excess_slope(rankings: Sequence[Ranking], scores: Scores) -> float:
    """What of the score's slope by length people's choices do not explain."""
    own = slope(rankings, scores)
    return own - peoples_slope(rankings, own) if own else 0.0


def accuracy(rankings: Sequence[Ranking], scores: Scores) -> dict[str, float]:
    """The share of the pairs whose better side has the higher score, each ranking counting as one; with an interval for as many
    rankings, for the pairs of one hang together. Nothing where there is none."""
    shares = [
        sum(own[better] > own[worse] for better, worse in ranking.pairs) / len(ranking.pairs)
        for ranking, own in zip(rankings, scores, strict=True)
    ]
    if not shares:
        return {}
    share = sum(shares) / len(shares)
    low, high = wilson(share, len(shares))
    return {"accuracy": share, "accuracy_low": low, "accuracy_high": high}


def calibration(rankings: Sequence[Ranking], scores: Scores) -> tuple[Calibrated, ...]:
    """By how sure it is of the answer that it takes for the better one: whether that won."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for ranking, own in zip(rankings, scores, strict=True):
        for better, worse in ranking.pairs:
            margin = own[better] - own[worse]
            sure = 1 / (1 + math.exp(-min(abs(margin), 500.0)))
            bins[min(BINS - 1, int((sure - 0.5) * 2 * BINS))].append((sure, margin > 0))
    return tuple(
        Calibrated(
            len(few), round(sum(sure for sure, _ in few) / len(few), 4), round(sum(won for _, won in few) / len(few), 4)
        )
        for few in bins
        if few
    )
