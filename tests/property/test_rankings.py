"""Rankings of whatever people said: never both ways, never in a circle, never the same on both sides, never of one alone."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import combinations
from math import comb
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.rankings import (
    CONTRADICTED,
    MOST_ANSWERS,
    OVER_SHARE,
    Answer,
    Asked,
    Comparison,
    Ranked,
    Rating,
    rank,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
PEOPLE = st.sampled_from(["ann", "ben", "cleo"])
TEXTS = st.sampled_from(["Sow in March.", "Sow in April.", "sow  in March.", "Never.", "In spring, at the earliest."])


@st.composite
def prompts(draw: st.DrawFn) -> list[Asked]:
    """Some prompts of two questions, with drafts and what was said of them."""
    found, events = [], 0
    for number in range(draw(st.integers(1, 4))):
        answers = tuple(Answer(f"r{number}{index}", draw(TEXTS)) for index in range(draw(st.integers(1, 4))))
        ids = [answer.answer_id for answer in answers]
        comparisons, ratings = [], []
        for _ in range(draw(st.integers(0, 4))):
            events += 1
            at, person = START + timedelta(minutes=draw(st.integers(0, 9))), draw(PEOPLE)
            if draw(st.booleans()):
                cut = draw(st.integers(0, len(ids)))
                mixed = draw(st.permutations(ids))
                tiers = tuple(tier for tier in (tuple(mixed[:cut]), *((one,) for one in mixed[cut:])) if tier)
                said = Comparison(event_id=f"e{events}", person=person, said_at=at, tiers=tiers)
                comparisons.append(said)
            else:
                stars = draw(st.booleans())
                value = draw(st.integers(1, 5) if stars else st.sampled_from([-1, 1]))
                ratings.append(
                    Rating(
                        event_id=f"e{events}",
                        person=person,
                        said_at=at,
                        answer_id=draw(st.sampled_from(ids)),
                        rating=value,
                        scale="stars" if stars else "thumb",
                    )
                )
        question = draw(st.sampled_from(["When are leeks sown?", "when are leeks sown", "How deep are they set?"]))
        found.append(
            Asked(
                prompt_id=f"p{number}",
                question=question,
                context="",
                answers=answers,
                comparisons=tuple(comparisons),
                ratings=tuple(ratings),
            )
        )
    return found


def ordered(person: str, *tiers: str, number: int = 0, minute: int = 0) -> Asked:
    """A prompt whose drafts a person put in an order: a letter is a draft."""
    answers = tuple(Answer(f"{letter}{number}", f"Answer {letter}.") for letter in sorted("".join(tiers)))
    said = Comparison(
        event_id=f"{person} {number}",
        person=person,
        said_at=START + timedelta(minutes=minute),
        tiers=tuple(tuple(f"{letter}{number}" for letter in tier) for tier in tiers),
    )
    return Asked(prompt_id=f"p{number}", question="Which?", context="", answers=answers, comparisons=(said,))


def letters(ranked: Ranked) -> set[str]:
    return {pair.better.answer_id[0] + pair.worse.answer_id[0] for pair in ranked.pairs}


@settings(max_examples=40)
@given(prompts(), st.randoms(use_true_random=False))
def test_no_answer_beats_itself_nor_one_that_beats_it_and_every_pair_names_what_was_said_and_by_whom(
    asked: list[Asked], chance: Random
) -> None:
    texts = {answer.answer_id: " ".join(answer.text.split()) for one in asked for answer in one.answers}
    by = {said.event_id: said.person for one in asked for said in (*one.comparisons, *one.ratings)}
    found = rank(asked, person_share=1)
    for ranking in found.rankings:
        below: dict[str, set[str]] = {}
        for pair in ranking.pairs:
            assert pair.events and {by[event] for event in pair.events} == set(pair.people)
            below.setdefault(texts[pair.better.answer_id], set()).add(texts[pair.worse.answer_id])
        for start in below:
            reached, at = set[str](), [start]
            while at:
                new = below.get(at.pop(), set()) - reached
                reached |= new
                at += new
            assert start not in reached, "in a circle"
    again = rank(chance.sample(asked, len(asked)), person_share=1)
    assert again.rankings == found.rankings and Counter(again.held) == Counter(found.held), (
        "in whatever order it is read"
    )


@settings(max_examples=30)
@given(prompts(), st.sampled_from([0.2, 0.5, 0.8]))
def test_of_one_person_alone_there_is_no_more_than_their_share(asked: list[Asked], share: float) -> None:
    everything = rank(asked, person_share=1).pairs
    found = rank(asked, share)
    people = {person for pair in everything for person in pair.people}
    alone = Counter(pair.people[0] for pair in found.pairs if len(pair.people) == 1)
    most = max(share, 1 / max(1, len(people))) * len(found.pairs) + 1e-9
    assert all(number <= max(1, most) for number in alone.values())
    assert set(found.pairs) <= set(everything)
    dropped = [one for one in found.held if one.reason == OVER_SHARE]
    assert len(dropped) == len(everything) - len(found.pairs)


@settings(max_examples=20)
@given(st.permutations("abcdefghi"), st.integers(2, MOST_ANSWERS))
def test_a_ranking_of_k_drafts_says_all_its_pairs(order: list[str], k: int) -> None:
    found = rank([ordered("ann", *order[:k])])
    assert letters(found) == {a + b for a, b in combinations(order[:k], 2)} and len(found.pairs) == comb(k, 2)
    assert [tier[0].answer_id[0] for tier in found.rankings[0].tiers] == order[:k]


@settings(max_examples=20)
@given(st.permutations("abcde"), st.permutations("abcde"))
def test_two_people_agree_on_what_both_say_and_on_nothing_else(one: list[str], other: list[str]) -> None:
    found = rank([ordered("ann", *one), ordered("ben", *other, number=1)], person_share=1)
    both = {a + b for a, b in combinations(one, 2)} & {a + b for a, b in combinations(other, 2)}
    assert letters(found) == both
    assert sum(held.reason == CONTRADICTED for held in found.held) == comb(5, 2) - len(both)


@settings(max_examples=30)
@given(st.lists(st.tuples(PEOPLE, st.permutations("abc")), min_size=1, max_size=7), st.randoms(use_true_random=False))
def test_a_persons_newest_word_on_two_answers_is_the_one_that_counts(
    said: list[tuple[str, list[str]]], chance: Random
) -> None:
    minutes = chance.sample(range(len(said)), len(said))  # what is read first need not have been said first
    told = [
        (minute, who, ordered(who, *order, number=n, minute=minute))
        for n, (minute, (who, order)) in enumerate(zip(minutes, said, strict=True))
    ]
    everything = rank([one for _, _, one in told])
    only = rank({who: one for _, who, one in sorted(told, key=lambda each: each[0])}.values())
    assert letters(everything) == letters(only)
