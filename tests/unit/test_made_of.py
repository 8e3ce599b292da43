"""What a proposal was made of, in words, whichever kind of source it is."""

from typing import Any, get_args

import pytest

from api.ui.made_of import draw_source, place_and_words
from api.ui.words import LANGUAGES, known
from streams.facts.material import SourceKind

MAJOR = {"law": "Harbour Act", "article": "Article 3", "rule": "Whoever moors there pays."}
SYLLOGISM = {
    "major": MAJOR,
    "minor": "Ida moored there.",
    "conclusion": {"article": "Article 3", "result": "She pays."},
}
SOURCES: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "passage": ({"title": "Act", "place": "Article 3", "text": "Pay.\n"}, ("Act Article 3", "Pay.")),
    "triple": (
        {"triple": {"subject": "ferry", "predicate": "port", "object": "Skagen"}},
        ("", "ferry — port — Skagen"),
    ),
    "seed": ({"seed": SYLLOGISM}, ("Harbour Act Article 3", "Whoever moors there pays.\nIda moored there.\nShe pays.")),
    "example": ({"text": "Seven knots."}, ("", "Seven knots.")),
    "prompt": ({}, ("", "")),
}


@pytest.mark.parametrize("kind", get_args(SourceKind))
def test_every_kind_of_source_has_words_and_a_name_in_each_language(kind: str) -> None:
    source, words = SOURCES[kind]
    assert place_and_words({"kind": kind, "id": "s-1"} | source) == words
    assert known(f"kind_{kind}")
    assert all(words[1].partition("\n")[0] in draw_source({"kind": kind} | source, lang) for lang in LANGUAGES)


def test_a_task_and_a_question_to_decline_are_told_by_what_they_ask_and_what_is_gone_has_no_words() -> None:
    assert (
        place_and_words({"kind": "seed", "seed": {"instruction": "Say whether.", "instances": []}})[1] == "Say whether."
    )
    assert place_and_words({"kind": "seed", "seed": {"question": "Who won?"}})[1] == "Who won?"
    assert place_and_words({"kind": "triple", "gone": True}) == ("", None)
