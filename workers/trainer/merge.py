"""The merged model: the base's weights in fp32 plus what was learnt, in a folder that transformers and
LightLLM read.

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

from streams.errors import Invalid

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


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a model folder (one file or several with an index), in fp32 on the CPU."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        if not (folder / name).exists():
            raise Invalid(f"{folder.name}: {name} is missing")
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
    weights = read_weights(base)
    for name, delta in deltas.items():
        weight = weights.get(f"{name}.weight")
        if weight is None or weight.shape != delta.shape:
            raise Invalid(f"{base.name}: no weight {name} of the shape that was trained")
        weight += delta
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(plain_config(config), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    for name in COPIED:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
