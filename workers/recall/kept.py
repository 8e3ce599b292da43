"""Vectors kept across restarts, in `work.vectors`: computed from people's words, and so sealed with the keys of these.

A row is found again only if it was computed of the same words by the same encoder. Whoever was erased is erased here too: their key
opens nothing any more, and the rows are removed with the other places (`workers.register`).
"""

import base64
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from sqlalchemy import Engine, text

from streams.errors import Erased, Invalid
from streams.sealed import Sealed
from streams.sealing import Keyring, digest, open_sealed, seal
from streams.store import postgres_trouble

Vectors = NDArray[np.float32]


class Words(Struct, frozen=True):
    """What is embedded for a memory, and the keys that it was sealed with; the first seals the
    vectors."""

    memory_id: str
    texts: tuple[str, ...]
    kids: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Words({self.memory_id})"


class Kept:
    """The vectors of one encoder, half as exact as they were computed."""

    def __init__(self, database: Engine, keyring: Keyring, encoder: str, dims: int) -> None:
        self._database = database
        self._keyring = keyring
        self._encoder = encoder
        self._dims = dims

    def find(self, wanted: Sequence[Words]) -> dict[str, Vectors]:
        """By memory, of those that are there: shape (texts, dims). Raises Unavailable."""
        with postgres_trouble(), self._database.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT memory_id, words, vectors FROM work.vectors"
                    " WHERE encoder = :encoder AND memory_id = ANY(:ids)"
                ),
                {"encoder": self._encoder, "ids": [words.memory_id for words in wanted]},
            ).all()
        rows_of = {row.memory_id: row for row in rows}
        found: dict[str, Vectors] = {}
        for words in wanted:
            row = rows_of.get(words.memory_id)
            try:
                if row is None or row.words != self._digest(words):
                    continue
                value = base64.b64decode(open_sealed(msgspec.convert(row.vectors, Sealed), self._keyring))
            except (Erased, Invalid):
                continue
            vectors = np.frombuffer(value, np.float16).astype(np.float32)
            if vectors.size == len(words.texts) * self._dims:
                found[words.memory_id] = vectors.reshape(len(words.texts), self._dims)
        return found

    def count(self, memory_ids: Sequence[str]) -> int:
        """Of how many of them vectors are there, of whatever words. Raises Unavailable."""
        with postgres_trouble(), self._database.connect() as connection:
            return int(
                connection.execute(
                    text("SELECT count(*) FROM work.vectors WHERE encoder = :encoder AND memory_id = ANY(:ids)"),
                    {"encoder": self._encoder, "ids": list(memory_ids)},
                ).scalar_one()
            )

    def put(self, domain: str, made: Mapping[str, Vectors], words: Sequence[Words]) -> None:
        """Keep what was made of `words`. Raises Unavailable. Of whoever was erased meanwhile nothing is kept."""
        rows = []
        for one in words:
            try:
                sealed = seal(
                    base64.b64encode(made[one.memory_id].astype(np.float16).tobytes()).decode(),
                    self._keyring.find(one.kids[0]),
                    f"{one.memory_id}#vectors",
                )
                known = self._digest(one)
            except Erased:
                continue
            rows.append(
                {
                    "memory_id": one.memory_id,
                    "encoder": self._encoder,
                    "domain": domain,
                    "kids": list(one.kids),
                    "words": known,
                    "vectors": msgspec.json.encode(sealed).decode(),
                }
            )
        if not rows:
            return
        with postgres_trouble(), self._database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO work.vectors (memory_id, encoder, domain, kids, words, vectors)"
                    " VALUES (:memory_id, :encoder, :domain, :kids, :words, cast(:vectors AS jsonb))"
                    " ON CONFLICT (memory_id, encoder) DO UPDATE SET domain = excluded.domain, kids = excluded.kids,"
                    " words = excluded.words, vectors = excluded.vectors"
                ),
                rows,
            )

    def forget(self, memory_ids: Sequence[str]) -> None:
        """Of memories that are none any more. Raises Unavailable."""
        with postgres_trouble(), self._database.begin() as connection:
            connection.execute(
                text("DELETE FROM work.vectors WHERE encoder = :encoder AND memory_id = ANY(:ids)"),
                {"encoder": self._encoder, "ids": list(memory_ids)},
            )

    def _digest(self, words: Words) -> str:
        return digest(msgspec.json.encode(words.texts), self._keyring.find(words.kids[0]))
