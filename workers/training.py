"""The step `train`: from a snapshot to a candidate, merged, exported and checked."""

from pathlib import Path

from streams.errors import Erased
from streams.events import CandidateTrained, WaitsFor
from streams.orders import TrainCandidate
from streams.sealing import Keys, open_sealed
from workers.alone import is_held
from workers.context import Context
from workers.cores import HEAVY_THREADS, fast_precision
from workers.models.golden import GOLDEN_FILE
from workers.register import register, strike
from workers.snapshot import SnapshotRow, load, open_prompt
from workers.trainer.general import answers_folder, general_prompts, kept_place, lock_of
from workers.trainer.parent import Trainer
from workers.trainer.spec import Progress, Row, TrainSpec


def run(order: TrainCandidate, context: Context) -> None:
    snapshot = load(order.snapshot, context.artifacts)
    kids = sorted({row.prompt.kid for row in snapshot.rows} | {row.answer.kid for row in snapshot.rows})
    # Named by the order, so that whoever takes it up again finds the checkpoint.
    folder = context.settings.home / "training" / str(order.order_id)
    checkpoints, out = folder / "checkpoint", folder / "out"
    checkpoints.mkdir(parents=True, exist_ok=True, mode=0o700)
    register(context.engine, "training folder", str(folder), order.round_id, kids)
    spec = TrainSpec(
        model_dir=str(context.artifacts.path(order.base_model)),
        rows=training_rows(snapshot.rows, "new", context.keyring),
        earlier=training_rows(snapshot.rows, "earlier", context.keyring),
        replay_prompts=order.replay_prompts or general_prompts(),
        recipe=order.recipe,
        out_dir=str(out),
        checkpoint_dir=str(checkpoints),
        reference_dir=str(context.artifacts.path(order.reference_model)),
        answers_dir=str(answers_folder(context.settings.home)),
        threads=HEAVY_THREADS,
        precision=fast_precision(),
        finish=True,
    )
    context.wait(order, "train", lambda: missing_answers(spec))

    def progress(seen: Progress) -> None:
        values = {"loss": seen.loss, "replay_divergence": seen.replay_divergence, "tokens_per_s": seen.tokens_per_s}
        told = {name: value for name, value in values.items() if value is not None}
        context.progress(order, "train", seen.step, seen.steps, seen.seconds_left, **told)

    trainer, context.trainer = context.trainer, None
    if trainer is None or not trainer.waits():
        trainer = Trainer()
    trained = trainer.train(spec, progress)
    context.check()
    model_dir = Path(trained.model_dir)
    assert trained.export_difference is not None  # `finish` was asked for
    golden = context.artifacts.put_file(model_dir / GOLDEN_FILE)
    event = CandidateTrained(
        domain=order.domain,
        round_id=order.round_id,
        order_id=order.order_id,
        model=context.artifacts.put_dir(model_dir),
        adapter=context.artifacts.put_dir(Path(trained.adapter_dir)),
        golden=golden,
        loss=trained.final_loss,
        steps=trained.steps,
        duration_s=round(trained.seconds, 1),
        export_difference=trained.export_difference,
    )
    context.publish(order, event, "candidate_trained")
    strike(context.engine, str(folder))


def missing_answers(spec: TrainSpec) -> WaitsFor | None:
    """The base's general answers, while another process computes them. Where none does, the training does so itself."""
    assert spec.reference_dir is not None and spec.answers_dir is not None
    base = Path(spec.reference_dir).name
    place = kept_place(Path(spec.answers_dir), base, spec.replay_prompts, spec.recipe, spec.precision)
    return "general_answers" if not place.exists() and is_held(lock_of(place)) else None


def training_rows(rows: tuple[SnapshotRow, ...], role: str, keys: Keys) -> tuple[Row, ...]:
    """The rows of one role, opened: the question as it was corrected, and its other wordings, as one group.

    In the order of their words, so that the same corrections make the same model in whatever order they came.
    """
    groups: list[list[Row]] = []
    for row in rows:
        if row.role != role:
            continue
        try:
            answer = open_sealed(row.answer, keys)
            prompts = [open_prompt(messages, keys) for messages in (row.prompt, *row.wordings)]
        except Erased:
            continue  # erased since the snapshot was taken: it is not learned any more
        wordings = [
            Row(
                prompt=prompt.question,
                answer=answer,
                system=prompt.system,
                # What was answered in vain before is not part of what is taught.
                history=() if row.wordings else prompt.history,
                group=row.example_id,
            )
            for prompt in prompts
        ]
        groups.append(sorted(wordings, key=_words))
    return tuple(row for group in sorted(groups, key=lambda group: _words(group[0])) for row in group)


def _words(row: Row) -> tuple[str, str]:
    return row.prompt, row.answer
