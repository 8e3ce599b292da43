"""Which of two answers a model finds likelier: asked of the candidate and of the release in force, about pairs that were held out.

A pair is right where the preferred answer's log-probability, summed over its tokens and its end mark, is the higher one: the
ranking accuracy of Chen et al. 2024 (arXiv 2405.19534), by the sum that preference losses move (Rafailov et al. 2023, arXiv
2305.18290). It is not divided by the number of tokens: that the sum favours short answers holds before and after alike, and the
test is paired.

    python -m workers.evaluator.likelihood < task

A child of the evaluator (`workers.asked`): the task holds people's words, opened, and what leaves is numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from workers.asked import answer, ask
from workers.trainer.preference import Answers
from workers.trainer.rows import CONFIG_FILE, EncodedRow
from workers.trainer.spec import TrainingPair

Told = tuple[bool | None, ...]
"""Of each pair whether the preferred answer is likelier; None: it is too long for the model, or a side is empty."""


class Task(Struct, frozen=True, forbid_unknown_fields=True):
    """`models`: finished model directories."""

    models: tuple[str, ...]
    pairs: tuple[TrainingPair, ...]

    def __repr__(self) -> str:
        return f"Task({len(self.models)} models, {len(self.pairs)} pairs)"


class Answer(Struct, frozen=True, tag="answer", tag_field="kind"):
    """Of each model."""

    told: tuple[Told, ...]


def likelier(models: Sequence[Path], pairs: Sequence[TrainingPair], look: Callable[[], None]) -> tuple[Told, ...]:
    """Of each model. Raises as `ask` does, and what `look` raises."""
    return ask("workers.evaluator.likelihood", Task(tuple(map(str, models)), tuple(pairs)), Answer, look).told


def work(task: Task) -> Answer:
    """Raises Invalid if a model cannot be loaded."""
    return Answer(tuple(_told(Path(model), task.pairs) for model in task.models))


def _told(model_dir: Path, pairs: Sequence[TrainingPair]) -> Told:
    from transformers import AutoTokenizer

    from workers.models.loaded import load_model

    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    model = load_model(model_dir)
    answers = Answers(tokenizer, _limit(model_dir, model))
    found: list[bool | None] = []
    for pair in pairs:
        sides = answers.ids(pair.chosen), answers.ids(pair.rejected)
        prompt = answers.prompt(pair, *sides)
        if prompt is None:
            found.append(None)
        else:
            chosen, rejected = (log_probability(model, answers.row(prompt, side)) for side in sides)
            found.append(chosen > rejected)
    return tuple(found)


def log_probability(model: Any, row: EncodedRow) -> float:
    """Of its answer, in nats; one row at a time, and of its logits no more than the answer's are made."""
    import torch

    with torch.inference_mode():
        out = model(input_ids=torch.tensor([row.inputs]), logits_to_keep=row.answer_tokens)
        log_p = out.logits[0, -row.answer_tokens :].float().log_softmax(-1)
        return float(log_p.gather(1, torch.tensor(row.ids[row.answer_at :])[:, None]).sum())


def _limit(model_dir: Path, model: Any) -> int:
    """How many tokens a row may have."""
    context = json.loads((model_dir / CONFIG_FILE).read_text(encoding="utf-8")).get("max_position_embeddings")
    prefix = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", 0)
    return context - prefix if isinstance(context, int) else sys.maxsize


if __name__ == "__main__":
    sys.exit(answer(Task, work))
