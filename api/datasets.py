"""What a data team brings and takes: exam items, and training examples in the Alpaca shape."""

from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from flask import Blueprint, Response, request
from msgspec import Struct
from sqlalchemy import Column, select

from api.access import caller, needs
from api.domains import domain_row
from api.errors import ApiError
from api.items import Example, ItemFault, Question, Read, counted, read_example, read_question
from api.services import SOURCE, Services, domain_subject, person_subject
from api.wire import check_person, read_json, reply, typed
from streams import schema, sealing
from streams.codec import envelope_for
from streams.errors import Erased
from streams.events import Envelope, ExamItemAdded, ExamKind, ExampleAccepted
from streams.sealed import Sealed
from streams.store import postgres_trouble

MOST_ITEMS = 5000
LARGE_BODIES = frozenset({"datasets.add_exam", "datasets.import_examples"})
T = TypeVar("T")
_ITEMS = uuid5(NAMESPACE_URL, "urn:noria:dataset-item")


class _Kind(Struct):
    kind: ExamKind


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("datasets", __name__)

    @views.post("/v1/domains/<domain>/exam")
    @needs("data")
    def add_exam(domain: str) -> Response:
        raws = _items()
        kinds = [said.kind for said in typed(raws, list[_Kind])]
        questions, aside = _read_all(raws, read_question, known={"kind"})
        domain_row(services, domain)
        events = _exam_events(services, domain, kinds, questions)
        return reply(_add(services, schema.exam_items.c.item_id, events) | {"set_aside": aside})

    @views.get("/v1/domains/<domain>/exam")
    @needs("data")
    def show_exam(domain: str) -> Response:
        domain_row(services, domain)
        table = schema.exam_items
        with postgres_trouble(), services.engine.connect() as connection:
            rows = connection.execute(
                select(table).where(table.c.domain == domain).order_by(table.c.added_offset)
            ).all()
        found = []
        for row in rows:
            opened = _open(services, row.item)
            if opened is not None:
                found.append({"item_id": row.item_id, "kind": row.kind, **msgspec.json.decode(opened)})
        return reply({"data": found, "erased": len(rows) - len(found)})

    @views.post("/v1/domains/<domain>/examples")
    @needs("data")
    def import_examples(domain: str) -> Response:
        person = caller().person
        if "user" in request.args:
            person = check_person(request.args["user"])
        examples, aside = _read_all(_items(), read_example)
        domain_row(services, domain)
        events = _example_events(services, domain, person, examples)
        return reply(_add(services, schema.examples.c.example_id, events) | {"set_aside": aside})

    @views.get("/v1/domains/<domain>/examples")
    @needs("data")
    def export_examples(domain: str) -> Response:
        if request.args.get("format", "alpaca") != "alpaca":
            raise ApiError(400, "format must be alpaca", param="format")
        domain_row(services, domain)
        return reply(_export(services, domain))

    return views


def _items() -> list[Any]:
    body = read_json()
    if not isinstance(body, list) or not body:
        raise ApiError(400, "the body must be a JSON list with at least one item")
    if len(body) > MOST_ITEMS:
        raise ApiError(413, f"at most {MOST_ITEMS} items at once", code="too_many_items")
    return body


def _read_all(
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


def _identified(services: Services, *parts: str) -> UUID:
    """The id of an item, from its content by keyed digest: adding the same again is the same event."""
    with postgres_trouble():
        return uuid5(_ITEMS, sealing.digest(msgspec.json.encode(parts), services.keyring))


def _exam_events(services: Services, domain: str, kinds: list[ExamKind], items: list[Question]) -> dict[str, Envelope]:
    at, by = datetime.now(UTC), caller().person
    with postgres_trouble():
        key = services.keyring.key_for(domain_subject(domain))
    found = {}
    for kind, item in zip(kinds, items, strict=True):
        content = {"question": item.question, "answer": item.answer, "keys": item.keys or [item.answer]}
        words = msgspec.json.encode(content).decode()
        id_ = _identified(services, "exam", domain, kind, words)
        event = ExamItemAdded(
            domain=domain,
            item_id=id_.hex,
            kind=kind,
            item=sealing.seal(words, key, f"{id_}#item"),
            by=by,
        )
        found[id_.hex] = envelope_for(event, id=id_, source=SOURCE, time=at, correlation_id=domain)
    return found


def _example_events(services: Services, domain: str, person: str, items: list[Example]) -> dict[str, Envelope]:
    at = datetime.now(UTC)
    with postgres_trouble():
        key = services.keyring.key_for(person_subject(person))
    found = {}
    for item in items:
        prompt = msgspec.json.encode(alpaca_messages(item)).decode()
        # The key is part of the name: what comes again after an erasure is new.
        id_ = _identified(services, "example", domain, key.kid, prompt, item.output)
        event = ExampleAccepted(
            domain=domain,
            example_id=id_.hex,
            kind="annotation",
            person=person,
            prompt=sealing.seal(prompt, key, f"{id_}#prompt"),
            answer=sealing.seal(item.output, key, f"{id_}#answer"),
            said_at=at,
        )
        found[id_.hex] = envelope_for(event, id=id_, source=SOURCE, time=at, correlation_id=domain)
    return found


def alpaca_messages(item: Example) -> list[dict[str, str]]:
    """The messages up to and with the prompt. Instruction and input become one prompt, the input on its own line."""
    found = [{"role": "system", "content": item.system}] if item.system.strip() else []
    for asked, answered in item.history:
        found += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    prompt = "\n".join(words for words in (item.instruction, item.input) if words.strip())
    return [*found, {"role": "user", "content": prompt}]


def to_alpaca(messages: list[dict[str, str]], answer: str) -> dict[str, Any]:
    """The way back; what was instruction and input comes back as instruction."""
    system = "\n".join(m["content"] for m in messages if m["role"] == "system")
    history: list[list[str]] = []
    for message in [m for m in messages[:-1] if m["role"] != "system"]:
        if message["role"] == "user":
            history.append([message["content"], ""])
        elif history:
            history[-1][1] = message["content"]
    return {
        "instruction": messages[-1]["content"],
        "input": "",
        "output": answer,
        "system": system,
        "history": history,
    }


def _add(services: Services, id_column: Column[str], events: dict[str, Envelope]) -> dict[str, Any]:
    """Append what is not there yet."""
    with postgres_trouble(), services.engine.connect() as connection:
        there = set(connection.execute(select(id_column).where(id_column.in_(list(events)))).scalars())
    new = [envelope for id_, envelope in events.items() if id_ not in there]
    positions = []
    for start in range(0, len(new), 200):
        positions += services.recorder.append(new[start : start + 200], timeout_s=10)
    return {
        "added": len(new),
        "known": len(there),
        "ids": list(events),
        "position": str(positions[-1]) if positions else None,
    }


def _open(services: Services, sealed: dict[str, Any]) -> str | None:
    try:
        with postgres_trouble():
            return sealing.open_sealed(msgspec.convert(sealed, Sealed), services.keyring)
    except Erased:
        return None


def _export(services: Services, domain: str) -> dict[str, Any]:
    table = schema.examples
    with postgres_trouble(), services.engine.connect() as connection:
        rows = connection.execute(select(table).where(table.c.domain == domain).order_by(table.c.accepted_offset)).all()
    found, erased, retired = [], 0, 0
    for row in rows:
        if row.retired_reason == "erased":
            erased += 1
            continue
        if row.retired_offset is not None:
            retired += 1
            continue
        prompt, answer = _open(services, row.prompt), _open(services, row.answer)
        if prompt is None or answer is None:
            erased += 1
            continue
        found.append(to_alpaca(msgspec.json.decode(prompt), answer))
    return {"format": "alpaca", "data": found, "erased": erased, "retired": retired}
