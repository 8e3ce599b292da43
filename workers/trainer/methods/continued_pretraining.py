"""Continued pre-training: the domain's own passages, read as text, beside what people corrected."""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from streams.recipes import PretrainingRecipe
from workers.trainer.general import chosen_prompts
from workers.trainer.job import Job
from workers.trainer.learning import learn, machine
from workers.trainer.loaded import LoadedModel, load_tokenizer
from workers.trainer.lora import Adapter, save_adapter
from workers.trainer.merge import write_merged
from workers.trainer.methods.lora import insert
from workers.trainer.plain import mean_loss
from workers.trainer.rows import EncodedRow, encode_rows, row_limit
from workers.trainer.spec import Outcome, TrainingRow

GENERAL_TEXTS = 200  # on so many general prompts, read as text, perplexity is told


def train(job: Job) -> Outcome:
    """As LoRA's. The outcome's metrics tell the perplexity (a token, the exponential of the mean loss) on passages that were held
    out and on general text that was not learned from, before and after."""
    recipe = job.recipe
    assert isinstance(recipe, PretrainingRecipe)
    read, held_out = dealt(job.rows, recipe)
    tokenizer, limit = load_tokenizer(job.model_dir), row_limit(job.model_dir, recipe)
    texts = {
        "domain": encode_rows(tokenizer, held_out, limit),
        "general": encode_rows(tokenizer, unused_prompts(job.replay_prompts, recipe), limit),
    }
    metrics = {
        "passages": float(sum(row.text for row in read)),
        "passages_held_out": float(len(held_out)),
    }

    def look(model: LoadedModel, when: str) -> None:
        metrics.update({f"{name}_perplexity_{when}": perplexity(model, rows) for name, rows in texts.items() if rows})

    with machine(job) as clock:
        added: list[Adapter] = []
        learnt = learn(replace(job, rows=read), partial(insert, recipe, added), look=look)
        model_out, adapter_out = job.out_dir / "model", job.out_dir / "adapter"
        save_adapter(added[-1], adapter_out, job.model_dir.name)
        write_merged(job.model_dir, {name: layer.delta() for name, layer in added[-1].layers.items()}, model_out)
    return learnt.outcome(job, clock, model_out, adapter_out, "merged", metrics)


def dealt(
    rows: Sequence[TrainingRow], recipe: PretrainingRecipe
) -> tuple[tuple[TrainingRow, ...], tuple[TrainingRow, ...]]:
    """What is learned from, and the passages that are held out: the recipe's share of them, by their words as if by lot. One
    passage alone is read."""

    def lot(number: int) -> bytes:
        return hashlib.sha256(json.dumps([recipe.seed, rows[number].answer]).encode()).digest()

    texts = sorted((number for number, row in enumerate(rows) if row.text), key=lambda number: (lot(number), number))
    count = round(recipe.held_out_share * len(texts))
    if recipe.held_out_share and len(texts) > 1:
        count = min(max(1, count), len(texts) - 1)
    out = set(texts[:count])
    return (
        tuple(row for number, row in enumerate(rows) if number not in out),
        tuple(rows[number] for number in sorted(out)),
    )


def unused_prompts(prompts: Sequence[str], recipe: PretrainingRecipe) -> list[TrainingRow]:
    """General text that is not learned from: prompts that the recipe's seed did not draw."""
    drawn = set(chosen_prompts(prompts, recipe))
    left = [prompt for prompt in prompts if prompt.strip() and prompt not in drawn]
    return [TrainingRow(prompt="", answer=prompt, text=True) for prompt in left[:GENERAL_TEXTS]]


def perplexity(model: LoadedModel, rows: Sequence[EncodedRow]) -> float:
    """Of a token, given those before it in its row."""
    return math.exp(mean_loss(model, rows))
