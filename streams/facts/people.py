"""People, where they are erased: their keys are destroyed, and what was computed from their words is removed."""

from typing import assert_never
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from streams.domain import Domain
from streams.envelope import Recorded
from streams.tables import index, projection, text, text_array, timestamptz
from streams.writes import Delete, Insert, Retire, Update, Write


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


PeopleEvent = PersonErased | PlacesPurged

erasures = projection(
    "erasures",
    text("domain", key=True),
    text("person", key=True),
    text_array("kids"),
    timestamptz("erased_at"),
    index("person"),
)


def fold(state: Domain, event: PeopleEvent) -> Domain:
    match event:
        case PersonErased():
            return replace(
                state,
                erased=tuple(sorted({*state.erased, *event.kids})),
                fresh=state.fresh.without_person(event.person),
            )
        case PlacesPurged():
            return state
        case _:
            assert_never(event)


def rows(before: Domain, after: Domain, recorded: Recorded, event: PeopleEvent) -> list[Write]:
    match event:
        case PersonErased():
            person = {"domain": event.domain, "person": event.person}
            kids = {"kids": list(event.kids)}
            return [
                Insert("erasures", person | kids | {"erased_at": recorded.envelope.time}),
                Update("erasures", person, kids),
                Retire("examples", person, recorded.offset, "erased"),
                Retire("rankings", person, recorded.offset, "erased"),
                *([Delete("fresh", person)] if after.fresh is not before.fresh else []),
            ]
        case PlacesPurged():
            return []
        case _:
            assert_never(event)
