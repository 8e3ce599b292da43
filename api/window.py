"""A conversation longer than its model's window: its oldest turns are left out, as few as will do."""

import threading
from collections.abc import Callable, Sequence

from streams.engine_client import ContextExceeded

Messages = list[dict[str, str]]
# No text has more tokens than bytes, and no template says more than this around a message, and by itself.
_TOKENS_A_MESSAGE = 16
_TOKENS_OF_TEMPLATE = 128


class Window:
    """What of `messages` an engine is shown. What the system says and the last message are never left out.

    `context_tokens`: prompt and answer together; None: nobody knows, and only what an engine refuses is shortened. A quarter of
    them, or `answer_tokens` if these are fewer, is kept free for the answer. Thread-safe: the drafts of one prompt share it.
    """

    def __init__(self, messages: Messages, context_tokens: int | None, answer_tokens: int) -> None:
        self._messages = messages
        self._context_tokens = context_tokens
        self._room = min(answer_tokens, (context_tokens or 0) // 4)
        self._lock = threading.Lock()
        self._turns = [number for number, message in enumerate(messages) if message["role"] != "system"]
        # How many messages may be left out, so that a turn of the person's comes first.
        self._cuts = [0, *(n for n, at in enumerate(self._turns) if n and messages[at]["role"] == "user")]
        self._at = 0
        self._fitted = False

    @property
    def left_out(self) -> int:
        """How many messages the engine is not shown."""
        return self._cuts[self._at]

    def shown(self, count: Callable[[Messages], int] | None) -> Messages:
        """The messages that fit, by what `count` says of their tokens; all of them where nobody counts.

        Raises ContextExceeded when the last message alone does not fit, and whatever `count` raises.
        """
        with self._lock:
            if not self._fitted and count is not None and self._context_tokens is not None:
                self._fit(self._context_tokens, count)
            self._fitted = True
            return self._after(self._cuts[self._at])

    def shorten(self, refused: ContextExceeded, shown: Messages) -> None:
        """An engine that does not count refused `shown`: leave out half of what may still be. Raises `refused` if nothing may."""
        with self._lock:
            if len(shown) > len(self._messages) - self._cuts[self._at]:
                return  # another draft has shortened it since
            if self._at == len(self._cuts) - 1:
                raise refused
            self._at = (self._at + len(self._cuts)) // 2

    def _fit(self, context_tokens: int, count: Callable[[Messages], int]) -> None:
        most = context_tokens - self._room
        if _highest(self._messages) <= most or count(self._messages) <= most:
            return
        low, high = 1, len(self._cuts)  # the first cut that fits; fewer turns are fewer tokens
        while low < high:
            middle = (low + high) // 2
            if count(self._after(self._cuts[middle])) <= most:
                high = middle
            else:
                low = middle + 1
        self._at = min(low, len(self._cuts) - 1)
        if low == len(self._cuts):
            least = count(self._after(self._cuts[-1]))
            if least >= context_tokens:
                raise ContextExceeded(least, context_tokens)

    def _after(self, left_out: int) -> Messages:
        absent = set(self._turns[:left_out])
        return [message for number, message in enumerate(self._messages) if number not in absent]


def _highest(messages: Sequence[dict[str, str]]) -> int:
    said = sum(len(message["content"].encode()) for message in messages)
    return said + _TOKENS_A_MESSAGE * len(messages) + _TOKENS_OF_TEMPLATE
