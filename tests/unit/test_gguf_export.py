"""The exporter and its parts, without an engine."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from streams.errors import Invalid
from tests import tiny_llama
from workers.models.base import wheel_gguf
from workers.models.check import HOSTILE
from workers.models.config import complete_config, parse_config
from workers.models.gguf import export_gguf, read_gguf_config, read_keys, read_tensors
from workers.models.golden import whole_characters
from workers.models.rotation import interleave, llama3_factors, separate
from workers.models.tokens import keys_from_directory, token_bytes, tokenizer_config, tokenizer_json
from workers.models.weights import Tensor, tensors_of, write_float32


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_llama.write(tmp_path / "tiny")


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_rows_are_interleaved_and_separated_again() -> None:
    rows = np.arange(48).reshape(24, 2)
    mixed = interleave(rows, 3)
    assert mixed[:8, 0].tolist() == [0, 8, 2, 10, 4, 12, 6, 14]  # of the first head: halves become pairs
    assert (separate(mixed, 3) == rows).all()


def test_every_tensor_of_the_model_comes_back_from_its_file_in_half_precision(tiny: Path) -> None:
    export_gguf(tiny, tiny / "model.gguf")
    reader = GGUFReader(tiny / "model.gguf")
    config = parse_config(complete_config(read_gguf_config(reader)))
    assert config == parse_config(json.loads((tiny / "config.json").read_text()))
    given = load_file(tiny / "model.safetensors")
    found = {tensor.name: tensor.load() for tensor in read_tensors(reader, config)}
    assert found.keys() == given.keys()
    for name, numbers in given.items():
        expected = numbers if numbers.ndim == 1 else numbers.astype(np.float16).astype(np.float32)
        assert np.array_equal(found[name], expected), name


def test_the_tokenizer_comes_back_from_its_file(tiny: Path) -> None:
    export_gguf(tiny, tiny / "model.gguf")
    assert read_keys(GGUFReader(tiny / "model.gguf")) == keys_from_directory(tiny)


def test_equal_models_make_equal_files_whatever_the_folder_is_called(tiny: Path, tmp_path: Path) -> None:
    other = tiny_llama.write(tmp_path / "another-name")
    export_gguf(tiny, tiny / "model.gguf")
    export_gguf(other, other / "model.gguf")
    assert (tiny / "model.gguf").read_bytes() == (other / "model.gguf").read_bytes()


def test_a_tied_output_layer_is_not_written_twice(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "tied", tie_word_embeddings=True)
    export_gguf(folder, folder / "model.gguf")
    assert "output.weight" not in {tensor.name for tensor in GGUFReader(folder / "model.gguf").tensors}


def test_an_export_that_fails_leaves_nothing(tiny: Path) -> None:
    tensors = [tensor for tensor in tensors_of(tiny) if "norm" not in tensor.name]
    norms = [Tensor(t.name, t.shape, lambda t=t: t.load() * np.nan) for t in tensors_of(tiny) if "norm" in t.name]  # type: ignore[misc]
    write_float32(tiny / "other.safetensors", [*tensors, *norms])
    (tiny / "other.safetensors").replace(tiny / "model.safetensors")
    with pytest.raises(Invalid, match="not finite"):
        export_gguf(tiny, tiny / "model.gguf")
    assert not list(tiny.glob("model.gguf*"))


def test_numbers_too_large_for_half_precision_are_refused(tiny: Path) -> None:
    scaled = [Tensor(t.name, t.shape, lambda t=t: t.load() * 1e6) for t in tensors_of(tiny)]  # type: ignore[misc]
    write_float32(tiny / "other.safetensors", scaled)
    (tiny / "other.safetensors").replace(tiny / "model.safetensors")
    with pytest.raises(Invalid, match="F16 cannot"):
        export_gguf(tiny, tiny / "model.gguf")


def test_a_missing_tensor_is_named(tiny: Path) -> None:
    write_float32(
        tiny / "other.safetensors", [t for t in tensors_of(tiny) if t.name != "model.layers.1.mlp.up_proj.weight"]
    )
    (tiny / "other.safetensors").replace(tiny / "model.safetensors")
    with pytest.raises(Invalid, match=r"layers\.1\.mlp\.up_proj"):
        export_gguf(tiny, tiny / "model.gguf")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2"),
        ({"architectures": ["MistralForCausalLM"], "attention_bias": True}, "attention_bias, which Mistral has not"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "silu"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": {"type": "linear"}}, "lacks factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "attention_factor": 1.2}}, "attention_factor"),
        ({"vocab_size": 500}, "has shape"),
    ],
)
def test_models_that_cannot_be_exported_are_refused_by_name(tiny: Path, change: dict[str, Any], complaint: str) -> None:
    edit(tiny, "config.json", **change)
    with pytest.raises(Invalid, match=complaint):
        export_gguf(tiny, tiny / "model.gguf")


def test_a_configuration_that_lacks_a_size_is_refused_by_name(tiny: Path) -> None:
    raw = json.loads((tiny / "config.json").read_text())
    del raw["hidden_size"]
    with pytest.raises(Invalid, match="hidden_size"):
        parse_config(raw)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"eos_token": None}, "eos_token"),
        ({"eos_token": "<nowhere>"}, "not in the vocabulary"),
        ({"chat_template": None}, "chat template"),
    ],
)
def test_tokenizers_that_cannot_serve_a_chat_are_refused(tiny: Path, change: dict[str, Any], complaint: str) -> None:
    edit(tiny, "tokenizer_config.json", **change)
    with pytest.raises(Invalid, match=complaint):
        export_gguf(tiny, tiny / "model.gguf")


def test_an_unknown_pre_tokenizer_needs_a_template(tiny: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.gguf"
    export_gguf(tiny, template)
    expected = read_keys(GGUFReader(template))
    edit(tiny, "tokenizer.json", pre_tokenizer={"type": "Whitespace"})
    with pytest.raises(Invalid, match="as a template"):
        export_gguf(tiny, tiny / "model.gguf")
    export_gguf(tiny, tiny / "model.gguf", template)
    assert read_keys(GGUFReader(tiny / "model.gguf")) == expected
    (tiny / "model.gguf").rename(tiny / "in-the-folder.gguf")
    export_gguf(tiny, tiny / "model.gguf")
    assert read_keys(GGUFReader(tiny / "model.gguf")) == expected


def test_a_template_of_another_vocabulary_is_refused(tiny: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.gguf"
    export_gguf(tiny, template)
    other = tiny_llama.write(tmp_path / "larger", vocab_size=400)
    edit(other, "tokenizer.json", pre_tokenizer={"type": "Whitespace"})
    with pytest.raises(Invalid, match="not the same tokenizer"):
        export_gguf(other, other / "model.gguf", template)


def test_both_spellings_of_the_rotation_base_are_read_and_all_are_written() -> None:
    old = tiny_llama.config()
    new = {**old, "rope_parameters": {"rope_theta": 50000.0, "rope_type": "default"}, "dtype": "bfloat16"}
    del new["rope_theta"]
    for raw in (old, new):
        whole = complete_config(raw)
        assert whole["rope_theta"] == 50000.0
        assert whole["rope_scaling"] is None
        assert whole["rope_parameters"] == {"rope_theta": 50000.0, "rope_type": "default"}
        assert whole["torch_dtype"] == whole["dtype"] == "float32"
        assert parse_config(whole) == parse_config(raw)


def test_llama_3_scaling_leaves_fast_rotations_and_slows_the_slow_ones() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    }
    factors = llama3_factors(scaling, theta=50000.0, rotated=16)
    assert factors.shape == (8,)
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert (np.diff(factors) >= 0).all()


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_and_shards_are_read_as_they_are(tiny: Path, dtype: str) -> None:
    whole = {tensor.name: tensor.load() for tensor in tensors_of(tiny)}
    shards: dict[str, str] = {}
    for number, part in enumerate((sorted(whole)[::2], sorted(whole)[1::2])):
        header: dict[str, Any] = {}
        data = b""
        for name in part:
            numbers = whole[name]
            raw = (
                numbers.astype(np.float16).tobytes()
                if dtype == "F16"
                else (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
            )
            header[name] = {
                "dtype": dtype,
                "shape": list(numbers.shape),
                "data_offsets": [len(data), len(data) + len(raw)],
            }
            data += raw
            shards[name] = f"part-{number}.safetensors"
        head = json.dumps(header).encode()
        (tiny / f"part-{number}.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)
    (tiny / "model.safetensors").unlink()
    (tiny / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for tensor in tensors_of(tiny):
        numbers = whole[tensor.name]
        if dtype == "F16":
            expected = numbers.astype(np.float16).astype(np.float32)
        else:
            expected = (numbers.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        assert np.array_equal(tensor.load(), expected)


def test_weights_cut_short_are_refused(tiny: Path) -> None:
    data = (tiny / "model.safetensors").read_bytes()
    for length in (4, 100, len(data) - 10):
        (tiny / "model.safetensors").write_bytes(data[:length])
        with pytest.raises(Invalid, match="cut short"):
            tensors_of(tiny)


def test_a_character_is_whole_when_all_its_bytes_are_there() -> None:
    river = "江".encode()
    assert whole_characters([b"a", river[:1], river[1:2], river[2:], b"b"]) == [True, False, False, True, True]
    assert whole_characters([river[:2], b"x"]) == [False, True]  # llama.cpp counts the bytes, it does not read them
    assert whole_characters([b"\x80", b"", "é".encode(), "😀".encode()[:3], "😀".encode()[3:]]) == [
        True,
        True,
        True,
        False,
        True,
    ]


def test_the_bytes_of_the_tokens_are_the_text(tiny: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    pieces = token_bytes(tiny)
    for text in HOSTILE:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        assert b"".join(pieces.get(token, b"") for token in tokens) == strip_control(text).encode()


def strip_control(text: str) -> str:
    return text.replace("<|im_start|>", "").replace("<|im_end|>", "")


def test_the_wheels_tokenizer_is_made_with_single_digits_and_right_ends(tmp_path: Path) -> None:
    keys = read_keys(GGUFReader(wheel_gguf()))
    content, settings = tokenizer_json(keys), tokenizer_config(keys, 8192)
    assert [step["type"] for step in content["pre_tokenizer"]["pretokenizers"]] == ["Digits", "ByteLevel"]
    assert (settings["eos_token"], settings["pad_token"]) == ("<|im_end|>", "<|im_end|>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "chat_template.jinja").write_text(keys.chat_template)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": len(keys.tokens)}))
    assert keys_from_directory(tmp_path) == keys
