"""A domain and its rounds: the process manager. Events in, orders and derived events out. Pure.

    select ──▶ train ──▶ evaluate ──▶ swap ──▶ released
       │          │          │          │
       ▼          ▼          ▼          ▼
     empty     failed     refused     failed          (cancelled: from select, train or evaluate)

A decision (that a round begins, what the gate says of a candidate) is an event, and only its event has effect: `react` proposes
it, under an id that tells what it is about, so that proposing twice is one event; `fold` acts on what was recorded, and never
decides. So the past stays what it was, whatever later code would have decided.
"""

from datetime import datetime, timedelta
from typing import assert_never
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from streams.conversations import Consequence
from streams.events import (
    CandidateEvaluated,
    CandidateRebuilt,
    CandidateRetired,
    CandidateTrained,
    ClockTicked,
    DomainCreated,
    DomainEvent,
    DomainRetired,
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
    RebuildAsked,
    Recorded,
    ReleaseFinished,
    ReleaseRolledBack,
    ReleaseStarted,
    RollbackAsked,
    RoundAsked,
    RoundCancelled,
    RoundFailed,
    RoundRequested,
    RoundStep,
    SnapshotSelected,
)
from streams.fresh import Fresh, Given
from streams.gate import Verdict, judge
from streams.orders import (
    EvaluateCandidate,
    Order,
    PurgePlaces,
    RebuildCandidate,
    SelectSnapshot,
    SwapRelease,
    TrainCandidate,
)
from streams.policy import Gathered, Outlook, Policy, local_day, outlook

_DECISIONS = uuid5(NAMESPACE_URL, "urn:noria:decision")


class Round(Struct, frozen=True):
    """The round under way. `order_id` is the order that it waits for; results of any other are old news."""

    id: str
    number: int
    step: RoundStep
    reason: str
    order_id: UUID
    pin: int
    base_release: int
    policy: Policy
    snapshot: str | None = None
    model: str | None = None
    verdict: Verdict | None = None
    release: int | None = None


class Ended(Struct, frozen=True):
    """How the last round ended, as the projection shows it."""

    id: str
    step: str
    verdict: Verdict | None = None
    failure: str | None = None


class Going(Struct, frozen=True):
    """Where a rollback goes that was asked for and is not done; `order_id`: of its order."""

    to: int
    order_id: UUID


CLOCK_AHEAD = timedelta(days=7)  # of what an event says: more is no delay between writers


class Rebuild(Struct, frozen=True):
    """What is being made again: what `round_id` made of `base_release`, and was released as `release` if it was."""

    round_id: str
    release: int | None
    base_release: int
    order_id: UUID


class Domain(Struct, frozen=True):
    """What decisions about a domain use, and no more. `fresh` is kept apart from the rest."""

    base_model: str = ""
    engine: str = ""
    replay_prompts: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)
    fresh: Fresh = field(default_factory=Fresh)  # since a round was last asked for
    last_new_at: datetime | None = None
    asked: tuple[datetime, ...] = ()  # of the budget's current day
    last_asked_at: datetime | None = None
    last_release_at: datetime | None = None
    round: Round | None = None
    ended: Ended | None = None
    rounds: int = 0
    releases: dict[int, str] = field(default_factory=dict)  # release -> model
    live: int | None = None
    highest: int = 0
    erased: tuple[str, ...] = ()  # sorted, so that equal states are equal bytes in every process
    retired: bool = False
    going: Going | None = None
    rebuild: Rebuild | None = None


def in_use(state: Domain, round_id: str, release: int | None) -> bool:
    """Whether what that round made, and what became a release if it did, may be needed at any moment."""
    if state.round is not None and (state.round.id == round_id or state.round.base_release == release):
        return True
    if release is None:
        return False
    return (
        release == state.live
        or (state.going is not None and release == state.going.to)
        or (state.rebuild is not None and release == state.rebuild.base_release)
    )


def pack(state: Domain) -> bytes:
    """The state as it is kept, but for what is `fresh`. Equal states are equal bytes, in every process."""
    return msgspec.msgpack.encode(state, enc_hook=lambda fresh: None)


def unpack(body: bytes, fresh: Fresh) -> Domain:
    """The state of which `pack` made the body."""
    return msgspec.msgpack.decode(body, type=Domain, dec_hook=lambda kind, nothing: fresh)


def gathered(state: Domain, now: datetime) -> Gathered:
    today = local_day(now, state.policy)
    return Gathered(
        corrections=len(state.fresh.corrections),
        preferences=len(state.fresh.preferences),
        people=state.fresh.people(state.policy.thresholds.named_people),
        named=state.fresh.named,
        last_new_at=state.last_new_at,
        last_release_at=state.last_release_at,
        last_asked_at=state.last_asked_at,
        asked_today=sum(local_day(at, state.policy) == today for at in state.asked),
    )


def prospect(state: Domain, now: datetime) -> Outlook:
    """When the next round comes, or why not yet."""
    if not state.base_model:
        return Outlook(due=False, reason="", missing=("the domain has not been created",), wake_at=None)
    if state.retired:
        return Outlook(due=False, reason="", missing=("the domain has been retired",), wake_at=None)
    if state.live is None:
        return Outlook(due=False, reason="", missing=("no release answers yet",), wake_at=None)
    if state.round is not None:
        under_way = f"round {state.round.number} is under way ({state.round.step})"
        return Outlook(due=False, reason="", missing=(under_way,), wake_at=None)
    return outlook(state.policy, gathered(state, now), now)


def fold(state: Domain, recorded: Recorded, event: DomainEvent) -> Domain:
    """The domain after `event`. Never refuses, and never decides: it has happened."""
    return _fold(_without_the_future(state, _now(recorded, event)), recorded, event)


def react(before: Domain, after: Domain, recorded: Recorded, event: DomainEvent) -> tuple[Consequence | Order, ...]:
    """What the step from `before` to `after` makes us say and ask."""
    cause = recorded.envelope.id
    found: list[Consequence | Order] = []
    if isinstance(event, DomainCreated) and not before.base_model:
        found.append(_swap(event.domain, after, uuid5(cause, "swap_release"), 0, None))
    if isinstance(event, RollbackAsked) and _reachable(before, event):
        found.append(_swap(event.domain, after, uuid5(cause, "swap_release"), event.to, None, rollback=True))
    if isinstance(event, RebuildAsked) and after.rebuild is not None and after.rebuild != before.rebuild:
        found.append(_rebuild(event, after, after.rebuild))
    if isinstance(event, PersonErased):
        order_id = uuid5(cause, "purge_places")
        found.append(PurgePlaces(order_id=order_id, domain=event.domain, person=event.person, kids=event.kids))

    old, new = before.round, after.round
    if new is not None and (old is None or old.id != new.id or new.step != old.step):
        found += _orders_of(event.domain, after, new)
    if isinstance(event, CandidateEvaluated) and old is not None and old.order_id == event.order_id:
        found.append(_judged(before, old, event, cause))
    reason = _why_a_round(after, recorded, event)
    if reason is not None:
        found.append(_proposed(after, recorded, event, reason))
    return tuple(found)


def _why_a_round(state: Domain, recorded: Recorded, event: DomainEvent) -> str | None:
    """Why a round is to begin now; None: it is not."""
    if isinstance(event, RoundAsked):
        return f"asked for by {event.by}" if _startable(state) else None
    found = prospect(state, _now(recorded, event))
    return found.reason if found.due else None


def _startable(state: Domain) -> bool:
    return state.round is None and state.live is not None and not state.retired


def _proposed(state: Domain, recorded: Recorded, event: DomainEvent, reason: str) -> Consequence:
    """That the domain's next round begins, with what stands up to here. Until that stands on the log each event proposes it again,
    as the same event."""
    assert state.live is not None
    number = state.rounds + 1
    requested = RoundRequested(
        domain=event.domain,
        round_id=str(uuid5(recorded.envelope.id, "round")),
        number=number,
        reason=reason,
        pin=recorded.offset + 1,
        base_release=state.live,
        policy=state.policy,
    )
    return Consequence(uuid5(_DECISIONS, f"round {number} of {event.domain}"), requested)


def _judged(state: Domain, round_: Round, event: CandidateEvaluated, cause: UUID) -> Consequence:
    """What the gate says of a candidate."""
    verdict = judge(event.paired, round_.policy.gate)
    if verdict.outcome != "ship":
        refused = GateRefused(domain=event.domain, round_id=round_.id, verdict=verdict)
        return Consequence(uuid5(cause, "gate_refused"), refused)
    passed = GatePassed(domain=event.domain, round_id=round_.id, release=state.highest + 1, verdict=verdict)
    return Consequence(uuid5(cause, "gate_passed"), passed)


def _now(recorded: Recorded, event: DomainEvent) -> datetime:
    return event.at if isinstance(event, ClockTicked) else recorded.envelope.time


def _without_the_future(state: Domain, now: datetime) -> Domain:
    """A clock that was years ahead and was set right has left times that nothing would be due after for years."""
    wrong = now + CLOCK_AHEAD
    times = {name: at for name in ("last_new_at", "last_asked_at", "last_release_at") if (at := getattr(state, name))}
    if all(at <= wrong for at in (*times.values(), *state.asked)):
        return state
    return replace(
        state,
        asked=tuple(at for at in state.asked if at <= wrong),
        **{name: now for name, at in times.items() if at > wrong},
    )


def _fold(state: Domain, recorded: Recorded, event: DomainEvent) -> Domain:
    cause, now = recorded.envelope.id, recorded.envelope.time
    round_ = state.round
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
            )
        case DomainRetired():
            if not state.base_model:
                return state
            return replace(state if round_ is None else _end(state, "cancelled"), retired=True, rebuild=None)
        case PolicySet():
            return replace(state, policy=event.policy)
        case ExampleAccepted():
            if event.prompt.kid in state.erased or event.answer.kid in state.erased:
                return state
            return replace(
                state,
                fresh=state.fresh.with_correction(event.example_id, _given(event, recorded)),
                last_new_at=now,
            )
        case PreferenceAccepted():
            if event.prompt.kid in state.erased:
                return state
            return replace(
                state,
                fresh=state.fresh.with_preference(event.preference_id, _given(event, recorded)),
                last_new_at=now,
            )
        case ExampleRetired():
            return replace(state, fresh=state.fresh.without_correction(event.example_id))
        case PersonErased():
            return replace(
                state,
                erased=tuple(sorted({*state.erased, *event.kids})),
                fresh=state.fresh.without_person(event.person),
            )
        case SnapshotSelected():
            if round_ is None or round_.order_id != event.order_id:
                return state
            if not event.kept and not event.named:
                return _end(state, "empty")
            return _step(state, round_, "train", uuid5(cause, "train_candidate"), snapshot=event.snapshot)
        case CandidateTrained():
            if round_ is None or round_.order_id != event.order_id:
                return state
            return _step(state, round_, "evaluate", uuid5(cause, "evaluate_candidate"), model=event.model)
        case CandidateEvaluated():
            # It waits for no order any more, but for the gate's word.
            return state if round_ is None or round_.order_id != event.order_id else _step(state, round_, "gate", cause)
        case GatePassed():
            if round_ is None or round_.id != event.round_id or round_.step != "gate":
                return state
            order_id = uuid5(round_.order_id, "swap_release")
            after = _step(state, round_, "swap", order_id, verdict=event.verdict, release=event.release)
            return replace(after, highest=max(state.highest, event.release))
        case GateRefused():
            if round_ is None or round_.id != event.round_id or round_.step != "gate":
                return state
            return _end(state, "refused", verdict=event.verdict)
        case RoundRequested():
            return _start(state, recorded, event)
        case ReleaseFinished():
            after = replace(
                state,
                releases=state.releases | {event.release: event.model},
                live=event.release,
                highest=max(state.highest, event.release),
                last_release_at=now,
                going=None,
            )
            if round_ is not None and round_.order_id == event.order_id:
                after = _end(after, "released")
            return after
        case ReleaseRolledBack():
            # Of no release that there is: a foreign writer's.
            return replace(state, live=event.to, going=None) if event.to in state.releases else state
        case RollbackAsked():
            going = Going(event.to, uuid5(cause, "swap_release"))
            return replace(state, going=going) if _reachable(state, event) else state
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
        case RoundCancelled():
            if round_ is None or round_.id != event.round_id or round_.step == "swap":
                return state
            return _end(state, "cancelled")
        case RoundFailed():
            if state.going is not None and state.going.order_id == event.order_id and not event.will_retry:
                state = replace(state, going=None)
            if state.rebuild is not None and state.rebuild.order_id == event.order_id and not event.will_retry:
                state = replace(state, rebuild=None)
            if round_ is None or round_.order_id != event.order_id or event.will_retry:
                return state
            return _end(state, "failed", failure=f"{event.step}: {event.reason}")
        case (
            ClockTicked()
            | ExamItemAdded()
            | ExamItemRetired()
            | RoundAsked()
            | PlacesPurged()
            | OrderProgressed()
            | ExamplesSelected()
            | ReleaseStarted()
        ):
            return state
        case _:
            assert_never(event)


def _given(event: ExampleAccepted | PreferenceAccepted, recorded: Recorded) -> Given:
    return Given(event.person, event.service, recorded.offset)


def _reachable(state: Domain, event: RollbackAsked) -> bool:
    return event.to in state.releases and event.to != state.live and not state.retired


def _rebuildable(state: Domain, event: RebuildAsked) -> bool:
    if state.rebuild is not None or state.retired or event.base_release not in state.releases:
        return False
    if event.release is not None and (event.release in state.releases or not 0 < event.release <= state.highest):
        return False
    return state.round is None or state.round.id != event.round_id


def _rebuild(event: RebuildAsked, state: Domain, rebuild: Rebuild) -> RebuildCandidate:
    return RebuildCandidate(
        order_id=rebuild.order_id,
        domain=event.domain,
        round_id=event.round_id,
        pin=event.pin,
        snapshot=event.snapshot,
        base_model=state.releases[event.base_release],
        reference_model=state.base_model,
        recipe=event.recipe,
        replay_prompts=state.replay_prompts,
        model=event.model,
        adapter=event.adapter,
    )


def _start(state: Domain, recorded: Recorded, event: RoundRequested) -> Domain:
    """Of two that claim one number the first wins. One that cannot begin any more has used its number up."""
    if event.number != state.rounds + 1:
        return state
    if not _startable(state) or event.base_release not in state.releases:
        return replace(state, rounds=event.number)
    now = recorded.envelope.time
    today = local_day(now, event.policy)
    round_ = Round(
        id=event.round_id,
        number=event.number,
        step="select",
        reason=event.reason,
        order_id=uuid5(recorded.envelope.causation_id or recorded.envelope.id, "select_snapshot"),
        pin=event.pin,
        base_release=event.base_release,
        policy=event.policy,
    )
    return replace(
        state,
        round=round_,
        rounds=event.number,
        fresh=state.fresh.since(event.pin),
        asked=(*(at for at in state.asked if local_day(at, event.policy) == today), now),
        last_asked_at=now,
    )


def _step(
    state: Domain,
    round_: Round,
    step: RoundStep,
    order_id: UUID,
    *,
    snapshot: str | None = None,
    model: str | None = None,
    verdict: Verdict | None = None,
    release: int | None = None,
) -> Domain:
    return replace(
        state,
        round=replace(
            round_,
            step=step,
            order_id=order_id,
            snapshot=snapshot or round_.snapshot,
            model=model or round_.model,
            verdict=verdict,
            release=release,
        ),
    )


def _end(state: Domain, step: str, verdict: Verdict | None = None, failure: str | None = None) -> Domain:
    assert state.round is not None
    return replace(state, round=None, ended=Ended(state.round.id, step, verdict or state.round.verdict, failure))


def _orders_of(domain: str, state: Domain, round_: Round) -> tuple[Order, ...]:
    """What the round waits for at its step."""
    base_model = state.releases[round_.base_release]
    match round_.step:
        case "select":
            return (
                SelectSnapshot(
                    order_id=round_.order_id,
                    domain=domain,
                    round_id=round_.id,
                    pin=round_.pin,
                    base_model=base_model,
                    recipe=round_.policy.recipe,
                ),
            )
        case "train":
            assert round_.snapshot is not None
            return (
                TrainCandidate(
                    order_id=round_.order_id,
                    domain=domain,
                    round_id=round_.id,
                    snapshot=round_.snapshot,
                    base_model=base_model,
                    reference_model=state.base_model,
                    recipe=round_.policy.recipe,
                    replay_prompts=state.replay_prompts,
                ),
            )
        case "evaluate":
            assert round_.snapshot is not None and round_.model is not None
            return (
                EvaluateCandidate(
                    order_id=round_.order_id,
                    domain=domain,
                    round_id=round_.id,
                    snapshot=round_.snapshot,
                    base_model=base_model,
                    candidate_model=round_.model,
                    pin=round_.pin,
                    engine=state.engine,
                ),
            )
        case "gate":
            return ()  # its word is an event, and no worker's
        case "swap":
            assert round_.release is not None
            return (_swap(domain, state, round_.order_id, round_.release, round_),)
        case _:
            assert_never(round_.step)


def _swap(
    domain: str, state: Domain, order_id: UUID, release: int, round_: Round | None, rollback: bool = False
) -> SwapRelease:
    model = round_.model if round_ is not None else state.releases[release]
    assert model is not None
    return SwapRelease(
        order_id=order_id,
        domain=domain,
        release=release,
        model=model,
        engine=state.engine,
        current=state.live,
        round_id=round_.id if round_ is not None else None,
        rollback=rollback,
    )
