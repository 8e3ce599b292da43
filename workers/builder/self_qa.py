"""The builder `self-qa`: questions and answers from the passages of documents (Zhang and Yang, Self-QA, arXiv 2305.11952).

In two steps, by the published prompts: the teacher asks questions of a passage, and then answers each from that passage alone. Kept
is what is grounded (`workers.builder.grounded`: every number, date, name and article of the answer stands in the passage), what the
teacher could answer from it, and what can be understood without it.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from streams.alike import words_of
from streams.facts.material import Source
from streams.syllogisms import is_chinese
from workers.builder.grounded import ungrounded, words_shared
from workers.builder.material import Dropped, Made, Material, Passage, Proposed, Step
from workers.builder.teacher import Desk, Sampling

UNANSWERABLE = "its passage does not answer it"
POINTS_BACK = "it points back at a text that nobody sees"
LENGTH = "it is too short or too long"
TWICE = "it was asked of the passage before"
NO_QUESTIONS = "no questions could be read from the teacher's answer"
NO_ANSWER = "no answer could be read from the teacher's answer"
FEW_WORDS = "few_words"  # why it is in doubt of an answer
LEAST_SHARED = 0.5  # of an answer's words stand in its passage, or it is
MOST_CHARACTERS = 2000  # of an answer; a question may have a fifth of it

_ASK = {
    False: (
        "The background knowledge is:\n{doc}\n\nPlease generate ten instruction questions as diverse as possible based on the"
        " content of the above article. These questions can be questions about facts or an understanding and evaluation of relevant"
        " content. Please assume that there is no corresponding article to refer to when asking questions, so do not use"
        " demonstrative pronouns such as “this” or “these” in the question. Please generate questions in the following format:\n"
        "1. Question: …\n2. Question: …"
    ),
    True: (
        "背景知识：\n{doc}\n\n请根据上面文章的内容，生成十个尽可能多样的指令问题。这些问题可以是关于事实的问题，也可以是对相关内容的理解和"
        "评价。提问时请假设没有相应的文章可供参考，因此不要在问题中使用“这”“这些”等指示代词。请按以下格式生成问题：\n"
        "1. 问题：……\n2. 问题：……"
    ),
}
_ANSWER = {
    False: (
        "The background knowledge is:\n{doc}\nPlease answer the following question based on the content of the article above:\n"
        "{question}\nPlease answer this question as thoroughly as possible, but do not change the key information in the original"
        " text, and do not include expressions such as “based on the above article” in the answer. If the article does not answer"
        " the question, the answer is the one word UNANSWERABLE. Please generate the corresponding answer in the following"
        " format:\nQuestion: …\nAnswer: …"
    ),
    True: (
        "背景知识：\n{doc}\n请根据上面文章的内容回答下面的问题：\n{question}\n请尽可能详尽地回答，但不要改变原文的关键信息，也不要在回答中使用"
        "“根据上文”之类的说法。如果文章没有回答这个问题，答案只写“无法回答”。请按以下格式生成回答：\n问题：……\n答案：……"
    ),
}
_QUESTION = re.compile(
    r"^\s*\d+\s*[.、)）]\s*(?:\*\*)?(?:Question|问题)\s*(?:\*\*)?\s*[:：]\s*(?:\*\*)?\s*(\S.*?)\s*$", re.M
)
_ANSWERED = re.compile(r"(?:^|\n)\s*(?:\*\*)?(?:Answer|答案|回答)\s*(?:\*\*)?\s*[:：]\s*(?:\*\*)?(.+)\Z", re.S)
_NOT_ANSWERED = re.compile(
    r"unanswerable|无法回答|无法确定|没有(?:提及|提到|说明|规定相关)|未(?:提及|提到|说明)"
    r"|(?:does not|doesn't|do not|is not) (?:say|mention|specif|state|provide|answer)"
    r"|not mentioned|cannot be (?:answered|determined)",
    re.I,
)
_BACK = re.compile(
    r"\b(?:this|these|the above|the following|the given|the provided) (?:article|articles|text|passage|document|paragraph|provision"
    r"|section|law|content|information|rule|rules)\b|\bbased on the\b|according to the (?:article|text|passage|document)\b"
    r"|上文|本文|下文|上述|本条|该条|此条|这条|这些?(?:文章|规定|内容|条文|段)|该(?:文|段|规定|条文)|根据(?:文章|原文|材料|背景)",
    re.I,
)


class _Asked(Struct, frozen=True):
    passage: Passage
    question: str
    done: int


def build(material: Material, desk: Desk) -> Iterator[Made]:
    passages = material.passages()
    aside: list[Made] = []

    def questions() -> Iterator[tuple[_Asked, str]]:
        prompts = (
            ((number, passage), _ASK[is_chinese(passage.text)].format(doc=_shown(passage)))
            for number, passage in enumerate(passages, 1)
        )
        for (number, passage), answer in desk.ask_all(prompts, Sampling(temperature=0.7)):
            if answer.fault is not None:
                aside.append(Dropped(answer.fault))
                continue
            kept, dropped = questions_of(answer.text)
            aside.extend(dropped)
            for question in kept:
                prompt = _ANSWER[is_chinese(passage.text)].format(doc=_shown(passage), question=question)
                yield _Asked(passage, question, number), prompt

    for about, answer in desk.ask_all(questions()):
        yield from aside
        aside.clear()
        yield Dropped(answer.fault) if answer.fault is not None else made_of(about.passage, about.question, answer.text)
        yield Step(about.done, len(passages))
    yield from aside


def questions_of(said: str) -> tuple[list[str], list[Dropped]]:
    """The questions that stand in a teacher's answer and can be understood by themselves, and what is dropped of them."""
    kept: dict[tuple[str, ...], str] = {}
    dropped: list[Dropped] = []
    for question in _QUESTION.findall(said):
        length = len(question) if is_chinese(question) else 2 * len(question.split())
        if length < 6 or len(question) > MOST_CHARACTERS // 5:
            dropped.append(Dropped(LENGTH))
        elif _BACK.search(question):
            dropped.append(Dropped(POINTS_BACK))
        elif words_of(question) in kept:
            dropped.append(Dropped(TWICE))
        else:
            kept[words_of(question)] = question
    if not kept and not dropped:
        dropped.append(Dropped(NO_QUESTIONS))
    return list(kept.values()), dropped


def made_of(passage: Passage, question: str, said: str) -> Made:
    """The example that a teacher's answer comes to, or why it comes to none."""
    found = _ANSWERED.search(said)
    if found is None:
        return Dropped(UNANSWERABLE if _NOT_ANSWERED.search(said) else NO_ANSWER)
    answer = found[1].strip().strip("*").strip()
    if _NOT_ANSWERED.search(answer):
        return Dropped(UNANSWERABLE)
    if not 2 <= len(answer) <= MOST_CHARACTERS:
        return Dropped(LENGTH)
    if _BACK.search(answer):
        return Dropped(POINTS_BACK)
    fault = ungrounded(answer, f"{passage.place}\n{passage.text}")
    if fault is not None:
        return Dropped(fault)
    doubt = FEW_WORDS if words_shared(answer, f"{passage.place}\n{passage.text}\n{question}") < LEAST_SHARED else None
    return Proposed("question", (Source("passage", passage.id),), question, answer, doubt=doubt)


def _shown(passage: Passage) -> str:
    """With the article or heading that it stands under, where that is not its beginning."""
    return passage.text if passage.text.startswith(passage.place) else f"{passage.place}\n{passage.text}"
