"""What is told of a candidate's answers beside the exam: which keep the domain's style, and what a reward model finds of them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from streams.gate import EARLIER, FIXES, GENERAL, HELD_OUT, SKILL, Paired
from streams.recipes import RewardRecipe
from streams.style import StyleRule
from tests.unit import trainer_tiny as tiny
from tests.unit.test_methods import train
from workers.evaluator.opencompass import ExamItem
from workers.evaluator.pleasing import Answered, kept_rules
from workers.evaluator.questions import Question
from workers.evaluator.scores import Task, work
from workers.trainer.reward_model import RewardModel

SHORT, POLITE = StyleRule(rule="at_most_words", value=3), StyleRule(rule="address", value="formal")


def answered(of: str, before: str, after: str) -> Answered:
    item = ExamItem(id=before, set=of, question="What turns the wheel?", answer="", keys=())
    return Answered(Question(item, before, ("key",)), before, after)


def test_how_many_answers_to_the_domains_own_questions_keep_each_rule_before_and_after() -> None:
    said = [
        answered(FIXES, "It is the river that turns it.", "The river."),
        answered(EARLIER, "The river.", "The river turns it now."),
        answered(HELD_OUT, "It isn't known.", "It isn't."),
        answered(GENERAL, "That is a question of another kind.", "One."),
        answered(SKILL, "That is a question of another kind.", "One."),
    ]
    assert kept_rules((SHORT, POLITE), said) == {
        "style at_most_words 3": Paired(n=3, both=1, only_before=1, only_after=1, neither=0),
        "style address formal": Paired(n=3, both=2, only_before=0, only_after=0, neither=1),
    }
    assert kept_rules((SHORT,), said[3:]) == {}, "of a general quiz no guide speaks"


@pytest.fixture(scope="module")
def rewarding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    recipe = RewardRecipe(rank=4, alpha=8.0, epochs=1, batch_rankings=8, held_out_share=0.0)
    return Path(train(tiny.make_model(folder / "base"), folder, recipe, pairs=tiny.pairs()).model_dir)


def test_a_reward_model_scores_with_its_own_tokenizer_what_it_can_and_says_of_which_it_cannot(rewarding: Path) -> None:
    said = [(question, answer) for question, answer in tiny.FACTS[:4]]
    unscored = [("Who?", " "), ("who " * 600, "I.")]
    found = work(Task(str(rewarding), (said[0], *unscored, *said[1:]))).scores
    assert found is not None and found[1:3] == (None, None)
    asked = [([{"role": "user", "content": question}], answer) for question, answer in said]
    assert [one for one in found if one is not None] == pytest.approx(RewardModel(rewarding).score(asked), abs=1e-4)
    assert work(Task(str(rewarding), tuple(unscored))).scores == (None, None)
    assert said[0][0] not in repr(Task("m", tuple(said)))


def test_a_score_that_is_no_number_says_nothing_of_any_answer(rewarding: Path, tmp_path: Path) -> None:
    for file in rewarding.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["score.weight"] = torch.full_like(weights["score.weight"], torch.nan)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert work(Task(str(tmp_path), (tiny.FACTS[0],))).scores is None
