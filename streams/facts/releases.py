"""Releases: which model answers, what it may be rolled back to, and what of those that were made is kept or made again."""

from datetime import datetime
from typing import Any, assert_never
from uuid import UUID, uuid5

from msgspec import Struct
from msgspec.structs import replace

from streams.domain import Domain, Going, Rebuild, ended, in_use
from streams.envelope import Number, Offset, Recorded
from streams.made_with import MadeWith
from streams.personal import PersonalKind
from streams.recalled import Recall
from streams.recipes import Recipe
from streams.selection import USUAL, Selection
from streams.tables import double, integer, projection, text, timestamptz
from streams.writes import Insert, Row, Update, Write, columns


class ReleaseStarted(Struct, frozen=True, kw_only=True):
    domain: str
    release: Number
    order_id: UUID
    model: str


class ReleaseFinished(Struct, frozen=True, kw_only=True):
    """`release` answers from here on. `golden_difference`: engine against trainer, in log-probability."""

    domain: str
    release: Number
    order_id: UUID
    model: str
    golden_difference: float
    ready_s: float
    flip_ms: float


class RollbackAsked(Struct, frozen=True, kw_only=True):
    domain: str
    to: int
    by: str


class ReleaseRolledBack(Struct, frozen=True, kw_only=True):
    """From `release` back (or forth) to `to`."""

    domain: str
    release: int
    to: int
    order_id: UUID
    flip_ms: float
    ready_s: float


class CandidateRetired(Struct, frozen=True, kw_only=True):
    """The model and the adapter that a round made are kept no longer, by the policy; what they were, these digests say. `release`:
    what they were released as, which cannot be gone back to any more. Without effect for what is in use by then."""

    domain: str
    round_id: str
    release: Number | None
    model: str
    adapter: str
    reason: str


class RebuildAsked(Struct, frozen=True, kw_only=True):
    """Somebody asked that what a round made, and what was removed since, be made again: from `base_release` (`from_base`: from the
    base of that, or from `base_model` where the round was to move the domain) by `recipe`, on `snapshot` (or on what stood before
    `pin`, should that be lost, by `selection`, with what `recall` has and what `mask` has masked, or as an `opening` round).
    `reward_model`: what judged the answers that its training drew. It was `model` and `adapter`; `release`: what they were released
    as."""

    domain: str
    round_id: str
    pin: Offset
    snapshot: str
    base_release: Number
    recipe: Recipe
    release: Number | None
    model: str
    adapter: str
    by: str
    recall: Recall = Recall()
    opening: bool = False
    from_base: bool = False
    base_model: str | None = None
    reward_model: str | None = None
    selection: Selection = USUAL
    mask: tuple[PersonalKind, ...] = ()


class CandidateRebuilt(Struct, frozen=True, kw_only=True):
    """What a round made was made again. If it is `equal`, byte by byte, it is there again; otherwise `model` and `adapter` say what
    came of it, of which nothing was kept. `erased`: the examples and wordings of its snapshot whose words are gone, and which are
    not in it. `made_with`: with what it was made this time."""

    domain: str
    round_id: str
    order_id: UUID
    equal: bool
    model: str
    adapter: str
    erased: Number
    duration_s: float
    made_with: MadeWith | None = None


ReleaseEvent = (
    ReleaseStarted
    | ReleaseFinished
    | RollbackAsked
    | ReleaseRolledBack
    | CandidateRetired
    | RebuildAsked
    | CandidateRebuilt
)

releases = projection(
    "releases",
    text("domain", key=True),
    integer("release", key=True),
    text("round_id", nullable=True),
    text("model"),
    text("needs"),  # merged, or adapter: what the engine must be able to do to serve it
    text("state"),  # started, live, retired, removed
    timestamptz("started_at"),
    timestamptz("finished_at", nullable=True),
    double("golden_difference", nullable=True),
    double("flip_ms", nullable=True),
)


def fold(state: Domain, recorded: Recorded, event: ReleaseEvent) -> Domain:
    cause = recorded.envelope.id
    match event:
        case ReleaseStarted():
            return state
        case ReleaseFinished():
            round_ = state.round if state.round is not None and state.round.order_id == event.order_id else None
            needs = {} if round_ is None or round_.needs == "merged" else {event.release: round_.needs}
            after = replace(
                state,
                releases=state.releases | {event.release: event.model},
                needs=state.needs | needs,
                live=event.release,
                highest=max(state.highest, event.release),
                last_release_at=recorded.envelope.time,
                going=None,
            )
            return after if round_ is None else ended(after, "released")
        case ReleaseRolledBack():
            # Of no release that there is: a foreign writer's.
            return replace(state, live=event.to, going=None) if event.to in state.releases else state
        case RollbackAsked():
            going = Going(event.to, uuid5(cause, "swap_release"))
            return replace(state, going=going) if reachable(state, event) else state
        case CandidateRetired():
            if event.release is None or in_use(state, event.round_id, event.release):
                return state
            return replace(state, releases={n: m for n, m in state.releases.items() if n != event.release or n == 0})
        case RebuildAsked():
            if not _rebuildable(state, event):
                return state
            order_id = uuid5(cause, "rebuild_candidate")
            return replace(state, rebuild=Rebuild(event.round_id, event.release, event.base_release, order_id))
        case CandidateRebuilt():
            if state.rebuild is None or state.rebuild.order_id != event.order_id:
                return state
            rebuilt = state.rebuild
            state = replace(state, rebuild=None)
            if rebuilt.release is None or not event.equal:
                return state
            return replace(state, releases=state.releases | {rebuilt.release: event.model})
        case _:
            assert_never(event)


def reachable(state: Domain, event: RollbackAsked) -> bool:
    return event.to in state.releases and event.to != state.live and not state.retired


def _rebuildable(state: Domain, event: RebuildAsked) -> bool:
    if state.rebuild is not None or state.retired or event.base_release not in state.releases:
        return False
    if event.release is not None and not 0 < event.release <= state.highest:
        return False
    return state.round is None or state.round.id != event.round_id


def rows(before: Domain, after: Domain, recorded: Recorded, event: ReleaseEvent) -> list[Write]:
    at = recorded.envelope.time
    match event:
        case ReleaseStarted():
            round_ = before.round if before.round is not None and before.round.release == event.release else None
            row = {
                "domain": event.domain,
                "release": event.release,
                "round_id": None if round_ is None else round_.id,
                "model": event.model,
                "needs": "merged" if round_ is None else round_.needs,
                "state": "started",
                "started_at": at,
                "finished_at": None,
                "golden_difference": None,
                "flip_ms": None,
            }
            return [Insert("releases", row)]
        case ReleaseFinished():
            finished = {
                "state": "live",
                "finished_at": at,
                "golden_difference": event.golden_difference,
                "flip_ms": event.flip_ms,
            }
            return [*_retire(event.domain, before.live, event.release), _release(event.domain, event.release, finished)]
        case RollbackAsked():
            return []
        case ReleaseRolledBack():
            if event.to not in before.releases:
                return []
            return [
                *_retire(event.domain, before.live, event.to),
                _release(event.domain, event.to, {"state": "live", "flip_ms": event.flip_ms}),
            ]
        case CandidateRetired():
            if in_use(before, event.round_id, event.release):
                return []
            removed: list[Write] = [_round(event.round_id, {"removed_at": at})]
            if event.release is not None:
                removed.append(_release(event.domain, event.release, {"state": "removed"}))
            return removed
        case RebuildAsked():
            if after.rebuild is None or after.rebuild == before.rebuild:
                return []
            return [_rebuild(after.rebuild, at, "under_way")]
        case CandidateRebuilt():
            made = columns(event, "model", "adapter", "erased", "made_with")
            rebuilt = rebuild_ended(before, after, at, "equal" if event.equal else "differs", **made)
            if before.rebuild is None or not rebuilt or not event.equal:
                return rebuilt
            rebuilt.append(_round(before.rebuild.round_id, {"removed_at": None}))
            if before.rebuild.release is not None and before.rebuild.release not in before.releases:
                rebuilt.append(_release(event.domain, before.rebuild.release, {"state": "retired"}))
            return rebuilt
        case _:
            assert_never(event)


def rebuild_ended(before: Domain, after: Domain, at: datetime, outcome: str, **more: Any) -> list[Write]:
    """What came of the rebuild that was under way, if it no longer is."""
    if before.rebuild is None or after.rebuild is not None:
        return []
    return [_rebuild(before.rebuild, at, outcome, **more)]


def _rebuild(rebuild: Rebuild, at: datetime, outcome: str, **more: Any) -> Update:
    row = {"order_id": str(rebuild.order_id), "outcome": outcome, "at": at.isoformat(), **more}
    return _round(rebuild.round_id, {"rebuild": row, "progress": None})


def _round(round_id: str, row: Row) -> Update:
    return Update("rounds", {"round_id": round_id}, row)


def _release(domain: str, release: int, row: Row) -> Update:
    return Update("releases", {"domain": domain, "release": release}, row)


def _retire(domain: str, live: int | None, successor: int) -> list[Write]:
    if live is None or live == successor:
        return []
    return [_release(domain, live, {"state": "retired"})]
