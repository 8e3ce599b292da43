"""The legal syllogism: a rule of law, the facts of a case, and what follows. The checked form in which a data team writes one, and
the training example that comes of it. Pure.

The major premise names its article; the conclusion names the article that it rests on, which must be that one: an answer that
quotes one article and decides by another is the fault that such examples are to unteach.
"""

import re

from msgspec import Struct

from streams.errors import InvalidField

_ARTICLE = re.compile(r"第[零〇一二三四五六七八九十百千0-9]+条(之[一二三四五六七八九十]+)?|Article [0-9]+[A-Z]?")
_CJK = re.compile(r"[\u4e00-\u9fff]")


class Major(Struct, frozen=True, forbid_unknown_fields=True):
    """The rule, and where it stands: `article` as 第九十一条 or `Article 91`."""

    law: str
    article: str
    rule: str


class Conclusion(Struct, frozen=True, forbid_unknown_fields=True):
    article: str
    result: str


class Syllogism(Struct, frozen=True):
    """`minor`: the facts of the case."""

    major: Major
    minor: str
    conclusion: Conclusion

    def __repr__(self) -> str:
        return "Syllogism(…)"

    def check(self) -> None:
        """Raise InvalidField for what is empty, for what is no article, and where the conclusion rests on another article."""
        said = {
            "major.law": self.major.law,
            "major.article": self.major.article,
            "major.rule": self.major.rule,
            "minor": self.minor,
            "conclusion.article": self.conclusion.article,
            "conclusion.result": self.conclusion.result,
        }
        for name, words in said.items():
            if not words.strip():
                raise InvalidField(name, "must not be empty")
        if not is_article(self.major.article):
            raise InvalidField("major.article", "must be an article like 第九十一条 or Article 91")
        if self.conclusion.article != self.major.article:
            raise InvalidField("conclusion.article", "must be the article of the major premise")


def is_article(place: str) -> bool:
    """Whether it names an article, and nothing else."""
    return _ARTICLE.fullmatch(place) is not None


def is_chinese(words: str) -> bool:
    """Whether most letters of it are Chinese: by that the wording of what is made of it is chosen."""
    return 2 * len(_CJK.findall(words)) > sum(letter.isalpha() for letter in words)


def asked_and_answered(one: Syllogism) -> tuple[str, str, str]:
    """The instruction, its input and the answer that shows all three steps."""
    major, minor, result = one.major, one.minor.strip(), one.conclusion.result.strip()
    if is_chinese(minor):
        return (
            "请用三段论分析下面的案情，指出适用的法条和处理结果。",
            minor,
            f"大前提：{_named(major.law)}{major.article}规定：{major.rule.strip()}\n小前提：{minor}\n"
            f"结论：依照{major.article}，{result}",
        )
    return (
        "Analyse the case below as a legal syllogism: name the article that applies and the result.",
        minor,
        f"Major premise: {major.article} of the {major.law}: {major.rule.strip()}\nMinor premise: {minor}\n"
        f"Conclusion: under {major.article}, {result}",
    )


def _named(law: str) -> str:
    return law if law.startswith("《") else f"《{law}》"
