"""A small random checkpoint in exactly the layout that ChatGLM3-6B was published in, and its forward pass written down plainly,
from the published description and not from any class of transformers'."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import silu

from workers.models.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN

CONFIG: dict[str, Any] = {
    "_name_or_path": "THUDM/chatglm3-6b-base",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 176,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 64,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-5,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 3,
    "original_rope": True,
    "padded_vocab_size": 448,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 2048,
    "use_cache": True,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
JOINED = (
    *("▁t", "he", "▁the", "in", "re", "er", "▁a", "▁w", "▁wh", "el", "eel", "▁wheel", "at", "▁wat", "▁water", "on"),
    *("▁▁", "▁▁▁▁", "罚款", "▁罚款", "交通", "道路", "道路交通", "記", "ing", "▁s", "st", "▁st", "ream", "▁stream"),
)
LETTERS = "▁etaoinshrdlucmfwypvbgkjqxzETAOIN.,:;!?'’-–_<|>[]()/\\0123456789罚款交通道路记分引用第条一人"


def write(folder: Path, seed: int = 0, **changes: Any) -> dict[str, torch.Tensor]:
    """Write the checkpoint; its weights."""
    folder.mkdir(parents=True)
    config = CONFIG | changes
    weights = random_weights(config, seed)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_chatglm.py").write_text("raise SystemExit('was run')")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.model").write_bytes(pieces_file())
    return weights


def random_weights(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    hidden, inner, rows = config["hidden_size"], config["ffn_hidden_size"], config["padded_vocab_size"]
    queries = config["num_attention_heads"] * config["kv_channels"]
    fused = queries + 2 * config["multi_query_group_num"] * config["kv_channels"]

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * 0.11

    half = config["kv_channels"] // 2
    found = {
        "transformer.embedding.word_embeddings.weight": numbers(rows, hidden),
        "transformer.rotary_pos_emb.inv_freq": 1.0 / 10000 ** (torch.arange(0, half, 2).float() / half),
        "transformer.encoder.final_layernorm.weight": 1 + numbers(hidden),
        "transformer.output_layer.weight": numbers(rows, hidden),
    }
    for number in range(config["num_layers"]):
        layer = f"transformer.encoder.layers.{number}."
        found |= {
            layer + "input_layernorm.weight": 1 + numbers(hidden),
            layer + "post_attention_layernorm.weight": 1 + numbers(hidden),
            layer + "self_attention.query_key_value.weight": numbers(fused, hidden),
            layer + "self_attention.query_key_value.bias": numbers(fused),
            layer + "self_attention.dense.weight": numbers(hidden, queries),
            layer + "mlp.dense_h_to_4h.weight": numbers(2 * inner, hidden),
            layer + "mlp.dense_4h_to_h.weight": numbers(hidden, inner),
        }
    return found


def forward(weights: dict[str, torch.Tensor], ids: Sequence[int], config: dict[str, Any] = CONFIG) -> torch.Tensor:
    """Logits, (tokens, rows of the vocabulary), of one text."""
    width, heads, groups = config["kv_channels"], config["num_attention_heads"], config["multi_query_group_num"]
    count, turned = len(ids), width // 2
    x = weights["transformer.embedding.word_embeddings.weight"][torch.tensor(ids)]
    base = 10000.0 * config.get("rope_ratio", 1)
    speeds = base ** -(torch.arange(0, turned, 2).double() / turned)
    angles = torch.arange(count).double()[:, None] * speeds
    turns = torch.polar(torch.ones_like(angles), angles)  # of pairs side by side, as numbers in the plane

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return weight * x / (x.pow(2).mean(-1, keepdim=True) + config["layernorm_epsilon"]).sqrt()

    def turn(vector: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(vector[:, :turned].double().reshape(count, -1, 2).contiguous())
        return torch.cat([torch.view_as_real(pairs * turns).reshape(count, turned).float(), vector[:, turned:]], -1)

    for number in range(config["num_layers"]):
        layer = f"transformer.encoder.layers.{number}."
        normed = norm(x, weights[layer + "input_layernorm.weight"])
        fused = normed @ weights[layer + "self_attention.query_key_value.weight"].T
        fused = fused + weights[layer + "self_attention.query_key_value.bias"]
        parts = [fused[:, at : at + width] for at in range(0, fused.shape[1], width)]
        said = []
        for head in range(heads):
            group = head // (heads // groups)
            query, key = turn(parts[head]), turn(parts[heads + group])
            scores = query @ key.T / width**0.5
            seen = torch.ones(count, count).tril().bool()
            said.append(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ parts[heads + groups + group])
        x = x + torch.cat(said, -1) @ weights[layer + "self_attention.dense.weight"].T
        normed = norm(x, weights[layer + "post_attention_layernorm.weight"])
        both = normed @ weights[layer + "mlp.dense_h_to_4h.weight"].T
        inner = both.shape[1] // 2
        x = x + (silu(both[:, :inner]) * both[:, inner:]) @ weights[layer + "mlp.dense_4h_to_h.weight"].T
    return norm(x, weights["transformer.encoder.final_layernorm.weight"]) @ weights["transformer.output_layer.weight"].T


def pieces_file(charsmap: bytes = b"", model_type: int = 2) -> bytes:
    """A SentencePiece model of some joins, all letters that they need, and every byte."""
    letters = dict.fromkeys(LETTERS + "".join(JOINED))
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    pieces += [(text, -float(rank), NORMAL) for rank, text in enumerate(JOINED)]
    pieces += [(letter, -float(len(JOINED) + rank), NORMAL) for rank, letter in enumerate(letters)]
    content = b""
    for text, score, kind in pieces:
        piece = _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
        content += _field(1, piece)
    trainer = b"\x18" + bytes([model_type])
    normaliser = _field(1, b"identity") + (_field(2, charsmap) if charsmap else b"") + b"\x18\x01\x20\x00\x28\x01"
    return content + _field(2, trainer) + _field(3, normaliser)


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
