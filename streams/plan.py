"""What a round consists of: its steps in order, as data. Pure."""

from typing import Literal

from msgspec import Struct

RoundStep = Literal["select", "train", "evaluate", "gate", "swap"]


class PlannedStep(Struct, frozen=True):
    """`order`: the kind of order whose result ends the step; None: the gate's word ends it, which is an event and no worker's.
    `cancellable`: whether somebody may end the round here; what answers people is not left half changed."""

    name: RoundStep
    order: str | None
    cancellable: bool = True


PLAN = (
    PlannedStep("select", "select_snapshot"),
    PlannedStep("train", "train_candidate"),
    PlannedStep("evaluate", "evaluate_candidate"),
    PlannedStep("gate", None),
    PlannedStep("swap", "swap_release", cancellable=False),
)
UNDER_WAY = tuple(step.name for step in PLAN)
CANCELLABLE = tuple(step.name for step in PLAN if step.cancellable)


def after(name: RoundStep) -> PlannedStep:
    """The step that comes next; the last one has none."""
    return PLAN[UNDER_WAY.index(name) + 1]
