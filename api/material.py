"""Material over HTTP: triples and seeds that a data team brings, builds of proposed examples, and what people say of these."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4, uuid5

import msgspec
from flask import Blueprint, Response, request
from msgspec import Struct, field
from sqlalchemy import Column, Row, select

from api.access import caller, needs
from api.datasets import (
    EXAMPLES,
    MOST_ITEMS,
    Kept,
    Taken,
    add_items,
    body_items,
    decision_of,
    identified,
    import_id_of,
    opened,
    page,
    read_all,
    retire_items,
    say_all,
    standing,
)
from api.errors import ApiError
from api.formats.turns import messages_of
from api.items import Example, ItemFault, Seed, read_example, read_seed, read_triple
from api.known import CATCH_UP_S, domain_row, living_domain
from api.saying import say
from api.services import Services, person_subject
from api.wire import no_control_characters, read_object, reply, typed, whole_argument
from streams import schema, sealing
from streams.builders import BUILDERS
from streams.errors import Behind
from streams.events import DOMAINS, DomainEvent
from streams.facts.examples import ExampleAccepted, ExampleRetired
from streams.facts.material import (
    REPLACED,
    BuildAsked,
    ExampleRejected,
    SeedAdded,
    SeedKind,
    SeedRetired,
    TripleAdded,
    TripleRetired,
    order_of,
)
from streams.policy import Policy
from streams.sealing import domain_subject
from streams.seed_tasks import Aside, SeedTask
from streams.store import postgres_trouble
from streams.syllogisms import Syllogism

LARGE_BODIES = frozenset({"material.add_triples", "material.add_seeds"})
TRIPLES = Kept(schema.triples, "triple_id", "triple_added", TripleRetired)
SEEDS = Kept(schema.seeds, "seed_id", "seed_added", SeedRetired)
SEED_KINDS: dict[type[Seed], SeedKind] = {Syllogism: "syllogism", SeedTask: "task", Aside: "aside"}
STATES = ("proposed", "accepted", "edited", "rejected")
MOST_PROPOSALS = 1_000_000
T = TypeVar("T")


class _Wanted(Struct, forbid_unknown_fields=True):
    builder: str
    most: int | None = None


class _Decided(Struct, forbid_unknown_fields=True):
    """Proposals by their ids, or all of a build that nobody has decided on. `decision`: as the client calls it, so that one may
    take several requests; a new one if left out."""

    proposals: list[str] = field(default_factory=list)
    build: str | None = None
    reason: str = ""
    decision: str | None = None


class _Accepted(_Decided, forbid_unknown_fields=True):
    """`edited`: of one proposal, what it is to say instead, in Alpaca's fields."""

    edited: dict[str, Any] | None = None


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("material", __name__)

    @views.post("/v1/domains/<domain>/triples")
    @needs("data")
    def add_triples(domain: str) -> Response:
        triples, aside = read_all(body_items(), read_triple)
        import_id = import_id_of()
        living_domain(services, domain)
        words = [msgspec.json.encode(triple).decode() for triple in triples]
        said = _add(services, domain, TRIPLES, words, import_id, _triple)
        return reply(said | {"set_aside": aside})

    @views.get("/v1/domains/<domain>/triples")
    @needs("data")
    def show_triples(domain: str) -> Response:
        return reply(_shown(services, domain, TRIPLES, "triple"))

    @views.post("/v1/domains/<domain>/triples/retire")
    @needs("data")
    def retire_triples(domain: str) -> Response:
        return reply(retire_items(services, domain, TRIPLES, typed(read_object(), Taken)))

    @views.post("/v1/domains/<domain>/seeds")
    @needs("data")
    def add_seeds(domain: str) -> Response:
        seeds, aside = read_all(body_items(), read_seed)
        import_id = import_id_of()
        living_domain(services, domain)
        words = [msgspec.json.encode(seed).decode() for seed in seeds]
        said = _add(services, domain, SEEDS, words, import_id, _seed_event(seeds, words))
        return reply(said | {"set_aside": aside})

    @views.get("/v1/domains/<domain>/seeds")
    @needs("data")
    def show_seeds(domain: str) -> Response:
        return reply(_shown(services, domain, SEEDS, "seed", "kind"))

    @views.post("/v1/domains/<domain>/seeds/retire")
    @needs("data")
    def retire_seeds(domain: str) -> Response:
        return reply(retire_items(services, domain, SEEDS, typed(read_object(), Taken)))

    @views.post("/v1/domains/<domain>/builds")
    @needs("data")
    def ask_build(domain: str) -> Response:
        wanted = typed(read_object(), _Wanted)
        row = living_domain(services, domain)
        _check_builder(wanted, row)
        return _ask(services, BuildAsked(domain=domain, builder=wanted.builder, most=wanted.most, by=caller().person))

    @views.get("/v1/domains/<domain>/builds")
    @needs("data")
    def list_builds(domain: str) -> Response:
        domain_row(services, domain)
        return reply({"data": _builds(services, domain, whole_argument("limit", 20, 1, 1000))})

    @views.get("/v1/domains/<domain>/builds/<build_id>")
    @needs("data")
    def show_build(domain: str, build_id: str) -> Response:
        domain_row(services, domain)
        return reply(_build(services, domain, build_id))

    @views.post("/v1/domains/<domain>/builds/<build_id>/undo")
    @needs("data")
    def undo_build(domain: str, build_id: str) -> Response:
        living_domain(services, domain)
        _caught_up(services)
        build = _build(services, domain, build_id)
        if build["outcome"] == "under_way":
            raise ApiError(409, "the build is under way: undo it when it has ended", code="build_under_way")
        rows = _of_build(services, domain, build_id, STATES[:3])
        return reply(_reject(services, domain, rows, "its build was undone", decision_of(None)))

    @views.get("/v1/domains/<domain>/proposals")
    @needs("data")
    def show_proposals(domain: str) -> Response:
        domain_row(services, domain)
        return reply(_proposals(services, domain))

    @views.post("/v1/domains/<domain>/proposals/accept")
    @needs("data")
    def accept(domain: str) -> Response:
        said = typed(read_object(), _Accepted)
        edited = _edited(said)
        living_domain(services, domain)
        rows, held = _decided_on(services, domain, said)
        return reply(_accept(services, domain, rows, edited, decision_of(said.decision)) | held)

    @views.post("/v1/domains/<domain>/proposals/reject")
    @needs("data")
    def reject(domain: str) -> Response:
        said = typed(read_object(), _Decided)
        if len(no_control_characters(said.reason, "reason")) > 200:
            raise ApiError(400, "reason must be at most 200 characters", param="reason")
        living_domain(services, domain)
        rows, held = _decided_on(services, domain, said)
        reason = said.reason or "rejected by hand"
        return reply(_reject(services, domain, rows, reason, decision_of(said.decision)) | held)

    return views


def _triple(domain: str, id_: UUID, words: str, key: sealing.PersonKey, by: str) -> TripleAdded:
    return TripleAdded(domain=domain, triple_id=id_.hex, triple=sealing.seal(words, key, f"{id_}#triple"), by=by)


def _seed_event(
    seeds: Sequence[Seed], words: Sequence[str]
) -> Callable[[str, UUID, str, sealing.PersonKey, str], SeedAdded]:
    kinds = {said: SEED_KINDS[type(seed)] for seed, said in zip(seeds, words, strict=True)}

    def event(domain: str, id_: UUID, said: str, key: sealing.PersonKey, by: str) -> SeedAdded:
        sealed = sealing.seal(said, key, f"{id_}#seed")
        return SeedAdded(domain=domain, seed_id=id_.hex, kind=kinds[said], seed=sealed, by=by)

    return event


def _add(
    services: Services,
    domain: str,
    kept: Kept,
    words: Sequence[str],
    import_id: str,
    event: Callable[[str, UUID, str, sealing.PersonKey, str], TripleAdded | SeedAdded],
) -> dict[str, Any]:
    by = caller().person
    with postgres_trouble():
        key = services.keyring.key_for(domain_subject(domain))
    names = [identified(services, kept.id, domain, said) for said in words]
    return add_items(services, kept, names, lambda number, id_: event(domain, id_, words[number], key, by), import_id)


def _shown(services: Services, domain: str, kept: Kept, words: str, *more: str) -> dict[str, Any]:
    """A page of those in force, opened."""
    domain_row(services, domain)
    place: Column[int] = kept.table.c.added_offset
    with postgres_trouble(), services.database.connect() as connection:
        rows, next_ = page(connection, kept.table, place, domain)
    in_force = [row._mapping for row in rows if row.retired_offset is None]
    found = []
    for row in in_force:
        said = opened(services, row[words])
        if said is not None:
            found.append({name: row[name] for name in (kept.id, *more)} | msgspec.json.decode(said))
    counts = {"erased": len(in_force) - len(found), "retired": len(rows) - len(in_force)}
    return {"data": found, **counts, "next": next_}


def _check_builder(wanted: _Wanted, row: dict[str, Any]) -> None:
    """Raises ApiError 422 for a builder that is none, and for one that needs a teacher where the policy names none."""
    builder = BUILDERS.get(wanted.builder)
    if builder is None:
        message = f"there is no builder {wanted.builder!r}; there are {', '.join(BUILDERS)}"
        raise ApiError(422, message, param="builder", code="builder_not_found")
    if wanted.most is not None and not 1 <= wanted.most <= MOST_PROPOSALS:
        raise ApiError(422, f"most must be from 1 to {MOST_PROPOSALS}, or null for all", param="most")
    if builder.teacher and msgspec.convert(row["policy"], Policy).teacher is None:
        message = (
            f"{wanted.builder} asks a teacher, and the domain's policy names none: set `teacher` to an OpenAI-compatible"
            ' endpoint, {"base_url": …, "model": …}'
        )
        raise ApiError(422, message, param="builder", code="no_teacher")


def _ask(services: Services, event: BuildAsked) -> Response:
    """One at a time. Raises ApiError 409 for another than the one that is under way."""
    newest = next(iter(_builds(services, event.domain, 1)), None)
    if newest is not None and newest["outcome"] == "under_way":
        if (newest["builder"], newest["most"]) != (event.builder, event.most):
            raise ApiError(409, f"another build is under way, by {newest['builder']}", code="build_under_way")
        return reply({"build_id": newest["build_id"], "known": True, "position": None}, 202)
    id_ = uuid4()
    (position,) = say(services, [(id_, event)], event.domain)
    return reply({"build_id": str(order_of(id_)), "known": False, "position": str(position)}, 202)


def _builds(services: Services, domain: str, limit: int) -> list[dict[str, Any]]:
    table = schema.builds
    asked = select(table).where(table.c.domain == domain).order_by(table.c.asked_offset.desc()).limit(limit)
    with postgres_trouble(), services.database.connect() as connection:
        return [dict(row) for row in connection.execute(asked).mappings()]


def _build(services: Services, domain: str, build_id: str) -> dict[str, Any]:
    table = schema.builds
    asked = select(table).where(table.c.build_id == build_id, table.c.domain == domain)
    with postgres_trouble(), services.database.connect() as connection:
        row = connection.execute(asked).mappings().one_or_none()
    if row is None:
        raise ApiError(404, "there is no such build in the domain", param="build_id", code="build_not_found")
    return dict(row)


def _proposals(services: Services, domain: str) -> dict[str, Any]:
    """A page of the proposals, opened: of one `state` (those that nobody has decided on), or of `all`; of one `build`."""
    state = request.args.get("state", "proposed")
    if state not in (*STATES, "all"):
        raise ApiError(400, f"state must be one of {', '.join(STATES)}, all", param="state")
    limit = whole_argument("limit", 100, 1, MOST_ITEMS)
    since = whole_argument("since", 0, 0, 2**63 - 1)
    table = schema.proposals.c
    asked = select(schema.proposals).where(table.domain == domain, table.proposed_offset >= since)
    if state != "all":
        asked = asked.where(table.state == state)
    if "build" in request.args:
        asked = asked.where(table.build_id == request.args["build"])
    with postgres_trouble(), services.database.connect() as connection:
        rows = connection.execute(asked.order_by(table.proposed_offset).limit(limit + 1)).all()
    names = ("proposal_id", "build_id", "builder", "kind", "sources", "state", "example_id", "decided_by", "reason")
    found = []
    for row in rows[:limit]:
        said = opened_proposal(services, row)
        if said is not None:
            found.append({name: row._mapping[name] for name in names} | said)
    return {
        "data": found,
        "erased": min(len(rows), limit) - len(found),
        "next": rows[limit].proposed_offset if len(rows) > limit else None,
    }


def _edited(said: _Accepted) -> Example | None:
    """Raises ApiError."""
    if said.edited is None:
        return None
    if len(said.proposals) != 1:
        raise ApiError(400, "edited goes with one proposal", param="edited")
    try:
        return read_example(said.edited).item
    except ItemFault as error:
        param = f"edited.{error.field}".rstrip(".")
        raise ApiError(413 if error.too_large else 400, f"{param}: {error.message}", param=param) from None


def _decided_on(services: Services, domain: str, said: _Decided) -> tuple[list[Row[Any]], dict[str, int]]:
    """The proposals that a request names, and how many of its build are left to the annotators who judge them. Raises ApiError,
    naming one that is not there or is being judged."""
    if bool(said.proposals) == (said.build is not None):
        raise ApiError(400, "give either proposals or a build", param="proposals")
    if len(said.proposals) > MOST_ITEMS:
        raise ApiError(413, f"at most {MOST_ITEMS} proposals at once", param="proposals", code="too_many_items")
    _caught_up(services)
    if said.build is not None:
        _build(services, domain, said.build)
        found = _of_build(services, domain, said.build, ["proposed"])
        open_ = [row for row in found if not row.verdicts]
        return open_, {"held": len(found) - len(open_)}
    table = schema.proposals
    asked = select(table).where(table.c.domain == domain, table.c.proposal_id.in_(said.proposals))
    with postgres_trouble(), services.database.connect() as connection:
        rows = {row.proposal_id: row for row in connection.execute(asked)}
    for number, id_ in enumerate(said.proposals):
        if id_ not in rows:
            message = "there is no such proposal in the domain"
            raise ApiError(404, message, param=f"proposals[{number}]", code="proposal_not_found")
        if rows[id_].verdicts:
            message = "annotators are judging it; it is settled in the queue"
            raise ApiError(409, message, param=f"proposals[{number}]", code="being_judged")
    return [rows[id_] for id_ in dict.fromkeys(said.proposals)], {"held": 0}


def _of_build(services: Services, domain: str, build_id: str, states: Sequence[str]) -> list[Row[Any]]:
    table = schema.proposals
    asked = select(table).where(table.c.build_id == build_id, table.c.domain == domain, table.c.state.in_(states))
    with postgres_trouble(), services.database.connect() as connection:
        return list(connection.execute(asked.order_by(table.c.proposed_offset)))


def _accept(
    services: Services, domain: str, rows: list[Row[Any]], edited: Example | None, decision: str
) -> dict[str, Any]:
    events = acceptances(services, domain, rows, edited)
    examples = [id_.hex for id_, event in events if isinstance(event, ExampleAccepted)]
    return {
        "accepted": len(examples),
        "known": len(rows) - len(examples),
        "examples": examples,
        "decision": decision,
        "position": say_all(services, events, decision, None),
    }


def acceptances(
    services: Services, domain: str, rows: Sequence[Row[Any]], edited: Example | None = None
) -> list[tuple[UUID, DomainEvent]]:
    """What makes examples of those of the proposals that are not accepted, and retires what they replace. Raises ApiError 410."""
    who, at = caller(), datetime.now(UTC)
    with postgres_trouble():
        own = services.keyring.key_for(person_subject(who.person))  # by which they can be erased
    open_ = [row for row in rows if row.state in ("proposed", "rejected")]
    ids, _ = standing(services, EXAMPLES, [uuid5(UUID(row.proposal_id), "accepted") for row in open_])
    events, replaced = list[tuple[UUID, DomainEvent]](), list[tuple[UUID, DomainEvent]]()
    for row, id_ in zip(open_, ids, strict=True):
        said = opened_proposal(services, row)
        if said is None:
            raise ApiError(410, f"the proposal {row.proposal_id} was erased", param="proposals", code="erased")
        item = edited or msgspec.convert(said, Example)
        asks, answers = sealed_with(services, row, own if edited else None)
        prompt = msgspec.json.encode(messages_of(item)).decode()
        event = ExampleAccepted(
            domain=domain,
            example_id=id_.hex,
            kind="annotation",
            person=who.person,
            prompt=sealing.seal(prompt, asks, f"{id_}#prompt"),
            answer=sealing.seal(item.output, answers, f"{id_}#answer"),
            said_at=at,
            proposal_id=row.proposal_id,
            edited=edited is not None,
            service=None if who.person == who.speaks_as else who.key_id,
        )
        events.append((id_, event))
        for example_id in replaced_by(row):
            retired = ExampleRetired(domain=domain, example_id=example_id, reason=REPLACED, by=who.person)
            replaced.append((uuid5(id_, f"replaces {example_id}"), retired))
    return [*events, *replaced]


def replaced_by(proposal: Row[Any]) -> list[str]:
    """The examples that are retired when it is accepted: of which it is another wording by the domain's guide."""
    return [source["id"] for source in proposal.sources] if proposal.kind == "styled" else []


def sealed_with(
    services: Services, proposal: Row[Any], editor: sealing.PersonKey | None
) -> tuple[sealing.PersonKey, sealing.PersonKey]:
    """The keys of its prompt and its answer as an example. What is accepted as it is stays sealed as it was; what a person edited
    is sealed as theirs, and goes with them. A rewording stays with those whose words it is made of, edited or not."""
    if editor is not None and proposal.answer is None:
        return editor, editor
    with postgres_trouble():
        asks, answers = (
            services.keyring.find(sealed["kid"]) for sealed in (proposal.proposal, proposal.answer or proposal.proposal)
        )
    return asks, answers


def opened_proposal(services: Services, row: Row[Any]) -> dict[str, Any] | None:
    """A proposal in Alpaca's fields; None where one of its keys was destroyed."""
    words = opened(services, row.proposal)
    answer = opened(services, row.answer) if row.answer is not None else None
    if words is None or (row.answer is not None and answer is None):
        return None
    said: dict[str, Any] = msgspec.json.decode(words)
    return said if answer is None else said | {"output": answer}


def _reject(services: Services, domain: str, rows: list[Row[Any]], reason: str, decision: str) -> dict[str, Any]:
    events = rejections(domain, rows, reason)
    retired = sum(isinstance(event, ExampleRetired) for _, event in events)
    return {
        "rejected": len(events) - retired,
        "retired": retired,
        "known": len(rows) - (len(events) - retired),
        "decision": decision,
        "position": say_all(services, events, decision, None),
    }


def rejections(domain: str, rows: Sequence[Row[Any]], reason: str) -> list[tuple[UUID, DomainEvent]]:
    """Of those of the proposals that are not rejected. What became an example is retired with it: a release that learned it does
    not unlearn it."""
    by, events = caller().person, list[tuple[UUID, DomainEvent]]()
    for row in rows:
        if row.state == "rejected":
            continue
        if row.state != "proposed":
            example = ExampleRetired(domain=domain, example_id=row.example_id, reason=reason, by=by)
            events.append((uuid5(UUID(row.example_id), "retired with its proposal"), example))
        # It may have been accepted since it was rejected last.
        id_ = uuid5(UUID(row.proposal_id), f"rejected after {row.decided_offset}")
        events.append((id_, ExampleRejected(domain=domain, proposal_id=row.proposal_id, reason=reason, by=by)))
    return events


def _caught_up(services: Services) -> None:
    if not services.recorder.wait_for_ends(DOMAINS, CATCH_UP_S):
        raise Behind("what is proposed is not known yet: the log is not followed at present")
