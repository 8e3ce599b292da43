"""What may be learned, asked and recalled of a domain, now or as of a position of its log (a pin: what stood before it, and no
more).

Whoever works for a round reads by its pin, so that what was selected, examined or learned is the same whenever it is asked.
What a release has learned are the examples of the rounds on its own line (its round, that of the release it was trained from, and
so on down to the first release), and of no other: after a rollback, what the releases above have learned is not learned.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from streams.facts.examples import ExampleKind
from streams.sealed import Sealed


class Made(Struct, frozen=True):
    """A round that was to make `release` out of `base_release`; None while, or if, its candidate has not passed the gate."""

    domain: str
    round_id: str
    base_release: int
    release: int | None


class Lines:
    """The lines of the releases of some domains."""

    def __init__(self, rounds: Iterable[Made]) -> None:
        self._made: dict[tuple[str, int], Made] = {
            (made.domain, made.release): made for made in rounds if made.release is not None
        }

    def of(self, domain: str, release: int | None) -> tuple[str, ...]:
        """The rounds whose examples `release` has learned, the newest first."""
        found: list[str] = []
        while release is not None and (made := self._made.get((domain, release))) and made.round_id not in found:
            found.append(made.round_id)
            release = made.base_release
        return tuple(found)


def lines(connection: Connection, domains: Sequence[str]) -> Lines:
    rows = connection.execute(
        text("SELECT domain, round_id, base_release, release FROM noria.rounds WHERE domain = ANY(:domains)"),
        {"domains": list(domains)},
    )
    return Lines(Made(row.domain, row.round_id, row.base_release, row.release) for row in rows)


def live_releases(connection: Connection, domains: Sequence[str]) -> Mapping[str, int | None]:
    """By domain: the release that the log names as the one that answers; of one that it does not know, nothing."""
    rows = connection.execute(
        text("SELECT domain, live_release FROM noria.domains WHERE domain = ANY(:domains)"), {"domains": list(domains)}
    )
    return {row.domain: row.live_release for row in rows}


def live_lines(connection: Connection, domains: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """By domain: the line of the release that answers."""
    found = lines(connection, domains)
    return {domain: found.of(domain, release) for domain, release in live_releases(connection, domains).items()}


def line_of_round(connection: Connection, domain: str, round_id: str) -> tuple[str, ...]:
    """The line of the release that a round starts from."""
    base = connection.execute(
        text("SELECT base_release FROM noria.rounds WHERE round_id = :round_id"), {"round_id": round_id}
    ).scalar_one()
    return lines(connection, [domain]).of(domain, base)


def taught_by(connection: Connection, line: Sequence[str]) -> dict[str, str]:
    """By example that was learned on a line: its newest round that taught it."""
    rows = connection.execute(
        text("SELECT example_id, round_id FROM noria.learned WHERE round_id = ANY(:line)"), {"line": list(line)}
    )
    found: dict[str, str] = {}
    for row in rows:
        known = found.get(row.example_id)
        if known is None or line.index(row.round_id) < line.index(known):
            found[row.example_id] = row.round_id
    return found


class Example(Struct, frozen=True):
    """`learned`: on the line that was asked about; `generated`: a builder proposed it; `confirmed`: and an annotator looked at it
    again since it was accepted, and found it good."""

    example_id: str
    person: str
    prompt: Sealed
    follows: str | None
    answer: Sealed
    said_at: datetime
    accepted_offset: int
    learned: bool
    kind: ExampleKind = "correction"
    generated: bool = False
    confirmed: bool = False


IN_FORCE = (
    " AND {added} < coalesce(cast(:pin AS bigint), {added} + 1)"
    " AND (retired_offset IS NULL OR retired_offset >= cast(:pin AS bigint))"
)


def examples_as_of(connection: Connection, domain: str, pin: int | None, line: Sequence[str]) -> list[Example]:
    """The examples in force, in the order in which they were accepted; without those of whoever was erased since. `pin`: None reads
    what stands now."""
    rows = connection.execute(
        text(
            f"SELECT {_EXAMPLE}, e.kind, e.example_id IN ("
            " SELECT p.example_id FROM noria.proposals p WHERE p.domain = :domain AND p.example_id IS NOT NULL"
            ") AS generated, EXISTS ("
            " SELECT FROM noria.proposals p JOIN noria.judgements j ON j.proposal_id = p.proposal_id"
            " WHERE p.example_id = e.example_id AND j.verdict = 'accept' AND j.judged_offset > e.accepted_offset"
            " AND j.judged_offset < coalesce(cast(:pin AS bigint), j.judged_offset + 1)"
            ") AS confirmed"
            f" FROM noria.examples e WHERE e.domain = :domain{IN_FORCE.format(added='accepted_offset')}"
            " AND retired_reason IS DISTINCT FROM 'erased' ORDER BY accepted_offset"
        ),
        {"domain": domain, "pin": pin, "line": list(line)},
    )
    return [msgspec.convert(dict(row), Example) for row in rows.mappings()]


def examples_to_learn(connection: Connection, domain: str, line: Sequence[str], after: int, most: int) -> list[Example]:
    """The next few in force that were accepted after that offset and that nobody on `line` has learned."""
    rows = connection.execute(
        text(
            f"SELECT * FROM (SELECT {_EXAMPLE} FROM noria.examples e"
            " WHERE e.domain = :domain AND e.retired_offset IS NULL AND e.accepted_offset > :after) found"
            " WHERE NOT learned ORDER BY accepted_offset LIMIT :most"
        ),
        {"domain": domain, "line": list(line), "after": after, "most": most},
    )
    return [msgspec.convert(dict(row), Example) for row in rows.mappings()]


def proposals_of(connection: Connection, domain: str, example_ids: Sequence[str]) -> list[str]:
    """The proposals that these examples were, without those that wait for an annotator as hard."""
    rows = connection.execute(
        text(
            "SELECT proposal_id FROM noria.proposals WHERE domain = :domain AND example_id = ANY(:ids)"
            " AND (waits IS NULL OR concern IS DISTINCT FROM 'hard') ORDER BY proposed_offset"
        ),
        {"domain": domain, "ids": list(example_ids)},
    )
    return list(rows.scalars())


_EXAMPLE = (
    "example_id, person, prompt, follows, answer, said_at, accepted_offset, EXISTS ("
    " SELECT FROM noria.learned l WHERE l.example_id = e.example_id AND l.round_id = ANY(:line)) AS learned"
)


class AskedInVain(Struct, frozen=True):
    """A prompt whose answer was rated bad, in a conversation in which a later one was corrected: `example_id`."""

    example_id: str
    prompt_id: str
    messages: Sealed
    follows: str | None


def asked_in_vain(
    connection: Connection, domain: str, pin: int | None, example_ids: Sequence[str] | None = None
) -> list[AskedInVain]:
    """Before the examples that were accepted before `pin` (None: before any); of those examples, if they are named."""
    rows = connection.execute(
        text(
            "SELECT e.example_id, p.prompt_id, p.messages, p.follows FROM noria.examples e"
            " JOIN noria.prompts q ON q.prompt_id = e.prompt_id"
            " JOIN noria.prompts p ON p.conversation_id = q.conversation_id AND p.person = q.person"
            " AND p.asked_at < q.asked_at"
            " WHERE e.domain = :domain AND e.accepted_offset < coalesce(cast(:pin AS bigint), e.accepted_offset + 1)"
            " AND (cast(:ids AS text[]) IS NULL OR e.example_id = ANY(:ids)) AND EXISTS ("
            " SELECT FROM noria.feedback f WHERE f.prompt_id = p.prompt_id AND f.kind = 'rating'"
            " AND f.rating <= CASE f.scale WHEN 'thumb' THEN -1 ELSE 2 END)"
            " ORDER BY p.asked_at, p.prompt_id"
        ),
        {"domain": domain, "pin": pin, "ids": None if example_ids is None else list(example_ids)},
    )
    return [msgspec.convert(dict(row), AskedInVain) for row in rows.mappings()]


def masked_kinds(connection: Connection, domain: str) -> tuple[str, ...]:
    """The kinds of personal data that the policy in force masks."""
    kinds = connection.execute(
        text("SELECT policy -> 'mask' FROM noria.domains WHERE domain = :domain"), {"domain": domain}
    ).scalar_one_or_none()
    return tuple(kinds or ())


class ExamItem(Struct, frozen=True):
    item_id: str
    kind: str
    item: Sealed


def exam_as_of(connection: Connection, domain: str, pin: int | None) -> list[ExamItem]:
    """The questions in force, in the order in which they were added. `pin`: None reads what stands now."""
    rows = connection.execute(
        text(
            "SELECT item_id, kind, item FROM noria.exam_items WHERE domain = :domain"
            f"{IN_FORCE.format(added='added_offset')} ORDER BY added_offset"
        ),
        {"domain": domain, "pin": pin},
    )
    return [msgspec.convert(dict(row), ExamItem) for row in rows.mappings()]
