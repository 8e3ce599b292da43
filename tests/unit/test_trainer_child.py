"""The training child: its lines, its errors, its end."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from safetensors import safe_open

from streams.artifacts import digest_of_dir
from streams.errors import Invalid, Unavailable
from streams.recipes import Recipe, SftDpoRecipe, SftRewardPpoRecipe
from tests.forked import ForkedTrainer
from tests.local_noria import until
from tests.unit import trainer_tiny as tiny
from tests.waiting import PATIENCE_S
from workers.trainer.checkpoint import NAME as CHECKPOINT
from workers.trainer.child import carry_out, place_of
from workers.trainer.parent import Trainer
from workers.trainer.spec import Outcome, Progress, StageDone, TrainingRow, TrainSpec


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


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


def test_an_error_of_the_listener_ends_the_child_and_the_next_one_goes_on_from_there_at_low_priority(
    base: Path, tmp_path: Path
) -> None:
    def lose(progress: Progress) -> None:
        if progress.step >= 5:
            raise Unavailable("the lease is lost")

    trainer = ForkedTrainer()
    assert trainer.waits()
    with pytest.raises(Unavailable, match="lease"):
        trainer.train(spec_for(base, tmp_path, epochs=10), lose)
    assert not trainer.waits()

    told: list[Progress] = []
    niceness: set[int] = set()
    trainer = Trainer()

    def listen(progress: Progress) -> None:
        told.append(progress)
        niceness.add(psutil.Process(trainer.pid).nice())

    result = trainer.train(spec_for(base, tmp_path, epochs=10), listen)
    assert result.steps == 20
    assert result.resumed_at_step >= 4
    assert result.export_difference is None  # nobody asked to have it finished
    assert Path(result.model_dir, "model.safetensors").exists()
    assert [p.step for p in told if p.stage == "training"] == list(range(result.resumed_at_step + 1, 21))
    assert niceness == {min(19, psutil.Process().nice() + 10)}


def test_the_child_ends_with_its_parent() -> None:
    program = (
        "import time; from workers.trainer.parent import Trainer; print(Trainer().pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            until(lambda: child.nice() > psutil.Process().nice(), "the child has come to its first lines")
            child.suspend()  # now it cannot notice anything and end by itself
            parent.kill()
            gone, left = psutil.wait_procs([child], timeout=PATIENCE_S)
            for process in left:
                process.kill()
            assert gone == [child]
        finally:
            parent.kill()


def test_what_cannot_be_trained_is_told_in_one_line_without_a_word_of_the_rows(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "the canary sang at noon"
    spec = msgspec.structs.replace(spec_for(base, tmp_path), rows=(TrainingRow(prompt=secret * 200, answer=secret),))
    with pytest.raises(Invalid, match="none of the 1 rows") as raised:
        ForkedTrainer().train(spec, lambda progress: None)
    assert secret not in str(raised.value)
    assert secret not in "".join(capfd.readouterr())


def test_a_spec_that_cannot_be_read_is_not_quoted(capfd: pytest.CaptureFixture[str]) -> None:
    lines, out = os.pipe()
    assert carry_out(io.BytesIO(b'{"rows": ["the canary sang"]}'), out) == 1
    os.close(out)
    with open(lines) as told:
        assert [json.loads(line) for line in told] == [
            {"kind": "failure", "reason": "invalid", "message": "the spec cannot be read (ValidationError)"}
        ]
    assert "canary" not in "".join(capfd.readouterr())


def test_an_error_is_told_by_its_kind_and_place_and_not_by_its_text() -> None:
    try:
        raise ValueError("the canary sang")
    except ValueError as error:
        assert place_of(error).startswith("ValueError in test_trainer_child.py:")
        assert "canary" not in place_of(error)


SMALL: dict[str, Any] = {
    "rank": 4,
    "alpha": 8.0,
    "epochs": 3,
    "batch_rows": 4,
    "replay_rows_per_step": 2,
    "replay_answer_tokens": 4,
}
SFT_DPO = SftDpoRecipe(batch_pairs=4, dpo_epochs=3, **SMALL)
SFT_REWARD_PPO = SftRewardPpoRecipe(
    sft_epochs=3,
    reward_epochs=4,
    steps=5,
    prompts_per_step=8,
    batch_answers=8,
    answer_tokens=4,
    kl_limit=1000.0,
    **SMALL,
)


def test_a_training_that_is_killed_at_three_moments_ends_in_the_bytes_of_one_that_never_was(
    base: Path, tmp_path: Path
) -> None:
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    cut.mkdir()
    whole.mkdir()

    def kept_step() -> int:
        with safe_open(cut / "checkpoint" / CHECKPOINT, "pt") as file:
            return int(json.loads(file.metadata()["noria"])["step"])

    killed_at = list[int]()
    for moment in (2, 9, 17):
        trainer = ForkedTrainer()

        def kill(progress: Progress | StageDone, trainer: Trainer = trainer, moment: int = moment) -> None:
            if isinstance(progress, Progress) and progress.stage == "training" and kept_step() >= moment:
                os.kill(trainer.pid, signal.SIGKILL)

        with pytest.raises(Unavailable, match="code -9"):
            trainer.train(spec_for(base, cut, epochs=10), kill)
        killed_at.append(kept_step())
    assert killed_at == sorted(set(killed_at)) and killed_at[-1] < 20
    outcomes = [carried_out(spec_for(base, folder, epochs=10)) for folder in (cut, whole)]
    assert [outcome.resumed_at_step for outcome in outcomes] == [killed_at[-1], 0]
    for name in ("model", "adapter"):
        assert digest_of_dir(cut / "out" / name) == digest_of_dir(whole / "out" / name), name


def carried_out(spec: TrainSpec) -> Outcome:
    """In this process."""
    lines, out = os.pipe()
    assert carry_out(io.BytesIO(msgspec.json.encode(spec)), out) == 0
    os.close(out)
    with open(lines, "rb") as told:
        return msgspec.json.decode(told.readlines()[-1], type=Outcome)


@pytest.mark.parametrize(
    ("recipe", "stages"),
    [(SFT_DPO, ("sft", "dpo")), (SFT_REWARD_PPO, ("sft", "reward", "ppo"))],
    ids=["sft_dpo", "sft_reward_ppo"],
)
def test_a_staged_training_that_is_killed_in_each_of_its_stages_ends_in_the_same_bytes(
    base: Path, tmp_path: Path, recipe: Recipe, stages: tuple[str, ...]
) -> None:
    def staged(folder: str) -> TrainSpec:
        (tmp_path / folder).mkdir(exist_ok=True)
        return msgspec.structs.replace(spec_for(base, tmp_path / folder), recipe=recipe, pairs=tiny.pairs())

    def killed_in(stage: str) -> None:
        trainer = ForkedTrainer()

        def kill(told: Progress | StageDone) -> None:
            if isinstance(told, Progress) and (told.part, told.step) == (stage, 3):
                os.kill(trainer.pid, signal.SIGKILL)

        with pytest.raises(Unavailable, match="code -9"):
            trainer.train(staged("cut"), kill)

    for stage in stages:
        killed_in(stage)
    ends: list[StageDone] = []
    again = ForkedTrainer().train(
        staged("cut"), lambda told: ends.append(told) if isinstance(told, StageDone) else None
    )
    *done, last = ends
    assert tuple(one.stage for one in ends) == stages and last.outcome.resumed_at_step >= 2
    assert all(one.outcome.resumed_at_step == one.outcome.steps for one in done), "what was done is not done again"
    assert again.resumed_at_step == sum(one.outcome.resumed_at_step for one in ends)
    carried_out(staged("whole"))
    for stage in stages:
        for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
            cut, whole = (tmp_path / folder / "out" / stage / name for folder in ("cut", "whole"))
            assert cut.read_bytes() == whole.read_bytes(), (stage, name)


def test_a_child_that_was_never_needed_is_ended() -> None:
    unneeded = Trainer()
    child = psutil.Process(unneeded.pid)
    unneeded.close()
    unneeded.close()
    assert not child.is_running()
