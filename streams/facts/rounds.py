"""Rounds: what began one, what its steps came to, and how it ended. What follows from that is in `streams.rounds`."""

from typing import assert_never
from uuid import UUID, uuid5

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from streams.domain import Domain, RewardModel, Round, base_of, ended, startable
from streams.envelope import Number, Recorded
from streams.gate import Absent, Means, Paired, Verdict
from streams.made_with import MadeWith
from streams.plan import CANCELLABLE
from streams.plan import after as step_after
from streams.policy import Policy, local_day
from streams.reasons import Reason
from streams.recipes import Needs, Recipe, RewardRecipe, asks_reward_model
from streams.tables import bigint, boolean, double, index, integer, jsonb, projection, text, timestamptz
from streams.writes import Delete, Insert, Row, Update, Write, columns


class RoundAsked(Struct, frozen=True, kw_only=True):
    """Somebody asked for a round by hand; quiet hours and thresholds do not hold it up. `opening` as in `RoundRequested`; `recipe`:
    by which it is to train, instead of the policy's; `from_base` as in `RoundRequested`. `base`: the name of the base to which the
    domain is to move, and `base_model` its model: it trains from there."""

    domain: str
    by: str
    opening: bool = False
    recipe: Recipe | None = None
    from_base: bool = False
    base: str | None = None
    base_model: str | None = None


class RoundRequested(Struct, frozen=True, kw_only=True):
    """A round began. `pin` is the next offset of this domain's partition: what stood before it is in, the rest is not. `opening`:
    it teaches to use what is recalled, from general material, and nothing of the domain; what people gave waits for the next.
    `from_base`: it trains from the domain's base, and what `base_release` has learned is learned anew; the gate asks the same.
    `base_model`: from this one, and it is the domain's base as long as what comes of it answers; None: the base stays."""

    domain: str
    round_id: str
    number: int
    reasons: tuple[Reason, ...]
    pin: int
    base_release: int
    policy: Policy
    opening: bool = False
    from_base: bool = False
    base_model: str | None = None


class ExamplesSelected(Struct, frozen=True, kw_only=True):
    """New examples of a training set that are too many to be named in its `snapshot_selected`, which follows."""

    domain: str
    round_id: str
    order_id: UUID
    snapshot: str
    kept: tuple[str, ...]


class SnapshotSelected(Struct, frozen=True, kw_only=True):
    """The training set is fixed. `snapshot` is its digest; `kept` names its new examples, but for those that `examples_selected`
    has named before (`named` is how many); `dropped` counts by reason. `pairs`: how many there are of what people prefer, `held`
    back so many by reason, of what stood on the conversations' partitions before `read` (None: the recipe does not learn that);
    `labels`: how many answers are good or bad by themselves, where the recipe learns from these; `pairs_held_out`: how many pairs
    stand in it by which the candidate is examined, and none of which is learned. `said_by`: in how many of both what each of these
    people said is learned from. `masked`: in how many of its examples, pairs and labels personal data of each kind is masked."""

    domain: str
    round_id: str
    order_id: UUID
    snapshot: str
    kept: tuple[str, ...]
    earlier: Number
    wordings: Number
    dropped: dict[str, int]
    named: Number = 0
    pairs: Number = 0
    held: dict[str, int] = {}
    read: dict[str, int] | None = None
    labels: Number = 0
    pairs_held_out: Number = 0
    said_by: dict[str, Number] = {}
    masked: dict[str, Number] = {}


class CandidateTrained(Struct, frozen=True, kw_only=True):
    """A candidate was made. `loss` is that of the last epoch, `losses` of each; nats an answer token. `rows` were trained, `tokens`
    went through the layers that learn; `cpu_s` is the training process's own. `export_difference`: the file that its engine serves
    against transformers, in log-probability; None where the engine reads the model as it is. `needs`: what the engine must be able
    to do to serve it. `fallback`: why the rows were trained one by one, if they were; `metrics`: what else the method tells, by
    name."""

    domain: str
    round_id: str
    order_id: UUID
    model: str
    adapter: str
    golden: str
    loss: float
    steps: int
    duration_s: float
    export_difference: float | None
    needs: Needs = "merged"
    cpu_s: float | None = None
    losses: tuple[float, ...] = ()
    rows: int | None = None
    tokens: int | None = None
    made_with: MadeWith | None = None
    fallback: str | None = None
    metrics: dict[str, float] = {}


class StageFinished(Struct, frozen=True, kw_only=True):
    """A stage of a recipe with several is done, `number` (from 1) of `stages`. `artifact`: what it learned, kept by itself; `loss`
    and `metrics` as in `CandidateTrained`. The round goes on."""

    domain: str
    round_id: str
    order_id: UUID
    stage: str
    number: int
    stages: int
    artifact: str
    loss: float
    duration_s: float
    metrics: dict[str, float] = {}


class Calibrated(Struct, frozen=True):
    """Of so many held-out pairs, of which the reward model was about as sure: the share that it `predicted` to be right in, on
    average, and the share in which the better answer `won`."""

    pairs: int
    predicted: float
    won: float


class RewardModelTrained(Struct, frozen=True, kw_only=True):
    """A reward model was made of the pairs of `snapshot`, from `base_model`; it answers nobody. A round whose recipe is `reward`
    ends with it. `model`: its weights, merged; `adapter`: what was learned. `metrics`: how often it is right on pairs that were
    held out with their rankings (`accuracy`, with its interval; absent where none could be held out), and how its score goes with
    the length of an answer, before and after what is too much of that was taken out. What else there is, as in
    `CandidateTrained`."""

    domain: str
    round_id: str
    order_id: UUID
    snapshot: str
    base_model: str
    model: str
    adapter: str
    loss: float
    steps: int
    duration_s: float
    cpu_s: float | None = None
    losses: tuple[float, ...] = ()
    tokens: int | None = None
    made_with: MadeWith | None = None
    metrics: dict[str, float] = {}
    calibrated: tuple[Calibrated, ...] = ()


class CandidateEvaluated(Struct, frozen=True, kw_only=True):
    """Per exam set, the paired counts against the release in force; `rows` is the digest of the sealed rows. Of a round that
    learned what people prefer also the counts of held-out pairs and of each sign of `streams.hacking`, and `means`, or why one of
    them is `absent`; where the domain has a guide, of how many answers keep each of its rules."""

    domain: str
    round_id: str
    order_id: UUID
    rows: str
    paired: dict[str, Paired]
    duration_s: float
    means: dict[str, Means] = {}
    absent: dict[str, Absent] = {}


class GatePassed(Struct, frozen=True, kw_only=True):
    domain: str
    round_id: str
    release: int
    verdict: Verdict


class GateRefused(Struct, frozen=True, kw_only=True):
    domain: str
    round_id: str
    verdict: Verdict


class RoundCancelled(Struct, frozen=True, kw_only=True):
    domain: str
    round_id: str
    by: str


RoundEvent = (
    RoundAsked
    | RoundRequested
    | ExamplesSelected
    | SnapshotSelected
    | CandidateTrained
    | StageFinished
    | RewardModelTrained
    | CandidateEvaluated
    | GatePassed
    | GateRefused
    | RoundCancelled
)

rounds = projection(
    "rounds",
    text("round_id", key=True),
    text("domain"),
    integer("number"),
    text(
        "step"
    ),  # of `streams.plan`, or how it ended: released, refused, kept (a reward model), empty, failed, cancelled
    jsonb("reasons"),  # list of Reason
    bigint("pin"),
    integer("base_release"),
    text("base_model"),  # of the domain, as the round would leave it
    boolean("opening"),
    text("snapshot", nullable=True),
    integer("kept", nullable=True),
    integer("earlier", nullable=True),
    integer("wordings", nullable=True),
    jsonb("dropped", nullable=True),
    integer("pairs", nullable=True),
    integer("pairs_held_out", nullable=True),
    integer("labels", nullable=True),
    jsonb("held", nullable=True),
    jsonb("read", nullable=True),  # by partition of the conversations, before which offset the pairs were said
    jsonb("said_by", nullable=True),  # in how many pairs and labels what each person said is learned from
    jsonb("masked", nullable=True),  # in how many of all personal data of each kind is masked
    text("reward_model", nullable=True),  # that judged the answers which its training drew
    text("reward_round", nullable=True),  # which made that one
    text("model", nullable=True),
    text("adapter", nullable=True),
    text("golden", nullable=True),
    double("loss", nullable=True),
    jsonb("training", nullable=True),  # what it took, its losses, and with what it was made
    text("evaluation", nullable=True),
    jsonb("verdict", nullable=True),
    integer("release", nullable=True),
    jsonb("progress", nullable=True),
    text("last_step", nullable=True),  # at which it stood when it ended
    text("failure", nullable=True),
    timestamptz("requested_at"),
    timestamptz("ended_at", nullable=True),
    timestamptz("removed_at", nullable=True),  # its model and adapter are kept no longer
    # Of making them again: order_id, at, outcome (under_way, equal, differs, failed, cancelled), and what came of it.
    jsonb("rebuild", nullable=True),
    index("domain", "number"),
    index("domain", "requested_at", "number"),
    index("requested_at", "number"),
)
learned = projection(
    "learned",
    text("round_id", key=True),
    text("example_id", key=True),
    index("example_id"),
)


def fold(state: Domain, recorded: Recorded, event: RoundEvent) -> Domain:
    cause, round_ = recorded.envelope.id, state.round
    match event:
        case RoundAsked() | ExamplesSelected() | StageFinished():
            return state
        case RoundRequested():
            return _begun(state, recorded, event)
        case SnapshotSelected():
            if round_ is None or round_.order_id != event.order_id:
                return state
            again = round_.base_model is not None and event.earlier  # another base learns them, whatever is new
            preferred = event.pairs or event.labels
            if not event.kept and not event.named and not preferred and not round_.opening and not again:
                return ended(state, "empty")
            return _advanced(state, replace(round_, snapshot=event.snapshot), cause)
        case CandidateTrained():
            if round_ is None or round_.order_id != event.order_id:
                return state
            return _advanced(state, replace(round_, model=event.model, needs=event.needs), cause)
        case RewardModelTrained():
            if round_ is None or round_.order_id != event.order_id:
                return state
            kept = RewardModel(event.model, event.base_model, round_.base_release, event.round_id)
            after = replace(state, reward_model=kept)
            return ended(after, "kept") if isinstance(round_.policy.recipe, RewardRecipe) else after
        case CandidateEvaluated():
            # It waits for no order any more, but for the gate's word.
            return state if round_ is None or round_.order_id != event.order_id else _advanced(state, round_, cause)
        case GatePassed():
            if round_ is None or round_.id != event.round_id or round_.step != "gate":
                return state
            passed = replace(round_, verdict=event.verdict, release=event.release)
            after = _advanced(state, passed, round_.order_id)
            base = round_.base_model or base_of(state, round_.base_release)
            bases = {} if base == state.base_model else {event.release: base}
            return replace(after, highest=max(state.highest, event.release), bases=state.bases | bases)
        case GateRefused():
            if round_ is None or round_.id != event.round_id or round_.step != "gate":
                return state
            return ended(state, "refused", verdict=event.verdict)
        case RoundCancelled():
            if round_ is None or round_.id != event.round_id or round_.step not in CANCELLABLE:
                return state
            return ended(state, "cancelled")
        case _:
            assert_never(event)


def _begun(state: Domain, recorded: Recorded, event: RoundRequested) -> Domain:
    """Of two that claim one number the first wins. One that cannot begin any more has used its number up."""
    if event.number != state.rounds + 1:
        return state
    if not startable(state) or event.base_release not in state.releases:
        return replace(state, rounds=event.number)
    now = recorded.envelope.time
    today = local_day(now, event.policy)
    round_ = Round(
        id=event.round_id,
        number=event.number,
        step="select",
        reasons=event.reasons,
        order_id=uuid5(recorded.envelope.causation_id or recorded.envelope.id, "select_snapshot"),
        pin=event.pin,
        base_release=event.base_release,
        policy=event.policy,
        opening=event.opening,
        from_base=event.from_base,
        base_model=event.base_model,
    )
    return replace(
        state,
        round=round_,
        rounds=event.number,
        # What teaches nothing of what people corrected leaves that for the next.
        fresh=state.fresh
        if event.opening or isinstance(event.policy.recipe, RewardRecipe)
        else state.fresh.since(event.pin),
        opening=state.opening and not event.opening,
        asked=(*(at for at in state.asked if local_day(at, event.policy) == today), now),
        last_asked_at=now,
    )


def _advanced(state: Domain, round_: Round, cause: UUID) -> Domain:
    """The round at its next step, which waits for the order that follows from `cause`."""
    step = step_after(round_.step)
    order_id = cause if step.order is None else uuid5(cause, step.order)
    return replace(state, round=replace(round_, step=step.name, order_id=order_id))


def reward_model_of(state: Domain, recipe: Recipe) -> RewardModel | None:
    """What is to judge the answers that a training draws; None: nothing of the domain's, or there is none."""
    return state.reward_model if asks_reward_model(recipe) else None


def rows(before: Domain, after: Domain, event: RoundEvent) -> list[Write]:
    match event:
        case ExamplesSelected():
            return _learned(event) if _awaited(before, event.order_id) else []
        case SnapshotSelected():
            if not _awaited(before, event.order_id):
                return []
            judge = reward_model_of(before, before.round.policy.recipe) if before.round else None
            row = {
                "snapshot": event.snapshot,
                "kept": event.named + len(event.kept),
                "earlier": event.earlier,
                "wordings": event.wordings,
                "dropped": event.dropped,
                "pairs": event.pairs,
                "pairs_held_out": event.pairs_held_out,
                "labels": event.labels,
                "held": event.held,
                "read": event.read,
                "said_by": event.said_by,
                "masked": event.masked,
                "reward_model": judge.model if judge is not None else None,
                "reward_round": judge.round_id if judge is not None else None,
            }
            return [_round(event.round_id, row), *_learned(event)]
        case CandidateTrained():
            training = columns(
                event, "steps", "duration_s", "cpu_s", "losses", "rows", "tokens", "made_with", "fallback", "metrics"
            )
            row = columns(event, "model", "adapter", "golden", "loss") | {"training": training}
            return [_round(event.round_id, row)] if _awaited(before, event.order_id) else []
        case RewardModelTrained():
            if not _awaited(before, event.order_id) or after.round is not None:
                return []  # of a stage: the candidate of its round is another
            training = columns(
                event, "steps", "duration_s", "cpu_s", "losses", "tokens", "made_with", "metrics", "calibrated"
            )
            row = columns(event, "model", "adapter", "loss") | {"training": training}
            return [_round(event.round_id, row)]
        case CandidateEvaluated():
            return [_round(event.round_id, {"evaluation": event.rows})] if _awaited(before, event.order_id) else []
        case RoundRequested():
            if after.fresh is before.fresh:
                return []
            return [Delete("fresh", {"domain": event.domain}, before_offset=event.pin)]
        case RoundAsked() | StageFinished() | GatePassed() | GateRefused() | RoundCancelled():
            return []
        case _:
            assert_never(event)


def course(domain: str, before: Domain, after: Domain, recorded: Recorded) -> list[Write]:
    """How the round goes, whatever event moved it."""
    old, new = before.round, after.round
    writes: list[Write] = []
    if old is not None and (new is None or new.id != old.id):
        end = after.ended
        assert end is not None
        row: Row = {
            "step": end.step,
            "last_step": end.last_step,
            "ended_at": recorded.envelope.time,
            "failure": end.failure,
            "progress": None,
        }
        if end.verdict is not None:
            row["verdict"] = msgspec.to_builtins(end.verdict)
        writes.append(_round(old.id, row))
    if new is not None and (old is None or new.id != old.id):
        known = {
            "round_id": new.id,
            "domain": domain,
            "number": new.number,
            "step": new.step,
            "reasons": msgspec.to_builtins(new.reasons),
            "pin": new.pin,
            "base_release": new.base_release,
            "base_model": new.base_model or base_of(after, new.base_release),
            "opening": new.opening,
            "requested_at": recorded.envelope.time,
        }
        writes.append(Insert("rounds", dict.fromkeys(column.name for column in rounds.columns) | known))
    elif new is not None and old is not None and new.step != old.step:
        row = {"step": new.step, "progress": None, "release": new.release}
        if new.verdict is not None:
            row["verdict"] = msgspec.to_builtins(new.verdict)
        writes.append(_round(new.id, row))
    return writes


def _awaited(state: Domain, order_id: UUID) -> bool:
    return state.round is not None and state.round.order_id == order_id


def _learned(event: ExamplesSelected | SnapshotSelected) -> list[Write]:
    named = sorted(set(event.kept))
    return [Insert("learned", {"round_id": event.round_id, "example_id": example_id}) for example_id in named]


def _round(round_id: str, row: Row) -> Update:
    return Update("rounds", {"round_id": round_id}, row)
