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
from workers.models.llama import (
    LlamaConfig,
    gguf_name,
    interleave,
    llama3_rope_factors,
    permuted_heads,
    read_config,
    separate,
)
from workers.models.tokens import TokenizerKeys, keys_from_directory, vocabulary_size
from workers.models.weights import Array, Load, Tensor, tensors_of

ARCHITECTURE = "llama"
F16_LARGEST = 65504.0


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
    """Write `model_dir` (a Llama in transformers' format) as an F16 GGUF at `out`, whole or not at all.

    The tokenizer's keys are made from tokenizer.json; where that is of a kind that cannot be translated they are copied from
    `template_gguf`, or from the one GGUF that lies in the folder. Raises Invalid naming what is missing or unsupported.
    """
    config = read_config(model_dir)
    factors = llama3_rope_factors(config)
    tensors = tensors_of(model_dir)
    names = {tensor.name for tensor in tensors}
    if config.tied:
        names.discard("lm_head.weight")
    if names != config.tensor_names:
        odd = sorted(names ^ config.tensor_names)
        raise Invalid(f"{model_dir.name} does not hold the tensors of its config.json: {', '.join(odd[:5])}")
    template = template_gguf or _template_in(model_dir, out)
    partial = out.with_name(out.name + ".part")
    writer = GGUFWriter(partial, ARCHITECTURE)
    try:
        _describe(writer, config)
        _write_tokenizer(writer, model_dir, template)
        if factors is not None:
            writer.add_tensor("rope_freqs.weight", factors)
        for tensor in tensors:
            if tensor.name in names:
                _add(writer, tensor, config)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(out)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _describe(writer: GGUFWriter, config: LlamaConfig) -> None:
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
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add(writer: GGUFWriter, tensor: Tensor, config: LlamaConfig) -> None:
    numbers = tensor.load()
    heads = permuted_heads(tensor.name, config)
    if heads:
        numbers = interleave(numbers, heads)
    largest = float(np.abs(numbers).max())
    if not np.isfinite(largest):
        raise Invalid(f"{tensor.name} holds numbers that are not finite")
    if numbers.ndim == 1:  # norms are few and sensitive
        writer.add_tensor(gguf_name(tensor.name), np.ascontiguousarray(numbers, dtype=np.float32))
        return
    if largest > F16_LARGEST:
        raise Invalid(f"{tensor.name} holds {largest:g}, which F16 cannot")
    writer.add_tensor(gguf_name(tensor.name), numbers.astype(np.float16))


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
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(keys.pre)
    writer.add_token_list(keys.tokens)
    writer.add_token_types(keys.types)
    writer.add_token_merges(keys.merges)
    if keys.begin is not None:
        writer.add_bos_token_id(keys.begin)
    writer.add_eos_token_id(keys.end)
    writer.add_pad_token_id(keys.padding)
    if keys.unknown is not None:
        writer.add_unk_token_id(keys.unknown)
    writer.add_add_bos_token(keys.add_begin)
    writer.add_add_space_prefix(False)
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
    """The tokenizer in a GGUF. Raises Invalid if it is no byte-level BPE or has no chat template."""
    model = value(reader, "tokenizer.ggml.model")
    if model != "gpt2":
        raise Invalid(f"the GGUF's tokenizer is {model!r}; only byte-level BPE ('gpt2') can be converted")
    end = int(value(reader, "tokenizer.ggml.eos_token_id"))
    begin = value(reader, "tokenizer.ggml.bos_token_id", None)
    unknown = value(reader, "tokenizer.ggml.unknown_token_id", None)
    return TokenizerKeys(
        pre=value(reader, "tokenizer.ggml.pre"),
        tokens=value(reader, "tokenizer.ggml.tokens"),
        types=value(reader, "tokenizer.ggml.token_type"),
        merges=value(reader, "tokenizer.ggml.merges"),
        begin=begin,
        end=end,
        padding=int(value(reader, "tokenizer.ggml.padding_token_id", end)),
        unknown=unknown,
        add_begin=bool(value(reader, "tokenizer.ggml.add_bos_token", False)),
        chat_template=value(reader, "tokenizer.chat_template"),
    )


_REQUIRED = object()


def value(reader: Reader, key: str, default: Any = _REQUIRED) -> Any:
    """One key of a GGUF; raises Invalid where it is absent and has no default."""
    field = reader.fields.get(key)
    if field is not None:
        return field.contents()
    if default is _REQUIRED:
        raise Invalid(f"the GGUF lacks {key}")
    return default


def read_llama_config(reader: Reader) -> dict[str, Any]:
    """config.json's content for a Llama in a GGUF."""
    architecture = value(reader, "general.architecture")
    if architecture != ARCHITECTURE:
        raise Invalid(f"the GGUF holds {architecture!r}; only {ARCHITECTURE!r} can be converted")
    heads = int(value(reader, "llama.attention.head_count"))
    hidden = int(value(reader, "llama.embedding_length"))
    end = int(value(reader, "tokenizer.ggml.eos_token_id"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
        "hidden_size": hidden,
        "intermediate_size": int(value(reader, "llama.feed_forward_length")),
        "num_hidden_layers": int(value(reader, "llama.block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(value(reader, "llama.attention.head_count_kv", heads)),
        "head_dim": int(value(reader, "llama.rope.dimension_count", hidden // heads)),
        "hidden_act": "silu",
        "max_position_embeddings": int(value(reader, "llama.context_length")),
        "rms_norm_eps": _shortest(value(reader, "llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(value(reader, "llama.rope.freq_base", 10000.0)),
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "use_cache": True,
        "tie_word_embeddings": "output.weight" not in {tensor.name for tensor in reader.tensors},
        "bos_token_id": value(reader, "tokenizer.ggml.bos_token_id", None),
        "eos_token_id": end,
        "pad_token_id": int(value(reader, "tokenizer.ggml.padding_token_id", end)),
    }


def _shortest(number: float) -> float:
    """The decimal number a person wrote, of which the file holds the nearest float32 (1e-05, not 9.99999974e-06)."""
    return float(str(np.float32(number)))


def read_tensors(reader: Reader, config: LlamaConfig) -> list[Tensor]:
    """The weights under transformers' names and in its row order, dequantised when loaded. Raises Invalid for odd tensors."""
    sources = {tensor.name: tensor for tensor in reader.tensors}
    wanted = {gguf_name(name): name for name in config.tensor_names}
    if set(sources) != set(wanted):
        raise Invalid(f"the GGUF does not hold the tensors of its header: {sorted(set(sources) ^ set(wanted))[:5]}")

    def loader(source: Any, heads: int | None) -> Load:
        def load() -> Array:
            numbers: Array = gguf.quants.dequantize(source.data, GGMLQuantizationType(source.tensor_type))
            return separate(numbers, heads) if heads else numbers

        return load

    found = []
    for source_name, name in wanted.items():
        source = sources[source_name]
        shape = tuple(int(size) for size in reversed(source.shape))  # GGUF writes the innermost dimension first
        found.append(Tensor(name, shape, loader(source, permuted_heads(name, config))))
    return sorted(found, key=lambda tensor: tensor.name)
