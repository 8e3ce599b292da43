"""Corrections as memories: the words of each, opened, and which of those that answer one question stand."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec import Struct

from streams.alike import words_of
from streams.errors import Erased, Invalid
from streams.history import open_question
from streams.reading.learning import AskedInVain
from streams.reading.memories import Corrected
from streams.sealing import Keys, open_sealed
from workers.selector.agreement import settle
from workers.selector.candidates import OpenExample


class Spoken(Struct, frozen=True):
    """A correction in clear. `asked`: what its person asked in vain before it, in the same conversation. Lives in memory only."""

    id: str
    person: str
    question: str
    answer: str
    said_at: datetime
    asked: tuple[str, ...]
    kids: tuple[str, ...]  # of the keys that all this was sealed with

    def __repr__(self) -> str:
        return f"Spoken({self.id})"

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for those that answer one question."""
        return words_of(self.question)


def spoken(rows: Iterable[Corrected], in_vain: Iterable[AskedInVain], keys: Keys) -> list[Spoken]:
    """What opens of them, in their order; who was erased is left out, and what is no conversation that can be read."""
    before: dict[str, list[AskedInVain]] = {}
    for prompt in in_vain:
        before.setdefault(prompt.example_id, []).append(prompt)
    found = []
    for row in rows:
        try:
            question, answer = open_question(row.prompt, keys), open_sealed(row.answer, keys)
        except (Erased, Invalid):
            continue
        kids = {row.prompt.kid: None, row.answer.kid: None}
        asked: dict[tuple[str, ...], str] = {words_of(question): question}
        for prompt in before.get(row.example_id, ()):
            try:
                words = open_question(prompt.messages, keys)
            except (Erased, Invalid):
                continue
            kids[prompt.messages.kid] = None
            asked.setdefault(words_of(words), words)
        wordings = tuple(asked.values())[1:]
        found.append(Spoken(row.example_id, row.person, question, answer, row.said_at, wordings, tuple(kids)))
    return found


def standing(group: Sequence[Spoken]) -> set[str]:
    """Of corrections that answer one question, who is recalled: the ids of one where people agree, of none where they do not."""
    if len(group) == 1:
        return {group[0].id}
    # What came before a question is not looked at: it is recalled by its own words; these have one answer or none.
    candidates = [
        OpenExample(
            example_id=one.id,
            person=one.person,
            question=one.question,
            context="",
            answer=one.answer,
            said_at=one.said_at,
            learned=False,
        )
        for one in group
    ]
    return {decision.example_id for decision in settle(candidates) if decision.kept}
