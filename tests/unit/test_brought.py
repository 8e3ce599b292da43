"""An adapter that was trained elsewhere: merged as PEFT merges it, and nothing else than numbers is read of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from streams.artifacts import Artifacts
from streams.errors import Invalid
from streams.recipes import BroughtRecipe
from tests.unit.trainer_tiny import make_model, rows
from workers.trainer import METHODS
from workers.trainer.brought import ADAPTER_FILES, take_in
from workers.trainer.job import Job

RECIPE = BroughtRecipe(adapter="sha256:" + "0" * 64)


def loaded(folder: Path) -> Any:
    loader: Any = AutoModelForCausalLM
    return loader.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By PEFT, on some of the layers, by a scale of its own."""
    folder = tmp_path_factory.mktemp("adapter") / "elsewhere"
    torch.manual_seed(5)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], use_rslora=True)
    model: Any = get_peft_model(loaded(base), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    return folder


def brought(base: Path, adapter: Path, tmp_path: Path, **changed: Any) -> Any:
    job = Job(
        model_dir=base,
        rows=tuple(rows()),
        recipe=RECIPE,
        out_dir=tmp_path / "out",
        checkpoint_dir=tmp_path / "checkpoint",
        brought_dir=adapter,
        progress=lambda seen: None,
    )
    return METHODS[BroughtRecipe].load()(job)


def test_the_model_says_what_pefts_own_says_and_the_adapter_is_kept_as_it_was(
    base: Path, trained: Path, tmp_path: Path
) -> None:
    outcome = brought(base, trained, tmp_path)
    from peft import PeftModel

    peft: Any = PeftModel
    expected, found = peft.from_pretrained(loaded(base), str(trained)).eval(), loaded(Path(outcome.model_dir)).eval()
    ids = torch.tensor([[5, 9, 2, 14, 30, 7]])
    with torch.no_grad():
        wanted, plain = expected(ids).logits, loaded(base)(ids).logits
        assert torch.allclose(found(ids).logits, wanted, atol=1e-4) and not torch.allclose(plain, wanted, atol=1e-2)
    for name in ADAPTER_FILES:
        assert (Path(outcome.adapter_dir) / name).read_bytes() == (trained / name).read_bytes()
    assert outcome.steps == 0 and outcome.needs == "merged" and outcome.final_loss > 0


def test_the_same_adapter_is_the_same_artifact_whatever_else_lies_in_its_folder(trained: Path, tmp_path: Path) -> None:
    artifacts, copy = Artifacts(tmp_path / "artifacts"), tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "training_args.bin").write_bytes(b"\x80\x04 a pickle")
    (copy / "README.md").write_text("made elsewhere")
    digest = take_in(copy, artifacts)
    assert digest == take_in(trained, artifacts)
    assert sorted(path.name for path in artifacts.path(digest).iterdir()) == sorted(ADAPTER_FILES)


def no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def other_tensors(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}, path)


def said(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_weights, "a .bin is a pickle"),
        (cut, "cannot be read"),
        (other_tensors, "other tensors than LoRA's"),
        (said(peft_type="PREFIX_TUNING"), "only a LoRA adapter"),
        (said(bias="all"), "changes biases"),
        (said(use_dora=True), "use_dora, which is not merged"),
        (said(modules_to_save=["lm_head"]), "modules_to_save, which is not merged"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "no adapter_config.json that can be read"),
    ],
    ids=["pickle", "cut", "other tensors", "prefix", "bias", "dora", "saved modules", "no json"],
)
def test_what_cannot_be_merged_is_refused_with_the_reason_and_nothing_is_kept(
    spoil: Callable[[Path], None], words: str, trained: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    spoil(copy)
    artifacts = Artifacts(tmp_path / "artifacts")
    with pytest.raises(Invalid, match=words):
        take_in(copy, artifacts)
    assert list(artifacts.all()) == []


def test_an_adapter_that_changes_a_layer_which_is_not_there_is_refused(
    base: Path, trained: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    path = copy / "adapter_model.safetensors"
    state = load_file(path)
    deep = {
        name.replace("layers.3", "layers.33"): weight.clone() for name, weight in state.items() if "layers.3" in name
    }
    save_file(state | deep, path)
    with pytest.raises(Invalid, match=r"layers\.33.*which is not there"):
        brought(base, copy, tmp_path)


def test_an_adapter_of_another_model_is_refused(trained: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", kind="qwen2")
    state = load_file(trained / "adapter_model.safetensors")
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    save_file({name: weight[:, :1].contiguous() for name, weight in state.items()}, copy / "adapter_model.safetensors")
    with pytest.raises(Invalid, match="not one of this model"):
        brought(other, copy, tmp_path)
