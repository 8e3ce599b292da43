"""A domain and its rounds: the process manager. Events in, orders and derived events out. Pure.

    select ──▶ train ──▶ evaluate ──▶ swap ──▶ released
       │          │          │          │
       ▼          ▼          ▼          ▼
     empty     failed     refused     failed          (cancelled: from select, train or evaluate)

A decision (that a round begins, what the gate says of a candidate) is an event, and only its event has effect: `react` proposes
it, under an id that tells what it is about, so that proposing twice is one event; `fold` acts on what was recorded, and never
decides. So the past stays what it was, whatever later code would have decided.
"""

from typing import assert_never
from uuid import NAMESPACE_URL, UUID, uuid5

from msgspec.structs import replace

from streams.domain import Building, Comparing, Domain, Rebuild, Round, base_of, prospect, startable, without_the_future
from streams.envelope import Consequence, Recorded
from streams.events import DomainEvent
from streams.facts import (
    bases,
    comparisons,
    documents,
    domains,
    exam,
    examples,
    judgements,
    material,
    people,
    releases,
    rounds,
)
from streams.facts import orders as order_facts
from streams.gate import judge
from streams.orders import (
    BuildMaterial,
    CompareBases,
    CompareReleases,
    EvaluateCandidate,
    Order,
    PurgePlaces,
    RebuildCandidate,
    SelectSnapshot,
    SwapRelease,
    TrainCandidate,
)
from streams.policy import Policy
from streams.reasons import Code, Reason, reason
from streams.recipes import BroughtRecipe, PreferringRecipe, rules_of
from streams.style import together

_DECISIONS = uuid5(NAMESPACE_URL, "urn:noria:decision")


def fold(state: Domain, recorded: Recorded, event: DomainEvent) -> Domain:
    """The domain after `event`. Never refuses, and never decides: it has happened."""
    return _fold(without_the_future(state, domains.now_of(recorded, event)), recorded, event)


def _fold(state: Domain, recorded: Recorded, event: DomainEvent) -> Domain:
    if isinstance(event, examples.ExampleEvent):
        return examples.fold(state, recorded, event)
    if isinstance(event, domains.DomainsEvent):
        return domains.fold(state, event)
    if isinstance(event, comparisons.ComparisonEvent):
        return comparisons.fold(state, recorded, event)
    if isinstance(event, bases.BaseEvent | documents.DocumentEvent | exam.ExamEvent):
        return state
    if isinstance(event, judgements.JudgementEvent):
        return judgements.fold(state, recorded, event)
    if isinstance(event, material.MaterialEvent):
        return material.fold(state, recorded, event)
    if isinstance(event, order_facts.OrderEvent):
        return order_facts.fold(state, event)
    if isinstance(event, people.PeopleEvent):
        return people.fold(state, event)
    if isinstance(event, releases.ReleaseEvent):
        return releases.fold(state, recorded, event)
    if isinstance(event, rounds.RoundEvent):
        return rounds.fold(state, recorded, event)
    assert_never(event)


def react(before: Domain, after: Domain, recorded: Recorded, event: DomainEvent) -> tuple[Consequence | Order, ...]:
    """What the step from `before` to `after` makes us say and ask."""
    cause = recorded.envelope.id
    found: list[Consequence | Order] = []
    if isinstance(event, domains.DomainCreated) and not before.base_model:
        found.append(_swap(event.domain, after, uuid5(cause, "swap_release"), 0, None))
    if isinstance(event, releases.RollbackAsked) and releases.reachable(before, event):
        found.append(_swap(event.domain, after, uuid5(cause, "swap_release"), event.to, None, rollback=True))
    if isinstance(event, releases.RebuildAsked) and after.rebuild is not None and after.rebuild != before.rebuild:
        found.append(_rebuild(event, after, after.rebuild))
    asked = comparisons.ComparisonAsked | comparisons.BaseComparisonAsked
    if isinstance(event, asked) and after.comparing is not None and before.comparing is None:
        found.append(_compare(event.domain, after, recorded, after.comparing))
    if isinstance(event, material.BuildAsked) and after.building is not None and before.building is None:
        found.append(_build(event, after, recorded, after.building))
    if isinstance(event, judgements.ProposalJudged):
        found += judgements.settled(before, after, recorded, event)
    if isinstance(event, people.PersonErased):
        order_id = uuid5(cause, "purge_places")
        found.append(PurgePlaces(order_id=order_id, domain=event.domain, person=event.person, kids=event.kids))

    old, new = before.round, after.round
    if new is not None and (old is None or old.id != new.id or new.step != old.step):
        found += _orders_of(event.domain, after, new)
    if isinstance(event, rounds.CandidateEvaluated) and old is not None and old.order_id == event.order_id:
        found.append(_judged(before, old, event, cause))
    reasons, opening = _why_a_round(after, recorded, event)
    if reasons:
        wanted = event.recipe if isinstance(event, rounds.RoundAsked) else None
        policy = after.policy if wanted is None else replace(after.policy, recipe=wanted)
        found.append(_proposed(after, recorded, event, reasons, opening, policy))
    return tuple(found)


def _why_a_round(state: Domain, recorded: Recorded, event: DomainEvent) -> tuple[tuple[Reason, ...], bool]:
    """Why a round is to begin now, and whether that is an opening one; without a reason none is."""
    if not startable(state):
        return (), False
    if isinstance(event, rounds.RoundAsked):
        code: Code = "opening_asked_for" if event.opening else "asked_for"
        return (reason(code, by=event.by),), event.opening
    if state.opening:
        return (reason("opening"),), True
    found = prospect(state, domains.now_of(recorded, event))
    return (found.reasons, False) if found.due else ((), False)


def _proposed(
    state: Domain,
    recorded: Recorded,
    event: DomainEvent,
    reasons: tuple[Reason, ...],
    opening: bool,
    policy: Policy,
) -> Consequence:
    """That the domain's next round begins, with what stands up to here. Until that stands on the log each event proposes it again,
    as the same event."""
    assert state.live is not None
    number = state.rounds + 1
    base = None if opening else _from_base(policy, number, event)
    moves_to = event.base_model if base is not None and isinstance(event, rounds.RoundAsked) else None
    requested = rounds.RoundRequested(
        domain=event.domain,
        round_id=str(uuid5(recorded.envelope.id, "round")),
        number=number,
        reasons=reasons if base is None else (*reasons, base),
        pin=recorded.offset + 1,
        base_release=state.live,
        policy=policy,
        opening=opening,
        from_base=base is not None,
        base_model=moves_to,
    )
    return Consequence(uuid5(_DECISIONS, f"round {number} of {event.domain}"), requested)


def _from_base(policy: Policy, number: int, event: DomainEvent) -> Reason | None:
    """Why that round trains from the domain's base; None: it does not. What was trained elsewhere fits the release in force."""
    if isinstance(policy.recipe, BroughtRecipe):
        return None
    if isinstance(event, rounds.RoundAsked) and event.base_model is not None:
        return reason("base_asked_for", base=event.base or event.base_model)
    if isinstance(event, rounds.RoundAsked) and event.from_base:
        return reason("from_base_asked_for")
    every = policy.from_base_every
    return reason("from_base", every=every) if every is not None and number % every == 0 else None


def _judged(state: Domain, round_: Round, event: rounds.CandidateEvaluated, cause: UUID) -> Consequence:
    """What the gate says of a candidate."""
    moves = round_.base_model is not None
    verdict = judge(event.paired, round_.policy.gate, moves, event.means, event.absent)
    if verdict.outcome != "ship":
        refused = rounds.GateRefused(domain=event.domain, round_id=round_.id, verdict=verdict)
        return Consequence(uuid5(cause, "gate_refused"), refused)
    passed = rounds.GatePassed(domain=event.domain, round_id=round_.id, release=state.highest + 1, verdict=verdict)
    return Consequence(uuid5(cause, "gate_passed"), passed)


def _rebuild(event: releases.RebuildAsked, state: Domain, rebuild: Rebuild) -> RebuildCandidate:
    base = event.base_model or base_of(state, event.base_release)
    return RebuildCandidate(
        order_id=rebuild.order_id,
        domain=event.domain,
        round_id=event.round_id,
        pin=event.pin,
        snapshot=event.snapshot,
        base_model=base if event.from_base else state.releases[event.base_release],
        reference_model=base,
        recipe=event.recipe,
        replay_prompts=state.replay_prompts,
        model=event.model,
        adapter=event.adapter,
        recall=event.recall,
        opening=event.opening,
        engine=state.engine,
        reward_model=event.reward_model,
        selection=event.selection,
        mask=event.mask,
    )


def _compare(domain: str, state: Domain, recorded: Recorded, comparing: Comparing) -> CompareReleases | CompareBases:
    if comparing.release is None:
        return CompareBases(
            order_id=comparing.order_id,
            domain=domain,
            bases=comparing.bases,
            pin=recorded.offset + 1,
            engine=state.engine,
            recipe=state.policy.recipe,
        )
    return CompareReleases(
        order_id=comparing.order_id,
        domain=domain,
        release=comparing.release,
        base_model=base_of(state, comparing.release),
        model=state.releases[comparing.release],
        pin=recorded.offset + 1,
        engine=state.engine,
        recall=state.policy.recall,
        needs=state.needs.get(comparing.release, "merged"),
    )


def _build(event: material.BuildAsked, state: Domain, recorded: Recorded, building: Building) -> BuildMaterial:
    return BuildMaterial(
        order_id=building.order_id,
        domain=event.domain,
        builder=event.builder,
        most=event.most,
        pin=recorded.offset + 1,
        teacher=state.policy.teacher,
        style=state.policy.style,
        decline=state.policy.recall.decline,
    )


def _orders_of(domain: str, state: Domain, round_: Round) -> tuple[Order, ...]:
    """What the round waits for at its step."""
    base_model, first = state.releases[round_.base_release], base_of(state, round_.base_release)
    base = round_.base_model or first
    start = base if round_.from_base else base_model
    match round_.step:
        case "select":
            return (
                SelectSnapshot(
                    order_id=round_.order_id,
                    domain=domain,
                    round_id=round_.id,
                    pin=round_.pin,
                    base_model=start,
                    recipe=round_.policy.recipe,
                    recall=round_.policy.recall,
                    opening=round_.opening,
                    selection=round_.policy.selection,
                    mask=round_.policy.mask,
                    reference_model=base,
                    replay_prompts=state.replay_prompts,
                ),
            )
        case "train":
            assert round_.snapshot is not None
            judge = rounds.reward_model_of(state, round_.policy.recipe)
            return (
                TrainCandidate(
                    order_id=round_.order_id,
                    domain=domain,
                    round_id=round_.id,
                    snapshot=round_.snapshot,
                    base_model=start,
                    reference_model=base,
                    recipe=round_.policy.recipe,
                    replay_prompts=state.replay_prompts,
                    engine=state.engine,
                    reward_model=judge.model if judge is not None else None,
                ),
            )
        case "evaluate":
            assert round_.snapshot is not None and round_.model is not None
            recipe = round_.policy.recipe
            pleases = isinstance(recipe, PreferringRecipe) and not round_.opening
            judge_of = state.reward_model if pleases else None
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
                    recall=round_.policy.recall,
                    first_model=first,
                    needs=round_.needs,
                    base_needs=state.needs.get(round_.base_release, "merged"),
                    pleases=pleases,
                    reward_model=judge_of.model if judge_of is not None else None,
                    reward_round=judge_of.round_id if judge_of is not None else None,
                    style=together(round_.policy.style, rules_of(recipe)),
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
        needs=round_.needs if round_ is not None else state.needs.get(release, "merged"),
    )
