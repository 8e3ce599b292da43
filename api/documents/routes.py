"""The documents of a domain over HTTP: brought as the bytes of a file, shown passage by passage, taken out again.

A document is entered passage by passage, and counts when its own event stands behind them: what breaks off in between has no
effect, and the same sent again goes on where it broke off.
"""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from flask import Blueprint, Response, request
from sqlalchemy import Row, select

from api.access import caller, needs
from api.datasets import opened, page
from api.documents.faults import Unreadable
from api.documents.reading import Reading, kind_of, read
from api.errors import ApiError
from api.known import domain_row, living_domain
from api.saying import say
from api.services import Services
from api.wire import no_control_characters, reply, whole_argument
from streams import schema, sealing
from streams.errors import Behind, Unavailable
from streams.events import DOMAINS, DomainEvent
from streams.facts.documents import DocumentAdded, DocumentRemoved, PassageAdded
from streams.passages import title_of
from streams.sealing import PersonKey, domain_subject
from streams.store import postgres_trouble

LARGE_BODIES = frozenset({"documents.add"})
NAME_CHARACTERS = 255
PAGE_PASSAGES, MOST_PASSAGES = 1000, 5000
APPENDED_AT_ONCE = 500
BEHIND_S = 60.0  # the projections may have a large document in work
T = TypeVar("T")
_DOCUMENTS = uuid5(NAMESPACE_URL, "urn:noria:document")


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("documents", __name__)

    @views.post("/v1/domains/<domain>/documents")
    @needs("data")
    def add(domain: str) -> Response:
        name = request.args.get("name", "")
        if not 1 <= len(name) <= NAME_CHARACTERS or name != name.strip():
            message = f"name must be the document's, of 1 to {NAME_CHARACTERS} characters, without blanks around it"
            raise ApiError(400, message, param="name")
        no_control_characters(name, "name")
        living_domain(services, domain)
        return reply(_add(services, domain, name, request.mimetype, request.get_data(cache=False)))

    @views.get("/v1/domains/<domain>/documents")
    @needs("data")
    def show_all(domain: str) -> Response:
        domain_row(services, domain)
        with postgres_trouble(), services.database.connect() as connection:
            rows, next_ = page(connection, schema.documents, schema.documents.c.added_offset, domain)
        in_force = [row for row in rows if row.retired_offset is None]
        found = [shown for row in in_force if (shown := _shown(services, row)) is not None]
        counts = {"erased": len(in_force) - len(found), "retired": len(rows) - len(in_force)}
        return reply({"data": found, **counts, "next": next_})

    @views.get("/v1/domains/<domain>/documents/<document_id>")
    @needs("data")
    def show(domain: str, document_id: str) -> Response:
        domain_row(services, domain)
        row = _row(services, domain, document_id)
        shown = _shown(services, row)
        if shown is None:
            raise ApiError(410, "the document was erased", param="document_id", code="erased")
        return reply(shown | _passages(services, document_id))

    @views.delete("/v1/domains/<domain>/documents/<document_id>")
    @needs("data")
    def remove(domain: str, document_id: str) -> Response:
        reason = no_control_characters(request.args.get("reason", ""), "reason") or "removed by hand"
        if len(reason) > 200:
            raise ApiError(400, "reason must be at most 200 characters", param="reason")
        living_domain(services, domain)
        _caught_up(services)
        gone = _row(services, domain, document_id).retired_offset is not None
        position = None
        if not gone:
            event = DocumentRemoved(domain=domain, document_id=document_id, reason=reason, by=caller().person)
            position = str(say(services, [(uuid5(UUID(document_id), "removed"), event)], document_id)[-1])
        return reply({"document_id": document_id, "known": gone, "position": position})

    return views


def _add(services: Services, domain: str, name: str, media_type: str, body: bytes) -> dict[str, Any]:
    """Enter a document, unless the same bytes stand under its name. Raises ApiError 422 naming it, where it cannot be read."""
    kind = _readable(name, lambda: kind_of(name, media_type))
    with postgres_trouble():
        key = services.keyring.key_for(domain_subject(domain))
        name_digest = _digest(services, "name", domain, name)
        content_digest = _digest(services, "content", domain, name, kind, body)
    _caught_up(services)
    before = _in_force(services, domain, name_digest)
    if before is not None and before.content_digest == content_digest and before.title["kid"] == key.kid:
        return _answer(before.document_id, name, before.passages, known=True)
    reading = _readable(name, lambda: read(kind, body))
    # Where the same file is cut otherwise, by other code, it is another document: passages that an entering which broke off
    # left behind are never taken for its own.
    cut = msgspec.json.encode([(one.place, one.start, one.end) for one in reading.passages])
    with postgres_trouble():
        id_ = _new_id(
            services, uuid5(_DOCUMENTS, _digest(services, "document", name_digest, content_digest, key.kid, cut))
        )
    _enter(services, domain, key, id_, reading)
    title = msgspec.json.encode({"name": name, "title": title_of(reading.text, name)}).decode()
    event = DocumentAdded(
        domain=domain,
        document_id=id_.hex,
        title=sealing.seal(title, key, f"{id_}#title"),
        name_digest=name_digest,
        content_digest=content_digest,
        passages=len(reading.passages),
        by=caller().person,
    )
    position = say(services, [(id_, event)], id_.hex, timeout_s=10)[-1]
    replaces = before.document_id if before is not None else None
    return _answer(id_.hex, name, len(reading.passages), replaces=replaces, position=str(position))


def _readable(name: str, step: Callable[[], T]) -> T:
    """What the step gives. Raises ApiError naming the document, where it cannot be read."""
    try:
        return step()
    except Unreadable as error:
        raise ApiError(422, f"{name}: {error}", param="name", code=f"document_{error.code}") from None


def _answer(document_id: str, name: str, passages: int, **more: Any) -> dict[str, Any]:
    """`known`: it stood there, and nothing was recorded. `replaces`: the version before it."""
    empty = {"known": False, "replaces": None, "position": None}
    return {"document_id": document_id, "name": name, "passages": passages} | empty | more


def _enter(services: Services, domain: str, key: PersonKey, id_: UUID, reading: Reading) -> None:
    """Append the passages. They are sealed as they go: those of a large document are many megabytes."""
    total = len(reading.passages)
    for start in range(0, total, APPENDED_AT_ONCE):
        batch: list[tuple[UUID, DomainEvent]] = []
        for one in reading.passages[start : start + APPENDED_AT_ONCE]:
            passage_id = uuid5(id_, f"passage {one.ordinal}")
            words = {"place": one.place, "text": one.text, "start": one.start, "end": one.end}
            sealed = sealing.seal(msgspec.json.encode(words).decode(), key, f"{passage_id}#passage")
            event = PassageAdded(
                domain=domain, document_id=id_.hex, passage_id=passage_id.hex, number=one.ordinal, passage=sealed
            )
            batch.append((passage_id, event))
        try:
            say(services, batch, id_.hex, timeout_s=10)
        except Unavailable:
            if not start:
                raise
            message = f"the log went away after {start} of {total} passages, none of which counts; send the same again to go on"
            raise ApiError(503, message, code="incomplete", retry_after_s=2) from None


def _new_id(services: Services, id_: UUID) -> UUID:
    """The id of a document with that content: another where it was in force before, and is not any more."""
    with postgres_trouble(), services.database.connect() as connection:
        ids = schema.documents.c.document_id
        while connection.execute(select(ids).where(ids == id_.hex)).first() is not None:
            id_ = uuid5(id_, "again")
    return id_


def _in_force(services: Services, domain: str, name_digest: str) -> Row[Any] | None:
    table = schema.documents.c
    asked = select(schema.documents).where(
        table.domain == domain, table.name_digest == name_digest, table.retired_offset.is_(None)
    )
    with postgres_trouble(), services.database.connect() as connection:
        return connection.execute(asked).one_or_none()


def _row(services: Services, domain: str, document_id: str) -> Row[Any]:
    table = schema.documents.c
    asked = select(schema.documents).where(table.domain == domain, table.document_id == document_id)
    with postgres_trouble(), services.database.connect() as connection:
        row = connection.execute(asked).one_or_none()
    if row is None:
        raise ApiError(404, "there is no such document in the domain", param="document_id", code="document_not_found")
    return row


def _shown(services: Services, row: Row[Any]) -> dict[str, Any] | None:
    """A document as the door tells of it; None where its words were erased."""
    words = opened(services, row.title)
    if words is None:
        return None
    return {
        "document_id": row.document_id,
        **msgspec.json.decode(words),
        "passages": row.passages,
        "added_at": row.added_at,
        "by": row.by,
        "retired": row.retired_reason,
    }


def _passages(services: Services, document_id: str) -> dict[str, Any]:
    """The document's passages from the number on that the request names, at most as many as it asks for, and where the next page
    begins."""
    limit = whole_argument("limit", PAGE_PASSAGES, 1, MOST_PASSAGES)
    since = whole_argument("since", 0, 0, 2**31 - 1)
    table = schema.passages.c
    asked = select(schema.passages).where(table.document_id == document_id, table.number >= since)
    with postgres_trouble(), services.database.connect() as connection:
        rows = connection.execute(asked.order_by(table.number).limit(limit + 1)).all()
    found = []
    for row in rows[:limit]:
        words = opened(services, row.passage)
        if words is not None:
            found.append({"passage_id": row.passage_id, "number": row.number, **msgspec.json.decode(words)})
    return {"data": found, "next": rows[limit].number if len(rows) > limit else None}


def _caught_up(services: Services) -> None:
    if not services.recorder.wait_for_ends(DOMAINS, BEHIND_S):
        raise Behind(
            "which documents there are is not known yet: the log is not followed at present, or has much to catch up"
        )


def _digest(services: Services, *parts: str | bytes) -> str:
    """Of words that are the domain's, by a key of Noria's own. Parts are told apart by their lengths."""
    raw = [part.encode() if isinstance(part, str) else part for part in parts]
    return sealing.common_digest(b"".join(b"%d:" % len(part) + part for part in raw), services.keyring)
