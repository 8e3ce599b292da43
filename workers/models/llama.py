"""The Llama family: its configuration, and how its tensors are called on either side (transformers, llama.cpp)."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from streams.errors import Invalid
from workers.models.weights import Array

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")


class LlamaConfig(Struct, frozen=True, kw_only=True):
    """What the exporter and the engines need of config.json."""

    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    context_tokens: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    tied: bool  # the output layer is the embedding

    @property
    def tensor_names(self) -> set[str]:
        """The names that transformers gives to this model's tensors."""
        names = {f"model.layers.{i}.{leaf}.weight" for i in range(self.layers) for leaf in LAYER_NAMES}
        names |= set(OUTER_NAMES)
        if self.tied:
            names.remove("lm_head.weight")
        return names


def read_config(model_dir: Path) -> LlamaConfig:
    """Read config.json, in the spelling of transformers 4 or 5. Raises Invalid if it is no plain Llama."""
    path = model_dir / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Invalid(f"{model_dir.name}/config.json cannot be read: {error}") from error
    return parse_config(raw)


def parse_config(raw: dict[str, Any]) -> LlamaConfig:
    """See `read_config`."""
    if raw.get("architectures") != ["LlamaForCausalLM"]:
        raise Invalid(f"only LlamaForCausalLM can be served and trained; this is {raw.get('architectures')}")
    for bias in ("attention_bias", "mlp_bias"):
        if raw.get(bias):
            raise Invalid(f"config.json has {bias}: layers with biases are not supported")
    if raw.get("quantization_config"):
        raise Invalid("config.json has quantization_config: the weights must be plain numbers")
    if raw.get("hidden_act", "silu") != "silu":
        raise Invalid(f"hidden_act must be silu; got {raw['hidden_act']}")
    try:
        heads = int(raw["num_attention_heads"])
        theta, scaling = _rope(raw)
        return LlamaConfig(
            vocabulary=int(raw["vocab_size"]),
            hidden=int(raw["hidden_size"]),
            feed_forward=int(raw["intermediate_size"]),
            layers=int(raw["num_hidden_layers"]),
            heads=heads,
            key_value_heads=int(raw.get("num_key_value_heads") or heads),
            head_size=int(raw.get("head_dim") or int(raw["hidden_size"]) // heads),
            context_tokens=int(raw["max_position_embeddings"]),
            norm_epsilon=float(raw["rms_norm_eps"]),
            rope_theta=theta,
            rope_scaling=scaling,
            tied=bool(raw.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise Invalid(f"config.json lacks {error.args[0]}") from error


def _rope(raw: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    new = dict(raw.get("rope_parameters") or {})
    theta = float(new.pop("rope_theta", raw.get("rope_theta", 10000.0)))
    scaling = new or dict(raw.get("rope_scaling") or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return theta, (None if kind == "default" else {**scaling, "rope_type": kind})


def complete_config(raw: dict[str, Any]) -> dict[str, Any]:
    """The same config.json with everything that any reader looks for.

    transformers 5 writes `rope_parameters` and `dtype` only; LightLLM and transformers 4 read `rope_theta`, `rope_scaling` and
    `torch_dtype` at the top level and fall back **silently** to other values when they are absent.
    """
    config = parse_config(raw)
    rope = {"rope_theta": config.rope_theta, **(config.rope_scaling or {"rope_type": "default"})}
    return {
        **raw,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
        "rope_parameters": rope,
        "torch_dtype": "float32",
        "dtype": "float32",
        "head_dim": config.head_size,
        "num_key_value_heads": config.key_value_heads,
    }


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor that transformers calls `name`. Raises Invalid for a tensor no plain Llama has."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    match = LAYER.fullmatch(name)
    if not match or match[2] not in LAYER_NAMES:
        raise Invalid(f"unknown tensor {name}")
    return f"blk.{match[1]}.{LAYER_NAMES[match[2]]}.weight"


def interleave(weight: Array, heads: int) -> Array:
    """Rows of a query or key projection, shape (rows, ...), from transformers' order (first halves of all pairs, then second
    halves) to llama.cpp's (pairs side by side), in each of `heads`. Left out, the model stays fluent and is wrong."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def separate(weight: Array, heads: int) -> Array:
    """The inverse of `interleave`."""
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def permuted_heads(name: str, config: LlamaConfig) -> int | None:
    """Number of heads by which the tensor's rows are permuted between the two worlds; None: not permuted."""
    if name.endswith(".self_attn.q_proj.weight"):
        return config.heads
    if name.endswith(".self_attn.k_proj.weight"):
        return config.key_value_heads
    return None


def llama3_rope_factors(config: LlamaConfig) -> Array | None:
    """Divisors of the rotation frequencies, shape (head_size / 2,), as llama.cpp's tensor `rope_freqs.weight` holds them; None
    where nothing is scaled. The formula is that of Llama 3.1. Raises Invalid for another kind of scaling.
    """
    scaling = config.rope_scaling
    if scaling is None:
        return None
    if scaling["rope_type"] != "llama3":
        raise Invalid(f"rope scaling {scaling['rope_type']!r} cannot be exported; only llama3 can")
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(scaling["original_max_position_embeddings"])
    frequencies = config.rope_theta ** -(np.arange(0, config.head_size, 2, dtype=np.float64) / config.head_size)
    turns = original * frequencies / (2 * np.pi)  # rotations within the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors: Array = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
    return factors
