"""Full fine-tuning: the weights themselves learn."""

import json
from collections.abc import Mapping

import psutil
import torch

from streams.recipes import FullRecipe
from workers.trainer.job import Job
from workers.trainer.learning import encode, learn, machine
from workers.trainer.loaded import LoadedModel
from workers.trainer.memory import Memory, check_room, full_memory, size_of
from workers.trainer.merge import write_changed
from workers.trainer.plain import TOKENS_AT_ONCE
from workers.trainer.spec import Outcome


def train(job: Job) -> Outcome:
    """The model comes to lie in `out_dir/model`; there is no adapter.

    Weights are fp32 whatever the job's precision: a step is smaller than what bf16 can add to a weight. Raises Invalid if the
    machine has too little memory for it."""
    recipe = job.recipe
    assert isinstance(recipe, FullRecipe)
    everything = recipe.upper_layers == 1
    named: dict[str, torch.nn.Parameter] = {}

    def insert(model: LoadedModel) -> Mapping[str, torch.nn.Parameter]:
        upper = tuple(f"{name}." for name in model.upper_layers())
        for name, parameter in model.model.named_parameters():
            learns = everything or name.startswith((*upper, f"{model.base_name}.norm."))
            parameter.requires_grad_(learns)
            if learns:
                named[name] = parameter
        return named

    with machine(job) as clock:
        memory = memory_of(job)
        if job.device == "cpu":
            check_room(memory, psutil.virtual_memory().total)
        learnt = learn(job, insert, packed=not everything, dtype=torch.float32)
        model_out = job.out_dir / "model"
        write_changed(job.model_dir, named, model_out)
    stated = {f"memory_{part}_mb": round(size / 1e6, 1) for part, size in memory.parts().items()}
    return learnt.outcome(job, clock, model_out, model_out, "merged", stated)


def memory_of(job: Job) -> Memory:
    """What the job will take. Raises Invalid."""
    recipe, encoded = job.recipe, encode(job)
    config = json.loads((job.model_dir / "config.json").read_text(encoding="utf-8"))
    size = size_of(job.model_dir, config, recipe.upper_layers)
    longest = max(len(row.ids) for row in (*encoded.fresh, *encoded.old))
    rows = recipe.batch_rows + recipe.earlier_rows_per_step + recipe.replay_rows_per_step
    tokens = min(rows * longest, max(TOKENS_AT_ONCE, longest)) if recipe.upper_layers == 1 else rows * longest
    return full_memory(size, tokens, longest)
