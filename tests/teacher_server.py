"""A small HTTP server that speaks `/chat/completions`, for tests of builders: it answers by a script, rubbish among it."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from streams.endpoints import Teacher
from workers.builder.teacher import SURE, Answer, Counts, Desk, Sampling, read_answer

Reply = str | tuple[int, bytes] | dict[str, Any]


class TeacherServer:
    """`answer(prompt)` is what it says: words; a status with a body; or a choice as its protocol has it. `asked` keeps prompts."""

    def __init__(self, answer: Callable[[str], Reply]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.keys: set[str | None] = set()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.place = f"127.0.0.1:{self._server.server_address[1]}"
        self.base_url = f"http://{self.place}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = (
                True  # head and body go apart: the body would wait 40 ms for the head to be acknowledged
            )

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][-1]["content"]
                with teacher._lock:
                    teacher.asked.append(prompt)
                    teacher.keys.add(self.headers.get("Authorization"))
                    teacher.at_once += 1
                    teacher.most_at_once = max(teacher.most_at_once, teacher.at_once)
                try:
                    said = teacher.answer(prompt)
                finally:
                    with teacher._lock:
                        teacher.at_once -= 1
                status, value = said if isinstance(said, tuple) else (200, completion(said))
                self.send_response(status)
                self.send_header("Content-Length", str(len(value)))
                self.end_headers()
                self.wfile.write(value)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


class ScriptedDesk(Desk):
    """A desk with nothing behind it but the script. `takes_s`: how long it thinks of a prompt."""

    def __init__(
        self, script: Callable[[str], Reply], in_flight: int, takes_s: Callable[[str], float] = lambda prompt: 0.0
    ) -> None:
        self.counts = Counts()
        self.in_flight = in_flight
        self.teacher = Teacher("http://unused", "scripted", in_flight)
        self._script = script
        self._takes_s = takes_s
        self._pool = ThreadPoolExecutor(in_flight)

    def ask(self, prompt: str, sampling: Sampling = SURE) -> Answer:
        threading.Event().wait(self._takes_s(prompt))
        said = self._script(prompt)
        return read_answer(said[1] if isinstance(said, tuple) else completion(said), len(prompt))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def completion(said: str | dict[str, Any]) -> bytes:
    choice = {"message": {"content": said}, "finish_reason": "stop"} if isinstance(said, str) else said
    return json.dumps({"choices": [choice], "usage": {"total_tokens": 100}}).encode()
