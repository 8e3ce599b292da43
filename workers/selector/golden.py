"""How much an example helps a model with tasks, put before them as the one shot: by how much likelier their answers become.

    python -m workers.selector.golden < task

A child of the selector (`workers.asked`). With the model's own chat template a shot is one turn before the task, so that begin
marks and separators stand where the model knows them, with a shot and without. Of each shot all tasks are run in packs behind what
they have in common, the shot itself, which is computed once a pack (`workers.trainer.packed`); families that packs do not carry are
run as they are. A score counts the gains above 0, and rounding must not choose their sign: where the processor multiplies bf16 all
gains are computed so first, and those that are no farther from 0 than its rounding may carry them once more in fp32.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from workers.asked import answer
from workers.cores import fast_precision
from workers.trainer.rows import CONFIG_FILE, EncodedRow, encode_rows, shared_prefix
from workers.trainer.spec import TrainingRow

if TYPE_CHECKING:
    import torch

    from workers.trainer.loaded import LoadedModel

PACK_TOKENS = 1024
UNSURE = 0.1
"""Nats a token: of gains in bf16 that are less, the sign is asked of fp32. No bound of the rounding is known; the largest that was
measured is told by the bench (`make bench NAME=selection`), which compares the scores with those of fp32."""


class Turn(Struct, frozen=True):
    """A question and its answer."""

    question: str
    answer: str

    def __repr__(self) -> str:
        return "Turn(…)"


class Task(Struct, frozen=True, forbid_unknown_fields=True):
    """`model`: a finished model directory."""

    model: str
    shots: tuple[Turn, ...]
    tasks: tuple[Turn, ...]

    def __repr__(self) -> str:
        return f"Task({len(self.shots)} shots, {len(self.tasks)} tasks)"


class Gains(Struct, frozen=True, tag="gains", tag_field="kind"):
    """Of each shot, for each task: the mean log-probability of its answer's tokens behind the shot, less that without it, in nats a
    token. 0 where the shot and the task together are longer than the model reads."""

    gains: tuple[tuple[float, ...], ...]


def work(task: Task, screened: bool | None = None) -> Gains:
    """`screened`: in bf16 first; None: where the processor has it. Raises Invalid if the model cannot be loaded."""
    import torch

    from workers.trainer.loaded import load_tokenizer

    folder = Path(task.model)
    tokenizer: Any = load_tokenizer(folder)
    limit = limit_of(folder)
    alone = _encoded(tokenizer, task.tasks, None, limit)
    behind = [
        [
            # The oldest turn is left out of what is too long: that is the shot.
            row if row is not None and bare is not None and len(row.ids) > len(bare.ids) else None
            for row, bare in zip(_encoded(tokenizer, task.tasks, shot, limit), alone, strict=True)
        ]
        for shot in task.shots
    ]
    if not (fast_precision() == "bfloat16" if screened is None else screened):
        return Gains(tuple(_gains(folder, alone, behind, torch.float32)))
    found = _gains(folder, alone, behind, torch.bfloat16)
    unsure = [
        [row if abs(gain) < UNSURE else None for row, gain in zip(rows, gains, strict=True)]
        for rows, gains in zip(behind, found, strict=True)
    ]
    if any(row is not None for rows in unsure for row in rows):
        exact = _gains(folder, alone, unsure, torch.float32)
        found = [
            tuple(known if row is not None else rough for row, known, rough in zip(*one, strict=True))
            for one in zip(unsure, exact, found, strict=True)
        ]
    return Gains(tuple(found))


def _gains(
    folder: Path, alone: Sequence[EncodedRow | None], behind: Sequence[Sequence[EncodedRow | None]], dtype: torch.dtype
) -> list[tuple[float, ...]]:
    model = scorer(folder, [row for row in alone if row is not None], dtype)
    without = likely(model, alone)
    return [
        tuple(
            0.0 if after is None or before is None else after - before
            for after, before in zip(likely(model, rows), without, strict=True)
        )
        for rows in behind
    ]


def _encoded(tokenizer: Any, tasks: Sequence[Turn], shot: Turn | None, limit: int) -> list[EncodedRow | None]:
    history = () if shot is None else ((shot.question, shot.answer),)
    rows = [TrainingRow(prompt=task.question, answer=task.answer, history=history) for task in tasks]
    found = {row.row: row for row in encode_rows(tokenizer, rows, limit)}
    return [found.get(number) for number in range(len(tasks))]


def scorer(folder: Path, rows: list[EncodedRow], dtype: torch.dtype | None = None) -> LoadedModel:
    """The model, in fp32 unless it is said otherwise, run in packs where a family can be run so, which is not believed but
    measured."""
    import torch

    from workers.trainer.loaded import NotPacked
    from workers.trainer.packed import PackedModel, check_forward
    from workers.trainer.plain import PlainModel

    device = torch.device("cpu")
    try:
        packed = PackedModel(folder, 1.0, dtype or torch.float32, device)
        if rows:
            check_forward(packed, rows, shared_prefix(rows[:2]))
        packed.use_packs()
        return packed
    except NotPacked:
        return PlainModel(folder, 1.0, dtype or torch.float32, device)


def likely(model: LoadedModel, rows: Sequence[EncodedRow | None]) -> list[float | None]:
    """Of each row the mean log-probability of its answer's tokens."""
    import torch
    from torch.nn import functional

    from workers.trainer.packed import PackedModel
    from workers.trainer.rows import pack

    there = [(place, row) for place, row in enumerate(rows) if row is not None]
    found: list[float | None] = [None] * len(rows)
    if not there:
        return found
    prefix = shared_prefix([row for _, row in there])
    parts: list[list[tuple[int, EncodedRow]]] = []
    tokens = PACK_TOKENS
    # Rows are laid side by side as long as the longest: those of like length go together.
    for place, row in sorted(there, key=lambda one: (len(one[1].ids), one[0])):
        own = len(row.inputs) - prefix
        if tokens + own > PACK_TOKENS:
            parts.append([])
            tokens = prefix
        parts[-1].append((place, row))
        tokens += own
    with torch.inference_mode():
        for part in parts:
            few = [row for _, row in part]
            if isinstance(model, PackedModel):
                laid = pack(few, prefix, model.device)
                states = model.upper(model.lower(laid), laid)
            else:
                states = model.states(few)
            targets = torch.tensor([token for row in few for token in row.ids[row.answer_at :]])
            log_p = functional.linear(states, model.head).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
            answers = torch.split(log_p, [row.answer_tokens for row in few])
            for (place, _), likely in zip(part, answers, strict=True):
                found[place] = float(likely.mean())
    return found


def limit_of(folder: Path) -> int:
    """How many tokens the model reads."""
    context = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("max_position_embeddings")
    return context if isinstance(context, int) else sys.maxsize


if __name__ == "__main__":
    sys.exit(answer(Task, work))
