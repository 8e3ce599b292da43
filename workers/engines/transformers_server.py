"""The child process of the transformers engine: one model directory, served in as much of OpenAI's protocol as doors and exams use.

Prints one line of JSON, {"address": "http://127.0.0.1:port"}, once it answers. Ends on SIGTERM, or when its standard input closes.
"""

import argparse
import hmac
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import waitress.server
from msgspec import Struct

from streams.errors import Invalid
from workers.engines.answers import Answerer, Gone, Left, Token
from workers.engines.drawing import Asked
from workers.engines.llamacpp_server import KEY_VARIABLE, end_with_parent, silence
from workers.engines.texts import Text, Told

BODY_BYTES = 4 * 1024 * 1024
MOST_ALTERNATIVES = 20
Start = Callable[[str, list[tuple[str, str]]], Any]
_STATUS = {
    200: "200 OK",
    400: "400 Bad Request",
    401: "401 Unauthorized",
    404: "404 Not Found",
    500: "500 Internal Server Error",
}


class Refused(Exception):
    def __init__(self, status: int, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": kind, "code": status, **more}


class Completion(Struct, frozen=True):
    """What may follow exactly these tokens, for whoever compares; under llama.cpp's names."""

    prompt: list[int]
    n_probs: int = 1


class Answer:
    """One answer on its way."""

    def __init__(self, answerer: Answerer, name: str, context_tokens: int, asked: Asked, gone: Gone) -> None:
        """Raises Refused for what cannot be answered."""
        self._answerer = answerer
        self._asked = asked
        self._gone = gone
        self._prompt = answerer.prompt_of(asked.messages)
        if len(self._prompt) >= context_tokens:
            raise Refused(
                400,
                "exceed_context_size_error",
                "the prompt is longer than the context",
                n_prompt_tokens=len(self._prompt),
                n_ctx=context_tokens,
            )
        wanted = asked.max_completion_tokens if asked.max_tokens is None else asked.max_tokens
        room = context_tokens - len(self._prompt)
        self._most = max(1, room if wanted is None or wanted < 0 else min(wanted, room))
        self._drawn = 0
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        self.finish_reason = "length"

    def pieces(self) -> Iterator[tuple[str, list[Told]]]:
        """The text as it comes, with what is told of its tokens. Raises Left."""
        answerer, asked = self._answerer, self._asked
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        text = Text(answerer.text_of, answerer.bytes_of_token, stops)
        tokens = answerer.tokens(self._prompt, asked, self._most, self._gone)
        try:
            for token in tokens:
                self._drawn += 1
                if token.id in answerer.ends:
                    self.finish_reason = "stop"
                    break
                yield text.add(token.id, self._told(token) if asked.logprobs else None)
                if text.stopped:
                    self.finish_reason = "stop"
                    break
        finally:
            tokens.close()  # its place is free
        yield text.rest()

    def stream(self) -> Iterator[bytes]:
        """As server-sent events; they end without [DONE] when the answer breaks off."""
        head = self._head | {"object": "chat.completion.chunk"}

        def event(delta: dict[str, Any], finish_reason: str | None = None, told: list[Told] | None = None) -> bytes:
            choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            if told:
                choice["logprobs"] = {"content": told}
            return b"data: " + msgspec.json.encode(head | {"choices": [choice]}) + b"\n\n"

        yield event({"role": "assistant", "content": None})
        try:
            for piece, told in self.pieces():
                if piece or told:
                    yield event({"content": piece}, told=told)
        except Left:
            return
        yield event({}, self.finish_reason)
        yield b"data: " + msgspec.json.encode(head | {"choices": [], "usage": self._usage()}) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def whole(self) -> dict[str, Any]:
        """All of it at once. Raises Left."""
        came = list(self.pieces())
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(piece for piece, _ in came)},
            "finish_reason": self.finish_reason,
        }
        if self._asked.logprobs:
            choice["logprobs"] = {"content": [one for _, told in came for one in told]}
        return self._head | {"object": "chat.completion", "choices": [choice], "usage": self._usage()}

    def _usage(self) -> dict[str, int]:
        asked = len(self._prompt)
        return {"prompt_tokens": asked, "completion_tokens": self._drawn, "total_tokens": asked + self._drawn}

    def _told(self, token: Token) -> Told:
        answerer = self._answerer
        others = [{"token": answerer.text_of([n]), **_told(answerer, n, value)} for n, value in token.likeliest]
        return _told(answerer, token.id, token.logprob) | {"top_logprobs": others}


def _told(answerer: Answerer, token: int, logprob: float) -> Told:
    return {"id": token, "logprob": logprob, "bytes": list(answerer.bytes_of_token(token))}


class Server:
    """The WSGI app. Only its own caller, who has the key, asks it."""

    def __init__(self, answerer: Answerer, name: str, context_tokens: int, key: str) -> None:
        self._answerer = answerer
        self._name = name
        self._context_tokens = context_tokens
        self._key = key.encode()

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        try:
            found = self._serve(environ)
        except Refused as refused:
            return _say(start, refused.status, {"error": refused.error})
        except (Invalid, msgspec.MsgspecError):  # what they say could repeat what was asked
            return _say(
                start, 400, {"error": {"message": "the request cannot be answered", "type": "invalid_request_error"}}
            )
        except Left:
            return _say(start, 500, {})  # nobody is there to read it
        if isinstance(found, dict):
            return _say(start, 200, found)
        start(_STATUS[200], [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")])
        return found

    def _serve(self, environ: dict[str, Any]) -> dict[str, Any] | Iterator[bytes]:
        asked = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if asked == ("GET", "/health"):
            return {"status": "ok"}
        said = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
        if not hmac.compare_digest(said.encode(), self._key):
            raise Refused(401, "authentication_error", "the key is not right")
        gone: Gone = environ["waitress.client_disconnected"]
        match asked:
            case ("GET", "/v1/models"):
                return {"object": "list", "data": [{"id": self._name, "object": "model"}]}
            case ("POST", "/v1/chat/completions"):
                chat = _body(environ, Asked)
                if chat.response_format is not None and chat.response_format.get("type") != "text":
                    raise Refused(400, "invalid_request_error", "response_format cannot be followed")
                if not 0 <= (chat.top_logprobs or 0) <= MOST_ALTERNATIVES:
                    raise Refused(400, "invalid_request_error", f"top_logprobs must be from 0 to {MOST_ALTERNATIVES}")
                answer = Answer(self._answerer, self._name, self._context_tokens, chat, gone)
                return answer.stream() if chat.stream else answer.whole()
            case ("POST", "/v1/chat/completions/input_tokens"):
                return {"input_tokens": len(self._answerer.prompt_of(_body(environ, Asked).messages))}
            case ("POST", "/completion"):
                return self._complete(_body(environ, Completion), gone)
            case _:
                raise Refused(404, "not_found_error", "no such path")

    def _complete(self, asked: Completion, gone: Gone) -> dict[str, Any]:
        if (
            not 0 < len(asked.prompt) < self._context_tokens
            or not 0 <= min(asked.prompt) <= max(asked.prompt) < self._answerer.vocabulary
        ):
            raise Refused(400, "invalid_request_error", "no prompt that can be read")
        found = self._answerer.likeliest(asked.prompt, max(1, min(asked.n_probs, MOST_ALTERNATIVES)), gone)
        return {"completion_probabilities": [{"top_logprobs": [{"id": n, "logprob": value} for n, value in found]}]}


def _body(environ: dict[str, Any], kind: type[Any]) -> Any:
    return msgspec.json.decode(environ["wsgi.input"].read(), type=kind, strict=False)


def _say(start: Start, status: int, content: dict[str, Any]) -> list[bytes]:
    body = msgspec.json.encode(content)
    start(_STATUS[status], [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def main() -> int:
    """Serve one model directory on loopback until told to stop."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context-tokens", type=int, required=True, help="for each slot")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()

    threading.Thread(target=end_with_parent, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # whoever stops an engine has drained it
    # Its output can quote what people wrote, so none of it is kept once it serves.
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    key = os.environ.pop(KEY_VARIABLE)
    from transformers.utils import logging

    told: Any = logging  # untyped
    told.disable_progress_bar()
    try:
        answerer = Answerer(Path(given.model), given.slots, given.threads)
    except Invalid as error:
        print(error, file=sys.stderr)
        return 1
    server: Any = waitress.server.create_server(
        Server(answerer, given.name, given.context_tokens, key),
        host="127.0.0.1",
        port=given.port,
        threads=4 * given.slots + 8,  # those who wait for a place hold one
        ident=None,
        channel_request_lookahead=1,  # a caller who leaves is noticed
        max_request_body_size=BODY_BYTES,
        inbuf_overflow=2 * BODY_BYTES,  # people's words must not lie on a disk in clear
        outbuf_overflow=64 * 1024 * 1024,
        channel_timeout=600,
        asyncore_use_poll=True,
        expose_tracebacks=False,
    )
    silence()
    stdout.write(json.dumps({"address": f"http://127.0.0.1:{server.effective_port}"}) + "\n")
    stdout.flush()
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
