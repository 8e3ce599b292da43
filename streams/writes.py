"""What an event does to rows, as data: a projector says it, the store carries it out. Pure."""

from typing import Any

import msgspec
from msgspec import Struct

Row = dict[str, Any]


class Insert(Struct, frozen=True):
    """A new row, whole. A row with the same key stays as it is."""

    table: str
    row: Row


class Update(Struct, frozen=True):
    """Columns of the row that `key` names."""

    table: str
    key: Row
    row: Row


class Retire(Struct, frozen=True):
    """Every row that `where` names (one or many; of a list, what holds all of that) is retired, unless it already was. `more`:
    further columns of it that say how."""

    table: str
    where: Row
    offset: int
    reason: str
    more: Row = {}


class Change(Struct, frozen=True):
    """Columns of every row that `where` names (one or many)."""

    table: str
    where: Row
    row: Row


class Count(Struct, frozen=True):
    """One more in the column `number` of the row that `key` names."""

    table: str
    key: Row


class Delete(Struct, frozen=True):
    """Every row that `where` names is gone, or of those the ones that stand before an offset."""

    table: str
    where: Row
    before_offset: int | None = None


Write = Insert | Update | Change | Retire | Count | Delete


def columns(event: Struct, *names: str) -> Row:
    """Those fields of an event, as columns hold them."""
    row = {name: getattr(event, name) for name in names}
    return {name: value if type(value) is str else msgspec.to_builtins(value) for name, value in row.items()}
