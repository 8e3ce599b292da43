"""What was removed is made again: by the order that an ask makes, and there again only if it came out the same."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid5

import pytest
from msgspec.structs import replace

from streams import orders
from streams.envelope import Consequence
from streams.facts import rounds as facts
from streams.facts.domains import DomainRetired
from streams.facts.releases import CandidateRetired, RollbackAsked
from streams.facts.rounds import GatePassed, RoundAsked
from streams.gate import REWARD_MODEL
from streams.projections import of_domain
from streams.recalled import Recall
from streams.recipes import DpoRecipe, LoraRecipe, PpoRecipe, RewardRecipe, SftRewardPpoRecipe
from streams.snapshots import FORMAT, Snapshot
from streams.style import StyleRule
from streams.writes import Update
from tests.samples import (
    DOMAIN,
    SELECTION,
    DomainLog,
    created,
    evaluated,
    failed,
    finished,
    rebuild_asked,
    rebuilt,
    scored,
    selected,
    trained,
)
from tests.unit.round_steps import begun, upto_evaluate, upto_swap, upto_train
from workers.trainer import rebuild


def removed(releases: int = 3) -> tuple[DomainLog, str]:
    """A domain with so many releases, of which the first was removed; and the round that had made it."""
    log = created()
    swaps = [upto_swap(log)]
    log.tell(finished(swaps[0]))
    for _ in range(releases - 1):
        log.tell(finished(upto_swap(log)))
    round_id = swaps[0].round_id
    assert round_id is not None
    log.tell(
        CandidateRetired(
            domain=DOMAIN, round_id=round_id, release=1, model=swaps[0].model, adapter="adapter", reason="enough"
        )
    )
    assert set(log.state.releases) == {0, *range(2, releases + 1)}
    return log, round_id


def asked(log: DomainLog, round_id: str, release: int | None = 1) -> orders.RebuildCandidate:
    (order,) = log.tell(rebuild_asked(round_id, release))
    assert isinstance(order, orders.RebuildCandidate)
    return order


def test_the_order_says_all_that_the_training_needs_and_what_it_was() -> None:
    log, round_id = removed()
    assert asked(log, round_id) == orders.RebuildCandidate(
        order_id=uuid5(log.told[-1].envelope.id, "rebuild_candidate"),
        domain=DOMAIN,
        round_id=round_id,
        pin=3,
        snapshot=f"snapshot of {round_id}",
        base_model="model-0",
        reference_model="model-0",
        recipe=LoraRecipe(rank=8),
        replay_prompts=("What is a river?",),
        model=f"model of {round_id}",
        adapter="adapter",
    )


def test_a_snapshot_that_is_lost_is_to_be_selected_with_what_its_round_recalled_and_as_the_kind_of_round_it_was() -> (
    None
):
    log, round_id = removed()
    asked_ = replace(rebuild_asked(round_id, 1), recall=Recall(of="both"), opening=True, selection=SELECTION)
    (order,) = log.tell(asked_)
    assert isinstance(order, orders.RebuildCandidate)
    assert order.recall == Recall(of="both") and order.opening and order.selection == SELECTION


def test_what_trained_from_the_first_model_is_made_again_from_there() -> None:
    log, round_id = removed()
    anew = replace(rebuild_asked(round_id, 1, base_release=2), from_base=True)
    (order,) = log.tell(anew)
    assert isinstance(order, orders.RebuildCandidate) and order.base_model == order.reference_model == "model-0"


def test_a_lost_snapshot_is_selected_with_what_the_order_says(monkeypatch: pytest.MonkeyPatch) -> None:
    log, round_id = removed()
    asked_ = replace(rebuild_asked(round_id, 1), recall=Recall(of="both"), opening=True, selection=SELECTION)
    (order,) = log.tell(asked_)
    assert isinstance(order, orders.RebuildCandidate)
    found: list[orders.SelectSnapshot] = []

    def select(order: orders.SelectSnapshot, context: Any) -> Snapshot:
        found.append(order)
        return Snapshot(FORMAT, order.domain, order.round_id, order.pin, (), (), opening=order.opening)

    monkeypatch.setattr(rebuild, "select", select)
    artifacts = SimpleNamespace(has=lambda digest: False, put_bytes=lambda value: "sha256:again")
    context: Any = SimpleNamespace(artifacts=artifacts)
    assert rebuild._snapshot(order, context) == "sha256:again"
    assert [(one.pin, one.recipe, one.recall, one.opening, one.selection) for one in found] == [
        (3, LoraRecipe(rank=8), Recall(of="both"), True, SELECTION)
    ]


def test_what_came_out_the_same_can_be_gone_back_to_again() -> None:
    log, round_id = removed()
    log.tell(rebuilt(asked(log, round_id)))
    assert log.state.releases[1] == f"model of {round_id}" and log.state.rebuild is None
    (back,) = log.tell(RollbackAsked(domain=DOMAIN, to=1, by="ops"))
    assert isinstance(back, orders.SwapRelease) and back.model == f"model of {round_id}"


def test_what_came_out_different_does_not_take_the_place_of_what_it_was() -> None:
    log, round_id = removed()
    log.tell(rebuilt(asked(log, round_id), equal=False))
    assert 1 not in log.state.releases and log.state.rebuild is None
    assert log.tell(RollbackAsked(domain=DOMAIN, to=1, by="ops")) == ()
    assert asked(log, round_id), "it may be tried once more"


def test_a_result_that_nobody_waits_for_changes_nothing() -> None:
    log, round_id = removed()
    order = asked(log, round_id)
    log.tell(failed(order, will_retry=True))
    assert log.state.rebuild is not None, "it is tried again"
    log.tell(failed(order))
    assert log.state.rebuild is None
    log.tell(rebuilt(order))
    assert 1 not in log.state.releases


def test_one_thing_is_made_again_at_a_time_and_its_base_is_not_removed_meanwhile() -> None:
    log, round_id = removed()
    (order,) = log.tell(rebuild_asked(round_id, 1, base_release=2))
    assert isinstance(order, orders.RebuildCandidate)
    assert log.tell(rebuild_asked("another", None)) == ()
    gone = CandidateRetired(domain=DOMAIN, round_id="r", release=2, model="m", adapter="a", reason="enough")
    log.tell(gone)
    assert 2 in log.state.releases
    log.tell(rebuilt(order))
    log.tell(gone)
    assert 2 not in log.state.releases


@pytest.mark.parametrize("base", [1, 7])
def test_nothing_is_made_again_from_a_base_that_is_gone(base: int) -> None:
    log, round_id = removed()
    assert log.tell(rebuild_asked(round_id, None, base_release=base)) == ()


@pytest.mark.parametrize("release", [0, 4, 9])
def test_nothing_is_made_again_that_never_was(release: int) -> None:
    log, round_id = removed()
    assert log.tell(rebuild_asked(round_id, release)) == () and log.state.rebuild is None


@pytest.mark.parametrize("equal", [True, False])
def test_what_is_there_is_made_again_to_see_whether_it_comes_out_the_same_and_stays_what_it_is(equal: bool) -> None:
    log = created()
    swap = upto_swap(log)
    log.tell(finished(swap))
    assert swap.round_id is not None
    order = asked(log, swap.round_id, release=1)
    before, event = log.state, rebuilt(order, equal)
    log.tell(event)
    assert (log.state.releases, log.state.live, log.state.rebuild) == (before.releases, before.live, None)
    tables = {write.table for write in of_domain(before, log.state, log.told[-1], event)}
    assert "rounds" in tables and "releases" not in tables, "the release that answers is not retired by it"


def test_a_round_goes_on_beside_it_and_is_itself_not_made_again() -> None:
    log, round_id = removed()
    select = begun(log)
    assert log.tell(rebuild_asked(select.round_id, None)) == ()
    order = asked(log, round_id)
    log.tell(failed(order))
    assert log.state.round is not None and log.state.round.id == select.round_id


def test_a_domain_that_is_retired_makes_nothing_again() -> None:
    log, round_id = removed()
    order = asked(log, round_id)
    log.tell(DomainRetired(domain=DOMAIN, by="ops"))
    assert log.state.rebuild is None
    log.tell(rebuilt(order))
    assert 1 not in log.state.releases and log.tell(rebuild_asked(round_id, 1)) == ()


def test_what_another_reward_model_judged_is_made_again_by_that_one_and_not_by_the_newest() -> None:
    log = created(recipe=PpoRecipe())
    rewarded(log, "scores")
    select = begun(log)
    before = log.state
    chosen = selected(select)
    (train,) = log.tell(chosen)
    assert isinstance(train, orders.TrainCandidate) and train.reward_model == "scores"
    (row, *_) = facts.rows(before, log.state, chosen)
    assert isinstance(row, Update) and row.row["reward_model"] == "scores", "as the ask names it"
    assert log.state.reward_model is not None and row.row["reward_round"] == log.state.reward_model.round_id
    _, swap = log.tell(evaluated(log.tell(trained(train))[0]))
    log.tell(finished(swap))
    rewarded(log, "newer")
    log.tell(
        CandidateRetired(
            domain=DOMAIN, round_id=train.round_id, release=1, model="model", adapter="adapter", reason="enough"
        )
    )
    ask = replace(rebuild_asked(train.round_id, 1), recipe=PpoRecipe(), reward_model="scores")
    (order,) = log.tell(ask)
    assert log.state.reward_model is not None and log.state.reward_model.model == "newer"
    assert isinstance(order, orders.RebuildCandidate) and order.reward_model == "scores"


def test_who_has_rules_or_draws_no_answers_asks_no_reward_model() -> None:
    rules = (StyleRule(rule="length_at_most", value=40),)
    for recipe in (LoraRecipe(), PpoRecipe(rules=rules), SftRewardPpoRecipe()):
        log = created(recipe=recipe)
        rewarded(log, "scores")
        assert upto_train(log).reward_model is None


def test_what_learned_what_is_preferred_is_scored_by_the_newest_reward_model_and_all_is_asked_for_style() -> None:
    opener, short = StyleRule(rule="no_opener"), StyleRule(rule="at_most_words", value=9)
    for recipe, pleases, style in (
        (LoraRecipe(), False, (opener,)),
        (DpoRecipe(), True, (opener,)),
        (PpoRecipe(rules=(short, opener)), True, (opener, short)),
    ):
        log = created(recipe=recipe, style=(opener,))
        assert not pleases or upto_evaluate(log).reward_model is None, "there is none yet"
        log = created(recipe=recipe, style=(opener,))
        rewarded(log, "scores")
        made = log.state.reward_model
        order = upto_evaluate(log)
        assert (order.pleases, order.style) == (pleases, style)
        assert made is not None
        judge = (made.model, made.round_id) if pleases else (None, None)
        assert (order.reward_model, order.reward_round) == judge
        decided, *_ = log.tell(replace(evaluated(order), absent={REWARD_MODEL: "removed"}))
        assert isinstance(decided, Consequence) and isinstance(decided.event, GatePassed)
        assert (decided.event.verdict.checks[-1].name, decided.event.verdict.checks[-1].why) == (
            REWARD_MODEL,
            "removed",
        )


def rewarded(log: DomainLog, model: str) -> None:
    """A round that ends with that reward model."""
    asked = log.tell(RoundAsked(domain=DOMAIN, by="ops", recipe=RewardRecipe()))
    (select,) = (one for one in asked if isinstance(one, orders.SelectSnapshot))
    (train,) = log.tell(replace(selected(select, kept=()), pairs=6))
    assert isinstance(train, orders.TrainCandidate)
    log.tell(replace(scored(train), model=model))
