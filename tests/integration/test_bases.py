"""A base is entered when it says what its source says and can hold a conversation; of one that is refused nothing is kept."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from streams.artifacts import Artifacts
from streams.errors import Invalid
from tests import tiny_families, tiny_llama
from workers.models.base import prepare_base_digest
from workers.models.config import model_tensors, read_config
from workers.models.weights import Tensor, tensors_of, write_float32

SETTINGS = "tokenizer_config.json"


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    write_float32(folder / "changed", [change(tensor) for tensor in tensors_of(folder)])
    (folder / "changed").replace(folder / "model.safetensors")


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def without_template(folder: Path) -> None:
    edit(folder, SETTINGS, chat_template=None)


def template_without_system(folder: Path) -> None:
    edit(
        folder,
        SETTINGS,
        chat_template=tiny_llama.TEMPLATE.replace("messages %}", "messages if message.role != 'system' %}"),
    )


def template_that_refuses(folder: Path) -> None:
    edit(folder, SETTINGS, chat_template="{{ raise_exception('no system prompts') }}")


def template_that_is_none(folder: Path) -> None:
    edit(folder, SETTINGS, chat_template="{% for message in messages %}")


def template_that_never_ends(folder: Path) -> None:
    edit(folder, SETTINGS, chat_template=tiny_llama.TEMPLATE.replace("<|im_end|>", ""))


def without_end_mark(folder: Path) -> None:
    edit(folder, SETTINGS, eos_token=None)


def end_beyond_the_vocabulary(folder: Path) -> None:
    edit(folder, "config.json", eos_token_id=5000)


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def index_of_a_missing_file(folder: Path) -> None:
    names = {tensor.name: "model-00001-of-00002.safetensors" for tensor in tensors_of(folder)}
    names["lm_head.weight"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def index_of_a_file_elsewhere(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    names = {tensor.name: "../elsewhere.safetensors" for tensor in tensors_of(folder)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def more_tokens_than_rows(folder: Path) -> None:
    edit(folder, "config.json", vocab_size=300)
    outer = ("model.embed_tokens.weight", "lm_head.weight")

    def fewer(tensor: Tensor) -> Tensor:
        rows = tensor.load()[:300]
        return Tensor(tensor.name, rows.shape, lambda: rows) if tensor.name in outer else tensor

    rewrite(folder, fewer)


def more_rows_said_than_there_are(folder: Path) -> None:
    edit(folder, "config.json", vocab_size=1000)


def quantised(folder: Path) -> None:
    edit(folder, "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def code_of_its_own(folder: Path) -> None:
    (folder / "modeling_heron.py").write_text("raise SystemExit('was run')")
    edit(folder, "config.json", auto_map={"AutoModelForCausalLM": "modeling_heron.Heron"})


def another_architecture(folder: Path) -> None:
    edit(folder, "config.json", architectures=["MambaForCausalLM"])


def numbers_that_are_none(folder: Path) -> None:
    rewrite(
        folder,
        lambda t: replace(t, load=lambda: t.load() * np.nan) if t.name == "model.norm.weight" else t,
    )


def tokenizer_of_another_kind(folder: Path) -> None:
    """transformers' own class for Qwen2 cuts words in its own way, whatever tokenizer.json says."""
    edit(folder, SETTINGS, tokenizer_class="Qwen2Tokenizer")


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def pickle_bomb(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Bomb(folder / "went-off")}, folder / "pytorch_model.bin")


def old_pickle_bomb(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder / "went-off")))


REFUSED: dict[Callable[[Path], None], str] = {
    without_tokenizer: r"no tokenizer\.json",
    without_template: "no chat template",
    template_without_system: "leaves out what the system says",
    template_that_refuses: "refuses the messages",
    template_that_is_none: "the chat template cannot be read",
    template_that_never_ends: "replies would never end",
    without_end_mark: "names no eos_token",
    end_beyond_the_vocabulary: "beyond the vocabulary",
    without_weights: r"no model\.safetensors",
    cut_short: "cut short",
    index_of_a_missing_file: r"no model-00002-of-00002\.safetensors, which model\.safetensors\.index\.json names",
    index_of_a_file_elsewhere: r"no \.\./elsewhere\.safetensors",
    more_tokens_than_rows: "has no row in the embedding of 300",
    more_rows_said_than_there_are: "has shape",
    quantised: "quantization_config",
    code_of_its_own: "code of its own",
    another_architecture: "MambaForCausalLM cannot be served and trained",
    numbers_that_are_none: "not finite|not numbers",
    tokenizer_of_another_kind: "otherwise than the source's own",
    pickle_bomb: "holds more than tensors",
    old_pickle_bomb: "holds more than tensors|cut short or broken",
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_used_is_refused_with_its_reason_and_nothing_of_it_is_kept(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    source = tiny_llama.write(tmp_path / "heron", seed=3)
    spoil(source)
    with pytest.raises(Invalid, match=REFUSED[spoil]):
        prepare_base_digest(tmp_path / "home", str(source), check=True)
    assert not (source / "went-off").exists()
    assert nothing_kept(tmp_path / "home")


def nothing_kept(home: Path) -> bool:
    kept = Artifacts(home / "artifacts").all()
    return not kept and not (home / "models" / "index.json").exists() and not list((home / "models").glob("prep*"))


def test_a_gguf_that_is_none_or_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + bytes(range(256)))
    (tmp_path / "text.gguf").write_text("no model at all")
    for name in ("noise.gguf", "text.gguf"):
        with pytest.raises(Invalid, match="no GGUF that can be read"):
            prepare_base_digest(tmp_path / "home", str(tmp_path / name), check=True)
    assert nothing_kept(tmp_path / "home")


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "heron")
    with pytest.raises(Invalid, match="a base is called"):
        prepare_base_digest(tmp_path / "home", str(source), name="../heron")


def test_weights_in_torchs_files_are_read_as_they_are(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "heron")
    safe = load_file(source / "model.safetensors")
    first = {name: tensor for name, tensor in safe.items() if "layers" in name}
    torch.save(first, source / "pytorch_model-00001-of-00002.bin")
    torch.save(
        {name: tensor for name, tensor in safe.items() if name not in first},
        source / "pytorch_model-00002-of-00002.bin",
    )
    names = {name: f"pytorch_model-0000{1 if name in first else 2}-of-00002.bin" for name in safe}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    (source / "model.safetensors").unlink()
    found = {tensor.name: tensor.load() for tensor in model_tensors(source, read_config(source))}
    assert found.keys() == safe.keys()
    assert all(np.array_equal(found[name], safe[name].numpy()) for name in safe)


@pytest.mark.parametrize("case", ["qwen3", "glm"])
def test_a_base_that_stands_is_kept_with_what_is_to_be_known_of_it(tmp_path: Path, case: str) -> None:
    source = tiny_families.write(tmp_path / case, case)
    (source / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Heron\n")
    said: list[str] = []
    digest = prepare_base_digest(tmp_path / "home", str(source), said.append, name="heron", check=True)
    kept = Artifacts(tmp_path / "home" / "artifacts").path(digest)
    card = json.loads((kept / "noria.json").read_text())
    config = read_config(source)
    assert (card["base"], card["checked"]) == ("heron", True)
    assert card["about"] == {
        "family": config.family.name,
        "parameters": sum(tensor.load().size for tensor in tensors_of(source)),
        "context_tokens": 2048,
        "vocabulary": 384,
        "licence": "apache-2.0",
        "engines": ["llamacpp", "lightllm", "transformers"] if case == "qwen3" else ["llamacpp", "transformers"],
    }
    said.clear()
    assert prepare_base_digest(tmp_path / "home", str(source), said.append, name="heron", check=True) == digest
    assert said == [], "what stands is not checked again"


def test_a_gguf_is_entered_and_is_the_model_that_it_was_made_from(tmp_path: Path) -> None:
    source = tiny_families.write(tmp_path / "glm4", "glm4")
    made = prepare_base_digest(tmp_path / "one", str(source), check=True)
    gguf = tmp_path / "heron.gguf"
    shutil.copy(Artifacts(tmp_path / "one" / "artifacts").path(made) / "model-f16.gguf", gguf)
    digest = prepare_base_digest(tmp_path / "two", str(gguf), check=True)
    kept = Artifacts(tmp_path / "two" / "artifacts").path(digest)
    assert json.loads((kept / "noria.json").read_text())["base"] == "heron"
    assert (kept / "model-f16.gguf").read_bytes() == gguf.read_bytes()
