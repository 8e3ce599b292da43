"""The builder `style`: accepted answers as the domain's guide asks for them (`streams.style`), worded by the teacher.

Taken are the domain's own answers that do not keep the guide; people's words go to no teacher. Kept is what keeps every rule,
adds nothing (`workers.builder.grounded`) and leaves out no number and no article. Whoever accepts one retires the answer that
it was made of.
"""

from collections.abc import Iterator

from streams.errors import Invalid
from streams.facts.material import Source
from streams.style import in_words
from streams.syllogisms import is_chinese
from workers.builder.declining import UNLIKE_THE_GUIDE, keeps
from workers.builder.grounded import ARTICLE, NUMBER, ungrounded
from workers.builder.material import Accepted, Dropped, Made, Material, Proposed, Step
from workers.builder.teacher import Desk

ADDS = "it says more than the answer that it was made of"
LEAVES_OUT = "it leaves out a number or an article"
_REWORD = {
    False: (
        "Question:\n{question}\n\nAnswer:\n{answer}\n\nWord the answer anew so that it keeps each of these rules:\n{rules}\nKeep"
        " every number, name and reference, and add nothing. Write nothing but the answer."
    ),
    True: (
        "问题：\n{question}\n\n答案：\n{answer}\n\n请改写答案，使其符合以下每一条要求：\n{rules}\n保留所有数字、名称和条款，不要增加内容。"
        "只写答案。"
    ),
}


def build(material: Material, desk: Desk) -> Iterator[Made]:
    rules = list(material.style)
    if not rules:
        raise Invalid("the builder words answers by the policy's `style`, and that has no rule")
    unlike = [one for one in material.accepted() if one.own and not keeps(rules, one.question, one.answer)]

    def prompts() -> Iterator[tuple[Accepted, str]]:
        for one in unlike:
            chinese = is_chinese(one.question)
            told = "\n".join(f"- {in_words(rule, 'zh' if chinese else 'en')}" for rule in rules)
            yield one, _REWORD[chinese].format(question=one.question, answer=one.answer, rules=told)

    for done, (one, said) in enumerate(desk.ask_all(prompts()), 1):
        if said.fault is not None:
            yield Dropped(said.fault)
        elif not keeps(rules, one.question, said.text):
            yield Dropped(UNLIKE_THE_GUIDE)
        elif ungrounded(said.text, f"{one.question}\n{one.answer}") is not None:
            yield Dropped(ADDS)
        elif ungrounded(one.answer, f"{one.question}\n{said.text}") in (NUMBER, ARTICLE):
            yield Dropped(LEAVES_OUT)
        else:
            yield Proposed("styled", (Source("example", one.id),), one.question, said.text)
        yield Step(done, len(unlike))
