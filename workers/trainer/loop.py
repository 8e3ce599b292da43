"""The steps of a training, whatever learns in it and however its rows are run: rate, optimiser, checkpoints, and the word on how
far it is."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from streams.errors import Invalid
from workers.trainer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from workers.trainer.job import Job
from workers.trainer.plan import Step, learning_rate
from workers.trainer.spec import Progress
from workers.trainer.stopping import Stopping

TIMED_STEPS = 20  # the time left is told from the median of so many last steps


@dataclass(frozen=True)
class Done:
    """`loss`: mean nats per answer token of the step's new rows; `divergence`: per general token, None without general rows;
    `tokens`: what went through the layers that learn."""

    loss: float
    divergence: float | None
    tokens: int


class Learner(Protocol):
    """What learns: the parameters `named` by names that stay the same over restarts, in `steps`."""

    @property
    def named(self) -> Mapping[str, torch.nn.Parameter]: ...

    @property
    def steps(self) -> Sequence[Step]: ...

    def one_step(self, step: Step) -> Done:
        """Leave the gradients of a step in the parameters."""
        ...


@dataclass(frozen=True)
class Taken:
    """`held_out`, `best_step`: see `workers.trainer.stopping`."""

    losses: tuple[float, ...]
    divergences: tuple[float, ...]
    tokens: int
    resumed_at: int
    held_out: tuple[float, ...] = ()
    best_step: int = 0


def stands(stage: str, step: int) -> Progress:
    """That a training is at a stage in which no steps are counted."""
    return Progress(
        stage=stage,
        step=step,
        steps=step,
        epoch=0,
        loss=None,
        replay_divergence=None,
        tokens_per_s=None,
        seconds_left=None,
    )


def take_steps(learner: Learner, job: Job, run: str, saving_s: float, stopping: Stopping | None = None) -> Taken:
    """Take every step that the checkpoint has not, but for those that `stopping` spares; what learns is changed in place. `run`
    tells checkpoints of other runs from this one's, `saving_s` is what saving will take. Raises Invalid as soon as the loss is no
    number."""
    recipe, parameters = job.recipe, list(learner.named.values())
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0, fused=True)
    losses: list[float] = []
    divergences: list[float] = []
    tokens, first = 0, 0
    found = load_checkpoint(job.checkpoint_dir, run)
    if found is not None:
        _restore(found, learner.named, optimiser)
        losses, divergences = list(found.losses), list(found.divergences)
        tokens, first = found.tokens, found.step
        if stopping is not None:
            stopping.restore(found)

    steps = learner.steps
    times: list[float] = []
    saved_at = time.monotonic()
    for number in range(first, len(steps)):
        began = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, number, len(steps))
        step = learner.one_step(steps[number])
        length = torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_norm)
        if not all(map(math.isfinite, (step.loss, step.divergence or 0.0, float(length)))):
            raise Invalid(
                f"the loss is no number any more at step {number + 1} of {len(steps)}: nothing can come of this recipe on "
                f"these rows (learning_rate {recipe.learning_rate:g}, gradient_norm {recipe.gradient_norm:g})"
            )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(step.loss)
        if step.divergence is not None:
            divergences.append(step.divergence)
        tokens += step.tokens
        done = number + 1
        last_of_epoch = done == len(steps) or steps[done].epoch != steps[number].epoch
        ends = stopping is not None and last_of_epoch and stopping.ends(done, learner.named)
        if not ends and done < len(steps) and time.monotonic() - saved_at >= job.checkpoint_every_s:
            kept = _kept(learner.named, optimiser)
            so_far = Checkpoint(run, done, tuple(losses), tuple(divergences), tokens, kept)
            save_checkpoint(job.checkpoint_dir, so_far if stopping is None else stopping.noted(so_far))
            saved_at = time.monotonic()
        times = [*times[1 - TIMED_STEPS :], time.monotonic() - began]
        usual = statistics.median(times)
        job.progress(
            Progress(
                stage="training",
                step=done,
                steps=len(steps),
                epoch=steps[number].epoch + 1,
                loss=step.loss,
                replay_divergence=step.divergence,
                tokens_per_s=step.tokens / usual,
                seconds_left=usual * (len(steps) - done) + saving_s if len(times) > 1 else None,
            )
        )
        if ends:
            break
    if stopping is None:
        return Taken(tuple(losses), tuple(divergences), tokens, first)
    stopping.take_best(learner.named)
    held_out = tuple(stopping.losses)
    return Taken(tuple(losses), tuple(divergences), tokens, first, held_out, stopping.best_step)


def _kept(named: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}
    for name, parameter in named.items():
        kept[name] = parameter.detach().cpu().contiguous()
        for key in ("exp_avg", "exp_avg_sq"):
            kept[f"{name}.{key}"] = optimiser.state[parameter][key].cpu().contiguous()
    return kept


def _restore(found: Checkpoint, named: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
    for name, parameter in named.items():
        with torch.no_grad():
            parameter.copy_(found.tensors[name])
        optimiser.state[parameter] = {
            "step": torch.tensor(float(found.step), device=parameter.device if parameter.is_cuda else "cpu"),
            **{key: found.tensors[f"{name}.{key}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")},
        }
