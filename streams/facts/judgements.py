"""What people say of proposed examples that wait for them: concerns that put one forward, verdicts, and what these come to.

An annotator's verdict is a fact of its own; what it comes to (`ExampleAccepted`, `ExampleRejected`, `ExampleKept`) follows once
enough has been said (`streams.annotation`).
"""

from typing import assert_never
from uuid import UUID, uuid5

from msgspec import Struct
from msgspec.structs import replace

from streams.annotation import PLACES, Concern, Judging, Verdict, VerdictKind, is_doubled
from streams.domain import Domain, without_judging
from streams.envelope import Consequence, Offset, Recorded
from streams.facts.examples import ExampleAccepted, ExampleRetired
from streams.facts.material import REPLACED, ExampleRejected, decided
from streams.sealed import Sealed
from streams.tables import bigint, boolean, index, jsonb, may, projection, text, timestamptz
from streams.writes import Delete, Insert, Row, Update, Write, columns


class ConcernRaised(Struct, frozen=True, kw_only=True):
    """A proposal is to be looked at before others; one that was accepted is to be looked at again. `by`: None, where Noria itself
    says so: a builder that is in doubt or met another answer, a selection that finds it hard."""

    domain: str
    proposal_id: str
    concern: Concern
    reason: str
    by: str | None = None


class ProposalJudged(Struct, frozen=True, kw_only=True):
    """An annotator's verdict on a proposal. What it would be as an example, if it would be a new one: `example_id`, and `prompt`
    and `answer`, sealed as those of `ExampleAccepted`; `author`: whose words these are, where the annotator takes what another
    wrote. `stands`: the example that it is already; `replaces`: those that
    it is to stand for. `follows`: where the decision stands that it comes after. `service` as in `ExampleAccepted`."""

    domain: str
    proposal_id: str
    person: str
    verdict: VerdictKind
    example_id: str | None = None
    prompt: Sealed | None = None
    answer: Sealed | None = None
    author: str | None = None
    stands: str | None = None
    replaces: tuple[str, ...] = ()
    follows: Offset | None = None
    service: str | None = None


class ExampleKept(Struct, frozen=True, kw_only=True):
    """What was accepted of a proposal was looked at again, and stays."""

    domain: str
    proposal_id: str
    by: str


class VerdictTakenBack(Struct, frozen=True, kw_only=True):
    """Whoever said that verdict says that it was a slip, before anybody said more. What it had come to is undone beside it
    (`ExampleRetired`, `ProposalReopened`)."""

    domain: str
    proposal_id: str
    judgement_id: str
    person: str


JudgementEvent = ConcernRaised | ProposalJudged | ExampleKept | VerdictTakenBack

judgements = projection(
    "judgements",
    text("judgement_id", key=True),
    text("domain"),
    text("proposal_id"),
    text("person", nullable=True),  # NULL: erased
    text("verdict"),
    boolean("settles"),  # what two others said of it
    jsonb("prompt", nullable=True),  # Sealed; of an edit
    jsonb("answer", nullable=True),  # Sealed
    text("author", nullable=True),  # of an edit
    bigint("follows", nullable=True),
    bigint("judged_offset"),
    timestamptz("judged_at"),
    index("domain", "proposal_id", "follows"),
    index("proposal_id", "judged_offset"),
    index("person", "domain"),
    rights=may(door="r", stream="rawd", workers="r"),
)


def fold(state: Domain, recorded: Recorded, event: JudgementEvent) -> Domain:
    match event:
        case ProposalJudged():
            if event.prompt is not None and event.prompt.kid in state.erased:
                return state
            share = state.policy.annotation.double_share
            before = state.judging.get(event.proposal_id) or Judging(is_doubled(event.proposal_id, share))
            after = before.with_verdict(Verdict(event.person, event.verdict))
            return state if after is before else replace(state, judging=state.judging | {event.proposal_id: after})
        case ExampleKept():
            return without_judging(state, event.proposal_id)
        case VerdictTakenBack():
            rest = state.judging.get(event.proposal_id, Judging(False)).without(event.person)
            if not rest.verdicts:
                return without_judging(state, event.proposal_id)
            return replace(state, judging=state.judging | {event.proposal_id: rest})
        case ConcernRaised():
            return state
        case _:
            assert_never(event)


def settled(before: Domain, after: Domain, recorded: Recorded, event: ProposalJudged) -> list[Consequence]:
    """What a verdict comes to, where it is the one that was missing."""
    judged = after.judging.get(event.proposal_id)
    if judged is None or judged == before.judging.get(event.proposal_id) or judged.outcome is None:
        return []
    cause, proposal = recorded.envelope.id, {"domain": event.domain, "proposal_id": event.proposal_id}
    if judged.outcome == "accept" and event.stands is not None:
        return [Consequence(uuid5(cause, "kept"), ExampleKept(**proposal, by=event.person))]
    found = []
    if event.stands is not None:
        reason = f"another look at its proposal: {judged.outcome}"
        retired = ExampleRetired(domain=event.domain, example_id=event.stands, reason=reason, by=event.person)
        found.append(Consequence(uuid5(cause, "retired"), retired))
    if judged.outcome == "reject":
        rejected = ExampleRejected(**proposal, reason="rejected by an annotator", by=event.person)
        return [*found, Consequence(uuid5(cause, "rejected"), rejected)]
    if event.example_id is None or event.prompt is None or event.answer is None:
        return []  # no door says so
    accepted = ExampleAccepted(
        **proposal,
        example_id=event.example_id,
        kind="annotation",
        person=event.author or event.person,
        prompt=event.prompt,
        answer=event.answer,
        said_at=recorded.envelope.time,
        service=event.service if event.author is None else None,
        edited=judged.outcome == "edit",
    )
    found.append(Consequence(UUID(event.example_id), accepted))
    for example_id in event.replaces:
        replaced = ExampleRetired(domain=event.domain, example_id=example_id, reason=REPLACED, by=event.person)
        found.append(Consequence(uuid5(cause, f"replaces {example_id}"), replaced))
    return found


def rows(before: Domain, after: Domain, recorded: Recorded, event: JudgementEvent) -> list[Write]:
    match event:
        case ProposalJudged():
            judged = after.judging.get(event.proposal_id)
            if judged is None or judged == before.judging.get(event.proposal_id):
                return []
            edits = event.verdict == "edit"
            row = columns(event, "domain", "proposal_id", "person", "verdict", "follows", "prompt", "answer") | {
                "judgement_id": str(recorded.envelope.id),
                "settles": len(judged.verdicts) > 2,
                "author": (event.author or event.person) if edits else None,
                "judged_offset": recorded.offset,
                "judged_at": recorded.envelope.time,
            }
            row |= {} if edits else {"prompt": None, "answer": None}
            return [Insert("judgements", row), standing(event.proposal_id, judged)]
        case ConcernRaised():
            judged = after.judging.get(event.proposal_id, Judging(False))
            waits = {} if judged.outcome or judged.disputed else {"waits": PLACES[event.concern]}
            concern = {"concern": event.concern, "concern_reason": event.reason}
            return [Update("proposals", {"proposal_id": event.proposal_id}, waits | concern)]
        case ExampleKept():
            return [decided(event.proposal_id, None, recorded, decided_by=event.by)]
        case VerdictTakenBack():
            was = before.judging.get(event.proposal_id)
            stands = standing(event.proposal_id, after.judging.get(event.proposal_id))
            if was is not None and was.disputed:
                stands = replace(stands, row=stands.row | {"waits": PLACES["proposed"]})
            return [Delete("judgements", {"judgement_id": event.judgement_id}), stands]
        case _:
            assert_never(event)


def standing(proposal_id: str, judged: Judging | None) -> Update:
    """How a proposal waits, once that was said of it."""
    row: Row = {"verdicts": 0 if judged is None else len(judged.verdicts)}
    if judged is not None and judged.outcome is not None:
        row["waits"] = None
    elif judged is not None and judged.disputed:
        row["waits"] = PLACES["disputed"]
    return Update("proposals", {"proposal_id": proposal_id}, row)
