"""ShareGPT's rows: `conversations` of turns with `from` and `value`, in the ways that its data sets name who speaks. Pure."""

from typing import Any

from api.formats.turns import from_turns, spoken
from api.items import Example, ItemFault

NAME = "sharegpt"
COLUMNS = frozenset({"conversations", "messages", "system"})
ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "bing", "model", "bot"), "assistant"),
    "system": "system",
}
_NAMES = {"user": "human", "assistant": "gpt", "system": "system"}


def holds(row: dict[str, Any]) -> bool:
    return any(isinstance(turn, dict) and "from" in turn for turn in _turns(row)[1][:1])


def read(row: dict[str, Any]) -> dict[str, Any]:
    at, turns = _turns(row)
    if row.get("tools"):
        raise ItemFault("tools are no text", "tools")
    found = []
    for number, turn in enumerate(turns):
        here = f"{at}[{number}]"
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("from"), str)
            or not isinstance(turn.get("value"), str)
        ):
            raise ItemFault("it must say `from` and `value`, each a text", here)
        role = ROLES.get(turn["from"].strip().lower())
        if role is None:
            raise ItemFault("what it says is neither a person's, the assistant's nor the system's", f"{here}.from")
        found.append((role, turn["value"]))
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        found.insert(0, ("system", system))
    return from_turns(found, at)


def row_of(item: Example) -> dict[str, Any]:
    turns = [{"from": _NAMES[role], "value": words} for role, words in spoken(item) if role != "system"]
    return {"conversations": turns, "system": item.system}


def _turns(row: dict[str, Any]) -> tuple[str, list[Any]]:
    at = "conversations" if row.get("conversations") is not None else "messages"
    turns = row.get(at)
    return at, turns if isinstance(turns, list) else []
