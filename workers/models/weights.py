"""Safetensors without torch: read tensor by tensor from a memory map, write tensor by tensor, so that memory stays small.

numpy has no bfloat16, which the `safetensors` package therefore cannot hand out as arrays; the format itself is eight bytes of
length, a JSON header and raw little-endian numbers.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.errors import Invalid

Array = NDArray[Any]
Load = Callable[[], Array]
ALIGNMENT = 8
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class Tensor(msgspec.Struct, frozen=True):
    """One tensor that is read only when asked for: `load()` gives float32 of shape `shape`."""

    name: str
    shape: tuple[int, ...]
    load: Load


def tensors_of(model_dir: Path) -> list[Tensor]:
    """Every tensor of a model directory (one file, or shards with their index), sorted by name.

    Raises Invalid if there are no weights, a shard is missing or cut short, or a number format is unknown.
    """
    index = model_dir / "model.safetensors.index.json"
    if index.exists():
        try:
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise Invalid(f"{model_dir.name}/{index.name} cannot be read ({type(error).__name__})") from error
    elif not (model_dir / "model.safetensors").is_file() and any(model_dir.glob("pytorch_model*.bin*")):
        from workers.models.pickled import tensors_in_pickles  # torch, which nothing else here needs

        return tensors_in_pickles(model_dir)
    else:
        shards = ["model.safetensors"]
    found: list[Tensor] = []
    for name in shards:
        path = model_dir / name
        if Path(name).name != name or not path.is_file():
            named = f", which {index.name} names" if index.exists() else ": the weights must be safetensors"
            raise Invalid(f"{model_dir.name} has no {name}{named}")
        found.extend(_tensors_in(path))
    return sorted(found, key=lambda tensor: tensor.name)


def _tensors_in(path: Path) -> list[Tensor]:
    raw = np.memmap(path, np.uint8, "r")
    if len(raw) < 8:
        raise Invalid(f"{path.name} is cut short")
    start = 8 + int(raw[:8].view("<u8")[0])
    if start > len(raw):
        raise Invalid(f"{path.name} is cut short")
    try:
        header: dict[str, dict[str, Any]] = json.loads(raw[8:start].tobytes())
    except ValueError as error:
        raise Invalid(f"{path.name} is no safetensors file") from error
    header.pop("__metadata__", None)
    found: list[Tensor] = []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if start + end > len(raw):
            raise Invalid(f"{path.name} is cut short at {name}")
        if entry["dtype"] not in _BYTES:
            raise Invalid(f"{path.name}: {name} holds {entry['dtype']}; F32, F16 and BF16 can be read")
        shape = tuple(entry["shape"])
        if end - begin != _BYTES[entry["dtype"]] * int(np.prod(shape, dtype=np.int64)):
            raise Invalid(f"{path.name}: {name} has not as many bytes as its shape {shape} takes")
        found.append(Tensor(name, shape, _reader(raw, start + begin, start + end, entry["dtype"], shape)))
    return found


def _reader(raw: Array, begin: int, end: int, dtype: str, shape: tuple[int, ...]) -> Load:
    def load() -> Array:
        part = raw[begin:end]
        if dtype == "F32":
            numbers = part.view("<f4")
        elif dtype == "F16":
            numbers = part.view("<f2").astype(np.float32)
        else:
            numbers = (part.view("<u2").astype(np.uint32) << 16).view(np.float32)
        return numbers.reshape(shape)

    return load


def write_float32(path: Path, tensors: Iterable[Tensor]) -> None:
    """Write `tensors` in the order given as one float32 safetensors file. The artifact store syncs it."""
    planned = list(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in planned:
        size = 4 * int(np.prod(tensor.shape, dtype=np.int64))
        header[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little"))
        file.write(head)
        for tensor in planned:
            numbers = np.ascontiguousarray(tensor.load(), dtype="<f4")
            if numbers.shape != tensor.shape:
                raise Invalid(f"{tensor.name} has shape {numbers.shape}, announced as {tensor.shape}")
            file.write(numbers.data)
