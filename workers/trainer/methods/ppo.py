"""PPO: LoRA, learned from answers that the model draws and a reward judges (`workers.trainer.reinforce`), merged."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from streams.recipes import PpoRecipe
from workers.trainer.job import Job
from workers.trainer.learning import learn, machine
from workers.trainer.lora import Adapter, save_adapter
from workers.trainer.merge import write_merged
from workers.trainer.methods.lora import insert
from workers.trainer.reinforce import take_steps
from workers.trainer.reward import reward_of
from workers.trainer.spec import Outcome


def train(job: Job) -> Outcome:
    """The merged model comes to lie in `out_dir/model`, the adapter in `out_dir/adapter`."""
    assert isinstance(job.recipe, PpoRecipe)
    added: list[Adapter] = []

    @contextmanager
    def without() -> Iterator[None]:
        with added[-1].off():
            yield

    with machine(job) as clock:
        take = partial(take_steps, reward_of(job), without, job)
        learnt = learn(job, partial(insert, job.recipe, added), take=take)
        model_out, adapter_out = job.out_dir / "model", job.out_dir / "adapter"
        adapter = added[-1]
        save_adapter(adapter, adapter_out, job.model_dir.name)
        write_merged(job.model_dir, {name: layer.delta() for name, layer in adapter.layers.items()}, model_out)
    return learnt.outcome(job, clock, model_out, adapter_out, "merged")
