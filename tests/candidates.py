"""Candidates of a selection, and what they are measured by, for tests: vectors that a test gives, and no model."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.memories import Bags
from workers.selector.candidates import OpenExample, Vectors

START = datetime(2026, 3, 1, tzinfo=UTC)


def candidate(name: str, question: str = "", answer: str = "", hour: int = 0, **more: Any) -> OpenExample:
    """A correction, unless it is said otherwise."""
    said = {"person": "ana", "context": "", "said_at": START + timedelta(hours=hour), "learned": False} | more
    return OpenExample(
        example_id=name, question=question or f"What is {name}?", answer=answer or f"It is {name}.", **said
    )


class Measures:
    """`lengths`: tokens by example (one of which it says None is too long), 10 for others. `given`: vectors by example; else texts
    are bags of words. `losses`: by example, behind its question and by itself; else it cannot be read."""

    def __init__(
        self,
        exam: Mapping[str, str] | None = None,
        lengths: Mapping[str, int | None] | None = None,
        given: Mapping[str, Vectors] | None = None,
        losses: Mapping[str, tuple[float, float]] | None = None,
        anew: bool = False,
    ) -> None:
        self.exam = exam or {}
        self.mask: tuple[str, ...] = ()
        self.anew, self._losses = anew, losses or {}
        self._lengths, self._given, self._bags = lengths or {}, given, Bags()

    def tokens(self, candidate: OpenExample) -> int | None:
        return self._lengths.get(candidate.example_id, 10)

    def vectors(self, candidates: Sequence[OpenExample]) -> Vectors:
        if self._given is not None:
            return np.stack([self._given[one.example_id] for one in candidates])
        return self.embed([f"{one.question} {one.answer}" for one in candidates])

    def question_vectors(self, candidates: Sequence[OpenExample]) -> Vectors:
        return self.embed([one.question for one in candidates])

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._bags.embed(texts)

    def gains(self, shots: Sequence[OpenExample], tasks: Sequence[OpenExample]) -> NDArray[np.float64]:
        """As many of the tasks are helped as the shot's answer has words, each by a tenth of a nat; the others are hurt."""
        helped = [[place < len(shot.answer.split()) for place in range(len(tasks))] for shot in shots]
        return np.where(np.array(helped), 0.1, -0.1)

    def losses(self, candidates: Sequence[OpenExample]) -> NDArray[np.float64]:
        return np.array([self._losses.get(one.example_id, (0.0, 0.0)) for one in candidates])

    def check(self) -> None:
        pass
