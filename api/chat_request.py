"""A chat request as OpenAI's protocol has it, checked: what cannot be honoured is refused by name, never dropped."""

import secrets
from typing import Any, Literal
from uuid import uuid4

from msgspec import UNSET, Struct, UnsetType

from api.errors import ApiError
from api.wire import check_conversation, check_domain, check_person, typed

DEFAULT_MAX_TOKENS = 256
HIGHEST_MAX_TOKENS = 1024
HIGHEST_DRAFTS = 4
# Fields of OpenAI's protocol that change nothing when they say this.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "tools": ([],),
    "functions": ([],),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}


class _Part(Struct, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class _Message(Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str | list[_Part]


class _StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool = False


class _Metadata(Struct, forbid_unknown_fields=True):
    conversation_id: str | None = None


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
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]


def parse_chat(body: dict[str, Any], default_person: str) -> ChatRequest:
    """Check a body. Raises ApiError 400 naming the field, or 404 for a model whose name cannot be one."""
    given = {
        name: value
        for name, value in body.items()
        if value is not None and not (name in _NEUTRAL and value in _NEUTRAL[name])
    }
    if isinstance(given.get("messages"), list):
        # Clients send back the messages they got, with their empty fields.
        given["messages"] = [
            {k: v for k, v in m.items() if v is not None} if isinstance(m, dict) else m for m in given["messages"]
        ]
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
        max_tokens=_max_tokens(said),
        temperature=_number(said.temperature, 0, 2, "temperature"),
        top_p=_number(said.top_p, 1e-6, 1, "top_p"),
        seed=_within(said.seed, 0, 2**32 - 1, "seed") if said.seed is not None else secrets.randbelow(2**31),
        stop=_stop(said.stop),
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


def _messages(messages: list[_Message]) -> tuple[dict[str, str], ...]:
    if not messages:
        raise ApiError(400, "messages must not be empty", param="messages")
    found = []
    for number, message in enumerate(messages):
        content = message.content
        words = content if isinstance(content, str) else "\n".join(part.text for part in content)
        if not words.strip():
            raise ApiError(400, "a message must not be empty", param=f"messages[{number}].content")
        found.append({"role": message.role, "content": words})
    if messages[-1].role != "user":
        last = len(messages) - 1
        raise ApiError(400, "the last message must be the user's", param=f"messages[{last}].role")
    return tuple(found)


def _max_tokens(said: _Body) -> int:
    if said.max_tokens is not None and said.max_completion_tokens is not None:
        raise ApiError(400, "give max_tokens or max_completion_tokens, not both", param="max_tokens")
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
