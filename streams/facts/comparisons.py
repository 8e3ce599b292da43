"""Comparisons: the base model and the live release on the same questions, bare and with what is recalled for them; or bases with
each other.

What a domain's team asks for: whether training, recall, or both together are what makes its answers right, and what each costs;
and which base its domain, or its next one, is to begin with.
"""

from datetime import datetime
from math import sqrt
from statistics import NormalDist
from typing import Any, Literal, assert_never, get_args
from uuid import UUID, uuid5

from msgspec import Struct
from msgspec.structs import replace

from streams.domain import Comparing, Domain
from streams.envelope import Number, Offset, Recorded
from streams.gate import EARLIER, FIXES, GENERAL, HELD_OUT, Questions
from streams.tables import bigint, double, index, integer, jsonb, projection, text, timestamptz
from streams.writes import Insert, Update, Write, columns

Variant = Literal["base", "base_recalled", "trained", "trained_recalled"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
UNTAUGHT = "untaught"
"""The corrections that no round has taught the live release: what recall alone can answer. The other sets are the gate's."""
SETS = (FIXES, EARLIER, UNTAUGHT, HELD_OUT, GENERAL)


class Answers(Struct, frozen=True):
    """How `n` questions were answered, `right` of them right. The rest is of one question, on average: the tokens of its prompt and
    of its answer, and the `seconds` until that was whole; None where the engine did not tell. While they were asked, as many were
    under way as the engine has slots."""

    n: Questions
    right: Questions
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    seconds: float | None = None


class ComparisonAsked(Struct, frozen=True, kw_only=True):
    """Somebody wants to see what answers at present beside its base model. Without effect while another comparison is under way:
    it is of the same models."""

    domain: str
    by: str


class ComparisonMade(Struct, frozen=True, kw_only=True):
    """By set of questions, how each variant answered them. `release` is the trained one; of a domain that has none but its base
    model there are no trained variants, and without a policy that recalls none with recall."""

    domain: str
    order_id: UUID
    release: Number
    sets: dict[str, dict[Variant, Answers]]
    duration_s: float


class BaseComparisonAsked(Struct, frozen=True, kw_only=True):
    """Somebody wants to see these bases (name -> model) beside each other, on what the domain asks. Without effect while another
    comparison of the domain is under way."""

    domain: str
    bases: dict[str, str]
    by: str


class BaseTraining(Struct, frozen=True):
    """What a round would take here, by `streams.sizing`: the corrections that count, by the recipe of the policy."""

    peak_gb: float
    seconds: float
    fits: bool


class BaseFigures(Struct, frozen=True, kw_only=True):
    """What a base is worth to the domain. `sets`: how it answered, bare. `tokens_per_character`: of the domain's own words, by the
    base's tokenizer. `tokens_per_s`: how fast an engine of the kind `engine` answers one request on the worker's machine, and
    `memory_gb` what the engine's processes hold then; 10^9 bytes. `training`: None where nobody has sized the recipe."""

    family: str
    parameters: Offset
    context_tokens: Number
    licence: str | None
    engine: str
    sets: dict[str, Answers]
    tokens_per_character: float
    tokens_per_s: float
    memory_gb: float
    training: BaseTraining | None


class BaseComparisonMade(Struct, frozen=True, kw_only=True):
    """By base what it is worth to the domain."""

    domain: str
    order_id: UUID
    bases: dict[str, BaseFigures]
    duration_s: float


ComparisonEvent = ComparisonAsked | ComparisonMade | BaseComparisonAsked | BaseComparisonMade

comparisons = projection(
    "comparisons",
    text("comparison_id", key=True),  # of its order
    text("domain"),
    integer("release", nullable=True),  # none, of bases
    jsonb("compared", nullable=True),  # {base: model}; none, of a release
    text("by"),
    text("outcome"),  # under_way, made, failed, cancelled
    jsonb("sets", nullable=True),  # {set: {variant: Answers}}
    jsonb("bases", nullable=True),  # {base: BaseFigures}
    double("duration_s", nullable=True),
    text("failure", nullable=True),
    bigint("asked_offset"),
    timestamptz("asked_at"),
    timestamptz("ended_at", nullable=True),
    index("domain", "asked_offset"),
)


def fold(state: Domain, recorded: Recorded, event: ComparisonEvent) -> Domain:
    match event:
        case ComparisonAsked():
            if state.comparing is not None or state.live is None or state.retired:
                return state
            return replace(state, comparing=Comparing(state.live, order_of(recorded.envelope.id)))
        case BaseComparisonAsked():
            if state.comparing is not None or not state.base_model or state.retired or not event.bases:
                return state
            return replace(state, comparing=Comparing(None, order_of(recorded.envelope.id), event.bases))
        case ComparisonMade() | BaseComparisonMade():
            if state.comparing is None or state.comparing.order_id != event.order_id:
                return state
            return replace(state, comparing=None)
        case _:
            assert_never(event)


def order_of(asked: UUID) -> UUID:
    """The id of the order, and of the comparison, that the event of that id asks for."""
    return uuid5(asked, "compare_releases")  # of bases as well


def rows(before: Domain, after: Domain, recorded: Recorded, event: ComparisonEvent) -> list[Write]:
    at = recorded.envelope.time
    match event:
        case ComparisonAsked() | BaseComparisonAsked():
            if after.comparing is None or after.comparing == before.comparing:
                return []
            begun = {
                "comparison_id": str(after.comparing.order_id),
                "domain": event.domain,
                "release": after.comparing.release,
                "compared": after.comparing.bases or None,
                "by": event.by,
                "outcome": "under_way",
                "asked_offset": recorded.offset,
                "asked_at": at,
            }
            return [Insert("comparisons", dict.fromkeys(column.name for column in comparisons.columns) | begun)]
        case ComparisonMade():
            return comparison_ended(before, after, at, "made", **columns(event, "sets", "duration_s"))
        case BaseComparisonMade():
            return comparison_ended(before, after, at, "made", **columns(event, "bases", "duration_s"))
        case _:
            assert_never(event)


def comparison_ended(before: Domain, after: Domain, at: datetime, outcome: str, **more: Any) -> list[Write]:
    """What came of the comparison that was under way, if it no longer is."""
    if before.comparing is None or after.comparing is not None:
        return []
    key = {"comparison_id": str(before.comparing.order_id)}
    return [Update("comparisons", key, {"outcome": outcome, "ended_at": at, **more})]


def wilson(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927, JASA 22:209), which holds for few questions too, and where all or none are
    right."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = right / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * sqrt(share * (1 - share) / n + weight / (4 * n))
    # Exact at the ends, where rounding would leave the share itself outside.
    return (0.0 if right == 0 else middle - half), (1.0 if right == n else middle + half)
