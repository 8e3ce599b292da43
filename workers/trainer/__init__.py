"""Training: one method, one function, one line in the table below.

Nothing of torch is imported here, so that the worker's main process stays small: the heavy part runs in a
child.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from streams.recipes import LoraRecipe
from workers.trainer.spec import Progress, TrainingResult, TrainingRow


class TrainMethod(Protocol):
    """Train on `rows` from `model_dir`, write a merged model and an adapter under `out_dir`, and say what
    came of it.

    `replay_prompts` are general questions whose answers must not change (not people's words), `earlier` the
    rows of former rounds, `reference_dir` the domain's first base (None: `model_dir` is it), whose answers to
    the general prompts are taken, `answers_dir` where they are kept. What `checkpoint_dir` holds is taken up again, with the
    result of a run that was never interrupted. Both lie in a folder that is there: one that is gone is not made again, and an
    OSError ends the training. Raises Invalid if the model or the rows cannot be trained.
    """

    def __call__(
        self,
        model_dir: Path,
        rows: Sequence[TrainingRow],
        replay_prompts: Sequence[str],
        earlier: Sequence[TrainingRow],
        recipe: LoraRecipe,
        out_dir: Path,
        progress: Callable[[Progress], None],
        checkpoint_dir: Path,
        *,
        reference_dir: Path | None = None,
        answers_dir: Path | None = None,
        threads: int = 1,
        device: str = "cpu",
        precision: str = "auto",
        checkpoint_every_s: float = 30.0,
    ) -> TrainingResult: ...


def _lora() -> TrainMethod:
    from workers.trainer.loop import train_lora

    return train_lora


METHODS: Mapping[str, Callable[[], TrainMethod]] = {"lora": _lora}
"""A recipe's `method` to what loads its function (loading takes torch in, so it is put off until it is
called)."""
