"""Bases: the models that domains may begin with. Each was checked before it is entered; its files lie among the artifacts."""

from typing import assert_never

from msgspec import Struct

from streams.envelope import Number, Offset, Recorded
from streams.tables import bigint, index, integer, projection, text, text_array, timestamptz
from streams.writes import Insert, Update, Write, columns

BASES = "@bases"
"""Under which what is said of bases stands on the log: in one order, beside the domains, none of which can be called so."""


class BaseAdded(Struct, frozen=True, kw_only=True):
    """From here on a domain may begin with `base`, whose files are `model`. The same name again takes the place of the one before
    it, for domains that are made later. `parameters`: numbers that the model holds; `vocabulary`: rows of its embedding;
    `licence`: as its folder says, if it does; `engines`: the kinds that can serve it (`streams.engines`), the best first."""

    domain: str  # BASES
    base: str
    model: str
    family: str
    parameters: Offset
    context_tokens: Number
    vocabulary: Number
    licence: str | None
    engines: tuple[str, ...]
    by: str


BaseEvent = BaseAdded

bases = projection(
    "bases",
    text("base", key=True),
    text("model"),
    text("family"),
    bigint("parameters"),
    integer("context_tokens"),
    integer("vocabulary"),
    text("licence", nullable=True),
    text_array("engines"),
    text("by"),
    timestamptz("added_at"),
    index("model"),
)


def rows(recorded: Recorded, event: BaseEvent) -> list[Write]:
    match event:
        case BaseAdded():
            names = ("model", "family", "parameters", "context_tokens", "vocabulary", "licence", "engines", "by")
            row = columns(event, *names) | {"added_at": recorded.envelope.time}
            key = {"base": event.base}
            return [Insert("bases", key | row), Update("bases", key, row)]
        case _:
            assert_never(event)
