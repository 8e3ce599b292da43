"""The step `mixing`: which general prompts a training mixes in. How many of them a step takes the training says itself
(`workers.trainer.plan`), by the tokens of its rows, other wordings and passages among them."""

import hashlib
from collections.abc import Iterator, Sequence

from streams.orders import SelectSnapshot
from streams.selection import Mixing, mixed
from streams.snapshots import Line
from workers.context import Context
from workers.models.chat_tokens import ChatTokens
from workers.selector.candidates import Decision, Instruments, OpenExample
from workers.selector.length import TOO_LONG
from workers.trainer.general import chosen_prompts, general_prompts
from workers.trainer.rows import control_texts, prompt_ids
from workers.trainer.spec import TrainingRow


def judge(step: Mixing, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]:
    """It keeps back no example."""
    return [Decision(one.example_id, True) for one in candidates]


def general_lines(order: SelectSnapshot, context: Context) -> Iterator[Line]:
    """One for each general prompt that the training draws from, if any are mixed in. `number`: its tokens, with as many of an
    answer as the recipe asks of the base."""
    recipe = order.recipe
    if recipe is None or order.base_model is None or not mixed(order.selection, recipe):
        return
    tokens = ChatTokens(context.artifacts.path(order.base_model))
    controls, limit = control_texts(tokens), recipe.row_tokens - recipe.replay_answer_tokens
    for prompt in chosen_prompts(order.replay_prompts or general_prompts(), recipe):
        name = f"general-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"
        ids = prompt_ids(tokens, TrainingRow(prompt=prompt, answer=""), controls, limit)
        if ids is None:
            yield Line(name, "general", False, "mixing", reason=TOO_LONG)
        else:
            yield Line(name, "general", True, "mixing", len(ids) + recipe.replay_answer_tokens)
