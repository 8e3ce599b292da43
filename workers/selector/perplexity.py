"""How hard a model finds the answers of examples: the mean loss of their tokens behind the question, and by themselves.

    python -m workers.selector.perplexity < task

A child of the selector (`workers.asked`), as `workers.selector.golden` is; it runs the rows as they will be trained on, in packs
where the family can be run so, in fp32. By itself an answer stands behind the one token that every row begins with, so that its
first token counts in both.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from msgspec import Struct

from workers.asked import answer
from workers.selector.golden import likely, limit_of, scorer
from workers.trainer.rows import EncodedRow, encode_rows
from workers.trainer.spec import TrainingRow


class Task(Struct, frozen=True, forbid_unknown_fields=True):
    """`model`: a finished model directory."""

    model: str
    rows: tuple[TrainingRow, ...]

    def __repr__(self) -> str:
        return f"Task({len(self.rows)} rows)"


class Losses(Struct, frozen=True, tag="losses", tag_field="kind"):
    """Of each row the mean loss of its answer's tokens, in nats, behind its question and by itself; 0 and 0 where it is longer than
    the model reads."""

    losses: tuple[tuple[float, float], ...]


def work(task: Task) -> Losses:
    """Raises Invalid if the model cannot be loaded."""
    from workers.trainer.loaded import load_tokenizer

    folder = Path(task.model)
    tokenizer: Any = load_tokenizer(folder)
    there = encode_rows(tokenizer, task.rows, limit_of(folder))
    alone = [EncodedRow((row.ids[0], *row.ids[row.answer_at :]), 1, row.group) for row in there]
    model = scorer(folder, there)
    behind, by_itself = (likely(model, rows) for rows in (there, alone))
    found = {
        row.row: (-asked, -bare)
        for row, asked, bare in zip(there, behind, by_itself, strict=True)
        if asked is not None and bare is not None
    }
    return Losses(tuple(found.get(number, (0.0, 0.0)) for number in range(len(task.rows))))


if __name__ == "__main__":
    sys.exit(answer(Task, work))
