"""Examples that ask the same and are answered otherwise. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from api.formats.turns import messages_of
from api.items import Example
from streams.alike import by_question, words_of

Json = Mapping[str, Any]


def contradictions(given: Iterable[tuple[Example, Json]]) -> list[list[tuple[Example, Json]]]:
    """Those of a group ask the same after the same conversation, by the rule by which a round settles them
    (`streams.alike`), and have answers that differ in more than case, width and punctuation. Each comes with whatever it was
    given with."""
    groups = by_question(given, lambda one: _asked(one[0]))
    return [group for group in groups if len({words_of(item.output) for item, _ in group}) > 1]


def _asked(item: Example) -> tuple[str, str]:
    *before, prompt = messages_of(item)
    return prompt["content"], "\n".join(f"{turn['role']}: {turn['content']}" for turn in before)
