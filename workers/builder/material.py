"""The material of a domain as it stood at a pin, opened, and what builders make of it. Lives in memory only."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Engine, text

from streams.errors import Erased
from streams.facts.material import ProposalKind, SeedKind, Source
from streams.history import before
from streams.reading.learning import IN_FORCE, examples_as_of
from streams.reading.memories import passages_as_of
from streams.sealed import Sealed
from streams.sealing import Keys, domain_subject, open_sealed
from streams.seed_tasks import Aside, SeedTask
from streams.store import postgres_trouble
from streams.style import StyleRule
from streams.syllogisms import Syllogism
from workers.selector.agreement import settle
from workers.selector.opened import open_examples


class Triple(Struct, frozen=True):
    id: str
    subject: str
    predicate: str
    object: str

    def __repr__(self) -> str:
        return f"Triple({self.id})"


class Passage(Struct, frozen=True):
    """`place`: the article or heading that it stands under. `title`: of its document."""

    id: str
    place: str
    text: str
    title: str = ""

    def __repr__(self) -> str:
        return f"Passage({self.id})"


class Accepted(Struct, frozen=True):
    """An example in force that asks one question, with nothing before it. `own`: its words are the domain's, not a person's."""

    id: str
    person: str
    question: str
    answer: str
    answer_kid: str
    own: bool

    def __repr__(self) -> str:
        return f"Accepted({self.id})"


class Asked(Struct, frozen=True):
    """A prompt that began a conversation, and the key that it is sealed with."""

    id: str
    person: str
    question: str
    kid: str

    def __repr__(self) -> str:
        return f"Asked({self.id})"


class Proposed(Struct, frozen=True):
    """An example to be looked at, in Alpaca's fields, and what it was made of. `doubt`: why it is to be looked at before others.
    `kids`: the keys of whoever worded it and of whoever answered; None: the domain's."""

    kind: ProposalKind
    sources: tuple[Source, ...]
    instruction: str
    output: str
    input: str = ""
    doubt: str | None = None
    kids: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return f"Proposed({self.kind})"


class Dropped(Struct, frozen=True):
    """Something that was made and is not proposed, and why."""

    reason: str


class Step(Struct, frozen=True):
    """So much of the material is done."""

    done: int
    total: int


Made = Proposed | Dropped | Step


class Material:
    """What stood before `pin`: each kind is read when a builder asks for it. What does not open any more is passed over.
    `style` and `decline`: how the domain answers, and how it declines, by its policy."""

    def __init__(
        self,
        database: Engine,
        keys: Keys,
        domain: str,
        pin: int,
        style: tuple[StyleRule, ...] = (),
        decline: str | None = None,
    ) -> None:
        self._database = database
        self._keys = keys
        self._domain = domain
        self.pin = pin
        self.style = style
        self.decline = decline

    def triples(self) -> list[Triple]:
        rows = self._rows("triples", "triple_id", "triple")
        return [Triple(id, said["subject"], said["predicate"], said["object"]) for id, said in rows]

    def syllogisms(self) -> list[tuple[str, Syllogism]]:
        return [
            (id, msgspec.convert(said, Syllogism)) for id, said in self._rows("seeds", "seed_id", "seed", "syllogism")
        ]

    def tasks(self) -> list[tuple[str, SeedTask]]:
        return [(id, msgspec.convert(said, SeedTask)) for id, said in self._rows("seeds", "seed_id", "seed", "task")]

    def asides(self) -> list[tuple[str, Aside]]:
        return [(id, msgspec.convert(said, Aside)) for id, said in self._rows("seeds", "seed_id", "seed", "aside")]

    def accepted(self) -> list[Accepted]:
        """Of those that answer one question, the one that counts; none where people contradict each other."""
        with postgres_trouble(), self._database.connect() as connection:
            rows = examples_as_of(connection, self._domain, self.pin, ())
            earlier = before(connection, {row.follows for row in rows})
        opened = open_examples(rows, earlier, frozenset(), self._keys)
        counts = {decision.example_id for decision in settle(opened.candidates) if decision.kept}
        with postgres_trouble():
            domains = self._keys.key_for(domain_subject(self._domain)).kid
        sealed = {row.example_id: row for row in rows}
        return [
            Accepted(
                one.example_id,
                one.person,
                one.question,
                one.answer,
                sealed[one.example_id].answer.kid,
                own=sealed[one.example_id].prompt.kid == sealed[one.example_id].answer.kid == domains,
            )
            for one in opened.candidates
            if one.example_id in counts and not one.context.strip()
        ]

    def prompts(self) -> list[Asked]:
        """What people began conversations with, up to now: their partitions have no order with the domain's."""
        asked = text(
            "SELECT prompt_id, person, messages FROM noria.prompts WHERE domain = :domain AND follows IS NULL"
            " ORDER BY asked_at, prompt_id"
        )
        with postgres_trouble(), self._database.connect() as connection:
            rows = connection.execute(asked, {"domain": self._domain}).all()
        found = []
        for row in rows:
            sealed = msgspec.convert(row.messages, Sealed)
            said = self._opened(sealed)
            if said is not None and [message["role"] for message in said] == ["user"]:
                found.append(Asked(row.prompt_id, row.person, said[0]["content"], sealed.kid))
        return found

    def instructions_proposed(self, kind: ProposalKind) -> list[str]:
        """Of the builds before this one, whatever people said of them."""
        asked = text(
            "SELECT proposal FROM noria.proposals WHERE domain = :domain AND kind = :kind AND proposed_offset < :pin"
            " ORDER BY proposed_offset"
        )
        with postgres_trouble(), self._database.connect() as connection:
            rows = connection.execute(asked, {"domain": self._domain, "kind": kind, "pin": self.pin}).scalars().all()
        found = (self._opened(msgspec.convert(row, Sealed)) for row in rows)
        return list(dict.fromkeys(said["instruction"] for said in found if said is not None))

    def passages(self) -> list[Passage]:
        found = []
        with postgres_trouble(), self._database.connect() as connection:
            rows = passages_as_of(connection, self._domain, self.pin)
        for row in rows:
            said, document = self._opened(row.passage), self._opened(row.title)
            if said is not None and document is not None:
                found.append(Passage(row.passage_id, said["place"], said["text"], document["title"]))
        return found

    def _rows(self, table: str, id_: str, words: str, kind: SeedKind | None = None) -> Iterator[tuple[str, Any]]:
        """Those in force, in the order in which they were added."""
        of_kind = "" if kind is None else " AND kind = :kind"
        asked = text(
            f"SELECT {id_} AS id, {words} AS words FROM noria.{table} WHERE domain = :domain{of_kind}"
            f"{IN_FORCE.format(added='added_offset')} ORDER BY added_offset"
        )
        with postgres_trouble(), self._database.connect() as connection:
            rows = connection.execute(asked, {"domain": self._domain, "pin": self.pin, "kind": kind}).all()
        for row in rows:
            said = self._opened(msgspec.convert(row.words, Sealed))
            if said is not None:
                yield row.id, said

    def _opened(self, sealed: Sealed) -> Any | None:
        try:
            return msgspec.json.decode(open_sealed(sealed, self._keys))
        except Erased:
            return None
