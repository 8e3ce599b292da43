"""Domains: that there is one, by which policy it learns, and how it stands."""

from datetime import datetime
from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from streams.domain import Domain, base_of, ended, gathered, prospect
from streams.envelope import Moment, Recorded
from streams.facts.comparisons import comparison_ended
from streams.facts.material import build_ended
from streams.facts.releases import rebuild_ended
from streams.policy import Policy
from streams.tables import boolean, integer, jsonb, projection, text, text_array, timestamptz
from streams.writes import Insert, Row, Update, Write, columns


class DomainCreated(Struct, frozen=True, kw_only=True):
    """`opening`: as soon as its first release answers, an opening round teaches it to use what is recalled."""

    domain: str
    title: str
    languages: tuple[str, ...]
    system_prompt: str
    base_model: str
    engine: str
    replay_prompts: tuple[str, ...]
    opening: bool = False


class DomainRetired(Struct, frozen=True, kw_only=True):
    """The domain takes no chats and begins no rounds any more, and its engines stop; its log stays."""

    domain: str
    by: str


class PolicySet(Struct, frozen=True, kw_only=True):
    domain: str
    policy: Policy
    by: str


class ClockTicked(Struct, frozen=True, kw_only=True):
    """Time, as the log knows it: recorded only when a decision could depend on it."""

    domain: str
    at: Moment


DomainsEvent = DomainCreated | DomainRetired | PolicySet | ClockTicked

domains = projection(
    "domains",
    text("domain", key=True),
    text("title"),
    text_array("languages"),
    text("system_prompt"),
    text("base_model"),  # of the live release
    text("engine"),
    jsonb("policy"),
    integer("live_release", nullable=True),
    text("round_id", nullable=True),  # the round under way
    integer("corrections"),  # new since a round was last asked for
    integer("preferences"),
    integer("people"),
    boolean("due"),
    jsonb("missing"),  # list of Reason
    timestamptz("wake_at", nullable=True),
    timestamptz("created_at"),
    timestamptz("retired_at", nullable=True),
    version=2,  # a policy of a time before says that it masks nothing
)


def fold(state: Domain, event: DomainsEvent) -> Domain:
    match event:
        case DomainCreated():
            if state.base_model:
                return state
            return replace(
                state,
                base_model=event.base_model,
                engine=event.engine,
                replay_prompts=event.replay_prompts,
                releases=state.releases | {0: event.base_model},
                opening=event.opening,
            )
        case DomainRetired():
            if not state.base_model:
                return state
            state = state if state.round is None else ended(state, "cancelled")
            return replace(state, retired=True, rebuild=None, comparing=None, building=None)
        case PolicySet():
            return replace(state, policy=event.policy)
        case ClockTicked():
            return state
        case _:
            assert_never(event)


def rows(before: Domain, after: Domain, recorded: Recorded, event: DomainsEvent) -> list[Write]:
    at = recorded.envelope.time
    match event:
        case DomainCreated():
            if before.base_model:
                return []
            row = columns(event, "domain", "title", "languages", "system_prompt", "base_model", "engine")
            counts = {"corrections": 0, "preferences": 0, "people": 0, "due": False, "missing": []}
            policy = {"policy": msgspec.to_builtins(Policy()), "live_release": None, "round_id": None}
            return [Insert("domains", row | counts | policy | {"wake_at": None, "created_at": at, "retired_at": None})]
        case DomainRetired():
            if before.retired or not before.base_model:
                return []
            retired = Update("domains", {"domain": event.domain}, {"retired_at": at})
            rebuild = rebuild_ended(before, after, at, "cancelled")
            comparison = comparison_ended(before, after, at, "cancelled")
            return [retired, *rebuild, *comparison, *build_ended(before, after, at, "cancelled")]
        case PolicySet():
            return [Update("domains", {"domain": event.domain}, {"policy": msgspec.to_builtins(event.policy)})]
        case ClockTicked():
            return []
        case _:
            assert_never(event)


def now_of(recorded: Recorded, event: Struct) -> datetime:
    """What time it is, as the log knows it."""
    return event.at if isinstance(event, ClockTicked) else recorded.envelope.time


def standing(domain: str, state: Domain, now: datetime) -> Update:
    """How the domain stands, as its row shows it."""
    so_far, next_ = gathered(state, now), prospect(state, now)
    row: Row = {
        "base_model": base_of(state, state.live),
        "live_release": state.live,
        "round_id": state.round.id if state.round is not None else None,
        "corrections": so_far.corrections,
        "preferences": so_far.preferences,
        "people": so_far.people,
        "due": next_.due,
        "missing": msgspec.to_builtins(next_.missing),
        "wake_at": next_.wake_at,
    }
    return Update("domains", {"domain": domain}, row)
