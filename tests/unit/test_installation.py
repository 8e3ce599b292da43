"""What a round needs and is not there yet: made by one process, waited for by the others, with its reason."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from api.cli.rounds import progress_words
from api.ui.words import LANGUAGES, waits_words
from streams.facts.orders import WaitsFor
from streams.recipes import LoraRecipe
from tests.local_noria import until
from workers.alone import alone, is_held
from workers.evaluator import installation
from workers.evaluator.install import LOCK
from workers.evaluator.installation import Installation
from workers.trainer.general import kept_place, lock_of
from workers.trainer.spec import TrainSpec
from workers.trainer.step import missing_answers


def install(folder: Path) -> None:
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    for name in ("bin/python", "noria-requirements.sha256"):
        (folder / name).touch()


@pytest.fixture
def wait(tmp_path: Path) -> Iterator[Callable[[], WaitsFor | None]]:
    made = Installation(tmp_path)
    yield made.missing
    made.close()


def test_a_lock_is_held_by_one_and_seen_by_all(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "lock"
    assert not is_held(lock)
    with alone(lock):
        assert is_held(lock) and is_held(lock)
    assert not is_held(lock)


def test_what_another_process_installs_is_waited_for(
    tmp_path: Path, wait: Callable[[], WaitsFor | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.subprocess, "Popen", pytest.fail)
    with alone(tmp_path / LOCK):
        assert [wait(), wait()] == ["opencompass", "opencompass"]
        install(tmp_path)
    assert wait() is None


def test_what_nobody_installs_is_installed_here_and_a_failure_is_told_until_it_is_there(
    tmp_path: Path, wait: Callable[[], WaitsFor | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "RETRY_S", 0.0)
    (tmp_path / "somebody's").touch()  # so that it is refused
    assert wait() == "opencompass"
    until(lambda: wait() == "opencompass_failed", "the installation has failed")
    assert wait() == "opencompass_failed", "also while it is tried again"
    install(tmp_path)
    assert wait() is None


def test_a_training_waits_for_general_answers_only_while_another_process_computes_them(tmp_path: Path) -> None:
    spec = TrainSpec(
        model_dir="model",
        rows=(),
        replay_prompts=("What is a river?",),
        earlier=(),
        recipe=LoraRecipe(),
        out_dir="out",
        checkpoint_dir="checkpoint",
        reference_dir="models/base",
        answers_dir=str(tmp_path),
        precision="float32",
    )
    place = kept_place(tmp_path, "base", spec.replay_prompts, spec.recipe, "float32")
    assert missing_answers(spec) is None, "nobody is at it: the training computes them"
    with alone(lock_of(place)):
        assert missing_answers(spec) == "general_answers"
        other = msgspec.structs.replace(spec, replay_prompts=("What is a mill?",))
        assert missing_answers(other) is None
        place.touch()
        assert missing_answers(spec) is None


def test_whatever_a_step_waits_for_is_said_in_each_language() -> None:
    words = {waits_words(lang, waits_for) for lang in LANGUAGES for waits_for in get_args(WaitsFor)}
    assert len(words) == len(LANGUAGES) * len(get_args(WaitsFor))
    waits = {"step": "evaluate", "done": 0, "total": 0, "values": {}, "seconds_left": None, "waits_for": "opencompass"}
    assert progress_words(waits) == "(waits: OpenCompass is being installed)"
