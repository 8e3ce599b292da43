"""The state of a domain: what decisions about it use, and no more. Pure."""

from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from streams.annotation import Judging
from streams.fresh import Fresh
from streams.gate import Verdict
from streams.plan import RoundStep
from streams.policy import Gathered, Outlook, Policy, local_day, outlook
from streams.reasons import Reason, reason
from streams.recipes import Needs

CLOCK_AHEAD = timedelta(days=7)  # of what an event says: more is no delay between writers


class Round(Struct, frozen=True):
    """The round under way. `order_id` is the order that it waits for; results of any other are old news."""

    id: str
    number: int
    step: RoundStep
    reasons: tuple[Reason, ...]
    order_id: UUID
    pin: int
    base_release: int
    policy: Policy
    snapshot: str | None = None
    model: str | None = None
    verdict: Verdict | None = None
    release: int | None = None
    opening: bool = False
    needs: Needs = "merged"  # of `model`
    from_base: bool = False
    base_model: str | None = None  # to which the domain moves by it


class Ended(Struct, frozen=True):
    """How the last round ended (`step`), and at which step it stood then, as the projection shows it."""

    id: str
    step: str
    last_step: RoundStep
    verdict: Verdict | None = None
    failure: str | None = None


class Going(Struct, frozen=True):
    """Where a rollback goes that was asked for and is not done; `order_id`: of its order."""

    to: int
    order_id: UUID


class Rebuild(Struct, frozen=True):
    """What is being made again: what `round_id` made of `base_release`, and was released as `release` if it was."""

    round_id: str
    release: int | None
    base_release: int
    order_id: UUID


class Comparing(Struct, frozen=True):
    """The comparison under way: of `release` with the base model, or of `bases` (name -> model)."""

    release: int | None
    order_id: UUID
    bases: dict[str, str] = {}


class RewardModel(Struct, frozen=True):
    """What scores answers as the domain's people would: `model` was made by `round_id` from `base_model`, when `base_release`
    answered."""

    model: str
    base_model: str
    base_release: int
    round_id: str


class Building(Struct, frozen=True):
    """The build under way, which proposes examples."""

    order_id: UUID


class Domain(Struct, frozen=True):
    """What decisions about a domain use, and no more. `fresh` is kept apart from the rest."""

    base_model: str = ""  # that it began with
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
    needs: dict[int, Needs] = field(default_factory=dict)  # of releases whose model needs more than to be read
    bases: dict[int, str] = field(default_factory=dict)  # of releases of another base than the domain began with
    live: int | None = None
    highest: int = 0
    erased: tuple[str, ...] = ()  # sorted, so that equal states are equal bytes in every process
    retired: bool = False
    opening: bool = False  # an opening round is to begin as soon as one can
    going: Going | None = None
    rebuild: Rebuild | None = None
    comparing: Comparing | None = None
    reward_model: RewardModel | None = None  # the newest
    building: Building | None = None
    judging: dict[str, Judging] = field(
        default_factory=dict
    )  # proposals on which somebody said something, until it is settled


def without_judging(state: Domain, proposal_id: str | None) -> Domain:
    """That proposal has been decided on."""
    if proposal_id is None or proposal_id not in state.judging:
        return state
    return replace(state, judging={id_: said for id_, said in state.judging.items() if id_ != proposal_id})


def base_of(state: Domain, release: int | None) -> str:
    """The base that the release comes from; of None, and of one that is not known, the one that the domain began with."""
    return state.base_model if release is None else state.bases.get(release, state.base_model)


def in_use(state: Domain, round_id: str, release: int | None) -> bool:
    """Whether what that round made, and what became a release if it did, may be needed at any moment."""
    if state.round is not None and (state.round.id == round_id or state.round.base_release == release):
        return True
    if release is None:
        return state.reward_model is not None and state.reward_model.round_id == round_id
    return (
        release == state.live
        or (state.going is not None and release == state.going.to)
        or (state.rebuild is not None and release == state.rebuild.base_release)
        or (state.comparing is not None and release == state.comparing.release)
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
        return Outlook(due=False, missing=(reason("not_created"),))
    if state.retired:
        return Outlook(due=False, missing=(reason("retired"),))
    if state.live is None:
        return Outlook(due=False, missing=(reason("no_release"),))
    if state.round is not None:
        return Outlook(due=False, missing=(reason("round_under_way", round=state.round.number, step=state.round.step),))
    return outlook(state.policy, gathered(state, now), now)


def startable(state: Domain) -> bool:
    return state.round is None and state.live is not None and not state.retired


def without_the_future(state: Domain, now: datetime) -> Domain:
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


def ended(state: Domain, step: str, verdict: Verdict | None = None, failure: str | None = None) -> Domain:
    """The domain without its round, which came to an end."""
    was = state.round
    assert was is not None
    return replace(state, round=None, ended=Ended(was.id, step, was.step, verdict or was.verdict, failure))
