"""GGUF files: written from a model directory for llama.cpp (F16), and read back into one. numpy only, no torch.

Layout and key names follow llama.cpp's own converter; whether a file says the same as its source is settled by numbers in
`workers.models.check`.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType

from streams.errors import Invalid
from workers.models.config import ModelConfig, Weight, model_tensors, not_for_llamacpp, read_config
from workers.models.families import FAMILIES, Family
from workers.models.rotation import interleave, llama3_factors, separate
from workers.models.tokens import BYTE_LEVEL_BPE, SENTENCEPIECE, TokenizerKeys, keys_from_directory, vocabulary_size
from workers.models.weights import Array, Load, Tensor

F16_LARGEST = 65504.0
_REQUIRED = object()


class Reader(GGUFReader):
    """A GGUF on disk. A tokenizer's hundred thousand strings are as many slices of the file, and slicing an array of numpy's
    memmap class takes longer than all else that the reader does."""

    @property  # type: ignore[override]  # an array of the plain class
    def data(self) -> Array:
        """The file's bytes, mapped."""
        return self._bytes

    @data.setter
    def data(self, mapped: Array) -> None:
        self._bytes = np.asarray(mapped)


def export_gguf(model_dir: Path, out: Path, template_gguf: Path | None = None) -> None:
    """Write `model_dir` (a model in transformers' format) as an F16 GGUF at `out`, whole or not at all.

    The tokenizer's keys are made from tokenizer.json; where that is of a kind that cannot be translated they are copied from
    `template_gguf`, or from the one GGUF that lies in the folder. Raises Invalid naming what is missing or unsupported.
    """
    config = read_config(model_dir)
    refused = not_for_llamacpp(config)
    if refused or config.family.gguf is None:
        raise Invalid(refused or "")
    tensors = model_tensors(model_dir, config)
    template = template_gguf or _template_in(model_dir, out)
    partial = out.with_name(out.name + ".part")
    writer = GGUFWriter(partial, config.family.gguf)
    try:
        _describe(writer, config)
        _write_tokenizer(writer, model_dir, template)
        weights = config.weights
        for tensor in tensors:
            _add(writer, tensor, weights[tensor.name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(out)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _describe(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("noria")  # never the folder's: equal models make equal files
    writer.add_vocab_size(config.vocabulary)
    writer.add_context_length(config.context_tokens)
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.feed_forward)
    writer.add_block_count(config.layers)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_dimension_count(config.rotated)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if config.rope_scaling is not None:
        _describe_scaling(writer, config, config.rope_scaling)


def _describe_scaling(writer: GGUFWriter, config: ModelConfig, scaling: dict[str, Any]) -> None:
    """Llama 3's kind is a tensor of factors to llama.cpp, the others are keys."""
    if scaling["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(scaling, config.rope_theta, config.rotated))
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
    writer.add_rope_scaling_factor(float(scaling["factor"]))
    for key, add in (
        ("original_max_position_embeddings", writer.add_rope_scaling_orig_ctx_len),
        ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
        ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
    ):
        if scaling.get(key) is not None:
            add(scaling[key])


def _add(writer: GGUFWriter, tensor: Tensor, weight: Weight) -> None:
    numbers = tensor.load()
    if weight.heads:
        numbers = interleave(numbers, weight.heads)
    largest = float(np.abs(numbers).max())
    if not np.isfinite(largest):
        raise Invalid(f"{tensor.name} holds numbers that are not finite")
    if numbers.ndim == 1:  # norms and biases are few and sensitive
        writer.add_tensor(weight.gguf, np.ascontiguousarray(numbers, dtype=np.float32))
        return
    if largest > F16_LARGEST:
        raise Invalid(f"{tensor.name} holds {largest:g}, which F16 cannot")
    writer.add_tensor(weight.gguf, numbers.astype(np.float16))


def _template_in(model_dir: Path, out: Path) -> Path | None:
    found = [path for path in sorted(model_dir.glob("*.gguf")) if path != out]
    return found[0] if len(found) == 1 else None


def _write_tokenizer(writer: GGUFWriter, model_dir: Path, template: Path | None) -> None:
    try:
        keys = keys_from_directory(model_dir)
    except Invalid:
        if template is None:
            raise
        _copy_tokenizer(writer, model_dir, template)
        return
    writer.add_tokenizer_model(keys.kind)
    writer.add_tokenizer_pre(keys.pre)
    writer.add_token_list(keys.tokens)
    writer.add_token_types(keys.types)
    if keys.kind == SENTENCEPIECE:
        writer.add_token_scores(keys.scores)
    else:
        writer.add_token_merges(keys.merges)
    if keys.begin is not None:
        writer.add_bos_token_id(keys.begin)
    writer.add_eos_token_id(keys.end)
    writer.add_pad_token_id(keys.padding)
    if keys.unknown is not None:
        writer.add_unk_token_id(keys.unknown)
    writer.add_add_bos_token(keys.add_begin)
    writer.add_add_space_prefix(keys.kind == SENTENCEPIECE)
    writer.add_chat_template(keys.chat_template)


def _copy_tokenizer(writer: GGUFWriter, model_dir: Path, template: Path) -> None:
    fields = Reader(template).fields
    size = len(fields["tokenizer.ggml.tokens"].data) if "tokenizer.ggml.tokens" in fields else 0
    if size != vocabulary_size(model_dir):
        raise Invalid(
            f"{template.name} has {size} tokens and the model {vocabulary_size(model_dir)}: not the same tokenizer"
        )
    for key, field in fields.items():
        if key.startswith("tokenizer."):
            kind = field.types[0]
            writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)


def read_keys(reader: Reader) -> TokenizerKeys:
    """The tokenizer in a GGUF. Raises Invalid if it is of no kind that is known here or has no chat template."""
    kind = value(reader, "tokenizer.ggml.model")
    if kind not in (BYTE_LEVEL_BPE, SENTENCEPIECE):
        raise Invalid(f"the GGUF's tokenizer is {kind!r}; {BYTE_LEVEL_BPE!r} and {SENTENCEPIECE!r} can be converted")
    pieces = kind == SENTENCEPIECE
    if pieces and not value(reader, "tokenizer.ggml.add_space_prefix", True):
        raise Invalid("the GGUF's tokenizer puts no blank before a text, which is not known here")
    end = int(value(reader, "tokenizer.ggml.eos_token_id"))
    begin = value(reader, "tokenizer.ggml.bos_token_id", None)
    unknown = value(reader, "tokenizer.ggml.unknown_token_id", None)
    return TokenizerKeys(
        kind=kind,
        pre=value(reader, "tokenizer.ggml.pre", "default" if pieces else _REQUIRED),
        tokens=value(reader, "tokenizer.ggml.tokens"),
        types=value(reader, "tokenizer.ggml.token_type"),
        merges=[] if pieces else value(reader, "tokenizer.ggml.merges"),
        scores=value(reader, "tokenizer.ggml.scores") if pieces else [],
        begin=begin,
        end=end,
        padding=int(value(reader, "tokenizer.ggml.padding_token_id", end)),
        unknown=unknown,
        add_begin=bool(value(reader, "tokenizer.ggml.add_bos_token", False)),
        chat_template=value(reader, "tokenizer.chat_template"),
    )


def value(reader: Reader, key: str, default: Any = _REQUIRED) -> Any:
    """One key of a GGUF; raises Invalid where it is absent and has no default."""
    field = reader.fields.get(key)
    if field is not None:
        return field.contents()
    if default is _REQUIRED:
        raise Invalid(f"the GGUF lacks {key}")
    return default


def read_gguf_config(reader: Reader) -> dict[str, Any]:
    """config.json's content for a model in a GGUF. Raises Invalid if it is of no known family."""
    family = _family(reader)

    def of(key: str, default: Any = _REQUIRED) -> Any:
        return value(reader, f"{family.gguf}.{key}", default)

    heads = int(of("attention.head_count"))
    hidden = int(of("embedding_length"))
    end = int(value(reader, "tokenizer.ggml.eos_token_id"))
    held = {tensor.name for tensor in reader.tensors}
    if "rope_freqs.weight" in held:
        raise Invalid("the GGUF's rotation is scaled by factors: give the folder in transformers' format")
    head_size = int(of("attention.key_length", hidden // heads))
    rotated = int(of("rope.dimension_count", head_size))
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
        "hidden_size": hidden,
        "intermediate_size": int(of("feed_forward_length")),
        "num_hidden_layers": int(of("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(of("attention.head_count_kv", heads)),
        "head_dim": head_size,
        "hidden_act": "silu",
        "max_position_embeddings": int(of("context_length")),
        "rms_norm_eps": _shortest(of("attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(of("rope.freq_base", 10000.0)),
        **({} if rotated == head_size else {"partial_rotary_factor": rotated / head_size}),
        **_scaling(of),
        **dict.fromkeys(family.bias_keys, False),
        **{
            leaf.bias: True for leaf in family.layer if isinstance(leaf.bias, str) and f"blk.0.{leaf.gguf}.bias" in held
        },
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "tie_word_embeddings": "output.weight" not in held,
        "bos_token_id": value(reader, "tokenizer.ggml.bos_token_id", None),
        "eos_token_id": end,
        "pad_token_id": int(value(reader, "tokenizer.ggml.padding_token_id", end)),
    }


def _family(reader: Reader) -> Family:
    architecture = value(reader, "general.architecture")
    for family in FAMILIES:
        if architecture == family.gguf:
            return family
    known = ", ".join(dict.fromkeys(family.gguf for family in FAMILIES if family.gguf))
    raise Invalid(f"the GGUF holds {architecture!r}; what can be converted are {known}")


def _scaling(of: Any) -> dict[str, Any]:
    kind = of("rope.scaling.type", "none")
    if kind == "none":
        return {}
    known = {
        "factor": of("rope.scaling.factor"),
        "original_max_position_embeddings": of("rope.scaling.original_context_length", None),
        "beta_fast": of("rope.scaling.yarn_beta_fast", None),
        "beta_slow": of("rope.scaling.yarn_beta_slow", None),
    }
    return {"rope_scaling": {"rope_type": kind, **{key: found for key, found in known.items() if found is not None}}}


def _shortest(number: float) -> float:
    """The decimal number a person wrote, of which the file holds the nearest float32 (1e-05, not 9.99999974e-06)."""
    return float(str(np.float32(number)))


def read_tensors(reader: Reader, config: ModelConfig) -> list[Tensor]:
    """The weights under transformers' names and in its row order, dequantised when loaded. Raises Invalid for odd tensors."""
    sources = {tensor.name: tensor for tensor in reader.tensors}
    wanted = {weight.gguf: weight for weight in config.weights.values()}
    if set(sources) != set(wanted):
        raise Invalid(f"the GGUF does not hold the tensors of its header: {sorted(set(sources) ^ set(wanted))[:5]}")

    def loader(source: Any, heads: int | None) -> Load:
        def load() -> Array:
            numbers: Array = gguf.quants.dequantize(source.data, GGMLQuantizationType(source.tensor_type))
            return separate(numbers, heads) if heads else numbers

        return load

    found = []
    for source_name, weight in wanted.items():
        source = sources[source_name]
        shape = tuple(int(size) for size in reversed(source.shape))  # GGUF writes the innermost dimension first
        if shape != weight.shape:
            raise Invalid(f"the GGUF's {source_name} has shape {shape}; its header says {weight.shape}")
        found.append(Tensor(weight.name, shape, loader(source, weight.heads)))
    return sorted(found, key=lambda tensor: tensor.name)
