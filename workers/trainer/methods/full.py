"""Full fine-tuning: the weights themselves learn."""

from collections.abc import Mapping

import torch

from streams.recipes import FullRecipe
from workers.trainer.job import Job
from workers.trainer.learning import learn, machine
from workers.trainer.loaded import LoadedModel
from workers.trainer.merge import write_changed
from workers.trainer.spec import Outcome


def train(job: Job) -> Outcome:
    """The model comes to lie in `out_dir/model`; there is no adapter.

    Weights are fp32 whatever the job's precision: a step is smaller than what bf16 can add to a weight. What it takes of the memory
    is told before it begins, and refused where it cannot fit (`workers.trainer.sized`)."""
    recipe = job.recipe
    assert isinstance(recipe, FullRecipe)
    everything = recipe.upper_layers == 1

    def insert(model: LoadedModel) -> Mapping[str, torch.nn.Parameter]:
        named: dict[str, torch.nn.Parameter] = {}
        upper = tuple(f"{name}." for name in model.upper_layers())
        for name, parameter in model.model.named_parameters():
            learns = everything or name.startswith((*upper, f"{model.base_name}.norm."))
            parameter.requires_grad_(learns)
            if learns:
                named[name] = parameter
        return named

    with machine(job) as clock:
        learnt = learn(job, insert, packed=not everything, dtype=torch.float32)
        model_out = job.out_dir / "model"
        write_changed(job.model_dir, learnt.named, model_out)
    return learnt.outcome(job, clock, model_out, model_out, "merged")
