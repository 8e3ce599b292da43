"""The builder `cases`: more legal syllogisms, from the articles of the domain's documents.

The rule is the article itself, word for word, and its number is its place: the teacher only makes up a case and says what follows.
Kept is a case that names no article, with a result that is grounded in rule and case (`workers.builder.grounded`); the form is
checked as that of a team's own (`streams.syllogisms`). Two of the team's are shown, if it wrote some in that language.
"""

import re
from collections.abc import Iterator

from streams.errors import InvalidField
from streams.facts.material import Source
from streams.syllogisms import Conclusion, Major, Syllogism, asked_and_answered, is_article, is_chinese
from workers.builder.grounded import ungrounded
from workers.builder.material import Dropped, Made, Material, Passage, Proposed, Step
from workers.builder.teacher import Desk, Sampling

SHOWN = 2
MOST_CHARACTERS = 600  # of a rule: a longer one has many rules in it
NO_CASE = "no case could be read from the teacher's answer"
NO_RULE = "the article says nothing that a case could be decided by"
NAMES_ARTICLE = "its case names an article"
_ASK = {
    False: (
        "The rule ({article}):\n{rule}\n\nMake up one case of everyday life that this rule decides, in two or three sentences,"
        " without naming the rule, and say what follows from the rule for it, with the rule's own figures. If the rule decides no"
        " case (it explains a word, or sets a task of an authority), write NONE.\n\n{shown}Case: …\nResult: …"
    ),
    True: (
        "规定（{article}）：\n{rule}\n\n请编写一个由该规定决定的日常案例，两三句话，不要提到法条，并说明依照该规定应得的结果，数字以规定为准。"
        "如果该规定不能用来裁断案件（例如只解释词语或规定机关的职责），只写“无”。\n\n{shown}案情：……\n结果：……"
    ),
}
_SAID = re.compile(
    r"^\W*(?:Case|案情)\W*?[:：]\W*(?P<case>\S.*?)\n+\W*(?:Result|结果)\W*?[:：]\W*(?P<result>\S.*)\Z", re.S | re.M
)
_NONE = re.compile(r"^\W*(?:none|无)\W*$", re.I)
_ARTICLE = re.compile(r"第[零〇一二三四五六七八九十百千\d]+条|\bArticle\s+\d+", re.I)


def build(material: Material, desk: Desk) -> Iterator[Made]:
    articles = [one for one in material.passages() if is_article(one.place) and len(one.text) <= MOST_CHARACTERS]
    shown = {
        chinese: "".join(
            f"{_form(chinese).format(case=one.minor, result=one.conclusion.result)}\n\n"
            for one in [one for _, one in material.syllogisms() if is_chinese(one.minor) == chinese][:SHOWN]
        )
        for chinese in (False, True)
    }

    def prompts() -> Iterator[tuple[Passage, str]]:
        for one in articles:
            chinese = is_chinese(one.text)
            yield one, _ASK[chinese].format(article=one.place, rule=_rule(one), shown=shown[chinese])

    for done, (one, said) in enumerate(desk.ask_all(prompts(), Sampling(temperature=0.7)), 1):
        yield Dropped(said.fault) if said.fault is not None else made_of(one, said.text)
        yield Step(done, len(articles))


def made_of(passage: Passage, said: str) -> Made:
    """The example that a teacher's case comes to, or why it comes to none."""
    if _NONE.match(said):
        return Dropped(NO_RULE)
    found = _SAID.search(said)
    if found is None:
        return Dropped(NO_CASE)
    case, result = found["case"].strip(" *"), found["result"].strip(" *\n")
    if _ARTICLE.search(case):
        return Dropped(NAMES_ARTICLE)
    fault = ungrounded(result, f"{passage.place}\n{passage.text}\n{case}")
    if fault is not None:
        return Dropped(fault)
    one = Syllogism(Major(passage.title, passage.place, _rule(passage)), case, Conclusion(passage.place, result))
    try:
        one.check()
    except InvalidField:
        return Dropped(NO_CASE)
    instruction, minor, output = asked_and_answered(one)
    return Proposed("syllogism", (Source("passage", passage.id),), instruction, output, minor)


def _rule(passage: Passage) -> str:
    """Without the headings and the number of the article before it."""
    return passage.text.partition(passage.place)[2].strip() or passage.text.strip()


def _form(chinese: bool) -> str:
    return "案情：{case}\n结果：{result}" if chinese else "Case: {case}\nResult: {result}"
