"""Questions of an exam as they may come back among what is to be learned: each in five ways, in two languages. Written by hand,
as the demo's facts and their rewordings are; and questions of the same law that the exam does not ask."""

from deploy.demo.domain import Fact, Language, load_facts

LANGUAGES: tuple[Language, ...] = ("en", "zh")
ASKED = 10  # facts whose question is in the exam, of each language
WAYS = ("same words", "within a sentence", "a word more", "turned round", "other words")
MORE: dict[Language, str] = {"en": "exactly", "zh": "具体"}
AROUND: dict[Language, tuple[str, str]] = {
    "en": ("I would like to know one thing.", "Thank you."),
    "zh": ("我想请教一个问题：", "谢谢！"),
}


def exam() -> dict[str, str]:
    """By item."""
    return {f"{language}-{fact.id}": fact.wording(language).question for language in LANGUAGES for fact in _facts()}


def planted() -> list[tuple[str, str]]:
    """The way, and the question: ten of each way in each language."""
    found = []
    for fact in _facts():
        for language in LANGUAGES:
            said = fact.wording(language)
            before, after = AROUND[language]
            words = said.question.split() if language == "en" else list(said.question)
            half, space = len(words) // 2, " " if language == "en" else ""
            turned = [*words[half:], *words[:half]]
            found += [
                (WAYS[0], _wide(said.question.upper()) + " …"),
                (WAYS[1], space.join((before, said.question, after))),
                (WAYS[2], space.join((*words[:half], MORE[language], *words[half:]))),
                (WAYS[3], space.join(turned)),
                (WAYS[4], said.rewordings[0]),
            ]
    return found


def others() -> list[str]:
    """Questions on other facts, in all wordings."""
    return [
        question
        for fact in load_facts()[ASKED:]
        for language in LANGUAGES
        for question in fact.wording(language).trained
    ]


def _facts() -> tuple[Fact, ...]:
    return load_facts()[:ASKED]


def _wide(text: str) -> str:
    """In letters of full width, where there are such."""
    return "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text)
