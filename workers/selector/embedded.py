"""Examples as vectors, kept across rounds (`work.vectors`): of the question, and of that with its answer."""

from collections.abc import Callable, Sequence

import numpy as np

from streams.reading.learning import Example
from workers.recall.kept import Kept, Words
from workers.selector.candidates import OpenExample, Vectors


def words_of(candidate: OpenExample, sealed: Example) -> Words:
    """Apart from the memory's own of the same example, which are of other texts."""
    kids = (sealed.answer.kid, *sorted({sealed.prompt.kid} - {sealed.answer.kid}))
    whole = f"{candidate.question}\n{candidate.answer}"
    return Words(f"{candidate.example_id}#selection", (candidate.question, whole), kids)


def embedded(
    domain: str, words: Sequence[Words], kept: Kept, embed: Callable[[Sequence[str]], Vectors]
) -> dict[str, Vectors]:
    """By example: shape (2, dims). What is new is embedded, and kept. Raises what `embed` does, and Unavailable."""
    found = kept.find(words)
    new = [one for one in words if one.memory_id not in found]
    if new:
        vectors = embed([text for one in new for text in one.texts]).reshape(len(new), 2, -1)
        made = {one.memory_id: of for one, of in zip(new, vectors, strict=True)}
        kept.put(domain, made, new)
        found |= made
    # Whether they stood there already makes no difference.
    return {id.partition("#")[0]: as_kept(vectors) for id, vectors in found.items()}


def as_kept(vectors: Vectors) -> Vectors:
    """Half as exact as they were computed, as they are kept, and of unit length again."""
    half = vectors.astype(np.float16).astype(np.float32)
    return np.asarray(half / np.maximum(np.linalg.norm(half, axis=-1, keepdims=True), 1e-12), np.float32)
