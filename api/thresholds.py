"""From which score on a memory is good enough: what each threshold would recall of a domain's own exam. Pure.

A right memory is one whose text holds what the question's answer must hold (`streams.scoring`). A threshold is good where hardly
any general question, which no memory of the domain answers, recalls something, and the held-out ones still recall what is right.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

from msgspec import Struct

GENERAL_RECALLED = 0.02  # of the general questions, so many may recall something
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
_STEP = 0.0001  # the memory's scores have four digits
_Z = NormalDist().inv_cdf(0.975)


class Asked(Struct, frozen=True):
    """What was recalled for one question, the best first: the score of each, and whether it is right. `held`: whether any memory of
    the domain holds the answer."""

    scores: tuple[float, ...]
    right: tuple[bool, ...] = ()
    held: bool = True


class Share(Struct, frozen=True):
    """`k` of `n` questions, and where the share lies: Wilson's score interval at 95 % (Wilson 1927, JASA 22:209)."""

    k: int
    n: int
    low: float
    high: float


class Row(Struct, frozen=True):
    """What is recalled from the score `least` on. Of the held-out questions whose answer a memory holds: those of which a right one
    comes `first`, and those of which one is `within` all that is recalled; of the general ones those that recall anything."""

    least: float
    first: Share
    within: Share
    general: Share


class Proposal(Struct, frozen=True):
    """The row of the lowest `least` at which at most GENERAL_RECALLED of the general questions recall something, and how many
    held-out questions lose what is right by it that would recall it at any score."""

    row: Row
    lost: int


class Table(Struct, frozen=True):
    """`unanswerable`: held-out questions whose answer no memory holds. `now`: as the policy has it; its `least` says nothing.
    `proposal` None: no threshold would do, or no general question was asked. `enough`: whether so many general questions can show
    that a share is at most GENERAL_RECALLED; `wanted`: how many can."""

    held_out: int
    unanswerable: int
    general: int
    now: Row
    rows: tuple[Row, ...]
    proposal: Proposal | None
    enough: bool
    wanted: int


def share(k: int, n: int) -> Share:
    """Of no question at all nothing is known: from 0 to 1."""
    if n == 0:
        return Share(0, 0, 0.0, 1.0)
    centre, spread = k + _Z**2 / 2, _Z * sqrt(k * (n - k) / n + _Z**2 / 4)
    # At the ends the interval reaches them; sums would miss them by the last digit.
    low = 0.0 if k == 0 else (centre - spread) / (n + _Z**2)
    high = 1.0 if k == n else (centre + spread) / (n + _Z**2)
    return Share(k, n, low, high)


def row(least: float, held_out: Sequence[Asked], general: Sequence[Asked]) -> Row:
    answerable = [asked for asked in held_out if asked.held]
    recalled = [[right for score, right in zip(a.scores, a.right, strict=True) if score >= least] for a in answerable]
    return Row(
        least=least,
        first=share(sum(found[:1] == [True] for found in recalled), len(answerable)),
        within=share(sum(any(found) for found in recalled), len(answerable)),
        general=share(sum(_best(asked) >= least for asked in general if asked.scores), len(general)),
    )


def lowest(general: Sequence[Asked]) -> float | None:
    """The lowest score at which at most GENERAL_RECALLED of them recall something; None: there is none."""
    if not general:
        return None
    best = sorted((_best(asked) for asked in general if asked.scores), reverse=True)
    may = int(GENERAL_RECALLED * len(general) + 1e-9)
    least = round(best[may] + _STEP, 4) if len(best) > may else 0.0
    return least if least <= 1 else None


def table(
    held_out: Sequence[Asked], general: Sequence[Asked], held_out_now: Sequence[Asked], general_now: Sequence[Asked]
) -> Table:
    """`held_out`, `general`: asked with no least score; `…_now`: as the policy has it."""
    least, anyhow = lowest(general), row(0.0, held_out, general)
    proposal = None
    if least is not None:
        at_it = row(least, held_out, general)
        proposal = Proposal(at_it, anyhow.within.k - at_it.within.k)
    wanted = _wanted()
    return Table(
        held_out=len(held_out),
        unanswerable=sum(not asked.held for asked in held_out),
        general=len(general),
        now=row(0.0, held_out_now, general_now),
        rows=tuple(row(threshold, held_out, general) for threshold in THRESHOLDS),
        proposal=proposal,
        enough=len(general) >= wanted,
        wanted=wanted,
    )


def _best(asked: Asked) -> float:
    return max(asked.scores)


def _wanted() -> int:
    """The fewest questions of which none recalling anything shows that at most GENERAL_RECALLED do."""
    n = 1
    while share(0, n).high > GENERAL_RECALLED:
        n += 1
    return n
