"""An example as the messages of a conversation, and back. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from api.items import Example, ItemFault
from streams.turns import pairs_of, turns_of

Turn = tuple[str, str]  # (role, words): system, user, assistant


def messages_of(item: Example) -> list[dict[str, str]]:
    """The messages up to and with the prompt. Instruction and input become one prompt, the input on its own line."""
    found = [{"role": "system", "content": item.system}] if item.system.strip() else []
    found += [{"role": role, "content": words} for role, words in turns_of(item.history)]
    prompt = "\n".join(words for words in (item.instruction, item.input) if words.strip())
    return [*found, {"role": "user", "content": prompt}]


def to_alpaca(messages: Sequence[Mapping[str, str]], answer: str) -> dict[str, Any]:
    """The way back; what was instruction and input comes back as instruction."""
    turns = [(m["role"], m["content"]) for m in messages[:-1]]
    return {
        "instruction": messages[-1]["content"],
        "input": "",
        "output": answer,
        "system": "\n".join(words for role, words in turns if role == "system"),
        "history": pairs_of(turn for turn in turns if turn[0] != "system"),
    }


def spoken(item: Example) -> list[Turn]:
    """All of a conversation's turns, the answer being the last."""
    return [*((message["role"], message["content"]) for message in messages_of(item)), ("assistant", item.output)]


def from_turns(turns: Iterable[Turn], at: str) -> dict[str, Any]:
    """In Alpaca's fields, of a conversation that stands in the column `at`: its last answer is what is learned, and what was said
    before is its history. Raises ItemFault."""
    said = list(turns)
    for number, (role, words) in enumerate(said):
        if not words.strip():
            raise ItemFault("it says nothing", f"{at}[{number}]")
        if role == "system" and number:
            raise ItemFault("the system's words must come first", f"{at}[{number}]")
    if not said or said[-1][0] != "assistant":
        raise ItemFault("its last turn must be the assistant's", at)
    if len(said) < 2 or said[-2][0] != "user":
        raise ItemFault("the turn before its last must be the person's", at)
    return to_alpaca([{"role": role, "content": words} for role, words in said[:-1]], said[-1][1])
