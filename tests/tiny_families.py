"""A small random model of every family, with what is particular to it: changes to `tiny_llama.config`, and its tokenizer."""

from pathlib import Path
from typing import Any

from tests import tiny_llama

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "factor": 4.0}
NFC = {"type": "NFC"}

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "pre": "qwen2", "normalizer": NFC}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "pre": "qwen2",
    "normalizer": NFC,
    "head_dim": 32,
}
_GLMS = {"pre": "glm4", "head_dim": 16, "eos_token_id": 1, "pad_token_id": 1}  # transformers' defaults are GLM-4's own
GLM = {"architectures": ["GlmForCausalLM"], "model_type": "glm", "attention_bias": True, **_GLMS}
GLM4 = {"architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "attention_bias": False, **_GLMS, "head_dim": 32}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "glm": GLM,
    "glm4": GLM4,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama with biases": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "llama, scaled as Llama 3": {**LLAMA, "rope_scaling": LLAMA3, "pre": "llama-bpe"},
    "llama, scaled linearly, tied": {**LLAMA, "rope_scaling": LINEAR, "tie_word_embeddings": True},
    "mistral with a window": {**MISTRAL, "sliding_window": 1024, "pre": "tekken"},
    "qwen2, tied, by yarn": {**QWEN2, "tie_word_embeddings": True, "rope_scaling": YARN},
    "qwen3, by yarn": {**QWEN3, "rope_scaling": YARN},
    "glm without biases, scaled linearly": {**GLM, "attention_bias": False, "rope_scaling": LINEAR},
    "glm4 with biases, tied, by yarn": {
        **GLM4,
        "attention_bias": True,
        "tie_word_embeddings": True,
        "rope_scaling": YARN,
    },
}
# What llama.cpp cannot serve.
ELSEWHERE: dict[str, dict[str, Any]] = {
    "qwen3 with biases": {**QWEN3, "attention_bias": True},
    "qwen3, scaled as Llama 3": {**QWEN3, "rope_scaling": LLAMA3},
    "glm with wide heads": {**GLM, "head_dim": 32},
}
SERVED = {**FAMILIES, **VARIANTS}
ALL = {**SERVED, **ELSEWHERE}


def write(folder: Path, case: str, seed: int = 3) -> Path:
    """The folder of the case, in transformers' format."""
    return tiny_llama.write(folder, seed=seed, **ALL[case])
