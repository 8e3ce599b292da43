"""A chat request as OpenAI's protocol has it, checked: what cannot be honoured is refused by name, never dropped."""

import secrets
from typing import Any, Literal
from uuid import uuid4

from msgspec import UNSET, Struct, UnsetType

from api.errors import ApiError
from api.json_schema import check_schema
from api.wire import check_conversation, check_domain, check_person, typed
from streams.engine_client import ANY_SEED, Sampling
from streams.rankings import MOST_ANSWERS

DEFAULT_MAX_TOKENS = 256
HIGHEST_MAX_TOKENS = 1024
HIGHEST_DRAFTS = MOST_ANSWERS  # as many as a ranking holds
HIGHEST_TOP_LOGPROBS = 20
HIGHEST_BIASES = 1024
# Fields of OpenAI's protocol that change nothing when they say this.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
}
# Fields that change no answer, whatever they say.
_IGNORED = frozenset(
    {
        *("store", "service_tier", "prediction", "parallel_tool_calls"),
        *("safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    }
)
_OF_TOOLS = ("tools", "tool_choice", "functions", "function_call")
# What clients send back with an answer that they got, and what they mark for caches; no model reads it.
_ASIDE = frozenset({"name", "annotations", "reasoning", "reasoning_content", "cache_control"})


class _Part(Struct, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str
    cache_control: Any = None


class _Message(Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] = ""
    refusal: str = ""


class _StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = False  # of what passes on the wire: the answer is the same


class _Metadata(Struct):
    """The caller's own keys are theirs; one is ours."""

    conversation_id: str | None = None


class _JsonSchema(Struct, forbid_unknown_fields=True):
    schema: Any
    name: str = ""
    description: str | None = None
    strict: bool | None = None


class _Format(Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | UnsetType = UNSET


class _Body(Struct, forbid_unknown_fields=True):
    model: str
    messages: list[_Message]
    stream: bool = False
    stream_options: _StreamOptions | UnsetType = UNSET
    n: int = 1
    user: str | None = None
    metadata: _Metadata | UnsetType = UNSET
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[str, float] = {}
    logprobs: bool = False
    top_logprobs: int = 0
    response_format: _Format | UnsetType = UNSET
    seed: int | None = None
    stop: str | list[str] | UnsetType = UNSET


class ChatRequest(Struct, frozen=True):
    """What is asked. `release` None: whichever is live. `new_conversation`: the caller named none."""

    domain: str
    release: int | None
    messages: tuple[dict[str, str], ...]
    drafts: int
    person: str
    conversation_id: str
    new_conversation: bool
    stream: bool
    include_usage: bool
    sampling: Sampling


def parse_chat(body: dict[str, Any], default_person: str) -> ChatRequest:
    """Check a body. Raises ApiError 400 naming the field, or 404 for a model whose name cannot be one."""
    given = {
        name: value
        for name, value in body.items()
        if value is not None and name not in _IGNORED and value not in _NEUTRAL.get(name, ())
    }
    for name in _OF_TOOLS:
        if name in given:
            raise _no_tools(name)
    if isinstance(given.get("messages"), list):
        given["messages"] = [_bare(message, number) for number, message in enumerate(given["messages"])]
    said = typed(given, _Body)
    domain, release = parse_model(said.model)
    metadata = said.metadata if isinstance(said.metadata, _Metadata) else _Metadata()
    conversation_id = metadata.conversation_id
    if conversation_id is not None:
        check_conversation(conversation_id, "metadata.conversation_id")
    options = said.stream_options if isinstance(said.stream_options, _StreamOptions) else None
    if options is not None and not said.stream:
        raise ApiError(400, "stream_options is for streams only", param="stream_options")
    return ChatRequest(
        domain=domain,
        release=release,
        messages=_messages(said.messages),
        drafts=_within(said.n, 1, HIGHEST_DRAFTS, "n"),
        person=check_person(said.user) if said.user is not None else default_person,
        conversation_id=conversation_id or str(uuid4()),
        new_conversation=conversation_id is None,
        stream=said.stream,
        include_usage=options is not None and options.include_usage,
        sampling=_sampling(said),
    )


def parse_model(model: str) -> tuple[str, int | None]:
    """`domain` or `domain@release`."""
    name, at, release = model.partition("@")
    if at and not (release.isascii() and release.isdigit() and len(release) <= 9):
        raise ApiError(404, "model must be a domain or domain@release", param="model", code="model_not_found")
    try:
        check_domain(name)
    except ApiError:
        message = "model must be a domain or domain@release"
        raise ApiError(404, message, param="model", code="model_not_found") from None
    return name, int(release) if at else None


def _no_tools(param: str) -> ApiError:
    return ApiError(400, "tools are not supported here", param=param, code="unsupported_tools")


def _bare(message: Any, number: int) -> Any:
    """A message without what clients send along and no model reads. Raises ApiError 400 where it calls a tool."""
    if not isinstance(message, dict):
        return message
    for name in ("tool_calls", "function_call"):
        if message.get(name):
            raise _no_tools(f"messages[{number}].{name}")
    if message.get("role") in ("tool", "function"):
        raise _no_tools(f"messages[{number}].role")
    empty = ("tool_calls", "function_call")
    return {k: v for k, v in message.items() if v is not None and k not in _ASIDE and k not in empty}


def _messages(messages: list[_Message]) -> tuple[dict[str, str], ...]:
    if not messages:
        raise ApiError(400, "messages must not be empty", param="messages")
    found = []
    for number, message in enumerate(messages):
        content = message.content
        words = content if isinstance(content, str) else "\n".join(part.text for part in content)
        role = "system" if message.role == "developer" else message.role  # templates know the older name
        if not words.strip():
            if role == "system":
                continue  # it says nothing
            if role == "user":
                raise ApiError(400, "a message must not be empty", param=f"messages[{number}].content")
        found.append({"role": role, "content": words or message.refusal})
    if messages[-1].role != "user":
        last = len(messages) - 1
        raise ApiError(400, "the last message must be the user's", param=f"messages[{last}].role")
    return tuple(found)


def _sampling(said: _Body) -> Sampling:
    return Sampling(
        max_tokens=_max_tokens(said),
        temperature=_number(said.temperature, 0, 2, "temperature"),
        top_p=_number(said.top_p, 0, 1, "top_p"),
        seed=_seed(said.seed),
        stop=_stop(said.stop),
        top_k=_within(said.top_k, -1, 2**31 - 1, "top_k") or -1,
        min_p=_number(said.min_p, 0, 1, "min_p"),
        frequency_penalty=_number(said.frequency_penalty, -2, 2, "frequency_penalty"),
        presence_penalty=_number(said.presence_penalty, -2, 2, "presence_penalty"),
        repetition_penalty=_number(said.repetition_penalty, 0.01, 2, "repetition_penalty"),
        logit_bias=_logit_bias(said.logit_bias),
        logprobs=_logprobs(said),
        response_format=_response_format(said.response_format),
    )


def _seed(seed: int | None) -> int:
    """Engines take 32 bits; the same 64 always become the same of these."""
    if seed is None:
        return secrets.randbelow(2**31)
    return _within(seed, -(2**63), 2**63 - 1, "seed") % ANY_SEED


def _logit_bias(given: dict[str, float]) -> dict[int, float]:
    if len(given) > HIGHEST_BIASES:
        raise ApiError(400, f"logit_bias may name {HIGHEST_BIASES} tokens", param="logit_bias")
    for token, bias in given.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise ApiError(400, "logit_bias must name tokens by their number", param="logit_bias")
        _number(bias, -100, 100, "logit_bias")
    return {int(token): bias for token, bias in given.items()}


def _logprobs(said: _Body) -> int | None:
    wanted = _within(said.top_logprobs, 0, HIGHEST_TOP_LOGPROBS, "top_logprobs")
    if wanted and not said.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs", param="top_logprobs")
    return wanted if said.logprobs else None


def _response_format(asked: _Format | UnsetType) -> dict[str, Any] | None:
    if isinstance(asked, UnsetType) or asked.type == "text":
        return None
    if asked.type == "json_object":
        return {"type": "json_object"}
    if isinstance(asked.json_schema, UnsetType):
        raise ApiError(400, "response_format needs a json_schema", param="response_format.json_schema")
    check_schema(asked.json_schema.schema, "response_format.json_schema.schema")
    return {"type": "json_schema", "json_schema": {"name": asked.json_schema.name, "schema": asked.json_schema.schema}}


def _max_tokens(said: _Body) -> int:
    if None not in (said.max_tokens, said.max_completion_tokens) and said.max_tokens != said.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens say two things", param="max_tokens")
    name = "max_tokens" if said.max_tokens is not None else "max_completion_tokens"
    wanted = getattr(said, name)
    if wanted is None:
        return DEFAULT_MAX_TOKENS
    if wanted < 1:
        raise ApiError(400, f"{name} must be at least 1", param=name)
    return int(min(wanted, HIGHEST_MAX_TOKENS))


def _stop(stop: str | list[str] | UnsetType) -> tuple[str, ...]:
    if isinstance(stop, UnsetType):
        return ()
    listed = [stop] if isinstance(stop, str) else list(stop)
    if len(listed) > 4 or any(not 1 <= len(words) <= 64 for words in listed):
        raise ApiError(400, "stop must be at most 4 texts of 1 to 64 characters", param="stop")
    return tuple(listed)


def _within(value: int, lowest: int, highest: int, name: str) -> int:
    if not lowest <= value <= highest:
        raise ApiError(400, f"{name} must be from {lowest} to {highest}", param=name)
    return value


def _number(value: float, lowest: float, highest: float, name: str) -> float:
    if not lowest <= value <= highest:
        raise ApiError(400, f"{name} must be from {lowest:g} to {highest:g}", param=name)
    return value
