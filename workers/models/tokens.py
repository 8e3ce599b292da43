"""Tokenizers on both sides: transformers' tokenizer.json and llama.cpp's `tokenizer.*` keys, each made from the other.

Two kinds are translated: byte-level BPE whose pre-tokenizer has a name in llama.cpp, and BPE of SentencePiece's that puts a blank
before each text and falls back to bytes. Every export is compared string by string anyway.
"""

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

from streams.errors import Invalid
from workers.models.sentencepiece import BLANK, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, merges

BYTE_LEVEL_BPE, SENTENCEPIECE = "gpt2", "llama"  # llama.cpp's names of the two kinds

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ONLY = {**BYTE_LEVEL, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


LLAMA3_SPLIT = _split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = _split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_SPLIT = _split(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class PreTokenizer(Struct, frozen=True):
    """One way to cut text before BPE, by its name in llama.cpp. `whole`: whether a word that is a token is taken whole, whatever
    the merges say (`ignore_merges`), which llama.cpp takes from the name as well."""

    name: str
    steps: tuple[dict[str, Any], ...]
    whole: bool = False


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (BYTE_LEVEL,)),
    PreTokenizer("smollm", (DIGITS, BYTE_LEVEL)),
    PreTokenizer("llama-bpe", (LLAMA3_SPLIT, BYTES_ONLY), whole=True),
    PreTokenizer("qwen2", (QWEN2_SPLIT, BYTES_ONLY)),
    PreTokenizer("glm4", (LLAMA3_SPLIT, BYTES_ONLY)),
    PreTokenizer("tekken", (TEKKEN_SPLIT, BYTES_ONLY), whole=True),
)


# Of SentencePiece's kind: how tokenizer.json says what the model file does.
_BLANKS = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
BLANK_BEFORE = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": BLANK}, _BLANKS]}
_TO_TEXT = [
    {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
]


class TokenizerKeys(Struct, frozen=True, kw_only=True):
    """What llama.cpp must know of a tokenizer. SentencePiece's kind has scores in the place of merges."""

    kind: str = BYTE_LEVEL_BPE
    pre: str  # llama.cpp's name of the pre-tokenizer
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float] = []
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
    blanks = bool(model.get("byte_fallback"))
    if model.get("type") != "BPE" or (blanks and not _is_sentencepiece(tokenizer)):
        raise Invalid(
            f"{model_dir.name}/tokenizer.json is no BPE of a kind that is known here; put a GGUF of the same tokenizer into the "
            "folder as a template"
        )
    size = vocabulary_size(model_dir)
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [UNUSED] * size
    for token, index in model["vocab"].items():
        byte = blanks and len(token) == 6 and token.startswith("<0x")
        tokens[index], types[index] = token, BYTE if byte else NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if blanks and model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
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
    joins = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return TokenizerKeys(
        kind=SENTENCEPIECE if blanks else BYTE_LEVEL_BPE,
        pre="default" if blanks else _pre_tokenizer_name(tokenizer),
        tokens=tokens,
        types=types,
        merges=[] if blanks else [" ".join(pair) for pair in joins],
        scores=_scores(tokens, joins) if blanks else [],
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
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Invalid(f"{model_dir.name}/{path.name} cannot be read: {error}") from error
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


def _is_sentencepiece(tokenizer: dict[str, Any]) -> bool:
    return tokenizer.get("normalizer") == BLANK_BEFORE and not tokenizer.get("pre_tokenizer")


def _scores(tokens: list[str], joins: list[list[str]]) -> list[float]:
    """By when a token is first joined; the later, the lower. Of what is never joined nobody asks."""
    first: dict[str, int] = {}
    for pair in joins:
        first.setdefault("".join(pair), len(first))
    return [-float(first.get(token, len(first))) for token in tokens]


def _pre_tokenizer_name(tokenizer: dict[str, Any]) -> str:
    if tokenizer.get("normalizer"):
        raise Invalid(
            "tokenizer.json has a normalizer, which llama.cpp's byte-level BPE has not; give a GGUF as a template"
        )
    pre = tokenizer.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    whole = bool(tokenizer["model"].get("ignore_merges"))
    for known in PRE_TOKENIZERS:
        if known.whole == whole and _cut_alike(steps, known.steps):
            return known.name
    raise Invalid(
        f"the pre-tokenizer {[step.get('type') for step in steps]} has no name in llama.cpp that is known here; put a GGUF of the "
        "same tokenizer into the folder as a template"
    )


def _cut_alike(steps: list[dict[str, Any]], others: tuple[dict[str, Any], ...]) -> bool:
    """`trim_offsets` moves offsets only, which nobody reads; what older files leave out is true."""

    def bare(step: dict[str, Any]) -> dict[str, Any]:
        settings = {key: setting for key, setting in step.items() if key != "trim_offsets"}
        return {"use_regex": True, **settings} if step.get("type") == "ByteLevel" else settings

    return [bare(step) for step in steps] == [bare(step) for step in others]


def tokenizer_json(keys: TokenizerKeys) -> dict[str, Any]:
    """tokenizer.json for keys read from a GGUF. Raises Invalid for a pre-tokenizer that is not known here."""
    if keys.kind == SENTENCEPIECE:
        return _of_sentencepiece(keys)
    known = next((known for known in PRE_TOKENIZERS if known.name == keys.pre), None)
    if known is None:
        names = ", ".join(known.name for known in PRE_TOKENIZERS)
        raise Invalid(f"the GGUF's pre-tokenizer {keys.pre!r} is not known here ({names})")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(keys),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(known.steps)},
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
            "ignore_merges": known.whole,
            "vocab": {token: index for index, token in enumerate(keys.tokens) if keys.types[index] != UNUSED},
            "merges": [merge.split(" ") for merge in keys.merges],
        },
    }


def _of_sentencepiece(keys: TokenizerKeys) -> dict[str, Any]:
    pieces = {t: keys.scores[i] for i, t in enumerate(keys.tokens) if keys.types[i] in (NORMAL, USER_DEFINED)}
    unknown = next((t for i, t in enumerate(keys.tokens) if keys.types[i] == UNKNOWN), None)
    begin = None if keys.begin is None or not keys.add_begin else keys.tokens[keys.begin]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(keys),
        "normalizer": BLANK_BEFORE,
        "pre_tokenizer": None,
        "post_processor": None if begin is None else _begins_with(begin, keys.tokens.index(begin)),
        "decoder": {"type": "Sequence", "decoders": _TO_TEXT},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(keys.tokens) if keys.types[index] != UNUSED},
            "merges": [list(pair) for pair in merges(pieces)],
        },
    }


def _begins_with(token: str, index: int) -> dict[str, Any]:
    whole, pair = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    first = [{"SpecialToken": {"id": token, "type_id": number}} for number in (0, 1)]
    return {
        "type": "TemplateProcessing",
        "single": [first[0], whole],
        "pair": [first[0], whole, first[1], pair],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }


def _added(keys: TokenizerKeys) -> list[dict[str, Any]]:
    of = {CONTROL, USER_DEFINED, UNKNOWN}
    return [
        {
            "id": index,
            "content": keys.tokens[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for index, kind in enumerate(keys.types)
        if kind in of
    ]


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
