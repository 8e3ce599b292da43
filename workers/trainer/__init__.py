"""Training: one method, one file under `methods`, one row in the table below.

Nothing of torch is imported here, so that the worker's main process stays small: the heavy part runs in a child.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Protocol

from msgspec import Struct

from streams.recipes import (
    BroughtRecipe,
    DpoRecipe,
    FullRecipe,
    KtoRecipe,
    LoraPTuningRecipe,
    LoraRecipe,
    Needs,
    PpoRecipe,
    PretrainingRecipe,
    PTuningRecipe,
    Recipe,
    RewardRecipe,
    SftDpoRecipe,
    SftRewardPpoRecipe,
)
from workers.trainer.job import Job
from workers.trainer.spec import Outcome


class TrainMethod(Protocol):
    """Train as the job says, and say what came of it. Same job, machine, device and threads: the same bytes, interrupted or not.
    Raises Invalid if the model or the rows cannot be trained, Unavailable if this machine cannot."""

    def __call__(self, job: Job) -> Outcome: ...


class Method(Struct, frozen=True):
    """`module`: where the method's function `train` is; it takes torch in, and is loaded when it is needed. `needs`: what the
    engine must be able to do that serves what comes of it. `writes`: how much of the disk a training takes at most, in sizes of its
    base: what it makes, a checkpoint, and one more while that is replaced. `together`: whether several processes can train it (see
    `workers.trainer.by_trl`); another is trained by one, on whatever machine."""

    module: str
    needs: Needs
    writes: float
    together: bool = False

    def load(self) -> TrainMethod:
        train: TrainMethod = import_module(self.module).train
        return train


METHODS: Mapping[type[Recipe], Method] = {
    LoraRecipe: Method("workers.trainer.methods.lora", "merged", 1.5, together=True),
    FullRecipe: Method("workers.trainer.methods.full", "merged", 7.0, together=True),
    PTuningRecipe: Method("workers.trainer.methods.p_tuning_v2", "adapter", 1.5),
    LoraPTuningRecipe: Method("workers.trainer.methods.lora_p_tuning_v2", "adapter", 2.5),
    PretrainingRecipe: Method("workers.trainer.methods.continued_pretraining", "merged", 2.5, together=True),
    DpoRecipe: Method("workers.trainer.methods.lora", "merged", 1.5),
    KtoRecipe: Method("workers.trainer.methods.lora", "merged", 1.5),
    PpoRecipe: Method("workers.trainer.methods.ppo", "merged", 2.0),
    SftRewardPpoRecipe: Method("workers.trainer.methods.sft_reward_ppo", "merged", 5.0),
    RewardRecipe: Method("workers.trainer.methods.reward", "merged", 1.5),
    SftDpoRecipe: Method("workers.trainer.methods.sft_dpo", "merged", 3.0),
    BroughtRecipe: Method("workers.trainer.methods.brought", "merged", 1.5),
}
