"""The same steps by trl's SFTTrainer, in several processes: each takes its share of a step's rows, `accelerate` sums up what
they learned (DDP). Ours is what a step holds and weighs, its rate and when it is kept; trl and accelerate do the rest.

A process runs three forwards a step, of its share of the new rows, the earlier and the general ones, whatever it has of them: what
they wait for each other in must come equally often. Each share counts by the answer tokens of all, so that the sum is the step's.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
import trl
from datasets import Dataset
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback

from workers.trainer.job import Job
from workers.trainer.loaded import load_tokenizer
from workers.trainer.loop import Course, Done, Taken
from workers.trainer.plain import PlainLearner
from workers.trainer.plan import Step, learning_rate
from workers.trainer.rows import EncodedRow
from workers.trainer.stopping import Stopping

_TRL: Any = trl  # its types do not name what it gives
_SFTTrainer: Any = _TRL.SFTTrainer
IGNORED = -100  # a label that counts for nothing
FRESH, EARLIER, GENERAL = range(3)


def take_steps(learner: PlainLearner, job: Job, run: str, saving_s: float, stopping: Stopping | None = None) -> Taken:
    """As `workers.trainer.loop.take_steps`, with which it shares checkpoints, rates and what is told."""
    course = Course(learner, job, run, saving_s, stopping)
    job.checkpoint_dir.mkdir(exist_ok=True, mode=0o700)  # trl would make it for everybody to read, and what it lies in
    if course.first < len(learner.steps):
        _Trainer(learner, job, course).train()
    return course.taken()


class _Trainer(_SFTTrainer):  # type: ignore[misc]
    """trl's own loss of the labelled rows, and beside it the divergence of the general ones."""

    def __init__(self, learner: PlainLearner, job: Job, course: Course) -> None:
        self.learner, self.job, self.course = learner, job, course
        self.told: dict[int, torch.Tensor] = {}
        steps = Dataset.from_dict({"step": list(range(course.first, len(learner.steps)))})
        super().__init__(
            model=learner.model.model,
            args=_TRL.SFTConfig(
                output_dir=str(job.checkpoint_dir),  # nothing is written there: `Course` does it
                use_cpu=learner.model.device.type == "cpu",
                max_steps=len(learner.steps) - course.first,
                per_device_train_batch_size=1,
                max_grad_norm=job.recipe.gradient_norm,
                seed=job.recipe.seed % 2**32,
                ddp_find_unused_parameters=False,
                dataset_kwargs={"skip_prepare_dataset": True},
                remove_unused_columns=False,
                gradient_checkpointing=False,  # `PlainModel.keep_little` did it, where rows are long
                bf16=False,  # the weights are in their number format, and what learns is fp32
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            data_collator=lambda steps: self.share(learner.steps[steps[0]["step"]]),
            train_dataset=steps,
            processing_class=load_tokenizer(job.model_dir),
            callbacks=[_Watch(self)],
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Every process is given every step, and takes its own share of it."""
        return DataLoader(self.train_dataset, batch_size=1, collate_fn=self.data_collator)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self.optimizer = self.course.optimiser
        return self.course.optimiser

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        recipe, first, steps = self.job.recipe, self.course.first, len(self.learner.steps)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.course.optimiser,
            lambda done: learning_rate(recipe, min(first + done, steps - 1), steps) / recipe.learning_rate,
        )
        return self.lr_scheduler

    def share(self, step: Step) -> list[dict[str, torch.Tensor]]:
        """This process's rows of a step, by kind; of a kind that it has none of, a row that counts for nothing."""
        learner = self.learner
        shares = []
        for kind, numbers in enumerate(learner.kinds(learner.numbers(step))):
            if not numbers:
                continue
            own = numbers[self.job.process :: self.job.processes]
            rows = [learner.rows[number] for number in own or numbers[:1]]
            share = _padded(rows, counts=bool(own))
            share["kind"] = torch.tensor(kind)
            share["of_all"] = torch.tensor(sum(map(learner.answer_tokens, numbers)))
            if kind == GENERAL:
                share["numbers"] = torch.tensor([number - learner.replay_from for number in own])
            shares.append(share)
        return shares

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        self.learner.model.stand()
        losses: dict[int, torch.Tensor] = {}
        for share in inputs:
            kind, of_all = int(share.pop("kind")), share.pop("of_all")
            if kind == GENERAL:
                losses[kind] = self._divergence(model, share) / of_all * self.job.processes
            else:
                losses[kind] = super().compute_loss(model, share, num_items_in_batch=of_all)
        weights = {GENERAL: self.job.recipe.replay_weight}
        loss = torch.stack([found * weights.get(kind, 1.0) for kind, found in losses.items()]).sum()
        self.told = {kind: self.accelerator.reduce(found.detach().float(), "mean") for kind, found in losses.items()}
        return loss

    def step(self) -> Done:
        """What all processes together made of the step in hand."""
        learner = self.learner
        numbers = learner.numbers(learner.steps[self.course.done])
        tokens = sum(len(learner.rows[number].inputs) for number in numbers)
        divergence = self.told.get(GENERAL)
        return Done(float(self.told[FRESH]), float(divergence) if divergence is not None else None, tokens)

    def _divergence(self, model: Any, share: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of this process's general rows, the sum over their answer tokens: see `workers.trainer.losses.soft_loss`."""
        learner, numbers = self.learner, share.pop("numbers").tolist()
        share.pop("labels")
        longest = max((len(learner.wanted[number]) for number in numbers), default=1)
        logits = model(**share, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
        total: torch.Tensor = logits.sum() * 0.0  # whoever has no such row goes through the model all the same
        head = learner.wanted_head if learner.wanted_head is not None else learner.model.head.detach()
        for place, number in enumerate(numbers):
            wanted = learner.wanted[number]
            log_p = logits[place, -len(wanted) :].float().log_softmax(-1)
            log_q = functional.linear(wanted, head).float().log_softmax(-1)
            total = total + (log_q.exp() * (log_q - log_p)).sum()
        return total


class _Watch(TrainerCallback):
    """Tells `Course` of each step, and ends a training whose loss or gradients are no numbers."""

    def __init__(self, trainer: _Trainer) -> None:
        self.trainer = trainer
        self.began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.monotonic()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        trainer = self.trainer
        sums = [float(weight.grad.sum()) for weight in trainer.learner.named.values() if weight.grad is not None]
        trainer.course.check(trainer.step(), *sums)

    def on_step_end(self, args: Any, state: Any, control: Any, **__: Any) -> None:
        """Each process asks for itself whether it ends: all have the same weights."""
        if self.trainer.course.took(self.trainer.step(), self.began):
            control.should_training_stop = True


def _padded(rows: Sequence[EncodedRow], counts: bool) -> dict[str, torch.Tensor]:
    """Rows behind padding, so that all answers end together: (rows, tokens) each."""
    width = max(len(row.ids) for row in rows)
    ids, places = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    seen, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        start = width - len(row.ids)
        ids[number, start:] = torch.tensor(row.ids)
        places[number, start:] = torch.arange(len(row.ids))
        seen[number, start:] = 1
        if counts:
            labels[number, start + row.answer_at :] = ids[number, start + row.answer_at :]
    return {"input_ids": ids, "attention_mask": seen, "position_ids": places, "labels": labels}
