"""What a method of training is given. No torch here."""

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from streams.recipes import Recipe
from workers.trainer.spec import Progress, StageDone, TrainingLabel, TrainingPair, TrainingRow, TrainSpec


class Job(Struct, frozen=True, kw_only=True):
    """Train on `rows` from the weights in `model_dir`, as `recipe` says, and write what comes of it under `out_dir`.

    `earlier`: the rows of former rounds. `pairs`, `labels`: what people prefer, where the recipe learns that. `replay_prompts`:
    general questions whose answers must not change (not people's words); `general`: so many of their tokens a step takes to one of
    all else (None: as many rows as the recipe says). `reference_dir`: the domain's first base, whose answers
    to them are taken (None: `model_dir` is it); `answers_dir`: where these are kept. `brought_dir`: the adapter, where the recipe
    is one that was trained elsewhere. `reward_dir`: the domain's reward model. `stage_done` is called with each stage of a recipe
    with several. What `checkpoint_dir` holds is taken up again, with the result of a run that was never interrupted. It and
    `out_dir` lie in a folder that is there: one that is gone is not made again, and an OSError ends the training. `process` of
    `processes` that train it together (see `workers.trainer.together`), `sharded` with a share of the model each; the first alone
    keeps, tells and writes.
    """

    model_dir: Path
    rows: tuple[TrainingRow, ...]
    recipe: Recipe
    out_dir: Path
    checkpoint_dir: Path
    progress: Callable[[Progress], None]
    stage_done: Callable[[StageDone], None] = lambda done: None
    replay_prompts: tuple[str, ...] = ()
    earlier: tuple[TrainingRow, ...] = ()
    reference_dir: Path | None = None
    answers_dir: Path | None = None
    brought_dir: Path | None = None
    reward_dir: Path | None = None
    pairs: tuple[TrainingPair, ...] = ()
    labels: tuple[TrainingLabel, ...] = ()
    threads: int = 1
    device: str = "cpu"
    precision: str = "auto"
    general: float | None = None
    checkpoint_every_s: float = 30.0
    processes: int = 1
    process: int = 0
    sharded: bool = False

    def __repr__(self) -> str:
        return "Job(sealed)"


def job_of(spec: TrainSpec, told: Callable[[Progress | StageDone], None], process: int = 0) -> Job:
    return Job(
        model_dir=Path(spec.model_dir),
        rows=spec.rows,
        recipe=spec.recipe,
        out_dir=Path(spec.out_dir),
        checkpoint_dir=Path(spec.checkpoint_dir),
        progress=told,
        stage_done=told,
        replay_prompts=spec.replay_prompts,
        earlier=spec.earlier,
        reference_dir=Path(spec.reference_dir) if spec.reference_dir is not None else None,
        answers_dir=Path(spec.answers_dir) if spec.answers_dir is not None else None,
        brought_dir=Path(spec.brought_dir) if spec.brought_dir is not None else None,
        reward_dir=Path(spec.reward_dir) if spec.reward_dir is not None else None,
        pairs=spec.pairs,
        labels=spec.labels,
        threads=spec.threads,
        device=spec.device,
        precision=spec.precision,
        general=spec.general,
        checkpoint_every_s=spec.checkpoint_every_s,
        processes=spec.processes,
        process=process,
        sharded=spec.sharded,
    )
