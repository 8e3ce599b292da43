"""A domain and its rounds: the process manager. Events in, orders and derived events out. Pure.

    select ──▶ train ──▶ evaluate ──▶ swap ──▶ released
       │          │          │          │
       ▼          ▼          ▼          ▼
     empty     failed     refused     failed          (cancelled: from select, train or evaluate)

What `react` asks for is part of the state at once (`fold` starts the round on the very event that made it due), so a
correction that arrives before the order comes back from the log does not ask a second time.
"""

from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID, uuid5

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
from streams.fresh import Fresh, Giver
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
    """The domain after `event`. Never refuses: it has happened. A round that has become due starts here and now."""
    now = event.at if isinstance(event, ClockTicked) else recorded.envelope.time
    after = _fold(_without_the_future(state, now), recorded, event)
    if isinstance(event, RoundAsked):
        startable = after.round is None and after.live is not None and not after.retired
        return _start(after, recorded, now, f"asked for by {event.by}") if startable else after
    found = prospect(after, now)
    return _start(after, recorded, now, found.reason) if found.due else after


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
    ended = after.ended
    if old is not None and ended is not None and ended.id == old.id and ended.step == "refused":
        # Said first: what came in during the round may have made the next one due on this very event.
        assert ended.verdict is not None
        refused = GateRefused(domain=event.domain, round_id=old.id, verdict=ended.verdict)
        found.append(Consequence(uuid5(cause, "gate_refused"), refused))
    if new is not None and (old is None or old.id != new.id):
        requested = RoundRequested(
            domain=event.domain,
            round_id=new.id,
            number=new.number,
            reason=new.reason,
            pin=new.pin,
            base_release=new.base_release,
            policy=new.policy,
        )
        found.append(Consequence(uuid5(cause, "round_requested"), requested))
        select = SelectSnapshot(
            order_id=new.order_id,
            domain=event.domain,
            round_id=new.id,
            pin=new.pin,
            base_model=after.releases[new.base_release],
            recipe=new.policy.recipe,
        )
        found.append(select)
    elif new is not None and old is not None and new.step != old.step:
        found.extend(_next_order(event.domain, after, new, cause))
    return tuple(found)


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
                fresh=state.fresh.with_correction(event.example_id, Giver(event.person, event.service)),
                last_new_at=now,
            )
        case PreferenceAccepted():
            if event.prompt.kid in state.erased:
                return state
            return replace(
                state,
                fresh=state.fresh.with_preference(event.preference_id, Giver(event.person, event.service)),
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
            if round_ is None or round_.order_id != event.order_id:
                return state
            verdict = judge(event.paired, round_.policy.gate)
            if verdict.outcome != "ship":
                return _end(state, "refused", verdict=verdict)
            release = state.highest + 1
            after = _step(state, round_, "swap", uuid5(cause, "swap_release"), verdict=verdict, release=release)
            return replace(after, highest=release)
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
            | RoundRequested()
            | PlacesPurged()
            | OrderProgressed()
            | ExamplesSelected()
            | GatePassed()
            | GateRefused()
            | ReleaseStarted()
        ):
            return state
        case _:
            assert_never(event)


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


def _start(state: Domain, recorded: Recorded, now: datetime, reason: str) -> Domain:
    assert state.live is not None
    cause = recorded.envelope.id
    today = local_day(now, state.policy)
    round_ = Round(
        id=str(uuid5(cause, "round")),
        number=state.rounds + 1,
        step="select",
        reason=reason,
        order_id=uuid5(cause, "select_snapshot"),
        pin=recorded.offset + 1,
        base_release=state.live,
        policy=state.policy,
    )
    return replace(
        state,
        round=round_,
        rounds=state.rounds + 1,
        fresh=Fresh(),
        asked=(*(at for at in state.asked if local_day(at, state.policy) == today), now),
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


def _next_order(domain: str, state: Domain, round_: Round, cause: UUID) -> tuple[Consequence | Order, ...]:
    base_model = state.releases[round_.base_release]
    match round_.step:
        case "select":
            raise AssertionError("a round starts with select and never comes back to it")
        case "train":
            assert round_.snapshot is not None
            order = TrainCandidate(
                order_id=round_.order_id,
                domain=domain,
                round_id=round_.id,
                snapshot=round_.snapshot,
                base_model=base_model,
                reference_model=state.base_model,
                recipe=round_.policy.recipe,
                replay_prompts=state.replay_prompts,
            )
            return (order,)
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
        case "swap":
            assert round_.verdict is not None and round_.release is not None
            passed = GatePassed(domain=domain, round_id=round_.id, release=round_.release, verdict=round_.verdict)
            swap = _swap(domain, state, round_.order_id, round_.release, round_)
            return (Consequence(uuid5(cause, "gate_passed"), passed), swap)
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
