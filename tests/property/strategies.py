"""Strategies: any value of the vocabulary's types, and any course of a domain."""

from datetime import UTC, datetime, timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType

from streams import orders
from streams.envelope import Consequence
from streams.events import DomainEvent, Event
from streams.facts.comparisons import BaseComparisonAsked, ComparisonAsked
from streams.facts.domains import ClockTicked, PolicySet
from streams.facts.exam import ExamItemRetired
from streams.facts.examples import ExampleAccepted, ExampleRetired
from streams.facts.material import BuildAsked
from streams.facts.people import PersonErased, PlacesPurged
from streams.facts.releases import CandidateRetired, RollbackAsked
from streams.facts.rounds import RoundAsked, RoundCancelled
from streams.gate import Paired
from streams.orders import Order
from streams.policy import Policy, QuietHours, Schedule, Thresholds
from tests.samples import (
    DOMAIN,
    REFUSED,
    SHIPS,
    START,
    Decision,
    DomainLog,
    bases_compared,
    built,
    compared,
    correction,
    created,
    evaluated,
    failed,
    finished,
    preference,
    rebuild_asked,
    rebuilt,
    rolled_back,
    selected,
    trained,
)

MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2999, 1, 1), timezones=st.just(UTC))
_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    UUID: st.uuids(),
    datetime: MOMENTS,
    NoneType: st.none(),
    UnsetType: st.just(UNSET),
}


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Any value that the type allows, however odd."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is Annotated:
        bounds = [meta for meta in arguments[1:] if isinstance(meta, Meta) and meta.ge is not None]
        return st.integers(bounds[0].ge, bounds[0].le) if bounds else anything(arguments[0])
    if origin in (Union, UnionType):
        return st.one_of(*map(anything, arguments))
    if origin is tuple:
        return st.lists(anything(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(anything(arguments[0]), anything(arguments[1]), max_size=3)
    assert isinstance(kind, type) and issubclass(kind, Struct), f"no strategy for {kind}"
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: anything(hints[name]) for name in kind.__struct_fields__})


EVENTS: st.SearchStrategy[Event] = st.one_of(*map(anything, get_args(Event)))
ORDERS: st.SearchStrategy[Order] = st.one_of(*map(anything, get_args(Order)))
POLICIES = (
    Policy(Thresholds(corrections=2)),
    Policy(Thresholds(corrections=1), rounds_per_day=2),
    Policy(Thresholds(corrections=3, preferences=1, people=2)),
    Policy(Thresholds(corrections=3, people=2, named_people="none")),
    Policy(Thresholds(corrections=2, settle_s=120)),
    Policy(Thresholds(corrections=None, days=0.1)),
    Policy(Thresholds(corrections=None), Schedule("0 * * * *", "Europe/Madrid")),
    Policy(Thresholds(corrections=2), quiet_hours=QuietHours("17:30", "06:30", "Asia/Shanghai")),
    Policy(Thresholds(corrections=None)),
)
ACTS = (  # as often as they are named
    *("correct",) * 8,
    *("do",) * 12,
    *("return",) * 12,
    *("prefer", "retire", "tick", "again", "policy", "forget", "move") * 2,
    *(
        "erase",
        "ask",
        "cancel",
        "fail",
        "retry",
        "roll back",
        "retire a question",
        "rebuild",
        "compare",
        "compare bases",
        "build",
    ),
)
UNSURE = SHIPS | {"fixes": Paired(4, 0, 0, 4, 0)}
Course = list[tuple[str, int, Policy]]
COURSES: st.SearchStrategy[Course] = st.lists(
    st.tuples(st.sampled_from(ACTS), st.integers(0, 11), st.sampled_from(POLICIES)), min_size=40, max_size=90
)


class Happening(DomainLog):
    """A domain to which anything happens, in any order: people, operators, time, and workers with the orders they hold. What is
    decided comes onto the log sooner or later."""

    decides = False

    def __init__(self) -> None:
        super().__init__()
        begun = created()
        self.state, self.told, self.said, self.fresh = begun.state, begun.told, begun.said, begun.fresh
        self.open: list[Order] = []
        self.done: list[Order] = []
        self.proposed: dict[UUID, tuple[Decision, UUID]] = {}  # as in the outbox: of one id, the first; and its cause
        self.now = START

    def act(self, what: str, pick: int, policy: Policy) -> tuple[Consequence | Order, ...]:
        """Let one thing happen; return what it makes us say and ask. Nothing happens if there is nothing to pick from."""
        self.now += timedelta(seconds=20 * (pick + 1))
        if what == "return":
            told = {recorded.envelope.id for recorded in self.told}
            waiting = [(id_, *found) for id_, found in self.proposed.items() if id_ not in told]
            if not waiting:
                return ()
            id_, event, cause = waiting[0]  # a partition keeps its order
            return self._told(event, id_, cause)
        happening = self._event(what, pick, policy)
        return () if happening is None else self._told(happening)

    def _told(
        self, event: DomainEvent, id: UUID | None = None, cause: UUID | None = None
    ) -> tuple[Consequence | Order, ...]:
        said = self.tell(event, at=self.now, id=id, cause=cause)
        for one in said:
            if not isinstance(one, Consequence):
                self.open.append(one)
            elif isinstance(one.event, Decision):
                self.proposed.setdefault(one.id, (one.event, self.told[-1].envelope.id))
        return said

    def _event(self, what: str, pick: int, policy: Policy) -> DomainEvent | None:
        person = ("ana", "ben", "eva")[pick % 3]
        match what:
            case "correct":
                service = "desk" if pick > 6 else None
                return correction(f"example {len(self.told) if pick else 0}", person, service=service)
            case "prefer":
                return preference(f"preference {len(self.told) if pick else 0}", person)
            case "retire":
                known = [r.envelope.event for r in self.told if isinstance(r.envelope.event, ExampleAccepted)]
                example_id = known[pick % len(known)].example_id if known else "unknown"
                return ExampleRetired(domain=DOMAIN, example_id=example_id, reason="wrong", by="ops")
            case "retire a question":
                return ExamItemRetired(domain=DOMAIN, item_id="item", reason="wrong", by="ops")
            case "erase":
                return PersonErased(domain=DOMAIN, person=person, kids=(f"key-of-{person}",), by="ops")
            case "tick":
                self.now += timedelta(hours=pick)
                return ClockTicked(domain=DOMAIN, at=self.now)
            case "ask":
                return RoundAsked(domain=DOMAIN, by="ops")
            case "move":
                return RoundAsked(domain=DOMAIN, by="ops", base="heron", base_model=f"model-{pick % 3}")
            case "roll back":
                return RollbackAsked(domain=DOMAIN, to=pick % (self.state.highest + 2), by="ops")
            case "forget":
                release = pick % (self.state.highest + 2)
                digest = "sha256:" + "f0" * 32
                return CandidateRetired(
                    domain=DOMAIN, round_id="another", release=release, model=digest, adapter=digest, reason="enough"
                )
            case "rebuild":
                return rebuild_asked("another", pick % (self.state.highest + 2), base_release=pick % 2)
            case "compare":
                return ComparisonAsked(domain=DOMAIN, by="ops")
            case "compare bases":
                return BaseComparisonAsked(domain=DOMAIN, bases={"one": "model-0", "two": "model-2"}, by="ops")
            case "build":
                return BuildAsked(domain=DOMAIN, builder="self-kg", most=None, by="ops")
            case "policy":
                return PolicySet(domain=DOMAIN, policy=policy, by="ops")
            case "cancel":
                round_id = self.state.round.id if self.state.round is not None and pick else "another"
                return RoundCancelled(domain=DOMAIN, round_id=round_id, by="ops")
            case "fail" | "retry" if self.open:
                order = self.open[pick % len(self.open)]
                if what == "fail":
                    self._finish(order)
                return failed(order, will_retry=what == "retry")
            case "do" if self.open:
                order = self.open[-1] if pick > 2 else self.open[0]
                self._finish(order)
                return self._result(order, pick)
            case "again" if self.done:
                return self._result(self.done[pick % len(self.done)], pick)
            case _:
                return None

    def _finish(self, order: Order) -> None:
        self.open.remove(order)
        self.done.append(order)

    def _result(self, order: Order, pick: int) -> DomainEvent:
        match order:
            case orders.SelectSnapshot():
                return selected(order, kept=() if pick == 7 else ("one",))
            case orders.TrainCandidate():
                return trained(order)
            case orders.RebuildCandidate():
                return rebuilt(order, equal=pick != 7)
            case orders.CompareReleases():
                return compared(order)
            case orders.BuildMaterial():
                return built(order)
            case orders.CompareBases():
                return bases_compared(order)
            case orders.EvaluateCandidate():
                return evaluated(order, {5: UNSURE, 6: REFUSED, 7: REFUSED}.get(pick))
            case orders.SwapRelease():
                return rolled_back(order) if order.rollback else finished(order)
            case orders.PurgePlaces():
                return PlacesPurged(domain=DOMAIN, person=order.person, order_id=order.order_id, places={})
