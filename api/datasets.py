"""What a data team brings and takes: exam items, and training examples in the Alpaca shape."""

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import msgspec
from flask import Blueprint, Response, request
from msgspec import Struct, field
from sqlalchemy import Column, Connection, Row, Table, select

from api.access import caller, needs
from api.errors import ApiError
from api.formats.turns import messages_of, to_alpaca
from api.items import (
    Example,
    ItemFault,
    Preference,
    Question,
    Read,
    counted,
    read_example,
    read_preference,
    read_question,
)
from api.known import CATCH_UP_S, domain_row, living_domain
from api.saying import say
from api.services import Services, person_subject
from api.wire import (
    check_conversation,
    check_person,
    no_control_characters,
    read_json,
    read_object,
    reply,
    typed,
    whole_argument,
)
from streams import history, schema, sealing
from streams.errors import Behind, Erased, Unavailable
from streams.events import DOMAINS, DomainEvent
from streams.facts.exam import ExamItemAdded, ExamItemRetired, ExamKind
from streams.facts.examples import ExampleAccepted, ExampleRetired, RankingAccepted, RankingRetired
from streams.facts.material import SeedAdded, SeedRetired, TripleAdded, TripleRetired
from streams.log import Position
from streams.sealed import Sealed
from streams.sealing import PersonKey, domain_subject
from streams.store import postgres_trouble

MOST_ITEMS = 5000
PAGE_ITEMS = 1000
APPENDED_AT_ONCE = 200
DECISION = "decision-"
LARGE_BODIES = frozenset({"datasets.add_exam", "datasets.import_examples", "datasets.import_preferences"})
T = TypeVar("T")
_ITEMS = uuid5(NAMESPACE_URL, "urn:noria:dataset-item")


class _Kind(Struct):
    kind: ExamKind


class Taken(Struct, forbid_unknown_fields=True):
    """What is to be retired: items by their ids, or all that one import brought."""

    items: list[str] = field(default_factory=list)
    import_id: str | None = field(default=None, name="import")
    reason: str = ""


class Kept(Struct, frozen=True):
    """A table of items that are added, told apart by content, and retired."""

    table: Table
    id: str
    added: str  # the type of the event that adds one
    retired: Callable[..., ExamItemRetired | ExampleRetired | RankingRetired | SeedRetired | TripleRetired]

    @property
    def ids(self) -> Column[str]:
        return self.table.c[self.id]


EXAM = Kept(schema.exam_items, "item_id", "exam_item_added", ExamItemRetired)
EXAMPLES = Kept(schema.examples, "example_id", "example_accepted", ExampleRetired)
RANKINGS = Kept(schema.rankings, "ranking_id", "ranking_accepted", RankingRetired)


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("datasets", __name__)

    @views.post("/v1/domains/<domain>/exam")
    @needs("data")
    def add_exam(domain: str) -> Response:
        raws = body_items()
        kinds = [said.kind for said in typed(raws, list[_Kind])]
        questions, aside = read_all(raws, read_question, known={"kind"})
        import_id = import_id_of()
        living_domain(services, domain)
        return reply(_add_exam(services, domain, kinds, questions, import_id) | {"set_aside": aside})

    @views.get("/v1/domains/<domain>/exam")
    @needs("data")
    def show_exam(domain: str) -> Response:
        domain_row(services, domain)
        with postgres_trouble(), services.database.connect() as connection:
            rows, next_ = page(connection, schema.exam_items, schema.exam_items.c.added_offset, domain)
        in_force = [row for row in rows if row.retired_offset is None]
        found = []
        for row in in_force:
            words = opened(services, row.item)
            if words is not None:
                found.append({"item_id": row.item_id, "kind": row.kind, **msgspec.json.decode(words)})
        counts = {"erased": len(in_force) - len(found), "retired": len(rows) - len(in_force)}
        return reply({"data": found, **counts, "next": next_})

    @views.post("/v1/domains/<domain>/exam/retire")
    @needs("data")
    def retire_exam(domain: str) -> Response:
        return reply(retire_items(services, domain, EXAM, typed(read_object(), Taken)))

    @views.post("/v1/domains/<domain>/preferences")
    @needs("data")
    def import_preferences(domain: str) -> Response:
        person = _person()
        preferences, aside = read_all(body_items(), read_preference)
        import_id = import_id_of()
        living_domain(services, domain)
        return reply(_add_preferences(services, domain, person, preferences, import_id) | {"set_aside": aside})

    @views.post("/v1/domains/<domain>/preferences/retire")
    @needs("data")
    def retire_preferences(domain: str) -> Response:
        return reply(retire_items(services, domain, RANKINGS, typed(read_object(), Taken)))

    @views.post("/v1/domains/<domain>/examples")
    @needs("data")
    def import_examples(domain: str) -> Response:
        person = _person()
        examples, aside = read_all(body_items(), read_example)
        import_id = import_id_of()
        living_domain(services, domain)
        return reply(_add_examples(services, domain, person, examples, import_id) | {"set_aside": aside})

    @views.get("/v1/domains/<domain>/examples")
    @needs("data")
    def export_examples(domain: str) -> Response:
        if request.args.get("format", "alpaca") != "alpaca":
            raise ApiError(400, "format must be alpaca", param="format")
        if request.args.get("origin", "false") not in ("true", "false"):
            raise ApiError(400, "origin must be true or false", param="origin")
        domain_row(services, domain)
        return reply(_export(services, domain, request.args.get("origin") == "true"))

    @views.post("/v1/domains/<domain>/examples/retire")
    @needs("data")
    def retire_examples(domain: str) -> Response:
        return reply(retire_items(services, domain, EXAMPLES, typed(read_object(), Taken)))

    return views


def _person() -> str:
    """Whose words they are."""
    return check_person(request.args["user"]) if "user" in request.args else caller().person


def import_id_of() -> str:
    """The import that the items belong to: as the client calls it, so that one import may take several requests, or a new one."""
    said = request.args.get("import")
    return uuid4().hex if said is None else check_conversation(said, "import")


def body_items() -> list[Any]:
    body = read_json()
    if not isinstance(body, list) or not body:
        raise ApiError(400, "the body must be a JSON list with at least one item")
    if len(body) > MOST_ITEMS:
        raise ApiError(413, f"at most {MOST_ITEMS} items at once", code="too_many_items")
    return body


def read_all(
    raws: Sequence[Any], read: Callable[[Any], Read[T]], known: Set[str] = frozenset()
) -> tuple[list[T], dict[str, int]]:
    """The items, and how many had each column that is no part of one; `known` columns are read elsewhere. Raises ApiError
    naming the item."""
    found = []
    for number, raw in enumerate(raws):
        try:
            found.append(read(raw))
        except ItemFault as error:
            param = f"[{number}].{error.field}".rstrip(".")
            if error.too_large:
                raise ApiError(413, f"item {number}: {error.message}", param=param, code="text_too_large") from None
            raise ApiError(400, f"{param}: {error.message}", param=param) from None
    return [one.item for one in found], {name: n for name, n in counted(found).items() if name not in known}


def identified(services: Services, *parts: str, key: PersonKey | None = None) -> UUID:
    """The id of an item, from its content by keyed digest: adding the same again is the same event. `key`: of whoever said it;
    None: it is nobody's, or was added when there was one for all."""
    words = msgspec.json.encode(parts)
    with postgres_trouble():
        return uuid5(_ITEMS, sealing.digest(words, key) if key else sealing.common_digest(words, services.keyring))


def _add_exam(
    services: Services, domain: str, kinds: list[ExamKind], items: list[Question], import_id: str
) -> dict[str, Any]:
    by = caller().person
    with postgres_trouble():
        key = services.keyring.key_for(domain_subject(domain))
    words = [
        msgspec.json.encode(
            {"question": item.question, "answer": item.answer, "keys": item.keys or [item.answer]}
        ).decode()
        for item in items
    ]
    names = [identified(services, "exam", domain, *one) for one in zip(kinds, words, strict=True)]

    def event(number: int, id_: UUID) -> ExamItemAdded:
        sealed = sealing.seal(words[number], key, f"{id_}#item")
        return ExamItemAdded(domain=domain, item_id=id_.hex, kind=kinds[number], item=sealed, by=by)

    return add_items(services, EXAM, names, event, import_id)


def _add_examples(services: Services, domain: str, person: str, items: list[Example], import_id: str) -> dict[str, Any]:
    at, who = datetime.now(UTC), caller()
    with postgres_trouble():
        key = services.keyring.key_for(person_subject(person))
    prompts = [msgspec.json.encode(messages_of(item)).decode() for item in items]
    # The key is part of the name: what comes again after an erasure is new.
    parts = [("example", domain, key.kid, prompt, item.output) for prompt, item in zip(prompts, items, strict=True)]
    before = [identified(services, *one) for one in parts]
    known = _rows(services, EXAMPLES, before)
    names = [
        old if old in known else identified(services, *one, key=key) for old, one in zip(before, parts, strict=True)
    ]

    def event(number: int, id_: UUID) -> ExampleAccepted:
        return ExampleAccepted(
            domain=domain,
            example_id=id_.hex,
            kind="annotation",
            person=person,
            prompt=sealing.seal(prompts[number], key, f"{id_}#prompt"),
            answer=sealing.seal(items[number].output, key, f"{id_}#answer"),
            said_at=at,
            service=None if person == who.speaks_as else who.key_id,
        )

    return add_items(services, EXAMPLES, names, event, import_id)


def _add_preferences(
    services: Services, domain: str, person: str, items: list[Preference], import_id: str
) -> dict[str, Any]:
    at = datetime.now(UTC)
    with postgres_trouble():
        key = services.keyring.key_for(person_subject(person))
    prompts = [msgspec.json.encode(item.messages).decode() for item in items]
    names = [
        identified(services, "ranking", domain, key.kid, prompt, str(item.good), *item.answers, key=key)
        for prompt, item in zip(prompts, items, strict=True)
    ]

    def event(number: int, id_: UUID) -> RankingAccepted:
        answers = items[number].answers
        return RankingAccepted(
            domain=domain,
            ranking_id=id_.hex,
            person=person,
            prompt=sealing.seal(prompts[number], key, f"{id_}#prompt"),
            answers=tuple(sealing.seal(words, key, f"{id_}#answers.{place}") for place, words in enumerate(answers)),
            tiers=tuple((place,) for place in range(len(answers))),
            said_at=at,
            good=items[number].good,
        )

    return add_items(services, RANKINGS, names, event, import_id)


def add_items(
    services: Services,
    kept: Kept,
    names: Sequence[UUID],
    event: Callable[[int, UUID], ExamItemAdded | ExampleAccepted | RankingAccepted | SeedAdded | TripleAdded],
    import_id: str,
) -> dict[str, Any]:
    """Append what is not in force yet. `names` tell the items' contents apart; what was retired comes again as a new item."""
    ids, there = standing(services, kept, names)
    # Of what an import says twice, the first counts.
    first = {id_: number for number, id_ in reversed(list(enumerate(ids)))}
    new = [(id_, event(first[id_], id_)) for id_ in dict.fromkeys(ids) if id_ not in there]
    return {
        "import": import_id,
        "added": len(new),
        "known": len(there),
        "ids": [id_.hex for id_ in dict.fromkeys(ids)],
        "position": say_all(services, new, import_id, import_id),
    }


def standing(services: Services, kept: Kept, names: Sequence[UUID]) -> tuple[list[UUID], set[UUID]]:
    """The id that each item has or would have, and those that are in force."""
    rows = _rows(services, kept, names)
    if rows:
        # One of them may have been retired a moment ago.
        services.recorder.wait_for_ends(DOMAINS, CATCH_UP_S)
        rows = _rows(services, kept, names)
    ids, there = list(names), {id_ for id_, retired in rows.items() if not retired}
    while any(rows.values()):
        ids = [uuid5(id_, "again") if rows.get(id_) else id_ for id_ in ids]
        rows = _rows(services, kept, [id_ for id_ in ids if id_ not in there])
        there |= {id_ for id_, retired in rows.items() if not retired}
    return ids, there


def _rows(services: Services, kept: Kept, ids: Sequence[UUID]) -> dict[UUID, bool]:
    """Those of the items that are known, and whether each is retired."""
    with postgres_trouble(), services.database.connect() as connection:
        rows = connection.execute(
            select(kept.ids, kept.table.c.retired_offset).where(kept.ids.in_([id_.hex for id_ in ids]))
        ).all()
    return {UUID(id_): retired is not None for id_, retired in rows}


def decision_of(said: str | None) -> str:
    """The id of what one person says of many items at once, by which it can be taken back (`api.decisions`): as the client calls
    it, or a new one. Raises ApiError."""
    if said is None:
        return f"{DECISION}{uuid4().hex}"
    if not said.startswith(DECISION):
        raise ApiError(400, f"decision must begin with {DECISION}", param="decision")
    return check_conversation(said, "decision")


def say_all(
    services: Services,
    events: Sequence[tuple[UUID, DomainEvent]],
    correlation_id: str,
    import_id: str | None,
    causes: Mapping[UUID, UUID] = {},
) -> str | None:
    """`import_id`: what may be retired again, should the log go away in between; `causes` as in `say`."""
    positions: list[Position] = []
    for start in range(0, len(events), APPENDED_AT_ONCE):
        try:
            some = events[start : start + APPENDED_AT_ONCE]
            positions += say(services, some, correlation_id, causes=causes, timeout_s=10)
        except Unavailable:
            if not positions:
                raise
            message = f"the log went away after {start} of {len(events)}; send the same again to go on"
            if import_id is not None:
                message += f", or retire the import {import_id}"
            raise ApiError(503, message, code="incomplete", retry_after_s=2) from None
    return str(positions[-1]) if positions else None


def retire_items(services: Services, domain: str, kept: Kept, said: Taken) -> dict[str, Any]:
    """Retire items of a domain. Doing it again changes nothing, and finishes what an earlier call did not."""
    if bool(said.items) == (said.import_id is not None):
        raise ApiError(400, "give either items or an import", param="items")
    if len(said.items) > MOST_ITEMS:
        raise ApiError(413, f"at most {MOST_ITEMS} items at once", param="items", code="too_many_items")
    if len(no_control_characters(said.reason, "reason")) > 200:
        raise ApiError(400, "reason must be at most 200 characters", param="reason")
    living_domain(services, domain)
    if not services.recorder.wait_for_ends(DOMAINS, CATCH_UP_S):
        raise Behind("what there is to retire is not known yet: the log is not followed at present")
    asked = said.items or _imported(services, domain, kept, said.import_id or "")
    table = kept.table.c
    with postgres_trouble(), services.database.connect() as connection:
        known = {
            id_: retired is not None
            for id_, retired in connection.execute(
                select(kept.ids, table.retired_offset).where(kept.ids.in_(asked), table.domain == domain)
            )
        }
    for number, id_ in enumerate(asked):
        if id_ not in known:
            raise ApiError(404, "there is no such item in the domain", param=f"items[{number}]", code="item_not_found")
    if not asked:
        raise ApiError(404, "nothing of that import is in the domain", param="import", code="import_not_found")
    reason = said.reason or ("retired by hand" if said.items else "its import was taken back")
    events = [retirement(kept, domain, id_, reason) for id_, retired in known.items() if not retired]
    decision = decision_of(None)
    return {
        "retired": len(events),
        "known": len(known) - len(events),
        "decision": decision,
        "position": say_all(services, events, decision, None),
    }


def retirement(kept: Kept, domain: str, id_: str, reason: str) -> tuple[UUID, DomainEvent]:
    """Said twice, it is one event."""
    retired = kept.retired(domain=domain, reason=reason, by=caller().person, **{kept.id: id_})
    return uuid5(_ITEMS, f"retire {domain} {id_}"), retired


def _imported(services: Services, domain: str, kept: Kept, import_id: str) -> list[str]:
    events = schema.events.c
    with postgres_trouble(), services.database.connect() as connection:
        found = connection.execute(
            select(events.event_id).where(
                events.correlation_id == import_id, events.domain == domain, events.type == kept.added
            )
        ).scalars()
        return [UUID(id_).hex for id_ in found]


def opened(services: Services, sealed: dict[str, Any]) -> str | None:
    """The words, or None where their key was destroyed."""
    try:
        with postgres_trouble():
            return sealing.open_sealed(msgspec.convert(sealed, Sealed), services.keyring)
    except Erased:
        return None


def page(
    connection: Connection, table: Table, place: Column[int], domain: str
) -> tuple[Sequence[Row[Any]], int | None]:
    """The domain's rows from the place that the request names on, at most as many as it asks for, and where the next page begins.
    Each is opened: a whole domain at once would hold the door up for minutes."""
    limit = whole_argument("limit", PAGE_ITEMS, 1, MOST_ITEMS)
    since = whole_argument("since", 0, 0, 2**63 - 1)
    asked = select(table).where(table.c.domain == domain, place >= since).order_by(place).limit(limit + 1)
    rows = connection.execute(asked).all()
    return rows[:limit], rows[limit]._mapping[place] if len(rows) > limit else None


def _export(services: Services, domain: str, with_origin: bool) -> dict[str, Any]:
    with postgres_trouble(), services.database.connect() as connection:
        rows, next_ = page(connection, schema.examples, schema.examples.c.accepted_offset, domain)
        earlier = history.before(connection, {row.follows for row in rows if row.retired_offset is None})
    found, erased, retired = [], 0, 0
    for row in rows:
        if row.retired_reason == "erased":
            erased += 1
            continue
        if row.retired_offset is not None:
            retired += 1
            continue
        try:
            with postgres_trouble():
                whole = earlier.whole(msgspec.convert(row.prompt, Sealed), row.follows)
                messages = history.open_whole(whole, services.keyring)
                answer = sealing.open_sealed(msgspec.convert(row.answer, Sealed), services.keyring)
        except Erased:
            erased += 1
            continue
        origin = {"example_id": row.example_id, "kind": row.kind} if with_origin else {}
        found.append(to_alpaca(messages, answer) | origin)
    return {"format": "alpaca", "data": found, "erased": erased, "retired": retired, "next": next_}
