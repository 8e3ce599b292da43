"""What the rows of a file mean: `SHAPES`, a row for each format, the first that a row fits being its own. Pure."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from msgspec import Struct

from api.formats import alpaca, label_studio, openai, sharegpt
from api.formats.sources import Row, Source
from api.items import Example, ItemFault, Read, read_example
from streams.errors import Invalid

LOOKED_AT = 100  # rows, to tell a format by


class Shape(Struct, frozen=True):
    """`columns`: those that it reads. `read`: a row in Alpaca's fields; raises ItemFault."""

    name: str
    columns: frozenset[str]
    holds: Callable[[dict[str, Any]], bool]
    read: Callable[[dict[str, Any]], dict[str, Any]]


SHAPES = tuple(
    Shape(room.NAME, room.COLUMNS, room.holds, room.read) for room in (label_studio, sharegpt, openai, alpaca)
)
NAMES = tuple(shape.name for shape in SHAPES)
_ALPACA = SHAPES[-1]


def shape_of(rows: Iterable[Row], columns: Mapping[str, str]) -> Shape:
    """The format of the first row that is of one; where none is, what is wrong with the rows is said in Alpaca's words. Raises
    Invalid where they say what people prefer."""
    for row in islice(rows, LOOKED_AT):
        value = renamed(row.value, columns)
        if not isinstance(value, dict):
            continue
        if any(value.get(name) is not None for name in ("chosen", "rejected", "kto_tag")) or (
            "completion" in value and "label" in value
        ):
            raise Invalid("it says what people prefer: `noria preferences import` reads it")
        for shape in SHAPES:
            if shape.holds(value):
                return shape
    return _ALPACA


def named(name: str) -> Shape:
    return next(shape for shape in SHAPES if shape.name == name)


def reader(shape: Shape, columns: Mapping[str, str]) -> Callable[[Any], Read[Example]]:
    """What reads one row of that format. `columns`: the file's names of columns that are others, and ours."""

    def read(raw: Any) -> Read[Example]:
        row = renamed(raw, columns)
        if not isinstance(row, dict):
            raise ItemFault("it must be a JSON object")
        item = read_example(shape.read(row)).item
        return Read(item, tuple(name for name in row if name not in shape.columns and row[name] is not None))

    return read


def renamed(row: Any, columns: Mapping[str, str]) -> Any:
    return {columns.get(name, name): value for name, value in row.items()} if isinstance(row, dict) else row


def columns_of(source: Source, given: Mapping[str, str]) -> dict[str, str]:
    """A person's word on the columns counts before the file's own."""
    return {**{theirs: ours for theirs, ours in source.columns.items() if ours not in given.values()}, **given}
