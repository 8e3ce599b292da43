"""An opening round teaches to use what is recalled, from our own material; what it made is there at once for another domain."""

import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from streams.artifacts import Artifacts
from streams.facts.rounds import CandidateTrained
from streams.gate import SKILL
from streams.orders import SelectSnapshot, TrainCandidate
from streams.recalled import with_recalled
from streams.recipes import DpoRecipe, LoraRecipe
from streams.scoring import is_right
from streams.snapshots import FORMAT, Snapshot, load, save
from tests.keyring import Ring
from tests.samples import MADE_WITH
from workers.evaluator.questions import of_skill
from workers.models.golden import GOLDEN_FILE
from workers.selector import step as selection
from workers.trainer import opening
from workers.trainer import step as training
from workers.trainer.opening import opening_recipe, opening_rows, skill_exam
from workers.trainer.spec import Outcome

ITEMS = opening._items()
FACTS = Path(__file__).parents[2] / "deploy" / "demo" / "road_traffic" / "facts.jsonl"


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= letter <= "\u9fff" for letter in text)


def test_the_material_is_enough_in_both_languages_and_no_question_stands_twice() -> None:
    assert max(Counter(item.question for item in ITEMS).values()) == 1
    chinese = [item for item in ITEMS if is_chinese(item.question)]
    assert len(chinese) >= 80 and len(ITEMS) - len(chinese) >= 300
    assert all(is_chinese(item.answer) == is_chinese(item.question) for item in ITEMS)
    assert all(1 <= len(item.passages) <= 3 for item in ITEMS)


def test_every_answer_is_right_by_its_keys_and_no_question_holds_one() -> None:
    for item in ITEMS:
        assert is_right(item.answer, item.answer, item.keys) and not is_right(item.question, item.answer, item.keys)


def test_the_right_passage_is_mostly_the_first_sometimes_another_and_seldom_missing() -> None:
    places = Counter(
        next((n for n, one in enumerate(item.passages) if is_right(one.text, item.answer, item.keys)), None)
        for item in ITEMS
    )
    share = {place: count / len(ITEMS) for place, count in places.items()}
    assert share[0] > 0.6 and share[1] > 0.05 and share[2] > 0.02 and 0.03 < share[None] < 0.12


def test_nothing_that_is_asked_in_the_exam_of_the_skill_is_taught() -> None:
    taught = " ".join(row.prompt + row.answer for row in opening_rows())
    held = skill_exam()
    assert 60 <= len(held) <= 100 and len(opening_rows()) == len(ITEMS) - len(held)
    assert not any(item.question in taught for item in held)
    known = [item for item in held if "not known" not in item.answer and "没有" not in item.answer]
    assert not any(item.answer in taught for item in known)


def test_no_fact_of_the_demos_domain_is_in_it() -> None:
    said = {
        json.loads(line)[language]["answer"] for line in FACTS.read_text().splitlines() for language in ("en", "zh")
    }
    assert not any(answer in row.prompt for answer in said for row in opening_rows())


def test_a_row_is_asked_in_the_one_form_in_which_memories_are_put_before_a_model() -> None:
    item = ITEMS[0]
    memories = [opening.Memory(text=one.text, source=one.source) for one in item.passages]
    assert opening_rows()[0].prompt == with_recalled(item.question, memories)


def test_no_example_is_chosen_for_it(tmp_path: Path) -> None:
    order = SelectSnapshot(order_id=uuid4(), domain="roads", round_id="r", pin=9, opening=True)
    found = selection.select(order, SimpleNamespace())  # type: ignore[arg-type]
    assert found.opening and found.rows == () and found.lines == ()
    artifacts = Artifacts(tmp_path)
    assert load(save(found, artifacts), artifacts).opening
    new, earlier = training.taught(found, Ring())
    assert new.rows == opening_rows() and earlier.rows == () and new.kids == frozenset()


def test_it_is_asked_the_skill() -> None:
    asked = of_skill("roads", Ring())
    assert [q.item.question for q in asked] == [item.asked for item in skill_exam()]
    assert {q.item.set for q in asked} == {SKILL} and {q.kids for q in asked} == {("domain:roads",)}
    assert len({q.fingerprint for q in asked}) == len({(q.item.set, q.item.id) for q in asked}) == len(asked)


def test_it_takes_no_more_epochs_than_the_skill_needs() -> None:
    assert opening_recipe(LoraRecipe(epochs=14)) == LoraRecipe(epochs=opening.EPOCHS)
    assert opening_recipe(LoraRecipe(epochs=2)) == LoraRecipe(epochs=2)


# What it has made


class Trainings:
    """Stands in for the training: writes a model, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def __call__(self, order: TrainCandidate, context: Any, *_: Any) -> training.Made:
        self.count += 1
        folder = self.folder / str(order.order_id)
        model, adapter = folder / "model", folder / "adapter"
        for part in (model, adapter):
            part.mkdir(parents=True)
        (model / GOLDEN_FILE).write_text("{}")
        (model / "weights").write_text(f"of {order.recipe.seed}")
        (adapter / "weights").write_text(f"also of {order.recipe.seed}")
        result = Outcome(
            steps=9,
            epoch_losses=(1.0,),
            final_loss=0.5,
            final_replay_divergence=None,
            tokens=1,
            rows=1,
            rows_left_out=0,
            seconds=7.0,
            cpu_seconds=7.0,
            resumed_at_step=0,
            precision="float32",
            model_dir=str(model),
            adapter_dir=str(adapter),
            export_difference=0.25,
        )
        return training.Made(result, MADE_WITH, 0, folder)


class World:
    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.artifacts = Artifacts(tmp_path / "artifacts")
        self.trainings = Trainings(tmp_path / "training")
        self.said: list[CandidateTrained] = []
        monkeypatch.setattr(training, "train", self.trainings)
        monkeypatch.setattr(training, "strike", lambda *_: None)
        self.context: Any = SimpleNamespace(
            artifacts=self.artifacts,
            keyring=Ring(),
            database=None,
            settings=SimpleNamespace(
                artifacts=tmp_path / "artifacts",
                host="here",
                home=tmp_path,
                training_device="cpu",
                training_processes=1,
                training_sharded=False,
            ),
            keeping=nullcontext,
            publish=lambda order, event, name: self.said.append(event),
        )

    def opened(self, domain: str, **changed: Any) -> CandidateTrained:
        snapshot = Snapshot(FORMAT, domain, f"round of {domain}", 9, (), (), opening=True)
        order = TrainCandidate(
            order_id=uuid4(),
            domain=domain,
            round_id=snapshot.round_id,
            snapshot=save(snapshot, self.artifacts),
            base_model="sha256:" + "a" * 64,
            reference_model="sha256:" + "a" * 64,
            recipe=LoraRecipe(),
            replay_prompts=(),
        )
        training.run(replace(order, **changed), self.context)
        return self.said[-1]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_second_domain_of_the_same_base_has_it_without_training(world: World) -> None:
    first, second = world.opened("roads"), world.opened("wards")
    assert world.trainings.count == 1 and first.duration_s == 7.0 and second.duration_s == 0.0
    assert (second.domain, second.round_id) == ("wards", "round of wards") and second.order_id != first.order_id
    for name in ("model", "adapter", "golden", "loss", "steps", "export_difference"):
        assert getattr(second, name) == getattr(first, name)


@pytest.mark.parametrize(
    "changed",
    [
        {"base_model": "sha256:" + "b" * 64},
        {"reference_model": "sha256:" + "b" * 64},
        {"recipe": LoraRecipe(seed=1)},
        {"replay_prompts": ("Why?",)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_by_another_base_or_recipe_it_is_trained(changed: dict[str, Any], world: World) -> None:
    world.opened("roads")
    world.opened("wards", **changed)
    assert world.trainings.count == 2


def test_of_other_material_it_is_trained(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.opened("roads")
    monkeypatch.setattr(opening, "opening_rows", lambda: opening_rows()[1:])
    world.opened("wards")
    assert world.trainings.count == 2


def test_what_was_removed_meanwhile_is_trained_again(world: World) -> None:
    made = world.opened("roads")
    world.artifacts.remove(made.model)
    assert world.opened("wards").model == made.model and world.trainings.count == 2


def test_what_people_said_is_always_trained(world: World) -> None:
    world.opened("roads")
    snapshot = Snapshot(FORMAT, "wards", "r", 9, (), ())
    world.opened("wards", snapshot=save(snapshot, world.artifacts))
    assert world.trainings.count == 2


def test_an_opening_round_by_a_recipe_that_learns_from_pairs_trains_without_them() -> None:
    assert opening_recipe(DpoRecipe(rank=3)) == LoraRecipe(rank=3, epochs=opening.EPOCHS)
