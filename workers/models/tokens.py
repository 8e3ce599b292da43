"""Tokenizers on both sides: transformers' tokenizer.json and llama.cpp's `tokenizer.*` keys, each made from the other.

Only byte-level BPE whose pre-tokenizer has a name in llama.cpp is translated; every export is compared string by string anyway.
"""

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

from streams.errors import Invalid

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's token types

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


class TokenizerKeys(Struct, frozen=True, kw_only=True):
    """What llama.cpp must know of a byte-level BPE tokenizer."""

    pre: str  # llama.cpp's name of the pre-tokenizer
    tokens: list[str]
    types: list[int]
    merges: list[str]
    begin: int | None
    end: int
    padding: int
    unknown: int | None
    add_begin: bool
    chat_template: str


def keys_from_directory(model_dir: Path) -> TokenizerKeys:
    """Read tokenizer.json and its configuration. Raises Invalid naming what is missing or cannot be translated."""
    path = model_dir / "tokenizer.json"
    if not path.is_file():
        raise Invalid(f"{model_dir.name} has no tokenizer.json")
    tokenizer: dict[str, Any] = json.loads(path.read_text())
    settings = tokenizer_settings(model_dir)
    model = tokenizer["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise Invalid(
            f"{model_dir.name}/tokenizer.json is no byte-level BPE; put a GGUF of the same tokenizer into the folder as a template"
        )
    size = vocabulary_size(model_dir)
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [UNUSED] * size
    for token, index in model["vocab"].items():
        tokens[index], types[index] = token, NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    by_text = {token: index for index, token in enumerate(tokens)}

    def token_id(name: str) -> int | None:
        text = token_text(settings, name)
        if text is not None and text not in by_text:
            raise Invalid(f"{name} {text!r} is not in the vocabulary")
        return None if text is None else by_text[text]

    end = token_id("eos_token")
    if end is None:
        raise Invalid(f"{model_dir.name}/tokenizer_config.json names no eos_token: replies would never end")
    padding = token_id("pad_token")
    begin = token_id("bos_token")
    return TokenizerKeys(
        pre=_pre_tokenizer_name(tokenizer),
        tokens=tokens,
        types=types,
        merges=[pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]],
        begin=begin,
        end=end,
        padding=end if padding is None else padding,
        unknown=token_id("unk_token"),
        add_begin=begin is not None and _adds_begin(tokenizer),
        chat_template=chat_template(model_dir),
    )


def vocabulary_size(model_dir: Path) -> int:
    """Rows of the embedding, which may be more than there are tokens."""
    return int(json.loads((model_dir / "config.json").read_text())["vocab_size"])


def tokenizer_settings(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "tokenizer_config.json"
    if not path.is_file():
        raise Invalid(f"{model_dir.name} has no tokenizer_config.json")
    settings: dict[str, Any] = json.loads(path.read_text())
    return settings


def token_text(settings: dict[str, Any], name: str) -> str | None:
    """The text of a special token, which older files wrap in an object."""
    value = settings.get(name)
    return value["content"] if isinstance(value, dict) else value


def chat_template(model_dir: Path) -> str:
    """The Jinja template of a conversation, from its own file or the tokenizer's configuration. Raises Invalid if there is none."""
    file = model_dir / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    found = tokenizer_settings(model_dir).get("chat_template")
    if not isinstance(found, str) or not found:
        raise Invalid(f"{model_dir.name} has no chat template (chat_template.jinja): only chat models can be served")
    return found


def control_tokens(model_dir: Path) -> tuple[str, ...]:
    """Every text that the folder's tokenizer reads as a control token, for whoever escapes what people wrote; the longest first.

    Raises Invalid if there is no tokenizer.json or no configuration.
    """
    path = model_dir / "tokenizer.json"
    if not path.is_file():
        raise Invalid(f"{model_dir.name} has no tokenizer.json")
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    settings = tokenizer_settings(model_dir)
    found = {str(added["content"]) for added in tokenizer["added_tokens"] if added["special"]}
    # What only the configuration names is one for transformers.
    named = [token_text(settings, f"{name}_token") for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        listed = settings.get(name) or []
        more = listed.values() if isinstance(listed, dict) else listed
        named += [token["content"] if isinstance(token, dict) else token for token in more]
    return tuple(sorted(found | {text for text in named if text}, key=lambda text: (-len(text), text)))


def _adds_begin(tokenizer: dict[str, Any]) -> bool:
    processor = tokenizer.get("post_processor") or {}
    parts = processor.get("processors", [processor])
    return any("SpecialToken" in step for part in parts for step in part.get("single", []))


def _pre_tokenizer_name(tokenizer: dict[str, Any]) -> str:
    if tokenizer.get("normalizer"):
        raise Invalid(
            "tokenizer.json has a normalizer, which llama.cpp's byte-level BPE has not; give a GGUF as a template"
        )
    pre = tokenizer.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    kinds = [step.get("type") for step in steps]
    last = steps[-1]
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        if kinds == ["ByteLevel"] and last.get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and last.get("use_regex", True):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and steps[0].get("pattern") == {"Regex": LLAMA3_SPLIT}:
            return "llama-bpe"
    raise Invalid(
        f"the pre-tokenizer {kinds} has no name in llama.cpp that is known here; put a GGUF of the same tokenizer into the folder "
        "as a template"
    )


def tokenizer_json(keys: TokenizerKeys) -> dict[str, Any]:
    """tokenizer.json for keys read from a GGUF. Raises Invalid for a pre-tokenizer that is not known here."""
    steps: dict[str, list[dict[str, Any]]] = {"gpt-2": [BYTE_LEVEL], "smollm": [DIGITS, BYTE_LEVEL]}
    if keys.pre not in steps:
        raise Invalid(f"the GGUF's pre-tokenizer {keys.pre!r} is not known here ({', '.join(steps)})")
    added = [
        {
            "id": index,
            "content": keys.tokens[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for index, kind in enumerate(keys.types)
        if kind in (CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps[keys.pre]},
        "post_processor": None,
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(keys.tokens) if keys.types[index] != UNUSED},
            "merges": [merge.split(" ") for merge in keys.merges],
        },
    }


def tokenizer_config(keys: TokenizerKeys, context_tokens: int) -> dict[str, Any]:
    """tokenizer_config.json that transformers 4 and 5 read alike."""

    def text(index: int | None) -> str | None:
        return None if index is None else keys.tokens[index]

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "bos_token": text(keys.begin),
        "eos_token": text(keys.end),
        "pad_token": text(keys.padding),
        "unk_token": text(keys.unknown),
    }


def token_bytes(model_dir: Path) -> dict[int, bytes]:
    """The bytes that each ordinary token stands for in an answer; control tokens, which show nothing, are left out."""
    tokenizer: dict[str, Any] = json.loads((model_dir / "tokenizer.json").read_text(encoding="utf-8"))
    byte_level = "ByteLevel" in json.dumps(tokenizer.get("decoder"))
    of_letter = {letter: byte for byte, letter in enumerate(_byte_letters())}
    found: dict[int, bytes] = {}
    for token, index in dict(tokenizer["model"]["vocab"]).items():
        if byte_level:
            found[index] = bytes(of_letter[letter] for letter in token if letter in of_letter)
        elif len(token) == 6 and token.startswith("<0x"):
            found[index] = bytes.fromhex(token[3:5])
        else:
            found[index] = token.encode()
    for added in tokenizer["added_tokens"]:
        if added["special"]:
            found.pop(added["id"], None)
        else:
            found[added["id"]] = added["content"].encode()
    return found


def _byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte: printable Latin-1 as itself, the others from U+0100 on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, further = [], 0x100
    for byte in range(256):
        letters.append(chr(byte if byte in printable else further))
        further += byte not in printable
    return letters
