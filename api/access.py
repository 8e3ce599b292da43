"""Who may call what: the bearer key of a request, and the role that a view asks for."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from flask import g, request

from api.errors import ApiError
from api.keys import ApiKeys, Caller
from streams.errors import Unavailable

P = ParamSpec("P")
R = TypeVar("R")


def authenticate(keys: ApiKeys) -> None:
    """Find out whose key the request carries, for `caller`. Raises ApiError 401, or 503 when keys cannot be looked up."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ApiError(401, "a key is needed: Authorization: Bearer <key>", code="missing_api_key")
    try:
        found = keys.caller(token.strip())
    except Unavailable:
        raise ApiError(503, "keys cannot be looked up at present", retry_after_s=2) from None
    if found is None:
        raise ApiError(401, "the key is not known here", code="invalid_api_key")
    g.caller = found


def caller() -> Caller:
    return cast(Caller, g.caller)


def needs(role: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The view behind this is for keys with `role`, or one above it."""

    def wrap(view: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if not caller().may(role):
                raise ApiError(403, f"this needs a key with the role {role}", code="role_missing")
            return view(*args, **kwargs)

        return guarded

    return wrap
