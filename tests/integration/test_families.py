"""Every family says the same through llama.cpp as through transformers: as it comes, with biases, tied, with each kind of rotation,
and after a training."""

import json
from pathlib import Path

import msgspec
import pytest

from streams.errors import Invalid
from tests import tiny_chatglm3, tiny_families
from tests.unit import trainer_tiny
from workers.engines.llamacpp import LlamaCppEngine
from workers.engines.protocol import EngineSpec
from workers.models import config, gguf
from workers.models.base import build_base
from workers.models.check import check_export, hostile_strings
from workers.models.families import FAMILIES, Family, Leaf
from workers.models.gguf import export_gguf
from workers.models.golden import compare_with_golden, write_golden
from workers.trainer.job import Job
from workers.trainer.methods.lora import train

GGUF = "model-f16.gguf"


@pytest.mark.parametrize("case", tiny_families.SERVED)
def test_a_family_says_the_same_through_llamacpp_as_through_transformers(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "finished"
    build_base(folder, str(tiny_families.write(tmp_path / "source", case)))
    checked = check_export(folder, folder / GGUF)
    assert checked.golden.max_difference < 0.05
    assert checked.golden.tokens >= 64
    assert checked.strings == len(hostile_strings())


@pytest.mark.parametrize("case", [case for case in tiny_families.SERVED if "scaled" in case or "yarn" in case])
def test_a_rotation_that_the_file_does_not_tell_is_caught(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "finished"
    monkeypatch.setattr(gguf, "_describe_scaling", lambda writer, config, scaling: None)
    build_base(folder, str(tiny_families.write(tmp_path / "source", case)))
    with pytest.raises(Invalid, match="log-probabilities differ"):
        check_export(folder, folder / GGUF)


@pytest.mark.parametrize("case", tiny_families.ELSEWHERE)
def test_what_llamacpp_cannot_serve_is_a_base_for_other_engines(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "finished"
    build_base(folder, str(tiny_families.write(tmp_path / "source", case)), check=True)
    assert not (folder / GGUF).exists() and (folder / "golden.jsonl").exists()
    assert "llamacpp" not in json.loads((folder / "noria.json").read_text())["about"]["engines"]


def test_chatglm3_says_the_same_through_llamacpp_once_it_is_a_glm(tmp_path: Path) -> None:
    tiny_chatglm3.write(tmp_path / "source")
    folder = tmp_path / "finished"
    build_base(folder, str(tmp_path / "source"), check=True)
    checked = check_export(folder, folder / GGUF)
    assert checked.golden.max_difference < 0.05
    assert checked.golden.tokens >= 64


def test_a_further_family_is_one_row_and_one_model_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OLMo 2, which norms what its layers give, and queries and keys in their whole width."""
    llama = FAMILIES[0]
    plain = [
        msgspec.structs.replace(leaf, bias=False, permuted=False) for leaf in llama.layer if "norm" not in leaf.name
    ]
    norms = (
        Leaf("post_attention_layernorm", "post_attention_norm", ("hidden",)),
        Leaf("post_feedforward_layernorm", "post_ffw_norm", ("hidden",)),
        Leaf("self_attn.q_norm", "attn_q_norm", ("queries",)),
        Leaf("self_attn.k_norm", "attn_k_norm", ("keys",)),
    )
    row = Family(
        name="OLMo 2",
        architecture="Olmo2ForCausalLM",
        model_type="olmo2",
        layer=(*norms, *plain),
        gguf="olmo2",
        lightllm=False,
    )
    monkeypatch.setattr(config, "FAMILIES", (*FAMILIES, row))
    case = {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "eos_token_id": 1, "pad_token_id": 1}
    monkeypatch.setitem(tiny_families.ALL, "olmo2", case)
    folder = tmp_path / "finished"
    build_base(folder, str(tiny_families.write(tmp_path / "source", "olmo2")))
    assert check_export(folder, folder / GGUF).golden.tokens >= 64


@pytest.mark.parametrize("case", tiny_families.FAMILIES)
def test_what_a_family_was_taught_is_served(tmp_path: Path, case: str) -> None:
    base = tmp_path / "base"
    build_base(base, str(tiny_families.write(tmp_path / "source", case)))
    (tmp_path / "checkpoint").mkdir()
    result = train(
        Job(
            model_dir=base,
            rows=tuple(trainer_tiny.rows()),
            recipe=msgspec.structs.replace(trainer_tiny.RECIPE, replay_rows_per_step=0, learning_rate=2e-2),
            out_dir=tmp_path / "out",
            checkpoint_dir=tmp_path / "checkpoint",
            progress=lambda progress: None,
            precision="float32",
        )
    )
    folder = Path(result.model_dir)
    assert result.epoch_losses[-1] < result.epoch_losses[0]
    assert json.loads((folder / "config.json").read_text())["architectures"] == tiny_families.ALL[case]["architectures"]
    write_golden(folder)
    export_gguf(folder, folder / GGUF)
    assert check_export(folder, folder / GGUF).golden.max_difference < 0.05
    # The base would not be taken for it.
    spec = EngineSpec(kind="llamacpp", model_dir=base, model_name="base", slots=1, context_tokens=512)
    engine = LlamaCppEngine(spec, "a-key")
    engine.start()
    try:
        engine.ready(60.0)
        other = compare_with_golden(engine.base_url, engine.key, folder / "golden.jsonl")
    finally:
        engine.stop()
    assert not other.within(LlamaCppEngine.golden_tolerance)
