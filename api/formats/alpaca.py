"""Alpaca's rows (Taori et al. 2023) with LLaMA-Factory's `system` and `history`. Pure."""

from typing import Any

import msgspec

from api.items import Example, ItemFault

NAME = "alpaca"
FIELDS = ("instruction", "input", "output", "system", "history")
COLUMNS = frozenset(FIELDS)


def holds(row: dict[str, Any]) -> bool:
    return "output" in row and ("instruction" in row or "input" in row) and "kto_tag" not in row


def read(row: dict[str, Any]) -> dict[str, Any]:
    """A cell of a table holds the history as JSON, or nothing."""
    history = row.get("history")
    if not isinstance(history, str):
        return row
    try:
        return row | {"history": msgspec.json.decode(history) if history.strip() else None}
    except (msgspec.DecodeError, RecursionError):
        raise ItemFault("it must be a JSON list of pairs", "history") from None


def row_of(item: Example) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(item)
    return {name: found[name] for name in FIELDS}
