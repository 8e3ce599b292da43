"""How orders fare: what a worker tells of one while it carries it out, and that it failed."""

from typing import Literal, assert_never
from uuid import UUID

from msgspec import Struct, field
from msgspec.structs import replace

from streams.domain import Domain, ended
from streams.envelope import Recorded
from streams.facts.comparisons import comparison_ended
from streams.facts.material import build_ended
from streams.facts.releases import rebuild_ended
from streams.writes import Update, Write

Step = Literal["select", "train", "evaluate", "swap", "purge", "build"]
WaitsFor = Literal["general_answers", "opencompass", "opencompass_failed", "disk_space", "another_training"]


class OrderProgressed(Struct, frozen=True, kw_only=True):
    """How far a step is. `round_id`: None, where the order is of none (a build). `waits_for`: what is still being made, without
    which it cannot go on. `stage`: of a recipe with several, the one whose steps are counted."""

    domain: str
    round_id: str | None
    order_id: UUID
    step: Step
    done: int
    total: int
    seconds_left: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    waits_for: WaitsFor | None = None
    stage: str | None = None


class OrderFailed(Struct, frozen=True, kw_only=True):
    """An order failed; whether it `will_retry` by itself is said too. `step`: None, where it could not be read what it asks for."""

    domain: str
    round_id: str | None
    order_id: UUID
    step: Step | None
    reason: str
    will_retry: bool
    attempt: int


OrderEvent = OrderProgressed | OrderFailed


def fold(state: Domain, event: OrderEvent) -> Domain:
    match event:
        case OrderProgressed():
            return state
        case OrderFailed():
            if event.will_retry:
                return state
            if state.going is not None and state.going.order_id == event.order_id:
                state = replace(state, going=None)
            if state.rebuild is not None and state.rebuild.order_id == event.order_id:
                state = replace(state, rebuild=None)
            if state.comparing is not None and state.comparing.order_id == event.order_id:
                state = replace(state, comparing=None)
            if state.building is not None and state.building.order_id == event.order_id:
                state = replace(state, building=None)
            if state.round is None or state.round.order_id != event.order_id:
                return state
            return ended(state, "failed", failure=event.reason)
        case _:
            assert_never(event)


def rows(before: Domain, after: Domain, recorded: Recorded, event: OrderEvent) -> list[Write]:
    match event:
        case OrderProgressed():
            if before.building is not None and before.building.order_id == event.order_id:
                told = {"done": event.done, "total": event.total, "values": event.values}
                return [Update("builds", {"build_id": str(event.order_id)}, {"progress": told})]
            under_way = [one.order_id for one in (before.round, before.rebuild) if one is not None]
            if event.order_id not in under_way:
                return []
            shown = {"step": event.step, "done": event.done, "total": event.total, "values": event.values}
            waits = {"waits_for": event.waits_for} if event.waits_for is not None else {}
            stage = {"stage": event.stage} if event.stage is not None else {}
            progress = shown | {"seconds_left": event.seconds_left} | waits | stage
            return [Update("rounds", {"round_id": event.round_id}, {"progress": progress})]
        case OrderFailed():
            at, failure = recorded.envelope.time, event.reason
            return [
                *rebuild_ended(before, after, at, "failed", failure=failure),
                *comparison_ended(before, after, at, "failed", failure=failure),
                *build_ended(before, after, at, "failed", failure=failure),
            ]
        case _:
            assert_never(event)
