"""What a domain's memory recalls for a question: asked by whoever looks after it, and put before no model."""

from datetime import UTC, datetime
from typing import get_args

from flask import Blueprint, Response
from msgspec import Struct
from msgspec.structs import replace

from api.access import needs
from api.errors import ApiError
from api.known import domain_row, retired_domain
from api.recall import MemoryAway
from api.routing import recall_of
from api.services import Services
from api.wire import read_object, reply, typed
from streams.errors import InvalidField
from streams.recalled import MemoryKind, Recall, RecallOf


class _Body(Struct, forbid_unknown_fields=True):
    """What is left out is as the policy says."""

    question: str
    most: int | None = None
    least: float | None = None
    kinds: frozenset[MemoryKind] | None = None

    def __repr__(self) -> str:
        return "_Body(sealed)"  # people's words must not reach a log through a traceback


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("memory", __name__)

    @views.post("/v1/domains/<domain>/recall")
    @needs("data")
    def ask_memory(domain: str) -> Response:
        said = typed(read_object(), _Body)
        if not said.question.strip():
            raise ApiError(400, "question must say something", param="question")
        row = domain_row(services, domain)
        if row["retired_at"] is not None:
            raise retired_domain()
        asked = narrowed(recall_of(row["policy"].get("recall")), said)
        try:
            sources = services.recaller.would_recall(domain, said.question, asked)
        except MemoryAway as error:
            message = f"{error}, or it does not hold the domain yet"
            raise ApiError(503, message, code="memory_unavailable", retry_after_s=2) from None
        at = datetime.now(UTC)
        data = [source.opened(at) for source in sources]
        return reply({"domain": domain, "most": asked.most, "least": asked.least, "data": data})

    return views


def narrowed(recall: Recall, said: _Body) -> Recall:
    """What is asked, where the policy says `recall`. Raises ApiError: 409 where it recalls nothing, and 422 for a kind that it does
    not recall, which the memory does not hold."""
    if recall.of == "off":
        message = "the domain's policy recalls nothing (recall.of is off)"
        raise ApiError(409, message, param="domain", code="recall_off")
    kinds = recall.kinds if said.kinds is None else said.kinds
    if not kinds:
        raise ApiError(400, "kinds must name one at least", param="kinds")
    if not kinds <= recall.kinds:
        message = f"the domain's policy recalls {recall.of} only"
        raise ApiError(422, message, param="kinds", code="kind_not_recalled")
    of = next(of for of in get_args(RecallOf) if replace(recall, of=of).kinds == kinds)
    most = recall.most if said.most is None else said.most
    asked = replace(recall, of=of, most=most, least=recall.least if said.least is None else said.least)
    try:
        asked.check()
        asked.check_new()
    except InvalidField as error:
        raise ApiError(422, str(error), param=error.field.removeprefix("recall.")) from None
    return asked
