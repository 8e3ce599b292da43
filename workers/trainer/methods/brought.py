"""An adapter that was trained elsewhere: merged as PEFT merges it, and judged like any other. Nothing is trained."""

import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from streams.errors import Invalid
from streams.recipes import BroughtRecipe
from workers.trainer.brought import ADAPTER_FILES, check_adapter, lora_layers
from workers.trainer.job import Job
from workers.trainer.learning import encode, machine
from workers.trainer.loop import stands
from workers.trainer.merge import write_merged
from workers.trainer.methods.continued_pretraining import perplexity
from workers.trainer.plain import PlainModel
from workers.trainer.spec import Outcome


def train(job: Job) -> Outcome:
    """The merged model comes to lie in `out_dir/model`, the adapter as it was in `out_dir/adapter`. The loss that is told is that
    of the job's new rows under it."""
    assert isinstance(job.recipe, BroughtRecipe) and job.brought_dir is not None
    job.recipe.check()
    job.progress(stands("preparing", 0))
    check_adapter(job.brought_dir)
    with machine(job) as clock:
        encoded = encode(job)
        model = PlainModel(job.model_dir, job.recipe.upper_layers, torch.float32, torch.device(job.device))
        deltas = put_into(model, job.brought_dir)
        loss = math.log(perplexity(model, encoded.fresh))
        job.progress(stands("saving", 0))
        job.out_dir.mkdir(exist_ok=True, mode=0o700)
        model_out, adapter_out = job.out_dir / "model", job.out_dir / "adapter"
        adapter_out.mkdir(exist_ok=True)
        for name in ADAPTER_FILES:
            shutil.copyfile(job.brought_dir / name, adapter_out / name)
        write_merged(job.model_dir, deltas, model_out)
    return Outcome(
        steps=0,
        epoch_losses=(),
        final_loss=loss,
        final_replay_divergence=None,
        tokens=0,
        rows=len(encoded.fresh),
        rows_left_out=encoded.left_out,
        seconds=time.monotonic() - clock.started,
        cpu_seconds=time.process_time() - clock.cpu_started,
        resumed_at_step=0,
        precision="float32",
        model_dir=str(model_out),
        adapter_dir=str(adapter_out),
    )


def put_into(model: PlainModel, adapter: Path) -> dict[str, torch.Tensor]:
    """Put the adapter into the model, and give what merging adds to each weight: full module name to (out, in), fp32. Raises
    Invalid if it is not one of this model."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    peft: Any = PeftModel
    try:
        adapted = peft.from_pretrained(model.model, str(adapter), local_files_only=True)
    except (ValueError, KeyError, RuntimeError, OSError, TypeError) as error:
        raise Invalid(f"the adapter is not one of this model ({type(error).__name__})") from error
    found: dict[str, torch.Tensor] = {}
    for name, module in adapted.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            found[name] = layer.get_delta_weight("default").detach().float()
    if beside := lora_layers(adapter) - found.keys():
        raise Invalid(f"the adapter is not one of this model: it changes {min(beside)}, which is not there")
    return found
