"""The step `train`: from a snapshot to a candidate, merged, exported and checked."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict, replace

from streams.errors import Erased, Invalid, Unavailable
from streams.facts.orders import OrderProgressed, WaitsFor
from streams.facts.rounds import CandidateTrained, RewardModelTrained, StageFinished
from streams.made_with import MadeWith
from streams.orders import TrainCandidate
from streams.personal import masked
from streams.reading.rounds import JudgedBy, judged_by, reward_round_of
from streams.recalled import with_recalled
from streams.recipes import BroughtRecipe, Recipe, RewardRecipe, asks_reward_model
from streams.sealed import Sealed
from streams.sealing import Keys, open_sealed
from streams.selection import mixed
from streams.settings import Settings
from streams.sizing import SHARDED, Plan
from streams.snapshots import Snapshot, SnapshotMemory, SnapshotRow, load, masked_prompt, open_memory, open_prompt
from streams.store import postgres_trouble
from workers.alone import Turn, is_held
from workers.context import Context
from workers.cores import HEAVY_THREADS, fast_precision
from workers.made_with import made_with
from workers.models.golden import GOLDEN_FILE
from workers.register import TRAINING_FOLDER, Words, WordsGone, register, strike
from workers.trainer import METHODS
from workers.trainer.general import answers_folder, general_prompts, kept_place, lock_of
from workers.trainer.opening import Candidate, Openings, opening_recipe, opening_rows
from workers.trainer.parent import Trainer
from workers.trainer.sized import planned
from workers.trainer.spec import Outcome, Progress, StageDone, TrainingLabel, TrainingPair, TrainingRow, TrainSpec

RECALLED = "recalled"  # tells the group of a fact's rows behind what is recalled from that of its bare ones
SPARE_BYTES = 256_000_000  # for the log, the tables and the exam meanwhile


class Made(Struct, frozen=True):
    """What a training made. `erased`: the examples, wordings, pairs and labels of its snapshot whose words were gone.
    `folder` holds it, and is to be struck from the register once it was kept."""

    result: Outcome
    made_with: MadeWith
    erased: int
    folder: Path


def run(order: TrainCandidate, context: Context) -> None:
    opening = load(order.snapshot, context.artifacts).opening
    openings = Openings(context.artifacts, context.settings.artifacts / "openings")
    with context.keeping():
        opened = openings.find(order, _precision(context)) if opening else None
        if opened is not None:
            return _tell(order, opened, 0.0, context)
    made = train(order, context, partial(_tell_stage, order, context))
    trained, model_dir = made.result, Path(made.result.model_dir)
    if isinstance(order.recipe, RewardRecipe):
        _tell_reward(order, trained, made.made_with, context)
        return strike(context.database, context.settings.host, str(made.folder))
    with context.keeping():
        golden = context.artifacts.put_file(model_dir / GOLDEN_FILE)
        candidate = Candidate(
            model=context.artifacts.put_dir(model_dir),
            adapter=context.artifacts.put_dir(Path(trained.adapter_dir)),
            golden=golden,
            loss=trained.final_loss,
            steps=trained.steps,
            export_difference=trained.export_difference,
            cpu_s=round(trained.cpu_seconds, 1),
            losses=tuple(round(loss, 4) for loss in trained.epoch_losses),
            rows=trained.rows,
            tokens=trained.tokens,
            made_with=made.made_with,
            fallback=trained.fallback,
            metrics={name: round(value, 6) for name, value in trained.metrics.items()},
            needs=trained.needs,
        )
        _tell(order, candidate, round(trained.seconds, 1), context)
        if opening:
            openings.keep(order, _precision(context), candidate)
    strike(context.database, context.settings.host, str(made.folder))


def _tell(order: TrainCandidate, made: Candidate, duration_s: float, context: Context) -> None:
    event = CandidateTrained(
        domain=order.domain,
        round_id=order.round_id,
        order_id=order.order_id,
        duration_s=duration_s,
        **asdict(made),
    )
    context.publish(order, event, "candidate_trained")


def _tell_reward(order: TrainCandidate, trained: Outcome, made: MadeWith, context: Context) -> None:
    with context.keeping():
        event = RewardModelTrained(
            domain=order.domain,
            round_id=order.round_id,
            order_id=order.order_id,
            snapshot=order.snapshot,
            base_model=order.base_model,
            model=context.artifacts.put_dir(Path(trained.model_dir)),
            adapter=context.artifacts.put_dir(Path(trained.adapter_dir)),
            loss=trained.final_loss,
            steps=trained.steps,
            duration_s=round(trained.seconds, 1),
            cpu_s=round(trained.cpu_seconds, 1),
            losses=tuple(round(loss, 4) for loss in trained.epoch_losses),
            tokens=trained.tokens,
            made_with=made,
            metrics={name: round(value, 6) for name, value in trained.metrics.items()},
            calibrated=trained.calibrated,
        )
        context.publish(order, event, "reward_model_trained")


def _tell_stage(order: TrainCandidate, context: Context, done: StageDone, made: MadeWith) -> None:
    """What it learned is kept by itself; a reward model, whole. Told again, it is the same fact."""
    trained = done.outcome
    if done.method == RewardRecipe.__struct_config__.tag:
        _tell_reward(order, trained, made, context)
    with context.keeping():
        event = StageFinished(
            domain=order.domain,
            round_id=order.round_id,
            order_id=order.order_id,
            stage=done.stage,
            number=done.number,
            stages=done.stages,
            artifact=context.artifacts.put_dir(Path(trained.adapter_dir)),
            loss=trained.final_loss,
            duration_s=round(trained.seconds, 1),
            metrics={name: round(value, 6) for name, value in trained.metrics.items()},
        )
        context.publish(order, event, f"stage_finished {done.stage}")


StageDoneBy = Callable[[StageDone, MadeWith], None]


def _untold(done: StageDone, made: MadeWith) -> None:
    """What is made once more has been told."""


def train(order: TrainCandidate, context: Context, stage_done: StageDoneBy = _untold) -> Made:
    """Train as it is ordered, from the last checkpoint of whoever began it; `stage_done` is called with each stage of a recipe with
    several. Raises Cancelled, Invalid, Unavailable."""
    snapshot = load(order.snapshot, context.artifacts)
    if snapshot.opening:
        order = replace(order, recipe=opening_recipe(order.recipe))
    # Named by the order, so that whoever takes it up again finds the checkpoint.
    folder = context.settings.home / "training" / str(order.order_id)
    with closing(turn_of(context.settings)) as turn:

        def missing() -> WaitsFor | None:
            lacks = no_room(order, context) or missing_answers(_spec(order, folder, context))
            return lacks or (None if turn.has_come() else "another_training")

        context.wait(order, "train", missing)
        while True:
            try:
                made = _train(order, snapshot, folder, context, stage_done)
                break
            except WordsGone:
                strike(context.database, context.settings.host, str(folder))
    context.check()
    return made


def turn_of(settings: Settings) -> Turn:
    """One training at a time has this machine, or its cards: each was planned with all of their memory. Workers that see cards of
    their own (CUDA_VISIBLE_DEVICES) do not wait for each other."""
    device = settings.training_device
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "") if device != "cpu" else ""
    return Turn(settings.home / f"training-{device}{cards.replace(os.sep, '_')}.lock")


def _spec(
    order: TrainCandidate,
    folder: Path,
    context: Context,
    rows: tuple[TrainingRow, ...] = (),
    earlier: tuple[TrainingRow, ...] = (),
    preferred: "TrainingPreferences | None" = None,
    general: float | None = None,
) -> TrainSpec:
    device = context.settings.training_device
    processes, sharded = shared(order.recipe, context.settings)
    return TrainSpec(
        model_dir=str(context.artifacts.path(order.base_model)),
        rows=rows,
        earlier=earlier,
        replay_prompts=order.replay_prompts or general_prompts(),
        recipe=order.recipe,
        out_dir=str(folder / "out"),
        checkpoint_dir=str(folder / "checkpoint"),
        reference_dir=str(context.artifacts.path(order.reference_model)),
        answers_dir=str(answers_folder(context.settings.home)),
        brought_dir=_brought(order, context),
        reward_dir=_reward(order, context),
        pairs=preferred.pairs if preferred is not None else (),
        labels=preferred.labels if preferred is not None else (),
        threads=HEAVY_THREADS if device != "cpu" else max(1, HEAVY_THREADS // processes),
        device=device,
        precision=_precision(context),
        general=general,
        processes=processes,
        sharded=sharded,
        # What scores is served by none.
        engine=order.engine if not isinstance(order.recipe, RewardRecipe) else None,
    )


def shared(recipe: Recipe, settings: Settings) -> tuple[int, bool]:
    """By how many processes it is trained here, and whether each has a share of the model alone. Raises Invalid for what cannot be
    trained so where all must be: one process may not have room for the whole model."""
    if METHODS[type(recipe)].together:
        return settings.training_processes, settings.training_sharded
    if settings.training_sharded and not isinstance(recipe, BroughtRecipe):
        raise Invalid(
            f"this machine trains in shards (NORIA_TRAINING_SHARDED), and {recipe.method} cannot be trained so;"
            f" {', '.join(SHARDED)} can"
        )
    return 1, False


def _precision(context: Context) -> str:
    return fast_precision() if context.settings.training_device == "cpu" else "bfloat16"


def _reward(order: TrainCandidate, context: Context) -> str | None:
    """The domain's reward model, where the recipe asks it."""
    if not asks_reward_model(order.recipe) or order.reward_model is None:
        return None
    if not context.artifacts.has(order.reward_model):
        raise Invalid("the domain's reward model does not lie among the artifacts of this machine")
    return str(context.artifacts.path(order.reward_model))


def _judging(order: TrainCandidate, context: Context) -> tuple[str, ...]:
    """The keys of whoever the reward model learned from that judges what is drawn: what it says is computed from their words.
    Raises Invalid where one of them was erased since."""
    if order.reward_model is None or not asks_reward_model(order.recipe):
        return ()
    with postgres_trouble(), context.database.connect() as connection:
        reward_round = reward_round_of(connection, order.round_id)
        judge = judged_by(connection, reward_round) if reward_round is not None else JudgedBy((), ())
    if judge.erased:
        raise Invalid(
            "the domain's reward model learned from somebody who was erased since: a round of the recipe reward makes one without"
            " them"
        )
    return judge.kids


def _brought(order: TrainCandidate, context: Context) -> str | None:
    if not isinstance(order.recipe, BroughtRecipe):
        return None
    if not context.artifacts.has(order.recipe.adapter):
        raise Invalid("the adapter that the recipe names does not lie among the artifacts of this machine")
    return str(context.artifacts.path(order.recipe.adapter))


def no_room(order: TrainCandidate, context: Context) -> WaitsFor | None:
    """Whether the disk has no room for what the training writes, and some that is nobody's."""
    writes = METHODS[type(order.recipe)].writes
    needed = round(context.artifacts.size_bytes(order.base_model) * writes) + SPARE_BYTES
    return "disk_space" if shutil.disk_usage(context.settings.artifacts).free < needed else None


def missing_answers(spec: TrainSpec) -> WaitsFor | None:
    """The base's general answers, while another process computes them. Where none does, the training does so itself."""
    assert spec.reference_dir is not None and spec.answers_dir is not None
    base = Path(spec.reference_dir).name
    place = kept_place(Path(spec.answers_dir), base, spec.replay_prompts, spec.recipe, spec.precision)
    return "general_answers" if not place.exists() and is_held(lock_of(place)) else None


def _train(order: TrainCandidate, snapshot: Snapshot, folder: Path, context: Context, stage_done: StageDoneBy) -> Made:
    """Raises WordsGone when somebody was erased whose words are in it; the child has ended then."""
    # A base has learned nothing of it.
    fresh, earlier = taught(snapshot, context.keyring, anew=order.base_model == order.reference_model)
    preferred = preferences(snapshot, context.keyring)
    kids = sorted({*fresh.kids, *earlier.kids, *preferred.kids, *_judging(order, context)})
    register(context.database, context.settings.host, TRAINING_FOLDER, str(folder), order.round_id, kids)
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True, mode=0o700)
    general = None if snapshot.opening else mixed(snapshot.selection, order.recipe)  # what opens is our own
    spec = _spec(order, folder, context, fresh.rows, earlier.rows, preferred, general)
    words = Words(context, kids)

    def progress(seen: Progress | StageDone) -> None:
        words.look()
        if isinstance(seen, StageDone):
            words.look(at_once=True)
            return stage_done(
                seen, made_with(spec.threads, seen.outcome.precision, spec.device, spec.processes, spec.sharded)
            )
        values = {"loss": seen.loss, "replay_divergence": seen.replay_divergence, "tokens_per_s": seen.tokens_per_s}
        told = {name: value for name, value in values.items() if value is not None} | seen.values
        context.progress(order, "train", seen.step, seen.steps, seen.seconds_left, stage=seen.part, **told)

    words.look(at_once=True)  # they were opened with keys that are remembered for a while
    _tell_plan(order, planned(spec), context)
    trainer, context.trainer = context.trainer, None
    if trainer is None or not trainer.waits():
        trainer = Trainer()
    try:
        trained = trainer.train(spec, progress)
    except Unavailable:
        words.look(at_once=True)  # the folder may be gone for that very reason, and the child have ended over it
        raise
    words.look(at_once=True)
    return Made(
        trained,
        made_with(spec.threads, trained.precision, spec.device, spec.processes, spec.sharded),
        fresh.erased + earlier.erased + preferred.erased,
        folder,
    )


def _tell_plan(order: TrainCandidate, plan: Plan | None, context: Context) -> None:
    """Record with the round what its training will take, before it takes any of it."""
    if plan is None:
        return
    sizes = {"peak": plan.peak_gb, "saving": plan.saving_gb, **plan.memory_gb}
    event = OrderProgressed(
        domain=order.domain,
        round_id=order.round_id,
        order_id=order.order_id,
        step="train",
        done=0,
        total=plan.steps,
        seconds_left=plan.seconds,
        values={f"planned_{name}_gb": size for name, size in sizes.items()},
    )
    context.publish(order, event, "planned")


class TrainingPreferences(Struct, frozen=True):
    """What people prefer, in plain text, as `TrainingRows` is."""

    pairs: tuple[TrainingPair, ...]
    labels: tuple[TrainingLabel, ...]
    kids: frozenset[str]
    erased: int

    def __repr__(self) -> str:
        return "TrainingPreferences(sealed)"


class TrainingRows(Struct, frozen=True):
    """Rows in plain text, and the keys that they were sealed with; how many examples and wordings do not open any more. Lives in
    memory only."""

    rows: tuple[TrainingRow, ...]
    kids: frozenset[str]
    erased: int

    def __repr__(self) -> str:
        return "TrainingRows(sealed)"


def taught(snapshot: Snapshot, keys: Keys, anew: bool = False) -> tuple[TrainingRows, TrainingRows]:
    """What is new and what is of earlier rounds. `anew`: all of it is new to what is trained."""
    if snapshot.opening:
        return TrainingRows(opening_rows(), frozenset(), 0), TrainingRows((), frozenset(), 0)
    if anew:
        snapshot = replace(snapshot, rows=tuple(replace(row, role="new") for row in snapshot.rows))
    new, earlier = (
        training_rows(snapshot.rows, role, keys, snapshot.memories, snapshot.mask) for role in ("new", "earlier")
    )
    rows = {row.example_id for row in snapshot.rows}
    beside = [
        memory for memory in snapshot.memories if memory.id not in rows
    ]  # of these nobody has counted who was erased
    gone = sum(open_memory(memory, keys) is None for memory in beside)
    read = text_rows(snapshot.passages, keys)
    return (
        TrainingRows(new.rows + read.rows, new.kids | read.kids, new.erased + gone + read.erased),
        earlier,
    )


def preferences(snapshot: Snapshot, keys: Keys) -> TrainingPreferences:
    """The pairs and labels of the snapshot, opened and masked, in the order of their words. A pair weighs one over the pairs of its
    ranking as they stand in the snapshot, whoever of these was erased since (Ouyang et al. 2022, arXiv 2203.02155, equation 1)."""
    of_ranking = Counter(pair.ranking for pair in snapshot.pairs)
    pairs, labels, kids = list[TrainingPair](), list[TrainingLabel](), set[str]()

    def said(sealed: Sealed) -> str:
        return masked(open_sealed(sealed, keys), snapshot.mask)[0]

    for pair in snapshot.pairs:
        try:
            prompt = masked_prompt(open_prompt(pair.prompt, keys), snapshot.mask)
            chosen, rejected = said(pair.chosen), said(pair.rejected)
        except Erased:
            continue
        pairs.append(
            TrainingPair(
                prompt=prompt.question,
                chosen=chosen,
                rejected=rejected,
                system=prompt.system,
                history=prompt.history,
                weight=1 / of_ranking[pair.ranking],
                ranking=pair.ranking,
            )
        )
        kids |= pair.kids
    for label in snapshot.labels:
        try:
            prompt, answer = masked_prompt(open_prompt(label.prompt, keys), snapshot.mask), said(label.answer)
        except Erased:
            continue
        labels.append(
            TrainingLabel(
                prompt=prompt.question, answer=answer, good=label.good, system=prompt.system, history=prompt.history
            )
        )
        kids |= label.kids
    return TrainingPreferences(
        tuple(sorted(pairs, key=lambda one: (one.prompt, one.chosen, one.rejected))),
        tuple(sorted(labels, key=lambda one: (one.prompt, one.answer))),
        frozenset(kids),
        len(snapshot.pairs) + len(snapshot.labels) - len(pairs) - len(labels),
    )


def text_rows(passages: Sequence[SnapshotMemory], keys: Keys) -> TrainingRows:
    """Passages, opened, to be read as text; in the order of their words, as all rows are."""
    opened = [(passage, open_memory(passage, keys)) for passage in passages]
    rows = [TrainingRow(prompt="", answer=memory.text, text=True) for _, memory in opened if memory is not None]
    kids = {kid for passage, memory in opened if memory is not None for kid in passage.kids}
    return TrainingRows(tuple(sorted(rows, key=_words)), frozenset(kids), len(passages) - len(rows))


def training_rows(
    rows: tuple[SnapshotRow, ...],
    role: str,
    keys: Keys,
    memories: Sequence[SnapshotMemory] = (),
    mask: Collection[str] = (),
) -> TrainingRows:
    """The rows of one role, opened: the question as it was corrected, and its other wordings, as one group; and, where something is
    recalled for them, each behind that (a memory whose person was erased is left out), as a group of its own. `mask`: the kinds of
    personal data that are masked, in what is recalled too.

    In the order of their words, so that the same corrections make the same model in whatever order they came.
    """
    sealed = {memory.id: memory for memory in memories}
    groups: list[list[TrainingRow]] = []
    kids: set[str] = set()
    erased = 0
    for row in rows:
        if row.role != role:
            continue
        recalled = row.recalled or ((),) * (1 + len(row.wordings))
        try:
            answer = masked(open_sealed(row.answer, keys), mask)[0]
            prompts = [(masked_prompt(open_prompt(row.prompt, keys), mask), recalled[0])]
        except Erased:
            erased += 1
            continue  # erased since the snapshot was taken: it is not learned any more
        kids |= {row.answer.kid, *(part.sealed.kid for part in row.prompt)}
        for whole, ids in zip(row.wordings, recalled[1:], strict=True):
            try:
                prompts.append((masked_prompt(open_prompt(whole, keys), mask), ids))
            except Erased:
                erased += 1
                continue  # whoever asked it in these words
            kids |= {part.sealed.kid for part in whole}
        bare, behind = [], []
        for place, (prompt, ids) in enumerate(prompts):
            wording = TrainingRow(
                prompt=prompt.question,
                answer=answer,
                system=prompt.system,
                # What was answered in vain before is not part of what is taught.
                history=() if row.wordings else prompt.history,
                group=row.example_id,
                reworded=place > 0,
                weight=row.weight,
            )
            bare.append(wording)
            opened = {id: memory for id in ids if (memory := open_memory(sealed[id], keys)) is not None}
            if opened:
                asked = masked(with_recalled(wording.prompt, list(opened.values())), mask)[0]
                behind.append(replace(wording, prompt=asked, group=f"{row.example_id} {RECALLED}", beside=True))
                kids.update(*(sealed[id].kids for id in opened))
        groups += [sorted(group, key=_words) for group in (bare, behind) if group]
    ordered = sorted(groups, key=lambda group: _words(group[0]))
    return TrainingRows(tuple(row for group in ordered for row in group), frozenset(kids), erased)


def _words(row: TrainingRow) -> tuple[str, str]:
    return row.prompt, row.answer
