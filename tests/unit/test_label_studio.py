"""Label Studio's tasks: read as its export has them, written as its import takes them, and back."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from api.formats import label_studio
from api.formats.checking import brought, examples
from api.items import ItemFault, LeftOut, read_preference

PROPOSED = {
    "proposal_id": "697dd087b0a850e9872d349fb2c69da4",
    "builder": "self-kg",
    "instruction": "渡轮的母港是什么？",
    "input": "",
    "output": "渡轮的母港是斯卡恩。",
    "system": "",
}


def result(kind: str, **value: Any) -> dict[str, Any]:
    return {"id": "a1", "from_name": kind, "to_name": "prompt", "type": kind, "value": value, "origin": "manual"}


def annotated(data: dict[str, Any], *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A task of the export: as the published format has it."""
    annotation = {"id": 7, "completed_by": 1, "result": list(results), "was_cancelled": False, "ground_truth": False}
    known = {"id": 1, "data": data, "predictions": [], "meta": {}, "project": 3, "total_annotations": 1}
    return known | {"annotations": [annotation | more]}


def test_a_proposal_comes_back_as_it_went_accepted_edited_or_rejected() -> None:
    task = json.loads(json.dumps(label_studio.task_of(PROPOSED)))
    assert task["predictions"][0]["result"][0]["value"] == {"text": ["渡轮的母港是斯卡恩。"]}
    said = {
        "accepted": [result("textarea", text=["渡轮的母港是斯卡恩。"]), result("choices", choices=["accept"])],
        "edited": [result("textarea", text=["斯卡恩。"]), result("choices", choices=["accept"])],
        "rejected": [result("choices", choices=["reject"])],
    }
    found = {verb: label_studio.labelled(annotated(task["data"], *results)) for verb, results in said.items()}
    assert {verb: (one.verb, one.proposal_id) for verb, one in found.items()} == {
        verb: (verb, PROPOSED["proposal_id"]) for verb in said
    }
    accepted, edited = found["accepted"].item, found["edited"].item
    assert accepted is not None and edited is not None and found["rejected"].item is None
    assert (accepted.instruction, accepted.output) == (PROPOSED["instruction"], PROPOSED["output"])
    assert edited.output == "斯卡恩。"
    assert label_studio.labelled(task).verb == "undecided"
    skipped = annotated(task["data"], *said["rejected"], was_cancelled=True)
    assert label_studio.labelled(skipped).verb == "undecided", "who skips a task says nothing of it"


def test_the_labelling_interface_names_the_controls_that_are_read_and_the_data_that_is_written() -> None:
    view = ElementTree.fromstring(label_studio.config_of('Road "law" <1>'))
    names = {one.get("name") for one in view} - {None}
    assert names == {"prompt", label_studio.VERDICT, label_studio.OUTPUT}
    shown = {one.get("value", "")[1:] for one in view if one.get("value", "").startswith("$")}
    assert shown <= label_studio.task_of(PROPOSED)["data"].keys()
    assert [one.get("value") for one in view.iter("Choice")] == ["accept", "reject"]


def test_tasks_of_other_projects_become_examples_and_what_was_rejected_is_left_out(tmp_path: Path) -> None:
    tasks = [
        annotated({"text": "How fast in port?"}, result("textarea", text=["Four knots.", "No more."])),
        annotated({"instruction": "Who pays?", "output": "Jon."}, result("choices", choices=["Good"])),
        annotated({"instruction": "Who pays?", "output": "Nobody."}, result("choices", choices=["Bad"])),
        {"id": 4, "data": {"text": "Why?"}, "annotations": [], "predictions": []},
        annotated({"text": "Where?"}, result("rectanglelabels", x=1, y=2)),
        annotated(label_studio.task_of(PROPOSED)["data"], result("choices", choices=["accept"])),
        {"id": 7, "data": {"text": "Which?"}, "annotations": [{"result": "none"}]},
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    found = examples(tmp_path / "export.json")
    assert found.formats == ("export.json: label-studio, a JSON list in UTF-8",)
    taken = list(found.items())
    assert [(one.item.instruction, one.item.output) for one in taken if one.item] == [
        ("How fast in port?", "Four knots.\nNo more."),
        ("Who pays?", "Jon."),
    ]
    assert [one.left_out for one in taken[2:4]] == ["rejected by its annotator", "nobody has annotated it"]
    assert [one.fault for one in taken[4:]] == [
        "annotations: it holds neither a choice (accept, reject) nor a text",
        "data.proposal_id: it is a verdict on a proposal: `noria examples labelled` reads it",
        "annotations[0].result: it must have a list of results, each with a value",
    ]


def test_comparisons_and_rankings_become_what_people_prefer() -> None:
    pair = annotated({"prompt": "Who?", "answer1": "Ann.", "answer2": "Ben."}, result("pairwise", selected="right"))
    assert read_preference(label_studio.preference(pair)).item.answers == ("Ben.", "Ann.")
    items = [{"id": id_, "title": id_.upper(), "body": f"Answer {id_}."} for id_ in ("a", "b", "c")]
    for ranked in (["b", "c", "a"], {"best": ["b", "c", "a"]}):
        row = annotated({"prompt": "Who?", "items": items}, result("ranker", ranker=ranked))
        assert label_studio.holds_preference(row)
        assert read_preference(label_studio.preference(row)).item.answers == ("Answer b.", "Answer c.", "Answer a.")
    for wrong, where in (
        (annotated({"prompt": "Who?", "one": "x"}, result("pairwise", selected="left")), "data"),
        (annotated({"prompt": "Who?", "items": items}, result("ranker", ranker=["z"])), "annotations"),
        (annotated({"items": items}, result("ranker", ranker=["a", "b"])), "data"),
    ):
        with pytest.raises(ItemFault) as told:
            label_studio.preference(wrong)
        assert told.value.field == where
    with pytest.raises(LeftOut):
        label_studio.preference({"data": {"prompt": "Who?"}, "annotations": []})
    with pytest.raises(ItemFault):
        read_preference({"prompt": "Who?", "ranked": ["Ann.", " Ann. "]})


def test_a_file_of_comparisons_is_read_as_preferences(tmp_path: Path) -> None:
    from api.cli.preferences import _read

    rows = [annotated({"prompt": "Who?", "answer1": "Ann.", "answer2": "Ben."}, result("pairwise", selected="left"))]
    (tmp_path / "pairs.json").write_text(json.dumps([*rows, {"prompt": "Who?", "chosen": "Ann.", "rejected": "Ben."}]))
    found = [one.item.answers for one in brought(tmp_path / "pairs.json", _read).items() if one.item]
    assert found == [("Ann.", "Ben."), ("Ann.", "Ben.")]
