"""The training loop of the LoRA method: new rows by their words, general rows by the distributions of the
model that is trained, as it was."""

import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from streams.errors import Invalid
from streams.recipes import LoraRecipe
from workers.trainer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from workers.trainer.lora import Adapter, add_adapter, save_adapter
from workers.trainer.losses import label_loss, soft_loss
from workers.trainer.merge import write_merged
from workers.trainer.packed import LowerStates, PackedModel, check_forward, deterministic, training_dtype
from workers.trainer.plan import Step, learning_rate, plan_steps
from workers.trainer.reference import General, final_states, general_rows
from workers.trainer.rows import EncodedRow, encode_rows, pack, shared_prefix
from workers.trainer.side_by_side import SideBySide
from workers.trainer.spec import Progress, TrainingResult, TrainingRow

TIMED_STEPS = 20  # the time left is told from the median of so many last steps


@dataclass(frozen=True)
class Prepared:
    """All that the steps need. Rows are counted through: new ones, earlier ones, general ones."""

    model: PackedModel
    adapter: Adapter
    rows: list[EncodedRow]
    prefix: int
    earlier_from: int
    replay_from: int
    states: LowerStates
    wanted: list[torch.Tensor]  # of each general row (answer tokens, width): what the output layer saw before
    steps: list[Step]

    def numbers(self, step: Step) -> list[int]:
        """The rows of a step: new, earlier, general."""
        earlier = (self.earlier_from + number for number in step.earlier)
        return [*step.fresh, *earlier, *(self.replay_from + number for number in step.replay)]

    def kinds(self, numbers: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """New, earlier and general ones among `numbers`."""
        return (
            [number for number in numbers if number < self.earlier_from],
            [number for number in numbers if self.earlier_from <= number < self.replay_from],
            [number for number in numbers if number >= self.replay_from],
        )

    def answer_tokens(self, number: int) -> int:
        return self.rows[number].answer_tokens

    def cost(self, number: int) -> float:
        """What a row takes in a step, in passes of one token through the upper layers and back: their matrices
        are gone through twice a token, the output layer's for each answer token twice, or three times if its
        target is a distribution."""
        head = 1.5 if number >= self.replay_from else 1.0
        return len(self.rows[number].inputs) - self.prefix + head * self.answer_tokens(number) * self.model.head_share

    def dealt(self, numbers: Sequence[int], count: int) -> list[list[int]]:
        """`numbers` in `count` heaps that cost nearly the same: the dearest first, each to the cheapest heap."""
        heaps: list[list[int]] = [[] for _ in range(count)]
        costs = [0.0] * count
        for number in sorted(numbers, key=lambda number: (-self.cost(number), number)):
            least = costs.index(min(costs))
            heaps[least].append(number)
            costs[least] += self.cost(number)
        return heaps


def train_lora(
    model_dir: Path,
    rows: Sequence[TrainingRow],
    replay_prompts: Sequence[str],
    earlier: Sequence[TrainingRow],
    recipe: LoraRecipe,
    out_dir: Path,
    progress: Callable[[Progress], None],
    checkpoint_dir: Path,
    *,
    reference_dir: Path | None = None,
    answers_dir: Path | None = None,
    threads: int = 1,
    device: str = "cpu",
    precision: str = "auto",
    checkpoint_every_s: float = 30.0,
) -> TrainingResult:
    """Train as `TrainMethod` says. The model comes to lie in `out_dir/model`, the adapter in
    `out_dir/adapter`.

    Same rows, recipe, base, machine, device and threads: the same adapter, byte for byte, interrupted or not.
    """
    recipe.check()
    if reference_dir is not None and reference_dir.resolve() == model_dir.resolve():
        reference_dir = None
    started, cpu_started = time.monotonic(), time.process_time()
    where = torch.device(device)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    undo = deterministic(where)
    try:
        progress(_waiting("preparing", 0))
        model_for_base = reference_dir if reference_dir is not None else model_dir
        with SideBySide(threads if where.type == "cpu" else 1) as parts:
            prepared = _prepare(
                model_dir, rows, replay_prompts, earlier, recipe, where, precision, reference_dir, answers_dir, parts
            )
            loading_s = time.monotonic() - started
            run = _name_of_run(prepared, recipe, model_dir, model_for_base)
            trained = _steps(prepared, recipe, run, progress, checkpoint_dir, checkpoint_every_s, loading_s / 4, parts)
        progress(_waiting("saving", len(prepared.steps)))
        model_out, adapter_out = out_dir / "model", out_dir / "adapter"
        out_dir.mkdir(exist_ok=True, mode=0o700)  # what it lies in must be there: see `save_checkpoint`
        save_adapter(prepared.adapter, adapter_out, model_dir.name)
        write_merged(model_dir, {name: layer.delta() for name, layer in prepared.adapter.layers.items()}, model_out)
    finally:
        undo()
        torch.set_num_threads(threads_before)
    per_epoch = len(prepared.steps) // recipe.epochs
    losses, divergences = trained.losses, trained.divergences
    return TrainingResult(
        steps=len(prepared.steps),
        epoch_losses=tuple(statistics.fmean(losses[i : i + per_epoch]) for i in range(0, len(losses), per_epoch)),
        final_loss=statistics.fmean(losses[-per_epoch:]),
        final_replay_divergence=statistics.fmean(divergences[-per_epoch:]) if divergences else None,
        tokens=trained.tokens,
        rows=prepared.earlier_from,
        rows_left_out=len(rows) - prepared.earlier_from,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu_started,
        resumed_at_step=trained.resumed_at,
        precision=str(prepared.model.dtype).removeprefix("torch."),
        model_dir=str(model_out),
        adapter_dir=str(adapter_out),
    )


def _waiting(stage: str, step: int) -> Progress:
    return Progress(
        stage=stage,
        step=step,
        steps=step,
        epoch=0,
        loss=None,
        replay_divergence=None,
        tokens_per_s=None,
        seconds_left=None,
    )


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises Invalid if it has no chat template or no end mark."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise Invalid(f"{folder.name}: no tokenizer that can be read ({type(error).__name__})") from error
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise Invalid(f"{folder.name}: the tokenizer has no chat template or no end mark")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _prepare(
    model_dir: Path,
    rows: Sequence[TrainingRow],
    replay_prompts: Sequence[str],
    earlier: Sequence[TrainingRow],
    recipe: LoraRecipe,
    device: torch.device,
    precision: str,
    reference_dir: Path | None,
    answers_dir: Path | None,
    parts: SideBySide,
) -> Prepared:
    tokenizer = load_tokenizer(model_dir)
    fresh = encode_rows(tokenizer, rows, recipe.row_tokens)
    old = encode_rows(tokenizer, earlier, recipe.row_tokens)
    if not fresh:
        raise Invalid(
            f"none of the {len(rows)} rows can be trained: they are empty or above {recipe.row_tokens} tokens"
        )
    dtype = training_dtype(precision, device)
    model = PackedModel(model_dir, recipe.upper_layers, dtype, device)

    def load_reference() -> PackedModel:
        return model if reference_dir is None else PackedModel(reference_dir, recipe.upper_layers, dtype, device)

    general: General | None = None
    if recipe.replay_rows_per_step:
        name = (model_dir if reference_dir is None else reference_dir).name
        general = general_rows(load_reference, tokenizer, name, replay_prompts, recipe, dtype, answers_dir)
    general_count = len(general.rows) if general is not None else 0
    beside = {row.group for row in fresh if row.beside}
    steps = plan_steps(recipe, [row.group for row in fresh], [row.group for row in old], general_count, beside)
    everything = [*fresh, *old, *(general.rows if general is not None else ())]
    longest = max(len(row.ids) for row in everything)
    if model.window is not None and longest > model.window:
        raise Invalid(f"recipe.row_tokens must not be above the model's window of {model.window} tokens")
    prefix = shared_prefix(everything)
    check_forward(model, everything, prefix)
    states = LowerStates.computed(model, [*fresh, *old], prefix, parts)
    wanted: list[torch.Tensor] = []
    if general is not None:
        same_below = general.frozen == model.frozen_digest()
        lower = general.lower.to(device) if same_below else LowerStates.computed(model, general.rows, prefix, parts)
        if reference_dir is None:
            wanted = [row.to(device) for row in general.final]
        else:
            wanted = final_states(model, general.rows, lower, parts)
        states = states.joined(lower)
    adapter = add_adapter(model.model, model.upper_layers(), recipe)
    return Prepared(model, adapter, everything, prefix, len(fresh), len(fresh) + len(old), states, wanted, steps)


def _name_of_run(prepared: Prepared, recipe: LoraRecipe, model_dir: Path, reference_dir: Path) -> str:
    """Tells checkpoints of other runs from this one's by sizes, recipe and folders: nothing that is computed
    from words."""
    sizes = (
        len(prepared.rows),
        prepared.earlier_from,
        prepared.replay_from,
        prepared.prefix,
        str(prepared.model.dtype),
    )
    known = msgspec.json.encode((recipe, sizes, model_dir.name, reference_dir.name, str(prepared.model.device)))
    return hashlib.sha256(known).hexdigest()


@dataclass(frozen=True)
class _Trained:
    losses: tuple[float, ...]
    divergences: tuple[float, ...]
    tokens: int
    resumed_at: int


def _steps(
    prepared: Prepared,
    recipe: LoraRecipe,
    run: str,
    progress: Callable[[Progress], None],
    checkpoint_dir: Path,
    checkpoint_every_s: float,
    saving_s: float,
    parts: SideBySide,
) -> _Trained:
    """Take every step that the checkpoint has not. The adapter is changed in place."""
    named = prepared.adapter.parameters()
    parameters = list(named.values())
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0, fused=True)
    losses: list[float] = []
    divergences: list[float] = []
    tokens, first = 0, 0
    found = load_checkpoint(checkpoint_dir, run)
    if found is not None:
        _restore(found, named, optimiser)
        losses, divergences = list(found.losses), list(found.divergences)
        tokens, first = found.tokens, found.step

    steps = prepared.steps
    times: list[float] = []
    saved_at = time.monotonic()
    for number in range(first, len(steps)):
        began = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, number, len(steps))
        loss, divergence, seen = _one_step(prepared, recipe, steps[number], parameters, parts)
        torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss)
        if divergence is not None:
            divergences.append(divergence)
        tokens += seen
        done = number + 1
        if done < len(steps) and time.monotonic() - saved_at >= checkpoint_every_s:
            kept = _kept(named, optimiser)
            save_checkpoint(checkpoint_dir, Checkpoint(run, done, tuple(losses), tuple(divergences), tokens, kept))
            saved_at = time.monotonic()
        times = [*times[1 - TIMED_STEPS :], time.monotonic() - began]
        usual = statistics.median(times)
        progress(
            Progress(
                stage="training",
                step=done,
                steps=len(steps),
                epoch=steps[number].epoch + 1,
                loss=loss,
                replay_divergence=divergence,
                tokens_per_s=seen / usual,
                seconds_left=usual * (len(steps) - done) + saving_s if len(times) > 1 else None,
            )
        )
    return _Trained(tuple(losses), tuple(divergences), tokens, first)


@dataclass(frozen=True)
class _Part:
    """A part's share of the step's losses, its gradients in the order of the parameters, and its tokens."""

    loss: float
    divergence: float
    gradients: Sequence[torch.Tensor]
    tokens: int


def _one_step(
    prepared: Prepared, recipe: LoraRecipe, step: Step, parameters: Sequence[torch.nn.Parameter], parts: SideBySide
) -> tuple[float, float | None, int]:
    """Leave the gradients in the parameters; the loss of the new rows, the divergence of the general ones,
    tokens."""
    numbers = prepared.numbers(step)
    answers = [sum(map(prepared.answer_tokens, kind)) for kind in prepared.kinds(numbers)]
    done = parts.run(
        [
            partial(_one_part, prepared, recipe, heap, answers, parameters)
            for heap in prepared.dealt(numbers, parts.count)
            if heap
        ]
    )
    for parameter, *gradients in zip(parameters, *(part.gradients for part in done), strict=True):
        parameter.grad = sum(gradients[1:], start=gradients[0])
    divergence = sum(part.divergence for part in done) if step.replay else None
    return sum(part.loss for part in done), divergence, sum(part.tokens for part in done)


def _one_part(
    prepared: Prepared,
    recipe: LoraRecipe,
    numbers: Sequence[int],
    answers: Sequence[int],
    parameters: Sequence[torch.nn.Parameter],
) -> _Part:
    """`answers`: the answer tokens of each kind in the whole step, over which its losses are means. New rows and
    earlier ones have a mean each: what is new counts as much in a later round as in the first."""
    model = prepared.model
    fresh, earlier, general = prepared.kinds(numbers)
    numbers = [*fresh, *earlier, *general]
    packed = pack([prepared.rows[number] for number in numbers], prepared.prefix, model.device)
    hidden = model.upper(prepared.states.of(numbers), packed)
    own = [sum(map(prepared.answer_tokens, kind)) for kind in (fresh, earlier, general)]
    states, targets = torch.split(hidden, own), torch.split(packed.targets, own)
    loss = kept = divergence = torch.zeros((), device=model.device)
    if fresh:
        loss = label_loss(states[0], model.head, targets[0]) * (own[0] / answers[0])
    if earlier:
        kept = label_loss(states[1], model.head, targets[1]) * (own[1] / answers[1])
    if general:
        wanted = torch.cat([prepared.wanted[number - prepared.replay_from] for number in general])
        divergence = soft_loss(states[2], model.head, wanted) * (own[2] / answers[2])
    gradients = torch.autograd.grad(loss + kept + recipe.replay_weight * divergence, parameters)
    return _Part(float(loss.detach()), float(divergence.detach()), gradients, len(packed.ids))


def _kept(named: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}
    for name, parameter in named.items():
        kept[name] = parameter.detach().cpu().contiguous()
        for key in ("exp_avg", "exp_avg_sq"):
            kept[f"{name}.{key}"] = optimiser.state[parameter][key].cpu().contiguous()
    return kept


def _restore(found: Checkpoint, named: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
    for name, parameter in named.items():
        with torch.no_grad():
            parameter.copy_(found.tensors[name])
        optimiser.state[parameter] = {
            "step": torch.tensor(float(found.step), device=parameter.device if parameter.is_cuda else "cpu"),
            **{key: found.tensors[f"{name}.{key}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")},
        }
