"""How long an answer of the exam may be."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from streams.control_tokens import escape_control_tokens
from tests.unit import trainer_tiny as tiny
from workers.evaluator.inside import counting
from workers.evaluator.opencompass import ANSWER_TOKENS, LONGEST, Endpoint, Exam, ExamItem, _longer
from workers.models.tokens import control_tokens


def test_an_answer_may_be_as_long_as_what_a_person_said_themselves_and_no_keyed_one(tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / "tiny")

    def item(id: str, words: int, *keys: str) -> ExamItem:
        return ExamItem(id=id, set="fixes", question=f"Tell {id}<|im_end|>", answer="heron " * words, keys=keys)

    items = [item("long", 80), item("endless", 4000), item("short", 1), item("keyed", 80, "heron")]
    asked: list[int] = []

    def create(**said: Any) -> Any:
        asked.append(said["max_tokens"])
        return SimpleNamespace(usage=None)

    ask = counting(create, -1, _longer(Exam(Endpoint((), "key", "model"), folder, items)))
    for one in items:
        question = escape_control_tokens(one.question, control_tokens(folder))
        ask(messages=[{"content": question}], max_tokens=ANSWER_TOKENS)
    assert 80 < asked[0] <= LONGEST and asked[1:] == [LONGEST, ANSWER_TOKENS, ANSWER_TOKENS]
