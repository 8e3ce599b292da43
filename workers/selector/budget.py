"""The step `budget`: so many tokens of new examples, and no more."""

from collections.abc import Sequence

from streams.selection import Budget
from workers.selector.candidates import Decision, Instruments, OpenExample

OVER_BUDGET = "more tokens than the budget has"


def judge(step: Budget, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]:
    """`number`: of what is kept how many tokens are used with it; of what is not, its place among what would have come next, from
    1. What is shown twice takes twice its tokens; what was learned already takes none: earlier rows are drawn beside the new
    ones, so many a step. What people said goes before what was generated; else the order stays."""
    used, over = 0, 0
    decisions = []
    for one in sorted(candidates, key=lambda one: (not one.learned, one.source == "generated")):
        tokens = 0 if one.learned else round((instruments.tokens(one) or 0) * one.weight)
        if over or used + tokens > step.tokens:
            over += 1
            decisions.append(Decision(one.example_id, False, OVER_BUDGET, over))
            continue
        used += tokens
        decisions.append(Decision(one.example_id, True, number=None if one.learned else used))
    return decisions
