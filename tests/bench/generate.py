"""A log as people and workers would have left it: sealed events of many conversations in a few domains."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from streams.codec import encode, envelope_for, key_of, topic_of
from streams.events import Event
from streams.facts.conversations import PromptAsked, ReplyCommented, ReplyCorrected, ReplyDrafted, ReplyRated
from streams.facts.domains import DomainCreated, PolicySet
from streams.facts.releases import ReleaseFinished, ReleaseStarted
from streams.log import Message
from streams.policy import Policy, Thresholds
from streams.sealing import PersonKey, seal

DOMAINS = 20
PEOPLE = 500
MODEL = "sha256:" + "1" * 64
BEGAN = datetime(2026, 1, 5, 8, tzinfo=UTC)
SAYING = "the driver must stop at a crossing when a person waits there and may go on at night with low lights only"
WORDS = SAYING.split()
# No round starts by itself: a round's orders would wait for workers that are not there.
POLICY = Policy(thresholds=Thresholds(corrections=None))


class Generator:
    """Makes the same ids, words and times for the same seed. (Sealing draws its own nonces.)"""

    def __init__(self, seed: int = 1) -> None:
        self._chance = random.Random(seed)
        self._now = BEGAN
        secrets = (self._chance.randbytes(32) for _ in range(PEOPLE))
        self._keys = {f"person-{n}": PersonKey(f"k{n:05}", secret) for n, secret in enumerate(secrets)}

    def messages(self, events: int) -> Iterator[Message]:
        """Exactly so many events: the domains with their first releases, then conversation after conversation."""
        left = events
        for number in range(DOMAINS):
            for event in self.domain(f"domain-{number}"):
                if left:
                    left -= 1
                    yield self._message(event, self._id())
        while left:
            for event, event_id in self._conversation():
                if left:
                    left -= 1
                    yield self._message(event, event_id)

    def domain(self, name: str) -> Iterator[Event]:
        yield DomainCreated(
            domain=name,
            title=name,
            languages=("en",),
            system_prompt="",
            base_model=MODEL,
            engine="llamacpp",
            replay_prompts=(),
        )
        yield PolicySet(domain=name, policy=POLICY, by="operator")
        order_id = self._id()
        yield ReleaseStarted(domain=name, release=0, order_id=order_id, model=MODEL)
        yield ReleaseFinished(
            domain=name, release=0, order_id=order_id, model=MODEL, golden_difference=0.001, ready_s=2.0, flip_ms=8.0
        )

    def _conversation(self) -> Iterator[tuple[Event, UUID]]:
        """One or two prompts with their replies, of which most are rated, some commented on and some corrected."""
        chance = self._chance
        domain, person = f"domain-{chance.randrange(DOMAINS)}", f"person-{chance.randrange(PEOPLE)}"
        conversation, key = f"cnv_{self._id().hex}", self._keys[person]
        history: list[dict[str, str]] = []
        for _ in range(chance.choice((1, 1, 1, 2))):
            asked, drafted = self._id(), self._id()
            history.append({"role": "user", "content": self._words(6, 16)})
            answer = self._words(8, 24)
            place: dict[str, Any] = {"domain": domain, "conversation_id": conversation, "prompt_id": f"prm_{asked.hex}"}
            sealed = seal(msgspec.json.encode(history).decode(), key, f"{asked}#messages")
            yield PromptAsked(**place, person=person, messages=sealed, release=0), asked
            history.append({"role": "assistant", "content": answer})
            place["reply_id"] = f"rpl_{drafted.hex}"
            yield (
                ReplyDrafted(
                    **place,
                    person=person,
                    index=0,
                    release=0,
                    text=seal(answer, key, f"{drafted}#text"),
                    finish_reason="stop",
                    prompt_tokens=40,
                    completion_tokens=60,
                    duration_s=1.5,
                ),
                drafted,
            )
            said = {**place, "person": person, "request_digest": chance.randbytes(32).hex()}
            if chance.random() < 0.7:
                yield ReplyRated(**said, rating=chance.choice((-1, 1)), scale="thumb"), self._id()
            if chance.random() < 0.15:
                commented = self._id()
                yield ReplyCommented(**said, text=seal(self._words(5, 15), key, f"{commented}#text")), commented
            if chance.random() < 0.15:
                corrected = self._id()
                yield ReplyCorrected(**said, text=seal(self._words(8, 24), key, f"{corrected}#text")), corrected

    def _message(self, event: Event, event_id: UUID) -> Message:
        self._now += timedelta(milliseconds=self._chance.randrange(1, 400))
        envelope = envelope_for(event, id=event_id, source="/noria/api", time=self._now, correlation_id=key_of(event))
        return Message(topic_of(event), envelope.key, encode(envelope))

    def _id(self) -> UUID:
        return UUID(bytes=self._chance.randbytes(16), version=4)

    def _words(self, least: int, most: int) -> str:
        return " ".join(self._chance.choices(WORDS, k=self._chance.randint(least, most)))
