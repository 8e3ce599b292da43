"""Ask the memory of a domain what it recalls for a question. Used by the door; what it is asked of is `workers.recall`.

It answers with ids and scores only. Whoever wants the words reads and opens them where they stand (`streams.reading`): what
was taken out or erased a moment ago is not there any more.
"""

from typing import TypeVar

import httpx
import msgspec
from msgspec import Struct

from streams.errors import Unavailable
from streams.recalled import MemoryKind, Recall, Recalled

MOST_PLACES = 1000  # of a map: more are not told apart on it
TIMEOUT_S = 0.25  # an answer does not wait longer for what it can do without
Said = TypeVar("Said")
KEY = "recall"  # what the key between door and memory is derived for


class Question(Struct, frozen=True):
    """`least` None: as the calibration says."""

    domain: str
    question: str
    kinds: tuple[MemoryKind, ...]
    most: int
    least: float | None = None

    def __repr__(self) -> str:
        return f"Question({self.domain})"  # people's words must not reach a log through a traceback


class Answer(Struct, frozen=True):
    recalled: tuple[Recalled, ...]


class MapQuestion(Struct, frozen=True):
    """Where those `examples` of a round's candidates lie beside each other, by what they mean."""

    domain: str
    round_id: str
    pin: int
    examples: tuple[str, ...]


class MapAnswer(Struct, frozen=True):
    """By example: x and y, from 0 to 1. Without those whose words open no more."""

    places: dict[str, tuple[float, float]]


_answer = msgspec.json.Decoder(Answer)
_map_answer = msgspec.json.Decoder(MapAnswer)


class RecallClient:
    """Thread-safe. `base_url` empty: there is no memory."""

    def __init__(self, base_url: str, key: str, timeout_s: float = TIMEOUT_S) -> None:
        self._base_url = base_url
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout_s,
            trust_env=False,
            # More would be closed and opened again while many ask at once.
            limits=httpx.Limits(max_connections=256, max_keepalive_connections=256),
        )

    def recall(self, domain: str, question: str, recall: Recall) -> tuple[Recalled, ...]:
        """What fits, the best first. Raises Unavailable when the memory does not say so in time."""
        asked = Question(domain, question, tuple(sorted(recall.kinds)), recall.most, recall.least)
        return self._ask("recall", asked, _answer).recalled

    def map(self, asked: MapQuestion) -> dict[str, tuple[float, float]]:
        """Raises Unavailable."""
        return self._ask("map", asked, _map_answer).places

    def _ask(self, what: str, asked: Struct, decoder: msgspec.json.Decoder[Said]) -> Said:
        if not self._base_url:
            raise Unavailable("no memory is set up (NORIA_RECALL)")
        try:
            said = self._client.post(f"{self._base_url}/{what}", content=msgspec.json.encode(asked))
        except httpx.HTTPError as error:
            raise Unavailable(f"the memory does not answer: {type(error).__name__}") from None
        if said.status_code != 200:
            raise Unavailable(f"the memory answers with status {said.status_code}")
        try:
            return decoder.decode(said.content)
        except msgspec.MsgspecError:
            raise Unavailable("the memory answers what cannot be read") from None

    def close(self) -> None:
        self._client.close()
