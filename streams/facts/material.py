"""Material: triples and seeds that a data team brings, the builds that make proposed examples of them and of documents, and what
came of each proposal.

A proposal teaches nothing. A person accepts it, as it is or edited (`streams.facts.examples.ExampleAccepted` names it then), or
rejects it; what was rejected is not proposed again, and may still be accepted.
"""

from datetime import datetime
from typing import Any, Literal, assert_never
from uuid import UUID, uuid5

from msgspec import Struct
from msgspec.structs import replace

from streams.annotation import PLACES, lot
from streams.builders import BUILDERS
from streams.domain import Building, Domain, without_judging
from streams.envelope import Number, Offset, Recorded
from streams.sealed import Sealed
from streams.tables import bigint, double, index, integer, jsonb, projection, text, timestamptz
from streams.writes import Insert, Retire, Update, Write, columns

SeedKind = Literal["syllogism", "task", "aside"]
SourceKind = Literal["triple", "seed", "passage", "example", "prompt"]
REPLACED = "worded by the domain's guide"  # why an example is retired
ProposalKind = Literal[
    "fact", "two_hops", "syllogism", "question", "task", "declined", "styled", "rewording", "unsure_rewording"
]


class TripleAdded(Struct, frozen=True, kw_only=True):
    """A fact of a knowledge graph. `triple` opens to {"subject", "predicate", "object"}, sealed with the domain's key."""

    domain: str
    triple_id: str
    triple: Sealed
    by: str


class TripleRetired(Struct, frozen=True, kw_only=True):
    domain: str
    triple_id: str
    reason: str
    by: str


class SeedAdded(Struct, frozen=True, kw_only=True):
    """What a person wrote for builders to start from. `seed` opens to the JSON of an item of that kind
    (`streams.syllogisms`, `streams.seed_tasks`), sealed with the domain's key."""

    domain: str
    seed_id: str
    kind: SeedKind
    seed: Sealed
    by: str


class SeedRetired(Struct, frozen=True, kw_only=True):
    domain: str
    seed_id: str
    reason: str
    by: str


class BuildAsked(Struct, frozen=True, kw_only=True):
    """Somebody wants `builder` (`streams.builders`) to propose examples, at `most` so many (None: all it finds). Without effect
    while another build of the domain is under way."""

    domain: str
    builder: str
    most: Number | None
    by: str


class Source(Struct, frozen=True):
    """What a proposal was made of."""

    kind: SourceKind
    id: str


class ExampleProposed(Struct, frozen=True, kw_only=True):
    """A training example that nobody has looked at. `proposal` opens to {"instruction", "input", "output", "system"}, sealed with
    the domain's key. Of a rewording it is sealed with the key of whoever worded it, and its output is empty and stands in `answer`,
    sealed with that of whoever answered."""

    domain: str
    proposal_id: str
    build_id: UUID
    builder: str
    kind: ProposalKind
    sources: tuple[Source, ...]
    proposal: Sealed
    answer: Sealed | None = None


class ExampleRejected(Struct, frozen=True, kw_only=True):
    """A proposal teaches nothing, or no more."""

    domain: str
    proposal_id: str
    reason: str
    by: str


class ProposalReopened(Struct, frozen=True, kw_only=True):
    """What a person said of a proposal was taken back: nobody has decided on it."""

    domain: str
    proposal_id: str
    by: str


class MaterialBuilt(Struct, frozen=True, kw_only=True):
    """A build is done: so many were `proposed`, so many `known` (proposed before), and the rest `dropped`, by reason. `calls` were
    asked of the teacher and paid, `cached` answers stood here already."""

    domain: str
    order_id: UUID
    proposed: Number
    known: Number
    dropped: dict[str, Number]
    duration_s: float
    calls: Number = 0
    cached: Number = 0
    tokens: Offset = 0


MaterialEvent = (
    TripleAdded
    | TripleRetired
    | SeedAdded
    | SeedRetired
    | BuildAsked
    | ExampleProposed
    | ExampleRejected
    | ProposalReopened
    | MaterialBuilt
)

triples = projection(
    "triples",
    text("triple_id", key=True),
    text("domain"),
    jsonb("triple"),  # Sealed
    bigint("added_offset"),
    bigint("retired_offset", nullable=True),
    text("retired_reason", nullable=True),
    index("domain", "added_offset"),
)
seeds = projection(
    "seeds",
    text("seed_id", key=True),
    text("domain"),
    text("kind"),
    jsonb("seed"),  # Sealed
    bigint("added_offset"),
    bigint("retired_offset", nullable=True),
    text("retired_reason", nullable=True),
    index("domain", "added_offset"),
)
builds = projection(
    "builds",
    text("build_id", key=True),  # of its order
    text("domain"),
    text("builder"),
    text("teacher", nullable=True),  # the model of the policy's, for a builder that asks one
    integer("most", nullable=True),
    text("by"),
    text("outcome"),  # under_way, made, failed, cancelled
    jsonb("progress", nullable=True),  # {"done", "total", "values"}
    integer("proposed", nullable=True),
    integer("known", nullable=True),
    jsonb("dropped", nullable=True),  # {reason: number}
    integer("calls", nullable=True),
    integer("cached", nullable=True),
    bigint("tokens", nullable=True),
    double("duration_s", nullable=True),
    text("failure", nullable=True),
    bigint("asked_offset"),
    timestamptz("asked_at"),
    timestamptz("ended_at", nullable=True),
    index("domain", "asked_offset"),
)
proposals = projection(
    "proposals",
    text("proposal_id", key=True),
    text("domain"),
    text("build_id"),
    text("builder"),
    text("kind"),
    jsonb("sources"),  # list of Source
    jsonb("proposal"),  # Sealed
    jsonb("answer", nullable=True),  # Sealed
    text("state"),  # proposed, accepted, edited, rejected
    text("example_id", nullable=True),  # that it became last
    text("decided_by", nullable=True),
    text("decided_in", nullable=True),  # the decision, which may have been on many
    text("reason", nullable=True),  # of a rejection
    integer("waits", nullable=True),  # for a person: `streams.annotation.PLACES`; NULL: it does not
    integer("verdicts"),  # of annotators, since it was decided on last
    double("lot"),
    text("concern", nullable=True),  # disputed, uncertain, hard
    text("concern_reason", nullable=True),
    bigint("proposed_offset"),
    bigint("decided_offset", nullable=True),
    index("domain", "proposed_offset"),
    index("domain", "state", "proposed_offset"),
    index("build_id", "proposed_offset"),
    index("decided_in", where="decided_in IS NOT NULL"),
    index("domain", "waits", "proposed_offset", where="waits IS NOT NULL"),
    index("example_id", where="example_id IS NOT NULL"),
)


def fold(state: Domain, recorded: Recorded, event: MaterialEvent) -> Domain:
    match event:
        case BuildAsked():
            if state.building is not None or not state.base_model or state.retired:
                return state
            return replace(state, building=Building(order_of(recorded.envelope.id)))
        case MaterialBuilt():
            if state.building is None or state.building.order_id != event.order_id:
                return state
            return replace(state, building=None)
        case ExampleRejected():
            return without_judging(state, event.proposal_id)
        case TripleAdded() | TripleRetired() | SeedAdded() | SeedRetired() | ExampleProposed() | ProposalReopened():
            return state
        case _:
            assert_never(event)


def order_of(asked: UUID) -> UUID:
    """The id of the order, and of the build, that the event of that id asks for."""
    return uuid5(asked, "build_material")


def rows(before: Domain, after: Domain, recorded: Recorded, event: MaterialEvent) -> list[Write]:
    at = recorded.envelope.time
    match event:
        case TripleAdded():
            row = columns(event, "triple_id", "domain", "triple") | _added(recorded)
            return [Insert("triples", row)]
        case TripleRetired():
            where = {"domain": event.domain, "triple_id": event.triple_id}
            return [Retire("triples", where, recorded.offset, event.reason)]
        case SeedAdded():
            return [Insert("seeds", columns(event, "seed_id", "domain", "kind", "seed") | _added(recorded))]
        case SeedRetired():
            return [Retire("seeds", {"domain": event.domain, "seed_id": event.seed_id}, recorded.offset, event.reason)]
        case BuildAsked():
            if after.building is None or after.building == before.building:
                return []
            begun = columns(event, "domain", "builder", "most", "by") | {
                "build_id": str(after.building.order_id),
                "teacher": _teacher(after, event.builder),
                "outcome": "under_way",
                "asked_offset": recorded.offset,
                "asked_at": at,
            }
            return [Insert("builds", dict.fromkeys(column.name for column in builds.columns) | begun)]
        case ExampleProposed():
            said = ("proposal_id", "domain", "build_id", "builder", "kind", "sources", "proposal", "answer")
            empty = ("example_id", "decided_by", "decided_in", "reason", "decided_offset", "concern", "concern_reason")
            undecided = dict.fromkeys(empty) | {"state": "proposed", "proposed_offset": recorded.offset}
            waits = {"waits": PLACES["proposed"], "verdicts": 0, "lot": lot(event.proposal_id)}
            return [Insert("proposals", columns(event, *said) | undecided | waits)]
        case ExampleRejected():
            return [decided(event.proposal_id, "rejected", recorded, decided_by=event.by, reason=event.reason)]
        case ProposalReopened():
            return [
                decided(
                    event.proposal_id,
                    "proposed",
                    recorded,
                    decided_by=event.by,
                    example_id=None,
                    waits=PLACES["proposed"],
                )
            ]
        case MaterialBuilt():
            names = ("proposed", "known", "dropped", "calls", "cached", "tokens", "duration_s")
            return build_ended(before, after, at, "made", **columns(event, *names))
        case _:
            assert_never(event)


def decided(proposal_id: str, state: str | None, recorded: Recorded, **more: Any) -> Update:
    """What a person said last of a proposal: it waits for nobody. `state` None: it is what it was."""
    waits = {"waits": None, "verdicts": 0, "concern": None, "concern_reason": None}
    row = {"decided_offset": recorded.offset, **waits, **({"reason": None, "state": state} if state else {}), **more}
    row["decided_in"] = recorded.envelope.correlation_id
    return Update("proposals", {"proposal_id": proposal_id}, row)


def build_ended(before: Domain, after: Domain, at: datetime, outcome: str, **more: Any) -> list[Write]:
    """What came of the build that was under way, if it no longer is."""
    if before.building is None or after.building is not None:
        return []
    return [Update("builds", {"build_id": str(before.building.order_id)}, {"outcome": outcome, "ended_at": at, **more})]


def _teacher(state: Domain, builder: str) -> str | None:
    known, teacher = BUILDERS.get(builder), state.policy.teacher
    return teacher.model if known is not None and known.teacher and teacher is not None else None


def _added(recorded: Recorded) -> dict[str, Any]:
    return {"added_offset": recorded.offset, "retired_offset": None, "retired_reason": None}
