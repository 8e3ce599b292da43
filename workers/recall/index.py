"""What a domain remembers, and the search in it: by meaning and by words. In memory; nothing here reads or writes anything else.

Each memory has one vector, the centre of its texts: the more wordings it is known in, the nearer lies the next one. Measured
on the demo's held-out wordings with 129 facts in four wordings, right one first and within three: by the nearest wording 0.67 and
0.86 (Chinese 0.74 and 0.91), by the centre and the words 0.83 and 0.93 (0.90 and 0.99).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from threading import Lock

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from workers.recall.calibration import DEFAULT, KINDS, Calibration, Candidates, Kind, probabilities
from workers.recall.dense import Dense
from workers.recall.latch import Latch
from workers.recall.lexical import Frequencies, Lexical, Terms, count_terms, without_terms
from workers.recall.words import terms_of

CANDIDATES = 50
_DIGITS = 6  # of a score: sums in another order differ behind them, and equal memories shall come out in one order


class Memory(Struct, frozen=True):
    """`wordings`: the questions that it answers, none for a passage. `text`: what is put before the model, the answer or the
    passage."""

    id: str
    kind: Kind
    wordings: tuple[str, ...]
    text: str

    def __repr__(self) -> str:
        return f"Memory({self.id})"  # people's words must not reach a log through a traceback


class Hit(Struct, frozen=True):
    """`score`: the probability that this memory is the right one for the question, 0..1, as far as the calibration is right."""

    id: str
    kind: Kind
    score: float


def texts_of(memory: Memory) -> tuple[str, ...]:
    """The texts that are embedded for it: each wording, and what it says."""
    return (*memory.wordings, memory.text)


class Index:
    """Memories of both kinds. Any number of threads may search while others put and drop; what was put is found by every search
    that begins afterwards, what was dropped by none."""

    def __init__(self, dims: int, calibration: Calibration = DEFAULT) -> None:
        self.dims = dims
        self.calibration = calibration
        self.breadth = CANDIDATES  # that many are looked at by meaning, and as many by words
        self._shelves: dict[Kind, _Shelf] = {kind: _Shelf(dims) for kind in KINDS}
        self._kinds: dict[str, Kind] = {}
        self._writing = Lock()

    def __len__(self) -> int:
        return len(self._kinds)

    def put(self, memory: Memory, vectors: NDArray[np.float32]) -> None:
        """Remember it, in place of one of the same id. `vectors`: of unit length, one for each of `texts_of(memory)`."""
        self.put_all([memory], [vectors])

    def put_all(self, memories: Sequence[Memory], vectors: Sequence[NDArray[np.float32]]) -> None:
        """Many at once, which is much faster than one by one. Of one id the last counts."""
        newest = {m.id: (m, np.asarray(v, np.float32)) for m, v in zip(memories, vectors, strict=True)}
        for memory, given in newest.values():
            if given.shape != (len(texts_of(memory)), self.dims):
                raise ValueError(f"memory {memory.id} has vectors of shape {given.shape}")
        with self._writing:
            for kind, shelf in self._shelves.items():
                here = {id: pair for id, pair in newest.items() if pair[0].kind == kind}
                elsewhere = [id for id in newest if id not in here and self._kinds.get(id) == kind]
                shelf.change(here, elsewhere)
            self._kinds.update((id, memory.kind) for id, (memory, _) in newest.items())

    def drop(self, ids: Collection[str]) -> None:
        """Forget them; an id that is not there is passed over."""
        with self._writing:
            for kind, shelf in self._shelves.items():
                shelf.change({}, [id for id in dict.fromkeys(ids) if self._kinds.get(id) == kind])
            for id in ids:
                self._kinds.pop(id, None)

    def search(
        self,
        question: str,
        vector: NDArray[np.float32],
        most: int,
        kinds: frozenset[str],
        without: frozenset[str] = frozenset(),
        without_wording: str | None = None,
    ) -> list[Hit]:
        """The best first, of equals the lesser id. `vector`: the question's, of unit length. `without`: ids to leave out.
        `without_wording`: a wording that does not count wherever it stands, up to case, width and punctuation; what else its
        memory is known by does."""
        found: list[Hit] = []
        for kind in KINDS:
            if kind in kinds:
                candidates = self.candidates(question, vector, kind, without, without_wording)
                scores = probabilities(self.calibration.of(kind), candidates).round(_DIGITS).tolist()
                found.extend(Hit(id, kind, score) for id, score in zip(candidates.ids, scores, strict=True))
        return sorted(found, key=lambda hit: (-hit.score, hit.id))[:most]

    def good_enough(self, hit: Hit, least: float | None) -> bool:
        """Whether it may be put before a model: by a policy's `least`, or as it was calibrated."""
        return hit.score >= (self.calibration.of(hit.kind).least if least is None else least)

    def candidates(
        self,
        question: str,
        vector: NDArray[np.float32],
        kind: Kind,
        without: frozenset[str] = frozenset(),
        without_wording: str | None = None,
    ) -> Candidates:
        """What `search` judges, in the order of ids; `calibrate` learns from it."""
        return self._shelves[kind].search(
            question, np.asarray(vector, np.float32), self.breadth, without, without_wording
        )


class _Entry(Struct, frozen=True):
    """What is kept of a memory: numbers, no words."""

    id: str
    key: int  # in the lexical index
    terms: Terms
    texts: int
    wordings: tuple[int, ...]
    says: int
    vectors: NDArray[np.float16] | None  # of each text; None when there is but one, which is the centre


class _Shelf:
    """The memories of one kind."""

    def __init__(self, dims: int) -> None:
        self._dense = Dense(dims)
        self._lexical = Lexical()
        self._frequencies = Frequencies()
        self._latch = Latch()  # on all below, and on what is dense
        self._entries: dict[str, _Entry] = {}
        self._by_key: dict[int, str] = {}
        self._rows: dict[str, int] = {}
        self._ids: list[str | None] = []  # by row
        self._next_key = 0

    def change(self, added: Mapping[str, tuple[Memory, NDArray[np.float32]]], removed: Iterable[str]) -> None:
        """One writer at a time. What takes long, reading texts and writing the lexical index, is done while searches go on."""
        gone = [id for id in (*removed, *added) if id in self._entries]
        if not gone and not added:
            return
        entries = {}
        for key, (id, (memory, vectors)) in enumerate(added.items(), self._next_key):
            texts = texts_of(memory)
            entries[id] = _Entry(
                id,
                key,
                count_terms(texts),
                len(texts),
                tuple(_same_words(wording) for wording in memory.wordings),
                _same_words(memory.text),
                vectors.astype(np.float16) if len(texts) > 1 else None,
            )
        self._next_key += len(entries)
        centres = np.array([_centre(vectors) for _, vectors in added.values()], np.float32).reshape(
            -1, self._dense.dims
        )
        forgotten = [self._entries[id].key for id in gone]
        # New texts are found by their words before the memory is known, and passed over until then; dropped ones likewise.
        self._lexical.write({entry.key: entry.terms for entry in entries.values()}, [])
        with self._latch.writing():
            for id in gone:
                self._forget(id)
            first = self._dense.rows
            self._dense.add(centres)
            for row, (id, entry) in enumerate(entries.items(), first):
                self._entries[id] = entry
                self._by_key[entry.key] = id
                self._rows[id] = row
                self._ids.append(id)
                self._frequencies.add(entry.terms)
            if self._dense.wants_compaction:
                self._compact()
        if forgotten:
            self._lexical.write({}, forgotten)

    def search(
        self,
        question: str,
        vector: NDArray[np.float32],
        breadth: int,
        without: frozenset[str],
        without_wording: str | None,
    ) -> Candidates:
        with self._latch.reading():
            left_out = [id for id in without if id in self._entries]
            asked = self._frequencies.ask(question)
            rows = self._dense.nearest(vector, breadth, (self._rows[id] for id in left_out))
            ids = {id for row in rows if (id := self._ids[row]) is not None}
            keys = self._lexical.nearest(asked, breadth + len(left_out))
            by_words = (self._by_key[key] for key in keys if key in self._by_key)
            ids |= set([id for id in by_words if id not in without][:breadth])
            found = sorted(ids)
            entries = [self._entries[id] for id in found]
            centres = self._dense.vectors(np.array([self._rows[id] for id in found], np.int64))
            terms = [entry.terms for entry in entries]
            if without_wording is not None:
                wording, its_terms = _same_words(without_wording), count_terms([without_wording])
                for at, entry in enumerate(entries):
                    if wording in entry.wordings and entry.vectors is not None:
                        stays = [word != wording for word in (*entry.wordings, None)]
                        centres[at] = _centre(entry.vectors[stays].astype(np.float32))
                        for _ in range(stays.count(False)):
                            terms[at] = without_terms(terms[at], its_terms)
            shares = self._frequencies.shares(asked, terms)
        cosines = np.einsum("nd,d->n", centres, vector).astype(np.float64)
        # A wording that is left out does not change the number of texts: it would tell the right memory from the others.
        return Candidates(
            tuple(found),
            cosines,
            shares,
            np.array([entry.texts for entry in entries], np.int64),
            np.array([entry.says for entry in entries], np.int64),
        )

    def _forget(self, id: str) -> None:
        entry = self._entries.pop(id)
        self._frequencies.remove(entry.terms)
        del self._by_key[entry.key]
        row = self._rows.pop(id)
        self._ids[row] = None
        self._dense.remove(row)

    def _compact(self) -> None:
        self._dense.compact()
        self._ids = [id for id in self._ids if id is not None]
        self._rows = {id: row for row, id in enumerate(self._ids) if id is not None}


def _centre(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    whole = vectors.sum(axis=0)
    return np.asarray(whole / max(float(np.linalg.norm(whole)), 1e-9), np.float32)


def _same_words(text: str) -> int:
    return hash(tuple(terms_of(text)))
