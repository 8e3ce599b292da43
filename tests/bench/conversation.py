"""What the tenth, hundredth and thousandth turn of one conversation cost: bytes on the log, bytes of state, milliseconds to fold.

The events are made by the door's own functions and folded as the store folds them, state from bytes and back to bytes. Beside them
stands the plain way, by which each prompt carried its whole history and one state kept every prompt.
"""

import time
from collections.abc import Container, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid5

import msgspec
from msgspec import Struct, field
from sqlalchemy import create_engine

from api.answering import Draft
from api.chat_request import parse_chat
from api.door import draft_id_of, draft_of, prompt_of
from api.recall import Recollection
from api.turns import Turns
from streams import history
from streams.codec import decode, encode, envelope_for
from streams.facts import conversations
from streams.facts.conversations import Exchange, PromptAsked, ReplyDrafted
from streams.sealed import Sealed
from streams.sealing import seal
from tests.bench.report import Row, row
from tests.keyring import Ring

TURNS = (10, 100, 1000)
PLAIN_TURNS = 200  # the state of the plain way would have some 2 GB at the thousandth
RUNS = 5
CHARACTERS = 1500  # of each question and of each answer
NAMES = UUID("0d9f5c4e-2a55-4b7e-8f0a-6a2a5a2f5b11")
NAMED = {"conversation_id": "cnv_1"}
AT = datetime(2026, 11, 2, 9, tzinfo=UTC)
RING = Ring()


class Turn(Struct, frozen=True):
    """One turn: its two events as they stand on the log, and the messages that the client sent for it."""

    number: int
    prompt: bytes
    reply: bytes
    sent: tuple[dict[str, str], ...]


class Cost(Struct, frozen=True):
    log_bytes: int
    state_bytes: int
    fold_ms: float


class _Draft(Struct, frozen=True):
    prompt_id: str
    text: Sealed


class _Talk(Struct, frozen=True):
    """The plain state: every prompt and draft of a conversation."""

    prompts: dict[str, Sealed] = field(default_factory=dict)
    drafts: dict[str, _Draft] = field(default_factory=dict)


def measure(home: Path) -> list[Row]:
    around = {number: range(number - RUNS + 1, number + 1) for number in (*TURNS, PLAIN_TURNS)}
    found = {turn.number: folded(turn) for turn in turns({n for near in around.values() for n in near})}
    plain, talk = dict[int, Cost](), msgspec.msgpack.encode(_Talk())
    for turn in turns(range(1, PLAIN_TURNS + 1)):
        talk, plain[turn.number] = folded_plainly(talk, *plain_events(turn))
    rows = []
    for case, costs in (("as recorded", found), ("each prompt whole", plain)):
        for number in sorted(n for n in around if n in costs):
            near = [costs[n] for n in around[number]]
            rows += [
                row(f"{case}, turn {number}", "log", "bytes", [cost.log_bytes for cost in near]),
                row(f"{case}, turn {number}", "state", "bytes", [cost.state_bytes for cost in near]),
                row(f"{case}, turn {number}", "fold", "ms", [cost.fold_ms for cost in near]),
            ]
    return rows


def turns(wanted: Container[int], last: int = TURNS[-1]) -> Iterator[Turn]:
    """Of a conversation whose client names it and sends all of it each time: the `wanted` turns, as the door records them. Of the
    others it is only remembered that they were."""
    known = Turns(
        create_engine("postgresql+psycopg2://nobody@127.0.0.1:1/none")
    )  # memory knows all; nothing else is asked
    named = parse_chat({"model": "roads", "messages": [{"role": "user", "content": "?"}], "metadata": NAMED}, "ann")
    key, so_far, sent = RING.key_for("person:ann"), "roads", list[dict[str, str]]()
    for number in range(1, last + 1):
        question = {"role": "user", "content": f"question {number} ".ljust(CHARACTERS, "?")}
        answer = {"role": "assistant", "content": f"answer {number} ".ljust(CHARACTERS, ".")}
        sent.append(question)
        event_id = uuid5(NAMES, f"asked {number}")
        if number in wanted:
            body = {"model": "roads", "messages": list(sent), "metadata": NAMED}
            chat, asked, _ = prompt_of(parse_chat(body, "ann"), 0, event_id, known, RING, key, 2**20)
            drafted = draft_of(
                chat, event_id, 0, 0, Draft([answer["content"]], finish_reason="stop"), key, Recollection()
            )
            yield Turn(number, _encoded(asked, event_id), _encoded(drafted, draft_id_of(event_id, 0)), chat.messages)
        so_far = history.next_digest(history.next_digest(so_far, question, key), answer, key)
        known.remember(named, so_far, f"rpl_{draft_id_of(event_id, 0).hex}")
        sent.append(answer)


def folded(turn: Turn) -> Cost:
    """The turn's events taken in: what they weigh, and the largest state that was written for them."""
    began, states, largest = time.perf_counter(), dict[str, bytes](), 0
    for value in (turn.prompt, turn.reply):
        envelope = decode(value)
        event = envelope.event
        assert isinstance(event, PromptAsked | ReplyDrafted)
        key = conversations.key_of(event)
        before = msgspec.msgpack.decode(states[key], type=Exchange) if key in states else Exchange()
        states[key] = msgspec.msgpack.encode(conversations.fold(before, envelope, event))
        largest = max(largest, len(states[key]))
    return Cost(len(turn.prompt) + len(turn.reply), largest, (time.perf_counter() - began) * 1000)


def plain_events(turn: Turn) -> tuple[bytes, bytes]:
    envelope = decode(turn.prompt)
    assert isinstance(envelope.event, PromptAsked)
    words, key = msgspec.json.encode(turn.sent).decode(), RING.key_for("person:ann")
    whole = msgspec.structs.replace(
        envelope.event, messages=seal(words, key, f"{envelope.id}#messages"), follows=None, so_far=None
    )
    return _encoded(whole, envelope.id), turn.reply


def folded_plainly(state: bytes, prompt: bytes, reply: bytes) -> tuple[bytes, Cost]:
    began = time.perf_counter()
    for value in (prompt, reply):
        event = decode(value).event
        talk = msgspec.msgpack.decode(state, type=_Talk)
        if isinstance(event, PromptAsked):
            talk = _Talk(talk.prompts | {event.prompt_id: event.messages}, talk.drafts)
        elif isinstance(event, ReplyDrafted):
            talk = _Talk(talk.prompts, talk.drafts | {event.reply_id: _Draft(event.prompt_id, event.text)})
        state = msgspec.msgpack.encode(talk)
    return state, Cost(len(prompt) + len(reply), len(state), (time.perf_counter() - began) * 1000)


def _encoded(event: PromptAsked | ReplyDrafted, event_id: UUID) -> bytes:
    envelope = envelope_for(event, id=event_id, source="/noria/api", time=AT, correlation_id=event.conversation_id)
    return encode(envelope)
