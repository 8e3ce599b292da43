"""Feedback on a reply that its own person got: a rating, a pick, an order of drafts, a correction, a memory that did not fit it, or
a comment; and what was recalled for it."""

import re
import threading
import unicodedata
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import msgspec
from flask import Blueprint, Response, request
from msgspec import Struct
from sqlalchemy import select

from api.access import caller, check_speaker, needs
from api.chat_request import HIGHEST_DRAFTS
from api.errors import ApiError
from api.keys import Caller
from api.known import retired_domain
from api.recall import remembered
from api.saying import say
from api.services import Services
from api.wire import check_person, read_object, reply, typed
from streams import schema, sealing
from streams.errors import Erased
from streams.events import CONVERSATIONS
from streams.facts.conversations import (
    ConversationEvent,
    DraftPicked,
    DraftsRanked,
    RecallRejected,
    ReplyCommented,
    ReplyCorrected,
    ReplyRated,
)
from streams.log import Position
from streams.recalled import Recalled, RecallOutcome
from streams.sealed import Sealed
from streams.sealing import Keys, PersonKey
from streams.store import postgres_trouble

TEXT_BYTES = 32 * 1024
CATCH_UP_S = 5.0
RETRY_AFTER_S = 2
REMEMBERED = 10_000
ONE_OF = ("rating", "pick", "ranking", "correction", "misfit")
KINDS = (*ONE_OF, "comment")  # each that is given is one event
_KEYS = uuid5(NAMESPACE_URL, "urn:noria:idempotency-key")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class _Body(Struct, forbid_unknown_fields=True):
    reply_id: str
    user: str | None = None
    rating: Literal["up", "down"] | int | None = None
    pick: bool | None = None
    correction: str | None = None
    comment: str | None = None
    misfit: str | None = None  # the id of a memory
    ranking: list[str | list[str]] | None = None  # ids of drafts, the best first; those that are equally good in a list


class _Reply(Struct, frozen=True):
    reply_id: str
    prompt_id: str
    conversation_id: str
    domain: str
    person: str
    text: Sealed
    recall: RecallOutcome
    recalled: tuple[Recalled, ...]
    retired: bool  # its domain


class _Given(Struct, frozen=True):
    """What a request with that idempotency key said, where its last event stands, and how many of its events do."""

    digest: str
    position: str
    events: int


class _Memory:
    """The last requests with an Idempotency-Key: what the projections may not have taken in yet. Holds no words."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[UUID, _Given] = OrderedDict()
        self._turns = [threading.Lock() for _ in range(64)]

    def turn(self, event_id: UUID) -> threading.Lock:
        """Two requests with one key wait for each other."""
        return self._turns[event_id.int % len(self._turns)]

    def get(self, event_id: UUID) -> _Given | None:
        with self._lock:
            return self._found.get(event_id)

    def put(self, event_id: UUID, given: _Given) -> None:
        with self._lock:
            self._found[event_id] = given
            while len(self._found) > REMEMBERED:
                self._found.popitem(last=False)


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("conversations", __name__)
    memory = _Memory()

    @views.post("/v1/feedback")
    @needs("chat")
    def give_feedback() -> Response:
        said, canonical = parse_feedback(read_object(), caller())
        check_speaker(said.user or "")
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return _record(services, memory, said, canonical, uuid4(), remembered=False)
        if not _KEY.fullmatch(key):
            message = "Idempotency-Key must be 1 to 255 visible ASCII characters"
            raise ApiError(400, message, param="Idempotency-Key")
        event_id = uuid5(_KEYS, f"{caller().key_id}\n{said.user}\n{key}")
        with memory.turn(event_id):
            return _record(services, memory, said, canonical, event_id, remembered=True)

    @views.get("/v1/replies/<reply_id>/recalled")
    @needs("chat")
    def show_recalled(reply_id: str) -> Response:
        found = find_reply(services, reply_id)
        who = caller()
        if found.person != who.person and who.speaks_as is not None and not who.may("data"):
            raise ApiError(403, "a chat key sees what was recalled for its own person only", code="role_missing")
        with postgres_trouble(), services.database.connect() as connection:
            data = remembered(connection, services.keyring, found.domain, found.recalled, datetime.now(UTC))
        return reply({"reply_id": reply_id, "domain": found.domain, "recall": found.recall, "data": data})

    return views


def parse_feedback(body: dict[str, Any], who: Caller) -> tuple[_Body, bytes]:
    """Check a body; it and its canonical bytes, which say whether two requests are the same."""
    said = typed(body, _Body)
    said.user = check_person(said.user) if said.user is not None else who.person
    if not said.reply_id:
        raise ApiError(400, "reply_id must not be empty", param="reply_id")
    if isinstance(said.rating, int) and not 1 <= said.rating <= 5:
        raise ApiError(400, "rating must be up, down or 1 to 5", param="rating")
    if said.pick is False:
        raise ApiError(400, "pick can only be true", param="pick")
    if said.ranking is not None:
        _check_ranking(said)
    for name in ("correction", "comment"):
        words = getattr(said, name)
        if words is None:
            continue
        if not words.strip():
            raise ApiError(400, f"{name} must not be empty", param=name)
        if len(words.encode()) > TEXT_BYTES:
            raise ApiError(413, f"{name} is longer than {TEXT_BYTES} bytes", param=name, code="text_too_large")
    if said.misfit == "":
        raise ApiError(400, "misfit must be the id of a memory", param="misfit")
    kinds = [name for name in ONE_OF if getattr(said, name) is not None]
    if len(kinds) > 1:
        raise ApiError(400, f"give one of {', '.join(ONE_OF)}; got {', '.join(kinds)}", param=kinds[1])
    if not kinds and said.comment is None:
        raise ApiError(400, "give a rating, a pick, a ranking, a correction, a misfit or a comment", param="rating")
    given = msgspec.to_builtins(said)
    for later in ("misfit", "ranking"):
        if given[later] is None:
            del given[later]  # a request of a time when there was none is the same still
    return said, msgspec.json.encode(given, order="deterministic")


def _tiers(ranking: list[str | list[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple((tier,) if isinstance(tier, str) else tuple(tier) for tier in ranking)


def _check_ranking(said: _Body) -> None:
    tiers = _tiers(said.ranking or [])
    ids = [id_ for tier in tiers for id_ in tier]
    if not 2 <= len(ids) <= HIGHEST_DRAFTS or not all(tiers):
        raise ApiError(400, f"ranking must name 2 to {HIGHEST_DRAFTS} drafts, the best first", param="ranking")
    if len(set(ids)) < len(ids):
        raise ApiError(400, "ranking names a draft twice", param="ranking")
    if said.reply_id not in ids:
        raise ApiError(400, "reply_id must be one of those that ranking names", param="reply_id")


def _record(
    services: Services, memory: _Memory, said: _Body, canonical: bytes, event_id: UUID, remembered: bool
) -> Response:
    if remembered:
        wanted = sum(getattr(said, kind) is not None for kind in KINDS)
        before = memory.get(event_id) or _from_projection(services, event_id)
        if (before is None or before.events < wanted) and services.recorder.wait_for_ends(CONVERSATIONS, CATCH_UP_S):
            # A door that died may have recorded it without having said so.
            before = _from_projection(services, event_id)
        if before is not None and not _says(before, canonical, services.keyring):
            message = "this Idempotency-Key was used for something else"
            raise ApiError(409, message, param="Idempotency-Key", code="idempotency_key_reused")
        if before is not None and before.events == wanted:
            memory.put(event_id, before)
            return _answer(event_id, before.position, duplicate=True)
        # Where the log or the door died between two events of a request, both are said again, under the same ids.
    reply_ = find_reply(services, said.reply_id)
    if reply_.retired:
        raise retired_domain()
    if reply_.person != said.user:
        raise ApiError(403, "that reply was given to another person", param="user")
    if said.correction is not None:
        _check_correction(services, reply_, said.correction)
    if said.ranking is not None:
        _check_ranked(services, reply_, said.ranking)
    if said.misfit is not None and said.misfit not in {one.id for one in reply_.recalled}:
        raise ApiError(422, "that memory was not recalled for the reply", param="misfit", code="not_recalled")
    try:
        with postgres_trouble():
            # That of the reply: feedback on it makes no key anew for somebody who was erased.
            key = services.keyring.find(reply_.text.kid)
    except Erased:
        raise _gone() from None
    digest = _digest(canonical, key)
    found = say(services, _events(said, reply_, event_id, digest, key), reply_.conversation_id)
    if remembered:
        memory.put(event_id, _Given(digest, str(found[-1]), len(found)))
    for kind in KINDS:
        if getattr(said, kind) is not None:
            services.metrics.feedback.labels(kind).inc()
    return _answer(event_id, str(found[-1]), duplicate=False)


def _answer(event_id: UUID, position: str, duplicate: bool) -> Response:
    return reply({"event_id": str(event_id), "position": position, "duplicate": duplicate})


def _from_projection(services: Services, event_id: UUID) -> _Given | None:
    events, feedback = schema.events.c, schema.feedback.c
    # A comment given along with something else stands behind it, and is the last of the request.
    ids = [str(event_id), str(uuid5(event_id, "comment"))]
    with postgres_trouble(), services.database.connect() as connection:
        rows = connection.execute(
            select(events.topic, events.partition, events.offset, feedback.request_digest)
            .join_from(schema.events, schema.feedback, events.event_id == feedback.event_id)
            .where(events.event_id.in_(ids))
            .order_by(events.offset)
        ).all()
    if not rows:
        return None
    last = rows[-1]
    return _Given(last.request_digest, str(Position(last.topic, last.partition, last.offset)), len(rows))


def find_reply(services: Services, reply_id: str) -> _Reply:
    """The reply as the projections hold it, once they have reached where the log ended on arrival. Raises ApiError 404, and
    503 when they do not reach it: nobody can say then that there is no such reply."""
    found = _select_reply(services, reply_id)
    if found is None:
        caught_up = services.recorder.wait_for_ends(CONVERSATIONS, CATCH_UP_S)
        found = _select_reply(services, reply_id)
        if found is None and not caught_up:
            message = "that reply is not known yet: the log is not followed at present"
            raise ApiError(503, message, param="reply_id", code="not_caught_up", retry_after_s=RETRY_AFTER_S)
    if found is None or not caller().sees(found.domain):
        raise ApiError(404, "there is no such reply", param="reply_id", code="reply_not_found")
    return found


def _select_reply(services: Services, reply_id: str) -> _Reply | None:
    replies = schema.replies.c
    if "\x00" in reply_id:
        return None
    with postgres_trouble(), services.database.connect() as connection:
        row = connection.execute(
            select(
                replies.reply_id,
                replies.prompt_id,
                replies.conversation_id,
                replies.domain,
                replies.person,
                replies.text,
                replies.recall,
                replies.recalled,
                schema.domains.c.retired_at,
            )
            .outerjoin_from(schema.replies, schema.domains, replies.domain == schema.domains.c.domain)
            .where(replies.reply_id == reply_id)
        ).one_or_none()
    if row is None:
        return None
    return _Reply(
        reply_id=row.reply_id,
        prompt_id=row.prompt_id,
        conversation_id=row.conversation_id,
        domain=row.domain,
        person=row.person,
        text=msgspec.convert(row.text, Sealed),
        recall=row.recall,
        recalled=msgspec.convert(row.recalled, tuple[Recalled, ...]),
        retired=row.retired_at is not None,
    )


def _check_correction(services: Services, reply_: _Reply, correction: str) -> None:
    try:
        with postgres_trouble():
            words = sealing.open_sealed(reply_.text, services.keyring)
    except Erased:
        raise _gone() from None
    if _plain(words) == _plain(correction):
        raise ApiError(422, "the correction says the same as the reply", param="correction")


def _check_ranked(services: Services, reply_: _Reply, ranking: list[str | list[str]]) -> None:
    """Drafts of one prompt are answered at once, so that whoever knows one knows all."""
    replies = schema.replies.c
    with postgres_trouble(), services.database.connect() as connection:
        drafts = set(
            connection.execute(select(replies.reply_id).where(replies.prompt_id == reply_.prompt_id)).scalars()
        )
    if not {id_ for tier in _tiers(ranking) for id_ in tier} <= drafts:
        message = "ranking names a draft that is none of the same prompt"
        raise ApiError(422, message, param="ranking", code="not_of_the_prompt")


def _gone() -> ApiError:
    return ApiError(410, "what that reply said was erased", param="reply_id", code="erased")


def _digest(canonical: bytes, key: PersonKey) -> str:
    """Of a request, under the key of whoever said it; it names the key."""
    return f"{key.kid}:{sealing.digest(canonical, key)}"


def _says(given: _Given, canonical: bytes, keys: Keys) -> bool:
    """Whether that request said the same. Raises ApiError 410 when its person was erased since: nobody can tell."""
    kid = given.digest.rpartition(":")[0]
    try:
        with postgres_trouble():
            # One that names no key was recorded when there was one for all.
            here = _digest(canonical, keys.find(kid)) if kid else sealing.common_digest(canonical, keys)
    except Erased:
        message = "what was said with this Idempotency-Key was erased"
        raise ApiError(410, message, param="Idempotency-Key", code="erased") from None
    return here == given.digest


def _plain(words: str) -> str:
    return unicodedata.normalize("NFKC", words).strip()


def _events(
    said: _Body, reply_: _Reply, event_id: UUID, digest: str, key: PersonKey
) -> list[tuple[UUID, ConversationEvent]]:
    place: dict[str, Any] = {
        "domain": reply_.domain,
        "conversation_id": reply_.conversation_id,
        "prompt_id": reply_.prompt_id,
        "reply_id": reply_.reply_id,
        "person": reply_.person,
        "request_digest": digest,
    }
    found: list[tuple[UUID, ConversationEvent]] = []
    if said.pick:
        found.append((event_id, DraftPicked(**place)))
    if said.ranking is not None:
        found.append((event_id, DraftsRanked(ranking=_tiers(said.ranking), **place)))
    if said.rating is not None:
        thumb = {"up": 1, "down": -1}
        if isinstance(said.rating, str):
            found.append((event_id, ReplyRated(rating=thumb[said.rating], scale="thumb", **place)))
        else:
            found.append((event_id, ReplyRated(rating=said.rating, scale="stars", **place)))
    if said.correction is not None:
        text = sealing.seal(said.correction, key, f"{event_id}#text")
        found.append((event_id, ReplyCorrected(text=text, **place)))
    if said.misfit is not None:
        found.append((event_id, RecallRejected(memory_id=said.misfit, **place)))
    if said.comment is not None:
        comment_id = uuid5(event_id, "comment") if found else event_id
        text = sealing.seal(said.comment, key, f"{comment_id}#text")
        found.append((comment_id, ReplyCommented(text=text, **place)))
    return found
