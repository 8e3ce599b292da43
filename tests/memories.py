"""Memories for tests, found by an encoder that needs no model."""

import json
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from streams.sealing import seal
from streams.snapshots import SnapshotMemory, open_memory
from tests.keyring import Ring
from workers.recall.as_of import AsOf, Remembered

CONTEXT: Any = SimpleNamespace(check=lambda: None)


class Bags:
    """Texts as bags of words: two are near when they share many. It counts the texts that it was given."""

    name, dims = "bags", 4096

    def __init__(self) -> None:
        self.texts = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += len(texts)
        found = np.zeros((len(texts), self.dims), np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in re.findall(r"\w+", text.casefold()):
                row[crc32(word.encode()) % self.dims] += 1
            row /= max(float(np.linalg.norm(row)), 1e-9)
        return found


def sealed_correction(ring: Ring, id: str, question: str, answer: str, person: str = "ann") -> SnapshotMemory:
    key = ring.key_for(person)
    asked = json.dumps([{"role": "user", "content": question}])
    return SnapshotMemory(
        id, "correction", seal(answer, key, f"{id}#answer"), question=seal(asked, key, f"{id}#messages")
    )


def sealed_passage(ring: Ring, id: str, title: str, place: str, text: str, domain: str = "roads") -> SnapshotMemory:
    key = ring.key_for(f"domain:{domain}")
    passage = json.dumps({"place": place, "text": text, "start": 0, "end": len(text)})
    name = json.dumps({"name": f"{title}.txt", "title": title})
    return SnapshotMemory(
        id, "passage", seal(passage, key, f"{id}#passage"), title=seal(name, key, f"{id}-document#title")
    )


def remembered(ring: Ring, sealed: SnapshotMemory, *wordings: str) -> Remembered:
    memory = open_memory(sealed, ring)
    assert memory is not None
    return Remembered((memory.question, *wordings) if sealed.kind == "correction" else (), memory, sealed)


def memory_of(ring: Ring, *sealed: SnapshotMemory) -> AsOf:
    return AsOf([remembered(ring, one) for one in sealed], CONTEXT, Bags())
