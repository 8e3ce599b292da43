"""A domain's rounds: each step of the state machine, one round at a time."""

from datetime import timedelta
from typing import Any
from uuid import uuid5

import pytest
from msgspec.structs import replace

from streams import orders
from streams.domain import gathered, prospect
from streams.envelope import Consequence
from streams.facts.domains import ClockTicked, DomainCreated, DomainRetired, PolicySet
from streams.facts.examples import ExampleRetired
from streams.facts.releases import RollbackAsked
from streams.facts.rounds import GatePassed, GateRefused, RoundAsked, RoundCancelled, RoundRequested
from streams.gate import GateMargins, judge
from streams.personal import KINDS
from streams.policy import Policy, QuietHours, Schedule, Thresholds
from streams.reasons import reason
from streams.recipes import BroughtRecipe, LoraRecipe
from tests.samples import (
    DOMAIN,
    REFUSED,
    SHIPS,
    START,
    DomainLog,
    correction,
    created,
    evaluated,
    finished,
    preference,
    selected,
    trained,
)
from tests.unit.round_steps import MINUTE, begun, requests, upto_evaluate, upto_swap, upto_train, words

# A domain is made


def test_a_new_domain_asks_for_its_first_engine_and_no_round_begins_before_it_answers() -> None:
    log = DomainLog()
    assert words(log) == ("the domain has not been created",)
    founding = DomainCreated(
        domain=DOMAIN,
        title="Allotments",
        languages=("en",),
        system_prompt="",
        base_model="model-0",
        engine="llamacpp",
        replay_prompts=(),
    )
    (swap,) = log.tell(founding)
    assert swap == orders.SwapRelease(
        order_id=uuid5(log.told[0].envelope.id, "swap_release"),
        domain=DOMAIN,
        release=0,
        model="model-0",
        engine="llamacpp",
        current=None,
        round_id=None,
    )
    assert words(log) == ("no release answers yet",)
    assert log.tell(founding) == (), "made twice, it is the same domain"
    log.tell(PolicySet(domain=DOMAIN, policy=Policy(Thresholds(corrections=1)), by="ops"))
    assert log.tell(correction("early")) == () and log.tell(RoundAsked(domain=DOMAIN, by="ops")) == ()
    said = log.tell(finished(swap))
    assert len(requests(said)) == 1, "what came before the engine answered counts as soon as it does"
    assert log.state.live == 0 and log.state.releases == {0: "model-0"}


def test_a_domain_made_again_under_another_model_stays_what_it_was() -> None:
    log = created()
    before = log.state
    again = DomainCreated(
        domain=DOMAIN,
        title="Other",
        languages=(),
        system_prompt="",
        base_model="other",
        engine="other",
        replay_prompts=(),
    )
    assert log.tell(again) == () and log.state == before


# A round, step by step


def test_the_last_correction_that_was_asked_for_begins_a_round_pinned_to_where_it_stands() -> None:
    log = created()
    assert log.tell(correction("one")) == () and log.state.round is None
    said = log.tell(correction("two", "ben"))
    cause, offset = log.told[-2].envelope.id, log.told[-2].offset
    requested, select = said
    assert isinstance(requested, Consequence)
    round_id = str(uuid5(cause, "round"))
    assert requested == Consequence(
        requested.id,
        RoundRequested(
            domain=DOMAIN,
            round_id=round_id,
            number=1,
            reasons=(reason("corrections_enough", have=2, need=2),),
            pin=offset + 1,
            base_release=0,
            policy=log.state.policy,
        ),
    )
    assert select == orders.SelectSnapshot(
        order_id=uuid5(cause, "select_snapshot"),
        domain=DOMAIN,
        round_id=round_id,
        pin=offset + 1,
        base_model="model-0",
        recipe=LoraRecipe(),
        mask=KINDS,
        reference_model="model-0",
        replay_prompts=("What is a river?",),
    )
    assert words(log) == ("round 1 is under way (select)",)


def test_a_snapshot_is_trained_on_with_the_recipe_that_was_in_force_when_the_round_began() -> None:
    log = created(recipe=LoraRecipe(rank=4))
    select = begun(log)
    log.tell(PolicySet(domain=DOMAIN, policy=Policy(recipe=LoraRecipe(rank=64)), by="ops"))
    (train,) = log.tell(selected(select))
    assert train == orders.TrainCandidate(
        order_id=uuid5(log.told[-1].envelope.id, "train_candidate"),
        domain=DOMAIN,
        round_id=select.round_id,
        snapshot=f"snapshot of {select.round_id}",
        base_model="model-0",
        reference_model="model-0",
        recipe=LoraRecipe(rank=4),
        replay_prompts=("What is a river?",),
    )


def test_a_trained_candidate_is_examined_beside_the_release_that_it_came_from() -> None:
    log = created()
    train = upto_train(log)
    (evaluate,) = log.tell(trained(train))
    assert log.state.round is not None
    assert evaluate == orders.EvaluateCandidate(
        order_id=uuid5(log.told[-1].envelope.id, "evaluate_candidate"),
        domain=DOMAIN,
        round_id=train.round_id,
        snapshot=train.snapshot,
        base_model="model-0",
        candidate_model=f"model of {train.round_id}",
        pin=log.state.round.pin,
        engine="llamacpp",
        first_model="model-0",
    )


def test_a_candidate_that_passes_the_gate_is_swapped_in_and_the_verdict_is_said() -> None:
    log = created()
    evaluate = upto_evaluate(log)
    passed, swap = log.tell(evaluated(evaluate))
    cause = log.told[-2].envelope.id
    verdict = judge(SHIPS, GateMargins())
    assert passed == Consequence(
        uuid5(cause, "gate_passed"),
        GatePassed(domain=DOMAIN, round_id=evaluate.round_id, release=1, verdict=verdict),
    )
    assert swap == orders.SwapRelease(
        order_id=uuid5(cause, "swap_release"),
        domain=DOMAIN,
        release=1,
        model=evaluate.candidate_model,
        engine="llamacpp",
        current=0,
        round_id=evaluate.round_id,
    )


def test_a_finished_release_answers_and_ends_the_round() -> None:
    log = created()
    swap = upto_swap(log)
    assert log.tell(finished(swap), at=START + MINUTE) == ()
    state = log.state
    assert (state.live, state.highest, state.releases) == (1, 1, {0: "model-0", 1: swap.model})
    assert state.round is None and state.last_release_at == START + MINUTE
    assert state.ended is not None and (state.ended.id, state.ended.step) == (swap.round_id, "released")
    assert state.ended.verdict is not None and state.ended.verdict.outcome == "ship"


def test_the_next_round_trains_on_from_the_release_with_the_first_model_as_reference() -> None:
    log = created()
    first = upto_swap(log)
    log.tell(finished(first))
    train = upto_train(log)
    assert (train.base_model, train.reference_model) == (first.model, "model-0")
    assert requests(log.said)[-1].number == 2 and requests(log.said)[-1].base_release == 1


def test_every_nth_round_trains_from_the_domains_first_model_and_is_examined_beside_the_release_in_force() -> None:
    log = created(from_base_every=2)
    log.tell(finished(upto_swap(log)))
    select = begun(log)
    (requested,) = requests(log.said)[-1:]
    assert requested.from_base and requested.reasons[-1] == reason("from_base", every=2)
    assert requested.base_release == 1 and select.base_model == "model-0", "what is too long for it is left out"
    (train,) = log.tell(selected(select))
    assert isinstance(train, orders.TrainCandidate)
    assert (train.base_model, train.reference_model) == ("model-0", "model-0")
    (evaluate,) = log.tell(trained(train))
    assert isinstance(evaluate, orders.EvaluateCandidate) and evaluate.base_model == log.state.releases[1]
    _, swap = log.tell(evaluated(evaluate))
    assert isinstance(swap, orders.SwapRelease) and swap.current == 1
    log.tell(finished(swap))
    begun(log)
    assert not requests(log.said)[-1].from_base and requests(log.said)[-1].base_release == 2


def test_a_round_begins_at_the_first_model_when_that_is_asked_for_but_never_what_was_trained_elsewhere() -> None:
    log = created(from_base_every=1)
    brought = BroughtRecipe(adapter="sha256:" + "a" * 64)
    (requested,) = requests(log.tell(RoundAsked(domain=DOMAIN, by="ops", recipe=brought)))
    assert not requested.from_base, "it fits the release in force alone"
    log.tell(RoundCancelled(domain=DOMAIN, round_id=requested.round_id, by="ops"))
    (opening,) = requests(log.tell(RoundAsked(domain=DOMAIN, by="ops", opening=True)))
    assert not opening.from_base
    log = created()
    (asked,) = requests(log.tell(RoundAsked(domain=DOMAIN, by="ops", from_base=True)))
    assert asked.from_base and asked.reasons == (reason("asked_for", by="ops"), reason("from_base_asked_for"))


# A domain is retired


def test_a_retired_domain_ends_its_round_and_begins_none_whatever_is_asked_of_it() -> None:
    log = created()
    select = begun(log)
    assert log.tell(DomainRetired(domain=DOMAIN, by="ops")) == ()
    assert log.state.ended is not None and (log.state.ended.id, log.state.ended.step) == (select.round_id, "cancelled")
    assert log.tell(selected(select)) == () and log.tell(correction("c1")) == () and log.tell(correction("c2")) == ()
    assert log.tell(RoundAsked(domain=DOMAIN, by="ops")) == ()
    assert words(log) == ("the domain has been retired",) and prospect(log.state, START).wake_at is None


def test_a_retired_domain_is_not_swapped_back() -> None:
    log = created()
    log.tell(finished(upto_swap(log)))
    log.tell(DomainRetired(domain=DOMAIN, by="ops"))
    assert log.tell(RollbackAsked(domain=DOMAIN, to=0, by="ops")) == ()


def test_a_domain_that_never_was_cannot_be_retired_before_it_is_made() -> None:
    log = DomainLog()
    log.tell(DomainRetired(domain=DOMAIN, by="somebody"))
    assert words(log) == ("the domain has not been created",) and not log.state.retired


# One at a time


def test_a_round_that_is_under_way_is_not_asked_for_again() -> None:
    log = created()
    begun(log)
    for number in range(10):
        assert log.tell(correction(f"later {number}", f"person {number}")) == ()
    assert log.tell(RoundAsked(domain=DOMAIN, by="ops")) == ()
    assert log.tell(ClockTicked(domain=DOMAIN, at=START + timedelta(days=40))) == ()
    assert len(requests(log.said)) == 1


def test_the_rounds_own_request_coming_back_from_the_log_changes_nothing() -> None:
    log = created()
    begun(log)
    (requested,) = requests(log.said)
    before = log.state
    assert log.tell(requested) == () and log.state == before


def test_what_came_in_during_a_round_counts_for_the_next_which_begins_as_soon_as_this_one_ends() -> None:
    log = created()
    swap = upto_swap(log)
    log.tell(correction("during one"))
    log.tell(correction("during two"))
    (requested, select) = log.tell(finished(swap))
    assert isinstance(requested, Consequence) and isinstance(requested.event, RoundRequested)
    assert isinstance(select, orders.SelectSnapshot)
    assert requested.event.number == 2 and requested.event.base_release == 1
    assert requested.event.pin == log.told[-1].offset, "after what ended the last one"
    assert log.state.ended is not None and log.state.ended.step == "released"


@pytest.mark.parametrize("during", [0, 2])
def test_a_refusal_is_said_also_when_the_next_round_begins_on_the_very_same_event(during: int) -> None:
    log = created()
    evaluate = upto_evaluate(log)
    for number in range(during):
        log.tell(correction(f"during {number}"))
    told = len(log.told)
    refused, *more = log.tell(evaluated(evaluate, REFUSED))
    cause = log.told[told].envelope.id
    verdict = judge(REFUSED, GateMargins())
    assert refused == Consequence(
        uuid5(cause, "gate_refused"), GateRefused(domain=DOMAIN, round_id=evaluate.round_id, verdict=verdict)
    )
    assert len(requests(tuple(more))) == during // 2
    assert log.state.ended is not None and log.state.ended.id == evaluate.round_id
    assert log.state.ended.step == "refused" and log.state.ended.verdict == verdict


def test_a_refusal_is_said_once_and_not_again_by_what_follows_it() -> None:
    log = created()
    log.tell(evaluated(upto_evaluate(log), REFUSED))
    start = len(log.said)
    upto_evaluate(log)
    later = log.said[start:]
    assert len(later) == 4, "the next round's request and its first three orders"
    assert not [one for one in later if isinstance(one, Consequence) and isinstance(one.event, GateRefused)]


# Asked for by hand, and by time


def test_a_round_asked_for_by_hand_waits_for_no_threshold_and_no_quiet_hours() -> None:
    log = created(quiet_hours=QuietHours("00:00", "23:59"), rounds_per_day=1)
    for number in (1, 2):
        (requested,) = requests(log.tell(RoundAsked(domain=DOMAIN, by="carla")))
        assert requested.reasons == (reason("asked_for", by="carla"),) and requested.number == number
        log.tell(RoundCancelled(domain=DOMAIN, round_id=requested.round_id, by="ops"))


def test_a_round_asked_for_with_a_recipe_trains_by_it_and_the_next_by_the_policys_again() -> None:
    log, brought = created(), BroughtRecipe(adapter="sha256:" + "a" * 64)
    (requested,) = requests(log.tell(RoundAsked(domain=DOMAIN, by="ops", recipe=brought)))
    assert requested.policy == replace(log.state.policy, recipe=brought)
    assert log.state.round is not None and log.state.round.policy.recipe == brought
    log.tell(RoundCancelled(domain=DOMAIN, round_id=requested.round_id, by="ops"))
    (after,) = requests(log.tell(RoundAsked(domain=DOMAIN, by="ops")))
    assert after.policy == log.state.policy and after.policy.recipe != brought


def test_a_round_held_up_by_quiet_hours_begins_with_the_tick_after_their_end_and_is_pinned_there() -> None:
    log = created(quiet_hours=QuietHours("08:00", "10:00"))
    log.tell(correction("one"))
    assert log.tell(correction("two")) == ()
    outlook = prospect(log.state, START)
    assert outlook.wake_at == START + timedelta(hours=1)
    assert log.tell(ClockTicked(domain=DOMAIN, at=outlook.wake_at - MINUTE)) == ()
    said = log.tell(ClockTicked(domain=DOMAIN, at=outlook.wake_at))
    assert requests(said)[0].pin == log.told[-1].offset
    assert log.state.last_asked_at == outlook.wake_at, "the time of a tick is what it says"


def test_a_burst_is_taken_whole_by_the_tick_after_it() -> None:
    log = created(thresholds=Thresholds(corrections=2, settle_s=60))
    for number in range(3):
        assert log.tell(correction(f"c{number}"), at=START + number * MINUTE / 2) == ()
    said = log.tell(ClockTicked(domain=DOMAIN, at=START + 2 * MINUTE))
    assert requests(said)[0].reasons == (reason("corrections_enough", have=3, need=2),)


def test_a_new_policy_takes_effect_at_once() -> None:
    log = created(thresholds=Thresholds(corrections=50))
    log.tell(correction("one"))
    said = log.tell(PolicySet(domain=DOMAIN, policy=Policy(Thresholds(corrections=1)), by="ops"))
    assert len(requests(said)) == 1


def test_the_budget_of_a_day_counts_rounds_asked_for_that_day_and_is_new_the_next() -> None:
    log = created(rounds_per_day=2)
    for _ in range(2):
        select = begun(log)
        log.tell(RoundCancelled(domain=DOMAIN, round_id=select.round_id, by="ops"))
    log.tell(correction("third one"))
    assert log.tell(correction("third two")) == ()
    assert gathered(log.state, START).asked_today == 2
    midnight = prospect(log.state, START).wake_at
    assert midnight is not None and gathered(log.state, midnight).asked_today == 0
    assert len(requests(log.tell(ClockTicked(domain=DOMAIN, at=midnight)))) == 1
    assert log.state.asked == (midnight,), "yesterday's are forgotten"


def test_a_clock_that_was_ten_years_ahead_and_was_set_right_keeps_no_round_from_being_due() -> None:
    log = created(thresholds=Thresholds(corrections=None), schedule=Schedule("0 3 * * *"), rounds_per_day=1)
    ahead = START + timedelta(days=3650)
    (requested,) = requests(log.tell(correction("of the future"), at=ahead))
    log.tell(RoundCancelled(domain=DOMAIN, round_id=requested.round_id, by="ops"), at=ahead)
    log.tell(correction("of today"), at=START + MINUTE)
    wake_at = prospect(log.state, START + MINUTE).wake_at
    assert wake_at is not None and wake_at - START < timedelta(days=1)
    (again,) = requests(log.tell(ClockTicked(domain=DOMAIN, at=wake_at)))
    assert again.reasons[0].code == "schedule_due"
    assert log.state.asked == (wake_at,)


def test_an_event_that_comes_days_late_moves_no_time_back() -> None:
    log = created()
    select = begun(log)
    asked_at = log.state.last_asked_at
    log.tell(RoundCancelled(domain=DOMAIN, round_id=select.round_id, by="ops"), at=START - timedelta(days=6))
    assert log.state.last_asked_at == asked_at and log.state.asked == (asked_at,)


def test_preferences_and_corrections_are_counted_apart_and_people_together() -> None:
    log = created(thresholds=Thresholds(corrections=9, preferences=2, people=2))
    log.tell(preference("p1", "ana"))
    assert log.tell(preference("p2", "ana")) == ()
    found = gathered(log.state, START)
    assert (found.corrections, found.preferences, found.people) == (0, 2, 1)
    assert len(requests(log.tell(correction("c1", "ben")))) == 1
    assert gathered(log.state, START).people == 0


# What is decided


def undecided(**policy: Any) -> DomainLog:
    """A domain on whose log nothing stands of what is proposed, until the test puts it there."""
    log = created(**policy)
    log.decides = False
    return log


def test_until_it_stands_on_the_log_that_a_round_begins_each_event_proposes_it_as_the_same_event() -> None:
    log = undecided()
    log.tell(correction("one"))
    (first,) = log.tell(correction("two"))
    (again,) = log.tell(correction("three"))
    assert isinstance(first, Consequence) and isinstance(again, Consequence)
    assert log.state.round is None and first.id == again.id
    (select,) = log.tell(first.event, id=first.id)
    assert isinstance(select, orders.SelectSnapshot) and select.pin == requests((first,))[0].pin
    assert log.tell(again.event, id=again.id) == (), "the first that stands there wins"


def test_what_came_between_the_pin_and_the_decision_counts_for_the_next_round() -> None:
    log = undecided(thresholds=Thresholds(corrections=2, people=2))
    log.tell(correction("one", "ana"))
    (requested,) = requests(log.tell(correction("two", "ben")))
    log.tell(correction("three", "eva"))
    log.tell(ExampleRetired(domain=DOMAIN, example_id="one", reason="wrong", by="ops"))
    log.tell(requested)
    assert list(log.state.fresh.corrections) == ["three"] and gathered(log.state, START).people == 1


@pytest.mark.parametrize("meanwhile", ["retired", "gone"])
def test_a_decision_that_can_have_no_effect_any_more_has_none_and_its_number_is_used_up(meanwhile: str) -> None:
    log = undecided()
    log.tell(correction("one"))
    (requested,) = requests(log.tell(correction("two")))
    if meanwhile == "retired":
        log.tell(DomainRetired(domain=DOMAIN, by="ops"))
    else:
        requested = replace(requested, base_release=7)
    said = log.tell(requested)
    assert log.state.round is None and log.state.rounds == 1
    assert [event.number for event in requests(said)] == ([] if meanwhile == "retired" else [2])


def test_the_gates_word_has_effect_on_the_round_that_waits_for_it_and_once() -> None:
    log = created()
    evaluate = upto_evaluate(log)
    log.decides = False
    (passed,) = log.tell(evaluated(evaluate))
    assert isinstance(passed, Consequence) and isinstance(passed.event, GatePassed)
    assert words(log) == ("round 1 is under way (gate)",)
    assert log.tell(replace(passed.event, round_id="another")) == ()
    assert log.tell(evaluated(evaluate)) == (), "an exam that is told again is old news"
    (swap,) = log.tell(passed.event)
    assert isinstance(swap, orders.SwapRelease) and swap.release == passed.event.release == log.state.highest
    assert log.tell(passed.event) == ()
    refused = GateRefused(domain=DOMAIN, round_id=evaluate.round_id, verdict=judge(REFUSED, GateMargins()))
    assert log.tell(refused) == () and log.state.round is not None, "what was said first stands"


def test_a_round_that_is_cancelled_before_the_gates_word_stands_there_stays_cancelled() -> None:
    log = created()
    evaluate = upto_evaluate(log)
    log.decides = False
    (passed,) = log.tell(evaluated(evaluate))
    assert isinstance(passed, Consequence) and isinstance(passed.event, GatePassed)
    log.tell(RoundCancelled(domain=DOMAIN, round_id=evaluate.round_id, by="ops"))
    assert log.tell(passed.event) == () and log.state.ended is not None and log.state.ended.step == "cancelled"
