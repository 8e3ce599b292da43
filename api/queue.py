"""The queue over HTTP: what waits for a person, one at a time and each with what it was made of, and what annotators say of it.

What one annotator holds is not handed to another, unless it is to be judged by two. Who holds what is a lease by the database's
clock: whoever closes their browser loses nothing, and what they held is handed on when it has run out.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

import msgspec
from flask import Blueprint, Response
from msgspec import Struct, field
from sqlalchemy import Connection, Row, select, text

from api.access import caller, check_speaker, needs
from api.agreement import agreement
from api.datasets import EXAMPLES, MOST_ITEMS, opened, say_all, standing
from api.errors import ApiError
from api.formats.turns import messages_of, to_alpaca
from api.items import Example, ItemFault, read_example
from api.known import CATCH_UP_S, domain_row, living_domain
from api.made_of import made_of
from api.material import opened_proposal, replaced_by, sealed_with
from api.saying import say
from api.services import Services, person_subject
from api.wire import check_person, no_control_characters, read_object, reply, typed
from streams import schema, sealing
from streams.annotation import PLACES, Concern, VerdictKind
from streams.errors import Behind
from streams.events import DOMAINS, Event
from streams.facts.examples import ExampleRetired
from streams.facts.judgements import ConcernRaised, ProposalJudged, VerdictTakenBack
from streams.facts.material import ProposalReopened
from streams.policy import Policy
from streams.sealed import Sealed
from streams.store import postgres_trouble

LEASE_S = 900  # so long an item is nobody else's; who still looks at it asks for it again
SKIPPED_S = 8 * 3600  # so long it is not handed to whoever skipped it


class _Asking(Struct, forbid_unknown_fields=True):
    """`user`: who annotates, where the key may name anybody."""

    user: str | None = None


class _Judged(_Asking, forbid_unknown_fields=True, kw_only=True):
    """`edited`: of the verdict edit, what it is to say, in Alpaca's fields. `takes`: the verdict of one of two who disagree, in the
    place of one's own."""

    verdict: VerdictKind | None = None
    edited: dict[str, Any] | None = None
    takes: str | None = None


class _Concern(Struct, forbid_unknown_fields=True, kw_only=True):
    """`proposals`: by their ids, or by those of the examples that they became."""

    proposals: list[str] = field(default_factory=list)
    concern: Concern
    reason: str = ""


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("queue", __name__)

    @views.get("/v1/queues")
    @needs("annotator")
    def list_queues() -> Response:
        return reply({"data": _queues(services)})

    @views.get("/v1/domains/<domain>/queue")
    @needs("annotator")
    def show_queue(domain: str) -> Response:
        domain_row(services, domain)
        return reply(_standing(services, domain))

    @views.post("/v1/domains/<domain>/queue/next")
    @needs("annotator")
    def hand_out(domain: str) -> Response:
        person = _person(typed(read_object(), _Asking))
        share = _share(living_domain(services, domain))
        _caught_up(services)
        with postgres_trouble(), services.database.begin() as connection:
            row = _claim(connection, domain, person, share)
        return reply({"item": None if row is None else _item(services, row)})

    @views.post("/v1/domains/<domain>/queue/<proposal_id>/judge")
    @needs("annotator")
    def judge(domain: str, proposal_id: str) -> Response:
        said = typed(read_object(), _Judged)
        person, edited = _person(said), _edited(said)
        share = _share(living_domain(services, domain))
        _caught_up(services)
        row = _held(services, domain, proposal_id, person, share)
        return reply(_judge(services, row, person, said, edited))

    @views.post("/v1/domains/<domain>/queue/<proposal_id>/skip")
    @needs("annotator")
    def skip(domain: str, proposal_id: str) -> Response:
        person = _person(typed(read_object(), _Asking))
        living_domain(services, domain)
        _proposal(services, domain, proposal_id)
        with postgres_trouble(), services.database.begin() as connection:
            _lease(connection, domain, proposal_id, person, SKIPPED_S, skipped=True)
        return reply({"skipped": True})

    @views.post("/v1/domains/<domain>/queue/<proposal_id>/take-back")
    @needs("annotator")
    def take_back(domain: str, proposal_id: str) -> Response:
        person = _person(typed(read_object(), _Asking))
        living_domain(services, domain)
        _caught_up(services)
        return reply(_take_back(services, _proposal(services, domain, proposal_id), person))

    @views.post("/v1/domains/<domain>/queue/raise")
    @needs("data")
    def raise_concern(domain: str) -> Response:
        said = typed(read_object(), _Concern)
        if not 1 <= len(said.proposals) <= MOST_ITEMS:
            raise ApiError(400, f"give 1 to {MOST_ITEMS} proposals", param="proposals")
        if len(no_control_characters(said.reason, "reason")) > 200:
            raise ApiError(400, "reason must be at most 200 characters", param="reason")
        living_domain(services, domain)
        _caught_up(services)
        rows = _named(services, domain, said.proposals)
        events = [
            (
                uuid5(UUID(row.proposal_id), f"{said.concern} after {row.decided_offset}: {said.reason}"),
                ConcernRaised(
                    domain=domain,
                    proposal_id=row.proposal_id,
                    concern=said.concern,
                    reason=said.reason or "said by hand",
                    by=caller().person,
                ),
            )
            for row in rows
        ]
        return reply({"raised": len(events), "position": say_all(services, events, domain, None)})

    return views


def _person(said: _Asking) -> str:
    """Who annotates. Raises ApiError."""
    if said.user is None:
        return caller().person
    check_speaker(said.user)
    return check_person(said.user)


def _share(row: dict[str, Any]) -> float:
    return msgspec.convert(row["policy"], Policy).annotation.double_share


def _edited(said: _Judged) -> Example | None:
    """Raises ApiError."""
    if (said.verdict is None) == (said.takes is None):
        raise ApiError(400, "give either a verdict or whose verdict you take", param="verdict")
    if (said.verdict == "edit") != (said.edited is not None):
        raise ApiError(400, "edited goes with the verdict edit", param="edited")
    if said.edited is None:
        return None
    try:
        return read_example(said.edited).item
    except ItemFault as error:
        param = f"edited.{error.field}".rstrip(".")
        raise ApiError(413 if error.too_large else 400, f"{param}: {error.message}", param=param) from None


# What may be handed to `person`: it waits, they have not judged it since it was decided on last, and nobody else holds it; of what
# two are to judge, one other may, until one of them has.
_OPEN = """
    FROM noria.proposals p WHERE p.domain = :domain AND p.waits IS NOT NULL
    AND NOT EXISTS (SELECT FROM noria.judgements j WHERE j.proposal_id = p.proposal_id AND j.person = :person
        AND j.judged_offset > coalesce(p.decided_offset, -1))
    AND (SELECT count(*) FROM work.leases l WHERE l.proposal_id = p.proposal_id AND l.person <> :person AND NOT l.skipped
            AND l.until > now()
            AND NOT EXISTS (SELECT FROM noria.judgements j WHERE j.proposal_id = p.proposal_id AND j.person = l.person
                AND j.judged_offset > coalesce(p.decided_offset, -1)))
        < CASE WHEN p.verdicts = 0 AND p.lot < :share THEN 2 ELSE 1 END
"""
_LEASED = "EXISTS (SELECT FROM work.leases l WHERE l.proposal_id = p.proposal_id AND l.person = :person AND"
_HELD, _NOT_SKIPPED = f" AND {_LEASED} NOT l.skipped)", f" AND NOT {_LEASED} l.skipped)"
_FIRST = " ORDER BY p.waits, p.proposed_offset LIMIT 1"


def _claim(
    connection: Connection, domain: str, person: str, share: float, proposal_id: str | None = None
) -> Row[Any] | None:
    """What that person holds from now on: what they held already, else the first that waits for them; or that one."""
    # One at a time in a domain, so that two who ask at once are not handed the same.
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('noria.queue ' || :domain))"), {"domain": domain})
    connection.execute(text("DELETE FROM work.leases WHERE domain = :domain AND until <= now()"), {"domain": domain})
    asked = {"domain": domain, "person": person, "share": share}
    if proposal_id is not None:
        ways = [f"SELECT p.* {_OPEN} AND p.proposal_id = :proposal_id"]
        asked["proposal_id"] = proposal_id
    else:
        ways = [f"SELECT p.* {_OPEN}{_HELD}{_FIRST}", f"SELECT p.* {_OPEN}{_NOT_SKIPPED}{_FIRST}"]
    for way in ways:
        row = connection.execute(text(way), asked).one_or_none()
        if row is not None:
            _lease(connection, domain, row.proposal_id, person, LEASE_S, skipped=False)
            return row
    return None


def _lease(connection: Connection, domain: str, proposal_id: str, person: str, for_s: int, skipped: bool) -> None:
    connection.execute(
        text(
            "INSERT INTO work.leases (proposal_id, person, domain, skipped, until)"
            " VALUES (:proposal_id, :person, :domain, :skipped, now() + make_interval(secs => :for_s))"
            " ON CONFLICT (proposal_id, person) DO UPDATE SET skipped = excluded.skipped, until = excluded.until"
        ),
        {"proposal_id": proposal_id, "person": person, "domain": domain, "skipped": skipped, "for_s": for_s},
    )


def _held(services: Services, domain: str, proposal_id: str, person: str, share: float) -> Row[Any]:
    """Raises ApiError: 404, or 409 saying why that person may not judge it now."""
    found = _proposal(services, domain, proposal_id)
    with postgres_trouble(), services.database.begin() as connection:
        row = _claim(connection, domain, person, share, proposal_id)
    if row is not None:
        return row
    if found.waits is None:
        raise ApiError(409, "it does not wait for anybody: it has been decided on", code="decided")
    if any(one.person == person for one in _said(services, found)):
        raise ApiError(409, "you have said what you think of it; others have to look at it", code="judged")
    raise ApiError(409, "somebody else looks at it at present", code="held_by_another")


def _proposal(services: Services, domain: str, proposal_id: str) -> Row[Any]:
    table = schema.proposals
    asked = select(table).where(table.c.proposal_id == proposal_id, table.c.domain == domain)
    with postgres_trouble(), services.database.connect() as connection:
        row = connection.execute(asked).one_or_none()
    if row is None:
        raise ApiError(404, "there is no such proposal in the domain", param="proposal_id", code="proposal_not_found")
    return row


def _named(services: Services, domain: str, ids: Sequence[str]) -> list[Row[Any]]:
    """Proposals by their ids, or by those of the examples that they became. Raises ApiError 404, naming one that is not there."""
    table = schema.proposals
    with postgres_trouble(), services.database.connect() as connection:
        found = {
            row._mapping[column]: row
            for column in (table.c.proposal_id, table.c.example_id)
            for row in connection.execute(select(table).where(table.c.domain == domain, column.in_(ids)))
        }
    for number, id_ in enumerate(ids):
        if id_ not in found:
            message = "there is no such proposal in the domain, nor an example that was one"
            raise ApiError(404, message, param=f"proposals[{number}]", code="proposal_not_found")
    return list({row.proposal_id: row for row in map(found.__getitem__, ids)}.values())


def _said(services: Services, proposal: Row[Any]) -> Sequence[Row[Any]]:
    """What was said of it since it was decided on last, in order."""
    table = schema.judgements
    since = -1 if proposal.decided_offset is None else proposal.decided_offset
    asked = select(table).where(table.c.proposal_id == proposal.proposal_id, table.c.judged_offset > since)
    with postgres_trouble(), services.database.connect() as connection:
        return connection.execute(asked.order_by(table.c.judged_offset)).all()


def _judge(services: Services, row: Row[Any], person: str, said: _Judged, edited: Example | None) -> dict[str, Any]:
    who, id_ = caller(), _judgement_id(services, row, person)
    proposal = _proposed(services, row)
    taken = _taken(services, row, said.takes) if said.takes is not None else None
    verdict: VerdictKind = said.verdict or "accept"
    if taken is not None:
        verdict = taken.verdict
    elif edited == proposal:
        verdict = "accept"  # nothing was changed
    with postgres_trouble():
        own = services.keyring.key_for(person_subject(person))  # by which they can be erased
    stands = row.example_id if row.state in ("accepted", "edited") else None
    words: dict[str, Any] = {}
    if verdict != "reject":
        words["replaces"] = tuple(replaced_by(row))
    if verdict == "edit" and taken is not None:
        words |= _copied(services, taken)
    elif verdict == "edit" or (verdict == "accept" and stands is None):
        item = proposal if edited is None or verdict == "accept" else edited
        prompt = msgspec.json.encode(messages_of(item)).decode()
        asks, answers = sealed_with(services, row, own if verdict == "edit" else None)
        words["prompt"] = sealing.seal(prompt, asks, f"{id_}#prompt")
        words["answer"] = sealing.seal(item.output, answers, f"{id_}#answer")
    if "prompt" in words:
        name = "accepted" if stands is None else f"edited after {row.decided_offset}"
        (example_id,), _ = standing(services, EXAMPLES, [uuid5(UUID(row.proposal_id), name)])
        words["example_id"] = example_id.hex
    event = ProposalJudged(
        domain=row.domain,
        proposal_id=row.proposal_id,
        person=person,
        verdict=verdict,
        stands=stands,
        follows=row.decided_offset,
        service=None if person == who.speaks_as else who.key_id,
        **words,
    )
    (position,) = say(services, [(id_, event)], row.domain)
    return {"verdict": verdict, "position": str(position)}


def _judgement_id(services: Services, row: Row[Any], person: str) -> UUID:
    """Of that person's verdict on the proposal as it stands; another one, where they took one back."""
    id_, events, judgements = UUID(row.proposal_id), schema.events, schema.judgements
    name = f"judged by {person} after {row.decided_offset}"
    with postgres_trouble(), services.database.connect() as connection:
        while True:
            id_ = uuid5(id_, name)
            taken_back = select(events.c.event_id).where(
                events.c.event_id == str(id_),
                ~select(judgements.c.judgement_id).where(judgements.c.judgement_id == str(id_)).exists(),
            )
            if connection.execute(taken_back).one_or_none() is None:
                return id_


def _take_back(services: Services, row: Row[Any], person: str) -> dict[str, Any]:
    """Undo the last verdict on it, and what that came to. Raises ApiError 409 where that is another's, or where others were retired
    by it, which a person brings back in the data room."""
    j, e = schema.judgements, schema.examples
    with postgres_trouble(), services.database.connect() as connection:
        said = connection.execute(
            select(j).where(j.c.proposal_id == row.proposal_id).order_by(j.c.judged_offset.desc()).limit(1)
        ).one_or_none()
        became = connection.execute(select(e).where(e.c.proposal_id == row.proposal_id)).all()
    settled = row.waits is None
    since = -1 if row.decided_offset is None else row.decided_offset
    if (
        said is None
        or said.person != person
        or (row.decided_in != row.domain if settled else said.judged_offset < since)
    ):
        message = "the last that was said of it is not your verdict"
        raise ApiError(409, message, param="proposal_id", code="not_the_last")
    stands = [one for one in became if one.retired_offset is None]
    retired = any(one.retired_offset is not None and one.retired_offset > said.judged_offset for one in became)
    kept = any(one.accepted_offset < said.judged_offset for one in stands)
    if settled and (retired or kept or (said.verdict != "reject" and replaced_by(row))):
        message = "your verdict was on an example that stood already: it is brought back in the data room"
        raise ApiError(409, message, param="proposal_id", code="stood_already")
    at = uuid5(UUID(said.judgement_id), "taken back")
    events: list[tuple[UUID, Event]] = []
    if settled:
        events = [
            (
                uuid5(at, f"retired {one.example_id}"),
                ExampleRetired(domain=row.domain, example_id=one.example_id, reason="it was taken back", by=person),
            )
            for one in stands
        ]
        reopened = ProposalReopened(domain=row.domain, proposal_id=row.proposal_id, by=person)
        events.append((uuid5(at, "reopened"), reopened))
    back = VerdictTakenBack(
        domain=row.domain, proposal_id=row.proposal_id, judgement_id=said.judgement_id, person=person
    )
    *_, position = say(services, [*events, (at, back)], row.domain)
    return {"taken_back": said.verdict, "position": str(position)}


def _proposed(services: Services, row: Row[Any]) -> Example:
    """Raises ApiError 410."""
    said = opened_proposal(services, row)
    if said is None:
        raise ApiError(410, "the proposal was erased", param="proposal_id", code="erased")
    return msgspec.convert(said, Example)


def _copied(services: Services, taken: Row[Any]) -> dict[str, Any]:
    """What another annotator wrote, as it is sealed: it stays theirs. Raises ApiError 410."""
    if opened(services, taken.prompt) is None or opened(services, taken.answer) is None:
        raise ApiError(410, "what they wrote was erased", param="takes", code="erased")
    sealed = {name: msgspec.convert(getattr(taken, name), Sealed) for name in ("prompt", "answer")}
    return sealed | {"author": taken.author}


def _taken(services: Services, proposal: Row[Any], judgement_id: str) -> Row[Any]:
    """One of the verdicts that disagree. Raises ApiError 404."""
    said = _said(services, proposal) if proposal.verdicts > 1 else ()
    for one in said:
        if one.judgement_id == judgement_id:
            return one
    raise ApiError(404, "there is no such verdict on it", param="takes", code="verdict_not_found")


# What is shown


def _item(services: Services, row: Row[Any]) -> dict[str, Any]:
    """What an annotator sees: the proposal, what it was made of, and, where two disagree, what each said, without their names."""
    found = {name: row._mapping[name] for name in ("proposal_id", "builder", "kind", "state", "concern")}
    found["waits"] = next(name for name, place in PLACES.items() if place == row.waits)
    found["reason"] = row.concern_reason
    found["proposal"] = opened_proposal(services, row)
    # Somebody's prompt is what is proposed; an annotator sees nothing else of a conversation.
    sources = [one for one in row.sources if one["kind"] != "prompt"]
    with postgres_trouble(), services.database.connect() as connection:
        found["sources"] = [made_of(services, connection, one["kind"], one["id"]) for one in sources]
    said = _said(services, row) if row.verdicts > 1 else ()
    found["verdicts"] = [_verdict(services, one) for one in said]
    return found


def _verdict(services: Services, row: Row[Any]) -> dict[str, Any]:
    found = {"judgement_id": row.judgement_id, "verdict": row.verdict, "edited": None}
    if row.verdict == "edit":
        prompt, answer = opened(services, row.prompt), opened(services, row.answer)
        if prompt is not None and answer is not None:
            found["edited"] = to_alpaca(msgspec.json.decode(prompt), answer)
    return found


_WAITING = text(
    "SELECT waits, count(*) AS number, count(*) FILTER (WHERE verdicts = 1) AS second FROM noria.proposals"
    " WHERE domain = :domain AND waits IS NOT NULL GROUP BY waits"
)
_BOTH = text(
    "SELECT accept, edit, reject, count(*) AS number FROM ("
    " SELECT count(*) FILTER (WHERE verdict = 'accept') AS accept, count(*) FILTER (WHERE verdict = 'edit') AS edit,"
    " count(*) FILTER (WHERE verdict = 'reject') AS reject FROM noria.judgements WHERE domain = :domain AND NOT settles"
    " GROUP BY proposal_id, follows HAVING count(*) > 1) said GROUP BY accept, edit, reject"
)


def _queues(services: Services) -> list[dict[str, Any]]:
    """The domains that the key may see, for who sees nothing else of them."""
    table, own = schema.domains.c, caller().domains
    asked = select(table.domain, table.title, table.live_release).where(table.retired_at.is_(None))
    if own is not None:
        asked = asked.where(table.domain.in_(own))
    with postgres_trouble(), services.database.connect() as connection:
        return [dict(row) for row in connection.execute(asked.order_by(table.domain)).mappings()]


def _standing(services: Services, domain: str) -> dict[str, Any]:
    """How many wait for a person, by what puts them forward; how many of these were judged by one and wait for a `second`; and how
    far annotators agree."""
    with postgres_trouble(), services.database.connect() as connection:
        waiting = connection.execute(_WAITING, {"domain": domain}).all()
        rows = connection.execute(_BOTH, {"domain": domain}).all()
    numbers = {row.waits: row.number for row in waiting}
    counts = {name: numbers.get(place, 0) for name, place in PLACES.items()}
    agreed = agreement(({"accept": row.accept, "edit": row.edit, "reject": row.reject}, row.number) for row in rows)
    return {
        "domain": domain,
        "waiting": counts | {"second": sum(row.second for row in waiting)},
        "agreement": msgspec.to_builtins(agreed),
    }


def _caught_up(services: Services) -> None:
    if not services.recorder.wait_for_ends(DOMAINS, CATCH_UP_S):
        raise Behind("what waits is not known yet: the log is not followed at present")
