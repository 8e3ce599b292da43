"""The server below the door: waitress, which asks the app by a request's headers before it reads any of its body.

Waitress alone gathers a whole body before the app sees who sends it. Here a body that is announced waits in the client's socket
until the app has said, by the headers, how much it takes; whoever is refused then has cost no memory but their headers'.
"""

import socket
import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import msgspec
import waitress.channel
import waitress.parser
import waitress.server
import waitress.task
import waitress.utilities
from flask import Flask
from msgspec import Struct

from api.access import bearer_token
from api.documents.protocol import FILE_BYTES
from api.errors import ApiError

# Enough for two hundred streams that are held open, feedback and followers beside them; a thread that waits costs little.
THREADS = 256
HEADER_BYTES = 32 * 1024  # of one request: nobody has been asked who sends them
LINGER_S = 5.0  # how long what a refused client still sends is thrown away, so that it gets to read why
TRUST = "noria.trust"  # among the app's extensions
_QUESTION = "noria.question"
_WAS_ASKED = "noria.was_asked"


class Trust(Struct, frozen=True):
    """Whose body is read without a question, which costs a request a millisecond: a token's that was right a moment ago, if it
    announces no more than `most` bytes. Whether it still is comes out with the body there."""

    remembers: Callable[[str], bool]
    most: int


class Question(Struct):
    """Put to the app, as environ's `noria.question`, while the request's body is still to be read. `takes`: its word, in bytes;
    without one, what it answers is the answer."""

    takes: int | None = None


def question_of(environ: dict[str, Any]) -> Question | None:
    """What is asked by this request's headers alone; None where its body is there, or it has none."""
    found = environ.get(_QUESTION)
    return found if isinstance(found, Question) else None


def was_asked(environ: dict[str, Any]) -> bool:
    """Whether the app has been asked by these headers already, and took the body."""
    return bool(environ.get(_WAS_ASKED))


class _Refusal(Struct, frozen=True):
    """The app's answer to the headers."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes


class _Parser(waitress.parser.HTTPRequestParser):
    """Reads no body before `take` was called."""

    waits = False  # for the app's word, with what came together with the headers in `held`
    asked = False  # or trusted
    was_taken = False  # by the app, when it was asked
    held = b""
    takes = 0
    _expects = False

    def received(self, data: bytes) -> int:
        if self.waits:
            self.held += data
            return len(data)
        consumed = super().received(data)
        if self.body_rcv is not None and not self.asked:
            if isinstance(self.error, waitress.utilities.RequestEntityTooLarge):
                self.error, self.completed = None, False  # who sends it comes first
            if self.error is None:
                self.asked = self.waits = True
                self._expects, self.expect_continue = self.expect_continue, False
        elif self.body_rcv is not None and self.error is None and self._is_too_much(len(self.body_rcv)):
            self.error, self.completed = waitress.utilities.RequestEntityTooLarge(""), True
        return consumed

    def _is_too_much(self, body: int) -> bool:
        """What stands around the chunks is bounded as well: a client may send a line that never ends."""
        return body > self.takes or self.body_bytes_received > 2 * self.takes + self.adj.recv_bytes

    def take(self, most: int) -> bytes:
        """Read a body of at most so many bytes from now on; what was held of it."""
        held, self.held, self.waits, self.takes = self.held, b"", False, most
        self.expect_continue = self._expects and not held
        return held


class _Task(waitress.task.WSGITask):
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[_WAS_ASKED] = self.request.was_taken  # type: ignore[attr-defined]
        return environ


class _ErrorTask(waitress.task.ErrorTask):
    """What the app refuses by the headers; and what the server itself refuses (a body that turns out too large, a broken request
    line), in the same shape as all else."""

    def execute(self) -> None:
        error: Any = self.request.error  # type: ignore[attr-defined]
        if isinstance(error, _Refusal):
            self.status, self.response_headers, body = error.status, list(error.headers), error.body
        else:
            refusal = _refusal_of(int(error.code), getattr(self.request, "takes", 0))
            body = msgspec.json.encode(refusal.body)
            self.status = f"{error.code} {error.reason}"
            self.response_headers = [("Content-Type", "application/json")]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


def _refusal_of(status: int, takes: int) -> ApiError:
    if status == 413:
        return too_large(takes)
    if status >= 500:
        return ApiError(status, "something went wrong here")
    return ApiError(status, "the headers are too large" if status == 431 else "this is no HTTP request")


def too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most} bytes", code="body_too_large")


class _Asking(waitress.task.Task):
    """Puts the question to the app, in a thread of the server's: a key may have to be looked up."""

    def __init__(self, channel: "_Channel", request: Any) -> None:
        super().__init__(channel, request)
        self._channel = channel
        self._request = request

    def service(self) -> None:
        try:
            self._ask()
        except BaseException:
            self._channel.cancel()  # what was not asked for is not read
            self._channel.server.pull_trigger()
            raise

    def _ask(self) -> None:
        question = Question()
        environ: Any = waitress.task.WSGITask(self._channel, self._request).get_environment()
        environ |= {_QUESTION: question, "wsgi.input": BytesIO()}
        said: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: object = None, /
        ) -> Callable[[bytes], object]:
            said.append((status, headers))
            return lambda _: None

        answered: Any = self._channel.server.application(environ, start_response)
        try:
            body = b"".join(answered)
        finally:
            if hasattr(answered, "close"):
                answered.close()
        if question.takes is None:
            status, headers = said[-1]
            self._channel.refuse(self._request, _Refusal(status, headers, body))
        else:
            self._request.was_taken = True
            self._channel.take(self._request, question.takes)

    def cancel(self) -> None:
        self._channel.cancel()


class _Channel(waitress.channel.HTTPChannel):
    """One connection. Nothing is read from it while the app is asked, nor after it refused."""

    requests_lock: threading.Lock
    requests: list[Any]
    server: Any
    parser_class = _Parser
    task_class = _Task
    error_task_class = _ErrorTask
    _asks: _Asking | None = None
    _asks_about: Any = None  # the request
    _refused = False
    _leaves_unread = False  # of what the client sent, when the answer has been written
    _lingers_until: float | None = None

    def readable(self) -> bool:
        if self._lingers_until is not None:
            if time.monotonic() > self._lingers_until:
                self.will_close = True
            return not self.will_close
        return self._asks is None and not self._refused and bool(super().readable())

    def handle_read(self) -> None:
        if self._lingers_until is None:
            super().handle_read()
            return
        try:
            self.recv(self.adj.recv_bytes)  # thrown away; at its end the connection is closed
        except OSError:
            self.handle_close()

    def received(self, data: bytes) -> bool:
        going = bool(super().received(data))
        request: Any = self.request
        if request is not None and request.waits and self._asks_about is not request:
            self._asks_about = request
            trust: Trust = self.server.trust
            token = bearer_token(request.headers.get("AUTHORIZATION", ""))
            if 0 < request.content_length <= trust.most and token and trust.remembers(token):
                self.take(request, trust.most)
            else:
                self._asks = _Asking(self, request)
                self.server.add_task(self._asks)
        return going

    def take(self, request: Any, most: int) -> None:
        """The body is taken: it is read from now on, what came with the headers first."""
        mine = self._asks
        held = request.take(most)
        with self.requests_lock:
            if request.expect_continue and not self.requests and not self.sent_continue:
                self.send_continue()
        self.received(held)
        if self._asks is mine:  # in what was held there may have been the next request
            self._asks = None
        self.server.pull_trigger()

    def refuse(self, request: Any, refusal: _Refusal) -> None:
        """The app's answer is said in its turn, and the connection ends with it: its body has not been read."""
        with self.requests_lock:
            self._refused = True
            if self.will_close or self.close_when_flushed:
                return
            request.error, request.completed = refusal, True
            self.request = None
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)

    def handle_write(self) -> None:
        lingers = self.close_when_flushed and self._leaves_unread
        if lingers:
            self.close_when_flushed = False
        super().handle_write()
        if not lingers or not self.connected:
            return
        if self.total_outbufs_len:
            self.close_when_flushed = True
            return
        # To close at once would reset the connection, and with it what the client has not read yet.
        self._leaves_unread = False
        self._lingers_until = time.monotonic() + LINGER_S
        try:
            assert self.socket is not None  # connected
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def service(self) -> None:
        self._leaves_unread = self.requests[0].error is not None
        super().service()


def make_server(app: Flask, host: str, port: int) -> Any:
    """A waitress server that streams, keeps bodies in memory only, and answers in JSON. `port` 0 picks a free one."""
    server: Any = waitress.server.create_server(
        app,
        host=host,
        port=port,
        threads=THREADS,
        ident="noria",
        clear_untrusted_proxy_headers=True,
        channel_timeout=180,
        cleanup_interval=15,
        connection_limit=512,
        asyncore_use_poll=True,  # select knows no file descriptor above 1023, and those of two hundred streams are as many
        backlog=512,
        # One request ahead is read, which is how a client that leaves is noticed while its answer is being made.
        channel_request_lookahead=1,
        max_request_header_size=HEADER_BYTES,
        max_request_body_size=2 * FILE_BYTES,  # the app says for each request how much of it
        # Past these waitress writes to temporary files, and people's words must not lie on a disk in clear.
        inbuf_overflow=3 * FILE_BYTES,
        outbuf_overflow=1 << 30,
        expose_tracebacks=False,
    )
    server.channel_class = _Channel
    server.trust = app.extensions[TRUST]
    return server
