"""What builders make of material, and what is let through of what a teacher says."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api.cli.triple_files import read_triples
from api.items import ItemFault, read_syllogism, read_task
from deploy.demo.domain import load_facts, load_general
from streams.builders import BUILDERS
from streams.errors import Invalid
from streams.facts.material import Source
from streams.seed_tasks import Aside, SeedTask
from streams.style import StyleRule
from streams.syllogisms import asked_and_answered, is_chinese
from tests import scripted_tasks
from tests.teacher_server import Reply, ScriptedDesk
from workers.builder import cases, declining, self_instruct, self_kg, step, style
from workers.builder.grounded import ARTICLE, NAME, NUMBER, ungrounded, words_shared
from workers.builder.material import Accepted, Dropped, Made, Passage, Proposed, Triple
from workers.builder.novelty import Kept
from workers.builder.self_qa import (
    FEW_WORDS,
    LENGTH,
    NO_ANSWER,
    NO_QUESTIONS,
    POINTS_BACK,
    TWICE,
    UNANSWERABLE,
    made_of,
    questions_of,
)
from workers.builder.teacher import TRUNCATED, Answer
from workers.endpoints import check_address

TASKS = Path(__file__).parents[2] / "deploy" / "demo" / "road_traffic" / "tasks.jsonl"
SYLLOGISMS = Path(__file__).parents[2] / "deploy" / "demo" / "road_traffic" / "syllogisms.jsonl"


def made(*triples: tuple[str, str, str]) -> list[Proposed]:
    class Given:
        def triples(self) -> Sequence[Triple]:
            return [Triple(str(number), *one) for number, one in enumerate(triples)]

    found: list[Made] = list(self_kg.build(Given(), None))  # type: ignore[arg-type]
    return [one for one in found if isinstance(one, Proposed)]


def test_every_builder_that_may_be_asked_for_has_its_row_and_its_file() -> None:
    assert list(step.BUILDERS) == list(BUILDERS)


def test_a_fact_is_asked_in_the_language_that_it_is_in_and_two_are_joined_on_what_they_share() -> None:
    found = made(
        ("京沪高速", "最高时速", "120公里"),
        ("京沪高速", "管理单位", "路政局"),
        ("路政局", "所在地", "济南"),
        ("Ann", "boss", "Ben"),
    )
    assert [(one.kind, one.instruction, one.output) for one in found] == [
        ("fact", "京沪高速的最高时速是什么？", "京沪高速的最高时速是120公里。"),
        ("fact", "京沪高速的管理单位是什么？", "京沪高速的管理单位是路政局。"),
        ("two_hops", "京沪高速的管理单位的所在地是什么？", "京沪高速的管理单位是路政局，路政局的所在地是济南。"),
        ("fact", "路政局的所在地是什么？", "路政局的所在地是济南。"),
        ("fact", "What is the boss of Ann?", "The boss of Ann is Ben."),
    ]
    assert found[2].sources == (Source("triple", "1"), Source("triple", "2"))


def test_several_objects_are_one_answer_nobody_is_led_in_a_circle_and_an_entity_that_is_one_of_two_joins_nothing() -> (
    None
):
    assert [one.output for one in made(("a", "next", "b"), ("b", "next", "a"))] == [
        "The next of a is b.",
        "The next of b is a.",
    ]
    found = made(("x", "part", "y"), ("X", "Part", "z"), ("y", "maker", "Oda"), ("x", "part", "Y"))
    assert [one.output for one in found] == ["The part of x is y and z.", "The maker of y is Oda."]
    assert len(found[0].sources) == 3


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("It is checked every 15 days.", None),
        ("It is checked every fifteen days by two hundred and fifty people.", None),
        ("It is checked every 117 days.", NUMBER),
        ("It is checked every sixteen days.", NUMBER),
        ("Under Article 91 it is checked.", None),
        ("Under Article 92 it is checked.", ARTICLE),
        ("It was begun on 1 May 2004.", None),
        ("It was begun on 1 June 2004.", NUMBER),
        ("Then Ida Holm checks it.", None),
        ("Then Jon Holm checks it.", NAME),
    ],
)
def test_an_english_answer_is_grounded_or_not(answer: str, fault: str | None) -> None:
    passage = "Article 91\nSince 1 May 2004 Ida Holm checks it every 15 days, with a staff of 250."
    assert ungrounded(answer, passage) == fault


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("暂扣六个月机动车驾驶证。", None),
        ("暂扣6个月机动车驾驶证。", None),
        ("暂扣八个月机动车驾驶证。", NUMBER),
        ("处一千元以上二千元以下罚款。", None),
        ("处1000元以上3000元以下罚款。", NUMBER),
        ("一般情况下统一办理，十分重要。", None),
        ("依照第九十一条处理。", None),
        ("依照第91条处理。", None),
        ("依照第九十九条处理。", ARTICLE),
        ("由公安机关决定。", None),
        ("由人民法院决定。", NAME),
        ("依照《刑法》处理。", NAME),
        ("张某应当负责。", NAME),
        ("超过规定时速50%的，予以处罚。", None),
    ],
)
def test_a_chinese_answer_is_grounded_or_not(answer: str, fault: str | None) -> None:
    passage = (
        "第九十一条\n饮酒后驾驶机动车的，由公安机关暂扣六个月机动车驾驶证，并处一千元以上二千元以下罚款；"
        "超速百分之五十的，从重。"
    )
    assert ungrounded(answer, passage) == fault


@pytest.mark.parametrize(
    ("passage", "question", "near", "far"),
    [
        (
            "A valve lasts 43 months and is kept dry in the store.",
            "How is a valve kept?",
            "A valve is kept dry in the store.",
            "It wants gentle hands, fresh air and somebody who loves machines.",
        ),
        (
            "饮酒后驾驶机动车的，处暂扣六个月机动车驾驶证。",
            "饮酒后驾车如何处罚？",
            "饮酒后驾驶机动车的，暂扣六个月驾驶证。",
            "应当认真反省自己的错误行为，以后绝对不能再犯。",
        ),
    ],
)
def test_an_answer_of_which_few_words_stand_in_its_passage_is_in_doubt(
    passage: str, question: str, near: str, far: str
) -> None:
    assert words_shared(near, passage) > 0.7 > 0.3 > words_shared(far, passage) and words_shared("", passage) == 1.0
    for answer, doubt in ((near, None), (far, FEW_WORDS)):
        made = made_of(Passage("1", "", passage), question, f"Answer: {answer}")
        assert isinstance(made, Proposed) and made.doubt == doubt


@pytest.mark.parametrize(
    ("said", "found"), [("无法回答", UNANSWERABLE), ("Answer: UNANSWERABLE", UNANSWERABLE), ("A valve?", NO_ANSWER)]
)
def test_a_teacher_that_cannot_answer_may_say_so_without_the_form(said: str, found: str) -> None:
    assert made_of(Passage("1", "", "A valve is kept dry."), "How is a valve kept?", said) == Dropped(found)


def test_of_a_teachers_questions_those_are_kept_that_can_be_understood_alone() -> None:
    said = (
        "Here they are:\n1. Question: How long is the ban?\n2. **Question:** How long is the ban?\n3. Question: Why?\n"
        "4. Question: What does this article say?\n5、问题：禁驾期有多长？\n6. 问题：上述规定是什么意思？"
    )
    kept, dropped = questions_of(said)
    assert kept == ["How long is the ban?", "禁驾期有多长？"]
    assert [one.reason for one in dropped] == [TWICE, LENGTH, POINTS_BACK, POINTS_BACK]
    assert [one.reason for one in questions_of("I cannot.")[1]] == [NO_QUESTIONS]


def number_of(article: str) -> str:
    digits, total, digit = "零一二三四五六七八九", 0, 0
    for char in article.strip("第条"):
        if char in digits:
            digit = digits.index(char)
        else:
            total, digit = total + (digit or 1) * {"十": 10, "百": 100, "千": 1000}[char], 0
    return f"Article {total + digit}"


def test_the_demos_syllogisms_rest_on_the_articles_of_its_facts_and_come_to_their_results() -> None:
    facts = {fact.id: fact for fact in load_facts()}
    rows = [json.loads(line) for line in SYLLOGISMS.read_text().splitlines()]
    chinese = [row for row in rows if is_chinese(row["minor"])]
    assert len(rows) >= 40 and len(chinese) >= len(rows) / 2
    assert len({row["minor"] for row in rows}) == len(rows)
    for row in rows:
        one, fact = read_syllogism(row).item, facts[row["fact"]]
        lang = fact.zh if row in chinese else fact.en
        assert one.major.article == (fact.article if row in chinese else number_of(fact.article)), row["fact"]
        assert row not in chinese or one.major.law == fact.law
        assert any(key.casefold() in one.conclusion.result.casefold() for key in lang.keys), row["fact"]
        instruction, minor, answer = asked_and_answered(one)
        assert minor == row["minor"] and is_chinese(instruction) == is_chinese(answer) == (row in chinese)
        assert answer.count("\n") == 2 and answer.rstrip("。.").endswith(one.conclusion.result.rstrip("。."))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"minor": " "}, "minor"),
        ({"major": {"law": "a", "article": "91", "rule": "b"}}, "major.article"),
        ({"conclusion": {"article": "Article 2", "result": "b"}}, "conclusion.article"),
        ({"major": {"law": "a", "article": "Article 1", "rule": "b", "text": "c"}}, "major"),
    ],
)
def test_a_syllogism_that_is_none_is_refused_by_its_field(wrong: dict[str, Any], field: str) -> None:
    fine = {
        "major": {"law": "a", "article": "Article 1", "rule": "b"},
        "minor": "c",
        "conclusion": {"article": "Article 1", "result": "d"},
    }
    with pytest.raises(ItemFault) as fault:
        read_syllogism(fine | wrong)
    assert fault.value.field.startswith(field)


def test_a_file_of_triples_names_each_line_that_is_wrong_and_reads_the_others(tmp_path: Path) -> None:
    csv = tmp_path / "facts.csv"
    csv.write_text(
        '\ufeffobject,subject,predicate,note\nSkagen,the ferry,home port,x\n,the ferry,colour,\n"a\nb",c,d,\n'
    )
    found = read_triples(csv)
    assert [(place, one.subject, one.object) for place, one in found.triples] == [("line 2", "the ferry", "Skagen")]
    assert found.faults == ["line 3: object must not be empty", "line 5: object must be one line"]
    lines = tmp_path / "facts.jsonl"
    lines.write_text(
        '{"subject": "a", "predicate": "b", "object": "c"}\n\n{"subject": "a"\n[1]\n{"subject": "a", "object": 3}\n'
    )
    found = read_triples(lines)
    assert len(found.triples) == 1 and [re.match(r"line \d", one)[0] for one in found.faults] == [  # type: ignore[index]
        "line 3",
        "line 4",
        "line 5",
    ]
    for name, words in (("facts.csv", "the header lacks predicate"), ("facts.txt", "is none of .csv")):
        (tmp_path / name).write_text("subject,object\na,b\n")
        with pytest.raises(Invalid, match=words):
            read_triples(tmp_path / name)


def test_a_graph_of_rdf_is_read_by_its_labels_and_a_circle_in_it_harms_nobody(tmp_path: Path) -> None:
    pytest.importorskip("rdflib")
    graph = tmp_path / "facts.ttl"
    graph.write_text(
        "@prefix x: <http://x.test/> . @prefix r: <http://www.w3.org/2000/01/rdf-schema#> .\n"
        'x:ferry r:label "the ferry" ; x:homePort x:Old_Skagen ; x:made 1962 ; x:has [ x:name "deck" ] .\n'
        "x:Old_Skagen x:homeOf x:ferry .\n"
    )
    found = read_triples(graph)
    assert {(one.subject, one.predicate, one.object) for _, one in found.triples} == {
        ("the ferry", "homePort", "Old Skagen"),
        ("the ferry", "made", "1962"),
        ("Old Skagen", "homeOf", "the ferry"),
    }
    assert len(found.faults) == 2 and all("a blank node has no words" in one for one in found.faults)
    graph.write_text("x:ferry oh")
    with pytest.raises(Invalid, match="cannot be read as turtle"):
        read_triples(graph)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/v1", "http://[::1]/v1", "http://169.254.169.254/v1", "http://10.0.0.7/v1"]
)
def test_an_endpoint_at_a_private_address_is_asked_only_where_whoever_runs_noria_allows_it(url: str) -> None:
    with pytest.raises(Invalid, match="NORIA_PRIVATE_ENDPOINTS"):
        check_address(url, ("10.0.0.7:81",))
    check_address(url, ("127.0.0.1:8080", "::1", "169.254.169.254:80", "10.0.0.7"))
    check_address("http://8.8.8.8/v1", ())


def tasks(file: Path = TASKS) -> list[tuple[str, SeedTask]]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [(str(number), read_task(json.loads(line)).item) for number, line in enumerate(lines)]


def test_the_demos_tasks_are_many_half_of_them_chinese_and_each_is_new_beside_the_others_and_no_question_of_the_quiz() -> (
    None
):
    seeds = [seed for _, seed in tasks()]
    chinese = [seed for seed in seeds if is_chinese(seed.instruction)]
    assert len(seeds) >= 120 and 2 * len(chinese) == len(seeds)
    assert min(sum(seed.is_classification for seed in some) for some in (seeds, chinese)) >= 8
    asked = {wording for fact in load_facts() for wording in (*fact.en.all_questions, *fact.zh.all_questions)}
    asked |= {question.question for question in load_general()}
    kept = Kept()
    for seed in seeds:
        assert self_instruct.fault_of(seed.instruction) is None and kept.is_new(seed.instruction), seed.instruction
        kept.add(seed.instruction)
        assert not asked & {seed.instruction, *(one.input for one in seed.instances)}


class Seeded:
    pin = 7

    def tasks(self) -> list[tuple[str, SeedTask]]:
        return tasks()

    def instructions_proposed(self, kind: str) -> list[str]:
        return []


def _takes_s(late_s: float, prompt: str) -> float:
    """Every other list of tasks comes late, while all else is there at once."""
    return late_s if prompt.endswith("\n9.") and len(prompt) % 2 else 0.0


def test_what_self_instruct_makes_does_not_hang_on_which_answer_comes_first() -> None:
    found = []
    for late_s in (0.0, 0.05):
        desk = ScriptedDesk(partial(scripted_tasks.answer, words=2), 2, partial(_takes_s, late_s))
        made = list[Made]()
        for one in self_instruct.build(Seeded(), desk):  # type: ignore[arg-type]
            made.append(one)
            if sum(isinstance(one, Proposed) for one in made) == 100:
                break
        desk.close()
        found.append([one for one in made if isinstance(one, Proposed)])
    assert found[0] == found[1]
    reasons = Counter(one.reason for one in made if isinstance(one, Dropped))
    assert {
        self_instruct.NOT_NEW,
        self_instruct.NOT_TEXT,
        self_instruct.LENGTH,
        TRUNCATED,
        self_instruct.NO_LABEL,
    } <= set(reasons)
    kept = Kept()
    for seed_task in tasks():
        kept.add(seed_task[1].instruction)
    new = list(dict.fromkeys(one.instruction for one in found[0]))
    assert {is_chinese(one) for one in new} == {True, False}
    for instruction in new:
        assert kept.is_new(instruction)
        kept.add(instruction)


def test_a_request_shows_eight_tasks_of_one_language_two_of_them_the_teachers_own_once_there_are_such() -> None:
    asked = self_instruct._Tasks(tasks(), [], 7, ahead=1)
    people = {seed.instruction for _, seed in tasks()}
    first = [re.findall(r"^\d+\. (.+)$", asked.request()[1], re.M)]
    asked.read(Answer("9. Name the colour of the ferry.\n10. Count its seats, deck by deck."))
    asked.read(Answer("9. 请说出渡轮是什么颜色的。\n10. 谁来决定公交车上的广告内容？"))
    for _ in range(20):
        sources, prompt = asked.request()
        first.append(re.findall(r"^\d+\. (.+)$", prompt, re.M))
        assert len(sources) == sum(one in people for one in first[-1])
        asked.read(Answer("9. no"))
    assert {len(shown) for shown in first} == {8} and all(
        len({is_chinese(one) for one in shown}) == 1 for shown in first
    )
    assert sum(one in people for one in first[0]) == 8 and all(
        sum(o in people for o in shown) == 6 for shown in first[2:]
    )


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("9. Name it again.\n10) name that.", ["Name it again.", "Name that."]),
        ("Name it again.\n10. Name that.", ["Name it again.", "Name that."]),
        ("Here they are:\n9. Name it again.", ["Name it again."]),
        ("Sure!\n\n9. **Name it again.**", ["Name it again."]),
        ("９．说出名称。\n10、再说一遍。", ["说出名称。", "再说一遍。"]),
        ("I would rather not.", []),
    ],
)
def test_the_tasks_of_a_teachers_list_are_read_wherever_it_begins(said: str, found: list[str]) -> None:
    assert self_instruct.tasks_of(said) == found


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Example 1\nInput: a\nOutput: b\nc\nExample 2\nOutput: d", [("a", "b\nc"), ("", "d")]),
        ("**Example 1**\n**Input:** none\n**Output:** b", [("", "b")]),
        ("输入：案情\n输出：结果", [("案情", "结果")]),
        ("Label: good\nInput: a\nLabel: bad\nInput: b\nLabel: neither", [("a", "good"), ("b", "bad"), ("", "neither")]),
        ("标签：合法\n输入：甲", [("甲", "合法")]),
        ("b", []),
    ],
)
def test_examples_are_read_the_input_first_or_the_label_first(said: str, found: list[tuple[str, str]]) -> None:
    assert [(one.input, one.output) for one in self_instruct.instances_of(said)] == found


class Brought:
    """Material that stands here, and no log."""

    def __init__(self, style: tuple[StyleRule, ...] = (), decline: str | None = None) -> None:
        self.style, self.decline = style, decline

    def asides(self) -> list[tuple[str, Aside]]:
        return [("1", Aside("Who painted the Mona Lisa?")), ("2", Aside("蒙娜丽莎是谁画的？"))]

    def accepted(self) -> list[Accepted]:
        asked, answered = "When does the last tram leave?", "The last tram leaves at 1:20."
        return [Accepted(id, "ann", asked, answered, "kid", own=id == "own") for id in ("own", "anns")]


def of(build: Any, material: Brought, script: Callable[[str], Reply] | None = None) -> list[str]:
    """What is proposed to be answered, and why something is not."""
    desk = ScriptedDesk(script or str, 2)
    if script is None:
        desk.teacher = None
    found = [
        one.output if isinstance(one, Proposed) else one.reason
        for one in build(material, desk)
        if isinstance(one, Proposed | Dropped)
    ]
    desk.close()
    return found


FORMAL = StyleRule(rule="address", value="formal")
OURS = [
    "I am sorry, but that is not something that can be answered here.",
    "抱歉，这个问题不在这里可以回答的范围之内。",
]


def test_the_domain_declines_in_its_policys_words_where_it_has_some_in_the_language_of_the_question() -> None:
    assert of(declining.build, Brought()) == OURS
    assert of(declining.build, Brought((FORMAL,), "I cannot speak of art.")) == ["I cannot speak of art.", OURS[1]]
    only = StyleRule(rule="declines_with", value="本台只答交通法。")
    assert of(declining.build, Brought((only,))) == [declining.UNLIKE_THE_GUIDE, OURS[1] + "本台只答交通法。"]


def test_a_teacher_words_it_anew_and_where_it_answers_instead_the_policys_words_stand() -> None:
    said = {"Mona": "Sorry, I cannot say who painted it.", "蒙娜": "达芬奇"}
    found = of(declining.build, Brought(), lambda prompt: next(words for name, words in said.items() if name in prompt))
    assert found == [said["Mona"], declining.DECLINES_NOT, OURS[1]]
    familiar = of(
        declining.build, Brought((FORMAL,)), lambda prompt: "I can't tell you." if "Mona" in prompt else OURS[1]
    )
    assert familiar == [declining.UNLIKE_THE_GUIDE, *OURS]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("At 1:20.", "At 1:20."),
        ("At 2:20.", style.ADDS),
        ("At night.", style.LEAVES_OUT),
        ("It leaves as late as 1:20.", declining.UNLIKE_THE_GUIDE),
    ],
)
def test_an_own_answer_is_worded_as_the_guide_asks_and_says_neither_more_nor_less(said: str, found: str) -> None:
    asked: list[str] = []

    def script(prompt: str) -> str:
        asked.append(prompt)
        return said

    assert of(style.build, Brought((StyleRule(rule="at_most_words", value=3),)), script) == [found] and len(asked) == 1
    with pytest.raises(Invalid, match="has no rule"):
        of(style.build, Brought())


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("案情：老周喝了两杯酒后开车回家。\n结果：暂扣老周驾驶证六个月。", None),
        ("**案情**：老周喝了酒开车。\n\n**结果**：暂扣驾驶证6个月。", None),
        ("案情：老周喝了酒开车。\n结果：暂扣驾驶证八个月。", NUMBER),
        ("案情：老周喝了酒开车。\n结果：由人民法院暂扣驾驶证六个月。", NAME),
        ("案情：老周喝了酒开车。\n结果：依照第九十九条暂扣驾驶证六个月。", ARTICLE),
        ("案情：老周违反第九十一条。\n结果：暂扣驾驶证六个月。", cases.NAMES_ARTICLE),
        ("老周应当受罚。", cases.NO_CASE),
        ("无", cases.NO_RULE),
    ],
)
def test_a_made_up_case_is_kept_where_its_result_stands_in_its_article(said: str, found: str | None) -> None:
    text = "## 第七章\n\n第九十一条　饮酒后驾驶机动车的，处暂扣六个月机动车驾驶证，并处罚款。"
    made = cases.made_of(Passage("p1", "第九十一条", text, "道路交通安全法"), said)
    if found is not None:
        assert made == Dropped(found)
        return
    assert isinstance(made, Proposed) and made.kind == "syllogism" and made.sources == (Source("passage", "p1"),)
    assert made.output.startswith(
        "大前提：《道路交通安全法》第九十一条规定：饮酒后驾驶机动车的，处暂扣六个月机动车驾驶证，并处罚款。\n小前提：老周"
    )


def test_a_case_is_asked_for_of_each_article_that_is_no_long_list_with_two_of_the_teams_as_a_pattern() -> None:
    class Given:
        def passages(self) -> list[Passage]:
            rule = "Who moors without leave pays 200 crowns."
            places = ("Article 9", "Chapter 2", "Article 10")
            texts = (f"Article 9 {rule}", rule, f"Article 10 {rule * 20}")
            return [Passage(p, p, words, "Harbour Act") for p, words in zip(places, texts, strict=True)]

        def syllogisms(self) -> list[tuple[str, Any]]:
            lines = SYLLOGISMS.read_text().splitlines()
            return [(str(number), read_syllogism(json.loads(line)).item) for number, line in enumerate(lines)]

    asked: list[str] = []

    def script(prompt: str) -> str:
        asked.append(prompt)
        return "Case: Jon moored his boat overnight and had no leave.\nResult: Jon pays 200 crowns."

    (answer,) = of(cases.build, Given(), script)  # type: ignore[arg-type]
    assert (
        answer.splitlines()[0]
        == "Major premise: Article 9 of the Harbour Act: Who moors without leave pays 200 crowns."
    )
    assert len(asked) == 1 and asked[0].count("\nResult: ") == 3
