"""What a client is told when a request is refused: one exception, OpenAI's error shape."""

import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from streams.errors import Behind, Invalid, LoginRefused, LogUnavailable, Unacknowledged, Unavailable
from streams.log import LostHistory
from streams.sqlstate import meaning_of, words_of

logger = logging.getLogger(__name__)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    410: "gone_error",
    413: "request_too_large_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "unavailable_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """A refusal. `message` never repeats what a person wrote; `param` names the field that was wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        if self.retry_after_s is not None:
            found["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found

    @property
    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def refusal_of(error: BaseException) -> ApiError:
    """What a client is told of any error. The one place where errors become answers; what nobody foresaw is logged."""
    match error:
        case ApiError():
            return error
        case Invalid():
            return ApiError(422, str(error))
        case LostHistory():
            return ApiError(503, f"nothing was recorded: {error}", code="log_lost", retry_after_s=30)
        case Unacknowledged():
            message = (
                "the log did not say in time that it has it: whether it was recorded is not known; what is sent again under the"
                " same Idempotency-Key counts once"
            )
            return ApiError(503, message, code="unacknowledged", retry_after_s=2)
        case LoginRefused():
            message = "the log refused the door's login; nothing was recorded"
            return ApiError(503, message, code="unavailable", retry_after_s=30)
        case Behind():
            return ApiError(503, str(error), code="unavailable", retry_after_s=2)
        case LogUnavailable():
            return ApiError(503, "the log does not answer; nothing was recorded", code="unavailable", retry_after_s=2)
    cause = error.__cause__ if isinstance(error, Unavailable) and error.__cause__ is not None else error
    if isinstance(error, Unavailable) or meaning_of(cause) == "unavailable":
        why = f": {words_of(cause)}" if meaning_of(cause) == "unavailable" else ""
        return ApiError(503, f"a part of noria does not answer{why}", code="unavailable", retry_after_s=2)
    error_id = uuid4().hex[:12]
    # Where it happened, never what was said: a message or a local may hold somebody's words.
    places = " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)[-12:])
    )
    logger.error("error %s: %s at %s", error_id, type(error).__name__, places)
    return ApiError(500, f"something went wrong here (error {error_id})", code="internal_error")
