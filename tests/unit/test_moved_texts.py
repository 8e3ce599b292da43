"""A sealed text that is moved elsewhere as a whole, from one event to another or from one field to another, is refused there."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from streams.codec import EVENT_TYPES, encode, envelope_for, read_event, topic_of
from streams.errors import Invalid
from streams.events import CONVERSATIONS, DOMAINS, Event
from streams.facts.conversations import PromptAsked, ReplyCommented, ReplyCorrected, ReplyDrafted
from streams.facts.exam import ExamItemAdded
from streams.facts.examples import ExampleAccepted, ExampleKind, PreferenceAccepted, RankingAccepted
from streams.facts.judgements import ProposalJudged
from streams.sealed import Sealed
from streams.sealing import open_sealed, seal
from tests.keyring import Ring

AT = datetime(2026, 11, 28, tzinfo=UTC)
EXAMPLES = Path(__file__).parents[1] / "examples" / "events"
RING = Ring()
KEY = RING.key_for("person:ann")
ONE, OTHER, CAUSE = uuid4(), uuid4(), uuid4()
_PLACE: dict[str, Any] = {"domain": "roads", "conversation_id": "c", "prompt_id": "p", "person": "ann"}
_DRAFT: dict[str, Any] = {"index": 0, "release": 0, "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}


def said(place: str) -> Sealed:
    return seal("yes, always", KEY, place)


def example(kind: ExampleKind, prompt: str, answer: str) -> ExampleAccepted:
    return ExampleAccepted(
        domain="roads",
        example_id="e",
        kind=kind,
        person="ann",
        prompt=said(prompt),
        answer=said(answer),
        said_at=AT,
    )


def preference(*places: str) -> PreferenceAccepted:
    prompt, chosen, rejected = map(said, places)
    return PreferenceAccepted(
        domain="roads",
        preference_id="e",
        person="ann",
        prompt=prompt,
        chosen=chosen,
        rejected=(rejected,),
        said_at=AT,
        prompt_id="p",
    )


def judged(prompt: str, answer: str, author: str | None = None) -> ProposalJudged:
    words = {"prompt": said(prompt), "answer": said(answer)}
    return ProposalJudged(domain="roads", proposal_id="q", person="ann", verdict="edit", author=author, **words)


def ranking(*places: str) -> RankingAccepted:
    prompt, *answers = map(said, places)
    return RankingAccepted(
        domain="roads",
        ranking_id="k",
        person="ann",
        prompt=prompt,
        answers=tuple(answers),
        tiers=((1,), (0,)),
        said_at=AT,
    )


def standing(id: UUID) -> list[Event]:
    """What stands in the event `id` where it was said, or is a copy of what its cause and others said."""
    text = said(f"{id}#text")
    feedback = {**_PLACE, "reply_id": "r", "request_digest": "d", "text": text}
    return [
        PromptAsked(**_PLACE, messages=said(f"{id}#messages"), release=0),
        ReplyDrafted(**_PLACE, **_DRAFT, reply_id="r", text=text, duration_s=1.0),
        ReplyCorrected(**feedback),
        ReplyCommented(**feedback),
        ExamItemAdded(domain="roads", item_id="i", kind="general", item=said(f"{id}#item"), by="ann"),
        example("annotation", f"{id}#prompt", f"{id}#answer"),
        ranking(f"{id}#prompt", f"{id}#answers.0", f"{id}#answers.1"),
        judged(f"{id}#prompt", f"{id}#answer"),
        judged(f"{OTHER}#prompt", f"{OTHER}#answer", author="ben"),
        replace(example("annotation", f"{OTHER}#prompt", f"{OTHER}#answer"), proposal_id="q"),
        example("correction", f"{OTHER}#messages", f"{CAUSE}#text"),
        preference(f"{OTHER}#messages", f"{OTHER}#text", f"{OTHER}#text"),
    ]


def in_wrong_fields() -> Iterator[Event]:
    """Each was said in the very event or its cause, and in another field."""
    for event in standing(ONE)[:5]:
        for field in ("messages", "text", "item"):
            if hasattr(event, field):
                yield replace(event, **{field: said(f"{ONE}#comment")})
    yield example("annotation", f"{ONE}#answer", f"{ONE}#prompt")
    yield ranking(f"{ONE}#prompt", f"{ONE}#answers.1", f"{ONE}#answers.0")
    yield judged(f"{ONE}#answer", f"{ONE}#answer")
    yield judged(f"{ONE}#prompt", f"{ONE}#prompt")
    yield judged(f"{OTHER}#text", f"{OTHER}#answer", author="ben")
    yield replace(example("annotation", f"{OTHER}#answer", f"{OTHER}#prompt"), proposal_id="q")
    yield example("correction", f"{CAUSE}#text", f"{CAUSE}#text")
    yield example("correction", f"{OTHER}#messages", f"{OTHER}#text")
    yield preference(f"{OTHER}#text", f"{OTHER}#text", f"{OTHER}#text")
    yield preference(f"{OTHER}#messages", f"{OTHER}#messages", f"{OTHER}#text")
    yield preference(f"{OTHER}#messages", f"{OTHER}#text", f"{OTHER}#messages")


def read(event: Event, id: UUID) -> Event:
    envelope = envelope_for(event, id=id, source="/test", time=AT, correlation_id="c", causation_id=CAUSE)
    return read_event(topic_of(event), envelope.key.encode(), encode(envelope)).event


def kind(event: object) -> str:
    return type(event).__name__


@pytest.mark.parametrize("event", standing(ONE), ids=kind)
def test_what_stands_where_it_was_said_is_read(event: Event) -> None:
    assert read(event, ONE) == event


@pytest.mark.parametrize("event", standing(ONE)[:8], ids=kind)
def test_what_was_moved_from_another_event_is_refused(event: Event) -> None:
    with pytest.raises(Invalid, match="was said elsewhere") as refused:
        read(event, OTHER)
    assert "always" not in str(refused.value)


@pytest.mark.parametrize("event", in_wrong_fields(), ids=kind)
def test_what_was_moved_from_another_field_is_refused(event: Event) -> None:
    with pytest.raises(Invalid, match="was said elsewhere"):
        read(event, ONE)


def test_what_was_moved_and_made_to_name_its_new_place_does_not_open() -> None:
    moved = replace(said(f"{ONE}#text"), ref=f"{OTHER}#text")
    with pytest.raises(Invalid, match="moved from where it was said"):
        open_sealed(moved, RING)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(EXAMPLES.glob("*.json")) if path.stem.partition(".")[0] in EVENT_TYPES],
    ids=lambda path: path.stem,
)
def test_every_event_that_a_log_may_hold_is_read(path: Path) -> None:
    value = json.loads(path.read_bytes())
    topic = CONVERSATIONS if value["subject"] == value["data"].get("conversation_id") else DOMAINS
    assert read_event(topic, value["subject"].encode(), path.read_bytes())
