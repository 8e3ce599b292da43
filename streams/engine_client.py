"""Ask an engine, over the OpenAI protocol that all of them speak. Used by the door and by the evaluator; no torch here."""

import re
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from streams.errors import Invalid, Unavailable

# The joiner keeps the letters as they are for a reader and a model, and the token from being one for the tokenizer.
JOINER = "\u200d"
_CONTROL_TOKEN = re.compile(r"<(?=[|\uff5c][^<>\n]{1,64}[|\uff5c]>)")


class Delta(Struct, frozen=True):
    """One piece of an answer. The last one carries `finish_reason`, and the token counts where the engine gave them."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Piece(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Piece
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


def escape_control_tokens(words: str) -> str:
    """`words` with a zero-width joiner after the `<` of whatever a tokenizer could take for a control token (`<|im_end|>`).

    An engine's template parses control tokens wherever they stand; without this a person could end their own turn and
    speak as the system. Text that holds none comes back unchanged, and escaping twice is escaping once.
    """
    return _CONTROL_TOKEN.sub("<" + JOINER, words)


def chat_stream(
    base_url: str,
    key: str,
    model: str,
    messages: Sequence[dict[str, str]],
    *,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    stop: Sequence[str] = (),
    connect_timeout_s: float = 2.0,
    read_timeout_s: float = 120.0,
) -> Generator[Delta, None, None]:
    """One answer, piece by piece; always a stream, for an engine goes on with a plain request whose caller has left.

    Closing the iterator closes the connection, which frees the engine's slot. Raises Unavailable when the engine does
    not answer or its answer breaks off, Invalid when it refuses the request (too long for its context, say).
    Every sampling setting is sent: the engines' own defaults differ.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": 40,
        "min_p": 0.0,
        "do_sample": temperature
        > 0,  # LightLLM's own; left out, the model's folder decides, and then temperature may be ignored
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if stop:
        body["stop"] = list(stop)
    timeout = httpx.Timeout(read_timeout_s, connect=connect_timeout_s)
    # A connection a request: llama.cpp's server drops kept ones after 5 s or 100 requests, in mid-air if need be.
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    # Making a TLS context costs more than the whole request does on loopback.
    verify = base_url.startswith("https:")
    try:
        with (
            httpx.Client(timeout=timeout, trust_env=False, verify=verify) as client,
            client.stream("POST", f"{base_url}/v1/chat/completions", json=body, headers=headers) as response,
        ):
            if response.status_code != 200:
                response.read()
                _refused(response)
            yield from _deltas(response.iter_lines())
    except httpx.HTTPError as error:
        raise Unavailable(f"the engine {model} did not answer: {type(error).__name__}") from None


def _deltas(lines: Iterator[str]) -> Iterator[Delta]:
    finish: str | None = None
    usage = _Usage()
    for line in lines:
        if line.startswith("error:"):
            raise Unavailable("the engine broke off its answer with an error")
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            break
        try:
            chunk = _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise Unavailable(f"the engine sent what is no chunk: {type(error).__name__}") from None
        if chunk.error is not None:
            if _type_of(chunk.error) == "invalid_request_error":  # LightLLM has answered 200 before it reads the prompt
                raise Invalid("the engine refused the request: invalid_request_error")
            raise Unavailable("the engine broke off its answer with an error")
        if chunk.usage is not None:
            usage = chunk.usage
        for choice in chunk.choices:
            if choice.delta.content:
                yield Delta(choice.delta.content)
            finish = choice.finish_reason or finish
    if finish is None:
        raise Unavailable("the engine's answer broke off")
    yield Delta("", finish, usage.prompt_tokens, usage.completion_tokens)


def _refused(response: httpx.Response) -> None:
    status = response.status_code
    if status in (400, 413, 422):
        try:
            kind = _type_of(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            kind = ""  # the status says enough; engines differ in what they say beside it
        raise Invalid(f"the engine refused the request: {status} {kind}".rstrip())
    raise Unavailable(f"the engine answered {status}")


def _type_of(error: Any) -> str:
    return str(error.get("type", "")) if isinstance(error, dict) else ""
