"""What a round's candidates are measured by: the tokens of the training's own rows, and vectors by the memory's own encoder, kept
across rounds, so that a round embeds only what is new."""

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from importlib import metadata

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.errors import Invalid
from streams.orders import SelectSnapshot
from streams.personal import masked
from streams.reading.learning import Example
from streams.snapshots import Opened, masked_prompt
from workers.asked import ask
from workers.context import Context
from workers.models.chat_tokens import ChatTokens
from workers.recall.encoder import Encoder, encoder_of
from workers.recall.kept import Kept, Words
from workers.selector import perplexity
from workers.selector.candidates import OpenExample, Vectors
from workers.selector.embedded import as_kept, embedded, words_of
from workers.selector.golden import Gains, Task, Turn
from workers.trainer.rows import encode_rows, row_limit
from workers.trainer.spec import TrainingRow

SHOTS_AT_ONCE = 32  # that are ranked by one child, and kept: what a worker that takes the order up need not do again
LOSSES_AT_ONCE = 256  # examples, likewise
AT_ONCE = 1024  # texts that are embedded between two looks at whether the order is still wanted
_LIBRARIES = ("numpy", "faiss-cpu", "rapidfuzz")

Length = Callable[[Opened, str], int | None]
"""How many tokens a prompt has with its answer; None: more than are learned."""


class RoundInstruments:
    """Those of one round; `lives` in memory only."""

    def __init__(
        self,
        order: SelectSnapshot,
        context: Context,
        examples: Sequence[Example],
        prompts: Mapping[str, Opened],
        exam: Mapping[str, str],
        length: Length,
    ) -> None:
        self.exam, self.mask, self.anew = exam, order.mask, order.anew
        self._order, self._context = order, context
        self._sealed = {row.example_id: row for row in examples}
        self._prompts = prompts
        self._length = length
        self._vectors: dict[str, Vectors] = {}  # by example: of its question, and of that with its answer
        self.measured_with: dict[str, str] = {}
        self._asked: Encoder | None = None

    def __repr__(self) -> str:
        return f"RoundInstruments({self._order.round_id})"

    def tokens(self, candidate: OpenExample) -> int | None:
        return self._length(self._prompts[candidate.example_id], candidate.answer)

    def vectors(self, candidates: Sequence[OpenExample]) -> Vectors:
        return self._of(candidates, 1)

    def question_vectors(self, candidates: Sequence[OpenExample]) -> Vectors:
        return self._of(candidates, 0)

    def embed(self, texts: Sequence[str]) -> Vectors:
        encoder = self._encoder()
        found = [np.zeros((0, encoder.dims), np.float32)]
        for start in range(0, len(texts), AT_ONCE):
            self.check()
            found.append(as_kept(encoder.embed(texts[start : start + AT_ONCE])))
        return np.concatenate(found)

    def gains(self, shots: Sequence[OpenExample], tasks: Sequence[OpenExample]) -> NDArray[np.float64]:
        model = self._model("nuggets")
        # Of another model, or other tasks, they are others.
        about = hashlib.sha256("\n".join([model, *(task.example_id for task in tasks)]).encode()).hexdigest()
        kept = Kept(self._context.database, self._context.keyring, f"gains/{about}", len(tasks))
        kids = {kid for task in tasks for kid in self._words(task).kids}
        found: dict[str, Vectors] = {}
        for start in range(0, len(shots), SHOTS_AT_ONCE):
            self._context.progress(self._order, "select", start, len(shots))
            some = {one.example_id: one for one in shots[start : start + SHOTS_AT_ONCE]}
            words = [self._gained(one, kids) for one in some.values()]
            found |= kept.find(words)
            new = [one for one in words if one.memory_id not in found]
            if new:
                task = Task(
                    str(self._context.artifacts.path(model)),
                    tuple(_turn(some[one.memory_id.partition("#")[0]]) for one in new),
                    tuple(map(_turn, tasks)),
                )
                gains = ask("workers.selector.golden", task, Gains, self.check).gains
                made = {one.memory_id: _half(of) for one, of in zip(new, gains, strict=True)}
                kept.put(self._order.domain, made, new)
                found |= made
        return np.concatenate([found[f"{one.example_id}#gains"] for one in shots]).astype(np.float64)

    def losses(self, candidates: Sequence[OpenExample]) -> NDArray[np.float64]:
        model = self._model("hard")
        kept = Kept(self._context.database, self._context.keyring, f"losses/{model}", 2)
        found: dict[str, Vectors] = {}
        for start in range(0, len(candidates), LOSSES_AT_ONCE):
            self._context.progress(self._order, "select", start, len(candidates))
            rows = {f"{one.example_id}#losses": self._row(one) for one in candidates[start : start + LOSSES_AT_ONCE]}
            words = [self._answered(one, rows) for one in candidates[start : start + LOSSES_AT_ONCE]]
            found |= kept.find(words)
            new = [one for one in words if one.memory_id not in found]
            if new:
                task = perplexity.Task(
                    str(self._context.artifacts.path(model)), tuple(rows[one.memory_id] for one in new)
                )
                losses = ask("workers.selector.perplexity", task, perplexity.Losses, self.check).losses
                made = {one.memory_id: _half(of) for one, of in zip(new, losses, strict=True)}
                kept.put(self._order.domain, made, new)
                found |= made
        if not candidates:
            return np.zeros((0, 2))
        return np.concatenate([found[f"{one.example_id}#losses"] for one in candidates]).astype(np.float64)

    def check(self) -> None:
        self._context.check()

    def _model(self, step: str) -> str:
        """That the round starts from."""
        model = self._order.base_model
        if model is None:
            raise Invalid(f"the order names no model, by which the step {step} could measure anything")
        self.measured_with |= {name: metadata.version(name) for name in ("torch", "transformers")}
        return model

    def _encoder(self) -> Encoder:
        """The memory's. Raises Invalid or Unavailable where an endpoint may not be asked."""
        if self._asked is None:
            self._asked = encoder_of(self._order.recall, self._context.settings)
            self.measured_with |= {name: metadata.version(name) for name in _LIBRARIES} | {"encoder": self._asked.name}
        return self._asked

    def _of(self, candidates: Sequence[OpenExample], place: int) -> Vectors:
        missing = [one for one in candidates if one.example_id not in self._vectors]
        encoder = self._encoder()
        kept = Kept(self._context.database, self._context.keyring, encoder.name, encoder.dims)
        for start in range(0, len(missing), AT_ONCE):
            self._context.progress(self._order, "select", start, len(missing))
            words = [self._words(one) for one in missing[start : start + AT_ONCE]]
            self._vectors |= embedded(self._order.domain, words, kept, self.embed)
        if not candidates:
            return np.zeros((0, encoder.dims), np.float32)
        return np.stack([self._vectors[one.example_id][place] for one in candidates])

    def _row(self, candidate: OpenExample) -> TrainingRow:
        """As it will be trained on, bare."""
        asked = masked_prompt(self._prompts[candidate.example_id], self.mask)
        answer = masked(candidate.answer, self.mask)[0]
        return TrainingRow(prompt=asked.question, answer=answer, system=asked.system, history=asked.history)

    def _answered(self, candidate: OpenExample, rows: Mapping[str, TrainingRow]) -> Words:
        words, name = self._words(candidate), f"{candidate.example_id}#losses"
        return Words(name, (msgspec.json.encode(rows[name]).decode(),), words.kids)

    def _gained(self, candidate: OpenExample, kids: Set[str]) -> Words:
        words = self._words(candidate)
        first = words.kids[0]
        return Words(f"{candidate.example_id}#gains", words.texts[1:], (first, *sorted({*words.kids, *kids} - {first})))

    def _words(self, candidate: OpenExample) -> Words:
        return words_of(candidate, self._sealed[candidate.example_id])


def _turn(candidate: OpenExample) -> Turn:
    return Turn(candidate.question, candidate.answer)


def _half(numbers: Sequence[float]) -> Vectors:
    """One row, half as exact as it was computed, as it is kept."""
    return np.array([numbers], np.float32).astype(np.float16).astype(np.float32)


def length_of(order: SelectSnapshot, context: Context) -> Length:
    """By the very function that will encode the rows. An order that names no base or recipe knows no length."""
    if order.base_model is None or order.recipe is None:
        return lambda asked, answer: 0
    folder = context.artifacts.path(order.base_model)
    tokens, limit = ChatTokens(folder), row_limit(folder, order.recipe)

    def length(asked: Opened, answer: str) -> int | None:
        # Turns before it are left out, if need be.
        learned, answer = masked_prompt(asked, order.mask), masked(answer, order.mask)[0]
        rows = encode_rows(tokens, [TrainingRow(prompt=learned.question, answer=answer, system=learned.system)], limit)
        return len(rows[0].ids) if rows else None

    return length
