"""LoRA, merged; then a prefix before the model that came of it."""

from msgspec.structs import replace

from streams.recipes import LoraPTuningRecipe, LoraRecipe, PTuningRecipe
from workers.trainer.job import Job
from workers.trainer.rows import row_limit
from workers.trainer.spec import Outcome
from workers.trainer.stages import Stage, joined, run_stages


def train(job: Job) -> Outcome:
    """`out_dir/prefix/model` holds the merged weights and the prefix under `adapter/`; `out_dir/prefix/adapter` the prefix,
    and what was merged under `lora/`."""
    recipe = job.recipe
    assert isinstance(recipe, LoraPTuningRecipe)
    stages = [
        Stage("lora", _lora_recipe(recipe, row_limit(job.model_dir, recipe))),
        Stage("prefix", _prefix_recipe(recipe)),
    ]
    lora, prefix = run_stages(job, stages)
    return replace(
        joined(stages, (lora, prefix)), rows=prefix.rows, rows_left_out=prefix.rows_left_out, fallback=lora.fallback
    )


def _lora_recipe(recipe: LoraPTuningRecipe, row_tokens: int) -> LoraRecipe:
    """`row_tokens`: what the prefix leaves of them, so that both halves learn from the same rows."""
    own = {name: getattr(recipe, name) for name in LoraRecipe.__struct_fields__}
    return LoraRecipe(**own | {"row_tokens": row_tokens})


def _prefix_recipe(recipe: LoraPTuningRecipe) -> PTuningRecipe:
    shared = {name: getattr(recipe, name) for name in PTuningRecipe.__struct_fields__}
    return PTuningRecipe(**shared | {"learning_rate": recipe.prefix_learning_rate, "epochs": recipe.prefix_epochs})
