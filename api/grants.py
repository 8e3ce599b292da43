"""Keys over HTTP: made, listed and revoked; who the caller is; and what the page's visitors hold in the place of a key."""

import re

import msgspec
from flask import Blueprint, Response
from msgspec import Struct

from api.access import caller, needs, token
from api.errors import ApiError
from api.keys import LOCAL, ROLES, create_key, key_rows, person_of, revoke_keys, speaks_already
from api.known import domain_row
from api.services import Services
from api.sessions import begin_session, end_session, make_link
from api.wire import check_domain, check_person, read_object, reply, typed

SHORTEST_S = 60
LONGEST_S = 10 * 366 * 86400
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KEY_ID = re.compile(r"[0-9a-f]{32}")


class _NewKey(Struct, forbid_unknown_fields=True):
    """`service`: a chat key that names the person that each request speaks for. `domains` left out: every one."""

    name: str
    role: str = "chat"
    service: bool = False
    person: str | None = None
    domains: list[str] | None = None
    expires_in_s: int | None = None


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("grants", __name__)

    @views.get("/v1/me")
    @needs("chat", "annotator")
    def show_caller() -> Response:
        who = caller()
        return reply(
            {
                "name": who.name,
                "role": who.role,
                "person": who.person,
                "names_persons": who.speaks_as is None,
                "domains": sorted(who.domains) if who.domains is not None else None,
            }
        )

    @views.get("/v1/keys")
    @needs("operator", every_domain=True)
    def list_keys() -> Response:
        return reply({"data": key_rows(services.database)})

    @views.post("/v1/keys")
    @needs("operator", every_domain=True)
    def make_key() -> Response:
        _check_no_session()
        wanted = typed(read_object(), _NewKey)
        person = check_new_key(wanted)
        for domain in wanted.domains or ():
            domain_row(services, check_domain(domain, "domains"))
        if wanted.person is None and person is not None and speaks_already(services.database, person):
            message = (
                "a key of that name holds, and two would read each other's corrections: revoke it, or say --person"
            )
            raise ApiError(409, message, param="name", code="name_taken")
        made = create_key(
            services.database,
            wanted.name,
            wanted.role,
            person=person,
            domains=wanted.domains,
            expires_in_s=wanted.expires_in_s,
        )
        (row,) = key_rows(services.database, made)
        return reply(msgspec.to_builtins(row, builtin_types=()) | {"key": made}, 201)

    @views.post("/v1/keys/<named>/revoke")
    @needs("operator", every_domain=True)
    def revoke_key(named: str) -> Response:
        revoked = revoke_keys(services.database, named)
        for key_id in revoked:
            services.keys.forget(key_id)  # the other doors hear of it from PostgreSQL
        if not revoked:
            raise ApiError(404, "no key of that name or id holds", param="key", code="key_not_found")
        return reply({"revoked": revoked})

    @views.post("/v1/sessions")
    @needs("chat", "annotator")
    def open_session() -> Response:
        _check_no_session()
        return reply(begin_session(services.database, caller().key_id), 201)

    @views.post("/v1/sessions/link")
    @needs("chat", "annotator")
    def open_link() -> Response:
        _check_no_session()
        return reply(make_link(services.database, caller().key_id), 201)

    @views.post("/v1/sessions/end")
    @needs("chat", "annotator")
    def close_session() -> Response:
        if not caller().session:
            raise ApiError(403, "that is a key and no session; a key is revoked", code="no_session")
        end_session(services.database, token())
        services.keys.forget(caller().key_id)
        return reply({"ended": True})

    return views


def check_new_key(wanted: _NewKey) -> str | None:
    """Whom the key is to speak as; None: whoever each request names. Raises ApiError naming the field."""
    if not _NAME.fullmatch(wanted.name) or _KEY_ID.fullmatch(wanted.name):
        raise ApiError(400, "name must be 1 to 64 of A-Z, a-z, 0-9 and . _ @ -, and no key's id", param="name")
    if wanted.name == LOCAL:
        raise ApiError(422, f"{LOCAL} is the name of the key that this machine makes for itself", param="name")
    if wanted.role not in ROLES:
        raise ApiError(400, f"role must be one of {', '.join(ROLES)}", param="role")
    if wanted.domains == []:
        raise ApiError(400, "domains must name one, or be left out for all", param="domains")
    seconds = wanted.expires_in_s
    if seconds is not None and not SHORTEST_S <= seconds <= LONGEST_S:
        raise ApiError(400, f"expires_in_s must be from {SHORTEST_S} to {LONGEST_S}", param="expires_in_s")
    if wanted.service and wanted.role != "chat":
        raise ApiError(400, "a service's key has the role chat", param="service")
    if wanted.service and wanted.person is not None:
        raise ApiError(400, "a service's key names the person with each request", param="person")
    if wanted.person is not None:
        return check_person(wanted.person, "person")
    return None if wanted.service or wanted.role == "operator" else person_of(wanted.name)


def _check_no_session() -> None:
    """What a browser holds must not become what lasts longer. Raises ApiError 403."""
    if caller().session:
        raise ApiError(403, "this needs a key; a session of the page makes none", code="session")
