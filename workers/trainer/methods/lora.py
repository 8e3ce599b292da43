"""LoRA: a small change to the weights of the upper layers, learned beside them and merged into them. What learns from what people
prefer (`dpo`, `kto`) is this, with one loss more (`workers.trainer.preference`)."""

from collections.abc import Mapping
from functools import partial

import torch

from streams.recipes import LoraRecipe
from workers.trainer.job import Job
from workers.trainer.learning import learn, machine
from workers.trainer.loaded import LoadedModel
from workers.trainer.lora import Adapter, add_adapter, save_adapter
from workers.trainer.merge import write_merged
from workers.trainer.spec import Outcome


def insert(recipe: LoraRecipe, added: list[Adapter], model: LoadedModel) -> Mapping[str, torch.nn.Parameter]:
    """Put the adapter in, and note it in `added`."""
    added.append(add_adapter(model.model, model.upper_layers(), recipe))
    return added[-1].parameters()


def train(job: Job) -> Outcome:
    """The merged model comes to lie in `out_dir/model`, the adapter in `out_dir/adapter`."""
    assert isinstance(job.recipe, LoraRecipe)
    with machine(job) as clock:
        added: list[Adapter] = []
        learnt = learn(job, partial(insert, job.recipe, added))
        model_out, adapter_out = job.out_dir / "model", job.out_dir / "adapter"
        (adapter,) = added
        save_adapter(adapter, adapter_out, job.model_dir.name)
        write_merged(job.model_dir, {name: layer.delta() for name, layer in adapter.layers.items()}, model_out)
    return learnt.outcome(job, clock, model_out, adapter_out, "merged")
