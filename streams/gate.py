"""The gate: whether a candidate may go live, by paired tests on the same questions before and after. Pure.

    fixes     must be learned:   exact McNemar test (McNemar 1947; exact binomial form, Fay 2010), two-sided p <= alpha
    earlier   must be kept:      one-sided non-inferiority of the paired difference, by Tango's score interval
    general   must be kept:      (Tango 1998, Statistics in Medicine 17:891) against a stated margin
    held_out  is reported, and refuses only what is significantly worse

What each round may lose of general ability is within the margin of the release before it; so that rounds do not add up, the same is
asked against what they began with, the base of that release (`general_first`), and its fall must be within that margin, too.

Where something is recalled, each set is asked a second time as it is served, behind what is recalled for its questions. As served
nothing may get worse: earlier and general are kept within the same margins, fixes and held-out questions refuse what is
significantly worse. An opening round has no fixes: what it must have learned is the skill. Nor need one have any that moves the
domain to another base: that must keep all that was learned.

A round that learned what people prefer is asked about pairs of answers that were held out: of how many questions the preferred one
is likelier than the other in most pairs. Where it learned nothing else, that must have become more (`preference`), by the exact
test; below `least_pairs` nothing is said of it. Where it did, and of a loss, it refuses what is significantly worse. Its answers to
the general questions are looked through for signs that it learned to please instead (`streams.hacking`): a sign refuses where its
share is certain to have risen by more than the sign's margin. What a reward model finds of the answers is a model judging a model:
it is reported, and decides nothing. So is how many answers keep each rule of the domain's style (`streams.style`).

All that must hold do so at level alpha each: an intersection-union test (Berger 1982), so the whole needs no correction.
A verdict that is neither for nor against is *inconclusive*, and that does not ship.
"""

from collections.abc import Iterator, Mapping
from math import nextafter, sqrt
from statistics import NormalDist
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from streams.errors import InvalidField
from streams.hacking import SIGNS
from streams.style import NAMED

LEAST = 0.0001  # of a level or a margin
MOST_LEAST_PAIRS = 10_000
FIXES, EARLIER, HELD_OUT, GENERAL, SKILL = "fixes", "earlier", "held_out", "general", "skill"
GENERAL_FIRST = "general_first"
"""The general questions once more, where `before` is what the base of the release in force answers."""
PREFERENCE = "preference"
"""Pairs of answers that were held out; right is the model that finds the preferred one likelier."""
ANSWER_LENGTH, REWARD_MODEL = "answer_length", "reward_model"
SERVED = {name: f"{name}_served" for name in (FIXES, EARLIER, HELD_OUT, GENERAL)}
"""The same questions as they are served: behind what is recalled, and bare where nothing is good enough."""

TITLES = {
    FIXES: "fixes learned",
    EARLIER: "earlier fixes kept",
    HELD_OUT: "held-out rewordings",
    GENERAL: "general ability",
    GENERAL_FIRST: "general ability, against the first model",
    SKILL: "use of what is recalled",
    SERVED[FIXES]: "fixes learned, as served",
    SERVED[EARLIER]: "earlier fixes kept, as served",
    SERVED[HELD_OUT]: "held-out rewordings, as served",
    SERVED[GENERAL]: "general ability, as served",
    PREFERENCE: "what people prefer is likelier",
    ANSWER_LENGTH: "length of an answer, characters",
    REWARD_MODEL: "score of the reward model, a model judging a model",
    **{sign.name: sign.title for sign in SIGNS},
}

Questions = Annotated[int, Meta(ge=0, le=100_000)]  # the exact test of more would take longer than anybody waits


class Paired(Struct, frozen=True):
    """How many of `n` questions were answered right before and after, only before, only after, and neither time."""

    n: Questions
    both: Questions
    only_before: Questions
    only_after: Questions
    neither: Questions

    @property
    def before(self) -> float:
        return (self.both + self.only_before) / self.n if self.n else 0.0

    @property
    def after(self) -> float:
        return (self.both + self.only_after) / self.n if self.n else 0.0


class Means(Struct, frozen=True):
    """Of an amount, over the same `n` questions."""

    n: Questions
    before: float
    after: float


Absent = Literal[
    "removed", "learned from somebody erased", "cannot be read", "its score is no number", "no answer to score"
]
"""Why a reward model that the domain has says nothing of the answers."""


class GateMargins(Struct, frozen=True):
    """`earlier_margin` and `general_margin`: by how much the share of right answers may fall at most, shown at level alpha.
    `learn`: how a fix is asked that must be learned: `bare`, so that the weights know it, or as it is `served`, behind what is
    recalled. `least_pairs`: by how many questions with held-out pairs it is judged at least whether a round learned what people
    prefer."""

    alpha: float = 0.05
    earlier_margin: float = 0.10
    general_margin: float = 0.05
    learn: Literal["bare", "served"] = "bare"
    least_pairs: int = 20

    def check(self) -> None:
        """Raise Invalid naming the field, if no candidate could be judged by these."""
        for name in ("alpha", "earlier_margin", "general_margin"):
            value = getattr(self, name)
            if not 0 < value < 0.5:
                raise InvalidField(f"gate.{name}", f"must be above 0 and below 0.5; got {value}")
        if not 1 <= self.least_pairs <= MOST_LEAST_PAIRS:
            raise InvalidField("gate.least_pairs", f"must be from 1 to {MOST_LEAST_PAIRS}; got {self.least_pairs}")

    def check_new(self) -> None:
        """Raise Invalid naming the field, if no exam could be large enough for these."""
        for name in ("alpha", "earlier_margin", "general_margin"):
            value = getattr(self, name)
            if value < LEAST:
                raise InvalidField(f"gate.{name}", f"must be at least {LEAST}, or no exam could show it; got {value}")


CheckVerdict = Literal["pass", "fail", "inconclusive", "nothing to compare", "reported"]


class Check(Struct, frozen=True, omit_defaults=True):
    """One line of the gate's table. `lower`: one-sided lower bound of the change, at confidence 1 - alpha. `of`: what `before` and
    `after` are of the `n` questions. `why`: there is nothing to compare."""

    name: str
    n: int
    before: float
    after: float
    p_value: float | None
    lower: float | None
    margin: float | None
    verdict: CheckVerdict
    of: Literal["share", "mean"] = "share"
    why: Absent | None = None


class Verdict(Struct, frozen=True):
    """`alpha`: the level that each check was made at; None: one of an older log, which told it in words only."""

    outcome: Literal["ship", "refuse", "inconclusive"]
    checks: tuple[Check, ...]
    alpha: float | None = None


def mcnemar(only_before: int, only_after: int) -> float:
    """Two-sided exact p-value of McNemar's test: among the questions that changed, either change was equally likely."""
    changed = only_before + only_after
    if changed == 0:
        return 1.0
    tail, outcomes = 0, 1
    for k in range(min(only_before, only_after) + 1):
        tail += outcomes
        outcomes = outcomes * (changed - k) // (k + 1)
    return min(1.0, float(2 * tail / 2**changed))


def tango_lower(paired: Paired, alpha: float) -> float:
    """One-sided lower bound, at confidence 1 - alpha, of the change in the share of right answers (after less before).

    The bound is the change at which Tango's score statistic equals the normal quantile; found by bisection.
    """
    if paired.n == 0:
        return -1.0
    wanted = NormalDist().inv_cdf(min(1 - alpha, nextafter(1.0, 0.0)))
    low, high = -1.0, (paired.only_after - paired.only_before) / paired.n
    for _ in range(60):
        middle = (low + high) / 2
        if _score(paired, middle) > wanted:
            low = middle
        else:
            high = middle
    return low


def _score(paired: Paired, change: float) -> float:
    """Tango's score statistic for the hypothesis that the true change is `change`."""
    n, b, c = paired.n, paired.only_after, paired.only_before
    # The maximum-likelihood share of "only before" under the hypothesis (Tango's q21), root of 2n q^2 + B q + C = 0.
    linear = -b - c + (2 * n - b + c) * change
    constant = -c * change * (1 - change)
    share = (sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * share + change * (1 - change))
    difference = b - c - n * change
    if variance <= 0:
        return float("inf") if difference > 0 else 0.0
    return difference / sqrt(variance)


def judge(
    paired: Mapping[str, Paired],
    margins: GateMargins,
    moves: bool = False,
    means: Mapping[str, Means] | None = None,
    absent: Mapping[str, Absent] | None = None,
) -> Verdict:
    """The verdict on a candidate, from its paired counts by exam set. A set that is missing has nothing to compare. `moves`: it is
    of another base, and may come without new fixes where there are earlier ones. `means` are reported, and so is which of them are
    `absent`."""
    checks = (*_checks(paired, margins, moves), *_means(means or {}, absent or {}))
    found = {check.verdict for check in checks}
    outcome: Literal["ship", "refuse", "inconclusive"] = "ship"
    if "fail" in found:
        outcome = "refuse"
    elif "inconclusive" in found:
        outcome = "inconclusive"
    return Verdict(outcome, checks, margins.alpha)


def _checks(paired: Mapping[str, Paired], margins: GateMargins, moves: bool) -> Iterator[Check]:
    empty, alpha = Paired(0, 0, 0, 0, 0), margins.alpha
    earlier, general = margins.earlier_margin, margins.general_margin
    served = {name: paired.get(asked, empty) for name, asked in SERVED.items()}
    without_fixes = moves and not paired.get(FIXES, empty).n and bool(paired.get(EARLIER, empty).n)
    fixed = paired.get(FIXES, empty).n or served[FIXES].n
    by_preference = PREFERENCE in paired and not (SKILL in paired or fixed or without_fixes)
    if SKILL in paired:
        yield _learning(SKILL, paired[SKILL], alpha)
    elif margins.learn == "served" and served[FIXES].n:
        yield _reported(FIXES, paired.get(FIXES, empty), alpha)
    elif without_fixes or by_preference:
        yield _check(FIXES, empty, "nothing to compare")
    else:
        yield _learning(FIXES, paired.get(FIXES, empty), alpha)
    if SKILL not in paired:
        yield _keeping(EARLIER, paired.get(EARLIER, empty), alpha, earlier)
    yield _reported(HELD_OUT, paired.get(HELD_OUT, empty), alpha)
    yield _keeping(GENERAL, paired.get(GENERAL, empty), alpha, general)
    if GENERAL_FIRST in paired:
        yield _keeping(GENERAL_FIRST, paired[GENERAL_FIRST], alpha, general)
    if served[FIXES].n:
        if margins.learn == "served":
            yield _learning_or_right(SERVED[FIXES], served[FIXES], alpha, earlier)
        else:
            yield _reported(SERVED[FIXES], served[FIXES], alpha)
    if served[EARLIER].n:
        yield _keeping(SERVED[EARLIER], served[EARLIER], alpha, earlier)
    if served[HELD_OUT].n:
        yield _reported(SERVED[HELD_OUT], served[HELD_OUT], alpha)
    if served[GENERAL].n:
        yield _keeping(SERVED[GENERAL], served[GENERAL], alpha, general)
    if PREFERENCE in paired:
        yield _preferring(paired[PREFERENCE], margins, must=by_preference)
    for sign in SIGNS:
        if sign.name in paired:
            yield _rising(sign.name, paired[sign.name], alpha, sign.margin)
    for name, kept in paired.items():
        if name.startswith(NAMED) and kept.n:
            yield _check(name, kept, "reported", p_value=mcnemar(kept.only_before, kept.only_after))


def _means(means: Mapping[str, Means], absent: Mapping[str, Absent]) -> Iterator[Check]:
    for name in (ANSWER_LENGTH, REWARD_MODEL):
        if name in means:
            mean = means[name]
            yield Check(name, mean.n, mean.before, mean.after, None, None, None, "reported", "mean")
        elif name in absent:
            yield Check(name, 0, 0.0, 0.0, None, None, None, "nothing to compare", "mean", absent[name])


def _learning(name: str, paired: Paired, alpha: float) -> Check:
    if paired.n == 0:
        return _check(name, paired, "inconclusive")
    p = mcnemar(paired.only_before, paired.only_after)
    verdict: CheckVerdict = "inconclusive"  # it could be chance
    if p <= alpha:
        verdict = "pass" if paired.only_after > paired.only_before else "fail"
    return _check(name, paired, verdict, p_value=p)


def _learning_or_right(name: str, paired: Paired, alpha: float, margin: float) -> Check:
    """What a model that uses what is recalled has right before it is trained cannot get better: it passes too if no more than the
    margin is wrong after, and no more than that was lost."""
    check = _learning(name, paired, alpha)
    right = paired.after >= 1 - margin and tango_lower(paired, alpha) > -margin
    return replace(check, verdict="pass") if check.verdict == "inconclusive" and right else check


def _preferring(paired: Paired, margins: GateMargins, must: bool) -> Check:
    """`must`: there is nothing else that the round could have learned."""
    if paired.n < margins.least_pairs:
        return _check(PREFERENCE, paired, "inconclusive" if must else "reported" if paired.n else "nothing to compare")
    judged = _learning if must else _reported
    return replace(judged(PREFERENCE, paired, margins.alpha), lower=tango_lower(paired, margins.alpha))


def _rising(name: str, paired: Paired, alpha: float, margin: float) -> Check:
    if paired.n == 0:
        return _check(name, paired, "nothing to compare", margin=margin)
    lower = tango_lower(paired, alpha)
    return _check(name, paired, "fail" if lower > margin else "reported", lower=lower, margin=margin)


def _keeping(name: str, paired: Paired, alpha: float, margin: float) -> Check:
    if paired.n == 0:
        return _check(name, paired, "nothing to compare", margin=margin)
    lower = tango_lower(paired, alpha)
    swapped = Paired(paired.n, paired.both, paired.only_after, paired.only_before, paired.neither)
    upper = -tango_lower(swapped, alpha)
    verdict: CheckVerdict = "inconclusive"  # a fall of more than the margin cannot be ruled out
    if lower > -margin:
        verdict = "pass"
    elif upper < -margin:
        verdict = "fail"
    return _check(name, paired, verdict, lower=lower, margin=margin)


def _reported(name: str, paired: Paired, alpha: float) -> Check:
    if paired.n == 0:
        return _check(name, paired, "nothing to compare")
    p = mcnemar(paired.only_before, paired.only_after)
    worse = p <= alpha and paired.only_before > paired.only_after
    return _check(name, paired, "fail" if worse else "reported", p_value=p)


def _check(
    name: str,
    paired: Paired,
    verdict: CheckVerdict,
    p_value: float | None = None,
    lower: float | None = None,
    margin: float | None = None,
) -> Check:
    return Check(name, paired.n, paired.before, paired.after, p_value, lower, margin, verdict)
