"""Rows of text to rows of tokens, and rows of tokens to packs: several rows behind one shared prefix, without
padding.

Every prompt of a domain begins with the same template and system text. A pack holds these tokens once, then
what is each row's own; a row attends to the prefix and to itself. This is exact: the same logits as row by
row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streams.control_tokens import escape_control_tokens
from streams.recipes import LoraPTuningRecipe, PTuningRecipe, Recipe
from streams.turns import turns_of
from workers.models.tokens import control_tokens
from workers.trainer.spec import TrainingRow

if TYPE_CHECKING:
    import torch  # taking in half a second of it is no price for knowing how long a row is


CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True, repr=False)
class EncodedRow:
    """`ids`: the whole row; tokens from `answer_at` on are the answer, its end mark included. `group`: number
    of the fact; `beside`, `reworded` and `weight` as in `TrainingRow`; `row`: number of the given row that it is of."""

    ids: tuple[int, ...]
    answer_at: int
    group: int
    beside: bool = False
    row: int = 0
    reworded: bool = False
    weight: float = 1.0

    @property
    def inputs(self) -> tuple[int, ...]:
        """What a model reads to predict the answer: the last token is only predicted."""
        return self.ids[:-1]

    @property
    def answer_tokens(self) -> int:
        return len(self.ids) - self.answer_at


@dataclass(frozen=True, slots=True, repr=False)
class Pack:
    """Rows side by side. T = tokens in the pack, R = rows, L = inputs of the longest row without the prefix.

    - positions: (1, T) place of each token in its own row.
    - prefix: tokens shared by all rows, first in the pack.
    - spread: (R·L,) which token stands in slot (row, place). Slots past a row's end repeat token 0: being later than
      all of the row's own tokens, no one of these sees them, so that one mask serves all rows.
    - gather: (T - prefix,) the slot of each token after the prefix.
    - mask: (L, prefix + L) whether the token in a slot sees a key; prefix_mask: (prefix, prefix).
    - predicts: (K,) tokens whose next token counts; targets: (K,) these next tokens; answers: how many each row has.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    prefix: int
    rows: int
    longest: int
    spread: torch.Tensor
    gather: torch.Tensor
    mask: torch.Tensor
    prefix_mask: torch.Tensor
    predicts: torch.Tensor
    targets: torch.Tensor
    answers: tuple[int, ...]


def control_texts(tokenizer: Any) -> tuple[str, ...]:
    """Every text that the tokenizer reads as a control token, by the folder it was loaded from."""
    return control_tokens(Path(tokenizer.name_or_path))


def prompt_ids(tokenizer: Any, row: TrainingRow, controls: Sequence[str], limit: int) -> tuple[int, ...] | None:
    """The tokens that the engine sees before it answers, by the model's own chat template. The oldest turns
    are dropped until `limit` tokens are enough; None if they are not enough for the prompt alone."""
    for first in range(len(row.history) + 1):
        messages: list[dict[str, str]] = []
        if row.system is not None:
            messages.append({"role": "system", "content": escape_control_tokens(row.system, controls)})
        for role, words in turns_of(row.history[first:]):
            messages.append({"role": role, "content": escape_control_tokens(words, controls)})
        messages.append({"role": "user", "content": escape_control_tokens(row.prompt, controls)})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(ids) <= limit:
            return ids
    return None


def encode_rows(tokenizer: Any, rows: Sequence[TrainingRow], limit: int) -> list[EncodedRow]:
    """Rows as tokens, in their order. A row without an answer or longer than `limit` tokens is left out; text is cut into as many
    rows as it takes."""
    controls = control_texts(tokenizer)
    groups: dict[str, int] = {}
    encoded: list[EncodedRow] = []
    for number, row in enumerate(rows):
        answer = escape_control_tokens(row.answer.strip(), controls)
        if not answer:
            continue
        # Apart from the prompt, as the engine will make it: a text cut as a whole could join tokens across
        # the border.
        answer_ids = (*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
        if row.text:
            for start in range(0, len(answer_ids) - 1, limit):  # nothing is learned of a single token
                piece, group = answer_ids[start : start + limit], groups.setdefault(f"t{number} {start}", len(groups))
                encoded.append(EncodedRow(piece, 1, group, row.beside, number))
            continue
        before = prompt_ids(tokenizer, row, controls, limit - len(answer_ids))
        if before is None:
            continue
        key = f"g{row.group}" if row.group is not None else f"n{number}"
        group = groups.setdefault(key, len(groups))
        encoded.append(
            EncodedRow(before + answer_ids, len(before), group, row.beside, number, row.reworded, row.weight)
        )
    return encoded


def row_limit(folder: Path, recipe: Recipe) -> int:
    """How many tokens a row may have: as the recipe says, and no more than the model in `folder` reads beside those that the recipe
    puts before them."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")) if (folder / CONFIG_FILE).is_file() else {}
    context = config.get("max_position_embeddings")
    if not isinstance(context, int):
        return recipe.row_tokens
    before = recipe.virtual_tokens if isinstance(recipe, PTuningRecipe | LoraPTuningRecipe) else 0
    return min(recipe.row_tokens, context - before)


def common_start(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many first tokens all `sequences` have in common."""
    least, most = min(sequences), max(sequences)  # whatever these two share, all between them share
    return next(
        (place for place, (one, other) in enumerate(zip(least, most, strict=False)) if one != other), len(least)
    )


def shared_prefix(rows: Sequence[EncodedRow]) -> int:
    """How many first tokens all rows have in common; every row keeps at least the token that predicts its
    answer."""
    return min(common_start([row.ids for row in rows]), min(row.answer_at for row in rows) - 1)


def pack(rows: Sequence[EncodedRow], prefix: int, device: torch.device) -> Pack:
    """Lay `rows` behind their shared `prefix` (0: none)."""
    import torch

    longest = max(len(row.inputs) for row in rows) - prefix
    ids = list(rows[0].ids[:prefix])
    positions = list(range(prefix))
    spread = [0] * (len(rows) * longest)
    gather: list[int] = []
    predicts: list[int] = []
    targets: list[int] = []
    mask = torch.ones(longest, prefix + longest, dtype=torch.bool, device=device).tril(prefix)
    for number, row in enumerate(rows):
        start, own = len(ids), len(row.inputs) - prefix
        ids.extend(row.inputs[prefix:])
        positions.extend(range(prefix, len(row.inputs)))
        slot = number * longest
        spread[slot : slot + own] = range(start, start + own)
        gather.extend(range(slot, slot + own))
        predicts.extend(range(start + row.answer_at - 1 - prefix, start + own))
        targets.extend(row.ids[row.answer_at :])
    return Pack(
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor([positions], device=device),
        prefix=prefix,
        rows=len(rows),
        longest=longest,
        spread=torch.tensor(spread, device=device),
        gather=torch.tensor(gather, device=device),
        mask=mask,
        prefix_mask=torch.ones(prefix, prefix, dtype=torch.bool, device=device).tril(),
        predicts=torch.tensor(predicts, device=device),
        targets=torch.tensor(targets, device=device),
        answers=tuple(row.answer_tokens for row in rows),
    )
