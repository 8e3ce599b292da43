"""P-Tuning v2: keys and values before every layer's own are learned, and the model stays as it is."""

from collections.abc import Mapping
from pathlib import Path

import torch

from streams.recipes import PTuningRecipe
from workers.trainer.job import Job
from workers.trainer.learning import Learnt, learn, machine
from workers.trainer.loaded import LoadedModel
from workers.trainer.merge import write_beside
from workers.trainer.plain import PlainModel
from workers.trainer.prefix import Prefix
from workers.trainer.spec import Outcome


def learn_prefix(job: Job, adapter_out: Path) -> Learnt:
    """Learn the prefix of the job's recipe, and write it."""
    recipe = job.recipe
    assert isinstance(recipe, PTuningRecipe)
    put: list[Prefix] = []

    def insert(model: LoadedModel) -> Mapping[str, torch.nn.Parameter]:
        assert isinstance(model, PlainModel)
        put.append(Prefix(model, recipe))
        return put[-1].parameters()

    learnt = learn(job, insert, packed=False)
    put[-1].save(adapter_out, job.model_dir.name)
    return learnt


def train(job: Job) -> Outcome:
    """`out_dir/model` holds the base's weights as they are, and the prefix under `adapter/`, which lies in `out_dir/adapter`
    too."""
    with machine(job) as clock:
        model_out, adapter_out = job.out_dir / "model", job.out_dir / "adapter"
        learnt = learn_prefix(job, adapter_out)
        write_beside(job.model_dir, adapter_out, model_out)
    return learnt.outcome(job, clock, model_out, adapter_out, "adapter")
