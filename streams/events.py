"""The vocabulary of the log: facts, in the past tense, as small frozen structs in one union. Pure.

Adding an event means: a struct here and in its union (which is its topic), and a case wherever `assert_never` asks.
Free text typed by a person, and what the model answered them, is `Sealed`; nothing else in an event holds words of theirs.
"""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta, Struct, field

from streams.gate import Paired, Verdict
from streams.policy import Policy
from streams.recipes import LoraRecipe
from streams.sealed import Sealed

CONVERSATIONS = "noria.conversations"
DOMAINS = "noria.domains"
ORDERS = "noria.orders"
QUARANTINE = "noria.quarantine"
OPERATIONS = "noria.operations"
SERVICES = "/noria/api/services/"  # begins the source of what a service's key said for people

RoundStep = Literal["select", "train", "evaluate", "gate", "swap"]
Step = Literal["select", "train", "evaluate", "swap", "purge"]
WaitsFor = Literal["general_answers", "opencompass", "opencompass_failed", "disk_space"]
ExampleKind = Literal["correction", "annotation"]
ExamKind = Literal["held_out", "general"]
Number = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]  # what a column of a table holds
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Moment = Annotated[datetime, Meta(tz=True)]  # a time without a zone is refused: it cannot be compared with any other


# noria.conversations, keyed by conversation


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
    """The model of one release answered with one draft, and the answer was complete."""

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


class DraftPicked(Struct, frozen=True, kw_only=True):
    """Of the drafts of one prompt, a person picked this one."""

    domain: str
    conversation_id: str
    prompt_id: str
    reply_id: str
    person: str
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


# noria.domains, keyed by domain: everything about one domain in one total order


class DomainCreated(Struct, frozen=True, kw_only=True):
    domain: str
    title: str
    languages: tuple[str, ...]
    system_prompt: str
    base_model: str
    engine: str
    replay_prompts: tuple[str, ...]


class DomainRetired(Struct, frozen=True, kw_only=True):
    """The domain takes no chats and begins no rounds any more, and its engines stop; its log stays."""

    domain: str
    by: str


class PolicySet(Struct, frozen=True, kw_only=True):
    domain: str
    policy: Policy
    by: str


class ClockTicked(Struct, frozen=True, kw_only=True):
    """Time, as the log knows it: recorded only when a decision could depend on it."""

    domain: str
    at: Moment


class ExamItemAdded(Struct, frozen=True, kw_only=True):
    """A question that candidates are examined on and nothing is trained on.
    `item` opens to {"question", "answer", "keys"} and is sealed with the domain's key."""

    domain: str
    item_id: str
    kind: ExamKind
    item: Sealed
    by: str


class ExamItemRetired(Struct, frozen=True, kw_only=True):
    """No later exam asks this question; a round in flight asks what its pin holds."""

    domain: str
    item_id: str
    reason: str
    by: str


class ExampleAccepted(Struct, frozen=True, kw_only=True):
    """One training item. `prompt` opens to the JSON list of messages up to and with the prompt, after those of what it `follows`
    (as in `PromptAsked`), `answer` to the answer. `service`: the id of the key that named the person; None: it was their own."""

    domain: str
    example_id: str
    kind: ExampleKind
    person: str
    prompt: Sealed
    answer: Sealed
    said_at: Moment
    prompt_id: str | None = None
    follows: str | None = None
    service: str | None = None


class PreferenceAccepted(Struct, frozen=True, kw_only=True):
    """A person picked `chosen` of the drafts of a prompt. `service` as in `ExampleAccepted`."""

    domain: str
    preference_id: str
    person: str
    prompt: Sealed
    chosen: Sealed
    rejected: tuple[Sealed, ...]
    said_at: Moment
    prompt_id: str
    follows: str | None = None
    service: str | None = None


class ExampleRetired(Struct, frozen=True, kw_only=True):
    domain: str
    example_id: str
    reason: str
    by: str


class PersonErased(Struct, frozen=True, kw_only=True):
    """The keys `kids` of a person were destroyed; what was sealed with them is gone."""

    domain: str
    person: str
    kids: tuple[str, ...]
    by: str


class PlacesPurged(Struct, frozen=True, kw_only=True):
    """What workers kept that was computed from an erased person's words is gone; `places` names the kinds, with counts."""

    domain: str
    person: str
    order_id: UUID
    places: dict[str, int]


class RoundAsked(Struct, frozen=True, kw_only=True):
    """Somebody asked for a round by hand; quiet hours and thresholds do not hold it up."""

    domain: str
    by: str


class RoundRequested(Struct, frozen=True, kw_only=True):
    """A round began. `pin` is the next offset of this domain's partition: what stood before it is in, the rest is not."""

    domain: str
    round_id: str
    number: int
    reason: str
    pin: int
    base_release: int
    policy: Policy


class OrderProgressed(Struct, frozen=True, kw_only=True):
    """How far a step is. `waits_for`: what is still being made, without which it cannot go on."""

    domain: str
    round_id: str
    order_id: UUID
    step: Step
    done: int
    total: int
    seconds_left: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    waits_for: WaitsFor | None = None


class ExamplesSelected(Struct, frozen=True, kw_only=True):
    """New examples of a training set that are too many to be named in its `snapshot_selected`, which follows."""

    domain: str
    round_id: str
    order_id: UUID
    snapshot: str
    kept: tuple[str, ...]


class SnapshotSelected(Struct, frozen=True, kw_only=True):
    """The training set is fixed. `snapshot` is its digest; `kept` names its new examples, but for those that `examples_selected`
    has named before (`named` is how many); `dropped` counts by reason."""

    domain: str
    round_id: str
    order_id: UUID
    snapshot: str
    kept: tuple[str, ...]
    earlier: Number
    wordings: Number
    dropped: dict[str, int]
    named: Number = 0


class CandidateTrained(Struct, frozen=True, kw_only=True):
    domain: str
    round_id: str
    order_id: UUID
    model: str
    adapter: str
    golden: str
    loss: float
    steps: int
    duration_s: float
    export_difference: float


class CandidateEvaluated(Struct, frozen=True, kw_only=True):
    """Per exam set, the paired counts against the release in force; `rows` is the digest of the sealed rows."""

    domain: str
    round_id: str
    order_id: UUID
    rows: str
    paired: dict[str, Paired]
    duration_s: float


class GatePassed(Struct, frozen=True, kw_only=True):
    domain: str
    round_id: str
    release: int
    verdict: Verdict


class GateRefused(Struct, frozen=True, kw_only=True):
    domain: str
    round_id: str
    verdict: Verdict


class CandidateRetired(Struct, frozen=True, kw_only=True):
    """The model and the adapter that a round made are kept no longer, by the policy; what they were, these digests say. `release`:
    what they were released as, which cannot be gone back to any more. Without effect for what is in use by then."""

    domain: str
    round_id: str
    release: Number | None
    model: str
    adapter: str
    reason: str


class RebuildAsked(Struct, frozen=True, kw_only=True):
    """Somebody asked that what a round made, and what was removed since, be made again: from `base_release` by `recipe`, on
    `snapshot` (or on what stood before `pin`, should that be lost). It was `model` and `adapter`; `release`: what they were
    released as."""

    domain: str
    round_id: str
    pin: Offset
    snapshot: str
    base_release: Number
    recipe: LoraRecipe
    release: Number | None
    model: str
    adapter: str
    by: str


class CandidateRebuilt(Struct, frozen=True, kw_only=True):
    """What a round made was made again. If it is `equal`, byte by byte, it is there again; otherwise `model` and `adapter` say what
    came of it, of which nothing was kept. `erased`: the examples and wordings of its snapshot whose words are gone, and which are
    not in it."""

    domain: str
    round_id: str
    order_id: UUID
    equal: bool
    model: str
    adapter: str
    erased: Number
    duration_s: float


class ReleaseStarted(Struct, frozen=True, kw_only=True):
    domain: str
    release: Number
    order_id: UUID
    model: str


class ReleaseFinished(Struct, frozen=True, kw_only=True):
    """`release` answers from here on. `golden_difference`: engine against trainer, in log-probability."""

    domain: str
    release: Number
    order_id: UUID
    model: str
    golden_difference: float
    ready_s: float
    flip_ms: float


class RollbackAsked(Struct, frozen=True, kw_only=True):
    domain: str
    to: int
    by: str


class ReleaseRolledBack(Struct, frozen=True, kw_only=True):
    """From `release` back (or forth) to `to`."""

    domain: str
    release: int
    to: int
    order_id: UUID
    flip_ms: float
    ready_s: float


class RoundCancelled(Struct, frozen=True, kw_only=True):
    domain: str
    round_id: str
    by: str


class RoundFailed(Struct, frozen=True, kw_only=True):
    """A step failed; whether it `will_retry` by itself is said too."""

    domain: str
    round_id: str | None
    order_id: UUID
    step: Step
    reason: str
    will_retry: bool
    attempt: int


ConversationEvent = PromptAsked | ReplyDrafted | DraftPicked | ReplyRated | ReplyCorrected | ReplyCommented
DomainEvent = (
    DomainCreated
    | DomainRetired
    | PolicySet
    | ClockTicked
    | ExamItemAdded
    | ExamItemRetired
    | ExampleAccepted
    | PreferenceAccepted
    | ExampleRetired
    | PersonErased
    | PlacesPurged
    | RoundAsked
    | RoundRequested
    | OrderProgressed
    | ExamplesSelected
    | SnapshotSelected
    | CandidateTrained
    | CandidateEvaluated
    | GatePassed
    | GateRefused
    | CandidateRetired
    | RebuildAsked
    | CandidateRebuilt
    | ReleaseStarted
    | ReleaseFinished
    | RollbackAsked
    | ReleaseRolledBack
    | RoundCancelled
    | RoundFailed
)
Event = ConversationEvent | DomainEvent


# noria.operations, keyed by the partition that it is about: of how the log is read and not of what is read, so nothing folds it.
# Apart from what the stream follows, which may be the very thing that stands still.


class StreamStopped(Struct, frozen=True, kw_only=True):
    """More records than may be within a minute could not be read, and the stream goes no further. Of this partition `unreadable`
    stand there, from offset `first` to `last`."""

    topic: str
    partition: Number
    first: Offset
    last: Offset
    unreadable: Number


class SkipAllowed(Struct, frozen=True, kw_only=True):
    """An operator's word: what cannot be read of this partition, up to and with offset `to`, goes to quarantine however much it is.
    What can be read there takes effect as ever."""

    topic: str
    partition: Number
    to: Offset
    by: str


OperationsEvent = StreamStopped | SkipAllowed


class Envelope(Struct, frozen=True, kw_only=True):
    """One event with where, when and why it was recorded. `time` is aware UTC."""

    id: UUID
    source: str
    time: datetime
    key: str
    event: Event
    correlation_id: str
    causation_id: UUID | None = None

    @property
    def service(self) -> str | None:
        """The id of the key by which the door recorded it, if that names the people that it speaks for."""
        return self.source.removeprefix(SERVICES) if self.source.startswith(SERVICES) else None


class Recorded(Struct, frozen=True):
    """An envelope and its place on the log."""

    envelope: Envelope
    topic: str
    partition: int
    offset: int
