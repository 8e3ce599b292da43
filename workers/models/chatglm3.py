"""ChatGLM3-6B as it was published, whose own code runs under no present transformers, becomes a GLM: the same numbers under other
names, its SentencePiece model as tokenizer.json, and its chat format as a template.

Names and sizes are those of THUDM/chatglm3-6b-base: fused queries, keys and values; gate and up stacked as GLM has them; rotation
of pairs side by side on the first half of each head. `python -m workers.models.base --source FOLDER` does it as for any other base.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streams.errors import Invalid
from workers.models.config import parse_config
from workers.models.sentencepiece import CONTROL, UNKNOWN, UNUSED, Piece, Pieces, read_pieces
from workers.models.tokens import SENTENCEPIECE, TokenizerKeys
from workers.models.weights import Array, Load, Tensor, tensors_of

MODEL_TYPE = "chatglm"
PIECES_FILE = "tokenizer.model"
# Behind the pieces, in this order. The published names of the two in angle brackets are words, "sop" and "eop", which no text that
# people write may be cut by; what the model knows of them is their number.
ADDED = ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
ENDS = ("<|user|>", "<|observation|>")  # whose turn it is once the model has answered
# Each message is cut apart from what stands before it, behind a line break: the blank keeps the template's text cut so too.
TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}{{ '<|' + message['role'] + '|>\n ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_OUTER = {
    "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "transformer.encoder.final_layernorm.weight": "model.norm.weight",
    "transformer.output_layer.weight": "lm_head.weight",
}
_LAYER = {
    "input_layernorm.weight": "input_layernorm.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    "self_attention.dense.weight": "self_attn.o_proj.weight",
    "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
    "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
}
_FUSED = "self_attention.query_key_value."
_ROTATION = "transformer.rotary_pos_emb.inv_freq"  # follows from the configuration
# What GLM is, and a checkpoint of this layout must be.
_MUST_BE = {
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "multi_query_attention": True,
    "original_rope": True,
    "post_layer_norm": True,
    "rmsnorm": True,
}


def is_chatglm3(raw: dict[str, Any]) -> bool:
    """Whether that config.json is of the published layout."""
    return raw.get("model_type") == MODEL_TYPE


def glm_config(raw: dict[str, Any], pieces: Pieces) -> dict[str, Any]:
    """config.json of the GLM that says the same. Raises Invalid for what GLM cannot say."""
    for key, must in _MUST_BE.items():
        if raw.get(key, must) is not must:
            raise Invalid(f"config.json has {key} {raw[key]}; ChatGLM3 has {must}")
    if raw.get("quantization_bit"):
        raise Invalid("config.json has quantization_bit: the weights must be plain numbers")
    if raw.get("pre_seq_len"):
        raise Invalid("config.json has pre_seq_len: a prefix that was trained is not carried over")
    ids = added_ids(pieces)
    try:
        return {
            "architectures": ["GlmForCausalLM"],
            "model_type": "glm",
            "vocab_size": raw["padded_vocab_size"],
            "hidden_size": raw["hidden_size"],
            "intermediate_size": raw["ffn_hidden_size"],
            "num_hidden_layers": raw["num_layers"],
            "num_attention_heads": raw["num_attention_heads"],
            "num_key_value_heads": raw["multi_query_group_num"],
            "head_dim": raw["kv_channels"],
            "hidden_act": "silu",
            "max_position_embeddings": raw["seq_length"],
            "rms_norm_eps": raw["layernorm_epsilon"],
            "attention_bias": bool(raw.get("add_qkv_bias", False)),
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "rope_theta": 10000.0 * raw.get("rope_ratio", 1),
            "partial_rotary_factor": 0.5,
            "tie_word_embeddings": False,
            "use_cache": True,
            "bos_token_id": None,
            "eos_token_id": [end_id(pieces), *(ids[name] for name in ENDS)],
            "pad_token_id": unknown_id(pieces),
        }
    except KeyError as error:
        raise Invalid(f"config.json lacks {error.args[0]}") from error


def glm_tensors(source: Path, glm: dict[str, Any]) -> list[Tensor]:
    """The folder's weights under GLM's names, sorted. Raises Invalid if some are missing, unknown or of another shape."""
    config = parse_config(glm)
    found: list[Tensor] = []
    for tensor in tensors_of(source):
        if tensor.name != _ROTATION:
            found += _renamed(tensor, config.heads * config.head_size, config.key_value_heads * config.head_size)
    wanted = config.weights
    odd = sorted({tensor.name for tensor in found} ^ wanted.keys())
    if odd:
        raise Invalid(f"{source.name} does not hold the tensors of its config.json: {', '.join(odd[:5])}")
    for tensor in found:
        if tensor.shape != wanted[tensor.name].shape:
            shape = wanted[tensor.name].shape
            raise Invalid(f"{source.name}: {tensor.name} has shape {tensor.shape}; config.json says {shape}")
    return sorted(found, key=lambda tensor: tensor.name)


def _renamed(tensor: Tensor, queries: int, keys: int) -> Iterator[Tensor]:
    if tensor.name in _OUTER:
        yield Tensor(_OUTER[tensor.name], tensor.shape, tensor.load)
        return
    prefix, _, rest = tensor.name.partition("transformer.encoder.layers.")
    number, _, leaf = rest.partition(".")
    if prefix or not number.isdigit():
        raise Invalid(f"unknown tensor {tensor.name}")
    layer = f"model.layers.{number}."
    if leaf in _LAYER:
        yield Tensor(layer + _LAYER[leaf], tensor.shape, tensor.load)
        return
    if not leaf.startswith(_FUSED) or tensor.shape[0] != queries + 2 * keys:
        raise Invalid(f"unknown tensor {tensor.name} of shape {tensor.shape}")
    at = 0
    for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        shape = (rows, *tensor.shape[1:])
        yield Tensor(f"{layer}self_attn.{name}.{leaf.removeprefix(_FUSED)}", shape, _part(tensor, at, at + rows))
        at += rows


def _part(tensor: Tensor, first: int, last: int) -> Load:
    def load() -> Array:
        return tensor.load()[first:last]

    return load


def tokenizer_keys(pieces: Pieces, rows: int) -> TokenizerKeys:
    """The tokenizer with all its tokens and the chat format. `rows`: of the embedding, which may be more than there are tokens.
    Raises Invalid if they are fewer."""
    ids = added_ids(pieces)
    count = len(pieces.all) + len(ADDED)
    if count > rows:
        raise Invalid(f"the tokenizer has {count} tokens, and the embedding {rows} rows")
    everything = [*pieces.all, *(Piece(name, 0.0, CONTROL) for name in ADDED)]
    everything += [Piece(f"[PAD{index}]", 0.0, UNUSED) for index in range(count, rows)]
    assert all(everything[index].text == name for name, index in ids.items())
    return TokenizerKeys(
        kind=SENTENCEPIECE,
        pre="default",
        tokens=[piece.text for piece in everything],
        types=[piece.kind for piece in everything],
        merges=[],
        scores=[piece.score for piece in everything],
        begin=None,
        end=end_id(pieces),
        padding=unknown_id(pieces),
        unknown=unknown_id(pieces),
        add_begin=False,
        chat_template=TEMPLATE,
    )


def chat_ids(pieces: Pieces, messages: list[dict[str, str]]) -> list[int]:
    """The tokens of a conversation before its next answer, by the published rule: each line and each message is cut by itself, and
    no control token is ever read out of what somebody wrote. For checks of the template."""
    ids = added_ids(pieces)
    found = [ids["[gMASK]"], ids["<sop>"]]
    for message in messages:
        found += [ids[f"<|{message['role']}|>"], *pieces.cut("\n"), *pieces.cut(message["content"])]
    return [*found, ids["<|assistant|>"], *pieces.cut("\n")]


def added_ids(pieces: Pieces) -> dict[str, int]:
    return {name: len(pieces.all) + index for index, name in enumerate(ADDED)}


def end_id(pieces: Pieces) -> int:
    return _one(pieces, "</s>", CONTROL)


def unknown_id(pieces: Pieces) -> int:
    return _one(pieces, "<unk>", UNKNOWN)


def _one(pieces: Pieces, text: str, kind: int) -> int:
    for index, piece in enumerate(pieces.all):
        if (piece.text, piece.kind) == (text, kind):
            return index
    raise Invalid(f"{PIECES_FILE} has no {text}")


def read_source(source: Path, raw: dict[str, Any]) -> tuple[dict[str, Any], TokenizerKeys, list[Tensor]]:
    """config.json, tokenizer and weights of the GLM that `source` becomes. Raises Invalid if it cannot."""
    if not (source / PIECES_FILE).is_file():
        raise Invalid(f"{source.name} has no {PIECES_FILE}")
    pieces = read_pieces(source / PIECES_FILE)
    glm = glm_config(raw, pieces)
    return glm, tokenizer_keys(pieces, int(glm["vocab_size"])), glm_tensors(source, glm)
