"""Ask the memory of a domain what it recalls for a question. Used by the door; what it is asked of is `workers.recall`.

It answers with ids and scores only. Whoever wants the words reads and opens them where they stand (`streams.reading`): what
was taken out or erased a moment ago is not there any more.
"""

import httpx
import msgspec
from msgspec import Struct

from streams.errors import Unavailable
from streams.recalled import MemoryKind, Recall, Recalled

TIMEOUT_S = 0.25  # an answer does not wait longer for what it can do without
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


_answer = msgspec.json.Decoder(Answer)


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
        if not self._base_url:
            raise Unavailable("no memory is set up (NORIA_RECALL)")
        asked = Question(domain, question, tuple(sorted(recall.kinds)), recall.most, recall.least)
        try:
            said = self._client.post(f"{self._base_url}/recall", content=msgspec.json.encode(asked))
        except httpx.HTTPError as error:
            raise Unavailable(f"the memory does not answer: {type(error).__name__}") from None
        if said.status_code != 200:
            raise Unavailable(f"the memory answers with status {said.status_code}")
        try:
            return _answer.decode(said.content).recalled
        except msgspec.MsgspecError:
            raise Unavailable("the memory answers what cannot be read") from None

    def close(self) -> None:
        self._client.close()
