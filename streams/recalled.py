"""What is recalled: which memories a domain's policy allows, what is kept of them with a reply, and the one form in which they are
put before a model. The door, the trainer and the evaluator all use this form: a model is asked as it was taught. Pure.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from streams.endpoints import Embeddings
from streams.errors import InvalidField

MemoryKind = Literal["correction", "passage"]
RecallOf = Literal["off", "corrections", "documents", "both"]
# What came of asking the memory. `off`: the policy wants none; `unavailable`: it did not answer in time, the reply stands without.
RecallOutcome = Literal["off", "recalled", "unavailable"]

BYTES_A_TOKEN = 3  # few cut finer: English has four and more, Chinese a letter
MOST_MEMORIES = 10
_KINDS: dict[RecallOf, frozenset[MemoryKind]] = {
    "off": frozenset(),
    "corrections": frozenset({"correction"}),
    "documents": frozenset({"passage"}),
    "both": frozenset({"correction", "passage"}),
}
# Letters of Chinese, Japanese and Korean: the question is asked in a language whose form is the second.
_EAST = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_JOINERS = "\u200c\u200d"
_ROUND = str.maketrans("[]", "()")
_FORMS = {"en": ("Known facts:", "Question: "), "zh": ("已知事实：", "问题：")}


class Recall(Struct, frozen=True):
    """Of what a domain's replies may know more than its model does: `of` which memories, how many at `most`, with what `least`
    score (0 to 1; None: what the calibration says), and how many `tokens` they may take together. `decline`: what is answered,
    in the domain's voice, to a question for which nothing is good enough; None: the model answers as it can. `embeddings`: None is
    the encoder that comes with Noria."""

    of: RecallOf = "off"
    most: int = 3
    least: float | None = None
    tokens: int = 512
    decline: str | None = None
    embeddings: Embeddings | None = None

    @property
    def kinds(self) -> frozenset[MemoryKind]:
        return _KINDS[self.of]

    def check(self) -> None:
        """Raise Invalid naming the field, if nothing could be recalled by this."""
        if self.most < 1:
            raise InvalidField("recall.most", f"must be at least 1 (`off` switches it off); got {self.most}")
        if self.least is not None and not 0 <= self.least <= 1:
            raise InvalidField("recall.least", f"is a score, from 0 to 1; got {self.least}")
        if self.tokens < 16:
            raise InvalidField("recall.tokens", f"must be at least 16; got {self.tokens}")
        if self.decline is not None and not self.decline.strip():
            raise InvalidField("recall.decline", "must say something, or be null")
        if self.embeddings is not None:
            self.embeddings.check("recall.embeddings")

    def check_new(self) -> None:
        """Raise Invalid naming the field, if it would put more before a model than anybody means."""
        if self.most > MOST_MEMORIES:
            raise InvalidField("recall.most", f"must be at most {MOST_MEMORIES}; got {self.most}")
        if self.tokens > 8192:
            raise InvalidField("recall.tokens", f"must be at most 8192; got {self.tokens}")
        if self.decline is not None and len(self.decline) > 1000:
            raise InvalidField("recall.decline", f"must be at most 1000 characters; got {len(self.decline)}")


class Recalled(Struct, frozen=True):
    """One memory as it is recorded with a reply: which, and how sure the memory was of it. No words."""

    kind: MemoryKind
    id: str  # of the example, or of the passage
    score: float


class Memory(Struct, frozen=True):
    """What of a memory is put before a model: `question` as it was corrected, or `source` of a passage (title and place)."""

    text: str
    question: str = ""
    source: str = ""

    def __repr__(self) -> str:
        return "Memory(sealed)"  # people's words must not reach a log through a traceback


def with_recalled(question: str, memories: Sequence[Memory]) -> str:
    """The question as a model is asked it: behind what was recalled, the best first. Without a memory it is the question itself.

    Each memory is one line, whatever it holds: no text of it can end the list, or begin a question of its own. (Control tokens
    are kept from being ones with all other text, where the messages go to the engine or the tokenizer.)"""
    if not memories:
        return question
    known, asked = _FORMS["zh" if _EAST.search(question) else "en"]
    lines = "\n".join(f"- {_line(memory)}" for memory in memories)
    return f"{known}\n{lines}\n\n{asked}{question}"


def within_tokens(memories: Iterable[Memory], tokens: int) -> int:
    """How many of them, from the first, fit into so many tokens, at BYTES_A_TOKEN."""
    count, left = 0, tokens * BYTES_A_TOKEN
    for memory in memories:
        left -= len(_line(memory).encode()) + 3
        if left < 0:
            break
        count += 1
    return count


def _line(memory: Memory) -> str:
    """A source stands in brackets, and has none of its own; a text that has no source does not begin with one."""
    text, source = _flat(memory.text), _flat(memory.source).translate(_ROUND)
    if source:
        return f"[{source}] {text}"
    if text.startswith("["):
        named, closed, rest = text.partition("]")
        return f"{(named + closed).translate(_ROUND)}{rest}"
    return text


def _flat(text: str) -> str:
    """On one line: no break and no control character, single blanks; and no format character that would reorder or hide what
    follows (the joiners stay, which scripts are written with)."""
    return " ".join("".join(_shown(character) for character in text).split())


def _shown(character: str) -> str:
    match unicodedata.category(character):
        case "Cc" | "Zl" | "Zp":
            return " "
        case "Cf":
            return character if character in _JOINERS else ""
        case _:
            return character
