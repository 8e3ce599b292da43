"""Plain data from elsewhere as typed structs; what does not fit is named by its field, and never repeated."""

import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")


class Misshapen(Exception):
    """`message` says what was expected, `path` where: `a.b[2]`, or empty for the whole."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


def unknown(body: Any, found: Any, path: str = "") -> str | None:
    """The path of a field of `body` that `found`, which was made of it, has no place for; None: there is none."""
    if isinstance(body, list) and isinstance(found, tuple):
        within = (
            unknown(one, made, f"{path}[{number}]") for number, (one, made) in enumerate(zip(body, found, strict=False))
        )
        return next((place for place in within if place is not None), None)
    if not isinstance(body, dict) or not isinstance(found, msgspec.Struct):
        return None
    for name, value in body.items():
        here = f"{path}.{name}" if path else str(name)
        if name == found.__struct_config__.tag_field:
            continue
        if name not in found.__struct_fields__:
            return here
        if (place := unknown(value, getattr(found, name), here)) is not None:
            return place
    return None


def shaped(body: Any, kind: type[T]) -> T:
    """`body` as `kind`. Raises Misshapen."""
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        at = _AT.search(message)
        path = at["path"] if at else ""
        named = _UNKNOWN.search(message) or _MISSING.search(message)
        if named:
            path = f"{path}.{named['name']}" if path else named["name"]
        raise Misshapen(_AT.sub("", message), path) from None
