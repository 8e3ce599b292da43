"""What a domain's memory is made of, as it stands now, and what changed since a position: read from the projections.

A memory follows by asking again: which rows were added or retired at or after a position. Whatever was changed behind it (a key
that was parked and taken up, tables that were put back) it finds by comparing ids, now and then (`standing_ids`).
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from streams.events import CONVERSATIONS, DOMAINS
from streams.reading.learning import IN_FORCE
from streams.recalled import Recall
from streams.sealed import Sealed

Place = tuple[str, int]  # topic and partition
_POLICIES = frozenset({"domain_created", "domain_retired", "policy_set"})
_MEMORIES = frozenset({"example_accepted", "example_retired", "person_erased", "document_added", "document_removed"})


class Corrected(Struct, frozen=True):
    """A correction: who said it of which prompt, and when."""

    example_id: str
    person: str
    prompt: Sealed
    answer: Sealed
    said_at: datetime
    accepted_offset: int


class Passage(Struct, frozen=True):
    passage_id: str
    number: int
    passage: Sealed


class Changes(Struct, frozen=True):
    """`domains`: whose examples or documents changed, with the offset from which on; `conversations`: where a reply was rated."""

    reached: Mapping[Place, int]
    policies: bool
    domains: Mapping[str, int]
    conversations: frozenset[str]


def recalling(connection: Connection) -> dict[str, Recall]:
    """The domains whose policy recalls anything."""
    rows = connection.execute(
        text("SELECT domain, policy -> 'recall' AS recall FROM noria.domains WHERE retired_at IS NULL")
    )
    found = {row.domain: msgspec.convert(row.recall or {}, Recall) for row in rows}
    return {domain: recall for domain, recall in found.items() if recall.kinds}


def recall_of(connection: Connection, domain: str) -> Recall:
    """Of its policy, as it is now."""
    found = text("SELECT policy -> 'recall' FROM noria.domains WHERE domain = :domain")
    return msgspec.convert(connection.execute(found, {"domain": domain}).scalar() or {}, Recall)


def changes(connection: Connection, reached: Mapping[Place, int]) -> Changes:
    """What happened since these positions, of all that a memory is made of. One transaction must see it all."""
    rows = connection.execute(text("SELECT topic, partition, next_offset FROM noria.positions"))
    now = {(row.topic, row.partition): int(row.next_offset) for row in rows}
    policies, domains, conversations = False, dict[str, int](), set[str]()
    for (topic, partition), end in now.items():
        start = reached.get((topic, partition), 0)
        if start >= end or topic not in (CONVERSATIONS, DOMAINS):
            continue
        found = connection.execute(
            text(
                'SELECT type, domain, key, min("offset") AS first FROM noria.events'
                ' WHERE topic = :topic AND partition = :partition AND "offset" >= :start AND "offset" < :end'
                " AND type = ANY(:types) GROUP BY type, domain, key"
            ),
            {
                "topic": topic,
                "partition": partition,
                "start": start,
                "end": end,
                "types": ["reply_rated"] if topic == CONVERSATIONS else sorted(_POLICIES | _MEMORIES),
            },
        )
        for row in found:
            if topic == CONVERSATIONS:
                conversations.add(row.key)
            elif row.type in _POLICIES:
                policies = True
            else:
                domains[row.domain] = min(row.first, domains.get(row.domain, row.first))
    return Changes(now, policies, domains, frozenset(conversations))


def positions(connection: Connection) -> dict[Place, int]:
    rows = connection.execute(text("SELECT topic, partition, next_offset FROM noria.positions"))
    return {(row.topic, row.partition): int(row.next_offset) for row in rows}


def standing_ids(connection: Connection, domain: str) -> set[str]:
    """Of the corrections in force."""
    rows = connection.execute(
        text("SELECT example_id FROM noria.examples WHERE domain = :domain AND retired_offset IS NULL"),
        {"domain": domain},
    )
    return set(rows.scalars())


def documents_in_force(connection: Connection, domain: str) -> dict[str, Sealed]:
    """By document its title, in the order in which they were added."""
    rows = connection.execute(
        text(
            "SELECT document_id, title FROM noria.documents WHERE domain = :domain AND retired_offset IS NULL"
            " ORDER BY added_offset"
        ),
        {"domain": domain},
    )
    return {row.document_id: msgspec.convert(row.title, Sealed) for row in rows}


def corrections_changed(connection: Connection, domain: str, since: int) -> set[str]:
    """The ids of the examples that were accepted or retired at or after that offset."""
    rows = connection.execute(
        text(
            "SELECT example_id FROM noria.examples WHERE domain = :domain AND accepted_offset >= :since UNION"
            " SELECT example_id FROM noria.examples WHERE domain = :domain AND retired_offset >= :since"
        ),
        {"domain": domain, "since": since},
    )
    return set(rows.scalars())


def corrections_of(connection: Connection, conversations: Collection[str]) -> dict[str, set[str]]:
    """By domain: the examples that were corrected in these conversations."""
    rows = connection.execute(
        text(
            "SELECT e.domain, e.example_id FROM noria.prompts p JOIN noria.examples e ON e.prompt_id = p.prompt_id"
            " WHERE p.conversation_id = ANY(:conversations) AND e.retired_offset IS NULL"
        ),
        {"conversations": sorted(conversations)},
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.domain, set()).add(row.example_id)
    return found


def corrected(connection: Connection, domain: str, example_ids: Sequence[str]) -> list[Corrected]:
    """Those of the examples that stand, in the order in which they were accepted."""
    rows = connection.execute(
        text(
            "SELECT example_id, person, prompt, answer, said_at, accepted_offset FROM noria.examples"
            " WHERE domain = :domain AND example_id = ANY(:ids) AND retired_offset IS NULL ORDER BY accepted_offset"
        ),
        {"domain": domain, "ids": list(example_ids)},
    )
    return [msgspec.convert(dict(row), Corrected) for row in rows.mappings()]


def passages_of(connection: Connection, document_id: str, start: int, most: int) -> list[Passage]:
    """The next passages of a document from the `start`th on."""
    rows = connection.execute(
        text(
            "SELECT passage_id, number, passage FROM noria.passages WHERE document_id = :document_id"
            " AND number >= :start ORDER BY number LIMIT :most"
        ),
        {"document_id": document_id, "start": start, "most": most},
    )
    return [msgspec.convert(dict(row), Passage) for row in rows.mappings()]


class Correction(Struct, frozen=True):
    """A correction as it may be recalled."""

    example_id: str
    prompt: Sealed
    answer: Sealed
    said_at: datetime


class PassageOf(Struct, frozen=True):
    """A passage with the title of its document."""

    passage_id: str
    document_id: str
    number: int
    passage: Sealed
    title: Sealed


def corrections_in_force(
    connection: Connection, domain: str, example_ids: Sequence[str], within_s: float | None = None
) -> list[Correction]:
    """Those of the examples that stand now, in no order. `within_s`: how long the server may take."""
    rows = connection.execute(
        text(
            f"{_within(within_s)}SELECT example_id, prompt, answer, said_at FROM noria.examples"
            " WHERE domain = :domain AND example_id = ANY(:ids) AND retired_offset IS NULL"
        ),
        {"domain": domain, "ids": list(example_ids)},
    )
    return [msgspec.convert(dict(row), Correction) for row in rows.mappings()]


def passages_in_force(
    connection: Connection, domain: str, passage_ids: Sequence[str], within_s: float | None = None
) -> list[PassageOf]:
    """Those of the passages whose document stands now, in no order. `within_s`: how long the server may take."""
    rows = connection.execute(
        text(
            f"{_within(within_s)}SELECT p.passage_id, p.document_id, p.number, p.passage, d.title FROM noria.passages p"
            " JOIN noria.documents d ON d.document_id = p.document_id"
            " WHERE p.domain = :domain AND p.passage_id = ANY(:ids) AND d.retired_offset IS NULL"
        ),
        {"domain": domain, "ids": list(passage_ids)},
    )
    return [msgspec.convert(dict(row), PassageOf) for row in rows.mappings()]


def _within(seconds: float | None) -> str:
    """Goes with the query that it holds for: a way to the server and back of its own takes as long as that."""
    return "" if seconds is None else f"SET LOCAL statement_timeout = '{int(seconds * 1000)}ms'; "


def passages_as_of(connection: Connection, domain: str, pin: int | None) -> list[PassageOf]:
    """The passages of the documents in force, in the order of the documents. `pin`: None reads what stands now."""
    rows = connection.execute(
        text(
            "SELECT p.passage_id, p.document_id, p.number, p.passage, d.title FROM noria.documents d"
            " JOIN noria.passages p ON p.document_id = d.document_id"
            f" WHERE d.domain = :domain{IN_FORCE.format(added='d.added_offset')}"
            " ORDER BY d.added_offset, d.document_id, p.number"
        ),
        {"domain": domain, "pin": pin},
    )
    return [msgspec.convert(dict(row), PassageOf) for row in rows.mappings()]
