"""Which JSON schemas an answer can be held to: those whose every word an engine follows. What it would pass over is refused."""

from typing import Any

import msgspec

from api.errors import ApiError

HIGHEST_BYTES = 16 * 1024
HIGHEST_DEPTH = 16
_SAYS_NOTHING = frozenset(
    {"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly"}
)
_FOLLOWED = frozenset(
    {
        *("type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems"),
        *("minItems", "maxItems", "minLength", "maxLength", "format", "anyOf", "$ref", "$defs", "definitions"),
    }
)
_OF_WHOLE_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_FORMATS = ("date", "time", "date-time", "uuid")
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
_SCHEMAS = ("properties", "$defs", "definitions")  # each of their values is a schema
_LISTS = ("anyOf", "prefixItems")


def check_schema(schema: Any, param: str) -> None:
    """Raises ApiError 400 naming the part that no answer can be held to."""
    if not isinstance(schema, dict):
        raise ApiError(400, f"{param} must be a JSON schema, an object", param=param)
    try:
        encoded = msgspec.json.encode(schema)
    except RecursionError:
        raise ApiError(400, f"{param} is nested too deep", param=param) from None
    if len(encoded) > HIGHEST_BYTES:
        raise ApiError(400, f"{param} is longer than {HIGHEST_BYTES} bytes", param=param)
    _check(schema, param, 0)


def _check(schema: Any, param: str, depth: int) -> None:
    if depth > HIGHEST_DEPTH:
        raise ApiError(400, f"a JSON schema may be nested {HIGHEST_DEPTH} deep", param=param)
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise ApiError(400, f"{param} must be a JSON schema, an object", param=param)
    types = schema.get("type", [])
    if any(not isinstance(name, str) or name not in _TYPES for name in (types if isinstance(types, list) else [types])):
        raise ApiError(400, f"{param}.type must be one of {', '.join(sorted(_TYPES))}", param=f"{param}.type")
    followed = _FOLLOWED | (_OF_WHOLE_NUMBERS if types == "integer" else frozenset())
    for word, value in schema.items():
        place = f"{param}.{word}"
        if word in _SAYS_NOTHING:
            continue
        if word not in followed:
            raise ApiError(400, f"an answer cannot be held to {word} of a JSON schema", param=place)
        if word == "format" and value not in _FORMATS:
            raise ApiError(400, f"format must be one of {', '.join(_FORMATS)}", param=place)
        if word == "$ref" and not (isinstance(value, str) and value.startswith("#/")):
            raise ApiError(400, "a $ref must be to a place in the same schema (#/...)", param=place)
        if word in _SCHEMAS and isinstance(value, dict):
            for name, inner in value.items():
                _check(inner, f"{place}.{name}", depth + 1)
        elif word in _LISTS and isinstance(value, list):
            for number, inner in enumerate(value):
                _check(inner, f"{place}[{number}]", depth + 1)
        elif word in ("items", "additionalProperties"):
            _check(value, place, depth + 1)
