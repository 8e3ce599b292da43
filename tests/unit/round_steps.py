"""How far a round is taken: each gives the order that the next step waits for."""

from datetime import timedelta

from streams import orders
from streams.domain import prospect
from streams.envelope import Consequence
from streams.facts.rounds import RoundRequested
from streams.orders import Order
from tests import english
from tests.samples import (
    START,
    DomainLog,
    correction,
    evaluated,
    selected,
    trained,
)

Said = tuple[Consequence | Order, ...]
MINUTE = timedelta(minutes=1)


def begun(log: DomainLog) -> orders.SelectSnapshot:
    """Give the two corrections that make a round due; return its first order."""
    start = len(log.told)
    log.tell(correction(f"c{start}"))
    said = log.tell(correction(f"c{start + 1}"))
    (select,) = (order for order in said if isinstance(order, orders.SelectSnapshot))
    return select


def upto_train(log: DomainLog) -> orders.TrainCandidate:
    (order,) = log.tell(selected(begun(log)))
    assert isinstance(order, orders.TrainCandidate)
    return order


def upto_evaluate(log: DomainLog) -> orders.EvaluateCandidate:
    (order,) = log.tell(trained(upto_train(log)))
    assert isinstance(order, orders.EvaluateCandidate)
    return order


def upto_swap(log: DomainLog) -> orders.SwapRelease:
    _, order = log.tell(evaluated(upto_evaluate(log)))
    assert isinstance(order, orders.SwapRelease)
    return order


def requests(said: Said | list[Consequence | Order]) -> list[RoundRequested]:
    found = [one.event for one in said if isinstance(one, Consequence)]
    return [event for event in found if isinstance(event, RoundRequested)]


def words(log: DomainLog) -> tuple[str, ...]:
    return english.reasons(prospect(log.state, START).missing)
