"""What people prefer in a domain, as it stands now: the pairs and labels that its feedback comes to, and what is held back."""

from typing import Any

from flask import Blueprint, Response, request
from sqlalchemy import text

from api.access import needs
from api.errors import ApiError
from api.known import domain_row
from api.services import Services
from api.wire import reply
from streams.history import before
from streams.preferred import Preferred, counted, preferred
from streams.rankings import PERSON_SHARE
from streams.reading.preferences import cut_now, said_of_answers
from streams.store import postgres_trouble

MOST_FEEDBACK = 5_000
"""Every text is opened for it, in a process that answers others meanwhile: about a millisecond of a core for each."""


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("preferences", __name__)

    @views.get("/v1/domains/<domain>/preferences")
    @needs("data")
    def show_preferences(domain: str) -> Response:
        share = _share()
        domain_row(services, domain)
        return reply(_said(_preferred(services, domain, share)))

    return views


def _share() -> float:
    said = request.args.get("person_share", str(PERSON_SHARE))
    try:
        share = float(said)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ApiError(400, "person_share must be above 0 and at most 1", param="person_share")
    return share


def _preferred(services: Services, domain: str, share: float) -> Preferred:
    with postgres_trouble(), services.database.connect() as connection:
        number = connection.execute(
            text(
                "SELECT coalesce(sum(number), 0) FROM noria.feedback_counts WHERE domain = :domain"
                " AND kind IN ('pick', 'ranking', 'rating', 'correction')"
            ),
            {"domain": domain},
        ).scalar_one()
        if number > MOST_FEEDBACK:
            message = f"{number:,} picks, orders, ratings and corrections are more than are ranked at once ({MOST_FEEDBACK:,})"
            raise ApiError(422, message, code="too_many")
        said = said_of_answers(connection, domain, cut_now(connection), None)
        earlier = before(connection, {prompt.follows for prompt in said.prompts.values()})
    with postgres_trouble():
        return preferred(said, earlier, services.keyring, domain, person_share=share)


def _said(found: Preferred) -> dict[str, Any]:
    """Sides are in clear."""

    def prompt(prompt_id: str) -> list[dict[str, str]]:
        return found.messages[prompt_id]

    return {
        "pairs": [
            {
                "ranking": pair.ranking,
                "prompt": prompt(pair.better.prompt_id),
                "chosen": found.texts[pair.better.answer_id],
                "rejected": found.texts[pair.worse.answer_id],
                "events": pair.events,
                "by_guide": pair.by_guide,
            }
            for pair in found.pairs
        ],
        "labels": [
            {
                "prompt": prompt(label.answer.prompt_id),
                "completion": found.texts[label.answer.answer_id],
                "label": label.good,
                "events": label.events,
            }
            for label in found.ranked.labels
        ],
        "held": counted(found.held),
    }
