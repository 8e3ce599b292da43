"""Facts as they are taught and asked in the benchmarks of training: each in its wordings, bare and behind what is recalled."""

from collections.abc import Sequence

from msgspec import Struct

from streams.recalled import Memory as Shown
from streams.recalled import with_recalled
from workers.recall.encoder import sentence_encoder
from workers.recall.index import Index, Memory, texts_of
from workers.trainer.spec import TrainingRow


class TaughtFact(Struct, frozen=True):
    """`trained`: the wordings that may be taught, the first being the one that was corrected. `keys`: what a right answer holds."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str
    keys: tuple[str, ...]


class Memories:
    """The facts that were said so far, as a domain's memory holds them."""

    def __init__(self) -> None:
        self._encoder = sentence_encoder()
        self._index = Index(self._encoder.dims)
        self._facts: dict[str, TaughtFact] = {}

    def put(self, facts: Sequence[TaughtFact]) -> None:
        memories = [Memory(fact.answer, "correction", fact.trained, fact.answer) for fact in facts]
        self._facts |= {fact.answer: fact for fact in facts}
        self._index.put_all(memories, [self._encoder.embed(texts_of(memory)) for memory in memories])

    def recalled(self, question: str, first: str | None = None) -> str:
        """The question behind the three best of what is recalled; `first`: what stands first whatever was found."""
        (vector,) = self._encoder.embed([question])
        ids = [hit.id for hit in self._index.search(question, vector, 3, frozenset({"correction"}))]
        if first is not None:
            ids = [first, *(id for id in ids if id != first)][:3]
        return with_recalled(question, [Shown(text=id, question=self._facts[id].trained[0]) for id in ids])

    def rows(self, facts: Sequence[TaughtFact]) -> list[TrainingRow]:
        """Each wording bare, and beside it behind what is recalled for it."""
        rows = []
        for fact in facts:
            for words in fact.trained:
                bare = TrainingRow(prompt=words, answer=fact.answer, group=fact.answer)
                asked = self.recalled(words, fact.answer)
                rows += [
                    bare,
                    TrainingRow(prompt=asked, answer=fact.answer, group=f"{fact.answer} recalled", beside=True),
                ]
        return sorted(rows, key=lambda one: (one.group or "", one.prompt))
