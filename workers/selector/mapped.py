"""The map of a training set: its examples in two dimensions, near to each other where they say the same (t-SNE, van der Maaten &
Hinton 2008, as scikit-learn has it), each time alike. The memory is asked for it, which has the encoder; a child lays it out."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from sqlalchemy import Engine

from streams.history import before
from streams.reading.learning import examples_as_of, line_of_round
from streams.reading.memories import recall_of
from streams.recall_client import MapAnswer, MapQuestion
from streams.recalled import Recall
from streams.sealing import Keyring
from streams.store import postgres_trouble
from workers.asked import answer, ask
from workers.recall.encoder import Encoder
from workers.recall.kept import Kept
from workers.selector.candidates import Vectors
from workers.selector.embedded import as_kept, embedded, words_of
from workers.selector.opened import open_examples

PERPLEXITY = 30.0  # neighbours that count for each, where there are so many
FEW = 5  # of which t-SNE makes nothing


class Layout(Struct, frozen=True):
    """`vectors`: float32, row by row. Lives in memory only."""

    vectors: bytes
    dims: int


class Laid(Struct, frozen=True, tag="laid", tag_field="kind"):
    places: tuple[tuple[float, float], ...]


class Maps:
    """One is laid out at a time: it takes a core for seconds."""

    def __init__(self, database: Engine, keyring: Keyring, encoder_of: Callable[[Recall], Encoder]) -> None:
        self._database, self._keyring, self._encoder_of = database, keyring, encoder_of
        self._alone = threading.Lock()

    def lay_out(self, asked: MapQuestion) -> MapAnswer:
        """Raises Invalid, Unavailable."""
        wanted = set(asked.examples)
        with postgres_trouble(), self._database.connect() as connection:
            line = line_of_round(connection, asked.domain, asked.round_id)
            recall = recall_of(connection, asked.domain)
            rows = examples_as_of(connection, asked.domain, asked.pin, line)
            sealed = {row.example_id: row for row in rows if row.example_id in wanted}
            earlier = before(connection, {row.follows for row in sealed.values()})
        with self._alone:
            found = open_examples(list(sealed.values()), earlier, frozenset(), self._keyring).candidates
            if not found:
                return MapAnswer({})
            encoder = self._encoder_of(recall)
            kept = Kept(self._database, self._keyring, encoder.name, encoder.dims)
            words = [words_of(one, sealed[one.example_id]) for one in found]
            vectors = embedded(asked.domain, words, kept, lambda texts: as_kept(encoder.embed(texts)))
            ids = sorted(vectors)  # so that the order in which they are asked for changes nothing
            whole = np.stack([vectors[id][1] for id in ids])
            laid = ask(__name__, Layout(whole.tobytes(), whole.shape[1]), Laid, lambda: None)
        return MapAnswer(dict(zip(ids, laid.places, strict=True)))


def places(vectors: Vectors) -> NDArray[np.float64]:
    """Of unit vectors, shape (n, dims): x and y, from 0 to 1, shape (n, 2). What is equal lies in one place where all are equal."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    found = np.zeros((len(vectors), 2))
    if len(vectors) > 1 and np.ptp(vectors, axis=0).max() > 1e-6:
        first = PCA(2, svd_solver="full").fit_transform(vectors.astype(np.float64))
        if len(vectors) <= FEW:
            found = first
        else:
            start = first / max(float(np.std(first[:, 0])), 1e-12) * 1e-4
            fit = TSNE(perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3), init=start, random_state=0, n_jobs=1)
            found = fit.fit_transform(vectors).astype(np.float64)
    lowest, span = found.min(axis=0), max(float(np.ptp(found, axis=0).max()), 1e-12)
    return np.asarray(np.round((found - lowest + (span - np.ptp(found, axis=0)) / 2) / span, 4))


def _lay_out(task: Layout) -> Laid:
    vectors = np.frombuffer(task.vectors, np.float32).reshape(-1, task.dims)
    found: Any = places(vectors).tolist()
    return Laid(tuple((x, y) for x, y in found))


if __name__ == "__main__":
    raise SystemExit(answer(Layout, _lay_out, with_torch=False))
