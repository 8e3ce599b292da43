"""A domain's style guide over HTTP: pairs made by it, of answers that are there already."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from flask import Blueprint, Response
from msgspec import Struct

from api.access import needs
from api.datasets import MOST_ITEMS, RANKINGS, add_items, identified, import_id_of
from api.errors import ApiError
from api.known import living_domain
from api.services import Services
from api.wire import reply
from streams import history, sealing
from streams.errors import Erased
from streams.facts.examples import RankingAccepted
from streams.policy import Policy
from streams.rankings import MOST_ANSWERS, same_text
from streams.reading.drafts import Drafts, newest_drafts
from streams.sealing import PersonKey, open_sealed
from streams.store import postgres_trouble
from streams.style import StyleRule, preferred

MOST_PROMPTS = 1000
"""Each text is opened for it: about a millisecond of a core."""


class _Pair(Struct, frozen=True):
    person: str
    key: PersonKey
    messages: str
    better: str
    worse: str

    def __repr__(self) -> str:
        return "_Pair(…)"


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("style", __name__)

    @views.post("/v1/domains/<domain>/style/pairs")
    @needs("data")
    def make_pairs(domain: str) -> Response:
        import_id = import_id_of()
        guide = msgspec.convert(living_domain(services, domain)["policy"], Policy).style
        if not guide:
            raise ApiError(422, "the domain's policy has no guide (style)", param="domain", code="no_guide")
        return reply(_make_pairs(services, domain, guide, import_id))

    return views


def _make_pairs(services: Services, domain: str, guide: Sequence[StyleRule], import_id: str) -> dict[str, Any]:
    with postgres_trouble(), services.database.connect() as connection:
        drafts = newest_drafts(connection, domain, MOST_PROMPTS)
        earlier = history.before(connection, {one.follows for one in drafts})
    looked, pairs = 0, list[_Pair]()
    for one in drafts:
        if len(pairs) >= MOST_ITEMS:
            break
        looked += 1
        pairs += _pairs(services, guide, one, earlier)
    at = datetime.now(UTC)
    names = [
        identified(services, "style", domain, one.key.kid, one.messages, one.better, one.worse, key=one.key)
        for one in pairs
    ]

    def event(number: int, id_: UUID) -> RankingAccepted:
        one = pairs[number]
        return RankingAccepted(
            domain=domain,
            ranking_id=id_.hex,
            person=one.person,
            prompt=sealing.seal(one.messages, one.key, f"{id_}#prompt"),
            answers=tuple(
                sealing.seal(words, one.key, f"{id_}#answers.{place}")
                for place, words in enumerate((one.better, one.worse))
            ),
            tiers=((0,), (1,)),
            said_at=at,
            source="style",
        )

    return {"prompts": looked} | add_items(services, RANKINGS, names, event, import_id)


def _pairs(services: Services, guide: Sequence[StyleRule], drafts: Drafts, earlier: history.Before) -> list[_Pair]:
    """Of what was sealed with one person's key alone: with that the pairs are sealed, and gone."""
    kid = drafts.messages.kid
    try:
        with postgres_trouble():
            whole = earlier.whole(drafts.messages, drafts.follows)
            if any(part.sealed.kid != kid for part in whole):
                return []
            messages, key = history.open_whole(whole, services.keyring), services.keyring.find(kid)
            accepted, said = (
                [open_sealed(sealed, services.keyring) for sealed in those if sealed.kid == kid]
                for those in (drafts.accepted, drafts.answers)
            )
    except Erased:
        return []
    distinct = {same_text(words): words for words in reversed([*accepted, *said]) if words.strip()}
    answers = list(reversed(distinct.values()))[:MOST_ANSWERS]
    taken = frozenset(number for number, words in enumerate(answers) if words in accepted)
    asked = msgspec.json.encode(messages).decode()
    return [
        _Pair(drafts.person, key, asked, answers[one], answers[other])
        for one, other in preferred(guide, messages[-1]["content"], answers, taken)
    ]
