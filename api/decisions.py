"""What one person says of many examples and proposals at once: a decision, whose events share its id, by which it is taken back."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, cast
from uuid import UUID, uuid5

import msgspec
from sqlalchemy import Row, select

from api.access import caller
from api.datasets import DECISION, EXAMPLES, decision_of, retirement, say_all, standing
from api.errors import ApiError
from api.material import acceptances, rejections
from api.services import Services
from streams import schema, sealing
from streams.errors import Erased
from streams.events import DomainEvent
from streams.facts.examples import ExampleAccepted
from streams.facts.material import ProposalReopened
from streams.sealed import Sealed
from streams.store import postgres_trouble

Verb = Literal["accept", "reject", "retire"]
CORRECTION = "correction"


def decide_on(services: Services, domain: str, verb: Verb, ids: Sequence[str], reason: str) -> dict[str, Any]:
    """What the verb has no meaning for is passed over: nothing is retired that was not accepted, and nothing is rejected that was
    never proposed. What annotators are judging is left to them (`held`). Raises ApiError 404."""
    e, p = schema.examples.c, schema.proposals.c
    with postgres_trouble(), services.database.connect() as connection:
        examples = list(connection.execute(select(schema.examples).where(e.domain == domain, e.example_id.in_(ids))))
        of_these = [row.proposal_id for row in examples if row.proposal_id is not None]
        proposals = {
            row.proposal_id: row
            for row in connection.execute(
                select(schema.proposals).where(p.domain == domain, p.proposal_id.in_([*ids, *of_these]))
            )
        }
    known = {row.example_id for row in examples} | proposals.keys()
    for number, id_ in enumerate(ids):
        if id_ not in known:
            message = "there is no such example in the domain"
            raise ApiError(404, message, param=f"ids[{number}]", code="example_not_found")
    named, held = set(ids), {id_ for id_, row in proposals.items() if row.verdicts and verb != "retire"}
    causes: dict[UUID, UUID] = {}
    events: list[tuple[UUID, DomainEvent]] = []
    match verb:
        case "accept":
            back = [row for row in examples if row.retired_offset is not None and row.retired_reason != "erased"]
            events, causes = _again(services, domain, back)
            events += acceptances(services, domain, [row for id_, row in proposals.items() if id_ in named - held])
        case "reject":
            mine = {row.proposal_id for row in examples if row.retired_offset is None}
            rows = [
                row
                for id_, row in proposals.items()
                if id_ not in held and (id_ in mine or (id_ in named and row.state == "proposed"))
            ]
            events = rejections(domain, rows, reason or "rejected by hand")
        case "retire":
            events = [
                retirement(EXAMPLES, domain, row.example_id, reason or "retired by hand")
                for row in examples
                if row.retired_offset is None
            ]
    return _said(services, events, decision_of(None), causes, len(named) - len(held)) | {"held": len(held)}


def take_back(services: Services, domain: str, decision: str) -> dict[str, Any]:
    """Take back all that came of a decision, or of an import. Proposals are open again; what was retired comes again as a new item,
    whose words are the same. Doing it again changes nothing. Raises ApiError 404."""
    e, p = schema.examples.c, schema.proposals.c
    decided = decision.startswith(DECISION)
    with postgres_trouble(), services.database.connect() as connection:
        accepted = list(
            connection.execute(select(schema.examples).where(e.accepted_in == decision, e.domain == domain))
            if decision != domain
            else ()
        )
        retired = list(
            connection.execute(select(schema.examples).where(e.retired_in == decision, e.domain == domain))
            if decided
            else ()
        )
        proposals = list(
            connection.execute(select(schema.proposals).where(p.decided_in == decision, p.domain == domain))
            if decided
            else ()
        )
    if not (accepted or retired or proposals):
        raise ApiError(404, "nothing of that decision, or import, stands in the domain", code="decision_not_found")
    events = [
        retirement(EXAMPLES, domain, row.example_id, "it was taken back")
        for row in accepted
        if row.retired_offset is None
    ]
    back, causes = _again(services, domain, [row for row in retired if row.retired_reason != "erased"])
    came_again = {cast(ExampleAccepted, event).proposal_id for _, event in back}
    by = caller().person
    for row in proposals:
        if row.state != "proposed" and row.proposal_id not in came_again:
            id_ = uuid5(UUID(row.proposal_id), f"reopened after {row.decided_offset}")
            events.append((id_, ProposalReopened(domain=domain, proposal_id=row.proposal_id, by=by)))
    touched = len(accepted) + len(retired) + len(proposals)
    return _said(services, [*back, *events], decision_of(None), causes, touched)


def _again(
    services: Services, domain: str, rows: Sequence[Row[Any]]
) -> tuple[list[tuple[UUID, DomainEvent]], dict[UUID, UUID]]:
    """Retired examples as new items; what each follows from, where it is a correction. Those whose words were erased stay away."""
    who = caller()
    ids, there = standing(services, EXAMPLES, [UUID(row.example_id) for row in rows])
    events: list[tuple[UUID, DomainEvent]] = []
    causes: dict[UUID, UUID] = {}
    for row, id_ in zip(rows, ids, strict=True):
        if id_ in there:
            continue  # it has come again already, or another that was the same item before
        there.add(id_)
        prompt, answer = msgspec.convert(row.prompt, Sealed), msgspec.convert(row.answer, Sealed)
        if row.kind == CORRECTION:
            causes[id_] = UUID(answer.ref.partition("#")[0])
        else:
            try:
                with postgres_trouble():
                    prompt = _sealed_again(services, prompt, f"{id_}#prompt")
                    answer = _sealed_again(services, answer, f"{id_}#answer")
            except Erased:
                continue
        again = ExampleAccepted(
            domain=domain,
            example_id=id_.hex,
            kind=row.kind,
            person=row.person,
            prompt=prompt,
            answer=answer,
            said_at=row.said_at,
            prompt_id=row.prompt_id,
            follows=row.follows,
            service=None if row.person == who.speaks_as else who.key_id,
            proposal_id=row.proposal_id,
            edited=row.edited,
        )
        events.append((id_, again))
    return events, causes


def _sealed_again(services: Services, sealed: Sealed, ref: str) -> Sealed:
    words = sealing.open_sealed(sealed, services.keyring)
    return sealing.seal(words, services.keyring.find(sealed.kid), ref)


def _said(
    services: Services,
    events: Sequence[tuple[UUID, DomainEvent]],
    decision: str,
    causes: dict[UUID, UUID],
    touched: int,
) -> dict[str, Any]:
    names = {
        "ExampleAccepted": "accepted",
        "ExampleRejected": "rejected",
        "ExampleRetired": "retired",
        "ProposalReopened": "reopened",
    }
    done = Counter(names[type(event).__name__] for _, event in events)
    subjects = {getattr(event, "proposal_id", None) or getattr(event, "example_id", None) for _, event in events}
    return {
        **{name: done[name] for name in names.values()},
        "known": max(0, touched - len(subjects)),
        "decision": decision,
        "position": say_all(services, events, decision, None, causes),
    }
