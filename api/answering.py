"""The drafts of one prompt, asked of the engine it is pinned to, side by side."""

import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from itertools import chain
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
    ChatStream,
    ContextExceeded,
    Delta,
    TokenLogprob,
    count_tokens,
)
from streams.engines import engine_kind
from streams.errors import EngineUnavailable, Unavailable

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


_Said = Piece | _Again | _Whole | _Failed


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Leavers:
    """Looks whose client has left, and stops what is made for them. One thread for a whole door; it sleeps while nobody waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[Answering, Callable[[], bool]] = {}
        self._thread: threading.Thread | None = None

    def add(self, answering: "Answering", gone: Callable[[], bool]) -> None:
        with self._changed:
            self._waiting[answering] = gone
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="leavers", daemon=True)
                self._thread.start()
            if len(self._waiting) == 1:
                self._changed.notify()

    def remove(self, answering: "Answering") -> None:
        with self._changed:
            self._waiting.pop(answering, None)

    def _look(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                waiting = list(self._waiting.items())
            for answering, gone in waiting:
                if gone():
                    answering.hang_up()
            time.sleep(_LOOK_S)


class Answering:
    """The drafts of one prompt, from when the engine was asked; `pieces` hands on what comes, and ends when every draft is whole.

    `may_restart`: nothing is shown before everything is whole, so an engine that dies in the middle may begin anew.
    The pin's count goes down as each draft ends, however it ends. Close it; `hang_up` makes it end soon, from any thread.
    """

    def __init__(
        self,
        chat: ChatRequest,
        pin: Pin,
        routes: Routes,
        derive: Callable[[str], str],
        metrics: Metrics,
        may_restart: bool,
        leavers: Leavers,
        gone: Callable[[], bool] = lambda: False,
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
        self._started_at = time.monotonic()
        self._woken = False
        self._leavers = leavers
        leavers.add(self, gone)
        self._alone: Generator[list[_Said], None, None] | None = None
        if chat.drafts == 1:
            # Whoever wants the pieces reads them: a thread between would be woken, and wake, for each.
            self._alone = self._say(0)
            self._come: Iterator[list[_Said]] = chain([next(self._alone)], self._alone)
        else:
            self._queue: SimpleQueue[list[_Said]] = SimpleQueue()
            self._come = self._of_all()
            for index in range(chat.drafts):
                threading.Thread(target=self._run, args=(index,), name=f"draft-{index}", daemon=True).start()

    def pieces(self) -> Iterator[list[Piece]]:
        """The pieces of text as they come: each time all that are there, so that a door that is busy falls behind by no more than
        one writing. Raises ClientLeft, Unavailable (the engine broke off) or Invalid (it refused)."""
        left = len(self.drafts)
        while left:
            came: list[Piece] = []
            failed: Exception | None = None
            for said in next(self._come):
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
        self._end()

    def hang_up(self) -> None:
        """Whoever still answers may stop. Doing it again changes nothing."""
        with self._lock:
            self._closed.set()
            for connection in self._connections:
                _hang_up(connection)

    def close(self) -> None:
        """By whoever reads the pieces. Doing it again changes nothing."""
        self.hang_up()
        self._leavers.remove(self)
        self._end()

    def _end(self) -> None:
        """Nobody reads on. (A draft's own thread ends by itself.)"""
        if self._alone is not None:
            self._alone.close()

    @property
    def left_out(self) -> int:
        """How many of the oldest messages did not fit into the window, and were not shown to the engine."""
        return self._window.left_out if self._window is not None else 0

    def _of_all(self) -> Iterator[list[_Said]]:
        """What the drafts' threads say, all that is there together."""
        while True:
            said = self._queue.get()
            with suppress(Empty):
                while True:
                    said += self._queue.get_nowait()
            yield said

    def _run(self, index: int) -> None:
        for said in self._say(index):
            self._queue.put(said)

    def _say(self, index: int) -> Generator[list[_Said], None, None]:
        """What comes of one draft, as it comes; first nothing, once the engine was asked or is waited for."""
        try:
            yield from self._answer(index)
        except Exception as error:
            if isinstance(error, ClientLeft):
                self._metrics.cancelled.labels(self._pin.domain).inc()
            yield [_Failed(index, error)]
        finally:
            self._routes.unpin(self._pin.engine_id)

    def _answer(self, index: int) -> Iterator[list[_Said]]:
        deadline = time.monotonic() + ENGINE_PATIENCE_S
        while True:
            shown = False
            try:
                # Closing the stream closes the connection: the engine's slot is free at once.
                with closing(self._stream(index)) as arrivals:
                    for deltas in arrivals:
                        if self._closed.is_set():
                            raise ClientLeft
                        said: list[_Said] = [Piece(index, d.text, d.logprobs) for d in deltas if d.text or d.logprobs]
                        if said and not shown and index == 0:
                            self._metrics.first_token_s.labels(self._pin.domain).observe(self._elapsed_s())
                        shown = shown or bool(said)
                        for delta in deltas:
                            if delta.finish_reason is not None:
                                yield [*said, self._whole(index, delta, delta.finish_reason)]
                                return
                        yield said
                raise EngineUnavailable("the engine's answer has no end")
            except Unavailable:
                if self._closed.is_set():
                    raise ClientLeft from None
                if shown and not self._may_restart:
                    self._metrics.broken.labels(self._pin.domain).inc()
                    raise
                if self._woken:
                    deadline = self._started_at + WAKING_PATIENCE_S
                yield [_Again(index)] if shown else []
                if time.monotonic() >= deadline or not self._await_engine(deadline):
                    self._metrics.broken.labels(self._pin.domain).inc()
                    raise

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_at

    def _whole(self, index: int, last: Delta, finish_reason: str) -> _Whole:
        return _Whole(index, finish_reason, last.prompt_tokens, last.completion_tokens, self._elapsed_s())

    def _stream(self, index: int) -> Generator[list[Delta], None, None]:
        """The engine's answer, all that came at once together; nothing yet, when it was asked."""
        engine = self._routes.ready(self._pin.engine_id)
        if engine is None or engine.base_url is None:
            self._woken |= self._routes.wake(self._pin.engine_id)
            raise EngineUnavailable("the engine is not ready")
        base_url, key, window = engine.base_url, self._key, self._window_of(engine)
        sampling = replace(self._chat.sampling, seed=(self._chat.sampling.seed + index) % ANY_SEED)
        count = (
            (lambda messages: count_tokens(base_url, key, messages)) if engine_kind(engine.kind).counts_tokens else None
        )
        while True:
            messages = window.shown(count)
            asked = ChatStream(base_url, key, self._pin.engine_id, messages, sampling, connected=self._keep_connection)
            with closing(asked):
                yield []
                try:
                    yield from asked.arrivals()
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
