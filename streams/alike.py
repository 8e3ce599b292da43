"""When two texts say the same, and which of many ask the same. Pure."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import TypeVar

from rapidfuzz.distance import Levenshtein

_WORDS = re.compile(r"\w+")
TYPO_LETTERS = 5  # words of at least so many letters may differ by one letter and still be the same word

Words = tuple[str, ...]
T = TypeVar("T")


def words_of(text: str) -> Words:
    """The text's words, without case, width and punctuation."""
    return tuple(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def near(left: Words, right: Words) -> bool:
    """Whether two texts are the same up to case, width, punctuation and one mistyped letter; a digit is never a typo."""
    if left == right:
        return True
    if len(left) != len(right):
        return False
    differing = [(a, b) for a, b in zip(left, right, strict=True) if a != b]
    if len(differing) != 1:
        return False
    a, b = differing[0]
    if not (_may_be_mistyped(a) and _may_be_mistyped(b)):
        return False
    return Levenshtein.distance(a, b, score_cutoff=1) <= 1


def _may_be_mistyped(word: str) -> bool:
    return len(word) >= TYPO_LETTERS and word.isascii() and not any(letter.isdigit() for letter in word)


class _EqualButForOne:
    """Questions that are equal but for the word at one place, each with its group. Where they are many (a template that was filled
    in a thousand times) each is compared with those alone whose word has something in common: two words that differ by one letter
    are the same without one of theirs, at most."""

    _FEW = 16

    def __init__(self, at: int) -> None:
        self._at = at
        self._all: list[tuple[Words, int]] = []
        self._by_rest: dict[str, list[int]] = {}

    def add(self, key: Words, group: int) -> None:
        self._all.append((key, group))
        if len(self._all) == self._FEW:
            for place in range(self._FEW):
                self._enter(place)
        elif len(self._all) > self._FEW:
            self._enter(len(self._all) - 1)

    def find(self, key: Words) -> int | None:
        """The group of the first that asks the same."""
        if len(self._all) < self._FEW:
            return next((group for like, group in self._all if near(key, like)), None)
        places = sorted({place for rest in _rests(key[self._at]) for place in self._by_rest.get(rest, ())})
        return next((self._all[place][1] for place in places if near(key, self._all[place][0])), None)

    def _enter(self, place: int) -> None:
        for rest in _rests(self._all[place][0][self._at]):
            self._by_rest.setdefault(rest, []).append(place)


def _rests(word: str) -> set[str]:
    """The word, and what is left of it without one of its letters."""
    return {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}


def by_question(asked: Iterable[T], said: Callable[[T], tuple[str, str]]) -> list[list[T]]:
    """Those that ask the same stand together. `said`: the question of one, and what stood before it."""
    exact: dict[Words, list[T]] = {}
    for one in asked:
        question, context = said(one)
        exact.setdefault((*words_of(question), "\n", *words_of(context)), []).append(one)
    # A typo changes one word, so near questions share all others: look only among those that are equal but for one place.
    groups: list[list[T]] = []
    index: dict[tuple[int, Words], _EqualButForOne] = {}
    for key, members in exact.items():
        others = [(at, key[:at] + key[at + 1 :]) for at, word in enumerate(key) if _may_be_mistyped(word)]
        alike = (index[other].find(key) for other in others if other in index)
        found = next((group for group in alike if group is not None), None)
        if found is None:
            found = len(groups)
            groups.append([])
        groups[found].extend(members)
        for at, rest in others:
            index.setdefault((at, rest), _EqualButForOne(at)).add(key, found)
    return groups
