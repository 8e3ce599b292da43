"""What the domain's first base says to general prompts: the text (greedy) and, for each of its tokens, the
distribution.

Training towards these distributions, and not towards the words alone, is what keeps general ability
(measured; the idea is distillation as a guard against forgetting, Li & Hoiem 2016, arXiv 1606.09282).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from streams.recipes import LoraRecipe
from workers.trainer.general import chosen_prompts, kept_place
from workers.trainer.losses import soft_targets
from workers.trainer.packed import LowerStates, PackedModel
from workers.trainer.rows import EncodedRow, pack, prompt_ids, special_texts
from workers.trainer.side_by_side import SideBySide
from workers.trainer.spec import Row

ROWS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class SoftRow:
    """probabilities: (answer tokens, vocabulary) bf16; negentropy: (answer tokens,)."""

    probabilities: torch.Tensor
    negentropy: torch.Tensor


def encode_prompts(tokenizer: Any, prompts: Sequence[str], limit: int) -> list[tuple[int, ...]]:
    """General prompts as the engine sees them; those longer than `limit` tokens are left out."""
    specials = special_texts(tokenizer)
    found = (
        prompt_ids(tokenizer, Row(prompt=prompt, answer=""), specials, limit) for prompt in prompts if prompt.strip()
    )
    return [ids for ids in found if ids is not None]


@torch.no_grad()
def answer_prompts(
    model: PackedModel, tokenizer: Any, prompts: Sequence[tuple[int, ...]], tokens: int, rows_at_once: int = 128
) -> list[EncodedRow]:
    """The model's own greedy answers, at most `tokens` long, as rows. Must run before `model.use_packs()`.

    Prompts of like length go together (nothing is computed for padding); the order of the result is that of
    the prompts.
    """
    rows: dict[int, EncodedRow] = {}
    by_length = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), number))
    for first in range(0, len(by_length), rows_at_once):
        numbers = by_length[first : first + rows_at_once]
        width = max(len(prompts[number]) for number in numbers)
        ids = torch.full((len(numbers), width), tokenizer.pad_token_id)
        seen = torch.zeros(len(numbers), width, dtype=torch.long)
        for place, number in enumerate(numbers):
            ids[place, width - len(prompts[number]) :] = torch.tensor(prompts[number])
            seen[place, width - len(prompts[number]) :] = 1
        out = model.model.generate(
            input_ids=ids.to(model.device),
            attention_mask=seen.to(model.device),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        for number, line in zip(numbers, out[:, width:].tolist(), strict=True):
            end = line.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in line else len(line)
            rows[number] = EncodedRow(prompts[number] + tuple(line[:end]), len(prompts[number]), number)
    return [rows[number] for number in range(len(prompts))]


def general_rows(
    model: PackedModel, tokenizer: Any, name: str, prompts: Sequence[str], recipe: LoraRecipe, kept: Path | None
) -> list[EncodedRow]:
    """The general rows of a recipe: prompts drawn by its seed, with the model's own answers.

    Writing the answers takes longer than all else before the first step, and they depend on nothing that people said: they
    are taken from the folder `kept`, or written there. `name` tells models apart.
    """
    limit = recipe.row_tokens - recipe.replay_answer_tokens
    chosen = encode_prompts(tokenizer, chosen_prompts(prompts, recipe), limit)
    place = kept_place(kept, name, prompts, recipe) if kept is not None else None
    if place is not None and place.exists():
        answers: list[list[int]] = json.loads(place.read_text())
        if len(answers) == len(chosen):
            return [
                EncodedRow(ids + tuple(answer), len(ids), number)
                for number, (ids, answer) in enumerate(zip(chosen, answers, strict=True))
            ]
    rows = answer_prompts(model, tokenizer, chosen, recipe.replay_answer_tokens)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = place.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps([row.ids[row.answer_at :] for row in rows]))
        fresh.replace(place)
    return rows


def soft_rows(
    model: PackedModel,
    rows: list[EncodedRow],
    prefix: int,
    parts: SideBySide,
    states: LowerStates | None = None,
    states_from: int = 0,
) -> list[SoftRow]:
    """Each row's target distributions under `model` as it stands, before any adapter is put in. `states`: the
    lower layers' results, when they are at hand; `rows` begin in it at `states_from`."""

    @torch.no_grad()
    def targets(numbers: range) -> list[SoftRow]:
        packed = pack([rows[number] for number in numbers], prefix, model.device)
        hidden = model.lower(packed) if states is None else states.of([states_from + number for number in numbers])
        probabilities, negentropy = soft_targets(model.upper(hidden, packed), model.head)
        counts = list(packed.answers)
        return [
            SoftRow(*row)
            for row in zip(torch.split(probabilities, counts), torch.split(negentropy, counts), strict=True)
        ]

    packs = [range(first, min(first + ROWS_AT_ONCE, len(rows))) for first in range(0, len(rows), ROWS_AT_ONCE)]
    return [row for found in parts.run([partial(targets, numbers) for numbers in packs]) for row in found]
