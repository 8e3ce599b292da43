"""One question, one answer: what counts as the same, whose correction stands, and what happens when people disagree."""

from datetime import UTC, datetime, timedelta

import pytest

from streams import alike
from streams.alike import by_question, near, words_of
from workers.selector.agreement import (
    HELD_BACK,
    KNOWN,
    OUTVOTED,
    REPEATED,
    REPLACED,
    SUPERSEDED,
    Decision,
    OpenExample,
    settle,
)

QUESTION = "When are leeks sown?"
MARCH, APRIL, MAY = "Sow them in March.", "Sow them in April.", "Not before the middle of May."
START = datetime(2026, 3, 1, tzinfo=UTC)


def said(
    person: str,
    answer: str,
    hour: int = 0,
    question: str = QUESTION,
    context: str = "",
    learned: bool = False,
    name: str | None = None,
) -> OpenExample:
    return OpenExample(
        example_id=name or f"{person}@{hour}",
        person=person,
        question=question,
        context=context,
        answer=answer,
        said_at=START + timedelta(hours=hour),
        learned=learned,
    )


def reasons(*candidates: OpenExample) -> list[str]:
    """For each candidate "kept", or why not."""
    found = settle(candidates)
    assert [decision.example_id for decision in found] == [candidate.example_id for candidate in candidates]
    assert all(decision.kept == (decision.reason == "") for decision in found)
    return ["kept" if decision.kept else decision.reason for decision in found]


# What is the same


def test_a_thousand_questions_that_differ_in_a_number_are_told_apart_without_comparing_each_with_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []
    monkeypatch.setattr(alike, "near", lambda left, right: bool(compared.append(1)) or near(left, right))
    asked = [f"How often is pump {number} of ward {number % 7} checked?" for number in range(1000)]
    groups = by_question([*asked, "how often is PUMP 3 of ward 3 cheked?"], lambda question: (question, ""))
    assert sorted(map(len, groups)) == [1] * 999 + [2]
    assert len(compared) < 80_000, "of half a million pairs"


def test_a_template_that_was_filled_in_a_thousand_times_is_told_apart_without_comparing_each_with_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []
    monkeypatch.setattr(alike, "near", lambda left, right: bool(compared.append(1)) or near(left, right))
    names = ["".join("aeioubdgkl"[int(digit)] for digit in f"{number * 7919:07}") for number in range(1000)]
    asked = [f"When is {name} sown?" for name in names]
    mistyped = [f"When is {names[5][:2]}x{names[5][3:]} sown?", f"When is {names[700][1:]} sown?"]
    groups = alike.by_question([*asked, *mistyped], lambda question: (question, ""))
    assert [asked[5], mistyped[0]] in groups and [asked[700], mistyped[1]] in groups
    assert len(groups) == 1000 and len(compared) < 10_000, "of half a million pairs"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Sow in March.", "sow in march"),
        ("Ｓｏｗ ｉｎ Ｍａｒｃｈ", "Sow in March!"),
        ("  sow\nin\tmarch ", "Sow, in: March"),
        ("STRASSE", "straße"),
        ("三月播种。", "三月播种"),
        ("Cafe\u0301 beds", "café beds"),
        ("sow leeks in trenches", "sow leeks in trenchs"),
        ("sow leeks in trenches", "sow leeks in trenxhes"),
        ("", "?!"),
    ],
)
def test_texts_are_the_same_but_for_case_width_punctuation_and_one_mistyped_letter(left: str, right: str) -> None:
    assert near(words_of(left), words_of(right)) and near(words_of(right), words_of(left))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("keep 30 cm apart", "keep 50 cm apart"),
        ("plot number 12345", "plot number 12346"),
        ("row b12345", "row b12346"),
        ("sow in may", "sow in mar"),
        ("sow it", "do not sow it"),
        ("leeks before trenches", "leekz before trenchez"),
        ("trenches", "trenxxes"),
        ("三月播种完成", "四月播种完成"),
        ("naïveté", "naïvetè"),
        ("water daily", "daily water"),
        ("", "yes"),
    ],
)
def test_texts_that_differ_in_a_digit_a_short_word_or_more_than_a_letter_are_not_the_same(
    left: str, right: str
) -> None:
    assert not near(words_of(left), words_of(right)) and not near(words_of(right), words_of(left))


# Whose correction stands


def test_a_single_correction_is_kept() -> None:
    assert settle([said("ana", MARCH)]) == [Decision("ana@0", True, "")]


def test_nothing_comes_of_nothing() -> None:
    assert settle([]) == []


def test_of_people_who_agree_the_newest_words_are_kept() -> None:
    assert reasons(said("ana", MARCH), said("ben", "sow them in march", 2), said("eva", MARCH, 1)) == [
        REPEATED,
        "kept",
        REPEATED,
    ]


def test_of_one_person_the_newest_correction_counts_in_whatever_order_they_come() -> None:
    old, new = said("ana", MARCH, 1), said("ana", APRIL, 2)
    assert reasons(old, new) == [REPLACED, "kept"] and reasons(new, old) == ["kept", REPLACED]


def test_a_person_cannot_outvote_others_by_saying_it_more_often() -> None:
    often = [said("ana", MARCH, hour) for hour in range(5)]
    assert reasons(*often, said("ben", APRIL)) == [HELD_BACK] * 6


def test_what_more_than_half_of_the_people_say_is_kept() -> None:
    assert reasons(said("ana", MARCH), said("ben", APRIL, 1), said("eva", APRIL, 2)) == [OUTVOTED, REPEATED, "kept"]


def test_half_of_the_people_are_not_most_of_them() -> None:
    two_and_two = [said("ana", MARCH), said("ben", MARCH), said("eva", APRIL), said("leo", APRIL)]
    assert reasons(*two_and_two) == [HELD_BACK] * 4
    two_one_one = [said("ana", MARCH), said("ben", MARCH), said("eva", APRIL), said("leo", MAY)]
    assert reasons(*two_one_one) == [HELD_BACK] * 4


def test_who_changes_their_mind_can_settle_a_contradiction() -> None:
    contradiction = [said("ana", MARCH), said("ben", APRIL)]
    assert reasons(*contradiction) == [HELD_BACK, HELD_BACK]
    settled = reasons(*contradiction, said("ana", APRIL, 5))
    assert settled[0] == REPLACED and sorted(settled[1:]) == ["kept", REPEATED]


def test_the_newest_words_are_kept_also_if_their_author_spoke_first() -> None:
    assert reasons(said("ana", MAY), said("ben", APRIL, 1), said("ana", APRIL, 5)) == [REPLACED, REPEATED, "kept"]


def test_one_mistyped_letter_is_no_contradiction() -> None:
    assert reasons(said("ana", "Sow them in trenches."), said("ben", "Sow them in trenchis.", 1)) == [REPEATED, "kept"]


# Which question


def test_different_questions_are_settled_apart() -> None:
    assert reasons(said("ana", MARCH), said("ben", APRIL, question="When are onions sown?")) == ["kept", "kept"]


def test_a_question_typed_in_another_way_is_the_same_question() -> None:
    asked = ["When are artichokes sown", "when are artichokes SOWN?", "When are artichoces sown?"]
    candidates = [said(f"p{number}", MARCH, number, question) for number, question in enumerate(asked)]
    assert reasons(*candidates) == [REPEATED, REPEATED, "kept"]


def test_the_same_question_after_another_history_is_another_question() -> None:
    assert reasons(said("ana", MARCH, context="We speak of Wales."), said("ben", APRIL, context="Of Chile.")) == [
        "kept",
        "kept",
    ]


def test_words_do_not_wander_between_the_question_and_what_came_before_it() -> None:
    one = said("ana", MARCH, question="When are leeks sown", context="in Wales")
    other = said("ben", APRIL, question="When are leeks", context="sown in Wales")
    assert reasons(one, other) == ["kept", "kept"]


def test_questions_that_differ_in_a_number_are_different_questions() -> None:
    candidates = [said("ana", MARCH, question=f"What grows on plot {number}?") for number in (1, 2)]
    assert reasons(*candidates) == ["kept", "kept"]


# What has been learned


def test_what_has_been_learned_stays_and_who_says_it_again_is_told_so() -> None:
    assert reasons(said("ana", MARCH, learned=True), said("ben", MARCH, 1)) == ["kept", KNOWN]


def test_a_new_agreement_supersedes_what_has_been_learned() -> None:
    candidates = [said("ana", MARCH, learned=True), said("ben", APRIL, 1), said("eva", APRIL, 2)]
    assert reasons(*candidates) == [SUPERSEDED, REPEATED, "kept"]


def test_a_persons_own_new_answer_supersedes_what_was_learned_of_them() -> None:
    assert reasons(said("ana", MARCH, learned=True), said("ana", APRIL, 1)) == [SUPERSEDED, "kept"]


def test_while_people_contradict_each_other_the_release_goes_on_saying_what_it_learned() -> None:
    assert reasons(said("ana", MARCH, learned=True), said("ben", APRIL, 1)) == ["kept", HELD_BACK]


def test_what_a_person_said_learned_and_says_again_in_other_words_is_known() -> None:
    assert reasons(said("ana", MARCH, learned=True), said("ana", "SOW THEM IN MARCH", 1)) == ["kept", KNOWN]


# Secrets


def test_a_candidate_shown_in_a_traceback_holds_no_words() -> None:
    assert repr(said("ana", MARCH)) == "OpenExample(ana@0)" and "March" not in f"{[said('ana', MARCH)]}"
