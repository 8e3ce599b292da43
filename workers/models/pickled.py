"""Weights in torch's own files (`pytorch_model.bin`, one or several with an index), read without running anything that is in them:
`torch.load(weights_only=True)` knows tensors and refuses whatever else a pickle may hold."""

import json
import pickle
from pathlib import Path
from typing import Any

from streams.errors import Invalid
from workers.models.weights import Array, Load, Tensor

FILE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def tensors_in_pickles(model_dir: Path) -> list[Tensor]:
    """Every tensor, sorted by name; `load()` gives float32. Raises Invalid for a missing or broken file and for one that holds
    anything but tensors."""
    import torch

    names = [FILE]
    if (model_dir / INDEX).is_file():
        try:
            names = sorted(set(json.loads((model_dir / INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise Invalid(f"{model_dir.name}/{INDEX} cannot be read ({type(error).__name__})") from error
    found: list[Tensor] = []
    for name in names:
        path = model_dir / name
        if Path(name).name != name or not path.is_file():
            raise Invalid(f"{model_dir.name} has no {name}, which {INDEX} names")
        try:
            held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError:
            raise Invalid(f"{model_dir.name}/{name} holds more than tensors: it is not opened") from None
        except (RuntimeError, OSError, ValueError, EOFError) as error:
            raise Invalid(f"{model_dir.name}/{name} is cut short or broken ({type(error).__name__})") from error
        for key, tensor in held.items():
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                raise Invalid(f"{model_dir.name}/{name}: {key} is no tensor of plain numbers")
            found.append(Tensor(key, tuple(tensor.shape), _loader(tensor)))
    return sorted(found, key=lambda tensor: tensor.name)


def _loader(tensor: Any) -> Load:
    def load() -> Array:
        numbers: Array = tensor.float().contiguous().numpy()
        return numbers

    return load
