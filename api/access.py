"""Who may call what: the bearer key of a request, the role that a view asks for, the person and the domains that are its own."""

import functools
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from flask import g, request

from api.errors import ApiError
from api.guessing import WrongKeys
from api.keys import ONCE, ApiKeys, Caller
from streams.envelope import SERVICES
from streams.errors import Unavailable

SOURCE = "/noria/api"
P = ParamSpec("P")
R = TypeVar("R")

BEGINS_A_SESSION = "grants.open_session"  # the one view that a one-time token opens
_WORDS = {
    "unknown": "the key is not known here",
    "revoked": "the key has been revoked",
    "expired": "the key has expired",
}
_CODES = {"unknown": "invalid_api_key", "revoked": "revoked_api_key", "expired": "expired_api_key"}


def bearer_token(header: str) -> str:
    """What an Authorization header carries; empty for none, or another scheme."""
    scheme, _, said = header.partition(" ")
    return said.strip() if scheme.lower() == "bearer" else ""


def authenticate(keys: ApiKeys, wrong: WrongKeys, only_looks: bool = False) -> None:
    """Find out whose key the request carries, for `caller`; `only_looks`: what works once still does. Raises ApiError 401, 429 for
    who tries many, or 503 when keys cannot be looked up."""
    token = bearer_token(request.headers.get("Authorization", ""))
    if not token:
        raise ApiError(401, "a key is needed: Authorization: Bearer <key>", code="missing_api_key")
    address = request.remote_addr
    known = keys.remembers(token)  # who has a right key is not slowed down by a neighbour who has none
    wait_s = 0.0 if known else wrong.take(address)
    if wait_s:
        message = "too many wrong keys came from this address"
        raise ApiError(429, message, code="too_many_wrong_keys", retry_after_s=math.ceil(wait_s))
    try:
        works_once = token.startswith(ONCE) and request.endpoint == BEGINS_A_SESSION
        found = keys.redeem(token, only_looks) if works_once else keys.caller(token)
    except Unavailable:
        if not known:
            wrong.give_back(address)  # nobody knows that it is wrong
        raise ApiError(503, "keys cannot be looked up at present", retry_after_s=2) from None
    if isinstance(found, str):
        raise ApiError(401, _WORDS[found], code=_CODES[found])
    if not known:
        wrong.give_back(address)
    g.caller = found
    g.token = token


def caller() -> Caller:
    return cast(Caller, g.caller)


def token() -> str:
    """What the request carries."""
    return cast(str, g.token)


def source_of(who: Caller) -> str:
    """What an event says of where it comes from: the door, and the key that acted there, as its own person or as a service."""
    return f"{SERVICES}{who.key_id}" if who.speaks_as is None else f"{SOURCE}/keys/{who.key_id}"


def check_domains() -> None:
    """What a path or query names must be the key's own. Raises ApiError 404, as for a domain that is not there."""
    named = [*request.args.getlist("domain"), (request.view_args or {}).get("domain")]
    if not all(caller().sees(domain) for domain in named if domain is not None):
        raise no_such_domain()


def no_such_domain(param: str = "domain", code: str = "domain_not_found") -> ApiError:
    return ApiError(404, "there is no such domain", param=param, code=code)


def domains_asked(named: str | None) -> frozenset[str] | None:
    """The domains that an answer is about: the named one, else the key's own. None: every one."""
    return frozenset({named}) if named is not None else caller().domains


def check_speaker(person: str, param: str = "user") -> None:
    """Raises ApiError 403 unless the request may speak as `person`."""
    own = caller().speaks_as
    if own is not None and person != own:
        message = "this key speaks as its own person only; a service's key (noria key create --service) names others"
        raise ApiError(403, message, param=param, code="another_person")


def needs(*roles: str, every_domain: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The view behind this is for keys with one of `roles`, or with one that may do what it may. `every_domain`: what it shows or
    does is not of one domain."""

    def wrap(view: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if not any(map(caller().may, roles)):
                raise ApiError(403, f"this needs a key with the role {' or '.join(roles)}", code="role_missing")
            if every_domain and caller().domains is not None:
                raise ApiError(403, "this needs a key that is made for every domain", code="domains_missing")
            return view(*args, **kwargs)

        return guarded

    return wrap
