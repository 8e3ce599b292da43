"""A domain moves to another base: by a round that trains from there, as long as what came of it answers."""

from typing import Any

import pytest
from msgspec.structs import replace

from streams import orders, rounds
from streams.domain import Domain, base_of
from streams.facts.comparisons import ComparisonAsked
from streams.facts.releases import CandidateRetired, RollbackAsked
from streams.facts.rounds import RoundAsked
from streams.gate import EARLIER, FIXES, GENERAL, Paired
from streams.projections import of_domain
from streams.reasons import reason
from streams.recipes import BroughtRecipe
from streams.writes import Insert, Update
from tests.samples import (
    DOMAIN,
    REFUSED,
    DomainLog,
    correction,
    created,
    evaluated,
    failed,
    finished,
    rebuild_asked,
    rebuilt,
    rolled_back,
    selected,
    trained,
)
from tests.unit.round_steps import begun, requests, upto_swap, upto_train

MOVE = RoundAsked(domain=DOMAIN, by="ops", base="heron", base_model="model-h")


def asked(log: DomainLog, ask: RoundAsked = MOVE) -> orders.SelectSnapshot:
    (select,) = [order for order in log.tell(ask) if isinstance(order, orders.SelectSnapshot)]
    return select


def moving(log: DomainLog) -> orders.EvaluateCandidate:
    (train,) = log.tell(selected(asked(log)))
    assert isinstance(train, orders.TrainCandidate)
    (evaluate,) = log.tell(trained(train))
    assert isinstance(evaluate, orders.EvaluateCandidate)
    return evaluate


def moved() -> DomainLog:
    """Release 1 is of the base that the domain began with, release 2 of another."""
    log = created()
    log.tell(finished(upto_swap(log)))
    _, swap = log.tell(evaluated(moving(log)))
    assert isinstance(swap, orders.SwapRelease)
    log.tell(finished(swap))
    return log


def back_to(log: DomainLog, release: int) -> None:
    (swap,) = log.tell(RollbackAsked(domain=DOMAIN, to=release, by="ops"))
    assert isinstance(swap, orders.SwapRelease)
    log.tell(rolled_back(swap))


def shown(log: DomainLog, table: str) -> Any:
    """The base as the rows of the newest event show it."""
    before = Domain()
    for recorded in log.told[:-1]:
        before = rounds.fold(before, recorded, recorded.envelope.event)  # type: ignore[arg-type]
    last = log.told[-1]
    writes = of_domain(before, log.state, last, last.envelope.event)  # type: ignore[arg-type]
    found = [one.row for one in writes if isinstance(one, Insert | Update) and one.table == table]
    return found[-1]["base_model"]


def test_it_trains_from_the_new_base_and_is_examined_beside_the_live_release_and_the_base_of_that() -> None:
    log = created()
    log.tell(finished(upto_swap(log)))
    select = asked(log)
    (requested,) = requests(log.said)[-1:]
    assert requested.from_base and (requested.base_release, requested.base_model) == (1, "model-h")
    assert requested.reasons == (reason("asked_for", by="ops"), reason("base_asked_for", base="heron"))
    assert select.base_model == "model-h", "what is too long for it is left out"
    assert shown(log, "rounds") == "model-h"
    (train,) = log.tell(selected(select))
    assert isinstance(train, orders.TrainCandidate)
    assert (train.base_model, train.reference_model) == ("model-h", "model-h")
    (evaluate,) = log.tell(trained(train))
    assert isinstance(evaluate, orders.EvaluateCandidate)
    assert (evaluate.base_model, evaluate.first_model) == (log.state.releases[1], "model-0")
    assert shown(log, "domains") == "model-0", "it has not been shipped yet"


def test_what_follows_once_it_is_live_is_of_the_new_base() -> None:
    log = moved()
    assert log.state.live == 2 and base_of(log.state, 2) == shown(log, "domains") == "model-h"
    (compare,) = log.tell(ComparisonAsked(domain=DOMAIN, by="ops"))
    assert isinstance(compare, orders.CompareReleases) and compare.base_model == "model-h"
    train = upto_train(log)
    assert (train.base_model, train.reference_model) == (log.state.releases[2], "model-h")
    (evaluate,) = log.tell(trained(train))
    assert isinstance(evaluate, orders.EvaluateCandidate) and evaluate.first_model == "model-h"
    _, swap = log.tell(evaluated(evaluate))
    assert isinstance(swap, orders.SwapRelease)
    log.tell(finished(swap))
    assert (log.state.live, base_of(log.state, 3)) == (3, "model-h"), "of the release that it was made from"
    assert asked(log, RoundAsked(domain=DOMAIN, by="ops", from_base=True)).base_model == "model-h"
    assert requests(log.said)[-1].base_model is None and shown(log, "rounds") == "model-h"


def test_rolled_back_the_old_base_is_back_and_rolled_forth_the_new_one() -> None:
    log = moved()
    back_to(log, 1)
    assert shown(log, "domains") == "model-0"
    train = upto_train(log)
    assert (train.base_model, train.reference_model) == (log.state.releases[1], "model-0")
    back_to(log, 2)
    assert shown(log, "domains") == "model-h"
    (evaluate,) = log.tell(trained(train))
    assert isinstance(evaluate, orders.EvaluateCandidate)
    _, swap = log.tell(evaluated(evaluate))
    assert isinstance(swap, orders.SwapRelease)
    log.tell(finished(swap))
    assert shown(log, "domains") == "model-0", "the round was of the release that it began at"


def test_an_engine_that_was_given_up_and_answers_late_brings_its_base_with_it() -> None:
    log = created()
    _, swap = log.tell(evaluated(moving(log)))
    assert isinstance(swap, orders.SwapRelease)
    log.tell(failed(swap))
    assert shown(log, "domains") == "model-0"
    log.tell(finished(swap))
    assert (log.state.live, shown(log, "domains")) == (1, "model-h")


def test_a_move_that_the_gate_refuses_leaves_the_base_as_it_was() -> None:
    log = created()
    log.tell(evaluated(moving(log), REFUSED))
    assert log.state.round is None and base_of(log.state, log.state.live) == "model-0"
    assert begun(log).base_model == "model-0"


def test_a_domain_that_has_learned_everything_moves_without_anything_new_and_no_other_round_begins_so() -> None:
    log = created()
    log.tell(finished(upto_swap(log)))
    nothing_new = replace(selected(asked(log), kept=()), earlier=40)
    (train,) = log.tell(nothing_new)
    assert isinstance(train, orders.TrainCandidate)
    (evaluate,) = log.tell(trained(train))
    assert isinstance(evaluate, orders.EvaluateCandidate)
    kept = {EARLIER: Paired(60, 60, 0, 0, 0), GENERAL: Paired(100, 100, 0, 0, 0)}
    _, swap = log.tell(evaluated(evaluate, kept))
    assert isinstance(swap, orders.SwapRelease)
    log.tell(finished(swap))
    assert base_of(log.state, log.state.live) == "model-h"
    again = asked(log, RoundAsked(domain=DOMAIN, by="ops", from_base=True))
    assert log.tell(replace(selected(again, kept=()), earlier=40)) == ()
    assert log.state.ended is not None and log.state.ended.step == "empty"


@pytest.mark.parametrize(
    "paired",
    [
        {FIXES: Paired(3, 0, 0, 3, 0), EARLIER: Paired(60, 60, 0, 0, 0)},  # new ones are proven as in any round
        {EARLIER: Paired(60, 20, 40, 0, 0)},
        {GENERAL: Paired(100, 100, 0, 0, 0)},  # nothing of the domain was asked
    ],
)
def test_a_move_that_shows_too_little_of_what_was_learned_is_not_shipped(paired: dict[str, Paired]) -> None:
    log = created()
    log.tell(evaluated(moving(log), paired))
    assert log.state.ended is not None and log.state.ended.step == "refused"


@pytest.mark.parametrize(
    "ask",
    [replace(MOVE, opening=True), replace(MOVE, recipe=BroughtRecipe(adapter="sha256:" + "a" * 64))],
    ids=["opening", "brought"],
)
def test_what_does_not_train_on_all_corrections_moves_nothing_whoever_says_so(ask: RoundAsked) -> None:
    log = created()
    assert asked(log, ask).base_model == "model-0"
    assert requests(log.said)[-1].base_model is None and not requests(log.said)[-1].from_base


def test_what_a_move_made_is_made_again_from_its_base_and_gone_back_to_with_it() -> None:
    log = moved()
    move = requests(log.said)[-1]
    log.tell(finished(upto_swap(log)))
    back_to(log, 1)
    digest = log.state.releases[2]
    log.tell(
        CandidateRetired(domain=DOMAIN, round_id=move.round_id, release=2, model=digest, adapter="a", reason="enough")
    )
    (rebuild,) = log.tell(
        replace(rebuild_asked(move.round_id, 2, base_release=1), from_base=True, base_model=move.base_model)
    )
    assert isinstance(rebuild, orders.RebuildCandidate)
    assert (rebuild.base_model, rebuild.reference_model) == ("model-h", "model-h")
    log.tell(rebuilt(rebuild))
    back_to(log, 2)
    assert shown(log, "domains") == "model-h"
    (later,) = log.tell(rebuild_asked("round 3", 3, base_release=2))
    assert isinstance(later, orders.RebuildCandidate)
    assert (later.base_model, later.reference_model) == (log.state.releases[2], "model-h")


def test_a_move_takes_corrections_that_came_before_it() -> None:
    log = created()
    log.tell(correction("one"))
    asked(log)
    assert not log.state.fresh.corrections
