"""What a conversation means: replies become examples and preferences of their domain. Pure fold and react.

The state is that of one prompt and its drafts. Whatever is said of a reply names its prompt, so nothing else of a conversation
is needed to understand it, however long the conversation is and however long ago the reply was given; what people see is in the
projections.
"""

from typing import assert_never
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from streams.events import (
    ConversationEvent,
    DraftPicked,
    Envelope,
    Event,
    ExampleAccepted,
    ExampleRetired,
    PreferenceAccepted,
    PromptAsked,
    ReplyCommented,
    ReplyCorrected,
    ReplyDrafted,
    ReplyRated,
)
from streams.sealed import Sealed

REPLACED = "replaced by a newer correction of the same reply"


class Draft(Struct, frozen=True, omit_defaults=True):
    """`corrected`: person -> the example of their newest correction."""

    text: Sealed
    corrected: dict[str, str] = field(default_factory=dict)


class Exchange(Struct, frozen=True, omit_defaults=True):
    """One prompt, what it follows, and its drafts: what feedback on any of them may refer to. Bounded by the drafts of a prompt."""

    prompt: Sealed | None = None
    follows: str | None = None
    drafts: dict[str, Draft] = field(default_factory=dict)


class Consequence(Struct, frozen=True):
    """An event that another event implies; its id is computed from its cause's."""

    id: UUID
    event: Event


def key_of(event: ConversationEvent) -> str:
    """The name of the state that `event` belongs to. Ids are whatever a writer says, so both stand apart in it."""
    return msgspec.json.encode((event.conversation_id, event.prompt_id)).decode()


def fold(state: Exchange, envelope: Envelope, event: ConversationEvent) -> Exchange:
    """The exchange after `event`. Never refuses: it has happened."""
    match event:
        case PromptAsked():
            return replace(state, prompt=event.messages, follows=event.follows)
        case ReplyDrafted():
            return replace(state, drafts=state.drafts | {event.reply_id: Draft(event.text)})
        case ReplyCorrected():
            draft = state.drafts.get(event.reply_id)
            if draft is None or state.prompt is None:
                return state
            corrected = replace(draft, corrected=draft.corrected | {event.person: _example_of(envelope)})
            return replace(state, drafts=state.drafts | {event.reply_id: corrected})
        case DraftPicked() | ReplyRated() | ReplyCommented():
            return state
        case _:
            assert_never(event)


def react(state: Exchange, envelope: Envelope, event: ConversationEvent) -> tuple[Consequence, ...]:
    """What `event` implies for its domain, given the exchange before it."""
    match event:
        case ReplyCorrected():
            draft = state.drafts.get(event.reply_id)
            if state.prompt is None or draft is None:
                return ()  # the door refuses such feedback; a foreign writer's stays on the log without effect
            accepted = ExampleAccepted(
                domain=event.domain,
                example_id=_example_of(envelope),
                kind="correction",
                person=event.person,
                prompt=state.prompt,
                answer=event.text,
                said_at=envelope.time,
                prompt_id=event.prompt_id,
                follows=state.follows,
                service=envelope.service,
            )
            said = Consequence(uuid5(envelope.id, "example_accepted"), accepted)
            older = draft.corrected.get(event.person)
            if older is None:
                return (said,)
            retired = ExampleRetired(domain=event.domain, example_id=older, reason=REPLACED, by=event.person)
            return (Consequence(uuid5(envelope.id, "example_retired"), retired), said)
        case DraftPicked():
            chosen = state.drafts.get(event.reply_id)
            rejected = tuple(draft.text for id_, draft in sorted(state.drafts.items()) if id_ != event.reply_id)
            if state.prompt is None or chosen is None or not rejected:
                return ()
            accepted_preference = PreferenceAccepted(
                domain=event.domain,
                # One of a person on a prompt, however often they pick: the newest replaces the one before.
                preference_id=str(uuid5(NAMESPACE_URL, f"{event.conversation_id}\n{event.prompt_id}\n{event.person}")),
                person=event.person,
                prompt=state.prompt,
                chosen=chosen.text,
                rejected=rejected,
                said_at=envelope.time,
                prompt_id=event.prompt_id,
                follows=state.follows,
                service=envelope.service,
            )
            return (Consequence(uuid5(envelope.id, "preference_accepted"), accepted_preference),)
        case PromptAsked() | ReplyDrafted() | ReplyRated() | ReplyCommented():
            return ()
        case _:
            assert_never(event)


def _example_of(envelope: Envelope) -> str:
    """The id of the example that a correction becomes."""
    return str(uuid5(envelope.id, "example"))
