"""Texts found by their words: BM25 (Robertson and Zaragoza, 2009), whose few best come from tantivy.

Tantivy's own scores still count what was removed until it tidies up, so they only choose candidates; what a candidate's words
weigh is reckoned here, from what stands now. Measured with 100,000 passages, two cores: a search takes 0.4 ms (SQLite's FTS5 74 ms,
numpy over lists of postings 7 ms), one more text 8 ms until it is found, 45 MB.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from math import log

import numpy as np
import tantivy
from msgspec import Struct
from numpy.typing import NDArray

from workers.recall.words import number_of, terms_of

K1, B = (
    1.2,
    0.75,
)  # the usual ones; others (k1 0.6 to 2, b 0.4) move the demo's ranking by less than one question in 100
_ASKED_TERMS = 64  # a longer question is searched by its rarest terms
_HEAP_BYTES = 15_000_000  # the least that tantivy takes for what it has not written yet


class Terms(Struct, frozen=True):
    """A text's terms as numbers in rising order, how often each stands there, and how many there are in all."""

    numbers: NDArray[np.uint32]
    counts: NDArray[np.uint16]
    length: int


def count_terms(texts: Sequence[str]) -> Terms:
    """The terms of several texts as of one."""
    found = [number_of(term) for text in texts for term in terms_of(text)]
    numbers, counts = np.unique(np.array(found, np.uint32), return_counts=True)
    return _terms(numbers, np.minimum(counts, 65_535).astype(np.uint16))


def _terms(numbers: NDArray[np.uint32], counts: NDArray[np.uint16]) -> Terms:
    return Terms(numbers, counts, int(counts.sum()))


class Asked(Struct, frozen=True):
    """What is searched by: terms as numbers in rising order, and the weight of each (its inverse document frequency). `whole` is
    the weight of the question, of terms that nothing holds too."""

    numbers: NDArray[np.uint32]
    weights: NDArray[np.float64]
    whole: float


class Lexical:
    """Texts under keys, which are never used twice. One thread at a time writes; `nearest` may be called by others meanwhile."""

    def __init__(self) -> None:
        schema = tantivy.SchemaBuilder()
        schema.add_integer_field("key", indexed=True, fast=True)
        schema.add_text_field("terms", tokenizer_name="whitespace", index_option="freq")
        self._index = tantivy.Index(schema.build())  # in memory
        self._index.config_reader("manual")  # else it reads anew some time after a commit
        self._writer = self._index.writer(_HEAP_BYTES, 1)

    def write(self, added: Mapping[int, Terms], removed: Collection[int]) -> None:
        """Texts by key that are found from now on, and keys that are not."""
        for key in removed:
            self._writer.delete_documents_by_term("key", key)
        for key, terms in added.items():
            document = tantivy.Document()
            document.add_integer("key", key)
            document.add_text("terms", " ".join(map(_token, np.repeat(terms.numbers, terms.counts).tolist())))
            self._writer.add_document(document)
        self._writer.commit()
        self._index.reload()

    def nearest(self, asked: Asked, most: int) -> list[int]:
        """The keys of texts that share words with what is asked, the best first."""
        if not len(asked.numbers):
            return []
        rarest = np.lexsort((asked.numbers, -asked.weights))[:_ASKED_TERMS]
        any_of = [
            (tantivy.Occur.Should, tantivy.Query.term_query(self._index.schema, "terms", _token(number), "freq"))
            for number in asked.numbers[rarest].tolist()
        ]
        searcher = self._index.searcher()
        hits = searcher.search(tantivy.Query.boolean_query(any_of), most, count=False).hits
        return [int(key or 0) for key in searcher.fast_field_values("key", [address for _, address in hits])]


_token = hex  # a term as a word without spaces


class Frequencies:
    """In how many texts each term stands, and how long texts are."""

    def __init__(self) -> None:
        self._texts_with = Counter[int]()
        self._texts = 0
        self._length = 0

    def add(self, terms: Terms) -> None:
        self._texts_with.update(terms.numbers.tolist())
        self._texts += 1
        self._length += terms.length

    def remove(self, terms: Terms) -> None:
        for number in terms.numbers.tolist():
            left = self._texts_with[number] - 1
            if left:
                self._texts_with[number] = left
            else:
                del self._texts_with[number]
        self._texts -= 1
        self._length -= terms.length

    def ask(self, question: str) -> Asked:
        numbers = sorted({number_of(term) for term in terms_of(question)})
        held = [(number, self._weight(self._texts_with[number])) for number in numbers if number in self._texts_with]
        unheld = len(numbers) - len(held)
        weights = np.fromiter((weight for _, weight in held), np.float64, len(held))
        whole = float(weights.sum()) + unheld * self._weight(0)
        return Asked(np.fromiter((number for number, _ in held), np.uint32, len(held)), weights, whole)

    def shares(self, asked: Asked, texts: Sequence[Terms]) -> NDArray[np.float64]:
        """What part of the question's weight each text answers to by BM25, 0..1: the score, over the highest that any text could
        have. So it means the same whatever the number of texts."""
        if not texts or not len(asked.numbers):
            return np.zeros(len(texts))
        mean = self._length / self._texts
        owner = np.repeat(np.arange(len(texts)), [len(terms.numbers) for terms in texts])
        numbers = np.concatenate([terms.numbers for terms in texts])
        counts = np.concatenate([terms.counts for terms in texts]).astype(np.float64)
        lengths = np.array([terms.length for terms in texts], np.float64)
        place = np.minimum(np.searchsorted(asked.numbers, numbers), len(asked.numbers) - 1)
        hit = asked.numbers[place] == numbers
        owner, counts, place = owner[hit], counts[hit], place[hit]
        damped = counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths[owner] / mean))
        scores = np.bincount(owner, asked.weights[place] * damped, len(texts))
        return np.asarray(scores / (asked.whole * (K1 + 1)), np.float64)

    def _weight(self, texts: int) -> float:
        return log(1 + (self._texts - texts + 0.5) / (texts + 0.5))


def without_terms(terms: Terms, left_out: Terms) -> Terms:
    """`terms` less those of a text that is part of it."""
    place = np.searchsorted(terms.numbers, left_out.numbers)
    counts = terms.counts.copy()
    counts[place] -= left_out.counts
    stays = counts > 0
    return _terms(terms.numbers[stays], counts[stays])
