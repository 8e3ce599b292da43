"""The transformers engine applies the adapter that a model directory holds, as PEFT itself does."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.errors import Invalid, Unavailable
from tests import tiny_llama
from tests.tiny_adapter import add_lora, add_prefix, add_prompt
from workers.engines import make_engine
from workers.engines.protocol import Engine, EngineSpec
from workers.models.base import build_base
from workers.models.golden import compare_with_golden, write_golden
from workers.models.loaded import ADAPTER_DIR, load_model


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tiny_llama.write(tmp_path_factory.mktemp("user") / "tiny", seed=3)
    folder = tmp_path_factory.mktemp("finished") / "bare"
    build_base(folder, str(source), engine="transformers")
    return folder


@pytest.fixture
def adapted(bare: Path, tmp_path: Path) -> Path:
    """To be given an adapter."""
    shutil.copytree(bare, tmp_path / "adapted")
    return tmp_path / "adapted"


def engine_of(folder: Path) -> Engine:
    spec = EngineSpec(kind="transformers", model_dir=folder, model_name="adapted", slots=1, context_tokens=512)
    return make_engine(spec, "a-key")


@pytest.mark.parametrize("add", [add_prefix, add_lora])
def test_what_it_says_is_what_peft_says_and_not_what_the_bare_model_says(
    bare: Path, adapted: Path, add: Callable[[Path], None]
) -> None:
    add(adapted)
    write_golden(adapted)
    engine = engine_of(adapted)
    engine.start()
    try:
        engine.ready(engine.start_deadline_s)
        of_adapted, of_bare = (
            compare_with_golden(engine.base_url, engine.key, folder / "golden.jsonl") for folder in (adapted, bare)
        )
    finally:
        engine.stop()
    assert of_adapted.prompt_tokens_equal and of_adapted.tokens >= 60
    assert of_adapted.max_difference < 1e-4 and of_adapted.argmax_equal == of_adapted.tokens
    assert not of_bare.within(engine.golden_tolerance)


def test_an_adapter_of_a_kind_that_cannot_be_served_ends_the_engine_before_it_answers(adapted: Path) -> None:
    add_prompt(adapted)
    engine = engine_of(adapted)
    engine.start()
    try:
        with pytest.raises(Unavailable, match="ended"):
            engine.ready(engine.start_deadline_s)
    finally:
        engine.stop()


def test_an_adapter_without_safetensors_is_never_read_from_a_pickle(adapted: Path) -> None:
    add_prefix(adapted)
    folder = adapted / ADAPTER_DIR
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(Invalid, match=r"no adapter_model\.safetensors"):
        load_model(adapted)


def test_an_adapter_of_another_model_is_refused(adapted: Path, tmp_path: Path) -> None:
    other = tiny_llama.write(tmp_path / "other", hidden_size=32, num_attention_heads=2)
    add_lora(other)
    shutil.copytree(other / ADAPTER_DIR, adapted / ADAPTER_DIR)
    with pytest.raises(Invalid, match="fits no model here"):
        load_model(adapted)
