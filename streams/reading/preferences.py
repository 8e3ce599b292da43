"""What people said of a domain's answers: every pick, order, rating and correction that stood on the log before a cut of it.

A cut is the next offset of each partition of `noria.conversations`: the same feedback lies before it whenever it is read. What was
retired of it since stands on the domain's own partition, and is read by the pin as examples are.
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from streams.events import CONVERSATIONS
from streams.facts.conversations import REPLACED, example_of
from streams.facts.examples import RankingSource
from streams.reading.learning import IN_FORCE
from streams.sealed import Sealed

Cut = Mapping[str, int]
"""By partition (in decimal, as JSON has it), the offset before which it lies."""


class Feedback(Struct, frozen=True):
    """`kind`: pick, ranking, rating or correction; the fields of another kind are None."""

    event_id: str
    kind: str
    reply_id: str
    prompt_id: str
    person: str
    rating: int | None
    scale: str | None
    text: Sealed | None
    ranking: tuple[tuple[str, ...], ...] | None
    given_at: datetime


class Draft(Struct, frozen=True):
    reply_id: str
    prompt_id: str
    release: int
    text: Sealed


class Prompt(Struct, frozen=True):
    prompt_id: str
    messages: Sealed
    follows: str | None


class Brought(Struct, frozen=True):
    """A ranking that a data team brought, or the style guide's; of one answer alone whether it is `good`."""

    ranking_id: str
    person: str
    prompt: Sealed
    answers: tuple[Sealed, ...]
    tiers: tuple[tuple[int, ...], ...]
    good: bool | None
    said_at: datetime
    source: RankingSource


class SaidOfAnswers(Struct, frozen=True):
    """By prompt, what it was, its drafts in their order, and what was said of them in the order of its place on the log. `retired`:
    the corrections among these, by event, that were retired by hand; `brought`: what is in force of what data teams brought."""

    prompts: Mapping[str, Prompt]
    drafts: Mapping[str, list[Draft]]
    feedback: Mapping[str, list[Feedback]]
    retired: frozenset[str]
    brought: tuple[Brought, ...] = ()


def cut_now(connection: Connection) -> dict[str, int]:
    """Where the projections stand."""
    rows = connection.execute(
        text('SELECT "partition", next_offset FROM noria.positions WHERE topic = :topic ORDER BY "partition"'),
        {"topic": CONVERSATIONS},
    )
    return {str(row.partition): row.next_offset for row in rows}


def cut_of_round(connection: Connection, round_id: str) -> dict[str, int] | None:
    """That by which a round's snapshot was selected; None while there is none, or if it has no pairs."""
    found = connection.execute(
        text("SELECT read FROM noria.rounds WHERE round_id = :round_id"), {"round_id": round_id}
    ).scalar_one_or_none()
    return None if found is None else msgspec.convert(found, dict[str, int])


def said_of_answers(connection: Connection, domain: str, cut: Cut, pin: int | None) -> SaidOfAnswers:
    """`pin`: None reads what is retired now."""
    where = {
        "domain": domain,
        "topic": CONVERSATIONS,
        "partitions": [int(partition) for partition in cut],
        "ends": list(cut.values()),
    }
    rows = connection.execute(
        text(
            "SELECT f.event_id, f.kind, f.reply_id, f.prompt_id, f.person, f.rating, f.scale, f.text, f.ranking, f.given_at"
            " FROM noria.feedback f JOIN noria.events e ON e.event_id = f.event_id"
            ' JOIN unnest(cast(:partitions AS int[]), cast(:ends AS bigint[])) c ("partition", ends)'
            ' ON c."partition" = e."partition" AND e."offset" < c.ends'
            " WHERE f.domain = :domain AND f.kind IN ('pick', 'ranking', 'rating', 'correction') AND e.topic = :topic"
            ' ORDER BY e."partition", e."offset"'
        ),
        where,
    )
    feedback: dict[str, list[Feedback]] = {}
    for row in rows.mappings():
        one = msgspec.convert(dict(row), Feedback)
        feedback.setdefault(one.prompt_id, []).append(one)
    about = {"prompts": sorted(feedback)}
    prompts = connection.execute(
        text("SELECT prompt_id, messages, follows FROM noria.prompts WHERE prompt_id = ANY(:prompts)"), about
    )
    found = {row["prompt_id"]: msgspec.convert(dict(row), Prompt) for row in prompts.mappings()}
    drafts: dict[str, list[Draft]] = {}
    replies = connection.execute(
        text(
            "SELECT reply_id, prompt_id, release, text FROM noria.replies WHERE prompt_id = ANY(:prompts)"
            " ORDER BY prompt_id, index, reply_id"
        ),
        about,
    )
    for row in replies.mappings():
        drafts.setdefault(row["prompt_id"], []).append(msgspec.convert(dict(row), Draft))
    retired = _retired(connection, domain, feedback, pin)
    return SaidOfAnswers(found, drafts, feedback, retired, _brought(connection, domain, pin))


def _brought(connection: Connection, domain: str, pin: int | None) -> tuple[Brought, ...]:
    rows = connection.execute(
        text(
            "SELECT ranking_id, person, prompt, answers, tiers, good, said_at, source FROM noria.rankings WHERE domain = :domain"
            f"{IN_FORCE.format(added='accepted_offset')} AND retired_reason IS DISTINCT FROM 'erased'"
            " ORDER BY accepted_offset"
        ),
        {"domain": domain, "pin": pin},
    )
    return tuple(msgspec.convert(dict(row), Brought) for row in rows.mappings())


def _retired(
    connection: Connection, domain: str, feedback: Mapping[str, list[Feedback]], pin: int | None
) -> frozenset[str]:
    examples = {
        example_of(UUID(one.event_id)): one.event_id
        for said in feedback.values()
        for one in said
        if one.kind == "correction"
    }
    gone = connection.execute(
        text(
            "SELECT example_id FROM noria.examples WHERE domain = :domain"
            " AND retired_offset IS NOT NULL AND retired_offset < coalesce(cast(:pin AS bigint), retired_offset + 1)"
            " AND retired_reason NOT IN (:replaced, 'erased')"
        ),
        {"domain": domain, "pin": pin, "replaced": REPLACED},
    ).scalars()
    return frozenset(examples[example_id] for example_id in gone if example_id in examples)
