"""The gate's table where people read it: on the page in both languages, on the card, at the command line."""

from typing import Any, get_args

import msgspec
import pytest

from api.cards import card_page
from api.cli.rounds import print_gate
from api.ui.board import draw_board
from api.ui.words import LANGUAGES, known
from streams.gate import (
    ANSWER_LENGTH,
    GENERAL,
    PREFERENCE,
    REWARD_MODEL,
    TITLES,
    Absent,
    GateMargins,
    Means,
    Paired,
    judge,
)
from streams.style import StyleRule, name_of
from tests.door_server import new_round
from tests.unit.test_cards import card

RULES = (StyleRule(rule="at_most_words", value=30), StyleRule(rule="address", value="formal"))
PAIRED = {GENERAL: Paired(200, 120, 1, 2, 77), PREFERENCE: Paired(30, 10, 0, 12, 8)}
PAIRED |= {name_of(rule): Paired(60, 30, 0, 15, 15) for rule in RULES}


def verdict(**told: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(judge(PAIRED, GateMargins(), **told))
    return found


def board(lang: Any, **told: Any) -> str:
    row = new_round("allotments", 2, "released", verdict=verdict(**told), release=2)
    return draw_board({}, [row], [], [], [], [], lang, False)


def test_the_page_tells_of_each_rule_how_many_answers_keep_it_and_what_the_reward_model_finds() -> None:
    means = {ANSWER_LENGTH: Means(200, 61.5, 48.0), REWARD_MODEL: Means(260, -0.4121, 0.731)}
    english, chinese = board("en", means=means), board("zh", means=means)
    for words in (
        "style: At most 30 words",
        "style: The form of address is formal",
        "a model judging a model",
        "−0.412",
    ):
        assert words in english
    for words in ("风格：不超过 30 个词", "风格：称呼对方用“您”", "由模型评判模型", "0.731"):
        assert words in chinese
    assert english.count("50%") == len(RULES) and english.count("75%") == len(RULES)


@pytest.mark.parametrize("why", get_args(Absent))
def test_why_a_reward_model_says_nothing_stands_in_its_row_in_words(
    why: Absent, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = {REWARD_MODEL: why}
    assert known(f"absent_{why.replace(' ', '_')}")
    tables = {lang: board(lang, absent=absent) for lang in LANGUAGES}
    assert len({*tables.values(), *(board(lang) for lang in LANGUAGES)}) == 4
    assert f'<div class="n-muted n-small">{why}' not in tables["zh"]
    judged = verdict(absent=absent)
    assert f"| {why} |" in card_page(card(verdict=judged))
    print_gate(judged["checks"])
    assert why in capsys.readouterr().out


def test_the_page_has_words_for_every_row_that_the_gate_may_have() -> None:
    assert all(known(f"set_{name}") for name in TITLES)
