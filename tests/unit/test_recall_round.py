"""An opening round: begun with the domain, judged and released like any, and what people gave waits for the next."""

from datetime import timedelta
from uuid import UUID

from streams.domain import Domain
from streams.envelope import Consequence
from streams.facts.domains import DomainCreated
from streams.facts.rounds import RoundAsked, RoundRequested, SnapshotSelected
from streams.orders import Order, SelectSnapshot, SwapRelease, TrainCandidate
from streams.policy import Thresholds
from streams.recalled import Recall
from tests.samples import DOMAIN, START, DomainLog, correction, created, finished

CREATED = DomainCreated(
    domain=DOMAIN,
    title="Allotments",
    languages=("en",),
    system_prompt="",
    base_model="model-0",
    engine="llamacpp",
    replay_prompts=(),
    opening=True,
)


def begun(said: tuple[Consequence | Order, ...]) -> list[RoundRequested]:
    return [one.event for one in said if isinstance(one, Consequence) and isinstance(one.event, RoundRequested)]


def orders(said: tuple[Consequence | Order, ...], kind: type) -> list[Order]:
    return [one for one in said if isinstance(one, kind)]


def test_a_domain_that_is_made_with_one_opens_as_soon_as_it_answers_and_once() -> None:
    log = DomainLog()
    (swap,) = log.tell(CREATED)
    assert isinstance(swap, SwapRelease)
    said = log.tell(finished(swap))
    (round_,) = begun(said)
    assert round_.opening and [reason.code for reason in round_.reasons] == ["opening"]
    (select,) = orders(said, SelectSnapshot)
    assert isinstance(select, SelectSnapshot) and select.opening
    assert not log.state.opening and begun(log.tell(correction("a"))) == []


def test_what_people_give_meanwhile_waits_for_the_next_round() -> None:
    log = created(thresholds=Thresholds(corrections=3), recall=Recall(of="corrections"))
    log.tell(correction("a"))
    said = log.tell(RoundAsked(domain=DOMAIN, by="ops", opening=True))
    (select,) = orders(said, SelectSnapshot)
    assert isinstance(select, SelectSnapshot) and select.opening and select.recall.of == "corrections"
    assert list(log.state.fresh.corrections) == ["a"]
    said = log.tell(empty(select.order_id, select.round_id))
    assert orders(said, TrainCandidate), "an opening round learns nothing of the domain, and is not empty"


def test_any_other_round_with_nothing_to_learn_ends_empty() -> None:
    log = created()
    (select,) = orders(log.tell(RoundAsked(domain=DOMAIN, by="ops")), SelectSnapshot)
    assert isinstance(select, SelectSnapshot) and not select.opening
    log.tell(empty(select.order_id, select.round_id), at=START + timedelta(hours=1))
    assert log.state.round is None and isinstance(log.state, Domain)


def empty(order_id: UUID, round_id: str) -> SnapshotSelected:
    return SnapshotSelected(
        domain=DOMAIN,
        round_id=round_id,
        order_id=order_id,
        snapshot="sha256:" + "5" * 64,
        kept=(),
        earlier=0,
        wordings=0,
        dropped={},
    )
