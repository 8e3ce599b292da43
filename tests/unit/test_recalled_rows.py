"""Rows behind what is recalled: which are chosen, what a snapshot carries of them, and what is trained."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from msgspec.structs import replace

from streams.artifacts import Artifacts
from streams.facts.rounds import SnapshotSelected
from streams.history import Before, Part
from streams.orders import SelectSnapshot
from streams.reading.learning import Example
from streams.recalled import Memory, Recall, with_recalled
from streams.recipes import PretrainingRecipe
from streams.sealing import seal
from streams.snapshots import FORMAT, Snapshot, SnapshotMemory, SnapshotRow, load, save
from tests.keyring import Ring
from tests.memories import CONTEXT, Bags, memory_of, remembered, sealed_correction, sealed_passage
from tests.unit import trainer_tiny as tiny
from tests.unit.test_selection import RING, example
from workers.recall.as_of import AsOf
from workers.selector import step as selection
from workers.trainer.spec import TrainingRow
from workers.trainer.step import taught, training_rows

RECALL = Recall(of="both", most=2, least=0.0)
FACTS = {
    "Who opens the red gate?": "Ann opens the red gate.",
    "Who opens the blue gate?": "Ben opens the blue gate.",
    "When does the mill stop?": "The mill stops at noon.",
    "Where is the old well?": "The old well is behind the barn.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


def examples_of(facts: Sequence[tuple[str, str]]) -> list[Example]:
    return [example(number, question, answer) for number, (question, answer) in enumerate(facts)]


def memory_of_examples(examples: Sequence[Example], *more: SnapshotMemory) -> AsOf:
    sealed = [SnapshotMemory(row.example_id, "correction", row.answer, question=row.prompt) for row in examples]
    return memory_of(RING, *sealed, *more)


def select(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    folder: Path,
    examples: Sequence[Example],
    memory: AsOf,
    recall: Recall = RECALL,
    **recipe: Any,
) -> Snapshot:
    artifacts, said = Artifacts(tmp_path / "artifacts"), list[SnapshotSelected]()
    context: Any = SimpleNamespace(
        keyring=RING,
        artifacts=artifacts,
        progress=lambda *_: None,
        check=lambda: None,
        publish=lambda order, event, name: said.append(event),
    )
    monkeypatch.setattr(selection, "_read", lambda order, context: (list(examples), {}, [], Before({}, {})))
    monkeypatch.setattr(selection, "memory_as_of", lambda *_: memory)
    order = SelectSnapshot(
        order_id=uuid4(),
        domain="roads",
        round_id="round-1",
        pin=9,
        base_model=artifacts.put_dir(folder),
        recipe=replace(tiny.RECIPE, **{"row_tokens": 512, **recipe}),
        recall=recall,
    )
    selection.run(order, context)
    return load(said[0].snapshot, artifacts)


def test_to_the_first_model_what_earlier_rounds_taught_is_as_new_as_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    examples = examples_of(list(FACTS.items()))
    examples = [replace(examples[0], learned=True), *examples[1:]]
    snapshot = select(monkeypatch, tmp_path, folder, examples, memory_of_examples(examples))
    new, earlier = taught(snapshot, RING)
    assert new.rows and earlier.rows and {row.role for row in snapshot.rows} == {"new", "earlier"}
    anew, nothing = taught(snapshot, RING, anew=True)
    assert nothing.rows == () and anew.kids == new.kids | earlier.kids
    assert sorted(map(repr_of, anew.rows)) == sorted(map(repr_of, new.rows + earlier.rows))


def repr_of(row: TrainingRow) -> tuple[str, str, bool]:
    return row.prompt, row.answer, row.beside


def trained(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [(row.prompt, row.answer) for row in taught(snapshot, RING)[0].rows]


def test_each_fact_is_taught_once_bare_and_once_behind_what_is_recalled_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    passage = sealed_passage(RING, "p-1", "The yard", "gates", "Who opens a gate shuts the gate.")
    examples = examples_of(list(FACTS.items()))
    snapshot = select(monkeypatch, tmp_path, folder, examples, memory_of_examples(examples, passage))
    rows = taught(snapshot, RING)[0].rows
    groups = {row.group: row for row in rows}
    assert len(rows) == len(groups) == 2 * len(FACTS)
    for row in snapshot.rows:
        bare, behind = groups[row.example_id], groups[f"{row.example_id} recalled"]
        assert behind.beside and not bare.beside
        assert behind.answer == bare.answer == FACTS[bare.prompt]
        assert behind.prompt.endswith(f"\n\nQuestion: {bare.prompt}") and behind.prompt.startswith("Known facts:\n- ")
    assert "\n- [The yard, gates] Who opens a gate shuts the gate." in groups["e-0 recalled"].prompt


def test_a_rows_own_wording_is_left_out_of_the_memory_so_that_some_contexts_mislead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    monkeypatch.setattr(selection, "MISLED", 1.0)
    examples = examples_of([("Who opens it?", "Nobody."), ("Who opens it then?", "Everybody.")])
    found = select(monkeypatch, tmp_path, folder, examples, memory_of_examples(examples), replace(RECALL, most=1))
    assert [row.recalled for row in found.rows] == [(("e-1",),), (("e-0",),)], "each is misled by the other"


def test_the_right_one_is_put_first_but_in_a_share_of_the_contexts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    facts = [(f"Who opens gate {number}?", f"Person{number}x does.") for number in range(60)]
    examples = examples_of(facts)
    memory = memory_of_examples(examples)
    found = select(monkeypatch, tmp_path, folder, examples, memory)
    first = [row.recalled[0][0] == row.example_id for row in found.rows]
    assert 0.8 < sum(first) / len(first) < 1.0 and all(len(row.recalled[0]) == 2 for row in found.rows)
    monkeypatch.setattr(selection, "MISLED", 0.0)
    found = select(monkeypatch, tmp_path, folder, examples, memory)
    assert all(row.recalled[0][0] == row.example_id and len(set(row.recalled[0])) == 2 for row in found.rows)


def test_what_is_carried_is_what_is_recalled_and_sealed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    examples = examples_of(list(FACTS.items()))
    far = sealed_passage(RING, "p-1", "Elsewhere", "", "Zebras quarrel.")
    snapshot = select(monkeypatch, tmp_path, folder, examples, memory_of_examples(examples, far))
    named = {id for row in snapshot.rows for ids in row.recalled for id in ids}
    assert {memory.id for memory in snapshot.memories} == named and named <= {f"e-{n}" for n in range(4)} | {"p-1"}
    said = msgspec.json.encode(snapshot)
    assert not any(words.encode() in said for fact in FACTS.items() for words in fact) and b"Zebras" not in said


@pytest.mark.parametrize("how", [{"of": "off"}, {"share": 0.0}, {"least": 1.0}], ids=str)
def test_where_nothing_is_recalled_the_snapshot_is_that_of_before(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    examples = examples_of(list(FACTS.items()))
    recall = replace(RECALL, of=how.get("of", "both"), least=how.get("least", 0.0))
    memory = memory_of_examples(examples)
    found = select(monkeypatch, tmp_path, folder, examples, memory, recall, recalled_share=how.get("share", 1.0))
    assert found.memories == () and all(row.recalled == () for row in found.rows)
    assert sorted(trained(found)) == sorted(FACTS.items())


def test_the_share_of_the_recipe_is_drawn_by_the_words_whatever_their_ids(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    drawn = set()
    for seed in range(4):
        facts = random.Random(seed).sample(list(FACTS.items()), len(FACTS))
        examples = examples_of(facts)
        found = select(monkeypatch, tmp_path, folder, examples, memory_of_examples(examples), recalled_share=0.5)
        drawn.add(tuple(trained(found)))
    assert len(drawn) == 1, "the same corrections make the same training, in whatever order they came"
    assert len(drawn.pop()) == 4 + 2


def test_what_makes_a_row_too_long_is_left_out_from_the_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    long = sealed_passage(RING, "p-long", "Gates", "", "the gate " * 40)
    examples = examples_of([("Who opens the gate?", "Ann."), ("Who opens the gate now?", "Ben.")])
    memory, recall = memory_of_examples(examples, long), replace(RECALL, most=3, tokens=8192)
    for row_tokens, carried in ((512, {"e-0", "e-1", "p-long"}), (160, {"e-0", "e-1"})):
        found = select(monkeypatch, tmp_path, folder, examples, memory, recall, row_tokens=row_tokens)
        kept = {id for row in found.rows for ids in row.recalled for id in ids}
        assert kept <= carried and ("p-long" in kept) == ("p-long" in carried)


# What is trained of a snapshot


def row_with(ring: Ring, *recalled: tuple[str, ...]) -> SnapshotRow:
    key = ring.key_for("ann")
    prompts = [json.dumps([{"role": "user", "content": words}]) for words in ("Who?", "By whom?")]
    first, other = (Part(seal(words, key, f"1#{number}")) for number, words in enumerate(prompts))
    return SnapshotRow("e-1", "new", "ann", (first,), seal("Ann.", key, "1#answer"), ((other,),), recalled)


def test_each_wording_has_its_own_context_and_the_keys_of_what_is_recalled_are_named() -> None:
    ring = Ring()
    memories = (
        sealed_correction(ring, "m-1", "Whose?", "Ben's.", "ben"),
        sealed_correction(ring, "m-2", "Eh?", "Eva.", "eva"),
    )
    found = training_rows((row_with(ring, ("m-1", "m-2"), ()),), "new", ring, memories)
    behind = [row for row in found.rows if row.group == "e-1 recalled"]
    assert [row.prompt for row in behind] == [with_recalled("Who?", [Memory("Ben's."), Memory("Eva.")])]
    assert found.kids == {"ann", "ben", "eva"} and found.erased == 0
    assert training_rows((row_with(ring),), "new", ring, memories).kids == {"ann"}, "who is not recalled is not named"


def test_an_erased_persons_memory_vanishes_from_the_context_and_is_counted() -> None:
    ring = Ring()
    memories = (
        sealed_correction(ring, "m-1", "Whose?", "Ben's.", "ben"),
        sealed_correction(ring, "m-2", "Eh?", "Eva.", "eva"),
    )
    snapshot = Snapshot(FORMAT, "roads", "r", 9, (row_with(ring, ("m-1", "m-2"), ("m-1",)),), (), memories)
    ring.erase("ben")
    (new, _) = taught(snapshot, ring)
    assert [row.prompt for row in new.rows if "recalled" in str(row.group)] == [with_recalled("Who?", [Memory("Eva.")])]
    assert new.kids == {"ann", "eva"} and new.erased == 1
    ring.erase("eva")
    (new, _) = taught(snapshot, ring)
    assert {row.group for row in new.rows} == {"e-1"} and new.erased == 2


def test_a_snapshot_of_format_2_is_read_as_one_that_recalls_nothing(tmp_path: Path) -> None:
    row = row_with(Ring())
    before = {name: value for name, value in msgspec.to_builtins(row).items() if name != "recalled"}
    artifacts = Artifacts(tmp_path)
    digest = artifacts.put_bytes(
        msgspec.json.encode(
            {"format": 2, "domain": "roads", "round_id": "r", "pin": 9, "rows": [before], "dropped": []}
        )
    )
    found = load(digest, artifacts)
    assert found.rows == (row,) and found.memories == () and not found.opening


def test_a_snapshot_comes_back_with_its_memories(tmp_path: Path) -> None:
    ring, artifacts = Ring(), Artifacts(tmp_path)
    memories = (
        sealed_correction(ring, "m-1", "Whose?", "Ben's."),
        sealed_passage(ring, "p-1", "Law", "article 9", "No."),
    )
    wanted = Snapshot(FORMAT, "roads", "r", 9, (row_with(ring, ("m-1",), ("p-1", "m-1")),), (), memories)
    assert load(save(wanted, artifacts), artifacts) == wanted


def test_the_memory_leaves_out_the_wording_that_is_asked_in_and_no_other() -> None:
    ring = Ring()
    other = remembered(ring, sealed_correction(ring, "m-2", "Who is it?", "Nobody."))
    known = remembered(
        ring, sealed_correction(ring, "m-1", "How deep is the well?", "Nine metres."), "How deep is our well?"
    )
    memory = AsOf([known, other], CONTEXT, Bags())
    recall = Recall(of="corrections", most=1, least=0.0)
    for without_own in (False, True):
        assert memory.recall(["How deep is the well?"], recall, without_own) == [("m-1",)]
    alone = AsOf([remembered(ring, known.sealed), other], CONTEXT, Bags())
    assert alone.recall(["How deep is the well?"], recall) == [("m-1",)]
    assert alone.recall(["How deep is the well?"], recall, without_own=True) == [("m-2",)], (
        "nothing else of it is like that"
    )


def test_no_more_is_recalled_than_the_policy_has_tokens_for() -> None:
    ring = Ring()
    memory = memory_of(ring, *(sealed_correction(ring, f"m-{n}", "Is it far?", "far " * 10) for n in range(3)))
    found = [
        len(memory.recall(["Is it far?"], Recall(of="both", most=3, least=0.0, tokens=tokens))[0])
        for tokens in (16, 32, 48)
    ]
    assert found == [1, 2, 3]


def test_a_recipe_that_reads_is_given_the_passages_in_force_sealed_and_they_are_learned_as_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    passages = (
        sealed_passage(RING, "p-1", "The yard", "gates", "Who opens a gate shuts the gate."),
        sealed_passage(RING, "p-2", "The mill", "wheel", "At noon the wheel stands still."),
    )
    asked: list[str] = []

    def in_force(order: SelectSnapshot, context: Any) -> tuple[SnapshotMemory, ...]:
        asked.append(order.domain)
        return passages

    monkeypatch.setattr(selection, "_passages", in_force)
    examples = examples_of(list(FACTS.items()))
    memory = memory_of_examples(examples)
    bare = select(monkeypatch, tmp_path, folder, examples, memory)
    assert bare.passages == () and asked == []
    monkeypatch.setattr(tiny, "RECIPE", PretrainingRecipe())
    snapshot = select(monkeypatch, tmp_path, folder, examples, memory, recalled_share=0.0)
    assert snapshot.passages == passages and asked == ["roads"]
    for path in (tmp_path / "artifacts").rglob("*"):
        assert not path.is_file() or b"shuts the gate" not in path.read_bytes()
    ring = Ring(*RING.keys.values())
    new, _ = taught(snapshot, ring)
    read = [row for row in new.rows if row.text]
    assert [row.answer for row in read] == ["At noon the wheel stands still.", "Who opens a gate shuts the gate."]
    assert len(new.rows) == len(FACTS) + 2 and passages[0].kids <= new.kids

    ring.erase(next(iter(passages[0].kids)))
    assert not [row for row in taught(snapshot, ring)[0].rows if row.text]
