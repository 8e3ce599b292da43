"""Whether a prediction is right. Read by two interpreters: Noria's, and OpenCompass's own, where this file is a top-level
module; so it uses the standard library and nothing of the package around it."""

import re
import unicodedata
from collections.abc import Sequence

RECALL_NEEDED = 0.6
"""Share of the reference's tokens that a prediction without keys must hold, in order."""

# Written without blanks between words: there a key may stand anywhere, and each character counts as a token of its own.
_UNSPACED = (
    r"\u0e00-\u0eff"  # Thai, Lao
    r"\u1780-\u17ff"  # Khmer
    r"\u3040-\u30ff\u31f0-\u31ff"  # kana
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_LETTER = rf"[^\W\d_{_UNSPACED}]"
# 1,000 is one number, and so is 3.30; the full stop that ends a sentence belongs to none.
_NUMBER = r"\d+(?:,\d{3}(?!\d))*(?:\.\d+)?"
_TOKEN = re.compile(rf"{_NUMBER}|[{_UNSPACED}]|(?:{_LETTER}|['’](?={_LETTER}))+")
_NUMBERS = re.compile(_NUMBER)
_DIGIT_GROUPS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def is_right(prediction: str, answer: str, keys: Sequence[str]) -> bool:
    """Whether `prediction` says what `answer` says.

    With `keys`, any one of them must occur, whole: "30" is not in "130", "3.30", "30.5" or "-30". Case, width (NFKC) and the commas
    of thousands do not matter. Without keys (the answer is a person's own words) every number of `answer` must occur and the
    longest common subsequence must hold `RECALL_NEEDED` of its tokens (words, numbers, single characters of unspaced scripts):
    the recall of ROUGE-L, by Lin 2004. An answer without any token, such as a lone sign, must occur as it is.
    """
    said = _folded(prediction)
    if keys:
        return any(_occurs(_folded(key), said) for key in keys)
    wanted = _folded(answer)
    tokens = _TOKEN.findall(wanted)
    if not tokens:
        return bool(wanted) and wanted in said
    if not set(_NUMBERS.findall(wanted)) <= set(_NUMBERS.findall(said)):
        return False
    return _common_subsequence(tokens, _TOKEN.findall(said)) / len(tokens) >= RECALL_NEEDED


def _folded(text: str) -> str:
    """One form for what reads the same: NFKC, no case, single blanks, 1,000 as 1000."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _DIGIT_GROUPS.sub("", " ".join(text.split()))


def _occurs(key: str, said: str) -> bool:
    if not key:
        return False
    return re.search(_boundary_before(key[0]) + re.escape(key) + _boundary_after(key[-1]), said) is not None


def _boundary_before(first: str) -> str:
    if first.isdigit():
        # Not inside a number (130, 3.30), not a negative one (-30; but 10-30 is a range), not the tail of a name (A30).
        return rf"(?<!\d)(?<!\d[.,])(?<!(?<![\w])-)(?<!{_LETTER})(?<!_)"
    return rf"(?<!{_LETTER})(?<![\d_])" if re.match(_LETTER, first) else ""


def _boundary_after(last: str) -> str:
    if last.isdigit():
        # A unit may follow at once (30km, 30公里, 30%); more digits, also behind a point, make another number.
        return r"(?![\d_])(?![.,]\d)"
    return rf"(?!{_LETTER})(?![\d_])" if re.match(_LETTER, last) else ""


def _common_subsequence(wanted: Sequence[str], said: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(said) + 1)
    for token in wanted:
        diagonal = 0
        for place, other in enumerate(said, start=1):
            above = row[place]
            row[place] = diagonal + 1 if token == other else max(above, row[place - 1])
            diagonal = above
    return row[-1]
