"""LoRA, merged; then a prefix before the model that came of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from streams.recipes import LoraPTuningRecipe, LoraRecipe, PTuningRecipe
from workers.trainer.job import Job
from workers.trainer.methods import lora, p_tuning_v2
from workers.trainer.rows import row_limit
from workers.trainer.spec import Outcome, Progress

LORA_FOLDER = "lora"  # of what was learned: the first half of it, which is in the weights
DONE = "outcome.json"


def train(job: Job) -> Outcome:
    """`out_dir/model` holds the merged weights and the prefix under `adapter/`; `out_dir/adapter` the prefix, and what was merged
    under `lora/`."""
    recipe = job.recipe
    assert isinstance(recipe, LoraPTuningRecipe)
    for folder in (job.out_dir, job.checkpoint_dir):
        folder.mkdir(exist_ok=True, mode=0o700)  # what they lie in must be there: see `save_checkpoint`
    first, first_resumed = _first(job, recipe)
    second = p_tuning_v2.train(
        replace(
            job,
            model_dir=Path(first.model_dir),
            reference_dir=job.reference_dir or job.model_dir,
            recipe=_prefix_recipe(recipe),
            checkpoint_dir=job.checkpoint_dir / "prefix",
            progress=_second_part(job.progress, first.steps, recipe),
        )
    )
    shutil.copytree(first.adapter_dir, Path(second.adapter_dir) / LORA_FOLDER, dirs_exist_ok=True)
    return replace(
        second,
        steps=first.steps + second.steps,
        epoch_losses=first.epoch_losses + second.epoch_losses,
        tokens=first.tokens + second.tokens,
        seconds=second.seconds + (0 if first_resumed == first.steps else first.seconds),
        cpu_seconds=second.cpu_seconds + (0 if first_resumed == first.steps else first.cpu_seconds),
        resumed_at_step=first_resumed + (second.resumed_at_step if first_resumed == first.steps else 0),
        fallback=first.fallback,
        metrics=_both(first.metrics, second.metrics)
        | {"lora_loss": first.final_loss, "prefix_loss": second.final_loss},
    )


def _first(job: Job, recipe: LoraPTuningRecipe) -> tuple[Outcome, int]:
    """The first half, and at which of its steps it was taken up: all of them, if it was done before."""
    folder = job.out_dir / LORA_FOLDER
    try:
        done = msgspec.json.decode((folder / DONE).read_bytes(), type=Outcome)
    except (FileNotFoundError, msgspec.MsgspecError):
        pass
    else:
        return done, done.steps
    made = lora.train(
        replace(
            job,
            recipe=_lora_recipe(recipe, row_limit(job.model_dir, recipe)),
            out_dir=folder,
            checkpoint_dir=job.checkpoint_dir / LORA_FOLDER,
            progress=_first_part(job.progress, recipe),
        )
    )
    arriving = folder / f"{DONE}.new"
    arriving.write_bytes(msgspec.json.encode(made))
    arriving.replace(folder / DONE)  # whole or not at all
    return made, made.resumed_at_step


def _lora_recipe(recipe: LoraPTuningRecipe, row_tokens: int) -> LoraRecipe:
    """`row_tokens`: what the prefix leaves of them, so that both halves learn from the same rows."""
    own = {name: getattr(recipe, name) for name in LoraRecipe.__struct_fields__}
    return LoraRecipe(**own | {"row_tokens": row_tokens})


def _both(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """What each half tells of where it ended: under the half's name, and the planned steps together."""
    named = {
        f"{half}_{name}": value for half, told in (("lora", first), ("prefix", second)) for name, value in told.items()
    }
    planned = [told["planned_steps"] for told in (first, second) if "planned_steps" in told]
    return named | ({"planned_steps": sum(planned)} if planned else {})


def _prefix_recipe(recipe: LoraPTuningRecipe) -> PTuningRecipe:
    shared = {name: getattr(recipe, name) for name in PTuningRecipe.__struct_fields__}
    return PTuningRecipe(**shared | {"learning_rate": recipe.prefix_learning_rate, "epochs": recipe.prefix_epochs})


def _first_part(progress: Callable[[Progress], None], recipe: LoraPTuningRecipe) -> Callable[[Progress], None]:
    def tell(seen: Progress) -> None:
        # What a step of the second half takes nobody has seen yet.
        steps = seen.steps + seen.steps // recipe.epochs * recipe.prefix_epochs
        progress(replace(seen, steps=steps, seconds_left=None))

    return tell


def _second_part(
    progress: Callable[[Progress], None], before: int, recipe: LoraPTuningRecipe
) -> Callable[[Progress], None]:
    def tell(seen: Progress) -> None:
        epoch = seen.epoch + recipe.epochs if seen.epoch else 0
        progress(replace(seen, step=before + seen.step, steps=before + seen.steps, epoch=epoch))

    return tell
