"""Conversations: what people asked, what the model answered, and what they said of it; and what that means for their domain:
replies become examples and preferences. Pure fold and react.

The state is that of one prompt and its drafts. Whatever is said of a reply names its prompt, so nothing else of a conversation
is needed to understand it, however long the conversation is and however long ago the reply was given; what people see is in the
projections.
"""

from collections.abc import Sequence
from typing import Literal, assert_never
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from streams.envelope import Consequence, Envelope, Number, Recorded
from streams.facts.examples import ExampleAccepted, ExampleRetired, PreferenceAccepted
from streams.recalled import Recalled, RecallOutcome
from streams.sealed import Sealed
from streams.tables import bigint, double, index, integer, jsonb, projection, text, timestamptz
from streams.writes import Count, Insert, Row, Write, columns

REPLACED = "replaced by a newer correction of the same reply"


class PromptAsked(Struct, frozen=True, kw_only=True):
    """A person asked. `messages` opens to the JSON list of OpenAI messages that are new, up to and with this prompt.

    `follows`: the reply or prompt of the same conversation that they come after, and whose own whole stands before them; None:
    they are the whole. `so_far`: a digest of the whole, under the person's own key, by which it is known when it is sent again."""

    domain: str
    conversation_id: str
    prompt_id: str
    person: str
    messages: Sealed
    release: Number
    drafts: int = 1
    follows: str | None = None
    so_far: str | None = None


class ReplyDrafted(Struct, frozen=True, kw_only=True):
    """The model of one release answered with one draft, and the answer was complete. `recalled`: what was put before it, the best
    first."""

    domain: str
    conversation_id: str
    prompt_id: str
    reply_id: str
    person: str
    index: Number
    release: Number
    text: Sealed
    finish_reason: str
    prompt_tokens: Number
    completion_tokens: Number
    duration_s: float
    recall: RecallOutcome = "off"
    recalled: tuple[Recalled, ...] = ()


class DraftPicked(Struct, frozen=True, kw_only=True):
    """Of the drafts of one prompt, a person picked this one."""

    domain: str
    conversation_id: str
    prompt_id: str
    reply_id: str
    person: str
    request_digest: str


class DraftsRanked(Struct, frozen=True, kw_only=True):
    """A person put drafts of one prompt in an order: `ranking` has their ids, the best first, those that are equally good together.
    `reply_id`: one of these."""

    domain: str
    conversation_id: str
    prompt_id: str
    reply_id: str
    person: str
    ranking: tuple[tuple[str, ...], ...]
    request_digest: str


class ReplyRated(Struct, frozen=True, kw_only=True):
    """A thumb (-1 or 1) or stars (1 to 5)."""

    domain: str
    conversation_id: str
    prompt_id: str
    reply_id: str
    person: str
    rating: Number
    scale: Literal["thumb", "stars"]
    request_digest: str


class ReplyCorrected(Struct, frozen=True, kw_only=True):
    """A person wrote their own version of the reply."""

    domain: str
    conversation_id: str
    prompt_id: str
    reply_id: str
    person: str
    text: Sealed
    request_digest: str


class ReplyCommented(Struct, frozen=True, kw_only=True):
    domain: str
    conversation_id: str
    prompt_id: str
    reply_id: str
    person: str
    text: Sealed
    request_digest: str


class RecallRejected(Struct, frozen=True, kw_only=True):
    """A person said that what was recalled for the reply did not fit: the memory `memory_id`, which the reply names."""

    domain: str
    conversation_id: str
    prompt_id: str
    reply_id: str
    person: str
    memory_id: str
    request_digest: str


ConversationEvent = (
    PromptAsked
    | ReplyDrafted
    | DraftPicked
    | DraftsRanked
    | ReplyRated
    | ReplyCorrected
    | ReplyCommented
    | RecallRejected
)

prompts = projection(
    "prompts",
    text("prompt_id", key=True),
    text("conversation_id"),
    text("domain"),
    text("person"),
    jsonb("messages"),  # Sealed
    text("follows", nullable=True),  # the reply or prompt whose whole stands before `messages`
    text("so_far", nullable=True),
    integer("release"),
    timestamptz("asked_at"),
    integer("partition"),
    bigint("offset"),
    index("so_far"),
    index("conversation_id", "asked_at"),
    index("domain", "person"),
)
replies = projection(
    "replies",
    text("reply_id", key=True),
    text("prompt_id"),
    text("conversation_id"),
    text("domain"),
    text("person"),
    integer("index"),
    integer("release"),
    jsonb("text"),  # Sealed
    text("finish_reason"),
    integer("prompt_tokens"),
    integer("completion_tokens"),
    double("duration_s"),
    text("recall"),  # of `streams.recalled.RecallOutcome`
    jsonb("recalled"),  # list of Recalled
    timestamptz("drafted_at"),
    index("prompt_id"),
)
feedback = projection(
    "feedback",
    text("event_id", key=True),
    text("kind"),  # pick, ranking, rating, correction, comment, misfit
    text("reply_id"),
    text("prompt_id"),
    text("conversation_id"),
    text("domain"),
    text("person"),
    integer("rating", nullable=True),
    text("scale", nullable=True),
    jsonb("text", nullable=True),  # Sealed
    text("memory_id", nullable=True),  # of a misfit
    jsonb("ranking", nullable=True),  # lists of reply ids, the best first
    text("request_digest"),
    timestamptz("given_at"),
    index("domain", "kind"),
    index("reply_id"),
    index("prompt_id"),
    index("person", "kind", "given_at"),
)
# How much of each kind a domain has been given: every open page asks, again and again.
feedback_counts = projection(
    "feedback_counts",
    text("domain", key=True),
    text("kind", key=True),
    bigint("number"),
)


class Draft(Struct, frozen=True, omit_defaults=True):
    """`corrected`: person -> the example of their newest correction."""

    text: Sealed
    corrected: dict[str, str] = field(default_factory=dict)


class Exchange(Struct, frozen=True, omit_defaults=True):
    """One prompt, what it follows, and its drafts: what feedback on any of them may refer to. Bounded by the drafts of a prompt."""

    prompt: Sealed | None = None
    follows: str | None = None
    drafts: dict[str, Draft] = field(default_factory=dict)


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
            corrected = replace(draft, corrected=draft.corrected | {event.person: example_of(envelope.id)})
            return replace(state, drafts=state.drafts | {event.reply_id: corrected})
        case DraftPicked() | DraftsRanked() | ReplyRated() | ReplyCommented() | RecallRejected():
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
                example_id=example_of(envelope.id),
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
            others = [id_ for id_ in sorted(state.drafts) if id_ != event.reply_id]
            return _preferred(state, envelope, event, event.reply_id, others)
        case DraftsRanked():
            if not event.ranking or not event.ranking[0]:
                return ()  # as only a foreign writer says it
            others = [id_ for tier in event.ranking[1:] for id_ in tier]
            return _preferred(state, envelope, event, event.ranking[0][0], others)
        case PromptAsked() | ReplyDrafted() | ReplyRated() | ReplyCommented() | RecallRejected():
            return ()
        case _:
            assert_never(event)


def rows(recorded: Recorded, event: ConversationEvent) -> list[Write]:
    at = recorded.envelope.time
    match event:
        case PromptAsked():
            names = ("conversation_id", "domain", "prompt_id", "person", "messages", "follows", "so_far", "release")
            place = {"partition": recorded.partition, "offset": recorded.offset}
            return [Insert("prompts", columns(event, *names) | place | {"asked_at": at})]
        case ReplyDrafted():
            return [Insert("replies", msgspec.to_builtins(event) | {"drafted_at": at})]
        case DraftPicked():
            return _feedback(recorded, event, "pick", {})
        case DraftsRanked():
            return _feedback(recorded, event, "ranking", {"ranking": msgspec.to_builtins(event.ranking)})
        case ReplyRated():
            return _feedback(recorded, event, "rating", {"rating": event.rating, "scale": event.scale})
        case ReplyCorrected():
            return _feedback(recorded, event, "correction", {"text": msgspec.to_builtins(event.text)})
        case ReplyCommented():
            return _feedback(recorded, event, "comment", {"text": msgspec.to_builtins(event.text)})
        case RecallRejected():
            return _feedback(recorded, event, "misfit", {"memory_id": event.memory_id})
        case _:
            assert_never(event)


def _feedback(
    recorded: Recorded,
    event: DraftPicked | DraftsRanked | ReplyRated | ReplyCorrected | ReplyCommented | RecallRejected,
    kind: str,
    more: Row,
) -> list[Write]:
    row = columns(event, "reply_id", "prompt_id", "conversation_id", "domain", "person", "request_digest")
    fixed = {"event_id": str(recorded.envelope.id), "kind": kind, "given_at": recorded.envelope.time}
    empty = dict.fromkeys(("rating", "scale", "text", "memory_id", "ranking"))
    given = Insert("feedback", empty | row | fixed | more)
    return [given, Count("feedback_counts", {"domain": event.domain, "kind": kind})]


def _preferred(
    state: Exchange, envelope: Envelope, event: DraftPicked | DraftsRanked, best: str, others: Sequence[str]
) -> tuple[Consequence, ...]:
    """That the person prefers one draft to others, of those that are known."""
    chosen = state.drafts.get(best)
    rejected = tuple(state.drafts[id_].text for id_ in others if id_ in state.drafts)
    if state.prompt is None or chosen is None or not rejected:
        return ()
    accepted = PreferenceAccepted(
        domain=event.domain,
        # One of a person on a prompt, however often they say it: the newest replaces the one before.
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
    return (Consequence(uuid5(envelope.id, "preference_accepted"), accepted),)


def example_of(event_id: UUID) -> str:
    """The id of the example that a correction becomes."""
    return str(uuid5(event_id, "example"))
