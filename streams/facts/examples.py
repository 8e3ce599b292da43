"""Examples, preferences and rankings: what a domain may be trained on, and what of it has come since a round was last asked for."""

from typing import Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from streams.domain import Domain, without_judging
from streams.envelope import Moment, Number, Recorded
from streams.facts.material import decided
from streams.fresh import Given
from streams.sealed import Sealed
from streams.tables import bigint, boolean, index, jsonb, may, projection, text, text_array, timestamptz
from streams.writes import Delete, Insert, Retire, Row, Update, Write, columns

ExampleKind = Literal["correction", "annotation"]
RankingSource = Literal["person", "style"]


class ExampleAccepted(Struct, frozen=True, kw_only=True):
    """One training item. `prompt` opens to the JSON list of messages up to and with the prompt, after those of what it `follows`
    (as in `PromptAsked`), `answer` to the answer. `service`: the id of the key that named the person; None: it was their own.
    `proposal_id`: the proposal that it was, and whether the person `edited` that."""

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
    proposal_id: str | None = None
    edited: bool = False


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


class RankingAccepted(Struct, frozen=True, kw_only=True):
    """A data team brought `answers` to a prompt, ranked: `tiers` has their numbers, the best first, those that are equally good
    together. Of one answer alone `good` says whether it is. `prompt` opens to the JSON list of messages up to and with the
    prompt. `source`: by the domain's `style` guide they are ranked so, and not by the person, to whom they were given."""

    domain: str
    ranking_id: str
    person: str
    prompt: Sealed
    answers: tuple[Sealed, ...]
    tiers: tuple[tuple[Number, ...], ...]
    said_at: Moment
    good: bool | None = None
    source: RankingSource = "person"


class RankingRetired(Struct, frozen=True, kw_only=True):
    domain: str
    ranking_id: str
    reason: str
    by: str


ExampleEvent = ExampleAccepted | PreferenceAccepted | ExampleRetired | RankingAccepted | RankingRetired

examples = projection(
    "examples",
    text("example_id", key=True),
    text("domain"),
    text("kind"),
    text("person"),  # who said or accepted it; empty: they were erased, and the words are not theirs
    boolean("own_words"),  # whether the words are that person's: not, of a proposal that was accepted as it was
    jsonb("prompt"),  # Sealed
    jsonb("answer"),  # Sealed
    timestamptz("said_at"),
    text("prompt_id", nullable=True),
    text("follows", nullable=True),
    text("proposal_id", nullable=True),  # that it was
    boolean("edited"),
    text_array(
        "kids", nullable=True
    ),  # of the keys of its words, where it was proposed: of a rewording these are others'
    bigint("accepted_offset"),  # on the domain's partition
    text("accepted_in", nullable=True),  # of an annotation: the import or decision that brought it
    bigint("retired_offset", nullable=True),
    text("retired_reason", nullable=True),
    text("retired_in", nullable=True),  # the decision, where one person retired many
    text("retired_by", nullable=True),
    index("domain", "accepted_offset"),
    index("domain", "retired_offset", where="retired_offset IS NOT NULL"),
    index("person", "domain"),
    index("proposal_id", where="proposal_id IS NOT NULL"),
    index("accepted_in", where="accepted_in IS NOT NULL"),
    index("retired_in", where="retired_in IS NOT NULL"),
    index("kids", using="gin"),
)
preferences = projection(
    "preferences",
    text("preference_id", key=True),
    text("domain"),
    text("person"),
    jsonb("prompt"),  # Sealed
    jsonb("chosen"),  # Sealed
    jsonb("rejected"),  # list of Sealed
    text("prompt_id"),
    text("follows", nullable=True),
    timestamptz("said_at"),
    bigint("accepted_offset"),
    index("domain", "accepted_offset"),
)
rankings = projection(
    "rankings",
    text("ranking_id", key=True),
    text("domain"),
    text("person"),
    jsonb("prompt"),  # Sealed
    jsonb("answers"),  # list of Sealed
    jsonb("tiers"),  # lists of numbers of answers, the best first
    boolean("good", nullable=True),  # of one answer alone
    text("source"),
    timestamptz("said_at"),
    bigint("accepted_offset"),
    bigint("retired_offset", nullable=True),
    text("retired_reason", nullable=True),
    index("domain", "accepted_offset"),
    index("person", "domain"),
)
# The part of a domain's state that grows with what people give: `streams.fresh`, a row for each.
fresh = projection(
    "fresh",
    text("domain", key=True),
    text("kind", key=True),  # correction, preference
    text("given_id", key=True),
    text("person"),
    text("service", nullable=True),  # the key that named the person
    bigint("offset"),
    boolean("own_words"),  # as in `examples`
    rights=may(stream="rawd"),
)


def fold(state: Domain, recorded: Recorded, event: ExampleEvent) -> Domain:
    now = recorded.envelope.time
    match event:
        case ExampleAccepted():
            state = without_judging(state, event.proposal_id)
            if _erased(state, event):
                return state
            given = state.fresh.with_correction(event.example_id, _given(event, recorded))
            return replace(state, fresh=given, last_new_at=now)
        case PreferenceAccepted():
            if event.prompt.kid in state.erased:
                return state
            given = state.fresh.with_preference(event.preference_id, _given(event, recorded))
            return replace(state, fresh=given, last_new_at=now)
        case ExampleRetired():
            return replace(state, fresh=state.fresh.without_correction(event.example_id))
        case RankingAccepted() | RankingRetired():
            return state
        case _:
            assert_never(event)


def rows(before: Domain, after: Domain, recorded: Recorded, event: ExampleEvent) -> list[Write]:
    changed = after.fresh is not before.fresh
    match event:
        case ExampleAccepted():
            gone = _erased(before, event)
            row = columns(event, "example_id", "domain", "kind", "person", "prompt", "answer", "prompt_id", "follows")
            row |= columns(event, "proposal_id", "edited")
            more = {
                "own_words": _own_words(event),
                "kids": None if event.proposal_id is None else sorted({event.prompt.kid, event.answer.kid}),
                "said_at": event.said_at,
                "accepted_offset": recorded.offset,
                "accepted_in": recorded.envelope.correlation_id if event.kind == "annotation" else None,
                "retired_offset": recorded.offset if gone else None,
                "retired_reason": "erased" if gone else None,
                "retired_in": None,
                "retired_by": None,
            }
            was = before.fresh.corrections.get(event.example_id)
            fresh_row = _fresh(recorded, event, "correction", event.example_id, was) if changed else []
            return [Insert("examples", row | more), *fresh_row, *_decided(recorded, event)]
        case PreferenceAccepted():
            names = ("preference_id", "domain", "person", "prompt", "chosen", "rejected", "prompt_id", "follows")
            row = columns(event, *names)
            row |= {"said_at": event.said_at, "accepted_offset": recorded.offset}
            was = before.fresh.preferences.get(event.preference_id)
            fresh_row = _fresh(recorded, event, "preference", event.preference_id, was) if changed else []
            newest = Update("preferences", {"preference_id": event.preference_id}, row)
            return [Insert("preferences", row), newest, *fresh_row]
        case ExampleRetired():
            where = {"domain": event.domain, "example_id": event.example_id}
            how = {"retired_in": recorded.envelope.correlation_id, "retired_by": event.by}
            retired = Retire("examples", where, recorded.offset, event.reason, how)
            key = {"domain": event.domain, "kind": "correction", "given_id": event.example_id}
            return [retired, Delete("fresh", key)] if changed else [retired]
        case RankingAccepted():
            gone = any(sealed.kid in before.erased for sealed in (event.prompt, *event.answers))
            more = {
                "accepted_offset": recorded.offset,
                "retired_offset": recorded.offset if gone else None,
                "retired_reason": "erased" if gone else None,
            }
            row = columns(event, "ranking_id", "domain", "person", "prompt", "answers", "tiers", "good", "source")
            return [Insert("rankings", row | {"said_at": event.said_at} | more)]
        case RankingRetired():
            where = {"domain": event.domain, "ranking_id": event.ranking_id}
            return [Retire("rankings", where, recorded.offset, event.reason)]
        case _:
            assert_never(event)


def _decided(recorded: Recorded, event: ExampleAccepted) -> list[Write]:
    if event.proposal_id is None:
        return []
    state = "edited" if event.edited else "accepted"
    return [decided(event.proposal_id, state, recorded, decided_by=event.person, example_id=event.example_id)]


def _erased(state: Domain, event: ExampleAccepted) -> bool:
    return event.prompt.kid in state.erased or event.answer.kid in state.erased


def _given(event: ExampleAccepted | PreferenceAccepted, recorded: Recorded) -> Given:
    return Given(event.person, event.service, recorded.offset, _own_words(event))


def _own_words(event: ExampleAccepted | PreferenceAccepted) -> bool:
    return isinstance(event, PreferenceAccepted) or event.proposal_id is None or event.edited


def _fresh(
    recorded: Recorded, event: ExampleAccepted | PreferenceAccepted, kind: str, given_id: str, was: Given | None
) -> list[Write]:
    """What keeps the one that came, given what was kept under its id."""
    key = {"domain": event.domain, "kind": kind, "given_id": given_id}
    giver: Row = {"person": event.person, "service": event.service, "offset": recorded.offset}
    giver["own_words"] = _own_words(event)
    return [Insert("fresh", key | giver) if was is None else Update("fresh", key, giver)]
