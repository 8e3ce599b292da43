"""What people and workers read: rows that each event writes. Pure; the store carries the writes out."""

from datetime import datetime
from typing import Any, assert_never, get_args

import msgspec
from msgspec import Struct

from streams.events import (
    CandidateEvaluated,
    CandidateRebuilt,
    CandidateRetired,
    CandidateTrained,
    ClockTicked,
    ConversationEvent,
    DomainCreated,
    DomainEvent,
    DomainRetired,
    DraftPicked,
    ExamItemAdded,
    ExamItemRetired,
    ExampleAccepted,
    ExampleRetired,
    ExamplesSelected,
    GatePassed,
    GateRefused,
    OrderProgressed,
    PersonErased,
    PlacesPurged,
    PolicySet,
    PreferenceAccepted,
    PromptAsked,
    RebuildAsked,
    Recorded,
    ReleaseFinished,
    ReleaseRolledBack,
    ReleaseStarted,
    ReplyCommented,
    ReplyCorrected,
    ReplyDrafted,
    ReplyRated,
    RollbackAsked,
    RoundAsked,
    RoundCancelled,
    RoundFailed,
    RoundRequested,
    SnapshotSelected,
)
from streams.fresh import Given
from streams.policy import Policy
from streams.rounds import Domain, Rebuild, gathered, in_use, prospect

Row = dict[str, Any]


class Insert(Struct, frozen=True):
    """A new row, whole. A row with the same key stays as it is."""

    table: str
    row: Row


class Update(Struct, frozen=True):
    """Columns of the row that `key` names."""

    table: str
    key: Row
    row: Row


class Retire(Struct, frozen=True):
    """Every row that `where` names (one or many) is retired, unless it already was."""

    table: str
    where: Row
    offset: int
    reason: str


class Count(Struct, frozen=True):
    """One more in the column `number` of the row that `key` names."""

    table: str
    key: Row


class Delete(Struct, frozen=True):
    """Every row that `where` names is gone, or of those the ones that stand before an offset."""

    table: str
    where: Row
    before_offset: int | None = None


Write = Insert | Update | Retire | Count | Delete
CONVERSATION_EVENTS = get_args(ConversationEvent)


def of_conversation(recorded: Recorded, event: ConversationEvent) -> list[Write]:
    at = recorded.envelope.time
    match event:
        case PromptAsked():
            names = ("conversation_id", "domain", "prompt_id", "person", "messages", "follows", "so_far", "release")
            row = _columns(event, *names)
            place = {"partition": recorded.partition, "offset": recorded.offset}
            return [Insert("prompts", row | place | {"asked_at": at})]
        case ReplyDrafted():
            return [Insert("replies", msgspec.to_builtins(event) | {"drafted_at": at})]
        case DraftPicked():
            return _feedback(recorded, event, "pick", {})
        case ReplyRated():
            return _feedback(recorded, event, "rating", {"rating": event.rating, "scale": event.scale})
        case ReplyCorrected():
            return _feedback(recorded, event, "correction", {"text": msgspec.to_builtins(event.text)})
        case ReplyCommented():
            return _feedback(recorded, event, "comment", {"text": msgspec.to_builtins(event.text)})
        case _:
            assert_never(event)


def of_domain(before: Domain, after: Domain, recorded: Recorded, event: DomainEvent) -> list[Write]:
    """The rows of one domain event, and what the step from `before` to `after` shows of the domain and its round."""
    return [
        *_of_event(before, after, recorded, event),
        *_of_state(before, after, recorded, event),
        *_of_fresh(before, after, recorded, event),
    ]


def _of_event(before: Domain, after: Domain, recorded: Recorded, event: DomainEvent) -> list[Write]:
    at = recorded.envelope.time
    match event:
        case DomainCreated():
            if before.base_model:
                return []
            row = _columns(event, "domain", "title", "languages", "system_prompt", "base_model", "engine")
            counts = {"corrections": 0, "preferences": 0, "people": 0, "due": False, "missing": []}
            policy = {"policy": msgspec.to_builtins(Policy()), "live_release": None, "round_id": None}
            return [Insert("domains", row | counts | policy | {"wake_at": None, "created_at": at, "retired_at": None})]
        case DomainRetired():
            if before.retired or not before.base_model:
                return []
            retired = Update("domains", {"domain": event.domain}, {"retired_at": at})
            return [retired, *_rebuild_ended(before, after, at, "cancelled")]
        case PolicySet():
            return [Update("domains", {"domain": event.domain}, {"policy": msgspec.to_builtins(event.policy)})]
        case ExamItemAdded():
            row = _columns(event, "item_id", "domain", "kind", "item")
            standing = {"added_offset": recorded.offset, "retired_offset": None, "retired_reason": None}
            return [Insert("exam_items", row | standing)]
        case ExamItemRetired():
            where = {"domain": event.domain, "item_id": event.item_id}
            return [Retire("exam_items", where, recorded.offset, event.reason)]
        case ExampleAccepted():
            gone = event.prompt.kid in before.erased or event.answer.kid in before.erased
            row = _columns(event, "example_id", "domain", "kind", "person", "prompt", "answer", "prompt_id", "follows")
            more = {
                "said_at": event.said_at,
                "accepted_offset": recorded.offset,
                "retired_offset": recorded.offset if gone else None,
                "retired_reason": "erased" if gone else None,
            }
            return [Insert("examples", row | more)]
        case PreferenceAccepted():
            names = ("preference_id", "domain", "person", "prompt", "chosen", "rejected", "prompt_id", "follows")
            row = _columns(event, *names)
            row |= {"said_at": event.said_at, "accepted_offset": recorded.offset}
            return [Insert("preferences", row), Update("preferences", {"preference_id": event.preference_id}, row)]
        case ExampleRetired():
            where = {"domain": event.domain, "example_id": event.example_id}
            return [Retire("examples", where, recorded.offset, event.reason)]
        case PersonErased():
            erasure = {"domain": event.domain, "person": event.person, "kids": list(event.kids), "erased_at": at}
            return [
                Insert("erasures", erasure),
                Update("erasures", {"domain": event.domain, "person": event.person}, {"kids": list(event.kids)}),
                Retire("examples", {"domain": event.domain, "person": event.person}, recorded.offset, "erased"),
            ]
        case OrderProgressed():
            under_way = [one.order_id for one in (before.round, before.rebuild) if one is not None]
            if event.order_id not in under_way:
                return []
            shown = {"step": event.step, "done": event.done, "total": event.total, "values": event.values}
            waits = {"waits_for": event.waits_for} if event.waits_for is not None else {}
            return [_round(event.round_id, {"progress": shown | {"seconds_left": event.seconds_left} | waits})]
        case ExamplesSelected():
            if before.round is None or before.round.order_id != event.order_id:
                return []
            return _learned(event)
        case SnapshotSelected():
            if before.round is None or before.round.order_id != event.order_id:
                return []
            row = {
                "snapshot": event.snapshot,
                "kept": event.named + len(event.kept),
                "earlier": event.earlier,
                "wordings": event.wordings,
                "dropped": event.dropped,
            }
            return [_round(event.round_id, row), *_learned(event)]
        case CandidateTrained():
            if before.round is None or before.round.order_id != event.order_id:
                return []
            row = _columns(event, "model", "adapter", "golden", "loss")
            return [_round(event.round_id, row)]
        case CandidateEvaluated():
            if before.round is None or before.round.order_id != event.order_id:
                return []
            return [_round(event.round_id, {"evaluation": event.rows})]
        case ReleaseStarted():
            round_ = before.round
            row = {
                "domain": event.domain,
                "release": event.release,
                "round_id": round_.id if round_ is not None and round_.release == event.release else None,
                "model": event.model,
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
            return (
                removed
                if event.release is None
                else [*removed, _release(event.domain, event.release, {"state": "removed"})]
            )
        case RebuildAsked():
            if after.rebuild is None or after.rebuild == before.rebuild:
                return []
            return [_rebuild(after.rebuild, at, "under_way")]
        case CandidateRebuilt():
            made = _columns(event, "model", "adapter", "erased")
            rebuilt = _rebuild_ended(before, after, at, "equal" if event.equal else "differs", **made)
            if before.rebuild is None or not rebuilt or not event.equal:
                return rebuilt
            rebuilt.append(_round(before.rebuild.round_id, {"removed_at": None}))
            if before.rebuild.release is not None:
                rebuilt.append(_release(event.domain, before.rebuild.release, {"state": "retired"}))
            return rebuilt
        case RoundFailed():
            return _rebuild_ended(before, after, at, "failed", failure=event.reason)
        case (
            ClockTicked()
            | PlacesPurged()
            | RoundAsked()
            | RoundRequested()
            | GatePassed()
            | GateRefused()
            | RollbackAsked()
            | RoundCancelled()
        ):
            return []
        case _:
            assert_never(event)


def _of_state(before: Domain, after: Domain, recorded: Recorded, event: DomainEvent) -> list[Write]:
    at = recorded.envelope.time
    writes: list[Write] = []
    old, new = before.round, after.round
    if old is not None and (new is None or new.id != old.id):
        ended = after.ended
        assert ended is not None
        row = {"step": ended.step, "ended_at": at, "failure": ended.failure, "progress": None}
        if ended.verdict is not None:
            row["verdict"] = msgspec.to_builtins(ended.verdict)
        writes.append(_round(old.id, row))
    if new is not None and (old is None or new.id != old.id):
        row = {
            "round_id": new.id,
            "domain": event.domain,
            "number": new.number,
            "step": new.step,
            "reason": new.reason,
            "pin": new.pin,
            "base_release": new.base_release,
            "requested_at": at,
        }
        empty = dict.fromkeys(
            [
                "snapshot",
                "kept",
                "earlier",
                "wordings",
                "dropped",
                "model",
                "adapter",
                "golden",
                "loss",
                "evaluation",
                "verdict",
                "release",
                "progress",
                "failure",
                "ended_at",
                "removed_at",
                "rebuild",
            ]
        )
        writes.append(Insert("rounds", row | empty))
    elif new is not None and old is not None and new.step != old.step:
        row = {"step": new.step, "progress": None, "release": new.release}
        if new.verdict is not None:
            row["verdict"] = msgspec.to_builtins(new.verdict)
        writes.append(_round(new.id, row))
    if after.base_model and (after is not before or isinstance(event, ClockTicked)):
        writes.append(Update("domains", {"domain": event.domain}, _standing(after, _now(recorded, event))))
    return writes


def _of_fresh(before: Domain, after: Domain, recorded: Recorded, event: DomainEvent) -> list[Write]:
    """The rows that keep `after.fresh`, given those of `before.fresh`."""
    if after.fresh is before.fresh:
        return []
    match event:
        case RoundRequested():
            return [Delete("fresh", {"domain": event.domain}, before_offset=event.pin)]
        case ExampleAccepted():
            was = before.fresh.corrections.get(event.example_id)
            return _given(recorded, event, "correction", event.example_id, was)
        case PreferenceAccepted():
            was = before.fresh.preferences.get(event.preference_id)
            return _given(recorded, event, "preference", event.preference_id, was)
        case ExampleRetired():
            where = {"domain": event.domain, "kind": "correction", "given_id": event.example_id}
            return [Delete("fresh", where)]
        case PersonErased():
            return [Delete("fresh", {"domain": event.domain, "person": event.person})]
        case _:
            raise AssertionError(f"{type(event).__name__} changes nothing of what is fresh")


def _given(
    recorded: Recorded, event: ExampleAccepted | PreferenceAccepted, kind: str, given_id: str, was: Given | None
) -> list[Write]:
    key = {"domain": event.domain, "kind": kind, "given_id": given_id}
    giver = {"person": event.person, "service": event.service, "offset": recorded.offset}
    return [Insert("fresh", key | giver) if was is None else Update("fresh", key, giver)]


def _standing(state: Domain, now: datetime) -> Row:
    so_far, next_ = gathered(state, now), prospect(state, now)
    return {
        "live_release": state.live,
        "round_id": state.round.id if state.round is not None else None,
        "corrections": so_far.corrections,
        "preferences": so_far.preferences,
        "people": so_far.people,
        "due": next_.due,
        "missing": list(next_.missing),
        "wake_at": next_.wake_at,
    }


def _now(recorded: Recorded, event: DomainEvent) -> datetime:
    return event.at if isinstance(event, ClockTicked) else recorded.envelope.time


def _feedback(
    recorded: Recorded, event: DraftPicked | ReplyRated | ReplyCorrected | ReplyCommented, kind: str, more: Row
) -> list[Write]:
    row = _columns(event, "reply_id", "prompt_id", "conversation_id", "domain", "person", "request_digest")
    fixed = {"event_id": str(recorded.envelope.id), "kind": kind, "given_at": recorded.envelope.time}
    given = Insert("feedback", {"rating": None, "scale": None, "text": None} | row | fixed | more)
    return [given, Count("feedback_counts", {"domain": event.domain, "kind": kind})]


def _learned(event: ExamplesSelected | SnapshotSelected) -> list[Write]:
    named = sorted(set(event.kept))
    return [Insert("learned", {"round_id": event.round_id, "example_id": example_id}) for example_id in named]


def _round(round_id: str, row: Row) -> Update:
    return Update("rounds", {"round_id": round_id}, row)


def _rebuild_ended(before: Domain, after: Domain, at: datetime, outcome: str, **more: Any) -> list[Write]:
    """What came of the rebuild that was under way, if it no longer is."""
    if before.rebuild is None or after.rebuild is not None:
        return []
    return [_rebuild(before.rebuild, at, outcome, **more)]


def _rebuild(rebuild: Rebuild, at: datetime, outcome: str, **more: Any) -> Update:
    row = {"order_id": str(rebuild.order_id), "outcome": outcome, "at": at.isoformat(), **more}
    return _round(rebuild.round_id, {"rebuild": row, "progress": None})


def _release(domain: str, release: int, row: Row) -> Update:
    return Update("releases", {"domain": domain, "release": release}, row)


def _retire(domain: str, live: int | None, successor: int) -> list[Write]:
    if live is None or live == successor:
        return []
    return [_release(domain, live, {"state": "retired"})]


def _columns(event: ConversationEvent | DomainEvent, *names: str) -> Row:
    return {name: msgspec.to_builtins(getattr(event, name)) for name in names}
