"""What cannot be trained is refused at once, in a sentence that says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from streams.errors import Invalid
from streams.recipes import (
    BroughtRecipe,
    LoraRecipe,
    PpoRecipe,
    PTuningRecipe,
    Recipe,
    RewardRecipe,
    SftRewardPpoRecipe,
)
from tests.unit import trainer_tiny as tiny
from tests.unit.test_methods import BOTH, DPO, FULL, KTO, PREFIX, READING, STAGED, job, train
from workers.trainer import METHODS, plain
from workers.trainer.checkpoint import load_checkpoint
from workers.trainer.loop import Done, take_steps
from workers.trainer.plan import Step
from workers.trainer.rows import row_limit
from workers.trainer.spec import Progress, TrainingRow

EACH: list[Recipe] = [tiny.RECIPE, FULL, PREFIX, BOTH, READING, DPO, KTO, STAGED]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


def method(recipe: Any) -> str:
    return str(recipe.method) if hasattr(recipe, "method") else ""


@pytest.mark.parametrize("recipe", EACH, ids=method)
def test_an_empty_snapshot(base: Path, tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(
        Invalid, match=r"there is nothing to learn: the snapshot holds no row|there is no pair of answers"
    ):
        train(base, tmp_path, recipe, rows=(), pairs=(), labels=())


@pytest.mark.parametrize("recipe", EACH, ids=method)
def test_an_example_longer_than_the_model_reads(base: Path, tmp_path: Path, recipe: Recipe) -> None:
    long = TrainingRow(prompt="long " * 600, answer="Yes.")
    limit = row_limit(base, recipe)
    assert limit == 512 - getattr(recipe, "virtual_tokens", 0)
    with pytest.raises(Invalid, match=f"none of the 1 rows can be trained: they are empty or above {limit} tokens"):
        train(base, tmp_path, recipe, rows=(long,), pairs=(), labels=())
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize("recipe", EACH, ids=method)
def test_one_example_is_enough(base: Path, tmp_path: Path, recipe: Recipe) -> None:
    few = replace(recipe, epochs=2)
    result = train(base, tmp_path, few, rows=tuple(tiny.rows(0, 1)), earlier=(), replay_prompts=())
    assert result.rows == 1 and result.final_replay_divergence is None
    assert Path(result.model_dir, "model.safetensors").exists() and Path(result.adapter_dir).is_dir()


@pytest.mark.parametrize("recipe", EACH, ids=method)
def test_a_rate_at_which_nothing_can_come_of_it(base: Path, tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(Invalid, match=r"recipe\.learning_rate must be above 0 and at most 1; got 1000\.0"):
        train(base, tmp_path, replace(recipe, learning_rate=1e3))


class Spoiled:
    """Learns nothing; at its third step something of it is no number."""

    def __init__(self, spoil: Callable[[torch.nn.Parameter], Done]) -> None:
        self.named = {"weight": torch.nn.Parameter(torch.ones(3))}
        self.steps = [Step(epoch, (0,), (), ()) for epoch in range(9)]
        self.taken = 0
        self._spoil = spoil

    def one_step(self, step: Step) -> Done:
        self.taken += 1
        weight = self.named["weight"]
        weight.grad = torch.ones(3)
        return self._spoil(weight) if self.taken == 3 else Done(1.0, 0.5, 7)


def no_gradient(weight: torch.nn.Parameter) -> Done:
    weight.grad = torch.tensor([1.0, float("nan"), 1.0])
    return Done(1.0, None, 7)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: Done(float("nan"), 0.5, 7),
        lambda _: Done(float("inf"), None, 7),
        lambda _: Done(1.0, float("nan"), 7),
        no_gradient,
    ],
    ids=["loss", "infinite", "divergence", "gradient"],
)
def test_a_loss_that_is_no_number_any_more_ends_it_at_that_step_and_is_not_kept(
    base: Path, tmp_path: Path, spoil: Callable[[torch.nn.Parameter], Done]
) -> None:
    learner, told = Spoiled(spoil), list[Progress]()
    asked = job(base, tmp_path, tiny.RECIPE, progress=told.append, checkpoint_every_s=0)
    with pytest.raises(
        Invalid, match=r"no number any more at step 3 of 9: .*\(learning_rate 0\.0015, gradient_norm 1\)"
    ):
        take_steps(learner, asked, "run", 0.0)
    assert learner.taken == 3 and [seen.step for seen in told] == [1, 2]
    kept = load_checkpoint(tmp_path / "checkpoint", "run")
    assert kept is not None and kept.step == 2 and kept.losses == (1.0, 1.0)
    assert all(bool(weight.isfinite().all()) for weight in learner.named.values())


def test_a_model_whose_weights_are_no_numbers(base: Path, tmp_path: Path) -> None:
    broken = tiny.make_model(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Invalid, match="the model gives no numbers: its weights are broken"):
        train(broken, tmp_path / "work", tiny.RECIPE, replay_prompts=())


def test_a_family_before_which_no_prefix_can_stand(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise ValueError("Please specify `num_layers`")

    monkeypatch.setattr("peft.get_peft_model", unknown)
    with pytest.raises(Invalid, match="LlamaForCausalLM: no prefix can stand before models of this family"):
        train(base, tmp_path, PREFIX)


def test_a_family_that_does_more_behind_its_last_layer(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "HEAD_ROUNDING", {torch.float32: -1.0})
    with pytest.raises(Invalid, match=r"models of this family cannot be trained \(output layer\)"):
        train(base, tmp_path, PREFIX)


def test_every_method_of_the_table_is_tried_here() -> None:
    elsewhere = {
        RewardRecipe,
        PpoRecipe,
        SftRewardPpoRecipe,
    }  # what has no rows to learn from: `test_reward`, `test_ppo`
    assert {type(recipe) for recipe in EACH} | elsewhere | {BroughtRecipe} == set(METHODS), "which trains nothing"
    assert LoraRecipe in METHODS and PTuningRecipe in METHODS
