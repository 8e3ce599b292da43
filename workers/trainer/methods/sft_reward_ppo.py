"""What people corrected, then a model of what they prefer, then answers of the model's own that this one judges.

The first adapter is merged, as in `sft_dpo`: the model that came of it is what the third stage begins with, and its reference.
"""

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from streams.recipes import LoraRecipe, PpoRecipe, RewardRecipe, SftRewardPpoRecipe
from workers.trainer.job import Job
from workers.trainer.spec import Outcome
from workers.trainer.stages import Stage, joined, run_stages


def train(job: Job) -> Outcome:
    """The merged model comes to lie in the folder of the last stage. Where nobody corrected anything, it begins with the second.
    Raises Invalid where too little is preferred for a reward model."""
    assert isinstance(job.recipe, SftRewardPpoRecipe)
    stages = stages_of(job.recipe)
    stages = stages if job.rows else stages[1:]
    return joined(stages, run_stages(job, stages))


def stages_of(recipe: SftRewardPpoRecipe) -> list[Stage]:
    own = {name: getattr(recipe, name) for name in PpoRecipe.__struct_fields__}
    lora = {name: own[name] for name in LoraRecipe.__struct_fields__}
    sft = LoraRecipe(**lora | {"learning_rate": recipe.sft_learning_rate, "epochs": recipe.sft_epochs})
    shared = {name: own[name] for name in RewardRecipe.__struct_fields__ if name in own}
    reward = RewardRecipe(**shared | {"learning_rate": recipe.reward_learning_rate, "epochs": recipe.reward_epochs})
    return [Stage("sft", sft), Stage("reward", reward, answers=False), Stage("ppo", PpoRecipe(**own), _judged)]


def _judged(job: Job, before: Sequence[Outcome]) -> Job:
    """By the reward model of the stage before. Each correction is known by now, and comes again so that it is not forgotten."""
    return replace(job, rows=(), earlier=job.rows + job.earlier, reward_dir=Path(before[-1].model_dir))
