"""What every method does: rows to tokens, a model to run them, the steps, and what is told of them in the end. What learns in the
model is the method's own."""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch

from streams.errors import Invalid
from streams.recipes import Needs, PreferringRecipe, stops_after
from workers.trainer.freed import Freed
from workers.trainer.job import Job
from workers.trainer.loaded import LoadedModel, NotPacked, deterministic, load_tokenizer, training_dtype
from workers.trainer.loop import Taken, stands, take_steps
from workers.trainer.packed import LowerStates, PackedModel, check_forward
from workers.trainer.packs import PackedLearner
from workers.trainer.plain import CHECKPOINTED, PlainLearner, PlainModel, mean_loss
from workers.trainer.plan import Mix, Step, plan_steps, weights_of
from workers.trainer.preference import Preference, TooFew, nothing_preferred, preference_of
from workers.trainer.reference import General, final_states, general_rows
from workers.trainer.rows import EncodedRow, encode_rows, row_limit, shared_prefix
from workers.trainer.sharded import Sharded, shard
from workers.trainer.side_by_side import SideBySide
from workers.trainer.spec import Outcome
from workers.trainer.stopping import Stopping, held_out
from workers.trainer.together import TakenTogether

LONGEST_PACKED = 2048  # tokens: the attention of a pack takes memory by the square of its longest row

AnyLearner = PackedLearner | PlainLearner
Take = Callable[[AnyLearner, str, float], tuple[Taken, Sequence[Step], Mapping[str, float]]]
"""Takes the steps of a learner another way: given the name of the run and what saving will take, what came of it, of which steps,
and what is told of it."""

Insert = Callable[[LoadedModel], Mapping[str, torch.nn.Parameter]]
"""Puts into a model what learns, makes everything else of it stay as it is, and names what learns."""


@dataclass(frozen=True)
class Clock:
    started: float = field(default_factory=time.monotonic)
    cpu_started: float = field(default_factory=time.process_time)


@contextmanager
def machine(job: Job) -> Iterator[Clock]:
    """torch on the job's threads, with the same bits at every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    undo = deterministic(torch.device(job.device))
    try:
        yield Clock()
    finally:
        undo()
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Encoded:
    """`left_out`: so many of the new rows are empty or too long. `held_out`: new ones that are not learned from. `preference`: what
    is learned of what people prefer."""

    fresh: list[EncodedRow]
    old: list[EncodedRow]
    left_out: int
    held_out: list[EncodedRow] = field(default_factory=list)
    preference: Preference | None = None

    @property
    def own(self) -> list[EncodedRow]:
        """All but the general rows."""
        return [*self.fresh, *self.old, *(self.preference.rows if self.preference is not None else ())]


@dataclass(frozen=True)
class Learnt:
    model: LoadedModel
    encoded: Encoded
    steps: Sequence[Step]
    taken: Taken
    named: Mapping[str, torch.nn.Parameter]
    fallback: str | None
    metrics: Mapping[str, float]

    def outcome(
        self,
        job: Job,
        clock: Clock,
        model_dir: Path,
        adapter_dir: Path,
        needs: Needs,
        metrics: Mapping[str, float] | None = None,
    ) -> Outcome:
        per_epoch = len(self.steps) // (self.steps[-1].epoch + 1)
        losses, divergences = self.taken.losses, self.taken.divergences
        return Outcome(
            steps=len(losses),
            epoch_losses=tuple(statistics.fmean(losses[i : i + per_epoch]) for i in range(0, len(losses), per_epoch)),
            final_loss=statistics.fmean(losses[-per_epoch:]),
            final_replay_divergence=statistics.fmean(divergences[-per_epoch:]) if divergences else None,
            tokens=self.taken.tokens,
            rows=len(self.encoded.fresh),
            rows_left_out=self.encoded.left_out,
            seconds=time.monotonic() - clock.started,
            cpu_seconds=time.process_time() - clock.cpu_started,
            resumed_at_step=self.taken.resumed_at,
            precision=str(self.model.dtype).removeprefix("torch."),
            model_dir=str(model_dir),
            adapter_dir=str(adapter_dir),
            needs=needs,
            fallback=self.fallback,
            metrics={
                **self.metrics,
                **(self._stopped() if stops_after(job.recipe) else {}),
                **(metrics or {}),
            },
        )

    def _stopped(self) -> dict[str, float]:
        """Where it ended of what was planned, and after which step the weights are that were kept."""
        told = {"planned_steps": float(len(self.steps)), "held_out_rows": float(len(self.encoded.held_out))}
        if self.taken.held_out:
            told |= {"kept_step": float(self.taken.best_step), "held_out_loss": min(self.taken.held_out)}
        return told


def learn(
    job: Job,
    insert: Insert,
    *,
    packed: bool = True,
    dtype: torch.dtype | None = None,
    look: Callable[[LoadedModel, str], None] = lambda model, when: None,
    take: Take | None = None,
) -> Learnt:
    """Train what `insert` puts into the model of the job; the model is left with it. `packed`: rows are run in packs, if they can
    be. `look` is given the model "before" and "after". `take`: how the steps are taken, if not as usual. Raises Invalid if the
    model or the rows cannot be trained."""
    job.recipe.check()
    started = time.monotonic()
    job.progress(stands("preparing", 0))
    encoded = encode(job)
    device = _device(job)
    asked = _Asked(job, encoded, device, dtype or training_dtype(job.precision, device), insert, look)
    refused: str | None = None
    with SideBySide(job.threads if device.type == "cpu" else 1) as parts:
        learner: PackedLearner | PlainLearner | None = None
        if packed and job.processes == 1:
            try:
                learner = _packed(asked, parts)
            except NotPacked as error:
                refused = str(error)
        if learner is None:
            learner = _plain(asked)
        told = encoded.preference
        if told is not None and take is None:
            # What learns is no change yet, whatever a checkpoint holds: so this is the reference.
            told.reference = learner.log_p(learner.preferred_rows)
        run, saving_s = _name_of_run(asked, learner), (time.monotonic() - started) / 4
        model, out = learner.model, encoded.held_out
        stopping = Stopping(stops_after(job.recipe), lambda: mean_loss(model, out)) if out else None
        steps: Sequence[Step] = learner.steps
        metrics: Mapping[str, float] = {}
        if take is not None:
            taken, steps, metrics = take(learner, run, saving_s)
        elif job.processes > 1 and not job.sharded:
            assert isinstance(learner, PlainLearner)
            refused = f"by trl, in {job.processes} processes"
            taken = _together(learner, job, run, saving_s, stopping)
        else:
            refused = f"in shards, in {job.processes} processes" if job.sharded else refused
            taken = take_steps(learner, job, run, saving_s, stopping)
        if take is None:
            metrics = told.metrics(learner.log_p(learner.preferred_rows)) if told else nothing_preferred(job)
        sharded = learner.sharded if isinstance(learner, PlainLearner) else None
        if sharded is not None or not job.process:
            look(learner.model, "after")
        named = learner.named if sharded is None else sharded.gathered()
        if job.process:
            raise TakenTogether
    Freed().all()  # what was told of it took some, too
    job.progress(stands("saving", len(steps)))
    job.out_dir.mkdir(exist_ok=True, mode=0o700)  # what it lies in must be there: see `save_checkpoint`
    return Learnt(learner.model, encoded, steps, taken, named, refused, metrics)


def _device(job: Job) -> torch.device:
    """Of several processes each has a card of its own. Raises Invalid where there are too few."""
    if job.device != "cuda":
        return torch.device(job.device)
    if (there := torch.cuda.device_count()) < job.processes:
        raise Invalid(
            f"this machine has {there} cards that torch can use, and the training wants {job.processes}"
            " (NORIA_TRAINING_DEVICE, NORIA_TRAINING_PROCESSES)"
        )
    return torch.device("cuda", job.process)


def _together(learner: PlainLearner, job: Job, run: str, saving_s: float, stopping: Stopping | None) -> Taken:
    from workers.trainer.by_trl import take_steps as take_steps_together  # trl takes a second to load

    return take_steps_together(learner, job, run, saving_s, stopping)


def encode(job: Job) -> Encoded:
    """The job's rows as tokens. Where too little is preferred, the new rows alone are learned. Raises Invalid if none is left of
    these either."""
    if not job.rows and not (isinstance(job.recipe, PreferringRecipe) and (job.pairs or job.labels)):
        raise Invalid("there is nothing to learn: the snapshot holds no row")
    tokenizer = load_tokenizer(job.model_dir)
    limit = row_limit(job.model_dir, job.recipe)
    fresh, old = (encode_rows(tokenizer, rows, limit) for rows in (job.rows, job.earlier))
    preference: Preference | None = None
    try:
        preference = preference_of(job, tokenizer, limit)
    except TooFew:
        if not job.rows:
            raise
    if not fresh and preference is None:
        raise Invalid(f"none of the {len(job.rows)} rows can be trained: they are empty or above {limit} tokens")
    left_out = len(job.rows) - len({row.row for row in fresh})
    if not stops_after(job.recipe):
        return Encoded(fresh, old, left_out, preference=preference)
    learned, out = held_out(fresh, job.recipe.seed)
    return Encoded(learned, old, left_out, out, preference)


@dataclass(frozen=True)
class _Asked:
    job: Job
    encoded: Encoded
    device: torch.device
    dtype: torch.dtype
    insert: Insert
    look: Callable[[LoadedModel, str], None]

    @property
    def reference_dir(self) -> Path | None:
        """None where the model is the domain's first."""
        found = self.job.reference_dir
        return found if found is not None and found.resolve() != self.job.model_dir.resolve() else None

    def general(self, model: LoadedModel) -> General | None:
        """The general rows; `model` as it came."""
        job, kind = self.job, type(model)
        if not (job.recipe.replay_rows_per_step if job.general is None else job.general):
            return None

        def load() -> LoadedModel:
            there = self.reference_dir
            return model if there is None else kind(there, job.recipe.upper_layers, self.dtype, model.device)

        name, tokenizer = (self.reference_dir or job.model_dir).name, load_tokenizer(job.model_dir)
        return general_rows(load, tokenizer, name, job.replay_prompts, job.recipe, self.dtype, job.answers_dir)

    def steps(self, general: General | None) -> list[Step]:
        fresh, old = self.encoded.fresh, self.encoded.old
        rows = general.rows if general is not None else []
        beside = {row.group for row in fresh if row.beside}
        told = self.encoded.preference
        said = [] if told is None else [sum(len(told.rows[row].ids) for row in unit) for unit in told.units]
        return plan_steps(
            self.job.recipe,
            [row.group for row in fresh],
            [row.group for row in old],
            len(rows),
            beside,
            len(said),
            weights_of(fresh),
            weights_of(old),
            Mix.of(self.job.general, fresh, old, rows, said),
        )

    def everything(self, general: General | None) -> list[EncodedRow]:
        return [*self.encoded.own, *(general.rows if general is not None else ())]


def _packed(asked: _Asked, parts: SideBySide) -> PackedLearner:
    """Raises NotPacked."""
    job, encoded = asked.job, asked.encoded
    longest = max(len(row.ids) for row in encoded.own)
    if longest > LONGEST_PACKED:
        raise NotPacked(f"rows of {longest} tokens are too long for packs")
    model = PackedModel(job.model_dir, job.recipe.upper_layers, asked.dtype, asked.device)
    general = asked.general(model)
    everything = asked.everything(general)
    longest = max(len(row.ids) for row in everything)
    if model.window is not None and longest > model.window:
        raise NotPacked(f"rows of {longest} tokens are longer than the model's window of {model.window}")
    prefix = shared_prefix(everything)
    check_forward(model, everything, prefix)
    asked.look(model, "before")
    states = LowerStates.computed(model, encoded.own, prefix, parts)
    wanted: list[torch.Tensor] = []
    if general is not None:
        same_below = general.frozen == model.frozen_digest()
        lower = (
            general.lower.to(asked.device) if same_below else LowerStates.computed(model, general.rows, prefix, parts)
        )
        if asked.reference_dir is None:
            wanted = [row.to(asked.device) for row in general.final]
        else:
            wanted = final_states(model, general.rows, lower, parts)
        states = states.joined(lower)
    return PackedLearner(
        rows=everything,
        earlier_from=len(encoded.fresh),
        replay_from=len(encoded.own),
        preference=encoded.preference,
        model=model,
        named=asked.insert(model),
        prefix=prefix,
        states=states,
        wanted=wanted,
        steps=asked.steps(general),
        replay_weight=job.recipe.replay_weight,
        parts=parts,
    )


def _plain(asked: _Asked) -> PlainLearner:
    job, encoded = asked.job, asked.encoded
    home = torch.device("cpu") if job.sharded else asked.device  # whole it may fit no card
    model = PlainModel(job.model_dir, job.recipe.upper_layers, asked.dtype, home)
    general = asked.general(model)
    everything = asked.everything(general)
    put = _put_in(asked, model) if job.sharded else None  # what learns is no change yet
    model.check_head(everything)
    asked.look(model, "before")
    # Not those of the answers as they were made: behind padding a window holds fewer tokens of the prompt.
    wanted = model.final_states(general.rows) if general is not None else []
    named, wanted_head, sharded = put or _put_in(asked, model)
    if model.before is None and max(len(row.ids) for row in everything) > CHECKPOINTED:
        model.keep_little()
    return PlainLearner(
        rows=everything,
        earlier_from=len(encoded.fresh),
        replay_from=len(encoded.own),
        preference=encoded.preference,
        model=model,
        named=named,
        wanted=wanted,
        wanted_head=wanted_head,
        steps=asked.steps(general),
        replay_weight=job.recipe.replay_weight,
        sharded=sharded,
        process=job.process,
        processes=job.processes,
    )


def _put_in(
    asked: _Asked, model: PlainModel
) -> tuple[Mapping[str, torch.nn.Parameter], torch.Tensor | None, Sharded | None]:
    """Put in what learns: it, the output layer as it was where that learns, and the shards where the model is in some."""
    before = model.head.detach().clone()
    named = asked.insert(model)
    wanted_head = before.to(asked.device) if any(weight is model.head for weight in named.values()) else None
    if not asked.job.sharded:
        return named, wanted_head, None
    sharded = shard(model.model, model.body, named, asked.device, asked.job.processes)
    model.run, model.device = sharded.run, asked.device
    return sharded.named, wanted_head, sharded


def _name_of_run(asked: _Asked, learner: PackedLearner | PlainLearner) -> str:
    """Tells checkpoints of other runs from this one's by sizes, recipe and folders: nothing that is computed
    from words."""
    sizes = (
        len(learner.rows),
        learner.earlier_from,
        learner.replay_from,
        learner.prefix if isinstance(learner, PackedLearner) else None,
        str(asked.dtype),
        *(() if learner.preference is None else (learner.preferred_from,)),
    )
    # The first is on the device that one alone would be on.
    device = asked.device.type if asked.job.processes == 1 else f"{asked.device.type} x {asked.job.processes}"
    return name_of_run(asked.job, sizes, device, (asked.reference_dir or asked.job.model_dir).name)


def name_of_run(job: Job, sizes: tuple[object, ...], device: str, reference: str | None = None) -> str:
    known = msgspec.json.encode((job.recipe, sizes, job.model_dir.name, reference or job.model_dir.name, device))
    return hashlib.sha256(known).hexdigest()
