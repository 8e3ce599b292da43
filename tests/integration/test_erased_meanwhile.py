"""Somebody is erased while a worker has their words in clear: it begins anew without them, and nothing of theirs is left."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save_file
from sqlalchemy import Engine

from streams.cluster import Cluster
from streams.codec import decode
from streams.errors import Invalid, Unavailable
from streams.events import DomainEvent
from streams.facts.orders import OrderFailed
from streams.facts.rounds import CandidateEvaluated, CandidateTrained
from streams.history import Part, Whole
from streams.log import MemoryLog
from streams.orders import EvaluateCandidate, TrainCandidate
from streams.recipes import LoraRecipe, PpoRecipe
from streams.sealing import Keyring, seal
from streams.snapshots import FORMAT, Snapshot, SnapshotRow, save
from streams.style import StyleRule
from tests.at_rest import files_holding
from tests.door_world import make_settings
from tests.integration.by_hand import ByHand, change, empty, rows
from workers import register
from workers.context import Cancelled, Context
from workers.evaluator import step as evaluation
from workers.evaluator.installation import Installation
from workers.evaluator.memory import memory_folder
from workers.evaluator.opencompass import Exam, ExamRow
from workers.evaluator.step import Evaluation
from workers.models.golden import GOLDEN_FILE
from workers.register import EXAM_ROOM, TRAINING_FOLDER, purge, sweep
from workers.trainer import step as training
from workers.trainer.checkpoint import Checkpoint, save_checkpoint
from workers.trainer.lora import Adapter, save_adapter
from workers.trainer.merge import write_merged
from workers.trainer.spec import Outcome, Progress, TrainSpec

CANARY = "the canary of ann sang at noon"
STEP = Progress(
    stage="training", step=1, steps=9, epoch=1, loss=1.0, replay_divergence=None, tokens_per_s=1.0, seconds_left=1.0
)


@pytest.fixture
def context(database: Engine, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    empty(database)
    monkeypatch.setattr(register, "LOOK_EVERY_S", 0.0)
    context = Context(
        make_settings(tmp_path, Cluster(servers="unused"), "unused"), database, MemoryLog(), keyring, "worker-1"
    )
    yield context
    context.trainer = context.examiner = None


def fact(context: Context, person: str, question: str, answer: str, *wordings: tuple[str, str]) -> SnapshotRow:
    """`wordings`: by whom, and how they asked it."""

    def asked(who: str, words: str) -> Whole:
        key = context.keyring.key_for(f"person:{who}")
        return (Part(seal(json.dumps([{"role": "user", "content": words}]), key, f"{uuid4()}#messages")),)

    return SnapshotRow(
        example_id=f"e-{question}",
        role="new",
        person=person,
        prompt=asked(person, question),
        answer=seal(answer, context.keyring.key_for(f"person:{person}"), f"{uuid4()}#answer"),
        wordings=tuple(asked(who, words) for who, words in wordings),
    )


def snapshot(context: Context) -> str:
    """Ann and Bob have corrected; Ann has asked Bob's question in her own words, too."""
    found = (
        fact(context, "ann", "What sang?", CANARY),
        fact(context, "bob", "What swims?", "A fish.", ("ann", f"What is it that swims, while {CANARY}?")),
    )
    return save(Snapshot(FORMAT, "roads", "round-1", 9, found, ()), context.artifacts)


def erase(context: Context, person: str) -> tuple[str, ...]:
    """As the door does, in a process of its own."""
    return Keyring(context.database, context.keyring._master).destroy(f"person:{person}")


def said(context: Context) -> list[DomainEvent]:
    world = ByHand(context.database, context.log)
    return [decode(record.value).event for record in world.records()]  # type: ignore[misc]


def places(context: Context) -> list[tuple[object, ...]]:
    return rows(context.database, "SELECT kind, owner FROM work.places ORDER BY kind")


class Child:
    """Stands in for the training child: writes what it is given, as a checkpoint that holds it would; `meanwhile` happens then."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.meanwhile = meanwhile
        self.given: list[TrainSpec] = []

    def __call__(self) -> "Child":
        return self

    def waits(self) -> bool:
        return True

    def train(self, spec: TrainSpec, progress: Callable[[Progress], None]) -> Outcome:
        self.given.append(spec)
        checkpoint = Path(spec.checkpoint_dir)
        checkpoint.mkdir(parents=True, exist_ok=True)
        words = " ".join(f"{row.prompt} {row.answer}" for row in spec.rows)
        (checkpoint / "training.safetensors").write_text(words)
        self.meanwhile()
        try:  # a child that has not been told goes on
            save_checkpoint(checkpoint, Checkpoint(words, 1, (1.0,), (), 1, {}))
        except OSError as error:
            raise Unavailable(type(error).__name__) from None
        progress(STEP)
        for name in ("model", "adapter"):
            (Path(spec.out_dir) / name).mkdir(parents=True)
            (Path(spec.out_dir) / name / GOLDEN_FILE).write_text("{}")
        return Outcome(
            steps=9,
            epoch_losses=(1.0,),
            final_loss=1.0,
            final_replay_divergence=None,
            tokens=9,
            rows=len(spec.rows),
            rows_left_out=0,
            seconds=1.0,
            cpu_seconds=1.0,
            resumed_at_step=0,
            precision="float32",
            model_dir=str(Path(spec.out_dir) / "model"),
            adapter_dir=str(Path(spec.out_dir) / "adapter"),
            export_difference=0.0,
        )


def order_to_train(context: Context) -> TrainCandidate:
    base = context.artifacts.put_bytes(b"a model")
    return TrainCandidate(
        order_id=uuid4(),
        domain="roads",
        round_id="round-1",
        snapshot=snapshot(context),
        base_model=base,
        reference_model=base,
        recipe=LoraRecipe(),
        replay_prompts=("Name a colour.",),
    )


def asked(spec: TrainSpec) -> set[str]:
    return {row.prompt for row in spec.rows}


def test_erased_in_the_middle_of_a_training_it_begins_anew_without_their_words(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased: list[str] = []

    def meanwhile() -> None:
        if not erased:
            erased.extend(erase(context, "ann"))
            purge(context.database, context.settings.host, erased)

    child = Child(meanwhile)
    monkeypatch.setattr(training, "Trainer", child)
    training.run(order_to_train(context), context)
    assert len(child.given) == 2
    assert len(asked(child.given[0])) == 3 and asked(child.given[1]) == {"What swims?"}
    assert [type(event) for event in said(context)[-1:]] == [CandidateTrained]
    assert not any(isinstance(event, OrderFailed) for event in said(context))
    assert places(context) == []
    assert files_holding(context.settings.home, [CANARY]) == set()


def test_erased_between_the_snapshot_and_the_training_they_are_not_in_it(context: Context) -> None:
    order = order_to_train(context)
    (kid,) = erase(context, "ann")  # their key is remembered here for a second yet
    kids: list[object] = []
    child = Child(lambda: kids.extend(rows(context.database, "SELECT kids FROM work.places")))
    context.trainer = child  # type: ignore[assignment]
    training.run(order, context)
    assert [asked(spec) for spec in child.given] == [{"What swims?"}]
    ((registered,),) = kids  # type: ignore[misc]
    assert kid not in registered


def test_what_learned_from_whoever_was_erased_since_judges_nothing_that_is_drawn(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = "INSERT INTO noria.rounds (round_id, domain, number, step, reasons, opening, pin, base_model, base_release,"
    began += (
        " requested_at, said_by, reward_round) VALUES (:id, 'roads', :number, 'train', '[]', false, 1, 'm', 0, now(),"
    )
    began += " CAST(:said_by AS jsonb), :judge)"
    for who in ("cleo", "dora"):
        context.keyring.key_for(f"person:{who}")
    erase(context, "dora")
    context.keyring.key_for("person:dora")  # she came back, and what she said since is learned from
    change(context.database, began, id="round-0", number=0, said_by='{"cleo": 2, "dora": 1}', judge=None)
    change(context.database, began, id="round-1", number=1, said_by='{"bob": 1}', judge="round-0")
    judged = replace(
        order_to_train(context), recipe=PpoRecipe(), reward_model=context.artifacts.put_bytes(b"a reward model")
    )
    child = Child(lambda: erase(context, "cleo"))
    monkeypatch.setattr(training, "Trainer", child)
    refused = pytest.raises(Invalid, match="reward model learned from somebody who was erased since: a round of the")
    with refused:
        training.run(judged, context)
    assert len(child.given) == 1 and said(context) == [], "it was given up in the middle, and not begun anew"
    assert list((context.settings.home / "training").iterdir()) == []
    with refused:
        training.run(replace(judged, order_id=uuid4()), context)
    assert len(child.given) == 1
    by_rules = PpoRecipe(rules=(StyleRule(rule="no_opener"),))
    training.run(replace(judged, order_id=uuid4(), recipe=by_rules), context)  # asks no reward model
    assert len(child.given) == 2 and isinstance(said(context)[-1], CandidateTrained)


def test_the_keys_of_all_words_of_a_training_stand_in_the_register(context: Context) -> None:
    kids: list[object] = []
    child = Child(lambda: kids.extend(rows(context.database, "SELECT kids FROM work.places")))
    context.trainer = child  # type: ignore[assignment]
    only_bobs = save(
        Snapshot(
            FORMAT, "roads", "r", 9, (fact(context, "bob", "What swims?", "A fish.", ("eva", "Swims what?")),), ()
        ),
        context.artifacts,
    )
    training.run(replace(order_to_train(context), snapshot=only_bobs), context)
    ((registered,),) = kids  # type: ignore[misc]
    assert sorted(registered) == sorted(context.keyring.key_for(f"person:{who}").kid for who in ("bob", "eva"))


@pytest.mark.parametrize("end", [Invalid("no row can be trained"), Cancelled(), Unavailable("the disk is full")])
def test_a_training_that_failed_or_was_cancelled_leaves_no_folder_once_its_round_has_ended(
    context: Context, end: Exception
) -> None:
    def fail() -> None:
        raise end

    context.trainer = Child(fail)  # type: ignore[assignment]
    order = order_to_train(context)
    with pytest.raises(type(end)):
        training.run(order, context)
    folders = context.settings.home / "training"
    sweep(context.database, context.settings.host, folders)
    assert [folder.name for folder in folders.iterdir()] == [str(order.order_id)], "it may be tried again"
    change(
        context.database,
        "INSERT INTO noria.rounds (round_id, domain, number, step, reasons, opening, pin, base_model, base_release,"
        " requested_at, ended_at)"
        " VALUES ('round-1', 'roads', 1, 'failed', '[]', false, 1, 'm', 0, now(), now())",
    )
    sweep(context.database, context.settings.host, folders)
    assert places(context) == [] and list(folders.iterdir()) == []
    (folders / "of a worker that was killed").mkdir()
    sweep(context.database, context.settings.host, folders)
    assert list(folders.iterdir()) == []


def test_the_folder_of_what_is_made_again_stays_until_that_is_over(context: Context) -> None:
    order_id = str(uuid4())
    folder = context.settings.home / "training" / order_id
    register.register(context.database, context.settings.host, TRAINING_FOLDER, str(folder), "round-1", [])
    folder.mkdir(parents=True)
    change(
        context.database,
        "INSERT INTO noria.rounds (round_id, domain, number, step, reasons, opening, pin, base_model, base_release,"
        " requested_at, ended_at, rebuild) VALUES ('round-1', 'roads', 1, 'released', '[]', false, 1, 'm', 0, now(), now(),"
        " jsonb_build_object('order_id', CAST(:order_id AS text), 'outcome', 'under_way'))",
        order_id=order_id,
    )
    sweep(context.database, context.settings.host, folder.parent)
    assert folder.exists()
    change(context.database, "UPDATE noria.rounds SET rebuild = jsonb_set(rebuild, '{outcome}', '\"failed\"')")
    sweep(context.database, context.settings.host, folder.parent)
    assert not folder.exists() and places(context) == []


class Room:
    """Stands in for the examiner: writes the questions into its room; `meanwhile` happens while they are answered."""

    def __init__(self, folder: Path, meanwhile: Callable[[], object]) -> None:
        self.room = folder
        self.meanwhile = meanwhile
        self.asked: list[list[str]] = []

    def waits(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is held open."""

    def evaluate(
        self, exams: Sequence[Exam], deadline_s: float, tell: Callable[[int, int], None]
    ) -> list[list[ExamRow]]:
        self.asked.append([item.question for exam in exams for item in exam.items])
        questions = self.room / "questions.jsonl"
        questions.write_text("\n".join(f"{item.question} {item.answer}" for exam in exams for item in exam.items))
        try:
            self.meanwhile()
            tell(1, 2)
            return [[ExamRow(item.id, item.set, True, "a fish") for item in exam.items] for exam in exams]
        finally:
            questions.unlink()


class Answering:
    """Stands in for an engine."""

    base_url, start_deadline_s = "http://nowhere", 1.0

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def ready(self, deadline_s: float) -> None: ...


def order_to_examine(context: Context) -> EvaluateCandidate:
    base, candidate = (context.artifacts.put_bytes(name) for name in (b"base", b"candidate"))
    return EvaluateCandidate(
        order_id=uuid4(),
        domain="roads",
        round_id="round-1",
        snapshot=snapshot(context),
        base_model=base,
        candidate_model=candidate,
        pin=9,
        engine="llamacpp",
    )


def test_erased_in_the_middle_of_an_exam_it_begins_anew_without_their_words(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased: list[str] = []
    registered: list[tuple[object, ...]] = []

    def meanwhile() -> None:
        registered.extend(rows(context.database, "SELECT kind, kids FROM work.places"))
        if not erased:
            erased.extend(erase(context, "ann"))
            assert purge(context.database, context.settings.host, erased) == {EXAM_ROOM: 1}
            assert room.room.exists(), "who uses it empties it"

    monkeypatch.setattr(Installation, "missing", lambda self: None)  # none is needed, and to make one takes minutes
    monkeypatch.setattr(evaluation, "form_of", lambda engine, context: "form")
    monkeypatch.setattr(evaluation, "make_engine", lambda spec, key: Answering())
    monkeypatch.setattr(Context, "dismiss", lambda self: None)
    with memory_folder() as folder:
        room = Room(folder, meanwhile)
        context.examiner = room  # type: ignore[assignment]
        evaluation.run(order_to_examine(context), context)
        assert files_holding(folder, [CANARY]) == set()
    assert room.asked == [["What sang?", "What swims?"] * 2, ["What swims?"] * 2]
    (kind, kids), (_, kids_then) = registered
    assert kind == EXAM_ROOM and set(erased) <= set(kids) and not set(erased) & set(kids_then)  # type: ignore[call-overload]
    assert places(context) == []
    assert [type(event) for event in said(context)[-1:]] == [CandidateEvaluated]
    assert files_holding(context.settings.home, [CANARY]) == set()


def test_erased_when_the_exam_is_over_no_row_of_theirs_is_kept_under_a_key_made_anew(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = evaluation.keep
    erased: list[str] = []

    def keep(*given: Any) -> str:
        if not erased:
            erased.extend(erase(context, "ann"))
            context.keyring.forget()
        return real(*given)

    monkeypatch.setattr(Installation, "missing", lambda self: None)
    monkeypatch.setattr(evaluation, "form_of", lambda engine, context: "form")
    monkeypatch.setattr(evaluation, "make_engine", lambda spec, key: Answering())
    monkeypatch.setattr(evaluation, "keep", keep)
    monkeypatch.setattr(Context, "dismiss", lambda self: None)
    with memory_folder() as folder:
        room = Room(folder, lambda: None)
        context.examiner = room  # type: ignore[assignment]
        evaluation.run(order_to_examine(context), context)
    assert room.asked == [["What sang?", "What swims?"] * 2, ["What swims?"] * 2]
    query = "SELECT count(*), count(destroyed_at) FROM keyring.person_keys WHERE subject = 'person:ann'"
    assert rows(context.database, query) == [(1, 1)]
    (event,) = (event for event in said(context) if isinstance(event, CandidateEvaluated))
    kept = msgspec.json.decode(context.artifacts.path(event.rows).read_bytes(), type=Evaluation)
    assert [row.id for row in kept.rows] == ["e-What swims?"]


def test_a_room_whose_examiner_was_killed_goes_with_the_purge(context: Context, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    register.register(context.database, context.settings.host, EXAM_ROOM, str(room), "worker-1", ["k1"])
    register.register(
        context.database, context.settings.host, TRAINING_FOLDER, str(tmp_path / "other"), "round-2", ["k2"]
    )
    assert purge(context.database, context.settings.host, ["k1"]) == {EXAM_ROOM: 1}
    assert not room.exists() and places(context) == [(TRAINING_FOLDER, "round-2")]


def test_a_child_that_writes_on_after_its_folder_was_purged_makes_none_that_nobody_registered(
    context: Context,
) -> None:
    folder = context.settings.home / "training" / str(uuid4())
    register.register(context.database, context.settings.host, TRAINING_FOLDER, str(folder), "round-1", ["k1"])
    (folder / "checkpoint").mkdir(parents=True)
    assert purge(context.database, context.settings.host, ["k1"]) == {TRAINING_FOLDER: 1}
    with pytest.raises(FileNotFoundError):
        save_checkpoint(folder / "checkpoint", Checkpoint("run", 1, (1.0,), (), 1, {}))
    with pytest.raises(FileNotFoundError):
        save_adapter(Adapter({}, LoraRecipe()), folder / "out" / "adapter", "base")
    base = context.settings.home / "base"
    base.mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, base / "model.safetensors")
    with pytest.raises(FileNotFoundError):
        write_merged(base, {}, folder / "out" / "model")
    assert not folder.exists() and places(context) == []
