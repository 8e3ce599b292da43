"""A small HTTP server that speaks an engine's chat protocol (streamed, as llama.cpp's server does), for tests of the door."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Messages = list[dict[str, str]]


def echo(messages: Messages) -> list[str]:
    return ["You said:", *(f" {word}" for word in messages[-1]["content"].split(" "))]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # hundreds of streams may be begun at one moment


class EngineServer:
    """Answers with what `answer` makes of the messages. The rest can be changed while it runs.

    `hold`: while clear, answers wait before their first byte, as they do while a prompt is read. `break_after`: that many
    pieces, then the connection goes.
    `refuse`: a status to answer with instead. `requests` and `left` record what was asked and whose client went away.
    """

    def __init__(self, answer: Callable[[Messages], list[str]] = echo, port: int = 0) -> None:
        self.answer = answer
        self.hold = threading.Event()
        self.hold.set()
        self.piece_s = 0.0
        self.break_after: int | None = None
        self.refuse: int | None = None
        self.context_tokens = 2048
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.left = 0
        self.busy = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), self._handler())
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def stop(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.endswith("/input_tokens"):
                    engine._say(self, 200, {"input_tokens": engine.count(body["messages"])})
                    return
                with engine._lock:
                    engine.requests.append(body)
                    engine.keys.append(self.headers.get("Authorization", ""))
                    engine.busy += 1
                try:
                    engine._answer(self, body)
                except (BrokenPipeError, ConnectionResetError):
                    with engine._lock:
                        engine.left += 1
                finally:
                    self.close_connection = True
                    with engine._lock:
                        engine.busy -= 1

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: tests read `requests`."""

        return Handler

    def count(self, messages: Messages) -> int:
        """The tokens of messages: a word is one, and five stand around each message."""
        return sum(5 + len(message["content"].split()) for message in messages)

    def _say(self, handler: BaseHTTPRequestHandler, status: int, content: dict[str, Any]) -> None:
        said = json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(said)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(said)

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if self.refuse is not None:
            self._say(handler, self.refuse, {"error": {"message": "no", "type": "invalid_request_error"}})
            return
        asked = self.count(body["messages"])
        if asked >= self.context_tokens:
            counts = {"n_prompt_tokens": asked, "n_ctx": self.context_tokens}
            self._say(handler, 400, {"error": {"message": "no", "type": "exceed_context_size_error", **counts}})
            return
        self.hold.wait()
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.flush()

        def say(choices: list[dict[str, Any]], **more: Any) -> None:
            chunk = {"object": "chat.completion.chunk", "model": body["model"], "choices": choices, **more}
            handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            handler.wfile.flush()

        say([{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}])
        pieces = self.answer(body["messages"])
        for number, piece in enumerate(pieces[: body["max_tokens"]]):
            if self.break_after is not None and number >= self.break_after:
                return
            choice: dict[str, Any] = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            if body.get("logprobs"):
                told = {"token": piece, "logprob": -0.5, "bytes": list(piece.encode())}
                choice["logprobs"] = {"content": [{"id": number, **told, "top_logprobs": [{"id": number, **told}]}]}
            say([choice])
            if self.piece_s:
                time.sleep(self.piece_s)
        finish = "stop" if len(pieces) <= body["max_tokens"] else "length"
        say([{"index": 0, "delta": {}, "finish_reason": finish}])
        usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 7 + len(pieces)}
        say([], usage=usage)
        handler.wfile.write(b"data: [DONE]\n\n")
