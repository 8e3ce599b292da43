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
    if min(len(a), len(b)) < TYPO_LETTERS or not (a.isascii() and b.isascii()) or any(c.isdigit() for c in a + b):
        return False
    return Levenshtein.distance(a, b, score_cutoff=1) <= 1


def by_question(asked: Iterable[T], said: Callable[[T], tuple[str, str]]) -> list[list[T]]:
    """Those that ask the same stand together. `said`: the question of one, and what stood before it."""
    exact: dict[Words, list[T]] = {}
    for one in asked:
        question, context = said(one)
        exact.setdefault((*words_of(question), "\n", *words_of(context)), []).append(one)
    # A typo changes one word, so near questions share all others: look only among those that are equal but for one place.
    groups: list[list[T]] = []
    index: dict[tuple[int, Words], list[tuple[Words, int]]] = {}
    for key, members in exact.items():
        others = [(at, key[:at] + key[at + 1 :]) for at in range(len(key))]
        found = next((group for other in others for like, group in index.get(other, ()) if near(key, like)), None)
        if found is None:
            found = len(groups)
            groups.append([])
        groups[found].extend(members)
        for other in others:
            index.setdefault(other, []).append((key, found))
    return groups
