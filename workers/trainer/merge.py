"""What a training writes: the base's weights in fp32 plus what was learnt, or as they are with it beside them, in a folder that
transformers and LightLLM read.

Merging is done in fp32 because bf16 loses small changes (it kept 91 % of the most likely tokens, measured).
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from streams.artifacts import link_or_copy
from streams.errors import Invalid

ADAPTER_FOLDER = "adapter"  # of a model folder: what whoever runs it has to apply to its weights
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def weight_files(folder: Path) -> list[str]:
    """The names of a model folder's files of weights: one, or several that an index names. Raises Invalid if one is missing."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        if not (folder / name).exists():
            raise Invalid(f"{folder.name}: {name} is missing")
    return names


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a model folder, in fp32 on the CPU."""
    weights: dict[str, torch.Tensor] = {}
    for name in weight_files(folder):
        with safe_open(folder / name, framework="pt", device="cpu") as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                tensor = file.get_tensor(key)
                weights[key] = tensor.float() if tensor.is_floating_point() else tensor
    return weights


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the keys that older readers look for. LightLLM falls back **silently** where they are
    missing."""
    plain = dict(config)
    rope = dict(plain.get("rope_parameters") or {})
    if "rope_theta" in rope:
        plain["rope_theta"] = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default":
        plain["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    plain.setdefault("rope_scaling", None)
    plain["dtype"] = plain["torch_dtype"] = "float32"
    return plain


def write_merged(base: Path, deltas: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write `base` with each weight of `deltas` (full module name to (out, in)) moved by it, into `folder`,
    which is emptied. Raises Invalid if the base has no such weight."""
    _write(base, _merged(base, deltas), folder)


def write_scoring(
    base: Path, deltas: Mapping[str, torch.Tensor], score: torch.Tensor, changes: Mapping[str, Any], folder: Path
) -> None:
    """As `write_merged`, but with the head `score` (1, width) in the place of the output layer, and `changes` of the config that
    say so."""
    weights = _merged(base, deltas)
    weights.pop("lm_head.weight", None)
    weights["score.weight"] = score.detach().float().cpu().contiguous()
    _write(base, weights, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | dict(changes)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _merged(base: Path, deltas: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = read_weights(base)
    for name, delta in deltas.items():
        weight = weights.get(f"{name}.weight")
        if weight is None or weight.shape != delta.shape:
            raise Invalid(f"{base.name}: no weight {name} of the shape that was trained")
        weight += delta
    return weights


def write_changed(base: Path, learned: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write `base` with the weights that are in `learned` (full name to tensor) taken from there, into `folder`, which is emptied.
    Raises Invalid if the base has none of that name and shape."""
    weights = read_weights(base)
    for name, weight in learned.items():
        if name not in weights or weights[name].shape != weight.shape:
            raise Invalid(f"{base.name}: no weight {name} of the shape that was trained")
        weights[name] = weight.detach().float().cpu().contiguous()
    _write(base, weights, folder)


def write_beside(base: Path, adapter: Path, folder: Path) -> None:
    """Write `base` as it is with `adapter`, which cannot be merged, under `adapter/`, into `folder`, which is emptied. Weights are
    hard-linked where the disk allows it: they are never written to."""
    _emptied(folder)
    index = [name for name in ("model.safetensors.index.json",) if (base / name).exists()]
    for name in (*weight_files(base), *index):
        link_or_copy(base / name, folder / name)
    _write_rest(base, folder)
    (folder / ADAPTER_FOLDER).mkdir(mode=0o700)
    for file in sorted(adapter.iterdir()):
        link_or_copy(file, folder / ADAPTER_FOLDER / file.name)


def _write(base: Path, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    _emptied(folder)
    save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
    _write_rest(base, folder)


def _emptied(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)


def _write_rest(base: Path, folder: Path) -> None:
    """What a model folder holds beside its weights."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(plain_config(config), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    for name in COPIED:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
