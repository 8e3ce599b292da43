"""What a conversation means: replies become examples and preferences of their domain. Pure fold and react.

The state of a conversation lives only as long as feedback on it can be understood; what people see is in the projections.
"""

from typing import assert_never
from uuid import NAMESPACE_URL, UUID, uuid5

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

    prompt_id: str
    text: Sealed
    corrected: dict[str, str] = field(default_factory=dict)


class Conversation(Struct, frozen=True):
    """The prompts and drafts that feedback may still refer to."""

    prompts: dict[str, Sealed] = field(default_factory=dict)
    drafts: dict[str, Draft] = field(default_factory=dict)


class Consequence(Struct, frozen=True):
    """An event that another event implies; its id is computed from its cause's."""

    id: UUID
    event: Event


def fold(state: Conversation, envelope: Envelope, event: ConversationEvent) -> Conversation:
    """The conversation after `event`. Never refuses: it has happened."""
    match event:
        case PromptAsked():
            return replace(state, prompts=state.prompts | {event.prompt_id: event.messages})
        case ReplyDrafted():
            return replace(state, drafts=state.drafts | {event.reply_id: Draft(event.prompt_id, event.text)})
        case ReplyCorrected():
            draft = state.drafts.get(event.reply_id)
            if draft is None or event.prompt_id not in state.prompts:
                return state
            corrected = replace(draft, corrected=draft.corrected | {event.person: _example_of(envelope)})
            return replace(state, drafts=state.drafts | {event.reply_id: corrected})
        case DraftPicked() | ReplyRated() | ReplyCommented():
            return state
        case _:
            assert_never(event)


def react(state: Conversation, envelope: Envelope, event: ConversationEvent) -> tuple[Consequence, ...]:
    """What `event` implies for its domain, given the conversation before it."""
    match event:
        case ReplyCorrected():
            prompt, draft = state.prompts.get(event.prompt_id), state.drafts.get(event.reply_id)
            if prompt is None or draft is None:
                return ()  # the door refuses such feedback; a foreign writer's stays on the log without effect
            accepted = ExampleAccepted(
                domain=event.domain,
                example_id=_example_of(envelope),
                kind="correction",
                person=event.person,
                prompt=prompt,
                answer=event.text,
                said_at=envelope.time,
                prompt_id=event.prompt_id,
            )
            said = Consequence(uuid5(envelope.id, "example_accepted"), accepted)
            older = draft.corrected.get(event.person)
            if older is None:
                return (said,)
            retired = ExampleRetired(domain=event.domain, example_id=older, reason=REPLACED, by=event.person)
            return (Consequence(uuid5(envelope.id, "example_retired"), retired), said)
        case DraftPicked():
            prompt = state.prompts.get(event.prompt_id)
            chosen = state.drafts.get(event.reply_id)
            rejected = tuple(
                draft.text
                for reply_id, draft in sorted(state.drafts.items())
                if draft.prompt_id == event.prompt_id and reply_id != event.reply_id
            )
            if prompt is None or chosen is None or not rejected:
                return ()
            accepted_preference = PreferenceAccepted(
                domain=event.domain,
                # One of a person on a prompt, however often they pick: the newest replaces the one before.
                preference_id=str(uuid5(NAMESPACE_URL, f"{event.conversation_id}\n{event.prompt_id}\n{event.person}")),
                person=event.person,
                prompt=prompt,
                chosen=chosen.text,
                rejected=rejected,
                said_at=envelope.time,
                prompt_id=event.prompt_id,
            )
            return (Consequence(uuid5(envelope.id, "preference_accepted"), accepted_preference),)
        case PromptAsked() | ReplyDrafted() | ReplyRated() | ReplyCommented():
            return ()
        case _:
            assert_never(event)


def _example_of(envelope: Envelope) -> str:
    """The id of the example that a correction becomes."""
    return str(uuid5(envelope.id, "example"))
