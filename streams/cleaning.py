"""Cleaning of what is to be learned: one row of `STEPS` for each step, which mends a text or leaves an example out. Pure.

What is left out, and what was masked, is counted by step and kind; no words are repeated. None of this understands what it reads: a
name or an address of a person is not found, and a number that follows no rule (a landline, a passport) is left.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection
from functools import lru_cache

import ftfy
from msgspec import Struct

from streams.personal import masked

MASKED = "masked"
# Scripts by which the language of a text is told. Those that share one (English and French) are not told apart.
_SCRIPTS = {"zh": "CJK", "en": "LATIN"}
_ENOUGH_LETTERS = 20
_OWN_SHARE = 0.3
# Rae et al. 2021 (Gopher), table A1: of a document, more lines of which others are a copy; longer texts than most answers.
_LINES_TWICE = 0.3
_ENOUGH_LINES = 4
# Words that stand in a run of 20 (in Chinese: of characters) that came before. Theirs are 0.10 and 10 words, of documents: by 0.5
# and 10, two of 3,752 texts of Chinese statutes were left out, whose phrases come again; ours only finds what goes in circles.
_RUN = 20
_RUNS_TWICE = 0.5
_ENOUGH_WORDS = 50
_WORDS = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")
_BOILERPLATE = re.compile(
    r"\bas an? (?:ai|artificial intelligence)(?: language)? (?:model|assistant)\b"
    r"|作为(?:一个|一名)?(?:大型)?(?:AI|人工智能)(?:语言)?(?:模型|助手)"
    r"|\b(?:click here to|subscribe to our newsletter|all rights reserved|accept (?:all )?cookies|enable javascript)\b"
    r"|点击(?:这里|此处)|扫码关注|关注(?:我们的)?公众号|版权所有|未经授权.{0,6}转载",
    re.IGNORECASE,
)


class Words(Struct, frozen=True):
    """An example in its texts: the turns before, the prompt and, as the last, the answer."""

    texts: tuple[str, ...]

    def __repr__(self) -> str:
        return "Words(…)"

    @property
    def answer(self) -> str:
        return self.texts[-1]


class Step(Struct, frozen=True):
    """`mend`: a text as it should be, and what was mended, by kind. `faulty`: whether an example is left out, given the languages
    of its domain."""

    name: str
    mend: Callable[[str], tuple[str, Counter[str]]] | None = None
    faulty: Callable[[Words, Collection[str]], bool] | None = None


class Cleaned(Struct, frozen=True):
    """`left_out`: the step that says so. `mended`: how often, by what (`unicode`, `masked phone`)."""

    words: Words
    mended: Counter[str]
    left_out: str = ""


def clean(words: Words, languages: Collection[str] = (), steps: Collection[str] | None = None) -> Cleaned:
    """`steps`: only those of these names. What is left out went no further than the step that says so."""
    mended: Counter[str] = Counter()
    for step in STEPS:
        if steps is not None and step.name not in steps:
            continue
        if step.mend is not None:
            found = [step.mend(text) for text in words.texts]
            words = Words(tuple(text for text, _ in found))
            for _, kinds in found:
                mended += kinds
        if step.faulty is not None and step.faulty(words, languages):
            return Cleaned(words, mended, step.name)
    return Cleaned(words, mended)


_FTFY = ftfy.TextFixerConfig(
    # What a person wrote on purpose stays: full-width punctuation is Chinese, and `&lt;` may be meant.
    unescape_html=False,
    fix_character_width=False,
    fix_latin_ligatures=False,
    uncurl_quotes=False,
    normalization="NFC",
    explain=False,
)


def repaired(text: str) -> tuple[str, Counter[str]]:
    """Text that was decoded wrongly, lone surrogates, control characters and line ends put right (Speer, ftfy)."""
    fixed = ftfy.fix_text(text, _FTFY)
    return fixed, Counter({"unicode": 1} if fixed != text else {})


def _masked(text: str) -> tuple[str, Counter[str]]:
    text, kinds = masked(text)
    return text, Counter({f"{MASKED} {kind}": number for kind, number in kinds.items()})


def _wordless(words: Words, languages: Collection[str]) -> bool:
    return not _WORDS.search(words.answer) or not any(_WORDS.search(text) for text in words.texts[:-1])


def _boilerplate(words: Words, languages: Collection[str]) -> bool:
    return _BOILERPLATE.search(words.answer) is not None


def _repeats(words: Words, languages: Collection[str]) -> bool:
    lines = [line for line in map(str.strip, words.answer.splitlines()) if line]
    if len(lines) >= _ENOUGH_LINES and len(lines) - len(set(lines)) > _LINES_TWICE * len(lines):
        return True
    said = _WORDS.findall(words.answer.casefold())
    if len(said) < _ENOUGH_WORDS:
        return False
    seen: set[tuple[str, ...]] = set()
    again: set[int] = set()
    for at in range(len(said) - _RUN + 1):
        run = tuple(said[at : at + _RUN])
        if run in seen:
            again.update(range(at, at + _RUN))
        seen.add(run)
    return len(again) > _RUNS_TWICE * len(said)


def _foreign(words: Words, languages: Collection[str]) -> bool:
    """Few of the answer's letters are of a script of the domain's languages. Where one of these has a script that is not known
    here, or the answer is short, nothing is said."""
    if not languages or not set(languages) <= _SCRIPTS.keys():
        return False
    scripts = Counter(_script(letter) for letter in words.answer if letter.isalpha())
    own = sum(scripts[_SCRIPTS[language]] for language in set(languages))
    return scripts.total() >= _ENOUGH_LETTERS and own < _OWN_SHARE * scripts.total()


@lru_cache(maxsize=8192)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


STEPS = (
    Step("unicode", mend=repaired),
    Step("length", faulty=_wordless),
    Step("boilerplate", faulty=_boilerplate),
    Step("repetition", faulty=_repeats),
    Step("language", faulty=_foreign),
    Step("personal data", mend=_masked),
)
