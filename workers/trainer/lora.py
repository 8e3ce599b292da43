"""LoRA on linear layers (Hu et al. 2021, arXiv 2106.09685), and its form on disk as PEFT reads it."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from streams.errors import Invalid
from streams.recipes import LoraRecipe, RewardRecipe


class LoraLinear(nn.Module):
    """`base` as it is, plus `scale` · B·A. A and B are fp32 whatever the base is kept in; B starts at zero:
    no change."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.applied = True
        bound = 1 / math.sqrt(base.in_features)  # what Kaiming's rule with a = sqrt(5) comes to, PEFT's choice
        a = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.a = nn.Parameter(a.to(base.weight.device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        if not self.applied:
            return y
        low = functional.linear(x, self.a.to(x.dtype))
        return y + functional.linear(low, (self.b * self.scale).to(x.dtype))

    def delta(self) -> torch.Tensor:
        """What merging adds to the weight: (out, in), fp32, on the CPU."""
        return (self.scale * (self.b.detach().cpu() @ self.a.detach().cpu())).float()


class Adapter:
    """The LoRA layers put into a model: `layers` by the full name of the linear layer they stand for."""

    def __init__(self, layers: Mapping[str, LoraLinear], recipe: LoraRecipe | RewardRecipe) -> None:
        self.layers = dict(layers)
        self.recipe = recipe

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by a name that stays the same over restarts."""
        named: dict[str, nn.Parameter] = {}
        for name, layer in self.layers.items():
            named[f"{name}.a"], named[f"{name}.b"] = layer.a, layer.b
        return named

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it the model is what it was without the adapter."""
        for layer in self.layers.values():
            layer.applied = False
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.applied = True


def add_adapter(model: nn.Module, upper: Mapping[str, nn.Module], recipe: LoraRecipe | RewardRecipe) -> Adapter:
    """Freeze `model` and put a LoRA layer around each linear layer of the `upper` layers (full name to
    module). The start values depend on `recipe.seed` alone. Raises Invalid where there is none."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(recipe.seed)
    scale = recipe.alpha / recipe.rank
    layers: dict[str, LoraLinear] = {}
    for layer_name, layer in upper.items():
        found = [(name, module) for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
        for name, module in found:
            parent, _, last = name.rpartition(".")
            lora = LoraLinear(module, recipe.rank, scale, generator)
            setattr(layer.get_submodule(parent), last, lora)
            layers[f"{layer_name}.{name}"] = lora
    if not layers:
        raise Invalid(f"{type(model).__name__}: there is no linear layer that LoRA could be put around")
    return Adapter(layers, recipe)


def save_adapter(adapter: Adapter, folder: Path, base_name: str, score: torch.Tensor | None = None) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` as `PeftModel.from_pretrained` reads
    them. `score`: the head (1, width) of a model that scores, and does not speak."""
    folder.mkdir(exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in adapter.layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.a.detach().cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.b.detach().cpu().contiguous()
    if score is not None:
        tensors["base_model.model.score.weight"] = score.detach().cpu().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if score is None else "SEQ_CLS",
        **({} if score is None else {"modules_to_save": ["score"]}),
        "base_model_name_or_path": base_name,
        "r": adapter.recipe.rank,
        "lora_alpha": adapter.recipe.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": sorted(adapter.layers),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
