"""People, where they are erased: their keys are destroyed, and what was computed from their words is removed."""

from typing import assert_never
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from streams.annotation import Judging
from streams.domain import Domain
from streams.envelope import Recorded
from streams.facts.judgements import standing
from streams.tables import index, projection, text, text_array, timestamptz
from streams.writes import Change, Delete, Insert, Retire, Row, Update, Write


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
                judging=_without(state, event.person),
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
                Retire("examples", person | {"own_words": True}, recorded.offset, "erased"),
                # A rewording that another accepted is sealed with the keys of whoever worded and answered it.
                *(
                    Retire("examples", {"domain": event.domain, "kids": (kid,)}, recorded.offset, "erased")
                    for kid in event.kids
                ),
                # What they accepted as it was proposed holds no word of theirs, and stays.
                Change("examples", person | {"own_words": False}, {"person": ""}),
                Change("proposals", {"domain": event.domain, "decided_by": event.person}, {"decided_by": None}),
                *_unsaid(before, after, event.person),
                Change("judgements", person, {"person": None}),
                Retire("rankings", person, recorded.offset, "erased"),
                *(_given_no_more(person) if after.fresh is not before.fresh else []),
            ]
        case PlacesPurged():
            return []
        case _:
            assert_never(event)


def _given_no_more(person: Row) -> list[Write]:
    nameless = Change("fresh", person | {"own_words": False}, {"person": ""})
    return [Delete("fresh", person | {"own_words": True}), nameless]


def _without(state: Domain, person: str) -> dict[str, Judging]:
    """What of the verdicts on what is not settled is still said."""
    rest = {id_: judged.without(person) for id_, judged in state.judging.items()}
    return {id_: judged for id_, judged in rest.items() if judged.verdicts}


def _unsaid(before: Domain, after: Domain, person: str) -> list[Write]:
    found: list[Write] = []
    for id_, judged in before.judging.items():
        if judged != (rest := after.judging.get(id_)):
            found += [Delete("judgements", {"proposal_id": id_, "person": person}), standing(id_, rest)]
    return found
