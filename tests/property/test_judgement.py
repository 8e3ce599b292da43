"""Whatever the counts, the gate never punishes a right answer; whatever people say, one question keeps one answer."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from streams.gate import (
    EARLIER,
    FIXES,
    GENERAL,
    GENERAL_FIRST,
    HELD_OUT,
    PREFERENCE,
    SERVED,
    SKILL,
    TITLES,
    GateMargins,
    Paired,
    judge,
    mcnemar,
    tango_lower,
)
from streams.hacking import SIGNS
from tests import english
from workers.selector.agreement import HELD_BACK, OpenExample, settle

SETS = (FIXES, EARLIER, HELD_OUT, GENERAL, GENERAL_FIRST, SKILL, *SERVED.values(), PREFERENCE)
SHOWN = tuple(sign.name for sign in SIGNS)  # of these less is better
RANK = {"refuse": 0, "inconclusive": 1, "ship": 2}
COUNTS = st.tuples(*[st.integers(0, 60)] * 4).map(lambda c: Paired(sum(c), *c))
MARGINS = st.builds(
    GateMargins,
    alpha=st.floats(0.01, 0.2),
    earlier_margin=st.floats(0.01, 0.3),
    general_margin=st.floats(0.01, 0.3),
    learn=st.sampled_from(["bare", "served"]),
    least_pairs=st.integers(1, 40),
)
PAIRED = st.fixed_dictionaries({}, optional=dict.fromkeys((*SETS, *SHOWN), COUNTS))


@given(PAIRED, MARGINS, st.sampled_from(SETS))
def test_one_more_right_answer_never_makes_a_verdict_worse(
    found: dict[str, Paired], margins: GateMargins, name: str
) -> None:
    counts = found.get(name)
    before = RANK[judge(found, margins).outcome]
    if counts is None:
        return
    if counts.neither:
        better = replace(counts, neither=counts.neither - 1, only_after=counts.only_after + 1)
        assert RANK[judge(found | {name: better}, margins).outcome] >= before
    if counts.only_before:
        kept = replace(counts, only_before=counts.only_before - 1, both=counts.both + 1)
        assert RANK[judge(found | {name: kept}, margins).outcome] >= before


@given(PAIRED, MARGINS, st.sampled_from(SHOWN))
def test_one_more_answer_that_shows_a_sign_of_pleasing_never_makes_a_verdict_better(
    found: dict[str, Paired], margins: GateMargins, name: str
) -> None:
    counts = found.get(name)
    if counts is not None and counts.neither:
        worse = replace(counts, neither=counts.neither - 1, only_after=counts.only_after + 1)
        assert RANK[judge(found | {name: worse}, margins).outcome] <= RANK[judge(found, margins).outcome]


@given(PAIRED, MARGINS)
def test_what_people_prefer_never_ships_what_was_not_kept(found: dict[str, Paired], margins: GateMargins) -> None:
    pleased = {PREFERENCE: Paired(60, 0, 0, 60, 0)}
    kept = {
        check.name: check.verdict for check in judge(found, margins).checks if check.name not in (FIXES, PREFERENCE)
    }
    after = {check.name: check.verdict for check in judge(found | pleased, margins).checks}
    assert kept.items() <= after.items()
    if judge(found | pleased, margins).outcome == "ship":
        assert not {"fail", "inconclusive"} & set(kept.values())


@given(COUNTS, st.floats(0.001, 0.499))
def test_tangos_bound_lies_between_the_whole_loss_and_the_change_that_was_seen(counts: Paired, alpha: float) -> None:
    lower = tango_lower(counts, alpha)
    assert -1 <= lower <= counts.after - counts.before + 1e-9


@given(COUNTS, st.floats(0.001, 0.4), st.floats(0.001, 0.09))
def test_who_wants_to_be_surer_gets_a_lower_bound(counts: Paired, alpha: float, less: float) -> None:
    assert tango_lower(counts, alpha) <= tango_lower(counts, alpha + less) + 1e-9


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_p_value_is_a_probability_and_does_not_care_which_way(before: int, after: int) -> None:
    assert 0 <= mcnemar(before, after) == mcnemar(after, before) <= 1


@given(PAIRED, MARGINS)
def test_a_verdict_is_the_worst_of_its_checks_and_says_which(found: dict[str, Paired], margins: GateMargins) -> None:
    verdict = judge(found, margins)
    verdicts = {check.verdict for check in verdict.checks}
    expected = "refuse" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "ship"
    bare = (SKILL, HELD_OUT, GENERAL) if SKILL in found else (FIXES, EARLIER, HELD_OUT, GENERAL)
    bare += (GENERAL_FIRST,) * (GENERAL_FIRST in found)
    served = [name for name in SERVED.values() if name in found and found[name].n]
    beside = [name for name in (PREFERENCE, *SHOWN) if name in found]
    assert verdict.outcome == expected and [check.name for check in verdict.checks] == [*bare, *served, *beside]
    wanted = {"refuse": "fail", "inconclusive": "inconclusive", "ship": None}[expected]
    said = english.verdict(verdict)
    assert all((f"{TITLES[check.name]}: " in said) == (check.verdict == wanted) for check in verdict.checks)


QUESTIONS = ("When are leeks sown?", "Who mends the gate?", "Where does the compost go?")
ANSWERS = ("In March.", "in march", "In the first week of April.", "Nobody does.")
CANDIDATES = st.lists(
    st.tuples(
        st.sampled_from(["ana", "ben", "eva", "leo"]),
        st.sampled_from(QUESTIONS),
        st.sampled_from(ANSWERS),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=14,
).map(
    lambda rows: [
        OpenExample(
            example_id=f"e{number}",
            person=person,
            question=question,
            context="",
            answer=answer,
            said_at=datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=hour),
            learned=learned,
        )
        for number, (person, question, answer, hour, learned) in enumerate(rows)
    ]
)


def by_question(candidates: Sequence[OpenExample]) -> list[list[str]]:
    return [[c.example_id for c in candidates if c.question == question] for question in QUESTIONS]


@given(CANDIDATES)
def test_every_candidate_is_kept_or_dropped_with_a_reason(candidates: list[OpenExample]) -> None:
    decisions = settle(candidates)
    assert [decision.example_id for decision in decisions] == [c.example_id for c in candidates]
    assert all(decision.kept != bool(decision.reason) for decision in decisions)


@given(CANDIDATES)
def test_a_question_on_which_people_agree_keeps_one_answer_and_any_other_only_what_was_learned(
    candidates: list[OpenExample],
) -> None:
    found = {decision.example_id: decision for decision in settle(candidates)}
    learned = {c.example_id for c in candidates if c.learned}
    for group in filter(None, by_question(candidates)):
        kept = [one for one in group if found[one].kept]
        dropped = {found[one].reason for one in group if not found[one].kept}
        if HELD_BACK in dropped or set(kept) == set(group) == learned & set(group):
            assert set(kept) == learned & set(group) and dropped <= {HELD_BACK}
        else:
            assert len(kept) == 1


@given(CANDIDATES, st.randoms(use_true_random=False))
def test_what_is_kept_does_not_depend_on_the_order_in_which_it_is_read(
    candidates: list[OpenExample], random: Random
) -> None:
    fresh = [replace(candidate, learned=False) for candidate in candidates]
    shuffled = sorted(fresh, key=lambda _: random.random())
    decide = {decision.example_id: decision for decision in settle(fresh)}
    assert decide == {decision.example_id: decision for decision in settle(shuffled)}


@given(CANDIDATES)
def test_settling_again_what_was_kept_keeps_it(candidates: list[OpenExample]) -> None:
    fresh = [replace(candidate, learned=False) for candidate in candidates]
    kept = {decision.example_id for decision in settle(fresh) if decision.kept}
    standing = [candidate for candidate in fresh if candidate.example_id in kept]
    assert all(decision.kept for decision in settle(standing))
