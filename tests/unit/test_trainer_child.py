"""The training child: its lines, its errors, its end."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from streams.errors import Invalid, Unavailable
from tests.unit import trainer_tiny as tiny
from workers.trainer.child import place_of
from workers.trainer.parent import train_in_child
from workers.trainer.spec import Progress, Row, TrainSpec

WAIT_S = 240.0  # a child imports torch at low priority: on a busy machine that takes its time


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


def trainers() -> list[psutil.Process]:
    """The training children of this process, which may have other children too."""
    return [child for child in psutil.Process().children() if "workers.trainer.child" in child.cmdline()]


def spec_for(base: Path, work: Path, epochs: int = 2) -> TrainSpec:
    return TrainSpec(
        model_dir=str(base),
        rows=tuple(tiny.rows()),
        replay_prompts=tuple(tiny.GENERAL),
        earlier=tuple(tiny.rows(8, 10)),
        recipe=msgspec.structs.replace(tiny.RECIPE, epochs=epochs),
        out_dir=str(work / "out"),
        checkpoint_dir=str(work / "checkpoint"),
        precision="float32",
        checkpoint_every_s=0.0,
    )


def test_a_child_trains_at_low_priority_and_says_how_far_it_is(base: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    niceness: set[int] = set()

    def listen(progress: Progress) -> None:
        told.append(progress)
        niceness.update(child.nice() for child in trainers())

    result = train_in_child(spec_for(base, tmp_path), listen)
    assert result.steps == 4
    assert Path(result.model_dir, "model.safetensors").exists()
    assert [p.step for p in told if p.stage == "training"] == [1, 2, 3, 4]
    assert max(niceness) == min(19, psutil.Process().nice() + 10)


def test_an_error_of_the_listener_ends_the_child_and_the_next_one_goes_on_from_there(
    base: Path, tmp_path: Path
) -> None:
    children: list[psutil.Process] = []

    def lose(progress: Progress) -> None:
        if progress.step >= 5:
            children.extend(trainers())
            raise Unavailable("the lease is lost")

    with pytest.raises(Unavailable, match="lease"):
        train_in_child(spec_for(base, tmp_path, epochs=10), lose)
    assert children and not any(child.is_running() for child in children)
    assert train_in_child(spec_for(base, tmp_path, epochs=10), lambda progress: None).resumed_at_step >= 4


def test_the_child_ends_with_its_parent(base: Path, tmp_path: Path) -> None:
    program = (
        "import sys, msgspec\n"
        "from workers.trainer.parent import train_in_child\n"
        "from workers.trainer.spec import TrainSpec\n"
        "spec = msgspec.json.decode(sys.stdin.buffer.read(), type=TrainSpec)\n"
        "train_in_child(spec, lambda progress: print(progress.step, flush=True))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None and parent.stdout is not None
    with parent.stdin as pipe:
        pipe.write(msgspec.json.encode(spec_for(base, tmp_path, epochs=10_000)))
    parent.stdout.readline()
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs([child], timeout=WAIT_S)
    assert gone == [child]
    parent.stdout.close()


def run_child(stdin: bytes) -> tuple[int, list[dict[str, object]], bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "workers.trainer.child"], input=stdin, capture_output=True, timeout=WAIT_S
    )
    return (done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr)


def test_what_cannot_be_trained_is_told_in_one_line_without_a_word_of_the_rows(base: Path, tmp_path: Path) -> None:
    secret = "the canary sang at noon"
    spec = msgspec.structs.replace(spec_for(base, tmp_path), rows=(Row(prompt=secret * 200, answer=secret),))
    with pytest.raises(Invalid, match="none of the 1 rows"):
        train_in_child(spec, lambda progress: None)
    code, lines, errors = run_child(msgspec.json.encode(spec))
    assert code == 1
    assert lines[-1]["kind"] == "failure" and lines[-1]["reason"] == "invalid"
    assert secret not in json.dumps(lines) and secret.encode() not in errors


def test_a_spec_that_cannot_be_read_is_not_quoted(tmp_path: Path) -> None:
    code, lines, errors = run_child(b'{"rows": ["the canary sang"]}')
    assert code == 1
    assert lines == [{"kind": "failure", "reason": "invalid", "message": "the spec cannot be read (ValidationError)"}]
    assert b"canary" not in errors


def test_an_error_is_told_by_its_kind_and_place_and_not_by_its_text() -> None:
    try:
        raise ValueError("the canary sang")
    except ValueError as error:
        assert place_of(error).startswith("ValueError in test_trainer_child.py:")
        assert "canary" not in place_of(error)


def test_a_child_that_is_killed_is_a_matter_of_the_machine(base: Path, tmp_path: Path) -> None:
    def kill(progress: Progress) -> None:
        for child in trainers():
            child.send_signal(signal.SIGKILL)

    with pytest.raises(Unavailable, match="code -9"):
        train_in_child(spec_for(base, tmp_path), kill)
