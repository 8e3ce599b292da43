"""What has come to a domain since a round was last asked for: told apart by id, and counted by person. Pure.

Thousands may come in one import, each an event with a state of its own, so a state shares with the one before it all but what
changed; and what is kept of it is a row for each, of which only what changed is written (`streams.projections`).
"""

from collections.abc import Iterable
from typing import TypeAlias

from rpds import HashTrieMap

Given: TypeAlias = "HashTrieMap[str, str]"  # example or preference -> the person who gave it
Numbers: TypeAlias = "HashTrieMap[str, int]"  # person -> how many of both
_NOTHING: Given = HashTrieMap()
_NOBODY: Numbers = HashTrieMap()


class Fresh:
    """Immutable. `people`: how many persons gave any of it."""

    __slots__ = ("_number_by_person", "corrections", "preferences")

    def __init__(
        self,
        corrections: Given = _NOTHING,
        preferences: Given = _NOTHING,
        number_by_person: Numbers = _NOBODY,
    ) -> None:
        self.corrections = corrections
        self.preferences = preferences
        self._number_by_person = number_by_person

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str]]) -> "Fresh":
        """Of what is kept: kind (correction or preference), id and person of each."""
        given: dict[str, dict[str, str]] = {"correction": {}, "preference": {}}
        numbers: dict[str, int] = {}
        for kind, id_, person in rows:
            given[kind][id_] = person
            numbers[person] = numbers.get(person, 0) + 1
        return cls(HashTrieMap(given["correction"]), HashTrieMap(given["preference"]), HashTrieMap(numbers))

    @property
    def people(self) -> int:
        return len(self._number_by_person)

    def with_correction(self, example_id: str, person: str) -> "Fresh":
        numbers = self._counted(self.corrections.get(example_id), person)
        return Fresh(self.corrections.insert(example_id, person), self.preferences, numbers)

    def with_preference(self, preference_id: str, person: str) -> "Fresh":
        numbers = self._counted(self.preferences.get(preference_id), person)
        return Fresh(self.corrections, self.preferences.insert(preference_id, person), numbers)

    def without_correction(self, example_id: str) -> "Fresh":
        person = self.corrections.get(example_id)
        if person is None:
            return self
        return Fresh(self.corrections.remove(example_id), self.preferences, self._counted(person, None))

    def without_person(self, person: str) -> "Fresh":
        if person not in self._number_by_person:
            return self
        corrections, preferences = (
            HashTrieMap((id_, by) for id_, by in given.items() if by != person)
            for given in (self.corrections, self.preferences)
        )
        return Fresh(corrections, preferences, self._number_by_person.remove(person))

    def _counted(self, less: str | None, more: str | None) -> Numbers:
        numbers = self._number_by_person
        if less == more:
            return numbers
        if less is not None:
            left = numbers[less] - 1
            numbers = numbers.insert(less, left) if left else numbers.remove(less)
        return numbers if more is None else numbers.insert(more, numbers.get(more, 0) + 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fresh):
            return NotImplemented
        return (self.corrections, self.preferences) == (other.corrections, other.preferences)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Fresh({dict(self.corrections.items())}, {dict(self.preferences.items())})"
