"""A selection: its steps, one after the other, each on what the ones before it have kept."""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from streams.selection import SelectionStep
from streams.snapshots import Line
from workers.selector import judge_of
from workers.selector.candidates import Instruments, OpenExample


class Chosen(Struct, frozen=True):
    """`kept`: those that are left, the preferred first. `lines`: by candidate, the last that a step had something to say of it."""

    kept: tuple[OpenExample, ...]
    lines: Mapping[str, Line]

    def __repr__(self) -> str:
        return f"Chosen({len(self.kept)} of {len(self.lines)})"


def choose(
    selection: Sequence[SelectionStep],
    candidates: Sequence[OpenExample],
    instruments: Instruments,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Chosen:
    """`tell(done, all)` reports steps. Raises Cancelled, Invalid, Unavailable."""
    if not candidates:
        return Chosen((), {})  # nobody asks for a quota of nothing: what learns from pairs alone has no example
    lines = {one.example_id: Line(one.example_id, "example", True) for one in candidates}
    kept = {one.example_id: one for one in candidates}
    for number, step in enumerate(selection):
        tell(number, len(selection))
        decisions = judge_of(step)(step, tuple(kept.values()), instruments)
        if sorted(decision.example_id for decision in decisions) != sorted(kept):
            raise AssertionError(f"the step {step.name} has not decided on each candidate once")
        for decision in decisions:
            if decision.weight is not None:
                kept[decision.example_id] = replace(kept[decision.example_id], weight=decision.weight)
            if not decision.kept or decision.number is not None:
                lines[decision.example_id] = Line(
                    decision.example_id,
                    "example",
                    decision.kept,
                    step.name,
                    decision.number,
                    decision.neighbour,
                    decision.reason,
                    _weight(kept[decision.example_id]) if decision.kept else None,
                )
        kept = {decision.example_id: kept[decision.example_id] for decision in decisions if decision.kept}
    return Chosen(tuple(kept.values()), lines)


def _weight(one: OpenExample) -> float | None:
    return one.weight if one.weight != 1 else None
