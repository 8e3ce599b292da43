"""What outlives a round: rollbacks, erasures, and ids that depend on the log alone."""

from uuid import uuid5

import pytest

from streams import orders
from streams.domain import Domain, gathered
from streams.envelope import Consequence
from streams.facts.examples import ExampleRetired
from streams.facts.people import PersonErased
from streams.facts.releases import CandidateRetired, RollbackAsked
from streams.fresh import Given
from streams.orders import Order
from streams.policy import Thresholds
from tests.samples import (
    DOMAIN,
    START,
    correction,
    created,
    failed,
    finished,
    id_of,
    preference,
    rolled_back,
    selected,
)
from tests.unit.round_steps import begun, requests, upto_swap, upto_train

# Rolling back


def test_a_rollback_asks_for_the_earlier_release_which_answers_once_it_is_there() -> None:
    log = created()
    log.tell(finished(upto_swap(log)))
    (back,) = log.tell(RollbackAsked(domain=DOMAIN, to=0, by="ops"))
    assert back == orders.SwapRelease(
        order_id=uuid5(log.told[-1].envelope.id, "swap_release"),
        domain=DOMAIN,
        release=0,
        model="model-0",
        engine="llamacpp",
        current=1,
        round_id=None,
        rollback=True,
    )
    assert log.state.live == 1, "asking is not doing"
    log.tell(rolled_back(back))
    assert log.state.live == 0
    train = upto_train(log)
    assert train.base_model == "model-0" and requests(log.said)[-1].base_release == 0


def test_after_a_rollback_a_new_release_takes_a_number_that_was_never_used() -> None:
    log = created()
    log.tell(finished(upto_swap(log)))
    (back,) = log.tell(RollbackAsked(domain=DOMAIN, to=0, by="ops"))
    assert isinstance(back, orders.SwapRelease)
    log.tell(rolled_back(back))
    swap = upto_swap(log)
    assert (swap.release, swap.current) == (2, 0)


def test_a_number_whose_release_never_went_live_is_not_used_again() -> None:
    log = created()
    swap = upto_swap(log)
    log.tell(failed(swap))
    assert upto_swap(log).release == swap.release + 1


def test_an_engine_that_was_given_up_and_answers_late_does_not_turn_the_numbers_back() -> None:
    log = created()
    given_up = upto_swap(log)
    log.tell(failed(given_up))
    log.tell(failed(upto_swap(log)))
    log.tell(finished(given_up))
    assert log.state.live == 1 and upto_swap(log).release == 3


def forgotten(release: int, round_id: str = "another") -> CandidateRetired:
    return CandidateRetired(
        domain=DOMAIN, round_id=round_id, release=release, model="m", adapter="a", reason="more than 2 releases"
    )


def test_what_was_removed_cannot_be_gone_back_to_and_its_number_is_not_used_again() -> None:
    log = created()
    for _ in range(2):
        log.tell(finished(upto_swap(log)))
    assert log.tell(forgotten(1)) == () and set(log.state.releases) == {0, 2}
    assert log.tell(RollbackAsked(domain=DOMAIN, to=1, by="ops")) == ()
    assert upto_swap(log).release == 3


def test_what_is_in_use_is_not_removed_whatever_is_said() -> None:
    log = created()
    for _ in range(3):
        log.tell(finished(upto_swap(log)))
    log.tell(forgotten(3))  # it answers
    log.tell(forgotten(0))  # the base
    (back,) = log.tell(RollbackAsked(domain=DOMAIN, to=1, by="ops"))
    log.tell(forgotten(1))  # it is on its way
    assert set(log.state.releases) == {0, 1, 2, 3}
    log.tell(rolled_back(back))
    begun(log)
    (back,) = log.tell(RollbackAsked(domain=DOMAIN, to=2, by="ops"))
    log.tell(rolled_back(back))
    log.tell(forgotten(1))  # the round is made from it
    assert set(log.state.releases) == {0, 1, 2, 3}
    log.tell(forgotten(3))
    assert set(log.state.releases) == {0, 1, 2}


def test_a_rollback_that_was_given_up_holds_nothing_any_more() -> None:
    log = created()
    for _ in range(2):
        log.tell(finished(upto_swap(log)))
    (back,) = log.tell(RollbackAsked(domain=DOMAIN, to=1, by="ops"))
    log.tell(failed(back, will_retry=True))
    log.tell(forgotten(1))
    assert 1 in log.state.releases, "it is tried again"
    log.tell(failed(back))
    log.tell(forgotten(1))
    assert 1 not in log.state.releases


@pytest.mark.parametrize("to", [0, 5, -1])
def test_a_rollback_to_what_answers_already_or_never_did_asks_for_nothing(to: int) -> None:
    assert created().tell(RollbackAsked(domain=DOMAIN, to=to, by="ops")) == ()


def test_a_rollback_during_a_round_leaves_the_round_on_the_release_that_it_began_with() -> None:
    log = created()
    log.tell(finished(upto_swap(log)))
    select = begun(log)
    (back,) = log.tell(RollbackAsked(domain=DOMAIN, to=0, by="ops"))
    assert isinstance(back, orders.SwapRelease)
    log.tell(rolled_back(back))
    (train,) = log.tell(selected(select))
    assert isinstance(train, orders.TrainCandidate) and train.base_model == log.state.releases[1]


# Erasure


def test_erasing_a_person_takes_what_they_said_out_of_the_count_and_orders_a_purge() -> None:
    log = created(thresholds=Thresholds(corrections=3, preferences=3))
    log.tell(correction("one", "ana"))
    log.tell(correction("two", "ben"))
    log.tell(preference("three", "ana"))
    (purge,) = log.tell(PersonErased(domain=DOMAIN, person="ana", kids=("key-of-ana",), by="ops"))
    assert purge == orders.PurgePlaces(
        order_id=uuid5(log.told[-1].envelope.id, "purge_places"), domain=DOMAIN, person="ana", kids=("key-of-ana",)
    )
    found = gathered(log.state, START)
    assert (found.corrections, found.preferences, found.people) == (1, 0, 1)
    assert dict(log.state.fresh.corrections) == {"two": Given("ben", None, 4)}


def test_words_sealed_with_a_destroyed_key_that_arrive_late_do_not_count() -> None:
    log = created(thresholds=Thresholds(corrections=1, preferences=1))
    log.tell(PersonErased(domain=DOMAIN, person="ana", kids=("key-of-ana",), by="ops"))
    assert log.tell(correction("late", "ana")) == () and log.tell(preference("late", "ana")) == ()
    assert gathered(log.state, START).people == 0
    assert len(requests(log.tell(correction("anew", "ana", kid="newer-key-of-ana")))) == 1


def test_erasing_during_a_round_leaves_the_round_to_its_selector() -> None:
    log = created()
    select = begun(log)
    log.tell(PersonErased(domain=DOMAIN, person="ana", kids=("key-of-ana",), by="ops"))
    assert log.state.round is not None and log.state.round.id == select.round_id


def test_the_keys_that_were_destroyed_stand_in_one_order_however_they_were_told() -> None:
    """The kept states of a live store and of a replay are compared byte by byte, across processes."""
    kids = [f"key-{number}" for number in (7, 1, 9, 4, 2)]
    log = created()
    for number, kid in enumerate(kids):
        log.tell(PersonErased(domain=DOMAIN, person=f"p{number}", kids=(kid, kids[0]), by="ops"))
    assert log.state.erased == tuple(sorted(kids))


def test_a_retired_example_no_longer_counts() -> None:
    log = created()
    log.tell(correction("one"))
    log.tell(ExampleRetired(domain=DOMAIN, example_id="one", reason="wrong", by="ops"))
    log.tell(ExampleRetired(domain=DOMAIN, example_id="unknown", reason="wrong", by="ops"))
    assert log.tell(correction("two")) == () and set(log.state.fresh.corrections) == {"two"}


# Ids


def test_the_same_log_gives_the_same_ids_and_another_cause_gives_others_but_to_what_is_decided() -> None:
    def told(salt: str) -> list[Consequence | Order]:
        log = created()
        for number in range(2):
            log.tell(correction(f"c{number}"), id=id_of(f"{salt} {number}"))
        return log.said[1:]

    def order(one: Consequence | Order) -> object:
        return None if isinstance(one, Consequence) else one.order_id

    def decision(one: Consequence | Order) -> object:
        return one.id if isinstance(one, Consequence) else None

    assert told("a") == told("a")
    orders_, decided = (
        [{found for found in map(id_, told(salt)) if found} for salt in "ab"] for id_ in (order, decision)
    )
    assert orders_[0].isdisjoint(orders_[1]) and decided[0] == decided[1], "round 1 of a domain is decided once"


def test_folding_never_changes_the_state_that_was_before() -> None:
    log = created()
    before, copy = log.state, Domain(**{name: getattr(log.state, name) for name in log.state.__struct_fields__})
    upto_swap(log)
    assert before == copy and log.state != before
