"""Whether an exported file says the same as the weights it was made from: by numbers, through the engine that will serve it.

A permutation left out, another rotation base or a pre-tokenizer of another model leave the answers fluent and wrong.
"""

import math
import random
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx
from msgspec import Struct
from tokenizers import Tokenizer

from streams.errors import Invalid, Unavailable
from workers.cores import HEAVY_THREADS
from workers.engines.llamacpp import LlamaCppEngine
from workers.engines.protocol import EngineSpec
from workers.models.golden import GOLDEN_FILE, GoldenResult, compare_with_golden

READY_S = 120.0
RANDOM_STRINGS = 300
CONTEXT_TOKENS = 512  # the longest golden prompt and its answer fit

# Where tokenizers were seen to differ: digits beside blanks and line breaks, lists, marks of other scripts, control tokens.
HOSTILE = (
    "",
    " ",
    "\n",
    "\r\n\r\n42\r\n",
    "\n\n1. one\n\n2. two",
    "  123",
    "a  5",
    "1 2",
    "x\t\t7",
    "3.14159,26535",
    "don't  stop\n \n3",
    "I'll they've we're IT'S",
    "½ cup, 10², ٣٤, ४२, Ⅷ, ①",
    "Résumé naïve œuvre Straße",
    "e\u0301 combining and \u200d joiner \ufeff mark",
    "第一百三十三条 醉酒驾驶机动车的，处拘役，并处罚金。",
    "罚款200元，记6分。",
    "「引用」——……！？",
    "👩‍👩‍👧‍👦 🇨🇳 😀😀",
    " leading and trailing  ",
    "code:\n    x = 10\n\ty=2\n\n\n    return x",
    "a_b__c 1_000 0x1F 1e-5",
    "https://example.org/a?b=1&c=%20#d",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|> 1<|im_end|><|endoftext|>7",
    "</s><s>[INST]<|eot_id|>",
    "ĠĊ▁ bytes that stand for blanks",
    "\u00a0\u2003\u3000blanks",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "................................!!!!!!!!",
)
_LETTERS = " \n\t1234567890abcXYZ.,'’-–é漢字例😀²½٣_\r  <|>/\\\"“”()：；"


class ExportCheck(Struct, frozen=True, kw_only=True):
    """What was compared. `strings` were cut alike by both tokenizers; the golden comparison is in log-probabilities."""

    golden: GoldenResult
    strings: int


def hostile_strings() -> list[str]:
    """The fixed list and 300 strings drawn, always the same ones, from letters that stand badly together."""
    draw = random.Random(20260101)  # no secret: the same strings for everybody, every time
    drawn = ["".join(draw.choices(_LETTERS, k=draw.randint(1, 30))) for _ in range(RANDOM_STRINGS)]
    return [*HOSTILE, *drawn]


def check_export(model_dir: Path, gguf: Path) -> ExportCheck:
    """Serve `gguf` in a child process and compare it with `model_dir`: its golden.jsonl (transformers, fp32) and tokenizer.json.

    Raises Invalid saying what differs; Unavailable if the engine does not come up.
    """
    spec = EngineSpec(
        kind="llamacpp",
        model_dir=model_dir,
        model_name="check",
        slots=1,
        context_tokens=CONTEXT_TOKENS,
        threads=HEAVY_THREADS,
    )
    engine = LlamaCppEngine(spec, secrets.token_urlsafe(), model_file=gguf)
    engine.start()
    try:
        engine.ready(READY_S)
        strings = hostile_strings()
        tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        different = differing_strings(
            strings,
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            engine_tokenizer(engine.base_url, engine.key),
        )
        if different:
            raise Invalid(
                f"{gguf.name}: {len(different)} of {len(strings)} strings are cut otherwise, first {different[0]!r}"
            )
        golden = compare_with_golden(engine.base_url, engine.key, model_dir / GOLDEN_FILE)
    finally:
        engine.stop()
    if not golden.prompt_tokens_equal:
        raise Invalid(f"{gguf.name}: the chat template gives other prompts than transformers")
    if not golden.within(LlamaCppEngine.golden_tolerance):
        far = "more than any alternative" if math.isinf(golden.max_difference) else f"{golden.max_difference:.3f}"
        raise Invalid(
            f"{gguf.name}: log-probabilities differ from transformers by {far}, allowed {LlamaCppEngine.golden_tolerance}"
        )
    return ExportCheck(golden=golden, strings=len(strings))


Cut = Callable[[str], list[int]]


def differing_strings(strings: Iterable[str], one: Cut, other: Cut) -> list[str]:
    """The strings that two tokenizers cut into different tokens."""
    return [text for text in strings if one(text) != other(text)]


def engine_tokenizer(base_url: str, key: str) -> Cut:
    """llama.cpp's tokenizer, asked over HTTP; control tokens are read as such, none is added."""
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}

    def cut(text: str) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": True}
        try:
            answer = httpx.post(f"{base_url}/tokenize", json=body, headers=headers, trust_env=False, verify=False)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(f"the engine cuts no text: {type(error).__name__}") from error
        tokens: list[int] = answer.json()["tokens"]
        return tokens

    return cut
