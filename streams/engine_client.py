"""Ask an engine, over the OpenAI protocol that all of them speak. Used by the door and by the evaluator; no torch here."""

import http.client
import socket
import ssl
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from io import BufferedReader
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from streams.errors import EngineUnavailable, Invalid, Unavailable

ANY_SEED = 2**32 - 1  # llama.cpp draws a seed of its own for this one
_PENALIZED_TOKENS = 16384  # of prompt and answer, from the end; llama.cpp would look at the last 64 only
_AT_ONCE_BYTES = 65_536
_LINE_BYTES = 65_536
_LEAST_TOP_P = 1e-6  # LightLLM takes none of 0; the likeliest token alone is left either way


class Sampling(Struct, frozen=True, kw_only=True):
    """How an answer is drawn, under the names of OpenAI's protocol and, where it has none, of those who widened it.

    `top_k` -1: any token; `min_p`: the least share of the likeliest token's probability; penalties of 0 (`repetition_penalty`: 1)
    change nothing. `logit_bias` is by token id. `logprobs`: how many of the likeliest tokens are told beside each token that was
    drawn; None: nothing is told. `response_format`: OpenAI's object; None: any text.
    """

    max_tokens: int
    temperature: float
    top_p: float
    seed: int  # below ANY_SEED
    stop: tuple[str, ...] = ()
    top_k: int = 40
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None
    response_format: dict[str, Any] | None = None


class ContextExceeded(Invalid):
    """The prompt is longer than the engine's window. `prompt_tokens` 0: the engine did not say how long it is."""

    def __init__(self, prompt_tokens: int = 0, context_tokens: int = 0) -> None:
        super().__init__("the prompt is longer than the engine's window")
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class TopLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(Struct, frozen=True):
    """One token of an answer with its natural log-probability, and the likeliest ones in its place."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class Delta(Struct, frozen=True):
    """One piece of an answer. The last one carries `finish_reason`, and the token counts where the engine gave them."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Piece(Struct):
    content: str | None = None


class _Logprobs(Struct):
    content: tuple[TokenLogprob, ...] | None = None


class _Choice(Struct):
    delta: _Piece
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


class ChatStream(Iterator[Delta]):
    """One answer of an engine, piece by piece; always a stream, for an engine goes on with a plain request whose caller has left.

    Making it asks; iterating reads. Closing it closes the connection, which frees the engine's slot; while a thread waits for the
    next piece, another can do so by shutting down what `connected` was given. Raises Unavailable when the engine does not answer
    or its answer breaks off, Invalid when it refuses the request, ContextExceeded when it is too long for it.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        model: str,
        messages: Sequence[dict[str, str]],
        sampling: Sampling,
        *,
        connected: Callable[[socket.socket], None] = lambda connection: None,
        connect_timeout_s: float = 2.0,
        read_timeout_s: float = 120.0,
    ) -> None:
        self._model = model
        self._connection: socket.socket | None = None
        self._arrivals = self._read()
        self._deltas = chain.from_iterable(self._arrivals)
        body = msgspec.json.encode({"model": model, "messages": list(messages), **_settings(sampling)})
        try:
            self._connection = _connect(base_url, connect_timeout_s)
            self._connection.settimeout(read_timeout_s)
            connected(self._connection)
            self._connection.sendall(_request(base_url, key, body))
        except OSError as error:
            self.close()
            raise self._no_answer(error) from None

    def __next__(self) -> Delta:
        return next(self._deltas)

    def arrivals(self) -> Iterator[list[Delta]]:
        """The same, all that came at once together: whoever is busy falls behind by no more than one turn."""
        return self._arrivals

    def close(self) -> None:
        """Doing it again changes nothing."""
        self._arrivals.close()
        if self._connection is not None:
            self._connection.close()

    def _read(self) -> Generator[list[Delta], None, None]:
        assert self._connection is not None
        try:
            with self._connection.makefile("rb") as came:
                status = _status(came.readline(_LINE_BYTES))
                headers = dict(map(_header, iter(lambda: came.readline(_LINE_BYTES).strip(), b"")))
                body = _body(came, headers)
                if status != 200:
                    _refused(status, b"".join(body))
                yield from _deltas(body)
        except (OSError, http.client.HTTPException) as error:
            raise self._no_answer(error) from None

    def _no_answer(self, error: Exception) -> Unavailable:
        return Unavailable(f"the engine {self._model} did not answer: {type(error).__name__}")


def _connect(base_url: str, timeout_s: float) -> socket.socket:
    url = urlsplit(base_url)
    secure = url.scheme == "https"
    connection = socket.create_connection((url.hostname or "", url.port or (443 if secure else 80)), timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ssl.create_default_context().wrap_socket(connection, server_hostname=url.hostname) if secure else connection


def _request(base_url: str, key: str, body: bytes) -> bytes:
    """The request as it is sent. Any client of a library costs more for one answer than all else that the door does for it.

    A connection a request: llama.cpp's server drops kept ones after 5 s or 100 requests, in mid-air if need be."""
    url = urlsplit(base_url)
    head = (
        f"POST {url.path}/v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def _status(line: bytes) -> int:
    try:
        return int(line.split(None, 2)[1])
    except (ValueError, IndexError):
        raise http.client.BadStatusLine(repr(line[:40])) from None


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip().lower()


def _body(came: BufferedReader, headers: dict[bytes, bytes]) -> Iterator[bytes]:
    """What follows the headers, as it comes."""
    if headers.get(b"transfer-encoding", b"").endswith(b"chunked"):
        yield from _chunks(came)
        return
    left = _length(headers.get(b"content-length"))  # without one, the end is where the engine closes
    while left and (part := came.read1(min(left, _AT_ONCE_BYTES))):
        left -= len(part)
        yield part


def _length(said: bytes | None) -> int:
    try:
        return sys.maxsize if said is None else int(said)
    except ValueError:
        raise http.client.HTTPException("a length that is no number") from None


def _chunks(came: BufferedReader) -> Iterator[bytes]:
    """What the chunks hold, of all that have come whole together (RFC 9112, section 7.1)."""
    rest = b""
    while part := came.read1(_AT_ONCE_BYTES):
        rest += part
        whole: list[bytes] = []
        at = 0
        while (end := rest.find(b"\r\n", at)) >= 0:
            try:
                size = int(rest[at:end].partition(b";")[0], 16)
            except ValueError:
                raise http.client.HTTPException("a chunk without a size") from None
            if size == 0:
                yield b"".join(whole)
                return
            if len(rest) < end + size + 4:
                break
            whole.append(rest[end + 2 : end + 2 + size])
            at = end + size + 4
        rest = rest[at:]
        if whole:
            yield b"".join(whole)
    raise http.client.IncompleteRead(rest)


def count_tokens(base_url: str, key: str, messages: Sequence[dict[str, str]], timeout_s: float = 10.0) -> int:
    """How many tokens the messages are in the model's template. llama.cpp counts; LightLLM has no such answer.

    Raises Unavailable when the engine does not answer, Invalid when it refuses.
    """
    try:
        response = httpx.post(
            f"{base_url}/v1/chat/completions/input_tokens",
            json={"messages": list(messages)},
            headers={"Authorization": f"Bearer {key}", "Connection": "close"},
            timeout=timeout_s,
            trust_env=False,
            verify=base_url.startswith("https:"),
        )
    except httpx.HTTPError as error:
        raise EngineUnavailable(f"the engine did not count: {type(error).__name__}") from None
    if response.status_code != 200:
        _refused(response.status_code, response.content)
    try:
        return int(response.json()["input_tokens"])
    except (ValueError, KeyError, TypeError):
        raise EngineUnavailable("the engine counted in words that are not known") from None


def _settings(sampling: Sampling) -> dict[str, Any]:
    """All of them, whatever they say: the engines' own defaults differ."""
    found: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": max(sampling.top_p, _LEAST_TOP_P),
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "repeat_penalty": sampling.repetition_penalty,  # llama.cpp's name of it
        "repeat_last_n": _PENALIZED_TOKENS,
        # LightLLM's own; left out, the model's folder decides, and then temperature may be ignored.
        "do_sample": sampling.temperature > 0,
        "seed": sampling.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.stop:
        found["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        found["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        found |= {"logprobs": True, "top_logprobs": max(1, sampling.logprobs)}  # llama.cpp tells nothing for 0
    if sampling.response_format is not None:
        found["response_format"] = sampling.response_format
    return found


def _deltas(parts: Iterable[bytes]) -> Iterator[list[Delta]]:
    finish: str | None = None
    usage = _Usage()
    for data in _data(parts):
        came: list[Delta] = []
        for chunk in map(_chunk, data):
            if chunk.usage is not None:
                usage = chunk.usage
            for choice in chunk.choices:
                told = (choice.logprobs.content or ()) if choice.logprobs is not None else ()
                if choice.delta.content or told:
                    came.append(Delta(choice.delta.content or "", logprobs=told))
                finish = choice.finish_reason or finish
        if came:
            yield came
    if finish is None:
        raise EngineUnavailable("the engine's answer broke off")
    yield [Delta("", finish, usage.prompt_tokens, usage.completion_tokens)]


def _data(parts: Iterable[bytes]) -> Iterator[list[bytes]]:
    """What server-sent events say, all that came at once together, until they say that they are done."""
    rest = b""
    for part in chain(parts, [b"\n"]):
        *lines, rest = (rest + part).split(b"\n")
        if any(line.startswith(b"error:") for line in lines):
            raise EngineUnavailable("the engine broke off its answer with an error")
        data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if b"[DONE]" in data:
            yield data[: data.index(b"[DONE]")]
            return
        yield data


def _chunk(data: bytes) -> _Chunk:
    try:
        chunk = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise EngineUnavailable(f"the engine sent what is no chunk: {type(error).__name__}") from None
    if chunk.error is not None:
        if _type_of(chunk.error) == "invalid_request_error":  # LightLLM has answered 200 before it reads the prompt
            raise _invalid(chunk.error, "")
        raise EngineUnavailable("the engine broke off its answer with an error")
    return chunk


def _refused(status: int, said: bytes) -> None:
    if status in (400, 413, 422):
        try:
            error = msgspec.json.decode(said)["error"]
        except (ValueError, KeyError, TypeError):
            error = None  # the status says enough; engines differ in what they say beside it
        raise _invalid(error, str(status))
    raise EngineUnavailable(f"the engine answered {status}")


def _invalid(error: Any, status: str) -> Invalid:
    kind = _type_of(error)
    if kind == "exceed_context_size_error":  # llama.cpp's
        return ContextExceeded(int(error.get("n_prompt_tokens", 0)), int(error.get("n_ctx", 0)))
    if isinstance(error, dict) and "too long" in str(error.get("message", "")):  # LightLLM's
        return ContextExceeded()
    return Invalid(" ".join(f"the engine refused the request: {status} {kind}".split()))


def _type_of(error: Any) -> str:
    return str(error.get("type", "")) if isinstance(error, dict) else ""
