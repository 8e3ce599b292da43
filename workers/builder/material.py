"""The material of a domain as it stood at a pin, opened, and what builders make of it. Lives in memory only."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Engine, text

from streams.errors import Erased
from streams.facts.material import ProposalKind, SeedKind, Source
from streams.reading.learning import IN_FORCE
from streams.reading.memories import passages_as_of
from streams.sealed import Sealed
from streams.sealing import Keys, open_sealed
from streams.store import postgres_trouble
from streams.syllogisms import Syllogism


class Triple(Struct, frozen=True):
    id: str
    subject: str
    predicate: str
    object: str

    def __repr__(self) -> str:
        return f"Triple({self.id})"


class Passage(Struct, frozen=True):
    """`place`: the article or heading that it stands under."""

    id: str
    place: str
    text: str

    def __repr__(self) -> str:
        return f"Passage({self.id})"


class Proposed(Struct, frozen=True):
    """An example to be looked at, in Alpaca's fields, and what it was made of. `doubt`: why it is to be looked at before others."""

    kind: ProposalKind
    sources: tuple[Source, ...]
    instruction: str
    output: str
    input: str = ""
    doubt: str | None = None

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
    """What stood before `pin`: each kind is read when a builder asks for it. What does not open any more is passed over."""

    def __init__(self, database: Engine, keys: Keys, domain: str, pin: int) -> None:
        self._database = database
        self._keys = keys
        self._domain = domain
        self._pin = pin

    def triples(self) -> list[Triple]:
        rows = self._rows("triples", "triple_id", "triple")
        return [Triple(id, said["subject"], said["predicate"], said["object"]) for id, said in rows]

    def syllogisms(self) -> list[tuple[str, Syllogism]]:
        return [
            (id, msgspec.convert(said, Syllogism)) for id, said in self._rows("seeds", "seed_id", "seed", "syllogism")
        ]

    def passages(self) -> list[Passage]:
        found = []
        with postgres_trouble(), self._database.connect() as connection:
            rows = passages_as_of(connection, self._domain, self._pin)
        for row in rows:
            said = self._opened(row.passage)
            if said is not None:
                found.append(Passage(row.passage_id, said["place"], said["text"]))
        return found

    def _rows(self, table: str, id_: str, words: str, kind: SeedKind | None = None) -> Iterator[tuple[str, Any]]:
        """Those in force, in the order in which they were added."""
        of_kind = "" if kind is None else " AND kind = :kind"
        asked = text(
            f"SELECT {id_} AS id, {words} AS words FROM noria.{table} WHERE domain = :domain{of_kind}"
            f"{IN_FORCE.format(added='added_offset')} ORDER BY added_offset"
        )
        with postgres_trouble(), self._database.connect() as connection:
            rows = connection.execute(asked, {"domain": self._domain, "pin": self._pin, "kind": kind}).all()
        for row in rows:
            said = self._opened(msgspec.convert(row.words, Sealed))
            if said is not None:
                yield row.id, said

    def _opened(self, sealed: Sealed) -> Any | None:
        try:
            return msgspec.json.decode(open_sealed(sealed, self._keys))
        except Erased:
            return None
