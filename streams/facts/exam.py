"""The exam: questions that candidates are examined on, and nothing is trained on."""

from typing import Literal, assert_never

from msgspec import Struct

from streams.envelope import Recorded
from streams.sealed import Sealed
from streams.tables import bigint, index, jsonb, projection, text
from streams.writes import Insert, Retire, Write, columns

ExamKind = Literal["held_out", "general"]


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


ExamEvent = ExamItemAdded | ExamItemRetired

exam_items = projection(
    "exam_items",
    text("item_id", key=True),
    text("domain"),
    text("kind"),
    jsonb("item"),  # Sealed
    bigint("added_offset"),
    bigint("retired_offset", nullable=True),
    text("retired_reason", nullable=True),
    index("domain", "added_offset"),
)


def rows(recorded: Recorded, event: ExamEvent) -> list[Write]:
    match event:
        case ExamItemAdded():
            standing = {"added_offset": recorded.offset, "retired_offset": None, "retired_reason": None}
            return [Insert("exam_items", columns(event, "item_id", "domain", "kind", "item") | standing)]
        case ExamItemRetired():
            where = {"domain": event.domain, "item_id": event.item_id}
            return [Retire("exam_items", where, recorded.offset, event.reason)]
        case _:
            assert_never(event)
