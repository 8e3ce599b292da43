"""Snapshots: what became of each candidate is read of every format, counted, and compared between two rounds."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streams.artifacts import Artifacts
from streams.errors import Invalid
from streams.history import Part
from streams.rankings import Held
from streams.sealing import seal
from streams.selection import USUAL
from streams.snapshots import FORMAT, Count, Line, Snapshot, SnapshotPair, SnapshotRow, changes, counts, load, save
from tests.keyring import Ring
from workers.evaluator.opencompass import ExamItem
from workers.evaluator.questions import Question
from workers.evaluator.step import _check_apart

RING = Ring()


def said(words: str, name: str) -> Any:
    return seal(words, RING.key_for("ann"), f"{name}#text")


def asked(question: str) -> tuple[Part, ...]:
    return (Part(said(json.dumps([{"role": "user", "content": question}]), question)),)


def row(name: str, question: str, *wordings: str) -> SnapshotRow:
    return SnapshotRow(name, "new", "ann", asked(question), said("Yes.", name), tuple(map(asked, wordings)))


def pair(name: str, question: str) -> SnapshotPair:
    return SnapshotPair(
        question, asked(question), said("Yes.", "b"), said("No.", "w"), f"{name}+", f"{name}-", ("v",), ("ann",)
    )


@pytest.mark.parametrize("format_", [2, 3, 4, 5])
def test_a_snapshot_of_a_time_without_lines_has_one_for_each_candidate_that_it_names(
    format_: int, tmp_path: Path
) -> None:
    learned = row("e-1", "Who?")
    wanted = {
        "format": format_,
        "domain": "roads",
        "round_id": "r",
        "pin": 9,
        "rows": [msgspec.to_builtins(learned)],
        "dropped": [{"example_id": "e-2", "reason": "erased"}],
        "pairs": [msgspec.to_builtins(pair("p", "Which?"))],
        "held_out": [msgspec.to_builtins(pair("h", "Whose?"))],
        "held": [msgspec.to_builtins(Held("both sides are the same", ("v-1", "v-2")))],
    }
    artifacts = Artifacts(tmp_path)
    found = load(artifacts.put_bytes(msgspec.json.encode(wanted)), artifacts)
    assert found.format == FORMAT and found.selection == USUAL and found.rows == (learned,)
    assert found.lines == (
        Line("e-1", "example", True),
        Line("e-2", "example", False, reason="erased"),
        Line("p+ p-", "pair", True),
        Line("h+ h-", "pair", False, "held_out", reason="held out: the candidate is examined by it"),
        Line("v-1", "pair", False, "preferences", reason="both sides are the same"),
        Line("v-2", "pair", False, "preferences", reason="both sides are the same"),
    )
    assert load(save(found, artifacts), artifacts) == found
    assert [line.id for line in found.dropped] == ["e-2"]


def snapshot(*lines: Line, rows: tuple[SnapshotRow, ...] = (), pairs: tuple[SnapshotPair, ...] = ()) -> Snapshot:
    return Snapshot(FORMAT, "roads", "r", 9, rows, lines, pairs=pairs)


KEPT, NEAR = Line("e-1", "example", True, "k_center", 0.5), Line("e-2", "example", False, "dedupe", 0.9, "e-1", "same")


def test_candidates_are_counted_by_kind_step_and_reason() -> None:
    again = msgspec.structs.replace(NEAR, id="e-3", number=0.95)
    passage = Line("p-1", "passage", True)
    assert counts(snapshot(KEPT, NEAR, again, passage)) == [
        Count("example", True, "", "", 1),
        Count("example", False, "dedupe", "same", 2),
        Count("passage", True, "", "", 1),
    ]


def test_between_two_rounds_only_what_fares_otherwise_is_told() -> None:
    measured = msgspec.structs.replace(KEPT, number=0.25)
    new = Line("e-9", "example", True)
    found = changes(snapshot(KEPT, NEAR), snapshot(measured, new))
    assert [(change.id, change.before, change.after) for change in found] == [("e-9", None, new), ("e-2", NEAR, None)]


@pytest.mark.parametrize(
    "taught",
    [
        snapshot(rows=(row("e-1", "WHO opens it"),)),
        snapshot(rows=(row("e-1", "Whose is it?", "Who opens it?"),)),
        snapshot(pairs=(pair("p", "who, opens it?"),)),
    ],
    ids=["a row", "a wording", "a pair"],
)
def test_a_training_set_with_a_question_of_the_exam_is_not_judged(taught: Snapshot) -> None:
    def question(set_: str) -> Question:
        item = ExamItem(id="i-1", set=set_, question="Who opens it?", answer="Ann.", keys=())
        return Question(item, "fingerprint", ("domain",))

    with pytest.raises(Invalid, match="1 of the prompts of the training set stand in the exam"):
        _check_apart(taught, [question("general")], RING)
    _check_apart(taught, [question("fixes")], RING)
