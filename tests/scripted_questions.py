"""A teacher of Self-QA that composes Chinese questions and answers of a passage's own sentences, by a script; what it says hangs on
its prompt alone, and some of it is what teachers get wrong: another number, article or office, a text that nobody sees, no answer.
"""

import random
import re

from tests.teacher_server import Reply

_MOST = 10
_SENTENCE = re.compile(r"(?<=[。；])")
_NUMBER = re.compile(r"[二三四五六七八九十百千]+(?=[日年个元倍])")
# How a sentence of a statute becomes a question, and which part of it answers.
_FORMS = (
    (re.compile(r"^(.{4,80}的)，(处.+|由.+|依法.+|应当.+)$"), "{0}，法律怎么规定？"),
    (re.compile(r"^(.{2,30}?)((?:应当|不得|必须|可以).+)$"), "{0}在道路交通安全方面有什么要求？"),
    (re.compile(r"^(.{2,30}?)(?:是指|是)(.+)$"), "什么是{0}？"),
)


def answer(prompt: str) -> Reply:
    if prompt.endswith("2. 问题：……"):
        return _questions(prompt)
    passage, _, rest = prompt.removeprefix("背景知识：\n").partition("\n请根据上面文章的内容回答下面的问题：\n")
    question = rest.split("\n", 1)[0]
    by = random.Random(prompt)
    said = next((reply for asked, reply in _composed(passage) if asked == question), None)
    if said is None:
        return "无法回答"
    return f"问题：{question}\n答案：{_spoiled(said, by)}"


def _questions(prompt: str) -> Reply:
    by = random.Random(prompt)
    passage = prompt.removeprefix("背景知识：\n").partition("\n\n请根据上面文章的内容，生成十个")[0]
    if by.random() < 0.03:
        return {"message": {"content": "1. 问题：机动车"}, "finish_reason": "length"}
    asked = list(dict.fromkeys(question for question, _ in _composed(passage)))[:_MOST]
    if by.random() < 0.2:
        asked.append("本条规定适用于哪些情形？")
    if by.random() < 0.2:
        asked.append("驾驶人的工资由谁支付？")  # of which the passage says nothing
    if not asked:
        return "没有可以提的问题。"
    return "\n".join(f"{number}. 问题：{question}" for number, question in enumerate(asked, 1))


def _composed(passage: str) -> list[tuple[str, str]]:
    found = []
    for sentence in _SENTENCE.split(passage):
        sentence = re.sub(r"^第[零一二三四五六七八九十百]+条", "", sentence.strip()).strip("　；。 \n")
        if "\n" in sentence or len(sentence) < 10:
            continue
        for form, question in _FORMS:
            if match := form.match(sentence):
                found.append((question.format(match[1]), f"{sentence}。"))
                break
    return found


def _spoiled(said: str, by: random.Random) -> str:
    """A fifth of the answers is wrong in one thing."""
    way = by.random()
    if way < 0.06 and _NUMBER.search(said):
        return _NUMBER.sub("四十三", said, count=1)
    if way < 0.1:
        return f"依照第三百条，{said}"
    if way < 0.14:
        return f"经仲裁委员会决定，{said}"
    if way < 0.17:
        return f"根据上文，{said}"
    for right, turned in (("不得", "可以"), ("应当", "不必")):
        if way < 0.2 and right in said:
            return said.replace(right, turned, 1)
    return said
