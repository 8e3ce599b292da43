"""Which of two answers a model finds likelier, by the sum over the tokens of each."""

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from transformers import AutoTokenizer

from tests import tiny_llama
from workers.evaluator.likelihood import Task, log_probability, work
from workers.evaluator.pleasing import by_question
from workers.models.base import build_base
from workers.models.loaded import load_model
from workers.trainer.preference import Answers
from workers.trainer.spec import TrainingPair

PAIRS = tuple(
    TrainingPair(prompt=f"What turns wheel {number}?", chosen=chosen, rejected="Nobody.")
    for number, chosen in enumerate(
        ("The river turns it.", "It turns.", "Who?", "In 1999 the water turned it, they say.")
    )
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "tiny"
    build_base(folder, str(tiny_llama.write(tmp_path_factory.mktemp("user") / "tiny", seed=3)))
    return folder


def test_an_answer_is_as_likely_as_all_its_tokens_one_after_the_other_and_its_end(base: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model, answers = load_model(base), Answers(tokenizer, 1000)
    told = []
    for pair in PAIRS:
        sums = []
        for side in (answers.ids(pair.chosen), answers.ids(pair.rejected)):
            prompt = answers.prompt(pair, side)
            assert prompt is not None and side[-1] == tokenizer.eos_token_id
            with torch.inference_mode():
                log_p = model(input_ids=torch.tensor([prompt + side])).logits[0].log_softmax(-1)
            one_by_one = sum(float(log_p[len(prompt) - 1 + at, token]) for at, token in enumerate(side))
            sums.append(one_by_one)
            assert log_probability(model, answers.row(prompt, side)) == pytest.approx(one_by_one, abs=1e-3)
        told.append(sums[0] > sums[1])
    turned = tuple(replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in PAIRS)
    same = tuple(replace(pair, rejected=pair.chosen) for pair in PAIRS)
    found = work(Task((str(base),), (*PAIRS, *turned, *same))).told[0]
    assert found == (*told, *(not one for one in told), *(False for _ in told))


def test_a_pair_that_is_too_long_for_a_model_or_empty_says_nothing(base: Path) -> None:
    pair = PAIRS[0]
    pairs = (replace(pair, rejected="They say. " * 5000), replace(pair, chosen=" "), pair)
    answer = work(Task((str(base), str(base)), pairs))
    assert answer.told[0][:2] == (None, None) and answer.told[0][2] is not None and answer.told[1] == answer.told[0]
    assert "wheel" not in repr(Task((), pairs))


def test_of_one_question_many_pairs_have_one_vote() -> None:
    rankings = ["many"] * 5 + ["tied"] * 2 + ["one"] + ["too long"]
    before = (False, False, False, True, None, True, False, True, None)
    after = (True, True, False, False, True, True, True, False, True)
    assert by_question(rankings, before, after) == [(False, False), (False, True), (True, False)]
    assert by_question(["many"] * 40, (False,) * 40, (True,) * 40) == [(False, True)]
