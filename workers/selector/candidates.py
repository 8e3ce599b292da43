"""What a step of a selection is given, and what it says of it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from streams.selection import Source

Vectors = NDArray[np.float32]


class OpenExample(Struct, frozen=True, kw_only=True):
    """One example, opened. `context` is what came before the question (system text and history), as one string. `learned`: by the
    release that the round starts from; `confirmed`: an annotator has looked at it again and found it good. `weight`: how often it
    is shown while others are shown once."""

    example_id: str
    person: str
    question: str
    context: str
    answer: str
    said_at: datetime
    learned: bool
    source: Source = "correction"
    confirmed: bool = False
    weight: float = 1.0

    def __repr__(self) -> str:
        return f"OpenExample({self.example_id})"  # people's words must not reach a log through a traceback


class Decision(Struct, frozen=True):
    """`reason` is empty for what is kept. `number`: by which it was decided, where there is one, in the step's own measure;
    `neighbour`: next to which other (an example, or a question of the exam). `weight`: how often it is to be shown from here on,
    None: as before."""

    example_id: str
    kept: bool
    reason: str = ""
    number: float | None = None
    neighbour: str | None = None
    weight: float | None = None


class Instruments(Protocol):
    """What a step may measure candidates by, beside their words. All may raise Cancelled or Unavailable."""

    @property
    def exam(self) -> Mapping[str, str]:
        """The questions of the exam, by item."""

    @property
    def mask(self) -> Collection[str]:
        """The kinds of personal data that are masked in what is learned and in what is asked."""

    def tokens(self, candidate: OpenExample) -> int | None:
        """How long it is as a row of the training; None: too long."""

    def vectors(self, candidates: Sequence[OpenExample]) -> Vectors:
        """Of questions with their answers: unit length, shape (candidates, dims)."""

    def question_vectors(self, candidates: Sequence[OpenExample]) -> Vectors:
        """Of the questions alone, in the same space as `embed`."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Of other texts, as the above."""

    def gains(self, shots: Sequence[OpenExample], tasks: Sequence[OpenExample]) -> NDArray[np.float64]:
        """By how much likelier each shot makes the answer of each task, in nats a token: shape (shots, tasks). The model is the one
        that the round starts from."""

    @property
    def anew(self) -> bool:
        """Whether what was learned already is new to the model that the round starts from: a base."""

    def losses(self, candidates: Sequence[OpenExample]) -> NDArray[np.float64]:
        """Mean nats a token that the answer of each costs the same model, behind its question, and by itself: shape (candidates,
        2). 0 and 0 for what the model cannot read."""

    def check(self) -> None:
        """Raise Cancelled where the order is not wanted any more."""


class Judge(Protocol):
    """A step's function. It decides on every candidate, and says so in the order in which it prefers them; who has no preference
    keeps theirs. The same candidates, recipe, libraries and machine: the same decisions. Raises Invalid where the step cannot be
    carried out on these."""

    def __call__(self, step: Any, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]: ...
