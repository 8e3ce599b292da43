"""The table of families, without an engine: what a GGUF keeps of each, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from streams.engines import ENGINES
from streams.errors import Invalid
from tests import tiny_families, tiny_llama
from workers.models.config import complete_config, engines_for, model_tensors, not_for_llamacpp, parse_config
from workers.models.families import FAMILIES
from workers.models.gguf import Reader, export_gguf, read_gguf_config, read_tensors
from workers.models.weights import tensors_of, write_float32


def config(case: str, **changes: Any) -> dict[str, Any]:
    known = {key: value for key, value in tiny_families.ALL[case].items() if key not in ("pre", "normalizer")}
    return tiny_llama.config(**known, **changes)


def test_every_family_of_the_table_has_a_model_in_the_tests() -> None:
    tested = {tuple(case["architectures"]) for case in tiny_families.FAMILIES.values()}
    assert tested == {(family.architecture,) for family in FAMILIES}


@pytest.mark.parametrize("case", [case for case in tiny_families.SERVED if "as Llama 3" not in case])
def test_a_model_of_each_family_comes_back_from_its_gguf(tmp_path: Path, case: str) -> None:
    folder = tiny_llama.write(tmp_path / "source", **{**tiny_families.ALL[case], "normalizer": None})
    export_gguf(folder, tmp_path / "model.gguf")
    reader = Reader(tmp_path / "model.gguf")
    given = parse_config(json.loads((folder / "config.json").read_text()))
    found = parse_config(complete_config(read_gguf_config(reader)))
    # llama.cpp has one architecture for both.
    assert found == replace(given, family=FAMILIES[0] if given.family.name == "Mistral" else given.family)
    source = {tensor.name: tensor.load() for tensor in tensors_of(folder)}
    back = {tensor.name: tensor.load() for tensor in read_tensors(reader, found)}
    assert back.keys() == source.keys()
    for name, numbers in source.items():
        expected = numbers if numbers.ndim == 1 else numbers.astype(np.float16).astype(np.float32)
        assert np.array_equal(back[name], expected), name


@pytest.mark.parametrize("case", tiny_families.ALL)
def test_a_completed_config_says_the_same_and_completing_it_again_changes_nothing(case: str) -> None:
    raw = config(case)
    whole = complete_config(raw)
    assert parse_config(whole) == parse_config(raw)
    assert complete_config(whole) == whole


def test_a_window_ends_how_far_a_context_reaches() -> None:
    assert parse_config(config("mistral with a window")).context_tokens == 1024
    assert parse_config(config("mistral")).context_tokens == 2048
    assert parse_config(config("qwen2", sliding_window=512)).context_tokens == 2048
    assert parse_config(config("qwen2", sliding_window=512, use_sliding_window=True)).context_tokens == 512
    assert parse_config(config("llama", sliding_window=512)).context_tokens == 2048


@pytest.mark.parametrize("case", tiny_families.FAMILIES)
def test_what_config_leaves_out_is_what_transformers_takes_for_it(case: str) -> None:
    from transformers import AutoConfig

    left_out = ("head_dim", "num_key_value_heads", "attention_bias", "partial_rotary_factor", "tie_word_embeddings")
    raw = {key: value for key, value in config(case).items() if key not in left_out}
    theirs = AutoConfig.for_model(**raw)
    found = parse_config(raw)
    share = theirs.rope_parameters.get("partial_rotary_factor", 1.0)
    head_size = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert found.key_value_heads == theirs.num_key_value_heads
    assert (found.head_size, found.rotated) == (head_size, int(head_size * share))
    assert bool(found.biases) is bool(getattr(theirs, "attention_bias", False))
    assert found.tied is theirs.tie_word_embeddings


def test_parameters_are_those_of_the_file(tmp_path: Path) -> None:
    for case in tiny_families.ALL:
        folder = tiny_families.write(tmp_path / case, case)
        held = sum(tensor.load().size for tensor in tensors_of(folder))
        assert parse_config(config(case)).parameters == held


@pytest.mark.parametrize("case", tiny_families.FAMILIES)
def test_a_tensor_of_another_shape_is_named(tmp_path: Path, case: str) -> None:
    folder = tiny_families.write(tmp_path / "source", case)
    spoilt = [
        replace(tensor, shape=(tensor.shape[0], 1), load=lambda: np.zeros((64, 1), np.float32))
        if tensor.name == "model.layers.1.mlp.down_proj.weight"
        else tensor
        for tensor in tensors_of(folder)
    ]
    write_float32(folder / "spoilt", spoilt)
    (folder / "spoilt").replace(folder / "model.safetensors")
    with pytest.raises(Invalid, match=r"layers\.1\.mlp\.down_proj\.weight has shape"):
        model_tensors(folder, parse_config(config(case)))


def test_the_engines_that_can_serve_a_model_are_told_by_its_family_and_rotation() -> None:
    served = {case: engines_for(parse_config(config(case))) for case in tiny_families.FAMILIES}
    assert served["llama"] == served["mistral"] == served["qwen3"] == ("llamacpp", "lightllm", "transformers")
    assert served["glm"] == served["glm4"] == ("llamacpp", "transformers")
    reasons = {case: not_for_llamacpp(parse_config(config(case))) for case in tiny_families.ELSEWHERE}
    assert reasons == {
        "qwen3 with biases": "llama.cpp does not read attention_bias of Qwen3",
        "qwen3, scaled as Llama 3": "rope scaling 'llama3' cannot be exported for Qwen3",
        "glm with wide heads": "llama.cpp wants the heads of GLM together as wide as hidden_size",
    }
    assert engines_for(parse_config(config("qwen3 with biases"))) == ("lightllm", "transformers")
    assert all(not_for_llamacpp(parse_config(config(case))) is None for case in tiny_families.SERVED)
    assert set(ENGINES) <= {"llamacpp", "lightllm", "transformers"}
