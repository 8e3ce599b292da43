"""What is recalled for a question: asked of the memory by ids, read where it stands, opened, and put before what the engine is
asked. The log has of it which and how sure; words of it are in memory only, for as long as the answer takes.

A memory that is away, or slow, costs an answer no more than `recall_client.TIMEOUT_S`, and then it is answered without it.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, Engine, select

from api.answering import Draft, Piece
from api.chat_request import ChatRequest
from api.metrics import Metrics
from streams import schema
from streams.errors import Erased, Invalid, Unavailable
from streams.history import open_question
from streams.reading.memories import corrections_in_force, passages_in_force
from streams.recall_client import KEY, TIMEOUT_S, MapQuestion, RecallClient
from streams.recalled import (
    BYTES_A_TOKEN,
    Memory,
    MemoryKind,
    Recall,
    Recalled,
    RecallOutcome,
    with_recalled,
    within_tokens,
)
from streams.sealing import Keyring, open_sealed
from streams.store import postgres_trouble

logger = logging.getLogger(__name__)
MAP_S = 120.0  # for a map: what was never embedded is, 10 ms a text
PATIENT_S = 10.0  # for whoever asks what would be recalled: no answer waits for it
QUESTION_CHARACTERS = 4_000  # what a longer one asks stands at its beginning or its end
_TOKENS_AROUND = 256  # of a template, and of what the form says beside the memories


class MemoryAway(Unavailable):
    """The memory does not answer, or does not hold the domain."""


class Source(Struct, frozen=True):
    """A memory that stands, opened, and where it comes from: when a correction was said, and of which question; the title and place
    of a passage."""

    recalled: Recalled
    text: str
    question: str = ""
    said_at: datetime | None = None
    document_id: str = ""
    title: str = ""
    place: str = ""

    def __repr__(self) -> str:
        return "Source(sealed)"  # people's words must not reach a log through a traceback

    @property
    def memory(self) -> Memory:
        named = ", ".join(part for part in (self.title, self.place) if part)
        return Memory(text=self.text, question=self.question, source=named)

    def shown(self, at: datetime) -> dict[str, Any]:
        """As an answer of that moment names it: without its words."""
        found: dict[str, Any] = msgspec.to_builtins(self.recalled)
        if self.said_at is not None:
            age_s = round((at - self.said_at).total_seconds(), 3)
            return found | {"said_at": self.said_at, "age_s": max(0.0, age_s)}
        return found | {"document_id": self.document_id, "title": self.title, "place": self.place}

    def opened(self, at: datetime) -> dict[str, Any]:
        """As `shown`, with its words."""
        return self.shown(at) | {"state": "stands", "text": self.text, "question": self.question}


class Recollection(Struct, frozen=True):
    """What came of asking the memory for one prompt: `sources` are put before it, the best first. `decline`: what is
    answered in the place of an engine."""

    outcome: RecallOutcome = "off"
    sources: tuple[Source, ...] = ()
    decline: str | None = None

    @property
    def recalled(self) -> tuple[Recalled, ...]:
        return tuple(source.recalled for source in self.sources)

    def before(self, chat: ChatRequest) -> ChatRequest:
        """The request as its engine is asked it. What the person said is recorded as they said it."""
        if not self.sources:
            return chat
        *earlier, last = chat.messages
        asked = with_recalled(last["content"], [source.memory for source in self.sources])
        return replace(chat, messages=(*earlier, last | {"content": asked}))

    def metadata(self, at: datetime) -> dict[str, Any]:
        """What the answer says of it; nothing, where the domain recalls nothing."""
        if self.outcome == "off":
            return {}
        declined = {"declined": True} if self.decline is not None else {}
        return {"recall": self.outcome, "recalled": [source.shown(at) for source in self.sources], **declined}


class Recaller:
    """Thread-safe. `url` empty: there is no memory. Nothing is asked of the keyring before the first question."""

    def __init__(self, url: str, keyring: Keyring, database: Engine, metrics: Metrics) -> None:
        self._url = url
        self._database = database
        self._keyring = keyring
        self._metrics = metrics
        self._client: RecallClient | None = None
        self._patient: RecallClient | None = None

    def recollect(self, chat: ChatRequest, recall: Recall, context_tokens: int | None) -> Recollection:
        """What is recalled for the last message, by the domain's policy. `context_tokens`: of the engine that will be asked."""
        if recall.of == "off":
            return Recollection()
        began = time.monotonic()
        try:
            best = self._best(self._asked(), chat.domain, chat.messages[-1]["content"], recall)
            sources = self._standing(chat.domain, best, TIMEOUT_S) if best else ()
        except Unavailable as error:
            logger.warning("nothing is recalled: %s", error)
            self._metrics.recall_unavailable.labels(chat.domain).inc()
            return Recollection("unavailable")
        finally:
            self._metrics.recall_s.labels(chat.domain).observe(time.monotonic() - began)
        if not sources:
            return Recollection("recalled", decline=recall.decline)
        fit = within_tokens([source.memory for source in sources], tokens_left(chat, recall, context_tokens))
        return Recollection("recalled", sources[:fit])

    def would_recall(self, domain: str, question: str, recall: Recall) -> tuple[Source, ...]:
        """What would be put before a question, the best first, as far as the tokens of an answer hold it. Raises MemoryAway,
        Unavailable."""
        if self._patient is None:
            self._patient = self._client_of(PATIENT_S)
        try:
            best = self._best(self._patient, domain, question, recall)
        except Unavailable as error:
            raise MemoryAway(str(error)) from None
        return self._standing(domain, best, PATIENT_S) if best else ()

    def map(self, asked: MapQuestion) -> dict[str, tuple[float, float]]:
        """Where examples lie beside each other. Raises MemoryAway."""
        client = self._client_of(MAP_S)
        try:
            return client.map(asked)
        except Unavailable as error:
            raise MemoryAway(str(error)) from None
        finally:
            client.close()

    def _best(self, memory: RecallClient, domain: str, question: str, recall: Recall) -> list[Recalled]:
        found: dict[str, Recalled] = {}
        for one in memory.recall(domain, asked_for(question), recall):
            if one.kind in recall.kinds:  # the policy's word, whatever the memory says
                found.setdefault(one.id, one)
        return list(found.values())[: recall.most]

    def _standing(self, domain: str, best: Sequence[Recalled], timeout_s: float) -> tuple[Source, ...]:
        with postgres_trouble(), self._database.connect() as connection:
            # Each way to the server and back counts, those of a transaction too, and one query sees one moment.
            alone = connection.execution_options(isolation_level="AUTOCOMMIT")
            return tuple(standing(alone, self._keyring, domain, best, timeout_s))

    def _asked(self) -> RecallClient:
        if self._client is None:
            self._client = self._client_of(TIMEOUT_S)
        return self._client

    def _client_of(self, timeout_s: float) -> RecallClient:
        return RecallClient(self._url, self._keyring.derive(KEY) if self._url else "", timeout_s)


def asked_for(question: str) -> str:
    """What of a question the memory is asked: all of it, unless it is a whole text."""
    if len(question) <= QUESTION_CHARACTERS:
        return question
    half = QUESTION_CHARACTERS // 2
    return f"{question[:half]}\n{question[-half:]}"


def tokens_left(chat: ChatRequest, recall: Recall, context_tokens: int | None) -> int:
    """How many tokens the memories may take: as the policy says, and no more than the question leaves of the window. Whoever
    could be answered without them is not refused because of them."""
    if context_tokens is None:
        return recall.tokens
    kept = [message for message in chat.messages[:-1] if message["role"] == "system"] + [chat.messages[-1]]
    asked = sum(len(message["content"].encode()) for message in kept) // BYTES_A_TOKEN + _TOKENS_AROUND
    answer = min(chat.sampling.max_tokens, context_tokens // 4)
    return max(0, min(recall.tokens, context_tokens - asked - answer))


class _Title(Struct):
    title: str


class _Passage(Struct):
    place: str
    text: str


def standing(
    connection: Connection,
    keyring: Keyring,
    domain: str,
    recalled: Sequence[Recalled],
    within_s: float | None = None,
) -> Iterator[Source]:
    """Those of the memories that stand and open, in their order. `within_s`: how long the server may take over each kind.
    Raises Unavailable."""
    ids: Mapping[MemoryKind, list[str]] = {
        kind: [one.id for one in recalled if one.kind == kind] for kind in ("correction", "passage")
    }
    corrections = corrections_in_force(connection, domain, ids["correction"], within_s) if ids["correction"] else []
    passages = passages_in_force(connection, domain, ids["passage"], within_s) if ids["passage"] else []
    said = {one.example_id: one for one in corrections}
    written = {one.passage_id: one for one in passages}
    for one in recalled:
        try:
            if one.kind == "correction" and (correction := said.get(one.id)) is not None:
                answer = open_sealed(correction.answer, keyring)
                yield Source(one, answer, open_question(correction.prompt, keyring), correction.said_at)
            elif one.kind == "passage" and (passage := written.get(one.id)) is not None:
                opened = msgspec.json.decode(open_sealed(passage.passage, keyring), type=_Passage)
                title = msgspec.json.decode(open_sealed(passage.title, keyring), type=_Title).title
                yield Source(one, opened.text, document_id=passage.document_id, title=title, place=opened.place)
        except Erased:
            continue
        except (Invalid, msgspec.MsgspecError) as error:
            # A foreign writer's: it has no words that could be put before anybody.
            logger.warning("a memory of %s cannot be read: %s", domain, type(error).__name__)


def remembered(
    connection: Connection, keyring: Keyring, domain: str, recalled: Sequence[Recalled], at: datetime
) -> list[dict[str, Any]]:
    """What was recalled for a reply, as it stands at that moment and with its words; of what is gone, whether it was erased or
    removed. Raises Unavailable."""
    sources = {one.recalled.id: one for one in standing(connection, keyring, domain, recalled)}
    gone = [one.id for one in recalled if one.kind == "correction" and one.id not in sources]
    table = schema.examples.c
    # One that is in force and does not open is about to be retired by an erasure.
    without_key = table.retired_reason.is_(None) | (table.retired_reason == "erased")
    erased = set(connection.execute(select(table.example_id).where(table.example_id.in_(gone), without_key)).scalars())
    return [
        sources[one.id].opened(at)
        if one.id in sources
        else msgspec.to_builtins(one) | {"state": "erased" if one.id in erased else "removed"}
        for one in recalled
    ]


class Declined:
    """In the place of an engine's answer: every draft is what the policy says where nothing fits the question."""

    left_out = 0

    def __init__(self, words: str, drafts: int) -> None:
        self.drafts = [Draft(pieces=[words], finish_reason="stop") for _ in range(drafts)]

    def pieces(self) -> Iterator[list[Piece]]:
        yield [Piece(index, draft.text) for index, draft in enumerate(self.drafts)]

    def close(self) -> None:
        """Nothing is under way."""
