"""The families of models that can be trained and served: how each names and shapes its tensors, here and in llama.cpp.

A family is one row of `FAMILIES` and a case of tests/tiny_families.py; nothing else names one. The names on the left are those of
transformers' own classes, those on the right llama.cpp's; whether a row says the truth is settled by numbers, by a small random
model of each (tests/integration/test_families.py).
"""

from typing import Any, Literal

from msgspec import Struct

Size = Literal["hidden", "queries", "keys", "head", "feed_forward", "gate_and_up", "vocabulary"]


class Leaf(Struct, frozen=True):
    """One weight of a layer. `shape`: sizes by name, see `ModelConfig.size`. `bias`: whether it has one, or the key of config.json
    that says so. `permuted`: whether its rows stand otherwise in llama.cpp, head by head (`rotation.interleave`)."""

    name: str
    gguf: str
    shape: tuple[Size, ...]
    bias: bool | str = False
    permuted: bool = False


class Family(Struct, frozen=True, kw_only=True):
    """One family.

    `defaults`: what transformers takes for keys that config.json lacks. `window`: whether attention reaches back `sliding_window`
    tokens only: never, always where that is set, or where `use_sliding_window` is set too. `gguf`: llama.cpp's name of the
    architecture, None if it has none. `gguf_ropes`: the kinds of rotation that llama.cpp computes in it as transformers does.
    `gguf_lacks`: keys of config.json that switch on what llama.cpp does not read there. `gguf_wide_heads`: whether its heads
    together may be wider or narrower than `hidden`. `lightllm`: whether LightLLM 1.2.0 lists it.
    """

    name: str
    architecture: str
    model_type: str
    layer: tuple[Leaf, ...]
    defaults: dict[str, Any] = {}
    window: Literal["never", "always", "switched"] = "never"
    gguf: str | None
    gguf_ropes: frozenset[str] = frozenset({"default", "linear", "yarn"})
    gguf_lacks: frozenset[str] = frozenset()
    gguf_wide_heads: bool = True
    lightllm: bool

    @property
    def bias_keys(self) -> set[str]:
        """The keys of config.json by which biases are switched."""
        return {leaf.bias for leaf in self.layer if isinstance(leaf.bias, str)}


OUTER = (
    Leaf("model.embed_tokens", "token_embd", ("vocabulary", "hidden")),
    Leaf("model.norm", "output_norm", ("hidden",)),
    Leaf("lm_head", "output", ("vocabulary", "hidden")),
)
_NORMS = (
    Leaf("input_layernorm", "attn_norm", ("hidden",)),
    Leaf("post_attention_layernorm", "ffn_norm", ("hidden",)),
)
_QUERY_KEY_NORMS = (
    Leaf("self_attn.q_norm", "attn_q_norm", ("head",)),
    Leaf("self_attn.k_norm", "attn_k_norm", ("head",)),
)
_EXTRA_NORMS = (
    Leaf("post_self_attn_layernorm", "post_attention_norm", ("hidden",)),
    Leaf("post_mlp_layernorm", "post_ffw_norm", ("hidden",)),
)
_FUSED = (
    Leaf("mlp.gate_up_proj", "ffn_up", ("gate_and_up", "hidden")),
    Leaf("mlp.down_proj", "ffn_down", ("hidden", "feed_forward")),
)


def _attention(bias: bool | str = False, output_bias: bool | str = False, permuted: bool = False) -> tuple[Leaf, ...]:
    return (
        Leaf("self_attn.q_proj", "attn_q", ("queries", "hidden"), bias, permuted),
        Leaf("self_attn.k_proj", "attn_k", ("keys", "hidden"), bias, permuted),
        Leaf("self_attn.v_proj", "attn_v", ("keys", "hidden"), bias),
        Leaf("self_attn.o_proj", "attn_output", ("hidden", "queries"), output_bias),
    )


def _gated(bias: bool | str = False) -> tuple[Leaf, ...]:
    return (
        Leaf("mlp.gate_proj", "ffn_gate", ("feed_forward", "hidden"), bias),
        Leaf("mlp.up_proj", "ffn_up", ("feed_forward", "hidden"), bias),
        Leaf("mlp.down_proj", "ffn_down", ("hidden", "feed_forward"), bias),
    )


_GLM_DEFAULTS = {"head_dim": 128, "num_key_value_heads": 2, "partial_rotary_factor": 0.5, "attention_bias": True}

FAMILIES = (
    Family(
        name="Llama",
        architecture="LlamaForCausalLM",
        model_type="llama",
        layer=(*_NORMS, *_attention("attention_bias", "attention_bias", permuted=True), *_gated("mlp_bias")),
        gguf="llama",
        gguf_ropes=frozenset({"default", "linear", "yarn", "llama3"}),
        lightllm=True,
    ),
    Family(
        name="Mistral",
        architecture="MistralForCausalLM",
        model_type="mistral",
        layer=(*_NORMS, *_attention(permuted=True), *_gated()),
        defaults={"num_key_value_heads": 8},
        window="always",
        gguf="llama",  # llama.cpp runs it as a Llama; a GGUF of it comes back as one
        gguf_ropes=frozenset({"default", "linear", "yarn", "llama3"}),
        lightllm=True,
    ),
    Family(
        name="Qwen2",
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        layer=(*_NORMS, *_attention(True), *_gated()),
        defaults={"num_key_value_heads": 32},
        window="switched",
        gguf="qwen2",
        lightllm=True,
    ),
    Family(
        name="Qwen3",
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        layer=(*_NORMS, *_QUERY_KEY_NORMS, *_attention("attention_bias", "attention_bias"), *_gated()),
        defaults={"head_dim": 128, "num_key_value_heads": 32},
        window="switched",
        gguf="qwen3",
        gguf_lacks=frozenset({"attention_bias"}),  # it reads those of queries, keys and values, but not the output's
        lightllm=True,
    ),
    Family(
        name="GLM",
        architecture="GlmForCausalLM",
        model_type="glm",
        layer=(*_NORMS, *_attention("attention_bias"), *_FUSED),
        defaults=_GLM_DEFAULTS,
        gguf="chatglm",
        gguf_wide_heads=False,
        lightllm=False,
    ),
    Family(
        name="GLM-4",
        architecture="Glm4ForCausalLM",
        model_type="glm4",
        layer=(*_NORMS, *_EXTRA_NORMS, *_attention("attention_bias"), *_FUSED),
        defaults=_GLM_DEFAULTS,
        gguf="glm4",
        lightllm=False,
    ),
)
