"""A Llama of some thousand random weights with a byte-level tokenizer, as a folder in transformers' format; made without torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from workers.models.config import ModelConfig, parse_config
from workers.models.tokens import PRE_TOKENIZERS, PreTokenizer
from workers.models.weights import Tensor, write_float32

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = ["the wheel turns with the stream and lifts water", "in 1999 the river was 42 feet high, in 2007 only 7"] * 3


def config(**changes: Any) -> dict[str, Any]:
    plain = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 384,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0,
        "tie_word_embeddings": False,
    }
    return {**plain, **changes}


def write(folder: Path, seed: int = 0, pre: str = "smollm", normalizer: Any = None, **changes: Any) -> Path:
    """`pre`: llama.cpp's name of the tokenizer's pre-tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = config(**changes)
    (folder / "config.json").write_text(json.dumps(raw))
    write_weights(folder, parse_config(raw), seed)
    write_tokenizer(folder, next(known for known in PRE_TOKENIZERS if known.name == pre), normalizer)
    return folder


def write_weights(folder: Path, shape: ModelConfig, seed: int) -> None:
    draw = np.random.default_rng(seed)
    tensors = []
    for name, weight in sorted(shape.weights.items()):
        # Wide enough that answers depend on every weight: with the usual 0.02 all tokens are about equally likely.
        centre = 1 if name.endswith("norm.weight") else 0
        numbers = draw.normal(centre, 0.25, weight.shape).astype(np.float32)
        tensors.append(Tensor(name, weight.shape, lambda numbers=numbers: numbers))  # type: ignore[misc]
    write_float32(folder / "model.safetensors", tensors)


def write_tokenizer(folder: Path, pre: PreTokenizer, normalizer: Any = None) -> None:
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre.whole))
    # An object of the library for a step of tokenizer.json is only made by reading a whole one.
    steps = {"type": "Sequence", "pretokenizers": list(pre.steps)}
    whole = {**json.loads(tokenizer.to_str()), "pre_tokenizer": steps, "normalizer": normalizer}
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": None,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
