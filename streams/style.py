"""How answers are to be worded: rules as data, and how far an answer keeps each. Pure, and without a model: what is judged is the
wording, in English and in Chinese, and never whether it is true.

A rule's name and value stand in recipes and style guides; what it means stands in the table below, a row a rule.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Literal

from msgspec import Struct

from streams.errors import InvalidField

Value = int | str | None
Score = Callable[[str, str, Value], float]
"""How far an answer keeps a rule, from 0 to 1 (it does): given what was asked, the answer and the rule's value."""

# A word of a script without blanks is about two of its characters.
_EAST = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_TOKEN = re.compile(rf"[{_EAST}]|[^\W_{_EAST}]+(?:[.,'’][^\W_{_EAST}]+)*")
_CHARACTER = re.compile(rf"[{_EAST}]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_NUMERAL = r"\d一二三四五六七八九十百千两〇零"
_ARTICLE = re.compile(
    rf"\b(?:article|section|art\.|sec\.)\s*\d+|§\s*\d+|第\s*[{_NUMERAL}]+\s*[条條款项項]", re.IGNORECASE
)
# "One" and 一 are said of what is not counted, and so is a numeral of Chinese without a unit (十分, 千万).
_UNIT = "公里|千米|公斤|毫米|厘米|小时|分钟|个月|米|年|月|日|天|元|倍|次|岁|吨|度|秒|升|克|条|份"
_NUMBER = re.compile(
    rf"\d|\b(?:zero|two|three|four|five|six|seven|eight|nine|ten)\b|[{_NUMERAL[2:]}]+(?={_UNIT})", re.IGNORECASE
)
_OPENER = re.compile(
    r"^\W*(?:(?:what an? |that(?:'|’)?s an? |an? )?(?:great|good|excellent|wonderful|fantastic|interesting) question"
    r"|certainly\b|absolutely\b|of course\b|sure(?: thing)?[,!.]|i(?:'|’)?d be (?:happy|glad) to|happy to help"
    r"|(?:这|那)(?:真)?是(?:一)?个?(?:很|非常|特别)?(?:好|棒)的?问题|(?:好|很好|非常好)的?问题|当然|好的[，,!！。]|很高兴)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:i(?:'|’)?m sorry|i am sorry|i apologi[sz]e|as an ai"
    r"|i (?:can(?:not|'t|’t)|am (?:not able|unable) to|do(?: not|n't|n’t) know)"
    r"|i(?:'|’)?m (?:not able|unable) to)|抱歉|对不起|作为(?:一个)?(?:人工智能|AI|语言模型)|我(?:无法|不能|不知道)",
    re.IGNORECASE,
)
_CONTRACTION = re.compile(r"\b\w+(?:n['’]t|['’](?:re|ve|ll|d|m))\b", re.IGNORECASE)
NAMED = "style "  # before the name of a rule, in a table that has other rows
MOST_RULES, MOST_VALUE = 20, 200  # of a guide, and of the characters of a value
REPEATED_WORDS = 4  # so many in a row that come again are a repetition
FIRST_WORDS = 6  # of an answer, among which its number stands first


class StyleRule(Struct, frozen=True, kw_only=True):
    """One rule of a guide or of a reward. `value`: what the rule takes, if it takes something; `weight`: how much it counts among
    the others."""

    rule: str
    value: Value = None
    weight: float = 1.0


class Kind(Struct, frozen=True, kw_only=True):
    """What a rule means. `takes`: what its value is; `choices`: which texts it may be. `en`, `zh`: in words, with the value put in
    for {value}; `value_zh`: the Chinese of its choices."""

    score: Score
    en: str
    zh: str
    takes: Literal["count", "text"] | None = None
    choices: tuple[str, ...] = ()
    value_zh: Mapping[str, str] = {}


def word_count(text: str) -> int:
    """Words, as people count them: of scripts without blanks two characters are one."""
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text))
    characters = sum(_CHARACTER.fullmatch(token) is not None for token in tokens)
    return len(tokens) - characters + -(-characters // 2)


def language_of(text: str) -> Literal["en", "zh"] | None:
    """Which of the two most of it is in; None where there is no word of either."""
    characters = len(_CHARACTER.findall(text))
    words = len(re.findall(r"[A-Za-z]+", text))
    return None if not characters and not words else "zh" if characters >= 2 * words else "en"


def _at_most_words(asked: str, answer: str, most: Value) -> float:
    assert isinstance(most, int)
    count = word_count(answer)
    return 0.0 if not count else min(1.0, most / count)


def _at_least_words(asked: str, answer: str, least: Value) -> float:
    assert isinstance(least, int)
    return min(1.0, word_count(answer) / least)


def _names_article(asked: str, answer: str, value: Value) -> float:
    return float(_ARTICLE.search(unicodedata.normalize("NFKC", answer)) is not None)


def _number_first(asked: str, answer: str, value: Value) -> float:
    """The sooner the better: 1 among the first words."""
    said = unicodedata.normalize("NFKC", answer)
    without = _ARTICLE.sub(
        lambda found: " " + re.sub(rf"[{_NUMERAL}]", "x", found.group()), said
    )  # it is named, no amount
    found = _NUMBER.search(without)
    return 0.0 if found is None else min(1.0, FIRST_WORDS / (word_count(without[: found.start()]) + 1))


def _same_language(asked: str, answer: str, value: Value) -> float:
    one, other = language_of(asked), language_of(answer)
    return float(bool(answer.strip()) and (one == other or None in (one, other)))


def _no_opener(asked: str, answer: str, value: Value) -> float:
    return float(bool(answer.strip()) and _OPENER.search(answer.strip()) is None)


def _no_refusal(asked: str, answer: str, value: Value) -> float:
    return float(bool(answer.strip()) and not declines(answer))


def _no_repetition(asked: str, answer: str, value: Value) -> float:
    """The share of its runs of words that are said once."""
    words = [word.casefold() for word in _TOKEN.findall(answer)]
    runs = [tuple(words[at : at + REPEATED_WORDS]) for at in range(len(words) - REPEATED_WORDS + 1)]
    return len(set(runs)) / len(runs) if runs else float(bool(words))


def _address(asked: str, answer: str, form: Value) -> float:
    formal, familiar = (
        ("您" in answer, "你" in answer)
        if language_of(answer) == "zh"
        else (False, _CONTRACTION.search(answer) is not None)
    )
    if not answer.strip():
        return 0.0
    return float(not familiar) if form == "formal" else float(not formal)


def _declines_with(asked: str, answer: str, words: Value) -> float:
    assert isinstance(words, str)
    return float(bool(answer.strip()) and (not declines(answer) or words.casefold() in answer.casefold()))


def _says(asked: str, answer: str, words: Value) -> float:
    assert isinstance(words, str)
    return float(words.casefold() in answer.casefold())


def _never_says(asked: str, answer: str, words: Value) -> float:
    return float(bool(answer.strip()) and not _says(asked, answer, words))


def _ends(asked: str, answer: str, value: Value) -> float:
    return float(answer.rstrip().endswith((".", "!", "?", "。", "！", "？", "…", ":", "："))) if answer.strip() else 0.0


RULES: Mapping[str, Kind] = {
    "at_most_words": Kind(score=_at_most_words, takes="count", en="At most {value} words.", zh="不超过 {value} 个词。"),
    "at_least_words": Kind(
        score=_at_least_words, takes="count", en="At least {value} words.", zh="至少 {value} 个词。"
    ),
    "names_article": Kind(
        score=_names_article, en="Names the article or section that it rests on.", zh="指明所依据的条款。"
    ),
    "number_first": Kind(
        score=_number_first, en="Where it gives a number, it stands first.", zh="给出数字时，数字放在最前。"
    ),
    "same_language": Kind(score=_same_language, en="In the language of the question.", zh="使用提问的语言。"),
    "no_opener": Kind(
        score=_no_opener, en="Begins with the answer, and not with a compliment.", zh="直接作答，不以客套话开头。"
    ),
    "no_refusal": Kind(score=_no_refusal, en="Does not decline.", zh="不拒绝回答。"),
    "no_repetition": Kind(score=_no_repetition, en="Says nothing twice.", zh="不重复。"),
    "whole_sentences": Kind(score=_ends, en="Ends as a sentence does.", zh="以完整的句子结尾。"),
    "address": Kind(
        score=_address,
        takes="text",
        choices=("formal", "familiar"),
        en="The form of address is {value}.",
        zh="称呼对方用“{value}”。",
        value_zh={"formal": "您", "familiar": "你"},
    ),
    "declines_with": Kind(
        score=_declines_with, takes="text", en="Where it declines, it says: {value}", zh="拒绝时要说：{value}"
    ),
    "says": Kind(score=_says, takes="text", en="Says: {value}", zh="提到：{value}"),
    "never_says": Kind(score=_never_says, takes="text", en="Never says: {value}", zh="从不提到：{value}"),
}
"""By name. Of an answer without words none is kept."""


def declines(answer: str) -> bool:
    """Whether it says, in its first two sentences, that it cannot or will not answer."""
    return any(_REFUSAL.search(sentence) for sentence in _SENTENCE.split(answer.strip())[:2])


def check(rules: Sequence[StyleRule], field: str = "rules") -> None:
    """Raise InvalidField naming the first rule that means nothing."""
    for number, rule in enumerate(rules):
        where, kind = f"{field}[{number}]", RULES.get(rule.rule)
        if kind is None:
            raise InvalidField(f"{where}.rule", f"is one of {', '.join(RULES)}; got {rule.rule!r}")
        if not 0 < rule.weight <= 1000:
            raise InvalidField(f"{where}.weight", f"must be above 0 and at most 1000; got {rule.weight}")
        if kind.takes is None and rule.value is not None:
            raise InvalidField(f"{where}.value", f"{rule.rule} takes none; got {rule.value!r}")
        if kind.takes == "count" and not (isinstance(rule.value, int) and 1 <= rule.value <= 10_000):
            raise InvalidField(f"{where}.value", f"is how many, from 1 to 10000; got {rule.value!r}")
        if kind.takes == "text" and not (isinstance(rule.value, str) and rule.value.strip()):
            raise InvalidField(f"{where}.value", f"is a text; got {rule.value!r}")
        if kind.choices and rule.value not in kind.choices:
            raise InvalidField(f"{where}.value", f"is one of {', '.join(kind.choices)}; got {rule.value!r}")


def check_new(guide: Sequence[StyleRule], field: str = "style") -> None:
    """Raise InvalidField, if a new guide has more rules or longer ones than a table has room for, or one twice."""
    if len(guide) > MOST_RULES:
        raise InvalidField(field, f"has at most {MOST_RULES} rules; got {len(guide)}")
    for number, rule in enumerate(guide):
        if isinstance(rule.value, str) and len(rule.value) > MOST_VALUE:
            raise InvalidField(f"{field}[{number}].value", f"has at most {MOST_VALUE} characters")
        if name_of(rule) in map(name_of, guide[:number]):
            raise InvalidField(f"{field}[{number}]", "stands there before")


def in_words(rule: StyleRule, language: Literal["en", "zh"]) -> str:
    """The rule as a person reads it."""
    kind = RULES[rule.rule]
    if language == "en":
        return kind.en.format(value=rule.value)
    return kind.zh.format(value=kind.value_zh.get(str(rule.value), rule.value))


def name_of(rule: StyleRule) -> str:
    """Of its row in the gate's table: `style at_most_words 12`."""
    return f"{NAMED}{rule.rule}" if rule.value is None else f"{NAMED}{rule.rule} {rule.value}"


def rule_of(name: str) -> StyleRule | None:
    """The rule of a row that is so named; None: it is of no rule."""
    said, _, value = name.removeprefix(NAMED).partition(" ")
    kind = RULES.get(said)
    if not name.startswith(NAMED) or kind is None:
        return None
    return StyleRule(rule=said, value=int(value) if kind.takes == "count" and value.isdecimal() else value or None)


def together(*guides: Sequence[StyleRule]) -> tuple[StyleRule, ...]:
    """The rules of all of them, each once."""
    found = dict[str, StyleRule]()
    for guide in guides:
        for rule in guide:
            found.setdefault(name_of(rule), rule)
    return tuple(found.values())


def kept(rule: StyleRule, asked: str, answer: str) -> float:
    """How far the answer keeps one rule: from 0 to 1, where it does."""
    return RULES[rule.rule].score(asked, answer, rule.value)


def score(rules: Sequence[StyleRule], asked: str, answer: str) -> float:
    """How far the answer keeps all of them, from 0 to 1: the mean by their weights."""
    return sum(rule.weight * kept(rule, asked, answer) for rule in rules) / sum(rule.weight for rule in rules)


def preferred(
    guide: Sequence[StyleRule], asked: str, answers: Sequence[str], accepted: Set[int] = frozenset()
) -> list[tuple[int, int]]:
    """Of two answers to one question the number of the one that keeps more of the guide, by its weights, and of the other. What a
    person accepted loses to no draft for its wording: that may be well worded and wrong."""
    worth = [sum(rule.weight for rule in guide if kept(rule, asked, answer) >= 1) for answer in answers]
    return [
        (one, other)
        for one in range(len(answers))
        for other in range(len(answers))
        if worth[one] > worth[other] and not (other in accepted and one not in accepted)
    ]


def rates(rules: Sequence[StyleRule], answers: Iterable[tuple[str, str]]) -> list[float]:
    """Of each rule the share of the answers (asked, answered) that keep it; 0 where there is none."""
    said = list(answers)
    return [sum(kept(rule, *one) >= 1 for one in said) / max(1, len(said)) for rule in rules]
