"""A selection, step by step: what each keeps, what it says of the rest, and which recipes of steps there cannot be."""

from typing import Any

import msgspec
import numpy as np
import pytest

from api.shapes import unknown
from streams.errors import Invalid
from streams.policy import Policy, check_policy, check_readable
from streams.recipes import BroughtRecipe, LoraRecipe, PretrainingRecipe, RewardRecipe
from streams.selection import (
    USUAL,
    Agreement,
    Budget,
    Dedupe,
    Hard,
    KCenter,
    Leakage,
    Length,
    Mixing,
    Nuggets,
    Selection,
    Topics,
    mixed,
)
from streams.snapshots import Line
from tests.candidates import START, Measures, candidate
from workers.selector import STEPS, judge_of
from workers.selector.budget import OVER_BUDGET
from workers.selector.dedupe import REPEATED
from workers.selector.hard import TOO_HARD
from workers.selector.k_center import COVERED, QUOTA, QUOTA_OF_TOPIC, TOO_MANY
from workers.selector.leakage import IN_THE_EXAM, NEAR_THE_EXAM
from workers.selector.length import TOO_LONG
from workers.selector.nuggets import HELPS_LITTLE, UNRANKED, tasks_of
from workers.selector.pipeline import choose

EXAM = {"item-1": "When are the leeks of the upper garden sown?", "item-2": "三月里葱怎么种才好？"}


def turned(**degrees: float) -> dict[str, Any]:
    """Vectors of unit length in a plane, by their angle."""
    return {
        name: np.array([np.cos(np.radians(at)), np.sin(np.radians(at))], np.float32) for name, at in degrees.items()
    }


# Recipes of steps


def policy(*steps: dict[str, Any]) -> Policy:
    return msgspec.convert({"selection": list(steps)}, Policy)


def test_a_policy_that_names_no_selection_means_what_all_rounds_did() -> None:
    assert msgspec.convert({}, Policy).selection == USUAL == (Leakage(), Agreement(), Length())


def test_a_step_that_is_none_is_named_by_its_place() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"'shuffle' - at `\$\.selection\[1\]\.step`"):
        policy({"step": "leakage"}, {"step": "shuffle"})


def test_a_field_that_a_step_has_not_is_named() -> None:
    body = {"selection": [{"step": "leakage"}, {"step": "dedupe", "cosin": 0.9}]}
    assert unknown(body, msgspec.convert(body, Policy)) == "selection[1].cosin"


NEEDED = [{"step": "leakage"}, {"step": "agreement"}, {"step": "length"}]


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (NEEDED[1:], "selection lacks the step leakage"),
        ([NEEDED[0], NEEDED[2], NEEDED[1]], r"selection\[2\] is agreement, which must stand before length"),
        (
            [*NEEDED, {"step": "budget", "tokens": 9}, {"step": "k_center", "k": 9}],
            r"selection\[4\] is k_center, which must stand before budget",
        ),
        ([*NEEDED, NEEDED[2]], r"selection\[3\] is length, which stands there twice"),
        ([*NEEDED, {"step": "dedupe", "cosine": 1.5}], r"selection\[3\]\.cosine must be above 0 and at most 1"),
        ([*NEEDED, {"step": "k_center", "k": 0}], r"selection\[3\]\.k must be from 1"),
        (
            [*NEEDED, {"step": "k_center", "k": 5, "least": {"generated": 6}}],
            r"selection\[3\]\.least asks for 6 in all, and k is 5",
        ),
        (
            [*NEEDED, {"step": "k_center", "k": 5, "least": {"generated": 3}, "most": {"generated": 2}}],
            r"selection\[3\]\.least\.generated and most cannot both be kept: 3 at least, 2 at most",
        ),
        (
            [*NEEDED, {"step": "k_center", "k": 5, "topics": {"count": 1}}],
            r"selection\[3\]\.topics\.count must be from 2 to 1000; got 1",
        ),
        (
            [*NEEDED, {"step": "k_center", "k": 5, "topics": {"count": 2, "least": 3, "most": 2}}],
            r"selection\[3\]\.topics\.least and most cannot both be kept: 3 at least, 2 at most",
        ),
        (
            [*NEEDED, {"step": "k_center", "k": 9, "topics": {"count": 4, "least": 2}, "least": {"generated": 2}}],
            r"selection\[3\]\.topics\.least asks with least for 10 in all, and k is 9",
        ),
        ([*NEEDED, {"step": "budget", "tokens": 0}], r"selection\[3\]\.tokens must be from 1"),
        (
            [{"step": "mixing"}, *NEEDED],
            r"selection\[1\] is leakage, which must stand before mixing",
        ),
        (
            [*NEEDED, {"step": "mixing"}, {"step": "budget", "tokens": 9}],
            r"selection\[4\] is budget, which must stand before mixing",
        ),
        (
            [*NEEDED, {"step": "hard"}, {"step": "dedupe"}],
            r"selection\[4\] is dedupe, which must stand before hard",
        ),
        (
            [*NEEDED, {"step": "mixing", "general": -1}],
            r"selection\[3\]\.general is general tokens to one of the domain",
        ),
        ([*NEEDED, {"step": "hard", "weight": 1}], r"selection\[3\]\.weight must be above 1 and at most 10"),
        ([*NEEDED, {"step": "hard", "share": 0.9, "tail": 0.2}], r"selection\[3\]\.share and tail are more than all"),
        ([*NEEDED, *[{"step": "dedupe"}] * 18], "selection must have at most 20 steps"),
    ],
    ids=str,
)
def test_steps_in_an_order_or_with_numbers_that_cannot_be_are_refused_by_name(steps: list[Any], told: str) -> None:
    found = policy(*steps)
    with pytest.raises(Invalid, match=told):
        check_readable(found)
    with pytest.raises(Invalid, match=told):
        check_policy(found, START)


def test_dedupe_may_come_after_k_center_and_again() -> None:
    check_policy(policy(*NEEDED, {"step": "dedupe"}, {"step": "k_center", "k": 9}, {"step": "dedupe"}), START)


def test_every_kind_of_step_has_its_function() -> None:
    every: Selection = (*USUAL, Dedupe(), KCenter(k=1), Nuggets(), Hard(), Budget(tokens=1), Mixing())
    assert {type(step) for step in every} == set(STEPS)
    assert all(callable(judge_of(step)) for step in every)


# The pipeline


def test_each_candidate_has_one_line_that_says_what_became_of_it_by_which_step_and_next_to_what() -> None:
    asked = [
        candidate("asked", EXAM["item-1"]),
        candidate("old", "How deep are beans sown?", "Five cm."),
        candidate("new", "How deep are beans sown?", "Four cm.", hour=1),
        candidate("long", "Recite the rule."),
        candidate("good", "When is chard cut?", "In autumn.", hour=1),
        candidate("again", "When is chard cut, then?", "In autumn."),
        candidate("late", "What is a dibber?", "A stick that makes holes."),
    ]
    measures = Measures(EXAM, {"long": None, "late": 90})
    selection: Selection = (*USUAL, Dedupe(cosine=0.8), Budget(tokens=30))
    chosen = choose(selection, asked, measures)
    assert [one.example_id for one in chosen.kept] == ["new", "good"]
    assert list(chosen.lines.values()) == [
        Line("asked", "example", False, "leakage", 1.0, "item-1", IN_THE_EXAM),
        Line("old", "example", False, "agreement", None, "new", "replaced by a newer correction of the same person"),
        Line("new", "example", True, "budget", 10),
        Line("long", "example", False, "length", reason=TOO_LONG),
        Line("good", "example", True, "budget", 20),
        Line("again", "example", False, "dedupe", chosen.lines["again"].number, "good", REPEATED),
        Line("late", "example", False, "budget", 1, reason=OVER_BUDGET),
    ]
    assert 0.8 <= (chosen.lines["again"].number or 0) < 1


def test_nothing_comes_of_nothing_and_one_is_kept() -> None:
    quota: Selection = (*USUAL, KCenter(k=3, least={"generated": 2}))
    assert choose(quota, [], Measures()).kept == ()
    selection: Selection = (*USUAL, Dedupe(), KCenter(k=3, keep=()), Nuggets(), Hard(), Budget(tokens=100), Mixing())
    assert choose(selection, [], Measures()).kept == ()
    (one,) = choose(selection, [candidate("one")], Measures()).kept
    assert one.example_id == "one"


# Leakage


@pytest.mark.parametrize(
    ("question", "step", "found"),
    [
        ("when ARE the leeks of the upper garden sown", Leakage(), (IN_THE_EXAM, 1.0, "item-1")),
        ("When are the leeks of the upper garden to be sown?", Leakage(), None),
        ("When are the leeks of the upper garden to be sown?", Leakage(overlap=0.8), (NEAR_THE_EXAM, 0.8571, "item-1")),
        ("葱三月里葱怎么种？", Leakage(overlap=0.5), (NEAR_THE_EXAM, 0.7143, "item-2")),
        ("Who sows leeks?", Leakage(overlap=0.5), None),
        ("Of the upper garden the leeks, when are they sown?", Leakage(cosine=0.8), (NEAR_THE_EXAM, 0.9428, "item-1")),
        ("", Leakage(overlap=0.1, cosine=0.1), None),
    ],
    ids=str,
)
def test_a_question_of_the_exam_is_found_by_its_words_its_trigrams_or_its_meaning(
    question: str, step: Leakage, found: tuple[str, float, str] | None
) -> None:
    asked = [candidate("one", question or "??"), candidate("other", "What else?")]
    first, other = judge_of(step)(step, asked, Measures(EXAM))
    assert other.kept and first.kept == (found is None)
    if found is not None:
        assert (first.reason, first.neighbour) == (found[0], found[2]) and first.number == pytest.approx(
            found[1], abs=0.03
        )


def test_an_exam_that_is_the_training_set_leaves_nothing_and_says_so_of_each() -> None:
    asked = [candidate(f"e-{number}") for number in range(4)]
    chosen = choose(USUAL, asked, Measures({f"i-{number}": one.question for number, one in enumerate(asked)}))
    assert chosen.kept == () and {line.reason for line in chosen.lines.values()} == {IN_THE_EXAM}


def test_what_differs_from_a_question_of_the_exam_in_nothing_but_what_is_masked_is_learned_as_that_question() -> None:
    asked = [candidate("one", "Whose number is 13900139000?"), candidate("other", "Whose berth is 7?")]
    measures = Measures({"item-1": "Whose number is 13800138000?"})
    assert all(decision.kept for decision in judge_of(Leakage())(Leakage(), asked, measures))
    measures.mask = ("phone",)
    assert [decision.kept for decision in judge_of(Leakage())(Leakage(), asked, measures)] == [False, True]


# Dedupe


def test_of_those_that_say_the_same_what_people_said_is_kept_before_what_was_generated_and_then_the_newest() -> None:
    vectors = turned(generated=0, old=1, new=2, apart=80)
    asked = [
        candidate("generated", source="generated", hour=9),
        candidate("old", hour=1),
        candidate("new", hour=2),
        candidate("apart"),
    ]
    decisions = judge_of(Dedupe())(Dedupe(), asked, Measures(given=vectors))
    assert [(d.example_id, d.kept, d.neighbour) for d in decisions] == [
        ("generated", False, "new"),
        ("old", False, "new"),
        ("new", True, None),
        ("apart", True, None),
    ]


def test_what_names_another_number_does_not_say_the_same_however_near_it_is() -> None:
    asked = [candidate("a", "Pump 3?", "Every 30 days."), candidate("b", "Pump 3?", "Every 50 days.")]
    decisions = judge_of(Dedupe())(Dedupe(), asked, Measures(given=turned(a=0, b=1)))
    assert all(decision.kept for decision in decisions)


def test_what_was_learned_already_stays_and_takes_the_place_of_what_says_the_same() -> None:
    asked = [candidate("new", hour=5), candidate("known", learned=True), candidate("too", learned=True)]
    decisions = judge_of(Dedupe())(Dedupe(), asked, Measures(given=turned(new=0, known=1, too=2)))
    assert [decision.kept for decision in decisions] == [False, True, True]


def test_without_a_cosine_only_the_same_words_are_the_same() -> None:
    asked = [candidate("a", "Who?", "She."), candidate("b", "who", "she"), candidate("c", "Who is it?", "She.")]
    decisions = judge_of(Dedupe(cosine=None))(Dedupe(cosine=None), asked, Measures())
    assert [decision.kept for decision in decisions] == [True, False, True]


# K-center


def test_k_center_begins_at_what_is_chosen_already_and_takes_the_farthest() -> None:
    asked = [candidate("known", learned=True)] + [
        candidate(name, source="annotation") for name in ("near", "middle", "far")
    ]
    measures = Measures(given=turned(known=0, near=5, middle=40, far=90))
    decisions = {d.example_id: d for d in judge_of(KCenter(k=1))(KCenter(k=2), asked, measures)}
    assert list(decisions) == ["known", "far", "middle", "near"]
    assert [decision.kept for decision in decisions.values()] == [True, True, True, False]
    assert decisions["far"].neighbour == "known" and decisions["far"].number == pytest.approx(1, abs=1e-4)
    assert decisions["near"].reason == TOO_MANY and decisions["near"].neighbour == "known"


def test_corrections_are_in_by_right_and_count_among_the_k() -> None:
    asked = [
        candidate("c-1"),
        candidate("c-2"),
        candidate("a", source="annotation"),
        candidate("b", source="annotation"),
    ]
    vectors = turned(**{"c-1": 0, "c-2": 1, "a": 90, "b": 45})
    for k, kept in ((1, {"c-1", "c-2"}), (3, {"c-1", "c-2", "a"}), (9, {"c-1", "c-2", "a", "b"})):
        decisions = judge_of(KCenter(k=k))(KCenter(k=k), asked, Measures(given=vectors))
        assert {decision.example_id for decision in decisions if decision.kept} == kept


def test_it_ends_when_nobody_is_farther_than_the_radius() -> None:
    asked = [candidate(name, source="annotation") for name in ("a", "b", "c")]
    step = KCenter(k=3, radius=0.1)
    decisions = judge_of(step)(step, asked, Measures(given=turned(a=0, b=10, c=60)))
    assert [(d.example_id, d.reason) for d in decisions if not d.kept] == [("b", COVERED)] or len(decisions) == 3
    assert sum(decision.kept for decision in decisions) == 2


def test_of_rows_that_are_all_equal_one_is_chosen_and_the_others_say_why() -> None:
    asked = [candidate(f"e-{number}", source="generated") for number in range(700)]
    step = KCenter(k=5)
    decisions = judge_of(step)(step, asked, Measures(given={one.example_id: turned(x=0)["x"] for one in asked}))
    assert [d.example_id for d in decisions if d.kept] == ["e-0"]
    assert {(d.reason, d.number, d.neighbour) for d in decisions if not d.kept} == {(COVERED, 0.0, "e-0")}


def test_quotas_by_source_are_met_or_named() -> None:
    asked = [candidate(f"g-{at}", source="generated") for at in range(0, 90, 10)]
    asked += [candidate(f"a-{at}", source="annotation") for at in (1, 2)]
    measures = Measures(given=turned(**{one.example_id: float(one.example_id[2:]) for one in asked}))

    def kept(step: KCenter) -> list[str]:
        return [decision.example_id for decision in judge_of(step)(step, asked, measures) if decision.kept]

    assert sum(name[0] == "a" for name in kept(KCenter(k=4))) == 0
    assert sum(name[0] == "a" for name in kept(KCenter(k=4, least={"annotation": 2}))) == 2
    assert sum(name[0] == "g" for name in kept(KCenter(k=4, most={"generated": 1}))) == 1
    full = KCenter(k=4, most={"generated": 1, "annotation": 0})
    assert {d.reason for d in judge_of(full)(full, asked, measures) if not d.kept} <= {QUOTA, COVERED}
    with pytest.raises(Invalid, match="at least 3 examples of annotation, and there are 2"):
        kept(KCenter(k=4, least={"annotation": 3}))


def test_a_quota_that_what_is_kept_by_right_leaves_no_room_for_is_named() -> None:
    asked = [candidate("c-1"), candidate("c-2"), candidate("g", source="generated")]
    step = KCenter(k=2, least={"generated": 1})
    with pytest.raises(Invalid, match="more of some sources than there is room for"):
        judge_of(step)(step, asked, Measures(given=turned(**{"c-1": 0, "c-2": 9, "g": 50})))


def test_quotas_by_topic_are_kept_and_what_they_keep_back_says_so() -> None:
    asked = [candidate(f"g-{at}", source="generated") for at in (0, 20, 40, 60, 80)]
    asked += [candidate(f"a-{at}", source="annotation") for at in (175, 176)]
    measures = Measures(given=turned(**{one.example_id: float(one.example_id[2:]) for one in asked}))

    def decided(step: KCenter) -> dict[str, str]:
        found = judge_of(step)(step, asked, measures)
        return {decision.example_id: "" if decision.kept else decision.reason for decision in found}

    spread = [name for name, reason in decided(KCenter(k=4)).items() if not reason]
    assert sum(name[0] == "a" for name in spread) == 1
    fair = decided(KCenter(k=4, topics=Topics(count=2, least=2)))
    assert not fair["a-175"] and not fair["a-176"]
    few = decided(KCenter(k=7, topics=Topics(count=2, most=2)))
    assert sum(not reason for reason in few.values()) == 4
    assert [reason for reason in few.values() if reason] == [QUOTA_OF_TOPIC] * 3
    small = decided(KCenter(k=7, topics=Topics(count=2, least=3)))
    assert not any(small.values()), "a topic of two has no third"
    with pytest.raises(
        Invalid, match="at least 2 examples of annotation, and could choose 1 where of each topic at most 1"
    ):
        decided(KCenter(k=7, topics=Topics(count=2, most=1), least={"annotation": 2}))


# Nuggets


def test_what_nobody_corrected_is_ranked_by_the_share_of_corrections_that_it_helps_with() -> None:
    asked = [candidate(f"c-{number}") for number in range(4)]
    asked += [
        candidate("g-1", answer="one", source="generated"),
        candidate("g-3", answer="one two three", source="generated"),
        candidate("a-4", answer="one two three four", source="annotation"),
        candidate("late", answer="one two three four", source="generated"),
    ]
    step = Nuggets(tasks=9, least=0.5, most=3)
    decisions = judge_of(step)(step, asked, Measures())
    assert [(d.example_id, d.kept, d.number, d.reason) for d in decisions[4:]] == [
        ("a-4", True, 1.0, ""),
        ("g-3", True, 0.75, ""),
        ("g-1", False, 0.25, HELPS_LITTLE),
        ("late", False, None, UNRANKED),
    ]
    assert all(d.kept and d.number is None for d in decisions[:4]), "people's corrections are in by right"


def test_an_example_is_no_task_of_its_own_and_one_alone_is_kept() -> None:
    two = [candidate("a", answer="one", source="annotation"), candidate("b", answer="one two", source="annotation")]
    decisions = judge_of(Nuggets())(Nuggets(), two, Measures())
    assert [(d.example_id, d.number) for d in decisions] == [("b", 1.0), ("a", 0.0)]
    (one,) = judge_of(Nuggets())(Nuggets(), two[:1], Measures())
    assert one.kept and one.number == 0


def test_of_more_corrections_than_tasks_those_in_the_middle_of_their_clusters_are_the_tasks() -> None:
    asked = [candidate(f"{cluster}-{at}") for cluster in ("x", "y", "z") for at in range(5)]
    at = {"x": 0, "y": 60, "z": 120}
    vectors = turned(**{one.example_id: at[one.example_id[0]] + 2.0 * int(one.example_id[2]) for one in asked})
    found = tasks_of(asked, 3, Measures(given=vectors))
    assert [one.example_id for one in found] == ["x-2", "y-2", "z-2"]


# Hard


def test_what_stayed_hard_is_shown_more_often_and_what_is_too_hard_is_looked_at_unless_a_person_said_it() -> None:
    """Of ten learned ones, one is too hard and three are weighed up by perplexity; of ten new ones the same by IFD."""
    known = [candidate(f"k{at}", learned=True, source="annotation") for at in range(10)]
    new = [candidate(f"n{at}", source="generated") for at in range(10)]
    losses = {f"k{at}": (0.1 * at, 9.0) for at in range(10)} | {f"n{at}": (0.1 * at, 1.0) for at in range(10)}
    step = Hard(weight=2.5, share=0.3, tail=0.1)
    asked, measures = [*known, *new], Measures(losses=losses)
    decisions = {d.example_id: d for d in judge_of(step)(step, asked, measures)}
    assert list(decisions) == [one.example_id for one in asked]
    weighed = ("k6", "k7", "k8", "n6", "n7", "n8")
    assert {name for name, one in decisions.items() if one.weight} == {*weighed} and decisions["n7"].weight == 2.5
    assert decisions["k9"].kept and decisions["k9"].number == pytest.approx(np.exp(0.9), abs=1e-3)
    assert [(d.example_id, d.reason, d.number) for d in decisions.values() if not d.kept] == [("n9", TOO_HARD, 0.9)]
    confirmed = [*asked[:-1], candidate("n9", source="generated", confirmed=True)]
    assert all(decision.kept for decision in judge_of(step)(step, confirmed, measures))

    chosen = choose((*USUAL, step), asked, measures)
    assert {one.example_id for one in chosen.kept if one.weight == 2.5} == {*weighed}
    assert chosen.lines["n8"] == Line("n8", "example", True, "hard", 0.8, weight=2.5)
    few = choose((*USUAL, step, Budget(tokens=100)), asked, measures)
    assert len(few.kept) == 10 + 7 and few.kept[-1].example_id == "n6" and few.lines["n6"].number == 10 * 6 + 25


def test_a_question_that_does_not_help_with_its_answer_is_not_shown_more_often_and_what_cannot_be_read_is_left() -> (
    None
):
    asked = [candidate("odd", source="annotation"), candidate("hard"), candidate("long"), candidate("easy")]
    measures = Measures(losses={"odd": (2.0, 1.5), "hard": (1.0, 1.5), "easy": (0.1, 1.5)})
    step = Hard(share=0.67, tail=0)
    found = {d.example_id: (d.kept, d.number, d.weight) for d in judge_of(step)(step, asked, measures)}
    assert found == {
        "odd": (True, 1.3333, None),
        "hard": (True, 0.6667, 2.0),
        "long": (True, None, None),
        "easy": (True, 0.0667, None),
    }


def test_what_the_release_has_learned_is_new_to_the_base() -> None:
    asked = [candidate("a", learned=True), candidate("b", learned=True)]
    measures = Measures(losses={"a": (1.0, 4.0), "b": (2.0, 4.0)}, anew=True)
    assert [d.number for d in judge_of(Hard())(Hard(), asked, measures)] == [0.25, 0.5]


# Mixing


def test_general_tokens_are_mixed_by_what_the_recipe_reads_and_none_into_what_answers_nobody() -> None:
    selection: Selection = (*USUAL, Mixing(general=0.5, pretraining=7))
    assert mixed(selection, LoraRecipe()) == 0.5 and mixed(selection, PretrainingRecipe()) == 7
    assert mixed(USUAL, LoraRecipe()) is None is mixed(selection, None)
    assert mixed(selection, RewardRecipe()) is None is mixed(selection, BroughtRecipe(adapter="sha256:" + "0" * 64))


# Budget


def test_a_budget_takes_what_people_said_first_and_says_what_would_have_come_next() -> None:
    asked = [
        candidate("g-1", source="generated"),
        candidate("c-1"),
        candidate("known", learned=True),
        candidate("g-2", source="generated"),
        candidate("c-2"),
    ]
    step = Budget(tokens=30)
    decisions = {d.example_id: d for d in judge_of(step)(step, asked, Measures(lengths={"known": 900}))}
    assert [name for name, decision in decisions.items() if decision.kept] == ["known", "c-1", "c-2", "g-1"]
    assert (decisions["g-1"].number, decisions["g-2"].number) == (30, 1)
