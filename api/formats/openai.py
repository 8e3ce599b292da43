"""OpenAI's messages, as its fine-tuning reads them: `role` and `content`. What is no text is refused by its name. Pure."""

from typing import Any

from api.formats.turns import from_turns, spoken
from api.items import Example, ItemFault

NAME = "openai"
COLUMNS = frozenset({"messages", "conversations", "system"})
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Of a row, and of a message.
_NO_TEXT = ("tools", "functions", "tool_calls", "function_call", "audio", "refusal")


def holds(row: dict[str, Any]) -> bool:
    return any(isinstance(turn, dict) and "role" in turn for turn in _turns(row)[1][:1])


def read(row: dict[str, Any]) -> dict[str, Any]:
    _refuse_no_text(row, "")
    at, turns = _turns(row)
    found = []
    for number, turn in enumerate(turns):
        here = f"{at}[{number}]"
        if not isinstance(turn, dict):
            raise ItemFault("it must say `role` and `content`", here)
        _refuse_no_text(turn, f"{here}.")
        role = turn.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise ItemFault("it must be one of system, developer, user and assistant", f"{here}.role")
        found.append((ROLES[role], _words(turn.get("content"), f"{here}.content")))
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        found.insert(0, ("system", system))
    return from_turns(found, at)


def row_of(item: Example) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": words} for role, words in spoken(item)]}


def _words(content: Any, at: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ItemFault("it must be a text", at)
    found = []
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ItemFault("it is no text", f"{at}[{number}]")
        found.append(part["text"])
    return "".join(found)


def _refuse_no_text(said: dict[str, Any], at: str) -> None:
    for name in _NO_TEXT:
        if said.get(name):
            raise ItemFault("it is no text, and only text is learned", f"{at}{name}")


def _turns(row: dict[str, Any]) -> tuple[str, list[Any]]:
    at = "messages" if row.get("messages") is not None else "conversations"
    turns = row.get(at)
    return at, turns if isinstance(turns, list) else []
