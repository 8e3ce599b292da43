"""The story of one example, or of a proposal that became none: what it was made of, who touched it and when, what learned it."""

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, select

from api.errors import ApiError
from api.formats.turns import messages_of
from api.items import Example
from api.made_of import made_of
from api.material import opened_proposal
from api.services import Services
from streams import history, schema, sealing
from streams.errors import Erased, Invalid
from streams.events import DOMAINS
from streams.reading.learning import live_lines
from streams.sealed import Sealed
from streams.store import postgres_trouble


def story_of(services: Services, domain: str, id_: str) -> dict[str, Any]:
    """`id_`: of an example, or of a proposal. Raises ApiError 404."""
    with postgres_trouble(), services.database.connect() as connection:
        example = _row(connection, schema.examples, "example_id", domain, id_)
        named = id_ if example is None else example.proposal_id
        proposal = _row(connection, schema.proposals, "proposal_id", domain, named) if named is not None else None
        if example is None and proposal is None:
            message = "there is no such example in the domain"
            raise ApiError(404, message, param="example_id", code="example_not_found")
        if example is None and proposal is not None and proposal.example_id is not None:
            example = _row(connection, schema.examples, "example_id", domain, proposal.example_id)
        e = schema.examples.c
        same = [] if example is None else [example]
        if proposal is not None:  # accepted, retired and accepted again, it was several
            of_it = select(schema.examples).where(e.proposal_id == proposal.proposal_id, e.domain == domain)
            same = list(connection.execute(of_it.order_by(e.accepted_offset)))
        found: dict[str, Any] = {
            "id": id_,
            "domain": domain,
            "state": _state(example, proposal),
            "example_id": example.example_id if example is not None else None,
            "proposal_id": proposal.proposal_id if proposal is not None else None,
            "edited": bool(example is not None and example.edited),
            "came_from": _origin(services, connection, example, proposal),
            "happened": _happened(connection, domain, same, proposal),
            "learned": _learned(connection, domain, [row.example_id for row in same]),
        }
        earlier = history.before(connection, {example.follows} if example is not None else set())
    if example is not None:
        found |= _words(services, earlier, example)
    if proposal is not None:
        found["proposed"] = _proposed(services, proposal)
        if example is None:
            found |= _as_said(found["proposed"])
    return found


def _row(connection: Connection, table: Any, key: str, domain: str, id_: str) -> Row[Any] | None:
    asked = select(table).where(table.c[key] == id_, table.c.domain == domain)
    return connection.execute(asked).one_or_none()


def _state(example: Row[Any] | None, proposal: Row[Any] | None) -> str:
    if example is None:
        assert proposal is not None
        return str(proposal.state)
    if example.retired_offset is None:
        return "accepted"
    return "erased" if example.retired_reason == "erased" else "retired"


def _words(services: Services, earlier: history.Before, example: Row[Any]) -> dict[str, Any]:
    """The whole conversation, and the answer; None where they were erased."""
    try:
        with postgres_trouble():
            whole = earlier.whole(msgspec.convert(example.prompt, Sealed), example.follows)
            return {
                "messages": history.open_whole(whole, services.keyring),
                "answer": sealing.open_sealed(msgspec.convert(example.answer, Sealed), services.keyring),
            }
    except (Erased, Invalid):
        return {"messages": None, "answer": None}


def _proposed(services: Services, proposal: Row[Any]) -> dict[str, Any] | None:
    return opened_proposal(services, proposal)


def _as_said(proposed: dict[str, Any] | None) -> dict[str, Any]:
    if proposed is None:
        return {"messages": None, "answer": None}
    item = msgspec.convert(proposed, Example)
    return {"messages": messages_of(item), "answer": item.output}


def _origin(
    services: Services, connection: Connection, example: Row[Any] | None, proposal: Row[Any] | None
) -> dict[str, Any]:
    if proposal is not None:
        b = schema.builds.c
        build = connection.execute(
            select(b.by, b.asked_at, b.teacher).where(b.build_id == proposal.build_id)
        ).one_or_none()
        sources = [made_of(services, connection, one["kind"], one["id"]) for one in proposal.sources]
        return {
            "source": proposal.builder,
            "kind": proposal.kind,
            "build_id": proposal.build_id,
            "asked_by": build.by if build is not None else None,
            "teacher": build.teacher if build is not None else None,
            "made_of": sources,
        }
    assert example is not None
    if example.kind == "correction":
        p = schema.prompts.c
        prompt = connection.execute(
            select(p.conversation_id, p.release, p.asked_at).where(p.prompt_id == example.prompt_id)
        ).one_or_none()
        asked = dict(prompt._mapping) if prompt is not None else {}
        return {"source": "correction", "by": example.person, "prompt_id": example.prompt_id, **asked}
    return {"source": "import", "by": example.person, "import": example.accepted_in}


def _happened(
    connection: Connection, domain: str, examples: Iterable[Row[Any]], proposal: Row[Any] | None
) -> list[dict[str, Any]]:
    """What was said of it on the log, the oldest first: when, by whom, through which key or process, and in which decision."""
    said: dict[int, dict[str, Any]] = {}
    if proposal is not None:
        said[proposal.proposed_offset] = {"by": None}
        if proposal.decided_offset is not None:
            said[proposal.decided_offset] = {"by": proposal.decided_by, "reason": proposal.reason}
    for row in examples:
        said[row.accepted_offset] = {"by": row.person, "example_id": row.example_id}
        if row.retired_offset is not None:
            how = {"by": row.retired_by, "reason": row.retired_reason, "example_id": row.example_id}
            said[row.retired_offset] = how
    v, o = schema.events.c, schema.positions.c
    partitions = select(o.partition).where(o.topic == DOMAINS)
    asked = select(v.event_id, v.partition, v.offset, v.type, v.time, v.source, v.correlation_id).where(
        v.topic == DOMAINS, v.partition.in_(partitions), v.offset.in_(said), v.domain == domain
    )
    found = []
    for one in connection.execute(asked.order_by(v.offset)):
        about = {"event_id": one.event_id, "position": f"{DOMAINS}-{one.partition}@{one.offset}", "what": one.type}
        decision = one.correlation_id if one.correlation_id != domain else None
        found.append(about | {"at": one.time, "through": one.source, "in": decision} | said[one.offset])
    return found


def _learned(connection: Connection, domain: str, example_ids: list[str]) -> list[dict[str, Any]]:
    """The rounds that taught it, the oldest first; `answers`: whether the release that answers now has learned it there."""
    n, r = schema.learned.c, schema.rounds.c
    asked = (
        select(r.round_id, r.number, r.step, r.snapshot, r.release, r.requested_at, n.example_id)
        .select_from(schema.learned.join(schema.rounds, r.round_id == n.round_id))
        .where(n.example_id.in_(example_ids))
        .order_by(r.number)
    )
    line = live_lines(connection, [domain])[domain]
    return [dict(row) | {"answers": row["round_id"] in line} for row in connection.execute(asked).mappings()]
