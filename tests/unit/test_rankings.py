"""Which answer beats which: by picks, corrections, stars and thumbs; and why what makes no pair makes none."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from streams.rankings import (
    CONTRADICTED,
    CROWDED,
    EQUAL,
    MOST_ANSWERS,
    OVER_SHARE,
    Answer,
    Asked,
    Comparison,
    Ranked,
    Rating,
    Scale,
    is_held_out,
    rank,
)

START = datetime(2026, 3, 1, tzinfo=UTC)


def asked(
    texts: dict[str, str] | str,
    *said: Comparison | Rating,
    prompt_id: str = "p1",
    question: str = "When are leeks sown?",
    context: str = "",
) -> Asked:
    """A prompt with its answers: a letter, or a text, for each."""
    texts = {letter: f"Answer {letter}." for letter in texts} if isinstance(texts, str) else texts
    return Asked(
        prompt_id=prompt_id,
        question=question,
        context=context,
        answers=tuple(Answer(id_, text) for id_, text in texts.items()),
        comparisons=tuple(one for one in said if isinstance(one, Comparison)),
        ratings=tuple(one for one in said if isinstance(one, Rating)),
    )


def said(person: str, *tiers: str, minute: int = 0) -> Comparison:
    at = START + timedelta(minutes=minute)
    return Comparison(event_id=f"{person}@{minute}", person=person, said_at=at, tiers=tuple(map(tuple, tiers)))


def rated(person: str, answer_id: str, rating: int, scale: Scale = "thumb", minute: int = 0) -> Rating:
    at = START + timedelta(minutes=minute)
    return Rating(
        event_id=f"{person} on {answer_id}@{minute}",
        person=person,
        said_at=at,
        answer_id=answer_id,
        rating=rating,
        scale=scale,
    )


def pairs(found: Ranked) -> set[str]:
    return {pair.better.answer_id + pair.worse.answer_id for pair in found.pairs}


def reasons(found: Ranked) -> list[str]:
    return sorted(held.reason for held in found.held)


def test_a_pick_beats_its_rivals_and_says_nothing_of_them() -> None:
    assert pairs(rank([asked("abc", said("ann", "b", "ac"))])) == {"ba", "bc"}


def test_a_correction_beats_the_draft_that_it_corrects_and_what_that_one_beats() -> None:
    found = rank([asked("abC", said("ann", "a", "b"), said("ann", "C", "a", minute=1))])
    assert pairs(found) == {"ab", "Ca", "Cb"}
    (implied,) = [pair for pair in found.pairs if pair.worse.answer_id == "b" and pair.better.answer_id == "C"]
    assert implied.events == ("ann@0", "ann@1"), "it comes of both"


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [
        ((1, "thumb"), (-1, "thumb"), {"ab"}),
        ((4, "stars"), (5, "stars"), {"ba"}),
        ((1, "stars"), (1, "thumb"), {"ba"}),
        ((5, "stars"), (1, "thumb"), set()),
        ((3, "stars"), (3, "stars"), set()),
    ],
)
def test_of_two_answers_that_one_person_rated_the_better_rated_beats_the_other(
    one: tuple[int, Scale], other: tuple[int, Scale], better: set[str]
) -> None:
    assert pairs(rank([asked("ab", rated("ann", "a", *one), rated("ann", "b", *other))])) == better


def test_drafts_of_the_same_question_from_different_releases_are_compared_by_what_people_found_of_each() -> None:
    before = asked({"old": "In May."}, rated("ann", "old", -1), prompt_id="p1")
    after = asked({"new": "In March."}, rated("ben", "new", 5, "stars"), prompt_id="p2", question="when are LEEKS sown")
    found = rank([before, after])
    (pair,) = found.pairs
    assert (pair.better.prompt_id, pair.worse.prompt_id) == ("p2", "p1") and pair.people == ("ann", "ben")
    assert (pair.ranking, pair.events) == ("p1", ("ann on old@0", "ben on new@0"))


def test_stars_of_two_people_are_not_of_one_measure() -> None:
    assert pairs(rank([asked("ab", rated("ann", "a", 4, "stars"), rated("ben", "b", 5, "stars"))])) == set()


def test_the_same_question_after_another_conversation_is_another_question() -> None:
    one = asked("a", rated("ann", "a", 1), prompt_id="p1")
    other = asked("b", rated("ann", "b", -1), prompt_id="p2", context="We spoke of onions.")
    assert rank([one, other]).pairs == ()


def test_what_people_compared_counts_before_what_they_found_of_each() -> None:
    found = rank([asked("ab", said("ann", "a", "b"), rated("ben", "a", -1), rated("cleo", "b", 1))])
    assert pairs(found) == {"ab"}


def test_the_same_text_is_one_answer_whoever_gave_it() -> None:
    texts = {"a": "In March.", "b": "In  March. ", "c": "In May."}
    found = rank([asked(texts, said("ann", "c", "a"), said("ben", "c", "b"))])
    (pair,) = found.pairs
    assert pair.people == ("ann", "ben") and pair.worse.answer_id == "a"


def test_two_equal_sides_are_no_pair_and_are_counted() -> None:
    found = rank([asked({"a": "In March.", "b": "In March."}, said("ann", "a", "b"))])
    assert found.pairs == () and reasons(found) == [EQUAL]


def test_a_pick_still_beats_its_other_rivals_where_one_says_the_same_as_it() -> None:
    texts = {"a": "In March.", "b": "In March.", "c": "In May."}
    found = rank([asked(texts, said("ann", "a", "bc"))])
    assert pairs(found) == {"ac"} and reasons(found) == [EQUAL]


@pytest.mark.parametrize("tiers", [("a", "bc"), ("a", "b", "c"), ("ab", "c")])
def test_where_one_says_the_opposite_of_another_nothing_is_left_though_a_text_stands_twice(tiers: tuple[str]) -> None:
    texts = {"a": "In March.", "b": "In March.", "c": "In May."}
    assert rank([asked(texts, said("ann", *tiers), said("ben", *tiers[::-1]))]).pairs == ()


def test_a_tie_is_no_pair_and_nothing_is_held_back_of_it() -> None:
    found = rank([asked("abc", said("ann", "ab", "c"))])
    assert pairs(found) == {"ac", "bc"} and found.held == ()


def test_what_as_many_people_say_one_way_as_the_other_is_held_back() -> None:
    found = rank([asked("ab", said("ann", "a", "b"), said("ben", "b", "a"))])
    assert found.rankings == () and reasons(found) == [CONTRADICTED]
    assert found.held[0].events == ("ann@0", "ben@0")


def test_most_people_are_followed_and_only_they_stand_by_the_pair() -> None:
    found = rank([asked("ab", said("ann", "a", "b"), said("ben", "b", "a"), said("cleo", "a", "b"))])
    (pair,) = found.pairs
    assert pairs(found) == {"ab"} and pair.people == ("ann", "cleo")


def test_what_goes_round_in_a_circle_is_held_back_and_the_rest_is_kept() -> None:
    circle = [said("ann", "a", "b"), said("ben", "b", "c"), said("cleo", "c", "a"), said("dora", "a", "d")]
    found = rank([asked("abcd", *circle)], person_share=1)
    assert pairs(found) == {"ad"} and reasons(found) == [CONTRADICTED] * 3


def test_a_ranking_stands_in_tiers_the_best_first() -> None:
    (ranking,) = rank([asked("abcd", said("ann", "d", "ab", "c"))]).rankings
    assert [[side.answer_id for side in tier] for tier in ranking.tiers] == [["d"], ["a", "b"], ["c"]]


def test_of_more_answers_than_a_ranking_holds_those_stay_of_which_most_people_said_something() -> None:
    letters = "abcdefghijk"
    crowd = [said("ann", *letters), said("ben", "k", "j", minute=1), said("cleo", "k", "j", minute=1)]
    found = rank([asked(letters, *crowd)], person_share=1)
    assert {side.answer_id for pair in found.pairs for side in (pair.better, pair.worse)} >= {"j", "k"}
    assert reasons(found).count(CROWDED) == len(letters) - MOST_ANSWERS


def test_one_persons_share_is_capped_and_their_newest_is_kept() -> None:
    def question(number: int, who: str) -> Asked:
        pair = said(who, f"a{number}"[:1], "b", minute=number)
        return asked("ab", pair, prompt_id=f"p{number:02}", question=f"Question {chr(97 + number) * 9}?")

    found = rank([question(number, "ann" if number < 8 else "ben" if number < 10 else "cleo") for number in range(12)])
    by = sorted(pair.people[0] for pair in found.pairs)
    assert by == ["ann"] * 4 + ["ben"] * 2 + ["cleo"] * 2, "half of all pairs"
    assert {pair.ranking for pair in found.pairs if pair.people == ("ann",)} == {"p04", "p05", "p06", "p07"}
    assert reasons(found) == [OVER_SHARE] * 4
    assert len(rank([question(number, "ann") for number in range(9)]).pairs) == 9, "who is alone has all of it"


def test_an_answer_is_good_or_bad_by_what_most_found_of_it_and_else_by_whether_it_only_wins_or_loses() -> None:
    found = rank(
        [
            asked("abcd", said("ann", "a", "b", "c"), rated("ben", "a", -1), rated("cleo", "d", 4, "stars")),
            asked("e", rated("ann", "e", 3, "stars"), prompt_id="p2", question="How deep are they set?"),
        ]
    )
    labels = {label.answer.answer_id: (label.good, label.people) for label in found.labels}
    assert labels == {"a": (False, ("ben",)), "c": (False, ("ann", "ben", "cleo")), "d": (True, ("cleo",))}
    assert "b" not in labels and "e" not in labels, "b wins and loses, and of e nobody says anything"


def test_no_words_stand_in_what_a_traceback_would_show() -> None:
    one = asked({"a": "a secret"}, question="a secret too")
    assert "secret" not in repr(one) and "secret" not in repr(one.answers[0])


def test_a_question_is_held_out_by_its_words_whoever_asks_it_and_whenever() -> None:
    questions = [f"What is stored on shelf {number}?" for number in range(1000)]
    out = [question for question in questions if is_held_out(question, "roads")]
    assert 150 < len(out) < 250
    assert {is_held_out(question, "fields") for question in out} == {True, False}, "each domain has its own"
    kept = next(question for question in questions if question not in out)

    def of(*asking: str) -> set[bool]:
        ratings = (rated("ben", "d", 1), rated("cleo", "e", -1))
        found = [
            asked("abc", said("ann", "a", "b"), *ratings, prompt_id=f"p{9 - number}", question=question)
            for number, question in enumerate(asking)
        ]
        ranked = rank([*found, asked("d", rated("ben", "d", 1), question=asking[0], prompt_id="p0")], domain="roads")
        assert ranked.pairs and ranked.labels
        return {one.held_out for one in (*ranked.pairs, *ranked.labels)}

    assert of(out[0]) == of(out[0], out[0].upper()) == of(out[0], f"{out[0]}!", out[0]) == {True}
    assert of(kept) == of(kept, kept.lower()) == {False}
    spelled = [
        (one, other)
        for number in range(1000)
        for one, other in [(f"What is stored on shelf {number}?", f"What is storred on shelf {number}?")]
        if is_held_out(one, "roads") != is_held_out(other, "roads")
    ]
    assert of(*spelled[0]) == of(*spelled[0][::-1]) == {False}, "spelled otherwise it may have been learned"


def by_guide(*tiers: str, minute: int = 0) -> Comparison:
    return replace(said("ann", *tiers, minute=minute), event_id=f"guide {tiers}@{minute}", by_guide=True)


def test_a_guide_has_a_voice_only_where_people_say_nothing_and_imply_nothing() -> None:
    assert pairs(rank([asked("ab", by_guide("a", "b"))])) == {"ab"}
    assert pairs(rank([asked("ab", by_guide("a", "b"), said("ben", "b", "a"))])) == {"ba"}
    assert pairs(rank([asked("ab", by_guide("a", "b"), rated("ann", "b", 1), rated("ben", "a", -1))])) == {"ba"}
    found = rank([asked("ab", by_guide("a", "b"), said("ann", "a", "b"), said("ben", "b", "a"))])
    assert (pairs(found), reasons(found)) == (set(), [CONTRADICTED]), "it gives no casting vote"
    implied = rank([asked("abc", by_guide("c", "a"), said("ann", "a", "b"), said("ben", "b", "c"))])
    assert (pairs(implied), reasons(implied)) == ({"ab", "bc", "ac"}, [])


def test_what_people_imply_is_theirs_and_not_the_guides() -> None:
    found = rank(
        [
            asked(
                "abcd",
                by_guide("a", "b"),
                said("ann", "a", "c"),
                said("ann", "b", "d", minute=1),
                said("ben", "c", "d"),
            )
        ]
    )
    implied = {pair.better.answer_id + pair.worse.answer_id: pair for pair in found.pairs}["ad"]
    assert (implied.people, implied.by_guide) == (("ann", "ben"), False)
    assert sum(pair.by_guide for pair in found.pairs) == 1


def test_what_a_guide_says_leads_to_no_circle_and_its_newest_word_counts() -> None:
    circle = rank([asked("abc", by_guide("a", "b"), by_guide("c", "a"), said("ben", "b", "c"))])
    assert "bc" in pairs(circle) and reasons(circle) == []
    assert not any(pair[::-1] in pairs(circle) for pair in pairs(circle))
    assert pairs(rank([asked("ab", by_guide("a", "b", minute=1), by_guide("b", "a", minute=2))])) == {"ba"}


def test_a_guide_is_nobody_and_has_no_share() -> None:
    many = [asked("ab", by_guide("a", "b"), prompt_id=f"g{n}", question=f"{n} leeks, {n * 7919}?") for n in range(9)]
    found = rank([*many, asked("ab", said("ben", "b", "a"), prompt_id="p", question="What of onions?")])
    assert len(found.pairs) == 10 and reasons(found) == []
    assert sorted((pair.people, pair.by_guide) for pair in found.pairs)[-1] == (("ben",), False)
    assert all(pair.people == ("ann",) for pair in found.pairs if pair.by_guide), "of answers that she was given"
