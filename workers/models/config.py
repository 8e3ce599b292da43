"""A model's config.json, in the spelling of transformers 4 or 5, and the tensors that it promises."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from streams.errors import Invalid
from workers.models.families import FAMILIES, OUTER, Family, Leaf, Size
from workers.models.weights import Tensor, tensors_of

# Only Llama 3's scaling and YaRN have an original context of their own.
_NEEDED = {
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
# By these YaRN's attention factor or ramp differs from what llama.cpp derives.
_YARN_BY_HAND = ("attention_factor", "mscale", "mscale_all_dim", "truncate")
_BIASES = ("attention_bias", "mlp_bias")


class Weight(Struct, frozen=True, kw_only=True):
    """One tensor that a model must hold. `heads`: by how many its rows are permuted between the two worlds; None: not permuted."""

    name: str
    gguf: str
    shape: tuple[int, ...]
    heads: int | None = None


class ModelConfig(Struct, frozen=True, kw_only=True):
    """What the exporter and the engines need of config.json."""

    family: Family
    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    context_tokens: int  # as far as attention reaches
    norm_epsilon: float
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    rotated: int  # of a head's dimensions
    biases: frozenset[str]  # the keys that switch them on
    tied: bool  # the output layer is the embedding

    def size(self, name: Size) -> int:
        """One of the sizes that `families.Leaf.shape` names."""
        return {
            "hidden": self.hidden,
            "queries": self.heads * self.head_size,
            "keys": self.key_value_heads * self.head_size,
            "head": self.head_size,
            "feed_forward": self.feed_forward,
            "gate_and_up": 2 * self.feed_forward,
            "vocabulary": self.vocabulary,
        }[name]

    @property
    def weights(self) -> dict[str, Weight]:
        """Every tensor of this model, by transformers' name."""
        outer = (leaf for leaf in OUTER if not (self.tied and leaf.name == "lm_head"))
        found = [weight for leaf in outer for weight in self._of(leaf, "", "")]
        for i in range(self.layers):
            for leaf in self.family.layer:
                found += self._of(leaf, f"model.layers.{i}.", f"blk.{i}.")
        return {weight.name: weight for weight in found}

    def _of(self, leaf: Leaf, prefix: str, gguf_prefix: str) -> Iterator[Weight]:
        heads = None
        if leaf.permuted:
            heads = self.heads if leaf.shape[0] == "queries" else self.key_value_heads
        shape = tuple(self.size(name) for name in leaf.shape)
        parts = [("weight", shape)]
        if leaf.bias is True or leaf.bias in self.biases:
            parts.append(("bias", shape[:1]))
        for part, size in parts:
            name, gguf = f"{prefix}{leaf.name}.{part}", f"{gguf_prefix}{leaf.gguf}.{part}"
            yield Weight(name=name, gguf=gguf, shape=size, heads=heads)

    @property
    def parameters(self) -> int:
        """How many numbers the model holds."""
        count = 0
        for weight in self.weights.values():
            size = 1
            for side in weight.shape:
                size *= side
            count += size
        return count


def read_config(model_dir: Path) -> ModelConfig:
    """Read config.json. Raises Invalid if it is of no known family or says something that is not understood."""
    return parse_config(read_raw_config(model_dir))


def read_raw_config(model_dir: Path) -> dict[str, Any]:
    """config.json as it stands. Raises Invalid if it cannot be read."""
    try:
        raw = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid(f"{model_dir.name}/config.json cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise Invalid(f"{model_dir.name}/config.json is no object")
    return raw


def family_of(raw: dict[str, Any]) -> Family:
    """The family by the class that config.json names. Raises Invalid if there is none."""
    named = raw.get("architectures")
    if raw.get("auto_map"):
        raise Invalid(f"{_shown(named)} asks for code of its own (auto_map in config.json), which is never run")
    for family in FAMILIES:
        if named == [family.architecture]:
            return family
    known = ", ".join(family.architecture for family in FAMILIES)
    raise Invalid(f"{_shown(named)} cannot be served and trained; what can are {known}")


def _shown(named: object) -> str:
    return ", ".join(map(str, named)) if isinstance(named, list) and named else "a model that names no class"


def parse_config(raw: dict[str, Any]) -> ModelConfig:
    """See `read_config`."""
    family = family_of(raw)
    if raw.get("quantization_config"):
        raise Invalid("config.json has quantization_config: the weights must be plain numbers")
    raw = {**family.defaults, **{key: value for key, value in raw.items() if value is not None}}
    always = any(leaf.bias is True for leaf in family.layer)
    for bias in _BIASES:
        if raw.get(bias) and bias not in family.bias_keys and not (always and bias == "attention_bias"):
            raise Invalid(f"config.json has {bias}, which {family.name} has not")
    if raw.get("hidden_act", "silu") != "silu":
        raise Invalid(f"hidden_act must be silu; got {raw['hidden_act']}")
    try:
        heads = int(raw["num_attention_heads"])
        theta, share, scaling = _rope(raw)
        head_size = int(raw.get("head_dim") or int(raw["hidden_size"]) // heads)
        context = int(raw["max_position_embeddings"])
        return ModelConfig(
            family=family,
            vocabulary=int(raw["vocab_size"]),
            hidden=int(raw["hidden_size"]),
            feed_forward=int(raw["intermediate_size"]),
            layers=int(raw["num_hidden_layers"]),
            heads=heads,
            key_value_heads=int(raw.get("num_key_value_heads") or heads),
            head_size=head_size,
            context_tokens=min(context, _window(family, raw) or context),
            norm_epsilon=float(raw["rms_norm_eps"]),
            rope_theta=theta,
            rope_scaling=scaling,
            rotated=int(head_size * share),
            biases=frozenset(key for key in family.bias_keys if raw.get(key)),
            tied=bool(raw.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise Invalid(f"config.json lacks {error.args[0]}") from error
    except (TypeError, ValueError) as error:
        raise Invalid(f"config.json cannot be understood: {error}") from error


def _window(family: Family, raw: dict[str, Any]) -> int | None:
    used = family.window == "always" or (family.window == "switched" and raw.get("use_sliding_window"))
    return int(raw["sliding_window"]) if used and raw.get("sliding_window") else None


def _rope(raw: dict[str, Any]) -> tuple[float, float, dict[str, Any] | None]:
    """Base, share of a head that is rotated, and scaling."""
    new = dict(raw.get("rope_parameters") or {})
    theta = float(new.pop("rope_theta", raw.get("rope_theta", 10000.0)))
    share = float(new.pop("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)))
    scaling = new or dict(raw.get("rope_scaling") or {})
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    scaling.pop("type", None)
    if kind == "default":
        return theta, share, None
    if kind not in _NEEDED:
        raise Invalid(f"rope scaling {kind!r} is not known; {', '.join(_NEEDED)} are")
    if kind != "linear":
        scaling.setdefault("original_max_position_embeddings", raw["max_position_embeddings"])
    for key in _NEEDED[kind]:
        if not isinstance(scaling.get(key), (int, float)):
            raise Invalid(f"rope scaling {kind!r} lacks {key}")
    return theta, share, {**scaling, "rope_type": kind}


def complete_config(raw: dict[str, Any]) -> dict[str, Any]:
    """The same config.json with everything that any reader looks for.

    transformers 5 writes `rope_parameters` and `dtype` only; LightLLM and transformers 4 read `rope_theta`, `rope_scaling` and
    `torch_dtype` at the top level and fall back **silently** to other values when they are absent.
    """
    config = parse_config(raw)
    rope = {"rope_theta": config.rope_theta, **(config.rope_scaling or {"rope_type": "default"})}
    share: dict[str, Any] = {}
    if config.rotated != config.head_size:
        share = {"partial_rotary_factor": config.rotated / config.head_size}
    return {
        **config.family.defaults,
        **raw,
        **share,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
        "rope_parameters": {**rope, **share},
        "torch_dtype": "float32",
        "dtype": "float32",
        "head_dim": config.head_size,
        "num_key_value_heads": config.key_value_heads,
    }


def model_tensors(model_dir: Path, config: ModelConfig) -> list[Tensor]:
    """The tensors that `config` promises, from the folder's safetensors. An output layer that is the embedding is left out.

    Raises Invalid if some are missing, unknown or of another shape, and as `tensors_of` does.
    """
    wanted = config.weights
    found = {tensor.name: tensor for tensor in tensors_of(model_dir)}
    if config.tied:
        found.pop("lm_head.weight", None)
    odd = sorted(found.keys() ^ wanted.keys())
    if odd:
        raise Invalid(f"{model_dir.name} does not hold the tensors of its config.json: {', '.join(odd[:5])}")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise Invalid(f"{model_dir.name}: {name} has shape {tensor.shape}; config.json says {wanted[name].shape}")
    return [found[name] for name in sorted(found)]


def not_for_llamacpp(config: ModelConfig) -> str | None:
    """Why llama.cpp cannot serve such a model; None if it can."""
    family, kind = config.family, (config.rope_scaling or {}).get("rope_type", "default")
    if family.gguf is None:
        return f"llama.cpp does not know {family.name}"
    if kind not in family.gguf_ropes:
        return f"rope scaling {kind!r} cannot be exported for {family.name}"
    if config.biases & family.gguf_lacks:
        return f"llama.cpp does not read {min(config.biases & family.gguf_lacks)} of {family.name}"
    if not family.gguf_wide_heads and config.size("queries") != config.hidden:
        return f"llama.cpp wants the heads of {family.name} together as wide as hidden_size"
    by_hand = [key for key in _YARN_BY_HAND if (config.rope_scaling or {}).get(key) is not None]
    if by_hand:
        return f"rope scaling with {by_hand[0]} cannot be exported"
    return None


def engines_for(config: ModelConfig) -> tuple[str, ...]:
    """The kinds of engine (`streams.engines`) that can serve such a model, the quickest on a CPU first."""
    found = [] if not_for_llamacpp(config) else ["llamacpp"]
    if config.family.lightllm:
        found.append("lightllm")
    return (*found, "transformers")
