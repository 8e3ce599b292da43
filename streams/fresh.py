"""What has come to a domain since a round was last asked for: told apart by id, and counted by who gave it. Pure.

Thousands may come in one import, each an event with a state of its own, so a state shares with the one before it all but what
changed; and what is kept of it is a row for each, of which only what changed is written (`streams.facts.examples`).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from rpds import HashTrieMap

from streams.policy import NamedPeople


class Given(NamedTuple):
    """Who gave one: `service` is the key that named the person; None: the person's own key spoke. `offset`: where on the domain's
    partition it was accepted. `own`: the words are that person's; what they accepted as it was proposed outlives them."""

    person: str
    service: str | None
    offset: int
    own: bool = True


ByID: TypeAlias = "HashTrieMap[str, Given]"  # of examples or preferences
Numbers: TypeAlias = "HashTrieMap[str, int]"  # how many gave each of them, or it had given for them
_NOTHING: ByID = HashTrieMap()
_NOBODY: Numbers = HashTrieMap()


class Fresh:
    """Immutable. `named`: how many persons were named by a service."""

    __slots__ = ("_named", "_own", "_persons", "_services", "corrections", "preferences")

    def __init__(
        self,
        corrections: ByID = _NOTHING,
        preferences: ByID = _NOTHING,
        persons: Numbers = _NOBODY,
        own: Numbers = _NOBODY,
        named: Numbers = _NOBODY,
        services: Numbers = _NOBODY,
    ) -> None:
        self.corrections = corrections
        self.preferences = preferences
        self._persons = persons
        self._own = own  # persons, by what they gave with a key of their own
        self._named = named  # persons, by what services gave for them
        self._services = services

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str, str | None, int, bool]]) -> "Fresh":
        """Of what is kept: kind (correction or preference), id, person, service and offset of each, and whether the words are
        theirs."""
        by_kind: dict[str, dict[str, Given]] = {"correction": {}, "preference": {}}
        for kind, id_, person, service, offset, own_words in rows:
            by_kind[kind][id_] = Given(person, service, offset, own_words)
        givers = Counter((one.person, one.service) for by_id in by_kind.values() for one in by_id.values())
        persons, own, named, services = (Counter[str]() for _ in range(4))
        for (person, service), number in givers.items():
            persons[person] += number
            if service is None:
                own[person] += number
            else:
                named[person] += number
                services[service] += number
        numbers = (HashTrieMap(found) for found in (persons, own, named, services))
        return cls(HashTrieMap(by_kind["correction"]), HashTrieMap(by_kind["preference"]), *numbers)

    @property
    def named(self) -> int:
        return len(self._named)

    def people(self, rule: NamedPeople) -> int:
        """How many gave any of it, where those whom services name count by the rule of `Thresholds`."""
        if rule == "each":
            return len(self._persons)
        return len(self._own) + (len(self._services) if rule == "one" else 0)

    def with_correction(self, example_id: str, given: Given) -> "Fresh":
        less = self.corrections.get(example_id)
        return self._counted(self.corrections.insert(example_id, given), self.preferences, less, given)

    def with_preference(self, preference_id: str, given: Given) -> "Fresh":
        less = self.preferences.get(preference_id)
        return self._counted(self.corrections, self.preferences.insert(preference_id, given), less, given)

    def without_correction(self, example_id: str) -> "Fresh":
        less = self.corrections.get(example_id)
        if less is None:
            return self
        return self._counted(self.corrections.remove(example_id), self.preferences, less, None)

    def without_person(self, person: str) -> "Fresh":
        """Of what they accepted as it was only the name goes."""
        if person not in self._persons:
            return self
        return self._only(lambda one: one.person != person or not one.own, lambda one: one.person == person)

    def since(self, pin: int) -> "Fresh":
        """What was accepted at that offset or later."""
        return self._only(lambda one: one.offset >= pin)

    def _only(self, kept: Callable[[Given], bool], nameless: Callable[[Given], bool] = lambda one: False) -> "Fresh":
        by_kind = (("correction", self.corrections), ("preference", self.preferences))
        return Fresh.of(
            (kind, id_, *(one._replace(person="") if nameless(one) else one))
            for kind, by_id in by_kind
            for id_, one in by_id.items()
            if kept(one)
        )

    def _counted(self, corrections: ByID, preferences: ByID, less: Given | None, more: Given | None) -> "Fresh":
        numbers = self._persons, self._own, self._named, self._services
        for one, change in ((less, -1), (more, 1)):
            if one is not None:
                persons, own, named, services = numbers
                persons = _changed(persons, one.person, change)
                if one.service is None:
                    own = _changed(own, one.person, change)
                else:
                    named = _changed(named, one.person, change)
                    services = _changed(services, one.service, change)
                numbers = persons, own, named, services
        return Fresh(corrections, preferences, *numbers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fresh):
            return NotImplemented
        return (self.corrections, self.preferences) == (other.corrections, other.preferences)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Fresh({dict(self.corrections.items())}, {dict(self.preferences.items())})"


def _changed(numbers: Numbers, who: str, change: int) -> Numbers:
    number = numbers.get(who, 0) + change
    return numbers.insert(who, number) if number else numbers.remove(who)
