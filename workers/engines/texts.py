"""The text of an answer as its tokens come: whole characters only, and nothing that may be the beginning of a stop string."""

from collections.abc import Callable, Sequence
from typing import Any

from workers.models.golden import whole_characters

Told = dict[str, Any]  # what is told of a token, under OpenAI's names


class Text:
    """`decode` turns an answer's tokens into text; `bytes_of` says what each token stands for."""

    def __init__(
        self, decode: Callable[[list[int]], str], bytes_of: Callable[[int], bytes], stops: Sequence[str] = ()
    ) -> None:
        self._decode = decode
        self._bytes_of = bytes_of
        self._stops = [stop for stop in stops if stop]
        self._tokens: list[int] = []
        self._tail = b""  # the last bytes: whether a character is whole
        self._text = ""
        self._shown = 0
        self._waiting: list[tuple[int, Told]] = []  # what is told of tokens, by where their text ends
        self.stopped = False

    def add(self, token: int, told: Told | None) -> tuple[str, list[Told]]:
        """What can be shown now that `token` was drawn, and what is told of it (under `token`: its text). As llama.cpp has it,
        nothing is told of a token that leaves a character unfinished."""
        self._tokens.append(token)
        self._tail = (self._tail + self._bytes_of(token))[-4:]
        if not whole_characters([self._tail])[0]:
            return "", []
        before, self._text = self._text, self._decode(self._tokens)
        if told is not None:
            self._waiting.append((len(self._text), told | {"token": self._text[len(before) :]}))
        found = [at for stop in self._stops if (at := self._text.find(stop, self._shown)) >= 0]
        self.stopped = bool(found)
        return self._show(min(found) if found else len(self._text) - self._held())

    def rest(self) -> tuple[str, list[Told]]:
        """What was held back, now that nothing follows."""
        return ("", []) if self.stopped else self._show(len(self._text))

    def _show(self, end: int) -> tuple[str, list[Told]]:
        shown, self._shown = self._text[self._shown : end], max(self._shown, end)
        told = [one for at, one in self._waiting if at <= end]
        self._waiting = [(at, one) for at, one in self._waiting if at > end]
        return shown, told

    def _held(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        new = self._text[self._shown :]
        return max(
            (n for stop in self._stops for n in range(1, min(len(stop), len(new) + 1)) if new.endswith(stop[:n])),
            default=0,
        )
