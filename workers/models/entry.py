"""Whether a finished base says what its source says, and can hold a conversation: asked before it is entered."""

import math
import unicodedata
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from tokenizers import Tokenizer

from streams.control_tokens import escape_control_tokens
from streams.errors import Invalid
from workers.models.chat_tokens import ChatTokens
from workers.models.chatglm3 import PIECES_FILE, chat_ids, is_chatglm3
from workers.models.check import Cut, differing_strings, hostile_strings
from workers.models.config import read_raw_config
from workers.models.gguf import Reader, read_keys
from workers.models.golden import GOLDEN_FILE, read_golden
from workers.models.sentencepiece import read_pieces
from workers.models.tokens import control_tokens, keys_from_directory, tokenizer_json

CONVERSATION = (
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What turns the wheel?"},
    {"role": "assistant", "content": "Water does."},
    {"role": "user", "content": "And what is lifted?"},
)


def check_base(folder: Path, source: Path) -> None:
    """Check the finished model directory at `folder` against the folder or GGUF that it was made from, beyond `check_conversation`,
    which can be asked earlier. Raises Invalid with the reason."""
    if source.is_file():
        check_keys(folder, source)
    elif is_chatglm3(read_raw_config(source)):
        check_pieces(folder, source)
    else:
        check_tokenizer(folder, tokenizer_of_folder(source))
    check_generation(folder)


def check_conversation(folder: Path) -> None:
    """The template renders a conversation with a system prompt and two questions, and an answer in it ends with an end mark."""
    tokens = ChatTokens(folder)
    prompt = tokens.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    for message in CONVERSATION:
        if message["content"] not in prompt:
            raise Invalid(f"{folder.name}: the chat template leaves out what the {message['role']} says")
    ends = read_raw_config(folder).get("eos_token_id")
    after = prompt[prompt.index(CONVERSATION[2]["content"]) :]
    said = set(tokens(after, add_special_tokens=False)["input_ids"])
    if not said & set(ends if isinstance(ends, list) else [ends]):
        raise Invalid(
            f"{folder.name}: no end mark stands behind an answer in the chat template: replies would never end"
        )


def check_tokenizer(folder: Path, cut_by_source: Cut) -> None:
    """tokenizer.json cuts every string of the hostile corpus as the source does; both are given it in NFC (see `base`)."""
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    strings = [unicodedata.normalize("NFC", text) for text in hostile_strings()]
    different = differing_strings(strings, lambda text: own.encode(text, add_special_tokens=False).ids, cut_by_source)
    if different:
        raise Invalid(
            f"{folder.name}: tokenizer.json cuts {len(different)} of {len(strings)} strings otherwise than the source's own"
            f" tokenizer, first {different[0]!r}"
        )


def check_generation(folder: Path) -> None:
    """transformers answered the golden prompts with numbers that are finite."""
    lines = read_golden(folder / GOLDEN_FILE)
    if not any(line.token_ids for line in lines):
        raise Invalid(f"{folder.name}: the model says nothing")
    if not all(math.isfinite(number) for line in lines for number in line.logprobs):
        raise Invalid(f"{folder.name}: the model's answers are not numbers (NaN or infinite)")


def tokenizer_of_folder(source: Path) -> Cut:
    """The tokenizer that transformers makes of a folder in its format, without running code of the folder's. Raises Invalid."""
    from transformers import AutoTokenizer

    try:
        found: Any = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the libraries below raise whatever they like
        raise Invalid(f"{source.name}: transformers cannot read its tokenizer ({type(error).__name__})") from error

    def cut(text: str) -> list[int]:
        ids: list[int] = found(text, add_special_tokens=False)["input_ids"]
        return ids

    return cut


def check_keys(folder: Path, source: Path) -> None:
    """The tokenizer of a GGUF came over whole: what would be written again is what was read. Raises Invalid."""
    given, found = read_keys(Reader(source)), keys_from_directory(folder)
    # Scores count by their order only, which is that of the merges.
    alike = replace(given, scores=[]) == replace(found, scores=[])
    if not alike or tokenizer_json(given) != tokenizer_json(found):
        raise Invalid(f"{source.name}: its tokenizer does not come back from tokenizer.json as it was")


def check_pieces(folder: Path, source: Path) -> None:
    """ChatGLM3's texts and conversations are cut by the published rule, whatever somebody writes: what would be read as a control
    token is escaped first, as the door and the trainer do it. Raises Invalid."""
    pieces, tokens, controls = read_pieces(source / PIECES_FILE), ChatTokens(folder), control_tokens(folder)
    texts = [escape_control_tokens(text, controls) for text in (*hostile_strings(), *controls)]
    for text in texts:
        if tokens(text, add_special_tokens=False)["input_ids"] != pieces.cut(text):
            raise Invalid(f"{source.name}: tokenizer.json cuts {text!r} otherwise than {PIECES_FILE}")
        messages = [{**message, "content": text or "?"} for message in CONVERSATION]
        prompt = tokens.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if tokens(prompt, add_special_tokens=False)["input_ids"] != chat_ids(pieces, messages):
            raise Invalid(
                f"{source.name}: a conversation about {text!r} is cut otherwise than the published rule has it"
            )
