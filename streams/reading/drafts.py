"""Drafts beside each other: the answers that a domain gave to one prompt, and what people wrote in their place."""

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from streams.sealed import Sealed


class Drafts(Struct, frozen=True):
    """`answers`: those of the releases, in their order; `accepted`: the corrections of them that are in force."""

    prompt_id: str
    person: str
    messages: Sealed
    follows: str | None
    answers: tuple[Sealed, ...]
    accepted: tuple[Sealed, ...]


def newest_drafts(connection: Connection, domain: str, most: int) -> list[Drafts]:
    """Of so many prompts that have at least two answers, the newest first."""
    rows = connection.execute(
        text(
            "SELECT p.prompt_id, p.person, p.messages, p.follows,"
            " coalesce(r.answers, '[]') AS answers, coalesce(e.accepted, '[]') AS accepted"
            " FROM noria.prompts p"
            " LEFT JOIN LATERAL (SELECT jsonb_agg(text ORDER BY index, reply_id) AS answers FROM noria.replies"
            " WHERE prompt_id = p.prompt_id) r ON true"
            " LEFT JOIN LATERAL (SELECT jsonb_agg(answer ORDER BY example_id) AS accepted FROM noria.examples"
            " WHERE domain = p.domain AND prompt_id = p.prompt_id AND retired_offset IS NULL) e ON true"
            " WHERE p.domain = :domain AND coalesce(jsonb_array_length(r.answers), 0)"
            " + coalesce(jsonb_array_length(e.accepted), 0) > 1"
            " ORDER BY p.asked_at DESC, p.prompt_id LIMIT :most"
        ),
        {"domain": domain, "most": most},
    )
    return [msgspec.convert(dict(row), Drafts) for row in rows.mappings()]
