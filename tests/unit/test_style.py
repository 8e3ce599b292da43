"""How answers are to be worded: each rule in both languages, and what means nothing."""

import pytest
from msgspec.structs import replace

from streams.errors import InvalidField
from streams.recipes import PpoRecipe
from streams.style import (
    RULES,
    StyleRule,
    Value,
    check,
    check_new,
    declines,
    in_words,
    kept,
    language_of,
    name_of,
    preferred,
    rates,
    rule_of,
    score,
    together,
    word_count,
)

EN, ZH = "What is the limit in town?", "市区限速是多少？"
HOLDS: list[tuple[str, Value, str, str, float]] = [
    ("at_most_words", 5, EN, "It is 50 in town.", 1.0),
    ("at_most_words", 5, EN, "In any town of this country the limit is 50.", 0.5),
    ("at_most_words", 5, ZH, "市区限速五十公里。", 1.0),
    ("at_most_words", 5, EN, "", 0.0),
    ("at_least_words", 4, EN, "It is 50.", 0.75),
    ("at_least_words", 4, ZH, "市区限速是五十公里。", 1.0),
    ("names_article", None, EN, "50, by Article 45.", 1.0),
    ("names_article", None, EN, "50, by § 3 of the law.", 1.0),
    ("names_article", None, EN, "An article says 50.", 0.0),
    ("names_article", None, ZH, "五十公里，见第四十五条。", 1.0),
    ("names_article", None, ZH, "五十公里，有条例规定。", 0.0),
    ("number_first", None, EN, "50, by Article 45.", 1.0),
    ("number_first", None, EN, "In towns and villages of the whole country the limit is 50.", 0.5),
    ("number_first", None, EN, "By Article 45 of the law the limit that everybody has to keep is 50.", 0.4),
    ("number_first", None, EN, "There is a limit.", 0.0),
    ("number_first", None, ZH, "五十公里。", 1.0),
    ("number_first", None, ZH, "一般来说十分重要。", 0.0),
    ("same_language", None, EN, "It is 50.", 1.0),
    ("same_language", None, EN, "市区限速五十公里。", 0.0),
    ("same_language", None, ZH, "It is 50.", 0.0),
    ("same_language", None, ZH, "50 km/h，市区限速。", 1.0),
    ("same_language", None, EN, "50", 1.0),
    ("no_opener", None, EN, "Great question! It is 50.", 0.0),
    ("no_opener", None, EN, "Certainly, it is 50.", 0.0),
    ("no_opener", None, EN, "It certainly is 50.", 1.0),
    ("no_opener", None, ZH, "这是个好问题！五十公里。", 0.0),
    ("no_opener", None, ZH, "好的，五十公里。", 0.0),
    ("no_opener", None, ZH, "五十公里。", 1.0),
    ("no_refusal", None, EN, "I'm sorry, but I can't help with that.", 0.0),
    ("no_refusal", None, EN, "One cannot park there.", 1.0),
    ("no_refusal", None, ZH, "抱歉，我无法回答。", 0.0),
    ("no_repetition", None, EN, "It is 50 in town. It is 50 in town.", 5 / 7),
    ("no_repetition", None, EN, "It is 50 in town.", 1.0),
    ("no_repetition", None, EN, "Yes.", 1.0),
    ("whole_sentences", None, EN, "It is 50 in", 0.0),
    ("whole_sentences", None, ZH, "五十公里。", 1.0),
    ("address", "formal", ZH, "您可以开到五十公里。", 1.0),
    ("address", "formal", ZH, "你可以开到五十公里。", 0.0),
    ("address", "familiar", ZH, "您可以开到五十公里。", 0.0),
    ("address", "formal", EN, "You mustn't go faster.", 0.0),
    ("address", "familiar", EN, "You mustn't go faster.", 1.0),
    ("declines_with", "ask the office", EN, "I cannot say. Please ask the office.", 1.0),
    ("declines_with", "ask the office", EN, "I cannot say.", 0.0),
    ("declines_with", "ask the office", EN, "It is 50.", 1.0),
    ("says", "km/h", EN, "50 KM/H", 1.0),
    ("never_says", "km/h", EN, "50 KM/H", 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "value", "asked", "answer", "far"), HOLDS)
def test_how_far_an_answer_keeps_a_rule(rule: str, value: Value, asked: str, answer: str, far: float) -> None:
    found = kept(StyleRule(rule=rule, value=value), asked, answer)
    assert found == pytest.approx(far, abs=0.08) and (found == 1) == (far == 1)


def test_every_rule_is_tried_above_and_none_is_kept_by_an_answer_without_words() -> None:
    assert {rule for rule, *_ in HOLDS} == set(RULES)
    for rule, value, asked, _, _ in HOLDS:
        assert kept(StyleRule(rule=rule, value=value), asked, " ") == 0, rule


def test_an_answer_is_worth_the_mean_of_its_rules_by_their_weights_and_a_rate_is_a_share() -> None:
    short = StyleRule(rule="at_most_words", value=2, weight=3.0)
    number = StyleRule(rule="number_first")
    assert score([short, number], EN, "Fast enough") == pytest.approx(0.75)
    assert rates([short, number], [(EN, "It is 50."), (EN, "50."), (EN, "None")]) == pytest.approx([2 / 3, 2 / 3])
    assert rates([short], []) == [0]


def test_words_are_counted_as_people_count_them_and_a_language_is_what_most_of_it_is_in() -> None:
    assert [word_count(text) for text in ("It's 3.5 km.", "限速五十", "在 town 里", "…")] == [3, 2, 2, 0]
    assert [language_of(text) for text in (EN, ZH, "50", "GB 1495 标准规定的限值")] == ["en", "zh", None, "zh"]
    assert declines("Well. I do not know.") and not declines("It is 50. It is so. I do not know more.")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (StyleRule(rule="rhymes"), "recipe.rules.0..rule is one of at_most_words, .*; got 'rhymes'"),
        (StyleRule(rule="at_most_words"), "recipe.rules.0..value is how many, from 1 to 10000; got None"),
        (StyleRule(rule="at_most_words", value=0), "recipe.rules.0..value is how many"),
        (StyleRule(rule="at_most_words", value="five"), "recipe.rules.0..value is how many"),
        (StyleRule(rule="names_article", value=3), "recipe.rules.0..value names_article takes none; got 3"),
        (StyleRule(rule="address", value="rude"), "recipe.rules.0..value is one of formal, familiar; got 'rude'"),
        (StyleRule(rule="says", value=" "), "recipe.rules.0..value is a text"),
        (StyleRule(rule="no_opener", weight=0.0), "recipe.rules.0..weight must be above 0"),
        (StyleRule(rule="no_opener", weight=float("nan")), "recipe.rules.0..weight must be above 0"),
    ],
)  # fmt: skip
def test_a_rule_that_means_nothing_is_refused_by_its_place(rule: StyleRule, words: str) -> None:
    with pytest.raises(InvalidField, match=words):
        PpoRecipe(rules=(rule,)).check()


def test_every_rule_can_be_read_in_both_languages() -> None:
    values: dict[str | None, Value] = {"count": 30, "text": "formal", None: None}
    for name, kind in RULES.items():
        rule = StyleRule(rule=name, value=values[kind.takes])
        check([rule])
        english, chinese = in_words(rule, "en"), in_words(rule, "zh")
        assert language_of(english) == "en" and language_of(chinese) == "zh"
        assert kind.takes is None or str(rule.value) in english + chinese


def test_a_rule_is_known_again_by_the_name_of_its_row() -> None:
    values: dict[str | None, Value] = {"count": 12, "text": "call 12 of us", None: None}
    for name, kind in RULES.items():
        rule = StyleRule(rule=name, value=kind.choices[0] if kind.choices else values[kind.takes])
        assert rule_of(name_of(rule)) == rule
    assert rule_of("fixes") is None and rule_of("style of old") is None


def test_rules_of_several_guides_stand_once_each() -> None:
    short, shorter = (StyleRule(rule="at_most_words", value=count) for count in (12, 8))
    heavy = replace(short, weight=3.0)
    assert together((short, shorter), (heavy, StyleRule(rule="no_opener"))) == (
        short,
        shorter,
        StyleRule(rule="no_opener"),
    )


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        ([StyleRule(rule="says", value=str(number)) for number in range(21)], "style has at most 20 rules; got 21"),
        ([StyleRule(rule="says", value="a" * 201)], r"style\[0\].value has at most 200 characters"),
        ([StyleRule(rule="no_opener")] * 2, r"style\[1\] stands there before"),
    ],
    ids=["many", "long", "twice"],
)
def test_a_new_guide_fits_a_table(guide: list[StyleRule], words: str) -> None:
    with pytest.raises(InvalidField, match=words):
        check_new(guide)


def test_of_two_answers_the_one_that_keeps_more_of_a_guide_by_weight_is_preferred_and_what_was_accepted_loses_to_no_draft() -> (
    None
):
    guide = (
        StyleRule(rule="at_most_words", value=3, weight=2.0),
        StyleRule(rule="whole_sentences"),
        StyleRule(rule="no_opener"),
    )
    answers = ["It is 50 in town", "It is 50.", "Certainly it is 50 there.", "At 50"]  # keep 1, 4, 1 and 3
    assert preferred(guide, EN, answers) == [(1, 0), (1, 2), (1, 3), (3, 0), (3, 2)]
    assert preferred(guide, EN, answers, accepted={0}) == [(1, 2), (1, 3), (3, 2)]
    assert preferred(guide, EN, answers, accepted={0, 1}) == [(1, 0), (1, 2), (1, 3), (3, 2)]
    assert preferred(guide, EN, ["It is 50.", "It is 60."]) == []
