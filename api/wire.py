"""Request bodies in, JSON out: typed, strict, and naming the field that was wrong."""

import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from flask import Response, request

from api.errors import ApiError
from api.shapes import Misshapen, shaped
from streams.log import Position

T = TypeVar("T")

DATASET_BODY_BYTES = 4 * 1024 * 1024
_DOMAIN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CONVERSATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_POSITION = re.compile(r"(noria\.[a-z_]+)-(\d{1,9})@(\d{1,18})")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\\u0000")
_NAME_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029/\\]")


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    response = Response(msgspec.json.encode(body), status, content_type="application/json")
    for name, value in (headers or {}).items():
        response.headers[name] = value
    return response


def read_json() -> Any:
    """The request's body as plain data; a byte order mark is passed over. Broken UTF-8, broken JSON and half a surrogate pair are
    refused."""
    raw = request.get_data(cache=True).removeprefix(BOM_UTF8)
    if not raw:
        raise ApiError(400, "the body is empty; it must be JSON")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 (byte {error.start})", code="invalid_utf8") from None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "the body is not JSON", code="invalid_json") from None


def read_object() -> dict[str, Any]:
    body = read_json()
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    return body


def typed(body: Any, kind: type[T], within: str = "") -> T:
    """`body` as `kind`, or 400 naming the field."""
    try:
        return shaped(body, kind)
    except RecursionError:
        raise ApiError(400, "the body is nested too deep", code="invalid_json") from None
    except Misshapen as error:
        param = ".".join(part for part in (within, error.path) if part).replace(".[", "[") or None
        raise ApiError(400, f"{param}: {error.message}" if param else error.message, param=param) from None


def no_control_characters(words: str, param: str) -> str:
    """Words that stand in clear in tables: no control characters, which Postgres and screens choke on."""
    if _CONTROL.search(words):
        raise ApiError(400, f"{param} holds a control character", param=param)
    return words


def check_person(person: str, param: str = "user") -> str:
    if not 1 <= len(person) <= 128 or _NAME_CONTROL.search(person) or person != person.strip():
        raise ApiError(
            400,
            f"{param} must be 1 to 128 characters, without slashes, control characters or blanks around it",
            param=param,
        )
    return person


def check_domain(domain: str, param: str = "domain") -> str:
    if not _DOMAIN.fullmatch(domain):
        raise ApiError(400, f"{param} must be 1 to 63 of a-z, 0-9 and -, and not begin with -", param=param)
    return domain


def check_conversation(conversation_id: str, param: str) -> str:
    if not _CONVERSATION.fullmatch(conversation_id):
        raise ApiError(400, f"{param} must be 1 to 64 of A-Z, a-z, 0-9 and . _ : -", param=param)
    return conversation_id


def parse_position(text: str, param: str = "after") -> Position:
    found = _POSITION.fullmatch(text)
    if found is None:
        raise ApiError(400, f"{param} must be a position, topic-partition@offset", param=param)
    return Position(found[1], int(found[2]), int(found[3]))


def whole_argument(name: str, default: int, lowest: int, highest: int) -> int:
    """A whole number of the query string, within bounds."""
    said = request.args.get(name)
    if said is None:
        return default
    if not re.fullmatch(r"\d{1,19}", said) or not lowest <= int(said) <= highest:
        raise ApiError(400, f"{name} must be a whole number from {lowest} to {highest}", param=name)
    return int(said)
