"""Comparisons of the base model with the live release, and of bases with each other: asked for, and shown."""

from typing import Any
from uuid import uuid4

import msgspec
from flask import Blueprint, Response
from msgspec import Struct
from sqlalchemy import Connection, select

from api.access import caller, needs
from api.bases import base_of_model, the_base
from api.comparing import with_shares
from api.errors import ApiError
from api.known import domain_row, living_domain
from api.saying import say
from api.services import Services
from api.wire import read_object, reply, typed, whole_argument
from streams import schema
from streams.facts.comparisons import BaseComparisonAsked, ComparisonAsked, order_of
from streams.store import postgres_trouble

MOST_BASES = 10  # of one comparison


class _Wanted(Struct, forbid_unknown_fields=True):
    bases: list[str]


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("comparisons", __name__)

    @views.post("/v1/domains/<domain>/comparisons")
    @needs("operator")
    def ask_comparison(domain: str) -> Response:
        row = living_domain(services, domain)
        if row["live_release"] is None:
            message = "no release of the domain answers yet; there is nothing to compare"
            raise ApiError(409, message, code="no_release")
        return _ask(services, ComparisonAsked(domain=domain, by=caller().person))

    @views.get("/v1/domains/<domain>/comparisons")
    @needs("data")
    def list_comparisons(domain: str) -> Response:
        domain_row(services, domain)
        with postgres_trouble(), services.database.connect() as connection:
            limit = whole_argument("limit", 20, 1, 1000)
            return reply({"data": comparison_rows(connection, domain, limit, of_bases=False)})

    @views.post("/v1/domains/<domain>/base-comparisons")
    @needs("operator")
    def ask_base_comparison(domain: str) -> Response:
        row = living_domain(services, domain)
        wanted = typed(read_object(), _Wanted)
        bases = _bases(services, row, wanted.bases)
        return _ask(services, BaseComparisonAsked(domain=domain, bases=bases, by=caller().person))

    @views.get("/v1/domains/<domain>/base-comparisons")
    @needs("data")
    def list_base_comparisons(domain: str) -> Response:
        domain_row(services, domain)
        with postgres_trouble(), services.database.connect() as connection:
            limit = whole_argument("limit", 20, 1, 1000)
            return reply({"data": comparison_rows(connection, domain, limit, of_bases=True)})

    return views


def _ask(services: Services, event: ComparisonAsked | BaseComparisonAsked) -> Response:
    """One at a time: what is asked for is what is under way, if it is the same. Raises ApiError 409 for another."""
    domain = event.domain
    with postgres_trouble(), services.database.connect() as connection:
        newest = next(iter(_rows(connection, domain, 1)), None)
    if newest is not None and newest["outcome"] == "under_way":
        if newest["compared"] != (event.bases if isinstance(event, BaseComparisonAsked) else None):
            what = "of other models" if newest["compared"] else "of the base model with the live release"
            raise ApiError(409, f"another comparison is under way, {what}", code="comparison_under_way")
        return reply({"comparison_id": newest["comparison_id"], "known": True, "position": None}, 202)
    id_ = uuid4()
    (position,) = say(services, [(id_, event)], domain)
    return reply({"comparison_id": str(order_of(id_)), "known": False, "position": str(position)}, 202)


def _bases(services: Services, row: dict[str, Any], names: list[str]) -> dict[str, str]:
    """Name -> model of the domain's own base and of those that are named. Raises ApiError 422."""
    if len(names) > MOST_BASES:
        raise ApiError(422, f"at most {MOST_BASES} bases are compared at once; got {len(names)}", param="bases")
    own = row["base_model"]
    found: dict[str, str] = {}
    with postgres_trouble(), services.database.connect() as connection:
        known = base_of_model(connection, own)
        for number, name in enumerate(names):
            found[name] = str(the_base(connection, name, f"bases[{number}]")["model"])
    if own not in found.values():
        name = str(known["base"]) if known is not None else _prepared(services, own)
        found = {name if name not in found else own: own} | found
    if len(set(found.values())) < 2:
        message = "there is nothing to compare the domain's own base with: name another"
        raise ApiError(422, message, param="bases")
    return found


def _prepared(services: Services, model: str) -> str:
    """What a model that was prepared here, and not entered as a base, is called; else its digest."""
    index = services.settings.models_index
    prepared = msgspec.json.decode(index.read_bytes(), type=dict[str, str]) if index.exists() else {}
    return next((name for name, digest in prepared.items() if digest == model), model)


def comparison_rows(connection: Connection, domain: str, limit: int, *, of_bases: bool) -> list[dict[str, Any]]:
    """Of the base model with a release, or of bases; the newest first."""
    return [with_shares(row) for row in _rows(connection, domain, limit, of_bases)]


def _rows(connection: Connection, domain: str, limit: int, of_bases: bool | None = None) -> list[dict[str, Any]]:
    table = schema.comparisons
    found = select(table).where(table.c.domain == domain).order_by(table.c.asked_offset.desc()).limit(limit)
    if of_bases is not None:
        found = found.where(table.c.compared.is_not(None) if of_bases else table.c.compared.is_(None))
    return [dict(row) for row in connection.execute(found).mappings()]
