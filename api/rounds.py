"""Rounds and releases: asked for, shown, cancelled, rolled back."""

from collections.abc import Set
from typing import Any
from uuid import uuid4

import msgspec
from flask import Blueprint, Response, request
from msgspec import Struct
from sqlalchemy import Connection, select

from api.access import caller, domains_asked, needs
from api.bases import base_of_model, check_served, lies_here, the_base
from api.cards import card_of
from api.errors import ApiError
from api.known import check_not_parked, domain_row, living_domain
from api.reasons import verdict_words, with_words
from api.saying import say
from api.services import Services
from api.wire import check_domain, read_object, reply, typed, whole_argument
from streams import schema
from streams.codec import read_event
from streams.errors import Invalid, InvalidField
from streams.events import DomainEvent
from streams.facts.releases import RebuildAsked, RollbackAsked
from streams.facts.rounds import RoundAsked, RoundCancelled, RoundRequested
from streams.made_with import MadeWith, differences
from streams.plan import CANCELLABLE
from streams.recipes import METHOD, BroughtRecipe, Recipe, RewardRecipe, with_method
from streams.store import postgres_trouble


class _Rollback(Struct, forbid_unknown_fields=True):
    to: int


class _Wanted(Struct, forbid_unknown_fields=True):
    opening: bool = False
    recipe: Recipe | None = None
    from_base: bool = False
    base: str | None = None


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("rounds", __name__)

    @views.post("/v1/domains/<domain>/rounds")
    @needs("operator")
    def ask_round(domain: str) -> Response:
        row = living_domain(services, domain)
        if row["live_release"] is None:
            message = "no release of the domain answers yet; a round starts from one"
            raise ApiError(409, message, code="no_release")
        if row["round_id"] is not None:
            raise ApiError(409, f"round {row['round_id']} is under way", code="round_under_way")
        wanted = _wanted(read_object() if request.content_length else {})
        asked = RoundAsked(
            domain=domain,
            by=caller().person,
            opening=wanted.opening,
            recipe=wanted.recipe,
            from_base=wanted.from_base,
            base=wanted.base,
            base_model=None if wanted.base is None else _moves_to(services, row, wanted.base),
        )
        return _say(services, asked, domain)

    @views.get("/v1/rounds")
    @needs("data")
    def list_rounds() -> Response:
        domains = domains_asked(_wanted_domain(services))
        with postgres_trouble(), services.database.connect() as connection:
            return reply({"data": round_rows(connection, domains, whole_argument("limit", 50, 1, 1000))})

    @views.get("/v1/rounds/<round_id>")
    @needs("data")
    def show_round(round_id: str) -> Response:
        return reply(_shown(the_round(services, round_id)))

    @views.get("/v1/rounds/<round_id>/card")
    @needs("data")
    def show_card(round_id: str) -> Response:
        found = the_round(services, round_id)
        if found["model"] is None:
            message = f"round {found['number']} made no candidate ({found['step']})"
            raise ApiError(409, message, code="no_candidate")
        with postgres_trouble(), services.database.connect() as connection:
            models = {row["release"]: row["model"] for row in release_rows(connection, {found["domain"]})}
            base = base_of_model(connection, found["base_model"])
        began = _requested(services, found)
        licence = base["licence"] if base is not None else None
        start = None if began.from_base else found["base_release"]
        model = found["base_model"] if start is None else models.get(start)
        return reply(card_of(_shown(found), began.policy.recipe, start, model, licence))

    @views.post("/v1/rounds/<round_id>/cancel")
    @needs("operator")
    def cancel_round(round_id: str) -> Response:
        found = the_round(services, round_id)
        if found["step"] not in CANCELLABLE:
            what = "is being swapped in" if found["step"] == "swap" else f"has ended ({found['step']})"
            raise ApiError(409, f"the round {what}; it cannot be cancelled", code="round_not_cancellable")
        check_not_parked(services, found["domain"])
        event = RoundCancelled(domain=found["domain"], round_id=round_id, by=caller().person)
        return _say(services, event, round_id)

    @views.post("/v1/rounds/<round_id>/rebuild")
    @needs("operator")
    def rebuild_round(round_id: str) -> Response:
        found = the_round(services, round_id)
        living_domain(services, found["domain"])
        with postgres_trouble(), services.database.connect() as connection:
            _check_rebuildable(connection, found)
        began = _requested(services, found)
        event = RebuildAsked(
            domain=found["domain"],
            round_id=round_id,
            pin=found["pin"],
            snapshot=found["snapshot"],
            base_release=found["base_release"],
            recipe=began.policy.recipe,
            release=found["release"] if found["step"] == "released" else None,
            model=found["model"],
            adapter=found["adapter"],
            by=caller().person,
            recall=began.policy.recall,
            opening=began.opening,
            from_base=began.from_base,
            base_model=began.base_model,
            reward_model=found["reward_model"],
            selection=began.policy.selection,
            mask=began.policy.mask,
        )
        return _say(services, event, round_id)

    @views.get("/v1/releases")
    @needs("data")
    def list_releases() -> Response:
        domains = domains_asked(_wanted_domain(services))
        with postgres_trouble(), services.database.connect() as connection:
            return reply({"data": release_rows(connection, domains, whole_argument("limit", 1000, 1, 5000))})

    @views.post("/v1/domains/<domain>/rollback")
    @needs("operator")
    def roll_back(domain: str) -> Response:
        said = typed(read_object(), _Rollback)
        row = living_domain(services, domain)
        with postgres_trouble(), services.database.connect() as connection:
            known = {r["release"]: r for r in release_rows(connection, {domain})}
            makes_it = _made_again_by(connection, domain, said.to)
        if said.to not in known or known[said.to]["finished_at"] is None:
            raise ApiError(404, f"there is no release {said.to} to go to", param="to", code="release_not_found")
        if known[said.to]["state"] == "removed":
            message = f"release {said.to} was removed by the policy (keep): its model is not on the disk any more"
            raise ApiError(409, message + makes_it, param="to", code="release_removed")
        if row["live_release"] == said.to:
            raise ApiError(422, f"release {said.to} is the one that answers", param="to")
        return _say(services, RollbackAsked(domain=domain, to=said.to, by=caller().person), domain)

    return views


def _wanted(body: dict[str, Any]) -> _Wanted:
    """Raises ApiError naming what of it cannot be."""
    if body.get("recipe") is not None:
        body = body | {"recipe": with_method(body["recipe"])}
    wanted = typed(body, _Wanted)
    if wanted.recipe is not None:
        known = {METHOD, *wanted.recipe.__struct_fields__}
        if unknown := sorted(set(body["recipe"]) - known):
            raise ApiError(400, f"recipe.{unknown[0]}: this recipe has no such field", param=f"recipe.{unknown[0]}")
        try:
            wanted.recipe.check()
            wanted.recipe.check_new()
        except Invalid as error:
            raise ApiError(
                422, str(error), param=error.field if isinstance(error, InvalidField) else "recipe"
            ) from None
        if wanted.opening and isinstance(wanted.recipe, BroughtRecipe | RewardRecipe):
            what = "takes no adapter that was trained elsewhere"
            if isinstance(wanted.recipe, RewardRecipe):
                what = "teaches a model to answer, and no reward model comes of it"
            raise ApiError(422, f"an opening round trains: it {what}", param="recipe")
    if isinstance(wanted.recipe, RewardRecipe) and wanted.base is not None:
        raise ApiError(422, "a reward model answers nobody: by it no domain moves to another base", param="base")
    anew = "base" if wanted.base is not None else "from_base" if wanted.from_base else None
    if anew is not None and (wanted.opening or isinstance(wanted.recipe, BroughtRecipe)):
        what = "an opening round learns no correction" if wanted.opening else "what was trained elsewhere is trained"
        raise ApiError(422, f"{what}: it cannot begin at {'a' if anew == 'base' else 'the'} base anew", param=anew)
    return wanted


def _moves_to(services: Services, domain: dict[str, Any], name: str) -> str:
    """The model of the base to which the domain may move. Raises ApiError 422 saying why it cannot."""
    with postgres_trouble(), services.database.connect() as connection:
        base = the_base(connection, name, "base")
    if base["model"] == domain["base_model"]:
        raise ApiError(422, f"{name} is the domain's base already; `from_base` trains from it anew", param="base")
    check_served(base, domain["engine"], "base")
    if not lies_here(base["model"], services):
        message = f"the files of {name} are not on the disk any more; `noria base add` makes them again"
        raise ApiError(422, message, param="base", code="base_removed")
    return str(base["model"])


def _say(services: Services, event: DomainEvent, correlation_id: str) -> Response:
    id_ = uuid4()
    (position,) = say(services, [(id_, event)], correlation_id)
    return reply({"event_id": str(id_), "position": str(position)}, 202)


def _wanted_domain(services: Services) -> str | None:
    """The domain that the query names, if it names one. Raises ApiError 404 when there is none of that name."""
    said = request.args.get("domain")
    return str(domain_row(services, check_domain(said))["domain"]) if said is not None else None


def the_round(services: Services, round_id: str) -> dict[str, Any]:
    """Its row. Raises ApiError 404 where there is none that the caller sees."""
    with postgres_trouble(), services.database.connect() as connection:
        row = (
            connection.execute(select(schema.rounds).where(schema.rounds.c.round_id == round_id))
            .mappings()
            .one_or_none()
        )
    if row is None or not caller().sees(row["domain"]):
        raise ApiError(404, "there is no such round", param="round_id", code="round_not_found")
    return dict(row)


def _check_rebuildable(connection: Connection, found: dict[str, Any]) -> None:
    """Raises ApiError 409, if what the round made cannot be made again, or need not be."""
    domain, number = found["domain"], found["number"]
    if found["ended_at"] is None:
        raise ApiError(409, f"round {number} is under way ({found['step']})", code="round_under_way")
    table = schema.rounds.c
    under_way = table.rebuild["outcome"].astext == "under_way"
    busy = connection.execute(select(table.number).where(table.domain == domain, under_way)).scalars().first()
    if busy is not None:
        raise ApiError(409, f"round {busy} is being made again", code="rebuild_under_way")
    if found["model"] is None:
        raise ApiError(409, f"round {number} made no candidate ({found['step']})", code="no_candidate")
    base = found["base_release"]
    releases = schema.releases.c
    state = connection.execute(
        select(releases.state).where(releases.domain == domain, releases.release == base)
    ).scalar_one_or_none()
    if state in (None, "removed"):
        message = f"round {number} trained from {domain}@{base}, whose model was removed, too"
        raise ApiError(409, message + _made_again_by(connection, domain, base), code="base_removed")


def _made_again_by(connection: Connection, domain: str, release: int) -> str:
    """What is to be called, so that a removed release is there again; empty for one that no round here has made."""
    table = schema.rounds.c
    made_it = select(table.number).where(table.domain == domain, table.release == release, table.step == "released")
    number = connection.execute(made_it).scalars().first()
    return f"; `noria round rebuild {number} --domain {domain}` makes it again" if number is not None else ""


def _requested(services: Services, found: dict[str, Any]) -> RoundRequested:
    """As what the round began, as the log says. Raises ApiError 409 where it does not."""
    events = schema.events.c
    requested = select(events.topic, events.partition, events.offset).where(
        events.domain == found["domain"],
        events.time == found["requested_at"],
        events.type == "round_requested",
        events.correlation_id == found["round_id"],
    )
    with postgres_trouble(), services.database.connect() as connection:
        row = connection.execute(requested).first()
    if row is not None:
        for record in services.recorder.log.read(row.topic, row.partition, row.offset, row.offset + 1):
            event = read_event(record.topic, record.key, record.value).event
            if isinstance(event, RoundRequested):
                return event
    raise ApiError(409, "the log does not say by which recipe the round trained", code="recipe_unknown")


def round_rows(connection: Connection, domains: Set[str] | None, limit: int) -> list[dict[str, Any]]:
    """Rounds of those domains, or of all, the newest first."""
    table = schema.rounds
    found = select(table).order_by(table.c.requested_at.desc(), table.c.number.desc()).limit(limit)
    if domains is not None:
        found = found.where(table.c.domain.in_(domains))
    return [_shown(dict(row)) for row in connection.execute(found).mappings()]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A round as clients see it: with words in English beside codes and values."""
    verdict = row["verdict"]
    more = {"verdict": verdict | {"words": verdict_words(verdict)}} if verdict is not None else {}
    if row["rebuild"] is not None:
        more["rebuild"] = row["rebuild"] | {"differences": _otherwise(row)}
    return row | {"reasons": with_words(row["reasons"])} | more


def _otherwise(row: dict[str, Any]) -> list[dict[str, Any]] | None:
    """With what else it was made again; None where that is not known of both times."""
    before, after = ((row[name] or {}).get("made_with") for name in ("training", "rebuild"))
    if before is None or after is None:
        return None
    found: list[dict[str, Any]] = msgspec.to_builtins(
        differences(msgspec.convert(before, MadeWith), msgspec.convert(after, MadeWith))
    )
    return found


def release_rows(connection: Connection, domains: Set[str] | None, limit: int | None = None) -> list[dict[str, Any]]:
    """Releases of those domains, or of all, in order; the newest so many."""
    table = schema.releases
    found = select(table).order_by(table.c.domain.desc(), table.c.release.desc()).limit(limit)
    if domains is not None:
        found = found.where(table.c.domain.in_(domains))
    return [dict(row) for row in connection.execute(found).mappings()][::-1]
