"""The memory of one domain, held ready: its corrections and the passages of its documents, in one index.

What changes is named by ids, and read anew as it stands: so it does not matter in which order it is told, how often, or whether
something was told at all that the next comparison finds.
"""

import hashlib
import json
import logging
import secrets
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

import numpy as np
from sqlalchemy import Connection, Engine

from streams.errors import Erased, Invalid, Unavailable
from streams.reading.learning import asked_in_vain
from streams.reading.memories import corrected, documents_in_force, passages_of, standing_ids
from streams.recalled import MemoryKind, Recall
from streams.remembered import of_passage, title_of
from streams.sealed import Sealed
from streams.sealing import Keyring
from streams.store import postgres_trouble
from workers.recall.corrections import Spoken, spoken, standing
from workers.recall.encoder import Encoder
from workers.recall.index import Hit, Index, Memory, texts_of
from workers.recall.kept import Kept, Vectors, Words
from workers.recall.passages import known_passage
from workers.selector.wordings import MOST, NEAR

# How many memories are taken in before anything else is looked at, a fifth of a second each: those that are embedded, and those
# whose vectors are kept.
AT_ONCE = 64
KEPT_AT_ONCE = 512
MOST_HELD = 500_000  # memories of a domain, so that no document takes all of a machine's memory
logger = logging.getLogger("noria.recall")


class EncoderFailed(Exception):
    """Nothing can be embedded at present, or what came of it is no vector."""


class Held:
    """`step` makes a little progress with what is still to be embedded; until the first time that all was, it is not `ready`."""

    def __init__(self, database: Engine, keyring: Keyring, domain: str, recall: Recall, encoder: Encoder) -> None:
        """Raises EncoderFailed, Unavailable."""
        try:
            dims = encoder.dims  # an endpoint is asked for it
        except (Invalid, Unavailable) as error:
            raise EncoderFailed(str(error)) from None
        self.domain = domain
        self.recall = recall
        self.index = Index(dims)
        self.ready = False
        self._database = database
        self._keyring = keyring
        self._encoder = encoder
        self._kept = Kept(database, keyring, encoder.name, dims)
        self._salt = secrets.token_bytes(16)
        self._question_of: dict[str, bytes] = {}  # by example: what tells that it answers the same question as another
        self._answers: dict[bytes, set[str]] = {}  # the other way round
        self._passages: dict[str, list[str]] = {}  # by document: those that are in the index
        self._corrections: dict[str, None] = {}  # to be looked at, in this order
        self._documents: deque[tuple[str, Sealed, int]] = (
            deque()
        )  # to be gone on with: title and number of the next passage
        with postgres_trouble(), database.connect() as connection:
            self.compare(connection)

    @property
    def pending(self) -> int:
        """How many corrections and documents are still to be taken in."""
        return len(self._corrections) + len(self._documents)

    def search(self, question: str, kinds: Collection[MemoryKind], most: int) -> list[Hit]:
        (vector,) = self._encoder.embed([question])
        return self.index.search(question, vector, most, frozenset(kinds))

    def compare(self, connection: Connection) -> None:
        """Look at all that stands and is not held, and at all that is held and does not stand."""
        if "correction" in self.recall.kinds:
            self.look_at(sorted(standing_ids(connection, self.domain) ^ self._question_of.keys()))
        self.look_at_documents(connection)

    def look_at(self, example_ids: Iterable[str]) -> None:
        """These corrections may have changed."""
        if "correction" in self.recall.kinds:
            self._corrections |= dict.fromkeys(example_ids)

    def look_at_documents(self, connection: Connection) -> None:
        """Some documents may have changed."""
        if "passage" not in self.recall.kinds:
            return
        stand = documents_in_force(connection, self.domain)
        for gone in self._passages.keys() - stand.keys():
            self.index.drop(self._passages.pop(gone))
            self._documents = deque(entry for entry in self._documents if entry[0] != gone)
        for document_id, title in stand.items():
            if document_id in self._passages:
                continue
            self._passages[document_id] = []
            self._documents.append((document_id, title, 0))

    def step(self) -> bool:
        """Take in a few of what is to be looked at, corrections first; whether more is left. Raises Unavailable."""
        if self._corrections:
            some = list(islice(self._corrections, KEPT_AT_ONCE))
            some = some[: self._at_once(some)]
            self._take_in(some)
            for example_id in some:
                del self._corrections[example_id]
        elif self._documents:
            self._go_on()
        self.ready = self.ready or not self.pending
        return bool(self.pending)

    def _take_in(self, example_ids: Sequence[str]) -> None:
        found = self._read(example_ids)
        touched: set[bytes] = set()
        for example_id in example_ids:
            if (was := self._question_of.pop(example_id, None)) is not None:
                self._answers[was].discard(example_id)
                touched.add(was)
            if example_id in found:
                key = self._key(found[example_id])
                self._question_of[example_id] = key
                self._answers.setdefault(key, set()).add(example_id)
                touched.add(key)
        others = {one for key in touched for one in self._answers[key]} - found.keys()
        found |= self._read(sorted(others))
        stand: list[Spoken] = []
        gone = set(example_ids) | others
        for key in touched:
            group = [found[one] for one in self._answers[key] if one in found]
            kept = standing(group) if group else set()
            stand += [one for one in group if one.id in kept]
            if not self._answers[key]:
                del self._answers[key]
        self._put(sorted(stand, key=lambda one: one.id))
        gone -= {one.id for one in stand}
        self.index.drop(gone)

    def _read(self, example_ids: Sequence[str]) -> dict[str, Spoken]:
        if not example_ids:
            return {}
        with postgres_trouble(), self._database.connect() as connection:
            rows = corrected(connection, self.domain, example_ids)
            in_vain = asked_in_vain(connection, self.domain, None, example_ids)
        with postgres_trouble():
            return {one.id: one for one in spoken(rows, in_vain, self._keyring)}

    def _put(self, corrections: Sequence[Spoken]) -> None:
        whole = {
            one.id: Memory(one.id, "correction", (one.question, *one.asked[:MOST]), one.answer) for one in corrections
        }
        vectors = self._vectors(
            [Words(one.id, texts_of(whole[one.id]), one.kids) for one in corrections],
        )
        memories = []
        for one in corrections:
            by_text = dict(zip(texts_of(whole[one.id]), vectors[one.id], strict=True))
            # What was asked before may be another question: a person also changes the subject.
            question = by_text[one.question]
            near = tuple(words for words in one.asked[:MOST] if float(by_text[words] @ question) >= NEAR)
            memory = Memory(one.id, "correction", (one.question, *near), one.answer)
            memories.append((memory, np.stack([by_text[words] for words in texts_of(memory)])))
        self.index.put_all([memory for memory, _ in memories], [found for _, found in memories])

    def _go_on(self) -> None:
        """With the document that was begun first."""
        document_id, title, start = self._documents[0]
        if len(self.index) >= MOST_HELD:
            logger.error(
                "%s has %d memories, and no more are held: a document is left out", self.domain, len(self.index)
            )
            self._documents.popleft()
            return
        try:
            with postgres_trouble():
                name = title_of(title, self._keyring)
        except (Erased, Invalid):
            self._documents.popleft()  # none of its passages could be put before a model
            return
        with postgres_trouble(), self._database.connect() as connection:
            rows = passages_of(connection, document_id, start, KEPT_AT_ONCE)
        some = rows[: self._at_once([row.passage_id for row in rows])]
        memories, words = [], []
        for row in some:
            try:
                with postgres_trouble():
                    memory = known_passage(row.passage_id, of_passage(row.passage, name, self._keyring))
            except (Erased, Invalid):
                continue
            memories.append(memory)
            words.append(Words(memory.id, texts_of(memory), (row.passage.kid,)))
        if memories:
            vectors = self._vectors(words)
            self.index.put_all(memories, [vectors[memory.id] for memory in memories])
            self._passages[document_id] += [memory.id for memory in memories]
        self._documents.popleft()
        if len(some) < len(rows) or len(rows) == KEPT_AT_ONCE:
            self._documents.appendleft((document_id, title, some[-1].number + 1))

    def _at_once(self, memory_ids: Sequence[str]) -> int:
        """How many of them one step takes."""
        return AT_ONCE if len(memory_ids) - self._kept.count(memory_ids) > AT_ONCE else KEPT_AT_ONCE

    def _vectors(self, words: Sequence[Words]) -> dict[str, Vectors]:
        """Those that are kept, and the others computed and kept."""
        found = self._kept.find(words)
        missing = [one for one in words if one.memory_id not in found]
        if missing:
            try:
                flat = self._encoder.embed([text for one in missing for text in one.texts])
            except (Invalid, Unavailable) as error:
                raise EncoderFailed(str(error)) from None
            made, start = {}, 0
            for one in missing:
                # As they will be when they are read again: so that a restart changes no score.
                made[one.memory_id] = flat[start : start + len(one.texts)].astype(np.float16).astype(np.float32)
                start += len(one.texts)
            self._kept.put(self.domain, made, missing)
            found |= made
        return found

    def _key(self, one: Spoken) -> bytes:
        return hashlib.blake2b(json.dumps(one.key).encode(), key=self._salt, digest_size=16).digest()
