"""Whether an instruction is new beside all that are kept: by ROUGE-L, exactly and fast. Pure.

The score is that of Lin 2004 (ROUGE, section 3) as the package `rouge_score` computes it, without stemming: the F-measure of
the longest common subsequence of the tokens. Tokens are its own, too, runs of Latin letters and figures in lower case, and
beside them each Chinese character, which it would pass over. Kept instructions stand by their length as strings with one
character a token: those whose length rules out a higher score are never looked at, and the others all at once (bit-parallel,
by rapidfuzz).
"""

import re
from functools import lru_cache

from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

MOST = 0.7  # of Self-Instruct (arXiv 2212.10560, section 2.2)
_TOKEN = re.compile(r"[a-z0-9]+|[\u3400-\u4dbf\u4e00-\u9fff]")
_UNKNOWN = "\0"


def tokens_of(text: str) -> list[str]:
    """Words of Latin letters and figures, and Chinese characters."""
    return _TOKEN.findall(text.lower())


class Kept:
    """The instructions that are kept."""

    def __init__(self, most: float = MOST) -> None:
        self._most = most
        self._characters: dict[str, str] = {}
        self._of_length: dict[int, list[str]] = {}

    def add(self, instruction: str) -> None:
        known = self._characters
        # As many characters as Unicode has: more words than any language.
        kept = "".join(known.setdefault(token, chr(len(known) + 1)) for token in tokens_of(instruction))
        self._of_length.setdefault(len(kept), []).append(kept)

    def is_new(self, instruction: str) -> bool:
        """Whether its ROUGE-L with each that is kept is at most `most`."""
        asked = "".join(self._characters.get(token, _UNKNOWN) for token in tokens_of(instruction))
        # Those of about its length first: there a near one is, if there is one.
        for length in sorted(self._of_length, key=lambda length: abs(length - len(asked))):
            least = _least_common(len(asked), length, self._most)
            if least is not None and _any(asked, self._of_length[length], least):
                return False
        return True


def rouge_l(common: int, asked: int, kept: int) -> float:
    """The F-measure, by the operations of `rouge_score` in their order, so that not even a rounding differs."""
    if not common:
        return 0.0
    precision, recall = common / asked, common / kept
    return 2 * precision * recall / (precision + recall)


@lru_cache(maxsize=65_536)
def _least_common(asked: int, kept: int, most: float) -> int | None:
    """How many tokens two of these lengths must have in common to score above `most`; None: they cannot."""
    shorter = min(asked, kept)
    if rouge_l(shorter, asked, kept) <= most:
        return None
    least = shorter
    while rouge_l(least - 1, asked, kept) > most:
        least -= 1
    return least


def _any(asked: str, kept: list[str], least: int) -> bool:
    found = cdist([asked], kept, scorer=LCSseq.similarity, score_cutoff=least)
    return bool((found >= least).any())
