"""`noria recall` against a small real server that speaks the door's contract."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from api.cli import main
from tests.door_server import KEY, FakeDoor, Json, new_document, remembered_things, serving


@pytest.fixture
def door() -> Iterator[FakeDoor]:
    with serving() as found:
        found.domains["road-traffic"]["policy"]["recall"] = {"of": "both"}
        yield found


@pytest.fixture
def run(door: FakeDoor, tmp_path: Path) -> Any:
    environ = {"NORIA_DOOR": door.url, "NORIA_KEY": KEY, "NORIA_HOME": str(tmp_path / "home")}

    def runner(*arguments: str) -> Result:
        result = CliRunner().invoke(main, ["recall", *arguments], env=environ)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return runner


def said(score: float, text: str) -> Json:
    correction, *_ = remembered_things()
    return correction | {"id": uuid4().hex, "score": score, "text": text}


def examined(door: FakeDoor, kind: str, question: str, key: str, *recalled: tuple[float, str]) -> None:
    """A question of the exam, and what the memory recalls for it."""
    item = {"item_id": uuid4().hex, "kind": kind, "question": question, "answer": f"It is {key}.", "keys": [key]}
    door.exam.append(item)
    door.memories[question] = [said(score, text) for score, text in recalled]


def an_exam(door: FakeDoor, general: int = 10) -> None:
    """Of five held-out questions one is answered by what comes first, one by what comes second, one by a memory that the search
    does not find and one by a passage, and one by nothing."""
    examined(door, "held_out", "first?", "30", (0.9, "At most 30 km/h."), (0.2, "Never."))
    examined(door, "held_out", "second?", "40", (0.6, "130 and 400."), (0.3, "It is 40."))
    examined(door, "held_out", "not found?", "50", (0.7, "Never."))
    examined(door, "held_out", "in a passage?", "60")
    examined(door, "held_out", "nowhere?", "70", (0.8, "170"))
    examined(door, "general", "the capital?", "Paris", (0.4, "Never."))
    for number in range(general - 1):
        examined(door, "general", f"general {number}?", "x")
    door.examples = [{"instruction": "?", "output": "It is 50."}, {"instruction": "?", "output": "370"}]
    law = new_document("law", 1)
    law["data"][0]["text"] = "At 60 it ends."
    door.documents = [law]


def test_each_memory_is_one_line_with_score_kind_source_and_text(run: Any, door: FakeDoor) -> None:
    correction, passage, _ = remembered_things()
    door.memories["fast?"] = [correction | {"text": "30 km/h\nat \x1bnight."}, passage]
    result = run("ask", "fast?")
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert first.startswith("0.8750  correction  corrected 20") and first.endswith(": 30 km/h at \ufffdnight.")
    assert second == "0.5000  passage     Road Traffic Safety Law, article 91: Who drinks does not drive."
    assert [one["id"] for one in json.loads(run("ask", "fast?", "--json").stdout)["data"]] == ["c0de", "9a55"]


def test_how_many_and_from_which_score_may_be_said_beside_the_policy(run: Any, door: FakeDoor) -> None:
    door.memories["fast?"] = [said(0.9, "one"), said(0.6, "two"), said(0.1, "three"), said(0.05, "four")]
    assert len(run("ask", "fast?").stdout.splitlines()) == 2
    assert len(run("ask", "fast?", "--least", "0").stdout.splitlines()) == 3
    assert len(run("ask", "fast?", "--least", "0", "--most", "4").stdout.splitlines()) == 4
    nothing = run("ask", "else?")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "nothing is recalled for it\n")


def test_where_nothing_is_recalled_by_policy_it_is_refused_and_a_memory_that_is_away_is_3(
    run: Any, door: FakeDoor
) -> None:
    an_exam(door)
    door.memory_away = True
    assert [run(*command).exit_code for command in (["ask", "?"], ["calibrate"])] == [3, 3]
    door.domains["road-traffic"]["policy"]["recall"] = {"of": "off"}
    refused = run("ask", "?")
    assert (refused.exit_code, "recalls nothing" in refused.stderr) == (1, True)
    assert run("calibrate").exit_code == 1


def test_of_the_exam_it_is_told_what_each_threshold_recalls_and_what_no_memory_answers(
    run: Any, door: FakeDoor
) -> None:
    an_exam(door)
    result = run("calibrate", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["held_out"], found["unanswerable"], found["general"]) == (5, 1, 10)

    def of(row: Json) -> list[int]:
        return [row[name]["k"] for name in ("first", "within", "general")]

    rows = {row["least"]: of(row) for row in found["rows"]}
    assert (rows[0.05], rows[0.3], rows[0.35], rows[0.45], rows[0.95]) == (
        [1, 2, 1],
        [1, 2, 1],
        [1, 1, 1],
        [1, 1, 0],
        [0, 0, 0],
    )
    assert found["rows"][0]["within"]["n"] == 4
    assert of(found["now"]) == [1, 1, 0], "as the fake's calibration has it: from 0.5 on"
    assert (found["field"], found["proposal"]["row"]["least"], found["proposal"]["lost"]) == ("recall.least", 0.4001, 1)


def test_the_table_names_the_field_its_cost_and_that_so_few_questions_cannot_tell(run: Any, door: FakeDoor) -> None:
    an_exam(door)
    result = run("calibrate")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split("  ")[0] == "least" and lines[1].startswith("now: calibrated") and len(lines) == 28
    assert lines[22:] == [
        "5 held-out and 10 general questions; in brackets the interval at 95 %",
        "of 1 held-out questions no memory holds the answer; they are in no share",
        "proposed: recall.least 0.4001, from which on 0 of 10 general questions recall something (0 % (0 to 28))",
        "what it costs: 1 of 4 held-out questions lose what is right",
        "10 general questions are too few to tell 2 %: if none of them recalled anything, it could still be 27.8 %; 189 would do",
        "to set it: noria policy set recall.least=0.4001 --domain road-traffic",
    ]
    an_exam(door, general=189)
    assert "too few" not in run("calibrate").stdout


def test_what_only_a_passage_answers_is_answered_by_nothing_where_documents_are_not_recalled(
    run: Any, door: FakeDoor
) -> None:
    an_exam(door)
    door.domains["road-traffic"]["policy"]["recall"] = {"of": "corrections", "least": 0.25}
    found = json.loads(run("calibrate", "--json").stdout)
    assert found["unanswerable"] == 2 and found["now"]["within"]["k"] == 2
    assert run("calibrate").stdout.splitlines()[1].startswith("now: 0.25")


def test_without_general_or_held_out_questions_it_says_what_cannot_be_told(run: Any, door: FakeDoor) -> None:
    nothing = run("calibrate")
    assert (nothing.exit_code, "no question yet" in nothing.stderr) == (1, True)
    examined(door, "held_out", "first?", "30", (0.9, "At most 30 km/h."))
    assert "no least score can be proposed" in run("calibrate").stdout
    door.exam.clear()
    examined(door, "general", "the capital?", "Paris", (0.4, "Never."))
    only_general = run("calibrate").stdout
    assert "proposed: recall.least 0.4001" in only_general and "what it costs cannot be told" in only_general
    door.memories["the capital?"] = [said(1.0, "Never.")]
    assert "at every score more than 2 % of the general questions" in run("calibrate").stdout
