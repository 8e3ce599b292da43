"""Comparisons of the base model with the live release: asked for, and shown."""

from typing import Any
from uuid import uuid4

from flask import Blueprint, Response
from sqlalchemy import Connection, select

from api.access import caller, needs
from api.comparing import with_shares
from api.errors import ApiError
from api.known import domain_row, living_domain
from api.saying import say
from api.services import Services
from api.wire import reply, whole_argument
from streams import schema
from streams.facts.comparisons import ComparisonAsked, order_of
from streams.store import postgres_trouble


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("comparisons", __name__)

    @views.post("/v1/domains/<domain>/comparisons")
    @needs("operator")
    def ask_comparison(domain: str) -> Response:
        row = living_domain(services, domain)
        if row["live_release"] is None:
            message = "no release of the domain answers yet; there is nothing to compare"
            raise ApiError(409, message, code="no_release")
        with postgres_trouble(), services.database.connect() as connection:
            newest = comparison_rows(connection, domain, 1)
        if newest and newest[0]["outcome"] == "under_way":
            return reply({"comparison_id": newest[0]["comparison_id"], "known": True, "position": None}, 202)
        id_ = uuid4()
        (position,) = say(services, [(id_, ComparisonAsked(domain=domain, by=caller().person))], domain)
        return reply({"comparison_id": str(order_of(id_)), "known": False, "position": str(position)}, 202)

    @views.get("/v1/domains/<domain>/comparisons")
    @needs("data")
    def list_comparisons(domain: str) -> Response:
        domain_row(services, domain)
        with postgres_trouble(), services.database.connect() as connection:
            return reply({"data": comparison_rows(connection, domain, whole_argument("limit", 20, 1, 1000))})

    return views


def comparison_rows(connection: Connection, domain: str, limit: int) -> list[dict[str, Any]]:
    """The newest first."""
    table = schema.comparisons
    found = select(table).where(table.c.domain == domain).order_by(table.c.asked_offset.desc()).limit(limit)
    return [with_shares(dict(row)) for row in connection.execute(found).mappings()]
