"""What the domain's first base says to general prompts (greedy), and the distribution that a model gives for each of
these tokens before it is trained.

Training towards these distributions, and not towards the words alone, is what keeps general ability
(measured; the idea is distillation as a guard against forgetting, Li & Hoiem 2016, arXiv 1606.09282). They are
those of the model that the round starts from, as in the paper and as the gate compares: held to the first base's
instead, a second round spent itself on going back, and lost more than it kept (measured).
"""

import copy
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from streams.recipes import Recipe
from workers.alone import alone
from workers.trainer.general import chosen_prompts, kept_place, lock_of
from workers.trainer.loaded import LoadedModel
from workers.trainer.packed import LowerStates, PackedModel
from workers.trainer.rows import EncodedRow, common_start, control_texts, pack, prompt_ids
from workers.trainer.side_by_side import SideBySide
from workers.trainer.spec import TrainingRow

ROWS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class General:
    """The general rows, and what the domain's first base makes of them.

    lower: what enters its upper layers; final: of each row (answer tokens, width), what its output layer sees.
    `frozen` is its digest of the weights that no training changes: while a later model has the same, its lower
    layers' results are these too.
    """

    rows: list[EncodedRow]
    lower: LowerStates
    final: list[torch.Tensor]
    frozen: str


def encode_prompts(tokenizer: Any, prompts: Sequence[str], limit: int) -> list[tuple[int, ...]]:
    """General prompts as the engine sees them; those longer than `limit` tokens are left out."""
    controls = control_texts(tokenizer)
    found = (
        prompt_ids(tokenizer, TrainingRow(prompt=prompt, answer=""), controls, limit)
        for prompt in prompts
        if prompt.strip()
    )
    return [ids for ids in found if ids is not None]


@torch.no_grad()
def answer_prompts(
    model: LoadedModel, tokenizer: Any, prompts: Sequence[tuple[int, ...]], tokens: int, rows_at_once: int = 128
) -> General:
    """The model's own greedy answers, at most `tokens` long, with the states that made them. Must run before
    `model.use_packs()`, and before any adapter is put in.

    What all prompts begin with is computed once. Prompts of like length go together (little is computed for
    padding); the order of the result is that of the prompts.
    """
    shared = min(common_start(prompts), min(map(len, prompts)) - 1)
    beginning = torch.tensor([prompts[0][:shared]], device=model.device)
    begun = model.model(beginning, use_cache=True, output_hidden_states=True) if shared else None
    rows: dict[int, EncodedRow] = {}
    lower: dict[int, torch.Tensor] = {}
    final: dict[int, torch.Tensor] = {}
    by_length = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), number))
    for first in range(0, len(by_length), rows_at_once):
        numbers = by_length[first : first + rows_at_once]
        width = max(len(prompts[number]) for number in numbers)
        ids = torch.full((len(numbers), width), tokenizer.pad_token_id)
        seen = torch.zeros(len(numbers), width, dtype=torch.long)
        for place, number in enumerate(numbers):
            own = prompts[number][shared:]
            ids[place, :shared] = beginning[0].cpu()
            ids[place, width - len(own) :] = torch.tensor(own)
            seen[place, :shared] = seen[place, width - len(own) :] = 1
        past = copy.deepcopy(begun.past_key_values) if begun is not None else None
        if past is not None:
            past.batch_repeat_interleave(len(numbers))
        out = model.model.generate(
            input_ids=ids.to(model.device),
            attention_mask=seen.to(model.device),
            past_key_values=past,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_hidden_states=True,
        )
        # Of each step the states of all layers: what the prompt's tokens gave, then one answer token at a time.
        entering = torch.cat([step[model.first_upper] for step in out.hidden_states], dim=1)
        leaving = torch.cat([step[-1][:, -1:] for step in out.hidden_states], dim=1)
        for place, (number, line) in enumerate(zip(numbers, out.sequences[:, width:].tolist(), strict=True)):
            end = line.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in line else len(line)
            rows[number] = EncodedRow(prompts[number] + tuple(line[:end]), len(prompts[number]), number)
            lower[number] = entering[place, width - len(prompts[number]) : width - shared + end - 1].clone()
            final[number] = leaving[place, :end].clone()
    everyone = range(len(prompts))
    prefix = (
        begun.hidden_states[model.first_upper][0] if begun is not None else entering.new_empty(0, entering.shape[2])
    )
    states = LowerStates(prefix, [lower[number] for number in everyone])
    return General(
        [rows[number] for number in everyone], states, [final[number] for number in everyone], model.frozen_digest()
    )


def general_rows(
    load: Callable[[], LoadedModel],
    tokenizer: Any,
    name: str,
    prompts: Sequence[str],
    recipe: Recipe,
    dtype: torch.dtype,
    kept: Path | None,
) -> General | None:
    """The general rows of a recipe: prompts drawn by its seed, with the base's own answers. None if there is
    no prompt.

    They take longer than all else before the first step, and depend on nothing that people said: they are
    taken from the folder `kept`, or written there, by one process at a time. `name` tells bases apart; `load`
    gives the base, when it is needed.
    """
    if kept is None:
        return _answers(load, tokenizer, prompts, recipe)
    place = kept_place(kept, name, prompts, recipe, str(dtype).removeprefix("torch."))
    if not place.exists():
        with alone(lock_of(place)):
            if not place.exists():
                general = _answers(load, tokenizer, prompts, recipe)
                if general is not None:
                    _write(general, place)
                return general
    return _read(place)


def _answers(load: Callable[[], LoadedModel], tokenizer: Any, prompts: Sequence[str], recipe: Recipe) -> General | None:
    limit = recipe.row_tokens - recipe.replay_answer_tokens
    chosen = encode_prompts(tokenizer, chosen_prompts(prompts, recipe), limit)
    if not chosen:
        return None
    return answer_prompts(load(), tokenizer, chosen, recipe.replay_answer_tokens)


def final_states(
    model: PackedModel, rows: Sequence[EncodedRow], lower: LowerStates, parts: SideBySide
) -> list[torch.Tensor]:
    """What the output layer of `model`, as it stands, sees of each row: (answer tokens, width). lower: of these
    rows. Must run after `model.use_packs()`, and before any adapter is put in."""

    def final(numbers: range) -> list[torch.Tensor]:
        packed = pack([rows[number] for number in numbers], len(lower.prefix), model.device)
        with torch.no_grad():
            return list(torch.split(model.upper(lower.of(numbers), packed), list(packed.answers)))

    packs = [range(first, min(first + ROWS_AT_ONCE, len(rows))) for first in range(0, len(rows), ROWS_AT_ONCE)]
    return [row for found in parts.run([partial(final, numbers) for numbers in packs]) for row in found]


def _write(general: General, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = place.with_suffix(f".{os.getpid()}")
    rows = json.dumps([(row.ids, row.answer_at, row.group) for row in general.rows])
    tensors = {
        "prefix": general.lower.prefix,
        "lower": torch.cat(general.lower.own),
        "final": torch.cat(general.final),
    }
    metadata = {"rows": rows, "frozen": general.frozen}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, fresh, metadata)
    fresh.replace(place)


def _read(place: Path) -> General:
    with safe_open(place, "pt") as file:
        metadata = file.metadata()
        prefix, lower, final = (file.get_tensor(name) for name in ("prefix", "lower", "final"))
    rows = [EncodedRow(tuple(ids), answer_at, group) for ids, answer_at, group in json.loads(metadata["rows"])]
    states = LowerStates(prefix, list(torch.split(lower, [len(row.inputs) - len(prefix) for row in rows])))
    return General(rows, states, list(torch.split(final, [row.answer_tokens for row in rows])), metadata["frozen"])
