"""A training ends early where held-out wordings say so, keeps its best weights, and does so again when it is taken up again."""

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from streams.errors import Invalid
from streams.recipes import Recipe
from tests.unit import trainer_tiny as tiny
from tests.unit.test_methods import PREFIX, job, train
from workers.trainer.loop import Done, take_steps
from workers.trainer.plan import Step
from workers.trainer.rows import EncodedRow
from workers.trainer.spec import Outcome, Progress, TrainingRow
from workers.trainer.stopping import Stopping, held_out

LOSSES = (3.0, 1.0, 2.0, 1.5, 1.75, 2.25, 9.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


def encoded(group: int, token: int, *, reworded: bool = True, beside: bool = False) -> EncodedRow:
    return EncodedRow((1, 2, token), 2, group, beside, token, reworded)


def test_other_wordings_are_held_out_and_never_a_correction_as_it_was_given() -> None:
    given = [encoded(group, group, reworded=False) for group in range(12)]
    others = [encoded(group, 100 + 10 * group + number) for group in range(10) for number in range(3)]
    alone, recalled = encoded(20, 900), [encoded(21, 901, beside=True), encoded(21, 902, beside=True)]
    rows = [*given, *others, alone, *recalled]
    learned, out = held_out(rows, seed=5)
    assert len(out) == 2 and {row.group for row in out} <= set(range(10)), "one wording of a fifth of the facts"
    assert set(out) <= set(others) and sorted([*learned, *out], key=rows.index) == rows
    assert held_out(rows[::-1], seed=5)[1] == out[::-1], "by lot, not by place"
    assert held_out(given, seed=5) == (given, [])


class Learner:
    """Two steps an epoch; `seen`: its weight after each epoch."""

    def __init__(self) -> None:
        self.named = {"weight": torch.nn.Parameter(torch.zeros(3))}
        self.steps = [Step(epoch, (0,), (), ()) for epoch in range(len(LOSSES)) for _ in range(2)]
        self.seen: list[float] = []

    def one_step(self, step: Step) -> Done:
        self.named["weight"].grad = -torch.ones(3)
        return Done(1.0, None, 7)

    def loss(self) -> float:
        self.seen.append(float(self.named["weight"][0]))
        return LOSSES[len(self.seen) - 1]


def test_it_ends_with_the_second_rise_in_a_row_and_keeps_the_weights_of_the_least_loss(
    base: Path, tmp_path: Path
) -> None:
    learner = Learner()
    asked = job(base, tmp_path, tiny.RECIPE)
    taken = take_steps(learner, asked, "run", 0.0, Stopping(2, learner.loss))
    assert taken.held_out == LOSSES[:6] and len(taken.losses) == 12, "of seven epochs of two steps"
    assert taken.best_step == 4 and float(learner.named["weight"][0]) == learner.seen[1] != learner.seen[-1]
    patient = Learner()
    taken = take_steps(patient, job(base, tmp_path, tiny.RECIPE), "other", 0.0, Stopping(9, patient.loss))
    assert len(taken.losses) == 14 and taken.best_step == 4, "the best are kept where it takes all its steps, too"


def test_a_held_out_loss_that_is_no_number_ends_the_training(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="the loss on held-out wordings is no number any more after step 2"):
        take_steps(Learner(), job(base, tmp_path, tiny.RECIPE), "run", 0.0, Stopping(1, lambda: float("nan")))


def rows() -> tuple[TrainingRow, ...]:
    """One of the facts was asked otherwise, too; what is said there nobody can learn from the rest."""
    given = [TrainingRow(prompt=prompt, answer=answer, group=prompt) for prompt, answer in tiny.FACTS[:6]]
    first = tiny.FACTS[0][0]
    other = TrainingRow(prompt="What may one drive?", answer="Six years at night.", group=first, reworded=True)
    return (*given, other)


@pytest.mark.parametrize("recipe", [tiny.RECIPE, PREFIX], ids=["packed", "row by row"])
def test_it_says_where_it_ended_and_ends_in_the_same_bytes_when_it_is_taken_up_again(
    base: Path, tmp_path: Path, recipe: Recipe
) -> None:
    eager = replace(recipe, epochs=30, stop_after=1, learning_rate=0.02)

    def learned(work: Path, killed_at: int | None = None) -> tuple[Outcome, dict[str, bytes]]:
        def listen(seen: Progress) -> None:
            if seen.stage == "training" and seen.step == killed_at:
                raise KeyboardInterrupt

        found = train(base, work, eager, rows=rows(), progress=listen, checkpoint_every_s=0)
        return found, {path.name: path.read_bytes() for path in sorted(Path(found.adapter_dir).glob("*.safetensors"))}

    whole, wanted = learned(tmp_path / "whole")
    told = whole.metrics
    assert told["planned_steps"] == 60 and told["held_out_rows"] == 1 and whole.rows == 6
    assert told["kept_step"] < whole.steps < 60 and told["kept_step"] % 2 == 0, "steps of whole epochs"
    with pytest.raises(KeyboardInterrupt):
        learned(tmp_path / "cut", killed_at=whole.steps - 1)
    again, found = learned(tmp_path / "cut")
    assert again.resumed_at_step >= whole.steps - 2 and found == wanted and again.metrics == told


def test_without_another_wording_it_takes_all_its_steps_and_says_so(base: Path, tmp_path: Path) -> None:
    result = train(base, tmp_path, replace(tiny.RECIPE, stop_after=1), rows=rows()[:-1])
    assert result.metrics == {"planned_steps": 6.0, "held_out_rows": 0.0} and result.steps == 6
