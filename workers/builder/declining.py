"""The builder `declining`: how the domain declines what has nothing to do with it, from questions that a team brought as seeds.

What is said stands in the policy, in the language of the question: the words of the guide's rule `declines_with`, else what
recall declines with, else a sentence of ours. A teacher, where there is one, says it in other words. Kept is what declines
and keeps the guide's rules of manner.
"""

from collections.abc import Iterator

from streams.facts.material import Source
from streams.seed_tasks import Aside
from streams.style import StyleRule, declines, kept
from streams.syllogisms import is_chinese
from workers.builder.material import Dropped, Made, Material, Proposed, Step
from workers.builder.teacher import Answer, Desk, Sampling

UNLIKE_THE_GUIDE = "it does not keep the domain's guide"
DECLINES_NOT = "the teacher did not decline"
MANNER = frozenset(
    {
        "at_most_words",
        "same_language",
        "no_opener",
        "no_repetition",
        "whole_sentences",
        "address",
        "declines_with",
        "never_says",
    }
)
_OURS = {
    False: "I am sorry, but that is not something that can be answered here.",
    True: "抱歉，这个问题不在这里可以回答的范围之内。",
}
_VARY = {
    False: (
        "Somebody asked an assistant of another field:\n{question}\n\nThe assistant declines by saying:\n{said}\n\nSay the same to"
        " that question in other words, in one or two sentences. Do not answer it. Write nothing else."
    ),
    True: (
        "有人向另一领域的助手提问：\n{question}\n\n助手这样婉拒：\n{said}\n\n请针对这个问题换一种说法表达同样的意思，一两句话即可。"
        "不要回答问题，只写这句话。"
    ),
}
_DRAWN = Sampling(temperature=0.7)


def build(material: Material, desk: Desk) -> Iterator[Made]:
    asides = material.asides()
    said = {chinese: _words(material.style, material.decline, chinese) for chinese in (False, True)}
    rules = [rule for rule in material.style if rule.rule in MANNER]

    def prompts() -> Iterator[tuple[tuple[str, Aside], str]]:
        for id_, aside in asides:
            chinese = is_chinese(aside.question)
            yield (id_, aside), _VARY[chinese].format(question=aside.question, said=said[chinese])

    unvaried = ((one, Answer(said[is_chinese(one[1].question)])) for one in asides)
    for done, ((id_, aside), answer) in enumerate(desk.ask_all(prompts(), _DRAWN) if desk.teacher else unvaried, 1):
        words, fault = answer.text, answer.fault
        if fault is None and not declines(words):
            fault = DECLINES_NOT
        if fault is None and not keeps(rules, aside.question, words):
            fault = UNLIKE_THE_GUIDE
        if fault is not None:
            yield Dropped(fault)
            words = said[is_chinese(aside.question)]
        if fault is None or (desk.teacher and keeps(rules, aside.question, words)):
            yield Proposed("declined", (Source("seed", id_),), aside.question, words)
        yield Step(done, len(asides))


def keeps(rules: list[StyleRule], asked: str, answer: str) -> bool:
    """Whether the answer keeps every rule in full."""
    return all(kept(rule, asked, answer) >= 1 for rule in rules)


def _words(style: tuple[StyleRule, ...], decline: str | None, chinese: bool) -> str:
    said = [str(rule.value) for rule in style if rule.rule == "declines_with"] + ([decline] if decline else [])
    fitting = [words.strip() for words in said if is_chinese(words) == chinese]
    if not fitting:
        return _OURS[chinese]
    return fitting[0] if declines(fitting[0]) else f"{_OURS[chinese]}{'' if chinese else ' '}{fitting[0]}"
