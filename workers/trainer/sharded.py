"""A model in shards: of every weight, of its gradient and of its moments each of the processes that train together keeps its share,
and has a layer whole while it computes with it (ZeRO's third stage, Rajbhandari et al. 2020, arXiv 1910.02054; FSDP, Zhao et al.
2023, arXiv 2304.11277, as torch's `fully_shard` does it). So what does not fit one card fits several.

All processes must run the model equally often: for each run they gather its layers from each other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

Places = Mapping[str, tuple[nn.Module, str]]


class Sharded:
    """What learns of a model in shards: `named`, this process's share of each. `run`: runs the model up to its output layer."""

    def __init__(self, named: Mapping[str, nn.Parameter], at: Places, run: Callable[..., Any]) -> None:
        self.named, self.run = named, run
        self._at = at

    def gathered(self) -> dict[str, nn.Parameter]:
        """The same, whole, on the CPU, and put into the model, which cannot be run any more."""
        found = {name: nn.Parameter(whole(weight), requires_grad=False) for name, weight in self.named.items()}
        for name, (module, last) in self._at.items():
            setattr(module, last, found[name])
        return found


def shard(
    model: nn.Module, body: Any, named: Mapping[str, nn.Parameter], device: torch.device, processes: int
) -> Sharded:
    """Keep of `model`, which every process has whole, this one's share, on its `device`. `body`: what is in it before the output
    layer; `named`: what learns. Gradients are summed up over the processes."""
    at = _places(model, named)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mesh = init_device_mesh(device.type, (processes,))
    for module in (*body.layers, model):
        part: FSDPModule = fully_shard(module, mesh=mesh)
        part.set_force_sum_reduction_for_comms(True)
        part.set_gradient_divide_factor(1.0)
    # Our losses run the output layer, from what the body gives: what is behind the layers stays whole from then until it was gone
    # back through.
    root: Any = model
    root.run_body = body.forward
    register_fsdp_forward_method(root, "run_body")

    def run(**given: Any) -> Any:
        root.reshard()  # whole since a run without a way back, it would be as it was then, whatever was learned since
        return root.run_body(**given)

    return Sharded({name: getattr(module, last) for name, (module, last) in at.items()}, at, run)


def _places(model: nn.Module, named: Mapping[str, nn.Parameter]) -> Places:
    """Where each of `named` stands: its module, and what it is called in there."""
    at = {
        id(weight): (module, last)
        for module in model.modules()
        for last, weight in module.named_parameters(recurse=False)
    }
    return {name: at[id(weight)] for name, weight in named.items()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of all of it, on the CPU. Of one in shards, for which every process must ask, it is gathered."""
    found = tensor.detach()
    full: torch.Tensor = found.full_tensor() if isinstance(found, DTensor) else found
    return full.cpu().contiguous().clone()


def like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value`, which is whole, on the device and in the shards of `tensor`."""
    if not isinstance(tensor, DTensor):
        return value.to(tensor.device)
    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)


def summed(values: Sequence[float], device: torch.device) -> list[float]:
    """Of each the sum over all processes."""
    found = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(found)
    return [float(value) for value in found]
