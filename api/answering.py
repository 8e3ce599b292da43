"""The drafts of one prompt, asked of the engine it is pinned to, side by side."""

import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from queue import Empty, SimpleQueue

from msgspec import Struct, field
from msgspec.structs import replace

from api.chat_request import ChatRequest
from api.metrics import Metrics
from api.routing import Pin, Routes, Served, engine_key
from api.window import Window
from streams.control_tokens import escape_control_tokens
from streams.engine_client import (
    ANY_SEED,
    ContextExceeded,
    Delta,
    TokenLogprob,
    chat_stream,
    count_tokens,
    counts_tokens,
)
from streams.errors import Unavailable

ENGINE_PATIENCE_S = 15.0  # for an engine that died to come back, before the request fails
WAKING_PATIENCE_S = 60.0  # for one that slept
_LOOK_S = 0.25


class Draft(Struct):
    """One draft as it grows. `finish_reason` is there when it is whole."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration_s: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Piece(Struct, frozen=True):
    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class _Again(Struct, frozen=True):
    """What this draft had so far is void: its engine died, and nobody has seen it."""

    index: int


class _Whole(Struct, frozen=True):
    index: int
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    duration_s: float


class _Failed(Struct, frozen=True):
    index: int
    error: Exception


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Answering:
    """Runs a thread a draft; `pieces` hands on what comes, and ends when every draft is whole.

    `may_restart`: nothing is shown before everything is whole, so an engine that dies in the middle may begin anew.
    The pin's count goes down as each draft ends, however it ends; `close` makes them end soon.
    """

    def __init__(
        self,
        chat: ChatRequest,
        pin: Pin,
        routes: Routes,
        derive: Callable[[str], str],
        metrics: Metrics,
        may_restart: bool,
    ) -> None:
        self.drafts = [Draft() for _ in range(chat.drafts)]
        self._chat = chat
        self._pin = pin
        self._routes = routes
        self._key = engine_key(derive, pin.engine_id)
        self._metrics = metrics
        self._may_restart = may_restart
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._window: Window | None = None
        self._queue: SimpleQueue[Piece | _Again | _Whole | _Failed] = SimpleQueue()
        self._started_at = time.monotonic()
        self._woken = False
        for index in range(chat.drafts):
            threading.Thread(target=self._run, args=(index,), name=f"draft-{index}", daemon=True).start()

    def pieces(self, client_gone: Callable[[], bool]) -> Iterator[list[Piece]]:
        """The pieces of text as they come: each time all that are there, so that a door that is busy falls behind by no more than
        one writing. Raises ClientLeft, Unavailable (the engine broke off) or Invalid (it refused)."""
        left = len(self.drafts)
        while left:
            came: list[Piece] = []
            failed: Exception | None = None
            for said in self._come():
                draft = self.drafts[said.index]
                match said:
                    case Piece(_, text, logprobs):
                        draft.pieces.append(text)
                        draft.logprobs += logprobs
                        came.append(said)
                    case _Again():
                        draft.pieces.clear()
                        draft.logprobs.clear()
                    case _Whole():
                        draft.finish_reason = said.finish_reason
                        draft.prompt_tokens = said.prompt_tokens
                        draft.completion_tokens = said.completion_tokens
                        draft.duration_s = said.duration_s
                        left -= 1
                    case _Failed():
                        failed = said.error
            if came:
                yield came
            if failed is not None:
                raise failed
            if client_gone():
                raise ClientLeft

    def _come(self) -> Iterator[Piece | _Again | _Whole | _Failed]:
        """What is there, waiting a moment for the first."""
        try:
            yield self._queue.get(timeout=_LOOK_S)
            while True:
                yield self._queue.get_nowait()
        except Empty:
            return

    def close(self) -> None:
        """Whoever still answers may stop. Doing it again changes nothing."""
        with self._lock:
            self._closed.set()
            for connection in self._connections:
                _hang_up(connection)

    @property
    def left_out(self) -> int:
        """How many of the oldest messages did not fit into the window, and were not shown to the engine."""
        return self._window.left_out if self._window is not None else 0

    def _run(self, index: int) -> None:
        try:
            self._queue.put(self._answer(index))
        except Exception as error:
            if isinstance(error, ClientLeft):
                self._metrics.cancelled.labels(self._pin.domain).inc()
            self._queue.put(_Failed(index, error))
        finally:
            self._routes.unpin(self._pin.engine_id)

    def _answer(self, index: int) -> _Whole:
        deadline = time.monotonic() + ENGINE_PATIENCE_S
        while True:
            shown = False
            try:
                # Closing the stream closes the connection: the engine's slot is free at once.
                with closing(self._stream(index)) as deltas:
                    for delta in deltas:
                        if self._closed.is_set():
                            raise ClientLeft
                        if delta.text or delta.logprobs:
                            if index == 0 and not shown:
                                self._metrics.first_token_s.labels(self._pin.domain).observe(self._elapsed_s())
                            shown = True
                            self._queue.put(Piece(index, delta.text, delta.logprobs))
                        if delta.finish_reason is not None:
                            return _Whole(
                                index,
                                delta.finish_reason,
                                delta.prompt_tokens,
                                delta.completion_tokens,
                                self._elapsed_s(),
                            )
                raise Unavailable("the engine's answer has no end")
            except Unavailable:
                if self._closed.is_set():
                    raise ClientLeft from None
                if shown and not self._may_restart:
                    self._metrics.broken.labels(self._pin.domain).inc()
                    raise
                if self._woken:
                    deadline = self._started_at + WAKING_PATIENCE_S
                if time.monotonic() >= deadline or not self._await_engine(deadline):
                    self._metrics.broken.labels(self._pin.domain).inc()
                    raise
                if shown:
                    self._queue.put(_Again(index))

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_at

    def _stream(self, index: int) -> Generator[Delta, None, None]:
        engine = self._routes.ready(self._pin.engine_id)
        if engine is None or engine.base_url is None:
            self._woken |= self._routes.wake(self._pin.engine_id)
            raise Unavailable("the engine is not ready")
        base_url, key, window = engine.base_url, self._key, self._window_of(engine)
        sampling = replace(self._chat.sampling, seed=(self._chat.sampling.seed + index) % ANY_SEED)
        count = (lambda messages: count_tokens(base_url, key, messages)) if counts_tokens(engine.kind) else None
        while True:
            messages = window.shown(count)
            try:
                yield from chat_stream(
                    base_url, key, self._pin.engine_id, messages, sampling, connected=self._keep_connection
                )
                return
            except ContextExceeded as refused:
                window.shorten(refused, messages)

    def _window_of(self, engine: Served) -> Window:
        """One for all drafts; an engine that comes back is of the same model."""
        with self._lock:
            if self._window is None:
                tokens = engine.control_tokens or ()
                messages = [
                    {"role": message["role"], "content": escape_control_tokens(message["content"], tokens)}
                    for message in self._chat.messages
                ]
                self._window = Window(messages, engine.context_tokens, self._chat.sampling.max_tokens)
            return self._window

    def _keep_connection(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)
            if self._closed.is_set():
                _hang_up(connection)

    def _await_engine(self, deadline: float) -> bool:
        """Give the engine's keeper a moment; whether trying again makes sense."""
        while time.monotonic() < deadline and not self._closed.is_set():
            self._routes.wait(0.1)
            if self._routes.address(self._pin.engine_id) is not None:
                return True
            if not self._routes.lives(self._pin.engine_id):
                return False
        return False


def _hang_up(connection: socket.socket) -> None:
    """Wake whoever reads from it, and let the other end know: closing it would do neither while a thread waits in it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
