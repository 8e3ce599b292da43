"""A reward model: LoRA on the upper layers and a head of one number, learned from rankings, merged."""

import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.nn import functional

from streams.errors import Invalid
from streams.recipes import RewardRecipe
from workers.trainer.job import Job
from workers.trainer.learning import machine, name_of_run
from workers.trainer.loaded import load_tokenizer, training_dtype
from workers.trainer.loop import Done, stands, take_steps
from workers.trainer.lora import Adapter, add_adapter, save_adapter
from workers.trainer.merge import write_scoring
from workers.trainer.plain import CHECKPOINTED, PlainModel
from workers.trainer.plan import Step
from workers.trainer.ranked import (
    Ranking,
    accuracy,
    calibration,
    correlation,
    dealt,
    excess_slope,
    ranking_loss,
    rankings_of,
)
from workers.trainer.reward_model import NOTE, TOKENS_AT_ONCE, Note, RewardModel
from workers.trainer.rows import row_limit
from workers.trainer.spec import Outcome

HEAD = "score.weight"


@dataclass(frozen=True, kw_only=True)
class RewardLearner:
    model: PlainModel
    named: dict[str, torch.nn.Parameter]
    steps: list[Step]
    rankings: list[Ranking]

    def one_step(self, step: Step) -> Done:
        loss, tokens = 0.0, 0
        for few in _at_once([self.rankings[number] for number in step.preferred]):
            states = self.model.states([row for ranking in few for row in ranking.encoded])
            scores = functional.linear(states.float(), self.named[HEAD])[:, 0]
            part = ranking_loss(few, scores) / len(step.preferred)
            torch.autograd.backward(part)
            loss += float(part.detach())
            tokens += sum(len(row) for ranking in few for row in ranking.rows)
        return Done(loss, None, tokens)


def train(job: Job) -> Outcome:
    """The merged model comes to lie in `out_dir/model`, as `AutoModelForSequenceClassification` and `RewardModel` read it; the
    adapter, as PEFT reads it, in `out_dir/adapter`."""
    recipe = job.recipe
    assert isinstance(recipe, RewardRecipe)
    recipe.check()
    job.progress(stands("preparing", 0))
    with machine(job) as clock:
        tokenizer, limit = load_tokenizer(job.model_dir), row_limit(job.model_dir, recipe)
        learned, held = dealt(recipe, rankings := rankings_of(recipe, job.pairs, tokenizer, limit))
        device = torch.device(job.device)
        model = PlainModel(job.model_dir, recipe.upper_layers, training_dtype(job.precision, device), device)
        changes = _config(model, tokenizer)
        adapter = add_adapter(model.model, model.upper_layers(), recipe)
        if max(len(row) for ranking in learned for row in ranking.rows) > CHECKPOINTED:
            model.keep_little()
        head = _head(model, recipe.seed)
        learner = RewardLearner(
            model=model,
            named={**adapter.parameters(), HEAD: head},
            steps=_steps(recipe, len(learned)),
            rankings=learned,
        )
        sizes = (len(learned), len(held), sum(len(ranking.rows) for ranking in learned), str(model.dtype))
        run = name_of_run(job, sizes, device.type)
        taken = take_steps(learner, job, run, (time.monotonic() - clock.started) / 4)
        job.progress(stands("saving", len(learner.steps)))
        job.out_dir.mkdir(exist_ok=True, mode=0o700)  # what it lies in must be there: see `save_checkpoint`
        model_out, adapter_out = job.out_dir / "model", job.out_dir / "adapter"
        _write(job, adapter, head, changes, (model_out, adapter_out))
        metrics, calibrated = _measured(model_out, learned, held, limit, job.device)
        per_epoch = len(learner.steps) // recipe.epochs
        losses = taken.losses
        pairs = sum(len(ranking.pairs) for ranking in rankings)
        return Outcome(
            steps=len(losses),
            epoch_losses=tuple(statistics.fmean(losses[i : i + per_epoch]) for i in range(0, len(losses), per_epoch)),
            final_loss=statistics.fmean(losses[-per_epoch:]),
            final_replay_divergence=None,
            tokens=taken.tokens,
            rows=sum(len(ranking.rows) for ranking in learned),
            rows_left_out=0,
            seconds=time.monotonic() - clock.started,
            cpu_seconds=time.process_time() - clock.cpu_started,
            resumed_at_step=taken.resumed_at,
            precision=str(model.dtype).removeprefix("torch."),
            model_dir=str(model_out),
            adapter_dir=str(adapter_out),
            metrics={"pairs": float(pairs), "pairs_left_out": float(len(job.pairs) - pairs), **metrics},
            calibrated=calibrated,
        )


def _steps(recipe: RewardRecipe, rankings: int) -> list[Step]:
    """An epoch shows every ranking once, in steps of nearly equal size."""
    chance, per_epoch = random.Random(f"rankings {recipe.seed}"), max(1, -(-rankings // recipe.batch_rankings))
    steps: list[Step] = []
    for epoch in range(recipe.epochs):
        deck = list(range(rankings))
        chance.shuffle(deck)
        for number in range(per_epoch):
            shown = deck[number * rankings // per_epoch : (number + 1) * rankings // per_epoch]
            steps.append(Step(epoch, (), (), (), tuple(shown)))
    return steps


def _at_once(rankings: Sequence[Ranking]) -> list[list[Ranking]]:
    """So many that they are few tokens with the padding; a ranking is never cut."""
    found: list[list[Ranking]] = []
    for ranking in sorted(rankings, key=lambda one: -max(map(len, one.rows))):
        if found:
            width, rows = max(map(len, found[-1][0].rows)), sum(len(one.rows) for one in found[-1])
            if (rows + len(ranking.rows)) * width <= TOKENS_AT_ONCE:
                found[-1].append(ranking)
                continue
        found.append([ranking])
    return found


def _head(model: PlainModel, seed: int) -> torch.nn.Parameter:
    """(1, width) fp32. Its start, of variance 1/(width + 1), is that of Stiennon et al. 2020 (arXiv 2009.01325, appendix B.1)."""
    width = model.head.shape[1]
    start = torch.empty(1, width).normal_(
        std=1 / math.sqrt(width + 1), generator=torch.Generator().manual_seed(seed + 1)
    )
    return torch.nn.Parameter(start.to(model.device))


def _config(model: PlainModel, tokenizer: Any) -> dict[str, Any]:
    """What the config says otherwise. The model is asked at the last token that is no padding, and each row ends with the end
    mark: so padding must be another one. Raises Invalid for a family of which transformers has none that scores."""
    from transformers import AutoModelForSequenceClassification

    mapping: Any = AutoModelForSequenceClassification
    if type(model.model.config) not in mapping._model_mapping:
        raise Invalid(f"{type(model.model).__name__}: models of this family cannot be made to score")
    end = tokenizer.eos_token_id
    pads = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, 0, 1)
    return {
        "architectures": [mapping._model_mapping[type(model.model.config)].__name__],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        "pad_token_id": next(pad for pad in pads if pad is not None and pad != end),
    }


def _write(job: Job, adapter: Adapter, head: torch.Tensor, changes: dict[str, Any], folders: tuple[Path, Path]) -> None:
    model_out, adapter_out = folders
    save_adapter(adapter, adapter_out, job.model_dir.name, head)
    write_scoring(
        job.model_dir, {name: layer.delta() for name, layer in adapter.layers.items()}, head, changes, model_out
    )


def _measured(
    folder: Path, learned: list[Ranking], held: list[Ranking], limit: int, device: str
) -> tuple[dict[str, float], Any]:
    """Measured on the very files that are kept. What is too much of length is told from what was learned, taken out, and all the
    rest told of what was held out."""
    tokens = [count for ranking in learned for count in ranking.tokens]
    note = Note(length_slope=0.0, mean_tokens=round(statistics.fmean(tokens), 3), row_tokens=limit)
    (folder / NOTE).write_bytes(msgspec.json.encode(note))
    reward = RewardModel(folder, device)
    scores = _scores(reward, learned)
    slope = excess_slope(learned, scores)
    note = msgspec.structs.replace(note, length_slope=float(f"{slope:.6g}"))
    (folder / NOTE).write_bytes(msgspec.json.encode(note))
    reward.note = note
    told = {
        "held_out_rankings": float(len(held)),
        "held_out_pairs": float(sum(len(ranking.pairs) for ranking in held)),
        "length_slope": note.length_slope,
    }
    on, raw = (held, _scores(reward, held)) if held else (learned, scores)
    corrected = [
        [reward.corrected(score, count) for score, count in zip(own, ranking.tokens, strict=True)]
        for ranking, own in zip(on, raw, strict=True)
    ]
    for name, found in (("length_correlation", raw), ("length_correlation_corrected", corrected)):
        if (value := correlation(on, found)) is not None:
            told[name] = value
    if not held:
        return told, ()
    return told | accuracy(held, corrected), calibration(held, corrected)


def _scores(reward: RewardModel, rankings: Sequence[Ranking]) -> list[list[float]]:
    scores = iter(reward.raw([row for ranking in rankings for row in ranking.rows]))
    return [[next(scores) for _ in ranking.rows] for ranking in rankings]
