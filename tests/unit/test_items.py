"""Exam questions and Alpaca examples as other tools write them: what is taken, what is set aside, and what is refused where."""

from typing import Any

import pytest

from api.formats.turns import messages_of
from api.items import Example, ItemFault, Question, counted, read_example, read_question

LAMP = {"instruction": "What colour is the lamp?", "output": "Amber."}


@pytest.mark.parametrize("column", ["input", "system", "history"])
def test_an_optional_column_that_is_null_is_absent(column: str) -> None:
    assert read_example(LAMP | {column: None}).item == Example(**LAMP)  # type: ignore[arg-type]


def test_keys_that_are_null_are_absent() -> None:
    raw = {"question": "Which fuse?", "answer": "2 A", "keys": None}
    assert read_question(raw).item == Question(question="Which fuse?", answer="2 A")


@pytest.mark.parametrize("instruction", [{}, {"instruction": ""}, {"instruction": None}])
def test_an_input_without_an_instruction_is_the_prompt(instruction: dict[str, Any]) -> None:
    item = read_example({"input": "What colour?", "output": "Amber."} | instruction).item
    assert messages_of(item) == [{"role": "user", "content": "What colour?"}]


def test_further_columns_are_set_aside_and_counted_whatever_they_hold() -> None:
    reads = [read_example(LAMP | {"id": 7, "text": "### …"}), read_example(LAMP | {"id": {"a": []}, "note": None})]
    assert counted(reads) == {"id": 2, "text": 1}
    assert [read.item for read in reads] == [Example(**LAMP)] * 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (LAMP | {"output": None}, "output"),
        (LAMP | {"output": " "}, "output"),
        ({"output": "Amber.", "instruction": "", "input": " "}, "instruction"),
        (LAMP | {"history": [["only asked"]]}, "history[0]"),
        (LAMP | {"input": 3}, "input"),
        ("text", ""),
        (LAMP | {"output": "x" * 40_000}, ""),
    ],
)
def test_an_example_that_cannot_be_taken_is_named_by_its_field_and_not_by_its_words(raw: Any, field: str) -> None:
    with pytest.raises(ItemFault) as told:
        read_example(raw)
    assert told.value.field == field and "Amber" not in str(told.value)


def test_a_question_needs_words_in_every_key() -> None:
    with pytest.raises(ItemFault) as told:
        read_question({"question": "How?", "answer": "So.", "keys": ["so", ""]})
    assert told.value.field == "keys[1]"
