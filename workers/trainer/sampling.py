"""Answers drawn from a model as it stands in a training, many at once: what reinforcement learning learns from.

Not by the engine that serves. It takes an adapter at its start alone (a file, and a new start, for every step), and what it draws
depends on which answers happen to be drawn beside it, so that a training that is taken up again would end in other bytes. In
batches, in bf16, with the weights that are there, it is quicker as well (`deploy/training.md` has the figures).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from workers.trainer.loaded import LoadedModel
from workers.trainer.rows import common_start

ROWS_AT_ONCE = 128  # whose keys and values are in memory together
STILL_SAID = 0.75  # of the rows of a batch: when fewer go on, the others are left out of it


@torch.no_grad()
def sample_answers(
    model: LoadedModel, prompts: Sequence[tuple[int, ...]], tokens: int, temperature: float, end: int, seed: int
) -> list[tuple[int, ...]]:
    """Of each prompt an answer of at most `tokens`, drawn from the model's probabilities at `temperature`; its end mark `end` is
    part of it, where it came to that. Chance is in `seed` alone, a number of its own for every token of every answer.

    What all prompts begin with is computed once. `model` must run as transformers runs it (see `PackedModel.use_packs`).
    """
    chances = torch.rand(len(prompts), tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    answers: list[tuple[int, ...]] = []
    for first in range(0, len(prompts), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        answers += _batch(model, prompts[rows], chances[rows].to(model.device), temperature, end)
    return answers


def _batch(
    model: LoadedModel, prompts: Sequence[tuple[int, ...]], chances: torch.Tensor, temperature: float, end: int
) -> list[tuple[int, ...]]:
    said: list[list[int]] = [[] for _ in prompts]
    hidden, past, seen, places = _read(model, prompts)
    numbers = list(range(len(prompts)))  # of the rows of the batch
    over: set[int] = set()
    for token in range(chances.shape[1]):
        drawn = _drawn(functional.linear(hidden, model.head), chances[numbers, token], temperature)
        for number, one in zip(numbers, drawn.tolist(), strict=True):
            if number not in over:
                said[number].append(one)
                if one == end:
                    over.add(number)
        if len(over) == len(prompts) or token + 1 == chances.shape[1]:
            break
        go_on = [place for place, number in enumerate(numbers) if number not in over]
        if len(go_on) <= STILL_SAID * len(numbers):
            kept = torch.tensor(go_on, device=model.device)
            past.batch_select_indices(kept)
            drawn, seen, places = drawn[kept], seen[kept], places[kept]
            numbers = [numbers[place] for place in go_on]
        seen = torch.cat([seen, seen.new_ones(len(numbers), 1)], dim=1)
        places = places + 1
        hidden = model.body(
            input_ids=drawn[:, None],
            attention_mask=seen,
            position_ids=places[:, None],
            past_key_values=past,
            use_cache=True,
        ).last_hidden_state[:, -1]
    return [tuple(one) for one in said]


def _read(
    model: LoadedModel, prompts: Sequence[tuple[int, ...]]
) -> tuple[torch.Tensor, Any, torch.Tensor, torch.Tensor]:
    """The prompts, read: what the output layer sees of each, (rows, width); keys and values; which of these are seen, (rows, T);
    and the place of each prompt's last token, (rows,)."""
    from transformers import DynamicCache

    shared = min(common_start(prompts), min(map(len, prompts)) - 1)
    width = max(map(len, prompts)) - shared
    past: Any = DynamicCache()
    if shared:
        beginning = torch.tensor([prompts[0][:shared]], device=model.device)
        model.body(input_ids=beginning, past_key_values=past, use_cache=True)
        past = copy.deepcopy(past)
        past.batch_repeat_interleave(len(prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    seen = torch.zeros(len(prompts), shared + width, dtype=torch.long)
    seen[:, :shared] = 1
    for number, prompt in enumerate(prompts):
        own = prompt[shared:]
        ids[number, width - len(own) :] = torch.tensor(own)
        seen[number, shared + width - len(own) :] = 1
    places = (seen.cumsum(1) - 1).clamp(min=0)[:, shared:]
    out = model.body(
        input_ids=ids.to(model.device),
        attention_mask=seen.to(model.device),
        position_ids=places.to(model.device),
        past_key_values=past,
        use_cache=True,
    )
    return out.last_hidden_state[:, -1], out.past_key_values, seen.to(model.device), places[:, -1].to(model.device)


def _drawn(logits: torch.Tensor, chances: torch.Tensor, temperature: float) -> torch.Tensor:
    """(rows,): of each row the token in which its chance, from 0 to below 1, falls: the probabilities laid end to end."""
    ends = (logits.float() / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(ends, (chances * ends[:, -1])[:, None], right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1)
