"""The steps of a training, whatever learns in it and however its rows are run: rate, optimiser, checkpoints, and the word on how
far it is."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from streams.errors import Invalid
from workers.trainer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from workers.trainer.freed import Freed
from workers.trainer.job import Job
from workers.trainer.plan import Step, learning_rate
from workers.trainer.sharded import like, summed, whole
from workers.trainer.spec import Progress
from workers.trainer.stopping import Stopping

TIMED_STEPS = 20  # the time left is told from the median of so many last steps


@dataclass(frozen=True)
class Done:
    """`loss`: mean nats per answer token of the step's new rows; `divergence`: per general token, None without general rows;
    `tokens`: what went through the layers that learn; `values`: what else is told of it, by name."""

    loss: float
    divergence: float | None
    tokens: int
    values: Mapping[str, float] = field(default_factory=dict)


class Watching(Protocol):
    """What may end a training before its last step, with the weights that were the best (`workers.trainer.stopping`)."""

    losses: list[float]
    best_step: int

    def ends(self, step: int, named: Mapping[str, torch.nn.Parameter]) -> bool: ...

    def take_best(self, named: Mapping[str, torch.nn.Parameter]) -> None: ...

    def noted(self, kept: Checkpoint) -> Checkpoint: ...

    def restore(self, found: Checkpoint) -> None: ...


class Learner(Protocol):
    """What learns: the parameters `named` by names that stay the same over restarts, in `steps`."""

    @property
    def named(self) -> Mapping[str, torch.nn.Parameter]: ...

    @property
    def steps(self) -> Sequence[Step]: ...


class StepLearner(Learner, Protocol):
    """One whose steps are one change each."""

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


class Course:
    """How far a training is: the optimiser of what learns, what each step gave, the checkpoint and the word on it. Whoever takes
    the steps tells it of each; a checkpoint that is there is taken up. Of several processes the first alone keeps and tells.
    `updates`: how often what learns was changed, where a step is not one change; else 0."""

    def __init__(self, learner: Learner, job: Job, run: str, saving_s: float, stopping: Watching | None) -> None:
        self._learner, self._job, self._run, self._saving_s = learner, job, run, saving_s
        self._stopping = stopping
        self.optimiser = torch.optim.AdamW(
            list(learner.named.values()), lr=job.recipe.learning_rate, weight_decay=0.0, fused=True
        )
        self._device = next(iter(learner.named.values())).device
        self._losses: list[float] = []
        self._divergences: list[float] = []
        self._tokens, self.done, self.updates = 0, 0, 0
        found = load_checkpoint(job.checkpoint_dir, run)
        if found is not None:
            _restore(found, learner.named, self.optimiser)
            self._losses, self._divergences = list(found.losses), list(found.divergences)
            self._tokens, self.done, self.updates = found.tokens, found.step, found.updates
            if stopping is not None:
                stopping.restore(found)
        self.first = self.done
        self._times: list[float] = []
        self._freed = Freed()
        self._saved_at = time.monotonic()

    def check(self, step: Done, *gradients: float) -> None:
        """Raise Invalid if a step, or what was learned of it, is no number."""
        if not all(map(math.isfinite, (step.loss, step.divergence or 0.0, *gradients))):
            recipe = self._job.recipe
            raise Invalid(
                f"the loss is no number any more at step {self.done + 1} of {len(self._learner.steps)}: nothing can come of this "
                f"recipe on these rows (learning_rate {recipe.learning_rate:g}, gradient_norm {recipe.gradient_norm:g})"
            )

    def took(self, step: Done, began: float) -> bool:
        """The next step is done, and what learns was changed by it; it `began` then (monotonic). Whether it was the last that is
        worth taking."""
        job, steps, losses, divergences = self._job, self._learner.steps, self._losses, self._divergences
        losses.append(step.loss)
        if step.divergence is not None:
            divergences.append(step.divergence)
        self._tokens += step.tokens
        self._freed.look()
        number, self.done = self.done, self.done + 1
        last_of_epoch = self.done == len(steps) or steps[self.done].epoch != steps[number].epoch
        ends = self._stopping is not None and last_of_epoch and self._stopping.ends(self.done, self._learner.named)
        if job.process and not job.sharded:
            return ends
        due = not ends and self.done < len(steps) and time.monotonic() - self._saved_at >= job.checkpoint_every_s
        if job.sharded:  # the first one's clock counts: all must give what they have of it
            due = summed([float(due and not job.process)], self._device)[0] > 0
        if due:
            kept = _kept(self._learner.named, self.optimiser)
            so_far = Checkpoint(self._run, self.done, tuple(losses), tuple(divergences), self._tokens, kept)
            so_far = replace(so_far, updates=self.updates)
            if not job.process:
                save_checkpoint(job.checkpoint_dir, so_far if self._stopping is None else self._stopping.noted(so_far))
            self._saved_at = time.monotonic()
        self._times = [*self._times[1 - TIMED_STEPS :], time.monotonic() - began]
        usual = statistics.median(self._times)
        left = usual * (len(steps) - self.done) + self._saving_s
        job.progress(
            Progress(
                stage="training",
                step=self.done,
                steps=len(steps),
                epoch=steps[self.done - 1].epoch + 1,
                loss=step.loss,
                replay_divergence=step.divergence,
                tokens_per_s=step.tokens / usual,
                seconds_left=left if len(self._times) > 1 else None,
                values=dict(step.values),
            )
        )
        return ends

    def taken(self) -> Taken:
        """What came of the steps; what learns has the weights that were the best."""
        self._freed.all()
        so_far = (tuple(self._losses), tuple(self._divergences), self._tokens, self.first)
        if self._stopping is None:
            return Taken(*so_far)
        self._stopping.take_best(self._learner.named)
        return Taken(*so_far, tuple(self._stopping.losses), self._stopping.best_step)


def take_steps(learner: StepLearner, job: Job, run: str, saving_s: float, stopping: Stopping | None = None) -> Taken:
    """Take every step that the checkpoint has not, but for those that `stopping` spares; what learns is changed in place. `run`
    tells checkpoints of other runs from this one's, `saving_s` is what saving will take. Raises Invalid as soon as the loss is no
    number."""
    course = Course(learner, job, run, saving_s, stopping)
    parameters, steps = list(learner.named.values()), learner.steps
    for number in range(course.first, len(steps)):
        began = time.monotonic()
        for group in course.optimiser.param_groups:
            group["lr"] = learning_rate(job.recipe, number, len(steps))
        step = learner.one_step(steps[number])
        length = torch.nn.utils.clip_grad_norm_(parameters, job.recipe.gradient_norm)
        course.check(step, float(whole(length)))
        course.optimiser.step()
        course.optimiser.zero_grad(set_to_none=True)
        if course.took(step, began):
            break
    return course.taken()


def _kept(named: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}
    for name, parameter in named.items():
        kept[name] = whole(parameter)
        for key in ("exp_avg", "exp_avg_sq"):
            kept[f"{name}.{key}"] = whole(optimiser.state[parameter][key])
    return kept


def _restore(found: Checkpoint, named: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
    for name, parameter in named.items():
        with torch.no_grad():
            parameter.copy_(like(parameter, found.tensors[name]))
        optimiser.state[parameter] = {
            "step": torch.tensor(
                float(found.updates or found.step), device=parameter.device if parameter.is_cuda else "cpu"
            ),
            **{key: like(parameter, found.tensors[f"{name}.{key}"]) for key in ("exp_avg", "exp_avg_sq")},
        }
