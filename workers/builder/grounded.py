"""Whether what a teacher says stands in the text that it was given: every number, date, name and reference to an article. Pure.

It is a check of surfaces, in both languages: 15, fifteen and 十五 are one number. It passes what is wrong with nothing but the
text's own words; what it stops cannot have come from the text. Names are what English writes with a capital within a sentence, what
stands within quotation marks and 《》, Latin words in Chinese, somebody called 某, and the ends of what Chinese calls offices.
"""

import re
import unicodedata
from calendar import month_name
from collections.abc import Iterator

NUMBER = "a number of it is not in its passage"
NAME = "a name of it is not in its passage"
ARTICLE = "an article of it is not in its passage"

_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_PLACES = {"十": 10, "百": 100, "千": 1000}
_ZH_NUMBER = re.compile(r"[零〇一二三四五六七八九十百千万亿两]+")
_ARABIC = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_NO_NUMBER = re.compile(r"百分之|十分(?![钟之])|万一|一点|一些|一样|一起|一旦|一律|一并")
# What makes a lone 一 or 十 a number: elsewhere they are parts of words (一般, 统一, 十分, 万一).
_UNITS = "年月日天周时点分秒次元角块米里吨克升人倍个条款项章节岁名辆期档级届度种套份张本件处方号"
_ARTICLE = re.compile(r"第([零〇一二三四五六七八九十百千\d]+)(条|款|项)|\b(article|section|paragraph)\s+(\d+)", re.I)
_ARTICLE_UNITS = {"article": "条", "section": "节", "paragraph": "款"}
_SMALL = dict(
    two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10, eleven=11, twelve=12, thirteen=13, fourteen=14,
    fifteen=15, sixteen=16, seventeen=17, eighteen=18, nineteen=19,
)  # fmt: skip
_TENS = dict(twenty=20, thirty=30, forty=40, fifty=50, sixty=60, seventy=70, eighty=80, ninety=90)
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_MONTHS = {name.casefold(): number for number, name in enumerate(month_name) if name}
_QUOTED = re.compile(r"《([^》]+)》|“([^”]{1,40})”|「([^」]{1,40})」")
_LATIN = re.compile(r"[A-Za-z][A-Za-z0-9\-]+")
_SOMEBODY = re.compile(r"[\u4e00-\u9fff]某{1,2}")
_OFFICE = re.compile(r"[\u4e00-\u9fff]{2}(?:法院|检察院|委员会|公司|机关|部门|大学|医院|银行|集团)")
_SENTENCE_END = re.compile(r"[.!?:;\n“\"(]\s*$")
_CJK = re.compile(r"[\u4e00-\u9fff]")


def words_shared(answer: str, passage: str) -> float:
    """Of the answer's words (in Chinese, of each two characters that stand together) the share that stands in the passage."""
    said, there = (_pieces(unicodedata.normalize("NFKC", text).casefold()) for text in (answer, passage))
    return sum(piece in there for piece in said) / len(said) if said else 1.0


def _pieces(words: str) -> set[str]:
    found = set(re.findall(r"[a-z0-9]{3,}", words))
    for run in re.findall(r"[\u4e00-\u9fff]+", words):
        found |= {run[at : at + 2] for at in range(len(run) - 1)}
    return found


def ungrounded(answer: str, passage: str) -> str | None:
    """Why the answer cannot have come from the passage; None: nothing speaks against it."""
    answer, passage = unicodedata.normalize("NFKC", answer), unicodedata.normalize("NFKC", passage)
    if not set(_articles(answer)) <= set(_articles(passage)):
        return ARTICLE
    known = set(_numbers(passage, strict=False))
    if not set(_numbers(answer, strict=True)) <= known:
        return NUMBER
    there = passage.casefold()
    if any(name.casefold() not in there for name in _names(answer)):
        return NAME
    return None


def _articles(words: str) -> Iterator[tuple[str, float]]:
    for zh, unit, en, number in _ARTICLE.findall(words):
        value = _zh_value(zh) if zh and not zh.isdigit() else float(zh or number)
        if value is not None:
            yield (unit or _ARTICLE_UNITS[en.lower()], value)


def _numbers(words: str, strict: bool) -> Iterator[float]:
    """The numbers that the words say. `strict`: a lone Chinese figure counts only before a unit."""
    for found in _ARABIC.findall(words):
        yield float(found.replace(",", ""))
    plain = _NO_NUMBER.sub("", words)
    for match in _ZH_NUMBER.finditer(plain):
        run = match[0]
        if strict and len(run) == 1 and plain[match.end() : match.end() + 1] not in set(_UNITS):
            continue
        if (value := _zh_value(run)) is not None:
            yield value
    yield from _english(words)


def _english(words: str) -> Iterator[float]:
    """`one` is no number here: it is a word of many uses. `two hundred and fifty` is one."""
    tokens = re.findall(r"[a-z]+|[^\sa-z]", words.casefold())
    total, current, met = 0, 0, False
    for number, token in enumerate([*tokens, "."]):
        if token in _MONTHS and (
            token not in ("may", "march") or re.search(rf"\b{token.title()}\s+\d|\d\s+{token.title()}", words)
        ):
            yield float(_MONTHS[token])
        if token in _SMALL or token in _TENS:
            current, met = current + _SMALL.get(token, _TENS.get(token, 0)), True
        elif token in _SCALES and (met or (number and tokens[number - 1] in ("a", "one"))):
            scaled = max(current, 1) * _SCALES[token]
            total, current, met = (total, scaled, True) if token == "hundred" else (total + scaled, 0, True)
        elif (
            met
            and token in ("-", "and")
            and number + 1 < len(tokens)
            and tokens[number + 1] in _SMALL | _TENS | {"one": 1}
        ):
            continue
        elif met and token == "one":
            current += 1
        elif met:
            yield float(total + current)
            total, current, met = 0, 0, False


def _zh_value(run: str) -> float | None:
    """十五, 一百二十, 两千, 二〇二四, 三万五千; None for what is no number."""
    if all(char in _DIGITS for char in run):
        return float("".join(str(_DIGITS[char]) for char in run))
    total, section, digit = 0, 0, None
    for char in run:
        if char in _DIGITS:
            digit = _DIGITS[char]
        elif char in _PLACES:
            section += (1 if digit is None or (digit == 0 and not section) else digit) * _PLACES[char]
            digit = None
        else:
            scale = 10_000 if char == "万" else 100_000_000
            total, section, digit = (total + section + (digit or 0) or 1) * scale, 0, None
    return float(total + section + (digit or 0))


def _names(words: str) -> Iterator[str]:
    for groups in _QUOTED.findall(words):
        yield next(one for one in groups if one)
    if _CJK.search(words):
        yield from (word for word in _LATIN.findall(words) if len(word) > 1)
        yield from _SOMEBODY.findall(words)
        yield from _OFFICE.findall(words)
        return
    for match in _LATIN.finditer(words):
        word, before = match[0], words[: match.start()]
        inside = before.strip() and not _SENTENCE_END.search(before)
        if inside and word[0].isupper() and word.casefold() not in _MONTHS and word.casefold() != "article":
            yield word
