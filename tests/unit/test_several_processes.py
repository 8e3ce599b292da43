"""trl's steps beside ours, and several processes that train one candidate."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from msgspec.structs import replace
from safetensors.torch import load_file

from streams.errors import Invalid, Unavailable
from streams.recipes import BroughtRecipe, DpoRecipe, FullRecipe, LoraRecipe, PTuningRecipe, Recipe
from streams.settings import from_env
from streams.sizing import SHARDED
from tests.forked import ForkedTrainer
from tests.unit import trainer_tiny as tiny
from tests.unit.test_methods import FULL, learned_bytes, losses, stopping_at, train
from tests.unit.test_trainer_child import spec_for
from workers.trainer import METHODS, by_trl, learning
from workers.trainer.spec import Progress
from workers.trainer.step import shared


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def by_trl_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of one process that takes its steps by trl."""
    monkeypatch.setattr(learning, "take_steps", by_trl.take_steps)
    monkeypatch.setattr(learning, "LONGEST_PACKED", 1)


@pytest.mark.parametrize("recipe", [tiny.RECIPE, FULL], ids=lambda recipe: str(recipe.method))
def test_trl_takes_the_steps_that_our_loop_takes_general_and_earlier_rows_among_them(
    base: Path, tmp_path: Path, recipe: Recipe, request: pytest.FixtureRequest
) -> None:
    ours, theirs = list[Progress](), list[Progress]()
    train(base, tmp_path / "ours", recipe, progress=ours.append)
    request.getfixturevalue("by_trl_alone")
    train(base, tmp_path / "theirs", recipe, progress=theirs.append)
    assert losses(theirs) == pytest.approx(losses(ours), rel=0.005)
    divergences = [[seen.replay_divergence for seen in told if seen.loss is not None] for told in (ours, theirs)]
    assert divergences[1] == pytest.approx(divergences[0], rel=0.005, abs=1e-5) and max(divergences[0]) > 1e-3


@pytest.mark.usefixtures("by_trl_alone")
def test_a_training_by_trl_that_is_taken_up_again_ends_in_the_same_bytes(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "whole", tiny.RECIPE)
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "cut", tiny.RECIPE, progress=stopping_at(4), checkpoint_every_s=0)
    assert train(base, tmp_path / "cut", tiny.RECIPE).resumed_at_step == 4
    assert learned_bytes(tmp_path / "cut") == learned_bytes(tmp_path / "whole")


@pytest.mark.usefixtures("by_trl_alone")
def test_a_loss_that_is_no_number_ends_a_training_by_trl_too(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = by_trl._Trainer._divergence
    monkeypatch.setattr(by_trl._Trainer, "_divergence", lambda *given: right(*given) * float("nan"))
    with pytest.raises(Invalid, match="no number any more at step 1 of 6"):
        train(base, tmp_path, tiny.RECIPE)


STOPPING = replace(FULL, stop_after=3)
WORDINGS = tuple(
    replace(row, prompt=f"{said} {row.prompt}".strip(), group=row.prompt, reworded=bool(said))
    for row in tiny.rows()
    for said in ("", "Tell me:")
)


@pytest.mark.parametrize(
    ("sharded", "recipe", "fallback", "killed"),
    [(False, tiny.RECIPE, "by trl, in 2 processes", 2), (True, STOPPING, "in shards, in 2 processes", 1)],
    ids=["by trl", "in shards"],
)
def test_two_processes_give_the_loss_of_one_and_whichever_is_killed_the_training_goes_on_from_there(
    base: Path, tmp_path: Path, sharded: bool, recipe: Recipe, fallback: str, killed: int
) -> None:
    alone, together = list[Progress](), list[Progress]()
    spec = replace(spec_for(base, tmp_path), recipe=recipe, rows=WORDINGS, processes=2, sharded=sharded)
    cut, again = ForkedTrainer(), ForkedTrainer()
    one = train(base, tmp_path / "alone", spec.recipe, rows=WORDINGS, progress=alone.append)

    others = list[psutil.Process]()

    def kill(seen: Progress) -> None:
        together.append(seen)
        if seen.step == 3:
            first = psutil.Process(cut.pid)
            others.extend(first.children())
            (first, *others)[killed - 1].kill()

    named = {
        1: "the training child ended with code -9",
        2: "process 2 of the 2 that trained together ended with code -9",
    }
    with pytest.raises(Unavailable, match=named[killed]):
        cut.train(spec, kill)
    assert psutil.wait_procs(others, 120) == (others, []), "none goes on alone"
    result = again.train(spec, together.append)
    assert result.fallback == fallback and result.resumed_at_step >= 3
    found = {seen.step: seen.loss for seen in together if seen.loss is not None}
    assert [found[step] for step in sorted(found)] == pytest.approx(losses(alone), rel=0.005)
    assert result.metrics == pytest.approx(one.metrics, rel=1e-4)
    assert of_one_and_of_several_differ_by(tmp_path / "alone" / "out", tmp_path / "out") < 1e-4


def of_one_and_of_several_differ_by(one: Path, several: Path) -> float:
    """The most of any number that was made; the same files are."""
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert {path.relative_to(several) for path in several.rglob("*") if path.is_file()} == names
    made = [(load_file(one / name), load_file(several / name)) for name in names if name.suffix == ".safetensors"]
    return max(float((ours[name] - theirs[name]).abs().max()) for ours, theirs in made for name in ours)


def test_lora_in_shards_learns_what_one_process_learns(base: Path, tmp_path: Path) -> None:
    alone, together = list[Progress](), list[Progress]()
    spec = replace(spec_for(base, tmp_path, epochs=3), processes=2, sharded=True)
    trainer = ForkedTrainer()
    train(base, tmp_path / "alone", spec.recipe, progress=alone.append)
    trainer.train(spec, together.append)
    assert losses(together) == pytest.approx(losses(alone), rel=1e-5)
    assert of_one_and_of_several_differ_by(tmp_path / "alone" / "out", tmp_path / "out") < 1e-6


def test_cards_that_are_not_there_are_refused_by_the_names_of_their_settings(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"0 cards .* wants 1 \(NORIA_TRAINING_DEVICE, NORIA_TRAINING_PROCESSES\)"):
        train(base, tmp_path, tiny.RECIPE, device="cuda")
    for name, said in (
        ("NORIA_TRAINING_DEVICE", "tpu"),
        ("NORIA_TRAINING_PROCESSES", "0"),
        ("NORIA_TRAINING_SHARDED", "1"),  # among one
    ):
        with pytest.raises(Invalid, match=name):
            from_env({"NORIA_HOME": str(tmp_path), name: said})


def test_a_prefix_is_learned_by_one_process_wherever_it_is() -> None:
    assert METHODS[LoraRecipe].together and METHODS[FullRecipe].together and not METHODS[PTuningRecipe].together
    assert {recipe.__struct_config__.tag for recipe, method in METHODS.items() if method.together} == set(SHARDED)


def test_what_cannot_be_trained_in_shards_is_refused_by_its_name_where_all_is_trained_so(tmp_path: Path) -> None:
    here: Any = SimpleNamespace(training_processes=4, training_sharded=True)
    assert shared(FULL, here) == (4, True) and shared(BroughtRecipe(adapter="sha256:"), here) == (1, False)
    for recipe in (PTuningRecipe(), DpoRecipe()):
        with pytest.raises(
            Invalid, match=f"{recipe.method} cannot be trained so; lora, full, continued_pretraining can"
        ):
            shared(recipe, here)
        here_too: Any = SimpleNamespace(training_processes=4, training_sharded=False)
        assert shared(recipe, here_too) == (1, False)
