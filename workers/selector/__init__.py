"""Choosing what a round learns from: each step of a selection is one file and one row of the table below, and says of every
candidate whether it is kept, and why.

What a step measures by may be large to load, so its module is loaded when it is needed.
"""

from collections.abc import Mapping
from importlib import import_module

from streams.selection import Agreement, Budget, Dedupe, Hard, KCenter, Leakage, Length, Mixing, Nuggets, SelectionStep
from workers.selector.candidates import Judge

STEPS: Mapping[type[SelectionStep], str] = {
    Leakage: "workers.selector.leakage",
    Agreement: "workers.selector.agreement",
    Length: "workers.selector.length",
    Dedupe: "workers.selector.dedupe",
    KCenter: "workers.selector.k_center",
    Nuggets: "workers.selector.nuggets",
    Hard: "workers.selector.hard",
    Budget: "workers.selector.budget",
    Mixing: "workers.selector.mixing",
}
"""By kind of step: the module whose function `judge` carries it out."""


def judge_of(step: SelectionStep) -> Judge:
    """The function that carries it out."""
    found: Judge = import_module(STEPS[type(step)]).judge
    return found
