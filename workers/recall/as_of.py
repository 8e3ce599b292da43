"""The memory of a domain as of a position of its log: what would have been recalled there, for whoever selects or examines.

In it are the corrections that count among those of one question (`workers.selector.agreement`), in each of their wordings, and the
passages of the documents that were in force; nothing whose question stands in the exam.
"""

from collections.abc import Mapping, Sequence, Set

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from streams.alike import words_of
from streams.history import Before, before
from streams.reading.learning import (
    AskedInVain,
    Example,
    asked_in_vain,
    exam_as_of,
    examples_as_of,
    line_of_round,
)
from streams.reading.memories import passages_as_of
from streams.recalled import MOST_MEMORIES, Memory, MemoryKind, Recall, with_recalled, within_tokens
from streams.snapshots import Opened, SnapshotMemory, open_memory
from streams.store import postgres_trouble
from workers.context import Context
from workers.recall.encoder import Encoder, sentence_encoder
from workers.recall.kept import Kept, Words
from workers.selector.agreement import settle
from workers.selector.opened import open_exam, open_examples, other_wordings

LOOKED_AT = 2 * MOST_MEMORIES  # hits of a search: more than a policy may ask for
AT_ONCE = 1024  # texts that are embedded between two looks at whether the order is still wanted


class Remembered(Struct, frozen=True):
    """One memory: the questions it answers, what of it is put before a model, and both sealed. Lives in memory only."""

    wordings: tuple[str, ...]
    memory: Memory
    sealed: SnapshotMemory

    def __repr__(self) -> str:
        return f"Remembered({self.sealed.id})"

    @property
    def kids(self) -> tuple[str, ...]:
        """Of the keys that it is sealed with; by the first of them its vectors are known."""
        first = self.sealed.text if self.sealed.question is None else self.sealed.question
        return (first.kid, *sorted(self.sealed.kids - {first.kid}))


class AsOf:
    """Some memories, to be recalled from."""

    def __init__(
        self, remembered: Sequence[Remembered], context: Context, encoder: Encoder, kept: Kept | None = None
    ) -> None:
        """`kept`: where vectors of theirs may stand already."""
        # Not before: what it stands on takes a second and 60 MB, and not every worker recalls.
        from workers.recall.index import Index, texts_of
        from workers.recall.index import Memory as Known
        from workers.recall.passages import known_passage

        # In the order of their words, so that the same memories make the same index in whatever order they came.
        ordered = sorted(remembered, key=lambda one: (one.wordings, one.memory.text, one.sealed.id))
        self._remembered: Mapping[str, Remembered] = {one.sealed.id: one for one in ordered}
        self._place = {id: place for place, id in enumerate(self._remembered)}
        self._encoder = encoder
        self._context = context
        self._kept = kept
        self._index = Index(encoder.dims)
        known = [
            Known(one.sealed.id, "correction", one.wordings, one.memory.text)
            if one.sealed.kind == "correction"
            else known_passage(one.sealed.id, one.memory)
            for one in ordered
        ]
        words = [Words(one.sealed.id, texts_of(it), one.kids) for one, it in zip(ordered, known, strict=True)]
        vectors = self._vectors(words)
        self._index.put_all(known, [vectors[one.id] for one in known])

    def recall(self, questions: Sequence[str], recall: Recall, without_own: bool = False) -> list[tuple[str, ...]]:
        """For each question the ids of what the policy would have recalled for it, the best first. `without_own`: as if nobody had
        asked in just these words."""
        found = []
        for question, vector in zip(questions, self._embed(questions), strict=True):
            own = question if without_own else None
            hits = self._index.search(question, vector, LOOKED_AT, recall.kinds, without_wording=own)
            # Of equals the first by its words, not by its id: the same corrections are recalled in one order whenever they came.
            hits.sort(key=lambda hit: (-hit.score, self._place[hit.id]))
            found.append(self.within([hit.id for hit in hits if self._index.good_enough(hit, recall.least)], recall))
        return found

    def within(self, ids: Sequence[str], recall: Recall) -> tuple[str, ...]:
        """As many of them, from the first, as the policy allows."""
        few = ids[: recall.most]
        return tuple(few[: within_tokens((self.memory(id) for id in few), recall.tokens)])

    def __contains__(self, id: str) -> bool:
        return id in self._remembered

    def memory(self, id: str) -> Memory:
        return self._remembered[id].memory

    def sealed(self, id: str) -> SnapshotMemory:
        return self._remembered[id].sealed

    def asked(self, question: str, ids: Sequence[str]) -> str:
        """The question behind these memories."""
        return with_recalled(question, [self.memory(id) for id in ids])

    def _vectors(self, words: Sequence[Words]) -> dict[str, NDArray[np.float32]]:
        """By memory: those that the memory of the doors has kept, and the others computed."""
        found: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(words), AT_ONCE):
            self._context.check()
            some = words[start : start + AT_ONCE]
            if self._kept is not None:
                found |= self._kept.find(some)
            missing = [one for one in some if one.memory_id not in found]
            if missing:
                vectors = self._embed([text for one in missing for text in one.texts])
                ends = np.cumsum([len(one.texts) for one in missing])
                found |= zip((one.memory_id for one in missing), np.split(vectors, ends[:-1]), strict=True)
        return found

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = [np.zeros((0, self._encoder.dims), np.float32)]
        for start in range(0, len(texts), AT_ONCE):
            self._context.check()
            found.append(self._encoder.embed(texts[start : start + AT_ONCE]))
        return np.concatenate(found)


class Settled(Struct, frozen=True):
    """The corrections of a domain that count, in the order in which they were accepted, and what they were settled by."""

    kept: tuple[Example, ...]
    prompts: Mapping[str, Opened]
    in_vain: Sequence[AskedInVain]
    earlier: Before
    forbidden: frozenset[tuple[str, ...]]  # the words of the exam's questions

    def __repr__(self) -> str:
        return f"Settled({len(self.kept)} corrections)"


def memory_as_of(domain: str, round_id: str, pin: int, kinds: Set[MemoryKind], context: Context) -> AsOf:
    """For a round. Raises Cancelled, Unavailable."""
    with postgres_trouble(), context.database.connect() as connection:
        line = line_of_round(connection, domain, round_id)
    corrections = settled(domain, line, pin, context) if "correction" in kinds else None
    return memory_of(domain, corrections, pin, kinds, context)


def memory_of(domain: str, settled: Settled | None, pin: int, kinds: Set[MemoryKind], context: Context) -> AsOf:
    """`settled`: the corrections, where they are of the `kinds` that are wanted. Raises Cancelled, Unavailable."""
    found: list[Remembered] = []
    if settled is not None and "correction" in kinds:
        found += _corrections(settled, context)
    if "passage" in kinds:
        found += _passages(domain, pin, context)
    encoder = sentence_encoder()
    return AsOf(found, context, encoder, Kept(context.database, context.keyring, encoder.name, encoder.dims))


def settled(domain: str, line: Sequence[str], pin: int, context: Context) -> Settled:
    """As of the pin, for a release on whose line these rounds are. Raises Cancelled, Unavailable."""
    with postgres_trouble(), context.database.connect() as connection:
        examples = examples_as_of(connection, domain, pin, line)
        exam = exam_as_of(connection, domain, pin)
        in_vain = asked_in_vain(connection, domain, pin)
        earlier = before(connection, {*(row.follows for row in examples), *(row.follows for row in in_vain)})
    forbidden = frozenset(words_of(question) for question in open_exam(exam, context.keyring).values())
    opened = open_examples(examples, earlier, forbidden, context.keyring, lambda done, total: context.check())
    kept = {decision.example_id for decision in settle(opened.candidates) if decision.kept}
    counting = tuple(row for row in examples if row.example_id in kept)
    return Settled(counting, opened.prompts, in_vain, earlier, forbidden)


def _corrections(settled: Settled, context: Context) -> list[Remembered]:
    wordings = other_wordings(
        {row.example_id: settled.prompts[row.example_id] for row in settled.kept},
        settled.in_vain,
        settled.earlier,
        context.keyring,
        lambda e, asked: words_of(asked.question) not in settled.forbidden,
    )
    found = []
    for row in settled.kept:
        sealed = SnapshotMemory(row.example_id, "correction", row.answer, question=row.prompt)
        memory = open_memory(sealed, context.keyring)
        if memory is None:
            continue  # erased a moment ago
        others = (wording.prompt.question for wording in wordings.get(row.example_id, ()))
        found.append(Remembered((memory.question, *others), memory, sealed))
    return found


def _passages(domain: str, pin: int, context: Context) -> list[Remembered]:
    with postgres_trouble(), context.database.connect() as connection:
        rows = passages_as_of(connection, domain, pin)
    found = []
    for row in rows:
        context.check()
        sealed = SnapshotMemory(row.passage_id, "passage", row.passage, title=row.title)
        memory = open_memory(sealed, context.keyring)
        if memory is not None:
            found.append(Remembered((), memory, sealed))
    return found
