"""Every way a round can end, and results that come when it has ended."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from streams import orders
from streams.domain import in_use
from streams.envelope import Consequence
from streams.errors import Invalid
from streams.events import DomainEvent
from streams.facts.domains import PolicySet
from streams.facts.orders import OrderProgressed
from streams.facts.people import PlacesPurged
from streams.facts.releases import ReleaseStarted
from streams.facts.rounds import GatePassed, GateRefused, RoundAsked, RoundCancelled, StageFinished
from streams.gate import GateMargins, Paired, judge
from streams.policy import Policy, check_policy
from streams.recipes import RewardRecipe
from tests.samples import (
    DOMAIN,
    REFUSED,
    SHIPS,
    START,
    DomainLog,
    correction,
    created,
    evaluated,
    failed,
    finished,
    id_of,
    scored,
    selected,
    trained,
)
from tests.unit.round_steps import begun, upto_evaluate, upto_swap, upto_train

# Every other way to end


def test_a_snapshot_that_keeps_nothing_ends_the_round_empty() -> None:
    log = created()
    assert log.tell(selected(begun(log), kept=())) == ()
    assert log.state.round is None and log.state.ended is not None and log.state.ended.step == "empty"


@pytest.mark.parametrize("reach", [begun, upto_train, upto_evaluate, upto_swap])
def test_a_step_that_fails_for_good_ends_the_round_and_says_why(reach: Callable[[DomainLog], Any]) -> None:
    log = created()
    order = reach(log)
    before = log.state
    assert log.tell(failed(order, will_retry=True)) == () and log.state == before, "what is retried goes on"
    assert log.tell(failed(order)) == ()
    step = failed(order).step
    assert log.state.round is None and log.state.live == 0
    assert log.state.ended is not None
    ended = log.state.ended
    assert (ended.step, ended.last_step, ended.failure) == ("failed", step, "out of memory")
    assert begun(log), "and the next round can begin"


@pytest.mark.parametrize("reach", [begun, upto_train, upto_evaluate])
def test_a_round_can_be_cancelled_until_its_gate_and_what_its_workers_still_say_is_old_news(
    reach: Callable[[DomainLog], Any],
) -> None:
    log = created()
    order = reach(log)
    assert log.tell(RoundCancelled(domain=DOMAIN, round_id=order.round_id, by="ops")) == ()
    assert log.state.round is None and log.state.ended is not None and log.state.ended.step == "cancelled"
    before = log.state
    results: dict[type, Callable[[Any], DomainEvent]] = {
        orders.SelectSnapshot: selected,
        orders.TrainCandidate: trained,
        orders.EvaluateCandidate: evaluated,
    }
    late = results[type(order)](order)
    assert log.tell(late) == () and log.tell(failed(order)) == () and log.state == before


def test_a_round_that_is_being_swapped_in_can_no_longer_be_cancelled() -> None:
    log = created()
    swap = upto_swap(log)
    assert swap.round_id is not None
    before = log.state
    assert log.tell(RoundCancelled(domain=DOMAIN, round_id=swap.round_id, by="ops")) == ()
    assert log.state == before
    log.tell(finished(swap))
    assert log.state.live == 1


def test_cancelling_another_round_leaves_this_one_alone() -> None:
    log = created()
    begun(log)
    before = log.state
    assert log.tell(RoundCancelled(domain=DOMAIN, round_id="another", by="ops")) == () and log.state == before


@pytest.mark.parametrize(
    "paired",
    [REFUSED, SHIPS | {"fixes": Paired(4, 0, 0, 4, 0)}, {}],
    ids=["refused", "inconclusive", "nothing examined"],
)
def test_only_a_candidate_that_the_gate_passes_goes_live(paired: dict[str, Paired]) -> None:
    log = created()
    (refused,) = log.tell(evaluated(upto_evaluate(log), paired))
    assert isinstance(refused, Consequence) and isinstance(refused.event, GateRefused)
    assert refused.event.verdict.outcome != "ship"
    assert (log.state.live, log.state.highest, log.state.round) == (0, 0, None)


def test_the_gate_judges_by_the_margins_in_force_when_the_round_began() -> None:
    lost = SHIPS | {"general": Paired(n=200, both=120, only_before=20, only_after=0, neither=60)}
    log = created(gate=GateMargins(general_margin=0.3))
    evaluate = upto_evaluate(log)
    log.tell(PolicySet(domain=DOMAIN, policy=Policy(gate=GateMargins()), by="ops"))
    assert [type(one) for one in log.tell(evaluated(evaluate, lost))] == [Consequence, orders.SwapRelease]
    assert judge(lost, GateMargins()).outcome != "ship"


# Old news


def test_results_of_an_order_of_an_earlier_round_are_ignored() -> None:
    log = created()
    select = begun(log)
    (train,) = log.tell(selected(select))
    assert isinstance(train, orders.TrainCandidate)
    (evaluate,) = log.tell(trained(train))
    assert isinstance(evaluate, orders.EvaluateCandidate)
    log.tell(RoundCancelled(domain=DOMAIN, round_id=select.round_id, by="ops"))
    begun(log)
    before = log.state
    for late in (selected(select), trained(train), evaluated(evaluate), failed(train)):
        assert log.tell(late) == () and log.state == before


def test_a_result_that_comes_twice_under_two_ids_takes_effect_once() -> None:
    log = created()
    select = begun(log)
    assert len(log.tell(selected(select))) == 1
    before = log.state
    assert log.tell(selected(select)) == () and log.state == before


def test_progress_and_what_we_said_ourselves_change_nothing() -> None:
    log = created()
    train = upto_train(log)
    before = log.state
    progressed = OrderProgressed(
        domain=DOMAIN, round_id=train.round_id, order_id=train.order_id, step="train", done=1, total=9
    )
    purged = PlacesPurged(domain=DOMAIN, person="ana", order_id=id_of("purge"), places={})
    started = ReleaseStarted(domain=DOMAIN, release=7, order_id=id_of("swap"), model="model")
    verdict = judge(SHIPS, GateMargins())
    passed = GatePassed(domain=DOMAIN, round_id=train.round_id, release=7, verdict=verdict)
    refused = GateRefused(domain=DOMAIN, round_id=train.round_id, verdict=verdict)
    for event in (progressed, purged, started, passed, refused):
        assert log.tell(event) == () and log.state == before


def test_a_round_that_makes_a_reward_model_ends_with_it_serves_nothing_and_leaves_corrections_to_the_next() -> None:
    log = created()
    log.tell(correction("c1"))
    (select,) = (
        one
        for one in log.tell(RoundAsked(domain=DOMAIN, by="ops", recipe=RewardRecipe()))
        if isinstance(one, orders.SelectSnapshot)
    )
    (train,) = log.tell(replace(selected(select, kept=()), pairs=6, said_by={"ana": 6}))
    assert isinstance(train, orders.TrainCandidate)
    stage = StageFinished(
        domain=DOMAIN, round_id=train.round_id, order_id=train.order_id, stage="sft", number=1, stages=2,
        artifact="a", loss=0.5, duration_s=1.0,
    )  # fmt: skip
    before = log.state
    assert log.tell(stage) == () and log.state == before, "the round goes on"
    assert log.tell(scored(train)) == (), "it waits for no exam and no gate"
    state = log.state
    assert (
        state.round is None
        and state.ended is not None
        and (state.ended.step, state.ended.last_step) == ("kept", "train")
    )
    assert state.reward_model is not None and state.live == 0
    assert (state.reward_model.model, state.reward_model.base_release) == ("scores", 0)
    assert len(state.fresh.corrections) == 1, "the correction was learned by nobody"
    assert in_use(state, train.round_id, None), "it is not retired while it is the newest"
    assert log.tell(scored(train)) == () and log.state == state, "old news"


def test_a_reward_model_of_a_stage_is_kept_and_the_round_goes_on_to_its_candidate() -> None:
    log = created()
    train = upto_train(log)
    assert log.tell(scored(train)) == () and log.state.reward_model is not None and log.state.round is not None
    (order,) = log.tell(trained(train))
    assert isinstance(order, orders.EvaluateCandidate)


def test_no_policy_makes_reward_models_by_itself() -> None:
    with pytest.raises(Invalid, match=r"recipe\.method reward is for one round"):
        check_policy(Policy(recipe=RewardRecipe()), START)
