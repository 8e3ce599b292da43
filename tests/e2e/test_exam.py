"""The exam itself: OpenCompass, in its own environment, asks a real engine and says what is right."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import psutil
import pytest

from streams.artifacts import Artifacts
from streams.errors import Unavailable
from tests import ward
from tests.local_noria import give_models, opencompass_folder
from workers.engines import make_engine
from workers.engines.protocol import Engine, EngineSpec
from workers.evaluator.install import install
from workers.evaluator.memory import MEMORY
from workers.evaluator.opencompass import AT_ONCE, Endpoint, Exam, Examiner, ExamItem

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
]  # the first one may make the base model and install OpenCompass
EASY = "What is the capital of France?"


@pytest.fixture(scope="module")
def environment() -> Path:
    """OpenCompass, installed if no other test has."""
    folder = opencompass_folder()
    install(folder, print)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("exam")
    return Artifacts(home / "artifacts").path(give_models(home)[ward.MODEL])


@pytest.fixture(scope="module")
def engines(base: Path) -> Iterator[list[Engine]]:
    spec = EngineSpec(kind="llamacpp", model_dir=base, model_name="exam", slots=AT_ONCE)
    with ExitStack() as stop:
        engines = [make_engine(spec, "the engines' key") for _ in range(2)]
        for engine in engines:
            engine.start()
            stop.callback(engine.stop)
        for engine in engines:
            engine.ready(60)
        yield engines


@pytest.fixture
def endpoint(engines: list[Engine]) -> Endpoint:
    return Endpoint(tuple(engine.base_url for engine in engines), engines[0].key, "exam")


def processor_s(engine: Engine) -> float:
    return psutil.Process(engine.pid).cpu_times().user


def item(id: str, question: str, *keys: str) -> ExamItem:
    return ExamItem(id=id, set="general", question=question, answer=keys[0], keys=keys)


def left_over() -> set[Path]:
    """The exam folders that this process holds. (Others hold some too: a demo may be running.)"""
    held = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()}
    return {Path(name) for name in held if name.startswith(f"{MEMORY}/") and "noria-exam-" in name}


def files_of(folders: set[Path]) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def room_before() -> set[Path]:
    return left_over()


@pytest.fixture(scope="module")
def examiner(environment: Path, room_before: set[Path]) -> Iterator[Examiner]:
    """One, asked again and again: it takes a quarter of a minute to start."""
    examiner = Examiner(environment)
    yield examiner
    examiner.close()


def test_each_models_answers_are_scored_by_its_own_questions_and_nothing_of_them_is_left(
    engines: list[Engine], endpoint: Endpoint, base: Path, examiner: Examiner, room_before: set[Path]
) -> None:
    worked = [processor_s(engine) for engine in engines]
    first = [item("a", EASY, "Paris"), item("b", EASY, "Bogota"), item("c", "Say yes. " * 1500, "yes")]
    first.append(ExamItem(id="a", set="held_out", question=EASY, answer="Rome", keys=("Rome",)))
    second = [item("a", EASY, "Oslo"), item("d", "What is the capital of Italy?", "rome", "Urbs")]
    told: list[tuple[int, int]] = []
    assert examiner.waits()
    exams = [Exam(endpoint, base, items) for items in (first, second)]
    rows = examiner.evaluate(exams, 200, lambda done, total: told.append((done, total)))
    assert [[(row.set, row.id, row.right) for row in exam] for exam in rows] == [
        [("general", "a", True), ("general", "b", False), ("general", "c", False), ("held_out", "a", False)],
        [("general", "a", False), ("general", "d", True)],
    ]
    assert all(processor_s(engine) > since for engine, since in zip(engines, worked, strict=True))
    assert "Paris" in rows[0][0].prediction
    cost = rows[0][0].cost
    assert cost is not None and cost.prompt_tokens > 5 and 0 < cost.completion_tokens <= 32 and 0 < cost.seconds < 200
    assert rows[0][2].cost is None, "what was refused cost nothing"
    assert rows[0][2].prediction == ""  # longer than the engine's context: refused, and the others were asked
    assert told == sorted(told)
    assert told[-1] == (6, 6)
    assert not [path for path in files_of(left_over() - room_before) if b"France" in path.read_bytes()]


def test_asked_again_it_knows_nothing_of_what_it_asked_before(
    endpoint: Endpoint, base: Path, examiner: Examiner
) -> None:
    assert examiner.waits()
    exam = Exam(endpoint, base, [item("a", EASY, "Oslo")])
    (again,) = examiner.evaluate([exam], 200, lambda done, total: None)
    assert [(row.id, row.right) for row in again] == [("a", False)]


class CalledOff(Exception):
    pass


def call_off(done: int, total: int) -> None:
    raise CalledOff


def call_off_when_begun(done: int, total: int) -> None:
    if done:
        raise CalledOff


def test_an_exam_that_is_called_off_is_forgotten_and_another_is_asked(
    endpoint: Endpoint, base: Path, examiner: Examiner, room_before: set[Path]
) -> None:
    many = [item(str(number), f"Is {number} about France?", "yes") for number in range(60)]
    with pytest.raises(CalledOff):
        examiner.evaluate([Exam(endpoint, base, many)], 200, call_off_when_begun)
    assert examiner.waits()
    assert not [path for path in files_of(left_over() - room_before) if b"France" in path.read_bytes()]
    ((row,),) = examiner.evaluate([Exam(endpoint, base, [item("a", EASY, "Paris")])], 200, lambda done, total: None)
    assert row.right


def test_an_engine_that_refuses_is_no_answer_ends_the_examiner_and_its_words_are_not_told(
    endpoint: Endpoint, base: Path, examiner: Examiner, room_before: set[Path]
) -> None:
    exam = Exam(msgspec.structs.replace(endpoint, key="another key"), base, [item("a", EASY, "Paris")])
    with pytest.raises(Unavailable) as raised:
        examiner.evaluate([exam], 200, lambda done, total: None)
    assert "France" not in str(raised.value) and "another key" not in str(raised.value)
    assert not examiner.waits()
    assert left_over() == room_before


def test_an_examiner_that_was_never_asked_leaves_nothing(environment: Path) -> None:
    before = left_over()
    examiner = Examiner(environment)
    assert left_over() > before
    examiner.close()
    examiner.close()
    assert not examiner.waits()
    assert left_over() == before


def test_an_examiner_whose_exam_is_called_off_before_it_began_is_ended(
    endpoint: Endpoint, base: Path, environment: Path
) -> None:
    examiner = Examiner(environment)
    exam = Exam(endpoint, base, [item("a", EASY, "Paris")])
    with pytest.raises(CalledOff):
        examiner.evaluate([exam], 200, call_off)
    assert not examiner.waits()
