"""Documents: what a domain's own texts say, passage by passage. They are recalled, and training material is built from them.

A document counts from its own event on, which stands behind those of its passages: one that was broken off while it was entered
leaves passages that nobody reads. A new version takes the place of the one before it, by name.
"""

from typing import assert_never

from msgspec import Struct

from streams.envelope import Number, Recorded
from streams.sealed import Sealed
from streams.tables import bigint, digest, index, integer, jsonb, projection, text, timestamptz
from streams.writes import Insert, Retire, Write, columns

REPLACED = "replaced by a newer version"


class PassageAdded(Struct, frozen=True, kw_only=True):
    """One passage of a document, the `number`th from 0. `passage` opens to {"place", "text", "start", "end"}: the article or
    heading that it stands under, and its offsets in the document's text. Sealed with the domain's key."""

    domain: str
    document_id: str
    passage_id: str
    number: Number
    passage: Sealed


class DocumentAdded(Struct, frozen=True, kw_only=True):
    """A document of `passages` passages, which stand before it, is in force. `title` opens to {"name", "title"}; `name_digest`
    tells versions of one document, `content_digest` equal ones, both under a key of Noria's own."""

    domain: str
    document_id: str
    title: Sealed
    name_digest: str
    content_digest: str
    passages: Number
    by: str


class DocumentRemoved(Struct, frozen=True, kw_only=True):
    """No later round learns from it, and nobody recalls it; a round in flight has what its pin holds."""

    domain: str
    document_id: str
    reason: str
    by: str


DocumentEvent = PassageAdded | DocumentAdded | DocumentRemoved

documents = projection(
    "documents",
    text("document_id", key=True),
    text("domain"),
    jsonb("title"),  # Sealed
    digest("name_digest"),
    digest("content_digest"),
    integer("passages"),
    text("by"),
    timestamptz("added_at"),
    bigint("added_offset"),
    bigint("retired_offset", nullable=True),
    text("retired_reason", nullable=True),
    index("domain", "added_offset"),
    index("domain", "retired_offset", where="retired_offset IS NOT NULL"),
    index("domain", "name_digest"),
)
passages = projection(
    "passages",
    text("passage_id", key=True),
    text("document_id"),
    text("domain"),
    integer("number"),
    jsonb("passage"),  # Sealed
    bigint("added_offset"),
    index("document_id", "number"),
)


def rows(recorded: Recorded, event: DocumentEvent) -> list[Write]:
    match event:
        case PassageAdded():
            row = columns(event, "passage_id", "document_id", "domain", "number", "passage")
            return [Insert("passages", row | {"added_offset": recorded.offset})]
        case DocumentAdded():
            names = ("document_id", "domain", "title", "name_digest", "content_digest", "passages", "by")
            standing = {"added_at": recorded.envelope.time, "added_offset": recorded.offset}
            more = {"retired_offset": None, "retired_reason": None}
            before = {"domain": event.domain, "name_digest": event.name_digest}
            return [
                Retire("documents", before, recorded.offset, REPLACED),
                Insert("documents", columns(event, *names) | standing | more),
            ]
        case DocumentRemoved():
            where = {"domain": event.domain, "document_id": event.document_id}
            return [Retire("documents", where, recorded.offset, event.reason)]
        case _:
            assert_never(event)
