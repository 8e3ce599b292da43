"""A recipe with stages: each is a training by itself, from the model that the one before it made, with its own checkpoint, and kept
by itself. One that is done is not done again; one that died is taken up where it was."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from streams.recipes import Recipe
from workers.trainer import METHODS
from workers.trainer.job import Job
from workers.trainer.spec import Outcome, StageDone

DONE = "outcome.json"


class Stage(Struct, frozen=True):
    """`change`: what of the recipe's job is otherwise in this stage, by the outcomes of those before it; its rows, its pairs.
    What it begins with is settled: the model of the newest before it that made one which answers, or the job's own. `answers`:
    whether what it makes does."""

    name: str
    recipe: Recipe
    change: Callable[[Job, Sequence[Outcome]], Job] = lambda job, before: job
    answers: bool = True


def run_stages(job: Job, stages: Sequence[Stage]) -> list[Outcome]:
    """What came of each, in order; of the job's `out_dir` each has a folder of its name. Each is told when it is done, and again
    where the training is taken up behind it."""
    for folder in (job.out_dir, job.checkpoint_dir):
        folder.mkdir(exist_ok=True, mode=0o700)  # what they lie in must be there: see `save_checkpoint`
    made: list[Outcome] = []
    model_dir = job.model_dir
    for number, stage in enumerate(stages, start=1):
        asked = replace(
            job,
            recipe=stage.recipe,
            model_dir=model_dir,
            reference_dir=job.reference_dir or job.model_dir,
            out_dir=job.out_dir / stage.name,
            checkpoint_dir=job.checkpoint_dir / stage.name,
            progress=_told_as(job, stage.name),
        )
        outcome = _done(asked.out_dir)
        if outcome is None:
            outcome = METHODS[type(stage.recipe)].load()(stage.change(asked, made))
            _note(asked.out_dir, outcome)
        else:  # its time was another process's
            outcome = replace(outcome, resumed_at_step=outcome.steps, seconds=0.0, cpu_seconds=0.0)
        made.append(outcome)
        method = stage.recipe.method
        job.stage_done(StageDone(stage=stage.name, number=number, stages=len(stages), method=method, outcome=outcome))
        model_dir = Path(outcome.model_dir) if stage.answers else model_dir
    return made


def joined(stages: Sequence[Stage], made: Sequence[Outcome]) -> Outcome:
    """The last one's, with what all of them took; the adapters of the others that answer lie beside its own, by their names, for
    they are in the weights as well. Metrics stand under the stage's name, and each has its loss there."""
    last = made[-1]
    for stage, outcome in zip(stages[:-1], made[:-1], strict=True):
        if stage.answers:
            shutil.copytree(outcome.adapter_dir, Path(last.adapter_dir) / stage.name, dirs_exist_ok=True)
    metrics = {
        f"{stage.name}_{name}": value
        for stage, outcome in zip(stages, made, strict=True)
        for name, value in (*outcome.metrics.items(), ("loss", outcome.final_loss))
    }
    planned = [outcome.metrics["planned_steps"] for outcome in made if "planned_steps" in outcome.metrics]
    return replace(
        last,
        steps=sum(outcome.steps for outcome in made),
        epoch_losses=tuple(loss for outcome in made for loss in outcome.epoch_losses),
        tokens=sum(outcome.tokens for outcome in made),
        rows=max(outcome.rows for outcome in made),
        rows_left_out=max(outcome.rows_left_out for outcome in made),
        seconds=sum(outcome.seconds for outcome in made),
        cpu_seconds=sum(outcome.cpu_seconds for outcome in made),
        resumed_at_step=sum(outcome.resumed_at_step for outcome in made),
        fallback=next((outcome.fallback for outcome in made if outcome.fallback is not None), None),
        metrics=metrics | ({"planned_steps": sum(planned)} if planned else {}),
    )


def _told_as(job: Job, stage: str) -> Callable[..., None]:
    return lambda seen: job.progress(replace(seen, part=stage))


def _done(folder: Path) -> Outcome | None:
    try:
        return msgspec.json.decode((folder / DONE).read_bytes(), type=Outcome)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _note(folder: Path, outcome: Outcome) -> None:
    arriving = folder / f"{DONE}.new"
    arriving.write_bytes(msgspec.json.encode(outcome))
    arriving.replace(folder / DONE)  # whole or not at all
