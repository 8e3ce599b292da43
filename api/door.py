"""The OpenAI endpoint. What was asked is on the log before a byte of the answer leaves, and what was answered before it ends.

A client that leaves in the middle frees the engine's slot. Its unfinished drafts are counted and not recorded: a reply
that nobody has seen whole can be neither rated nor learned from, and the prompt stands on the log all the same.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4, uuid5

import msgspec
from flask import Blueprint, Response, g, request
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import select

from api.access import caller, check_speaker, needs, no_such_domain
from api.answering import Answering, ClientLeft, Draft, Piece
from api.chat_request import ChatRequest, parse_chat, parse_model
from api.errors import ApiError, refusal_of
from api.keys import Caller
from api.limits import BYTES_A_TOKEN
from api.recall import Declined, Recollection
from api.routing import Manner, NoEngine, NotServed, Pin, QueueFull, recall_of
from api.saying import say
from api.services import Services, person_subject
from api.turns import Turns
from api.wire import read_object, reply
from streams import history, schema, sealing
from streams.engine_client import ContextExceeded, TokenLogprob
from streams.engines import beyond
from streams.errors import EngineUnavailable, Erased, Invalid, Unavailable
from streams.facts.conversations import PromptAsked, ReplyDrafted
from streams.sealing import Keys, PersonKey
from streams.store import postgres_trouble

DRAFTS_PATIENCE_S = 45.0  # for the log to take in an answer that is already there: a killed broker is back by then
RETRY_AFTER_S = 2
_WORDS = "\x1a"  # stands for the words of a piece; no domain's name or id can hold it
_WORDS_JSON = msgspec.json.encode(_WORDS)
Answered = Answering | Declined


class Asked(Struct, frozen=True):
    """A prompt on the log."""

    chat: ChatRequest
    pin: Pin
    event_id: UUID
    at: datetime
    position: str
    so_far: str
    kid: str  # of the key that the prompt was sealed with
    who: Caller
    estimate: int  # of the tokens that its prompt and answer take
    recollection: Recollection

    @property
    def prompt_id(self) -> str:
        return prompt_id_of(self.event_id)


def tokens_asked(chat: ChatRequest) -> int:
    """About what a request takes, before an engine has counted: the most that it may answer is not taken for the answer."""
    return chat.drafts * sum(len(message["content"].encode()) for message in chat.messages) // BYTES_A_TOKEN


def prompt_id_of(event_id: UUID) -> str:
    return f"prm_{event_id.hex}"


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("door", __name__)

    @views.post("/v1/chat/completions")
    @needs("chat")
    def chat_completions() -> Response:
        chat = parse_chat(read_object(), caller().person)
        if not caller().sees(chat.domain):
            raise no_such_model()
        check_speaker(chat.person)
        manner = manner_of(services, chat.domain)
        chat = with_system_prompt(chat, manner)
        if not chat.new_conversation:
            check_conversation_owner(services, chat)
        pin = pin_for(services, chat)
        try:
            check_engine(chat, pin)
            g.held.append(services.limits.hold_drafts(caller(), pin.engine_id, chat.drafts, services.routes.limit))
            estimate = tokens_asked(chat)
            services.limits.take_tokens(caller(), estimate)
            at, event_id = datetime.now(UTC), uuid4()
            chat, event, so_far, kid = prompt_event(services, chat, pin, event_id)
            services.recorder.check()  # a log that is known to be away: the engine is not asked in vain
            recollection = services.recaller.recollect(chat, manner.recall, pin.context_tokens)
            # From here on the engine works, while the log takes in what was asked.
            answering = begin_answering(services, recollection.before(chat), pin, recollection.decline)
        except BaseException:
            let_go(services, chat, pin)
            raise
        try:
            (position,) = say(services, [(event_id, event)], chat.conversation_id, at=at)
        except BaseException:
            answering.close()
            raise
        asked = Asked(chat, pin, event_id, at, str(position), so_far, kid, caller(), estimate, recollection)
        services.turns.remember(chat, so_far, asked.prompt_id)
        return answer(services, asked, answering)

    @views.get("/v1/models")
    @needs("chat")
    def list_models() -> Response:
        return reply({"object": "list", "data": models(services, caller())})

    @views.get("/v1/models/<name>")
    @needs("chat")
    def show_model(name: str) -> Response:
        parse_model(name)
        found = next((model for model in models(services, caller()) if model["id"] == name), None)
        if found is None:
            raise ApiError(404, "that model is not served", param="model", code="model_not_found")
        return reply(found)

    return views


def no_such_model() -> ApiError:
    return no_such_domain("model", "model_not_found")


def models(services: Services, who: Caller) -> list[dict[str, Any]]:
    """The caller's domains, each with the release that answers now, and every release that is kept running."""
    routes, engines, _ = services.routes.table()
    named = [(domain, route.release, engines.get(route.engine_id)) for domain, route in sorted(routes.items())]
    kept = {f"{e.domain}@{e.release}": e for e in engines.values() if e.state in ("ready", "asleep")}
    named += [(name, engine.release, engine) for name, engine in sorted(kept.items())]
    return [
        {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "noria",
            "release": release,
            "context_length": engine.context_tokens if engine is not None else None,  # prompt and answer together
        }
        for name, release, engine in named
        if who.sees(name.partition("@")[0])
    ]


def manner_of(services: Services, domain: str) -> Manner:
    """How the domain answers. Raises ApiError 404 for one that does not live."""
    known = services.routes.manner(domain)
    if known is None and not services.routes.is_retired(domain):
        table = schema.domains.c
        with postgres_trouble(), services.database.connect() as connection:
            row = connection.execute(
                select(table.system_prompt, table.policy).where(table.domain == domain, table.retired_at.is_(None))
            ).one_or_none()
        known = Manner(row.system_prompt, recall_of(row.policy.get("recall"))) if row is not None else None
    if known is None:
        raise no_such_model()
    return known


def with_system_prompt(chat: ChatRequest, manner: Manner) -> ChatRequest:
    """The domain's system prompt first, unless the caller gives one. It is recorded too: it is what the model was asked."""
    if not manner.system_prompt or any(message["role"] == "system" for message in chat.messages):
        return chat
    return replace(chat, messages=({"role": "system", "content": manner.system_prompt}, *chat.messages))


def check_conversation_owner(services: Services, chat: ChatRequest) -> None:
    """A conversation belongs to one person and one domain."""
    owner = services.turns.owner(chat.conversation_id)
    if owner is None:
        return
    person, domain = owner
    if not caller().sees(domain):
        message = "there is no such conversation"
        raise ApiError(404, message, param="metadata.conversation_id", code="conversation_not_found")
    if person != chat.person:
        raise ApiError(403, "that conversation is another person's", param="metadata.conversation_id")
    if domain != chat.domain:
        raise ApiError(422, "that conversation is in another domain", param="metadata.conversation_id")


def pin_for(services: Services, chat: ChatRequest) -> Pin:
    try:
        return services.routes.pin(chat.domain, chat.release, chat.drafts)
    except NotServed as error:
        if chat.release is not None:
            message = f"release {chat.release} of {chat.domain} is not served at present"
            raise ApiError(404, message, param="model", code="release_not_served") from None
        message = (
            f"no engine answers for {chat.domain} yet" if not error.known else f"no engine answers for {chat.domain}"
        )
        raise ApiError(503, message, code="no_engine", retry_after_s=RETRY_AFTER_S) from None
    except NoEngine:
        message = f"no engine of {chat.domain} lives"
        raise ApiError(503, message, code="no_engine", retry_after_s=RETRY_AFTER_S) from None
    except QueueFull:
        message = "the engine's queue is full"
        raise ApiError(429, message, code="queue_full", retry_after_s=RETRY_AFTER_S) from None


def check_engine(chat: ChatRequest, pin: Pin) -> None:
    """Raises ApiError 400 naming what the engine that is to answer has no way to do."""
    name = beyond(pin.kind, chat.sampling)
    if name is not None:
        message = f"{name} as asked is beyond the engine of {chat.domain} ({pin.kind})"
        raise ApiError(400, message, param=name, code="beyond_the_engine")


def let_go(services: Services, chat: ChatRequest, pin: Pin) -> None:
    """No draft of the request is in flight on the engine of `pin`."""
    for _ in range(chat.drafts):
        services.routes.unpin(pin.engine_id)


def begin_answering(services: Services, chat: ChatRequest, pin: Pin, decline: str | None) -> Answered:
    """The engine of `pin`, asked; where the policy declines, nobody is."""
    if decline is not None:
        let_go(services, chat, pin)
        return Declined(decline, chat.drafts)
    return Answering(
        chat,
        pin,
        services.routes,
        services.keyring.derive,
        services.metrics,
        may_restart=not chat.stream,
        leavers=services.leavers,
        gone=request.environ.get("waitress.client_disconnected", lambda: False),
    )


def prompt_event(
    services: Services, chat: ChatRequest, pin: Pin, event_id: UUID
) -> tuple[ChatRequest, PromptAsked, str, str]:
    """The request as the conversation that it belongs to has it, its event, the digest of all up to and with it, and the id of
    the key that it was sealed with."""
    with postgres_trouble():
        key = services.keyring.key_for(person_subject(chat.person))
    chat, event, so_far = prompt_of(
        chat, pin.release, event_id, services.turns, services.keyring, key, services.settings.prompt_bytes
    )
    return chat, event, so_far, key.kid


def prompt_of(
    chat: ChatRequest, release: int, event_id: UUID, turns: Turns, keys: Keys, key: PersonKey, prompt_bytes: int
) -> tuple[ChatRequest, PromptAsked, str]:
    """The request, its event with only what is new sealed in it, and the digest of all up to and with it. One that names no
    conversation goes on with that which it repeats. Raises ApiError 413 for more than `prompt_bytes` of what is new."""
    digests = history.digests(chat.domain, chat.messages, key)
    known = turns.known(chat, digests, keys)
    if chat.new_conversation and known.conversation_id is not None:
        chat = replace(chat, conversation_id=known.conversation_id)
    words = msgspec.json.encode(chat.messages[known.messages :]).decode()
    if len(words.encode()) > prompt_bytes:
        message = f"what the request adds to its conversation is larger than {prompt_bytes} bytes (NORIA_PROMPT_BYTES)"
        raise ApiError(413, message, param="messages", code="prompt_too_large")
    event = PromptAsked(
        domain=chat.domain,
        conversation_id=chat.conversation_id,
        prompt_id=prompt_id_of(event_id),
        person=chat.person,
        messages=sealing.seal(words, key, f"{event_id}#messages"),
        release=release,
        drafts=chat.drafts,
        follows=known.point,
        so_far=digests[-1],
    )
    return chat, event, digests[-1]


def answer(services: Services, asked: Asked, answering: Answered) -> Response:
    """The whole answer, or its stream once the first piece is there: until then an error still has its own status."""
    pieces = answering.pieces()
    headers = {
        "X-Noria-Release": asked.pin.name,
        "X-Noria-Conversation": asked.chat.conversation_id,
        "X-Noria-Prompt": asked.prompt_id,
    }
    try:
        if not asked.chat.stream:
            for _ in pieces:
                pass
            body = completion(asked, answering, record_drafts(services, asked, answering))
            answering.close()
            return reply(body, headers=headers)
        first = next(pieces, None)
    except BaseException as error:
        answering.close()
        raise _refusal(error, asked) from None
    stream = _Stream(services, asked, answering, first, pieces)
    response = Response(stream, content_type="text/event-stream", headers=headers)
    response.headers["X-Accel-Buffering"] = "no"
    return response


def record_drafts(services: Services, asked: Asked, answering: Answered) -> str:
    """Every draft on the log, acknowledged; the position of the last. Raises Erased when the key of the prompt was destroyed: what
    answers it belongs to what was erased, and is not recorded under a key that its person got since."""
    chat = asked.chat
    with postgres_trouble():
        key = services.keyring.find(asked.kid)
    drafts = [
        (
            draft_id_of(asked.event_id, index),
            draft_of(chat, asked.event_id, index, asked.pin.release, draft, key, asked.recollection),
        )
        for index, draft in enumerate(answering.drafts)
    ]
    used = sum(draft.prompt_tokens + draft.completion_tokens for draft in answering.drafts)
    services.limits.settle_tokens(asked.who, used - asked.estimate)
    found = say(
        services,
        drafts,
        chat.conversation_id,
        who=asked.who,
        causation_id=asked.event_id,
        patience_s=DRAFTS_PATIENCE_S,
    )
    for index, draft in enumerate(answering.drafts):
        said = {"role": "assistant", "content": draft.text}
        so_far = history.next_digest(asked.so_far, said, key)
        services.turns.remember(chat, so_far, reply_id_of(asked, index))
    services.metrics.drafts.labels(asked.pin.domain, str(asked.pin.release)).inc(len(drafts))
    return str(found[-1])


def draft_of(
    chat: ChatRequest,
    prompt_event_id: UUID,
    index: int,
    release: int,
    draft: Draft,
    key: PersonKey,
    recollection: Recollection,
) -> ReplyDrafted:
    event_id = draft_id_of(prompt_event_id, index)
    return ReplyDrafted(
        domain=chat.domain,
        conversation_id=chat.conversation_id,
        prompt_id=prompt_id_of(prompt_event_id),
        reply_id=f"rpl_{event_id.hex}",
        person=chat.person,
        index=index,
        release=release,
        text=sealing.seal(draft.text, key, f"{event_id}#text"),
        finish_reason=draft.finish_reason or "stop",
        prompt_tokens=draft.prompt_tokens,
        completion_tokens=draft.completion_tokens,
        duration_s=round(draft.duration_s, 3),
        recall=recollection.outcome,
        recalled=recollection.recalled,
    )


def draft_id_of(prompt_event_id: UUID, index: int) -> UUID:
    return uuid5(prompt_event_id, f"draft {index}")


def reply_id_of(asked: Asked, index: int) -> str:
    return f"rpl_{draft_id_of(asked.event_id, index).hex}"


def completion(asked: Asked, answering: Answered, position: str) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": draft.text, "refusal": None},
            "finish_reason": draft.finish_reason,
            "logprobs": _logprobs(asked, draft.logprobs) if asked.chat.sampling.logprobs is not None else None,
            "reply_id": reply_id_of(asked, index),
        }
        for index, draft in enumerate(answering.drafts)
    ]
    return {
        **_head(asked, "chat.completion"),
        "choices": choices,
        "usage": _usage(answering),
        "metadata": _metadata(asked, answering, position),
    }


class _Stream:
    """The answer as server-sent events. Closing it, which the server does when the client leaves, frees the engine.

    An object rather than a generator: a generator that was never begun does not run its `finally` when closed.
    """

    def __init__(
        self,
        services: Services,
        asked: Asked,
        answering: Answered,
        first: list[Piece] | None,
        pieces: Iterator[list[Piece]],
    ) -> None:
        self._answering = answering
        self._events = _events(services, asked, answering, first, pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        self._answering.close()


def _events(
    services: Services,
    asked: Asked,
    answering: Answered,
    first: list[Piece] | None,
    pieces: Iterator[list[Piece]],
) -> Iterator[bytes]:
    head = _head(asked, "chat.completion.chunk")

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + msgspec.json.encode({**head, "choices": choices, **more}) + b"\n\n"

    # What stands around the words of a piece is the same for all of a draft: it is encoded once.
    frames = [
        chunk([{"index": index, "delta": {"content": _WORDS}, "finish_reason": None}]).split(_WORDS_JSON)
        for index in range(asked.chat.drafts)
    ]

    def piece_of(piece: Piece) -> bytes:
        if asked.chat.sampling.logprobs is None:
            before, after = frames[piece.index]
            return before + msgspec.json.encode(piece.text) + after
        delta = {"content": piece.text}
        choice: dict[str, Any] = {"index": piece.index, "delta": delta, "finish_reason": None}
        return chunk([choice | {"logprobs": _logprobs(asked, piece.logprobs)}])

    try:
        opening = {"role": "assistant", "content": ""}
        opened = [chunk([{"index": i, "delta": opening, "finish_reason": None}]) for i in range(asked.chat.drafts)]
        yield b"".join([*opened, *map(piece_of, first or ())])
        for came in pieces:
            yield b"".join(map(piece_of, came))
        # No client may take the answer for whole before it is on the log.
        metadata = _metadata(asked, answering, record_drafts(services, asked, answering))
    except ClientLeft:
        return
    except Exception as error:
        # The status has been sent; what is left is to say that this is not the end of an answer. No [DONE] follows.
        yield b"data: " + msgspec.json.encode(_refusal(error, asked).body) + b"\n\n"
        return
    last = len(answering.drafts) - 1
    ending = []
    for index, draft in enumerate(answering.drafts):
        choice = {
            "index": index,
            "delta": {},
            "finish_reason": draft.finish_reason,
            "reply_id": reply_id_of(asked, index),
        }
        ending.append(chunk([choice], **({"metadata": metadata} if index == last else {})))
    if asked.chat.include_usage:
        ending.append(chunk([], usage=_usage(answering), metadata=metadata))
    yield b"".join([*ending, b"data: [DONE]\n\n"])


def _refusal(error: BaseException, asked: Asked) -> ApiError:
    match error:
        case ContextExceeded():
            window = error.context_tokens or asked.pin.context_tokens
            told = f"resulted in {error.prompt_tokens} tokens" if error.prompt_tokens else "are longer"
            message = (
                f"This model's maximum context length is {window} tokens. However, your messages {told}."
                " Please reduce the length of the messages."
            )
            return ApiError(400, message, param="messages", code="context_length_exceeded")
        case Invalid() if asked.chat.sampling.response_format is not None:
            message = "the engine refused the response_format: it cannot hold an answer to that schema"
            return ApiError(400, message, param="response_format", code="engine_refused")
        case Invalid():
            message = "the engine refused the messages: they are not what its model can read"
            return ApiError(400, message, param="messages", code="engine_refused")
        case EngineUnavailable():
            message = "the engine did not finish the answer"
            return ApiError(503, message, code="engine_broke_off", retry_after_s=RETRY_AFTER_S)
        case Unavailable():
            message = "the answer could not be recorded; it does not count"
            return ApiError(503, message, code="unavailable", retry_after_s=RETRY_AFTER_S)
        case Erased():
            message = "whoever asked was erased meanwhile: the answer is not recorded, and does not count"
            return ApiError(410, message, code="erased")
        case ClientLeft():
            return ApiError(499, "the client left")
        case _:
            return refusal_of(error)


def _head(asked: Asked, kind: str) -> dict[str, Any]:
    return {
        "id": asked.prompt_id,
        "object": kind,
        "created": int(asked.at.timestamp()),
        "model": asked.pin.name,
        "system_fingerprint": asked.pin.name,
    }


def _logprobs(asked: Asked, told: Sequence[TokenLogprob]) -> dict[str, Any]:
    most = asked.chat.sampling.logprobs
    return {"content": [replace(token, top_logprobs=token.top_logprobs[:most]) for token in told], "refusal": None}


def _usage(answering: Answered) -> dict[str, int]:
    asked = max(draft.prompt_tokens for draft in answering.drafts)
    said = sum(draft.completion_tokens for draft in answering.drafts)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _metadata(asked: Asked, answering: Answered, position: str) -> dict[str, Any]:
    return {
        "conversation_id": asked.chat.conversation_id,
        "release": asked.pin.name,
        "reply_ids": [reply_id_of(asked, index) for index in range(asked.chat.drafts)],
        "position": position,
        "messages_left_out": answering.left_out,  # the oldest, which the model's window did not hold
        **asked.recollection.metadata(asked.at),
    }
