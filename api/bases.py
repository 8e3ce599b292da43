"""Bases: entered once they lie here, checked, and shown."""

import re
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import msgspec
from flask import Blueprint, Response
from msgspec import Struct
from sqlalchemy import Connection, select

from api.access import caller, needs
from api.errors import ApiError
from api.known import CATCH_UP_S
from api.saying import say
from api.services import Services
from api.wire import read_object, reply, typed
from streams import schema
from streams.artifacts import Artifacts, open_artifacts
from streams.errors import Invalid
from streams.facts.bases import BASES, BaseAdded
from streams.store import postgres_trouble

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CARD_FILE = "noria.json"  # of every finished model directory


class _NewBase(Struct, forbid_unknown_fields=True):
    model: str


class _About(Struct):
    family: str
    parameters: int
    context_tokens: int
    vocabulary: int
    licence: str | None
    engines: tuple[str, ...]


class _Card(Struct):
    """What `workers.models.base` wrote down of a base that it made and checked."""

    base: str
    about: _About
    checked: bool = False


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("bases", __name__)

    @views.get("/v1/bases")
    @needs("data")
    def list_bases() -> Response:
        with postgres_trouble(), services.database.connect() as connection:
            rows = connection.execute(select(schema.bases).order_by(schema.bases.c.base)).mappings()
            return reply({"data": [dict(row) for row in rows]})

    @views.get("/v1/bases/<base>")
    @needs("data")
    def show_base(base: str) -> Response:
        with postgres_trouble(), services.database.connect() as connection:
            row = find_base(connection, base)
        if row is None:
            raise ApiError(404, "there is no such base", param="base", code="base_not_found")
        return reply(row)

    @views.post("/v1/bases")
    @needs("operator", every_domain=True)
    def add_base() -> Response:
        """Enter a base that was made and checked on this machine (`noria base add`), by its digest."""
        said = typed(read_object(), _NewBase)
        card = card_of(said.model, services)
        about = card.about
        with postgres_trouble(), services.database.connect() as connection:
            row = find_base(connection, card.base)
        if row is not None and row["model"] == said.model:
            return reply({"base": card.base, "model": said.model, "known": True, "position": None})
        event = BaseAdded(
            domain=BASES,
            base=card.base,
            model=said.model,
            family=about.family,
            parameters=about.parameters,
            context_tokens=about.context_tokens,
            vocabulary=about.vocabulary,
            licence=about.licence,
            engines=about.engines,
            by=caller().person,
        )
        before = row["model"] if row is not None else ""
        # Said twice at once it is one event; a name may go back to a model that it had before.
        id_ = uuid5(NAMESPACE_URL, f"urn:noria:base:{card.base}:{said.model}:{before}:{row and row['added_at']}")
        (position,) = say(services, [(id_, event)], card.base)
        services.recorder.wait_for([position], CATCH_UP_S)
        known = {"base": card.base, "model": said.model, "known": False, "position": str(position)}
        return reply(known, 201)

    return views


def find_base(connection: Connection, base: str) -> dict[str, Any] | None:
    row = connection.execute(select(schema.bases).where(schema.bases.c.base == base)).mappings().one_or_none()
    return dict(row) if row is not None else None


def base_of_model(connection: Connection, model: str) -> dict[str, Any] | None:
    """The base with these files; of several names for the same ones, the first."""
    found = select(schema.bases).where(schema.bases.c.model == model).order_by(schema.bases.c.base).limit(1)
    row = connection.execute(found).mappings().one_or_none()
    return dict(row) if row is not None else None


def the_base(connection: Connection, name: str, param: str) -> dict[str, Any]:
    """Raises ApiError 422 naming those that there are."""
    base = find_base(connection, name)
    if base is None:
        there = ", ".join(connection.execute(select(schema.bases.c.base).order_by(schema.bases.c.base)).scalars())
        message = f"there is no base {name[:100]!r}; there are {there or 'none'} (`noria base add` enters one)"
        raise ApiError(422, message, param=param, code="base_not_found")
    return base


def check_served(base: dict[str, Any], engine: str, param: str) -> None:
    """Raises ApiError 422 where no engine of that kind can serve the base."""
    if engine not in base["engines"]:
        can = ", ".join(base["engines"])
        raise ApiError(422, f"engine: {engine} cannot serve the base {base['base']}; {can} can", param=param)


def lies_here(model: str, services: Services) -> bool:
    return _artifacts(services).has(model)


def card_of(model: str, services: Services) -> _Card:
    """What lies here under that digest. Raises ApiError 400, or 422 where no checked base does."""
    if not _DIGEST.fullmatch(model):
        raise ApiError(400, "model must be a digest, sha256:…", param="model")
    try:
        card = msgspec.json.decode(_artifacts(services).read(model, _CARD_FILE), type=_Card)
    except (Invalid, msgspec.DecodeError):
        card = None
    if card is None or not card.checked or not _NAME.fullmatch(card.base):
        message = "no base that was checked lies here under that digest; `noria base add` makes one"
        raise ApiError(422, message, param="model")
    return card


def _artifacts(services: Services) -> Artifacts:
    return open_artifacts(services.settings.artifacts, services.settings.shared_artifacts)
