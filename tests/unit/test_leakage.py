"""A hundred questions of an exam, planted among what is to be learned: how many are known, and by which means."""

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from streams.selection import Leakage
from tests.candidates import Measures
from tests.leaked import WAYS, exam, others, planted
from workers.recall.encoder import sentence_encoder
from workers.selector.candidates import Vectors
from workers.selector.leakage import Guard


class Meant(Measures):
    """By the memory's own encoder."""

    known: ClassVar[dict[str, Vectors]] = {}

    def embed(self, texts: Sequence[str]) -> Vectors:
        new = [text for text in texts if text not in self.known]
        self.known.update(zip(new, sentence_encoder().embed(new), strict=True))
        return np.stack([self.known[text] for text in texts])


@pytest.mark.parametrize(
    ("step", "known"),
    [
        (Leakage(), (20, 0, 0, 0, 0)),
        (Leakage(overlap=0.9), (20, 20, 4, 4, 0)),
        (Leakage(overlap=0.7), (20, 20, 20, 20, 0)),
        (Leakage(cosine=0.85), (20, 20, 20, 20, 2)),
        (Leakage(overlap=0.7, cosine=0.8), (20, 20, 20, 20, 4)),
    ],
    ids=["words", "nine tenths of the trigrams", "seven tenths", "meaning", "all three"],
)
def test_of_a_hundred_planted_questions_of_the_exam_so_many_are_known(step: Leakage, known: tuple[int, ...]) -> None:
    """As `deploy/selection.md` says."""
    asked, questions = planted(), exam()
    assert len(asked) == 100 and len(questions) == 20
    guard = Guard(step, Meant(questions))
    found = guard.leaks([question for _, question in asked])
    assert all(leak is None or leak[2] in questions for leak in found)
    by_way = Counter(way for (way, _), leak in zip(asked, found, strict=True) if leak is not None)
    assert tuple(by_way[way] for way in WAYS) == known
    assert guard.leaks(others()[::16]) == [None] * 60, "nobody is accused falsely"
