"""A small HTTP server that keeps the contract of a domain's memory (`streams.recall_client`), for tests of whoever asks it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from streams.recall_client import Answer, Question
from streams.recalled import Recalled

LONGEST_BYTES = 1024 * 1024


class RecallServer:
    """Answers with what `recalls` makes of the question. `holds`: the domains whose memories it holds; None: any. `pause_s`: before
    each answer. `asked` records the questions."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.recalls: Callable[[Question], Sequence[Recalled]] = lambda asked: ()
        self.holds: set[str] | None = None
        self.pause_s = 0.0
        self.status = 200
        self.asked: list[Question] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _said(self, authorization: str, body: bytes) -> tuple[int, bytes]:
        if not compare_digest(authorization.encode(), f"Bearer {self.key}".encode()):
            return 401, b""
        try:
            question = msgspec.json.decode(body, type=Question)
        except msgspec.MsgspecError:
            return 400, b""
        if self.holds is not None and question.domain not in self.holds:
            return 503, b""
        self.asked.append(question)
        time.sleep(self.pause_s)
        return self.status, msgspec.json.encode(Answer(tuple(self.recalls(question))))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        memory = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = (
                64 * 1024
            )  # head and body in one packet: of two the second waits 40 ms for the first to be acknowledged

            def do_POST(self) -> None:
                body = self.rfile.read(min(LONGEST_BYTES, int(self.headers["Content-Length"])))
                status, said = (404, b"")
                if self.path == "/recall":
                    status, said = memory._said(self.headers.get("Authorization", ""), body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: tests read `asked`."""

        return Handler


@contextmanager
def remembering(key: str) -> Iterator[RecallServer]:
    """A memory on a free port of loopback, until the end of the block."""
    memory = RecallServer(key)
    try:
        yield memory
    finally:
        memory.stop()
