"""A model in somebody's format, a folder of transformers' or a GGUF, becomes the beginnings of a finished model directory: config,
tokenizer, chat template and weights in float32, in the one form that every reader here understands."""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from streams.errors import Invalid
from workers.models.chatglm3 import is_chatglm3, read_source
from workers.models.config import complete_config, model_tensors, parse_config, read_raw_config
from workers.models.gguf import Reader, read_gguf_config, read_keys, read_tensors
from workers.models.tokens import (
    TokenizerKeys,
    chat_template,
    token_text,
    tokenizer_config,
    tokenizer_json,
    tokenizer_settings,
)
from workers.models.weights import Tensor, write_float32

TOKENIZER_FILES = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")


def open_gguf(path: Path) -> Reader:
    """Raises Invalid for what is no GGUF."""
    try:
        return Reader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise Invalid(f"{path.name} is no GGUF that can be read ({type(error).__name__})") from error


def from_gguf(source: Path, folder: Path) -> None:
    """Convert the GGUF `source` into `folder`, which is there and empty. Raises Invalid if it cannot be used."""
    reader = open_gguf(source)
    raw = read_gguf_config(reader)
    _write_model(folder, raw, read_keys(reader), read_tensors(reader, parse_config(raw)))


def _write_model(folder: Path, raw: dict[str, Any], keys: TokenizerKeys, tensors: list[Tensor]) -> None:
    raw = complete_config(raw)
    write_json(folder / "config.json", raw)
    write_json(folder / "tokenizer.json", tokenizer_json(keys))
    write_json(folder / "tokenizer_config.json", tokenizer_config(keys, parse_config(raw).context_tokens))
    _write_generation_config(folder, begin=keys.begin, end=raw["eos_token_id"], padding=keys.padding)
    (folder / "chat_template.jinja").write_text(keys.chat_template, encoding="utf-8")
    write_float32(folder / "model.safetensors", tensors)


def from_directory(source: Path, folder: Path) -> None:
    """Convert the folder `source` into `folder`, which is there and empty. Raises Invalid if it cannot be used."""
    raw = read_raw_config(source)
    if is_chatglm3(raw):
        _write_model(folder, *read_source(source, raw))
        return
    config = parse_config(raw)
    tensors = model_tensors(source, config)
    settings = tokenizer_settings(source)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if not (folder / "tokenizer.json").is_file():
        raise Invalid(f"{source.name} has no tokenizer.json")
    _without_normalizer(folder / "tokenizer.json")
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
    # tokenizer.json says all; a class of a family's own builds another tokenizer from its own parts (transformers 5 does).
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(
        settings.get("extra_special_tokens"), list
    ):  # transformers 5's name too: OpenCompass's 4 stumbles over it
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings.pop("chat_template", None)
    settings.pop("auto_map", None)  # code of its own, which is never run
    (folder / "chat_template.jinja").write_text(chat_template(source), encoding="utf-8")
    vocabulary = _vocabulary(folder)
    last = max(vocabulary.values())
    if last >= config.vocabulary:
        raise Invalid(f"{source.name}: the tokenizer's token {last} has no row in the embedding of {config.vocabulary}")
    if end not in vocabulary:
        raise Invalid(f"{source.name}: eos_token {end!r} is not in the vocabulary")
    ends = _end_ids(source, raw, vocabulary[end])
    raw["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    raw["pad_token_id"] = vocabulary[str(token_text(settings, "pad_token"))]
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "config.json", complete_config(raw))
    _write_generation_config(
        folder, begin=raw.get("bos_token_id"), end=raw["eos_token_id"], padding=raw["pad_token_id"]
    )
    write_float32(folder / "model.safetensors", tensors)


def _without_normalizer(path: Path) -> None:
    """llama.cpp composes no characters (Unicode's NFC, which Qwen's tokenizer asks for): what trains must read as what serves does.
    Text in NFC, as nearly all is, is cut alike with it and without."""
    try:
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Invalid(f"{path.name} cannot be read: {error}") from error
    if tokenizer.get("normalizer") == {"type": "NFC"}:
        path.write_text(json.dumps({**tokenizer, "normalizer": None}, ensure_ascii=False), encoding="utf-8")


def _end_ids(source: Path, raw: dict[str, Any], of_tokenizer: int) -> list[int]:
    """Every token that ends a reply: the tokenizer's own first, then what the model's files add (Llama 3 has several)."""
    found: list[int | None] = [of_tokenizer]
    generation = source / "generation_config.json"
    for values in (raw, json.loads(generation.read_text()) if generation.is_file() else {}):
        more = values.get("eos_token_id")
        found += more if isinstance(more, list) else [more]
    ends = list(dict.fromkeys(int(index) for index in found if index is not None))
    if not all(0 <= index < int(raw["vocab_size"]) for index in ends):
        raise Invalid(f"{source.name}: an end mark ({ends}) is beyond the vocabulary of {raw['vocab_size']}")
    return ends


def _vocabulary(folder: Path) -> dict[str, int]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    found: dict[str, int] = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    return found | {added["content"]: added["id"] for added in tokenizer["added_tokens"]}


def _write_generation_config(folder: Path, begin: int | None, end: int | list[int], padding: int) -> None:
    # No `do_sample`: LightLLM would take it from here as the default of every request that does not send it.
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": padding},
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as people read it."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
