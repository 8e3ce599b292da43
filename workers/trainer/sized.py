"""What a training will take of this machine, by its rows and its recipe, before it is begun. No torch here."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import asdict, replace
from tokenizers import Tokenizer

from streams.errors import Invalid
from streams.hardware import this_machine
from streams.recipes import PpoRecipe, PreferenceRecipe, RewardRecipe, stops_after
from streams.sizing import FP32, FUSED_FROM, USUAL, Plan, Work, plan, refusal, shape_of
from workers.cores import HEAVY_THREADS
from workers.trainer.spec import TrainingLabel, TrainingPair, TrainingRow, TrainSpec

MARKS = 10  # tokens of the chat template around a question and its answer, but for what all rows begin with
OF_RECIPE = (
    "epochs",
    "batch_rows",
    "rank",
    "upper_layers",
    "virtual_tokens",
    "projection_width",
    "batch_answers",
)  # where it has them
TOKENS_AT_ONCE = 2048  # of one kind of rows, or of a pack, with its padding
ROWS_AT_ONCE = 128  # of answers that are drawn
LOOKED_AT = 200  # rows of a kind, whose mean is taken


def planned(spec: TrainSpec) -> Plan | None:
    """What the training will take here; None where base or rows do not say it, which the training itself refuses by name, for a
    method that trains nothing or that nobody has sized, and on a card, of whose memory nothing is known without CUDA.

    Raises Invalid if it cannot fit, naming the part that breaks it and the nearest plan that fits.
    """
    found = plan_of(spec)
    if found is not None and not found.fits:
        raise Invalid(refusal(found, this_machine(HEAVY_THREADS)))
    return found


def plan_of(spec: TrainSpec) -> Plan | None:
    """As `planned`, whether it fits or not."""
    base = Path(spec.model_dir)
    try:
        shape = shape_of(json.loads((base / "config.json").read_bytes()))
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    except Exception:  # the tokenizer's library raises nothing narrower
        return None
    if not (spec.rows or spec.pairs or spec.labels) or spec.recipe.method not in USUAL or spec.device != "cpu":
        return None
    return plan(base.name, shape, work_of(spec, tokenizer), this_machine(HEAVY_THREADS))


def work_of(spec: TrainSpec, tokenizer: Tokenizer) -> Work:
    """The training's steps as they will be on average."""
    recipe = spec.recipe
    if isinstance(recipe, RewardRecipe):
        return _of_rankings(spec, recipe, tokenizer)
    preferred = _preferred(spec)
    new, beside = ([row for row in spec.rows if row.beside is also] for also in (False, True))
    facts = _shown(new)
    steps = max(1, -(-facts // recipe.batch_rows))
    if isinstance(recipe, PreferenceRecipe):
        steps = max(steps, -(-len(preferred) // recipe.batch_pairs))
    at_once = [
        (facts / steps, *_lengths(new, tokenizer)),
        (_shown(beside) / steps, *_lengths(beside, tokenizer)),
        (min(recipe.earlier_rows_per_step, _facts(spec.earlier)), *_lengths(spec.earlier, tokenizer)),
    ]
    for sides in zip(*preferred, strict=True):
        at_once.append((len(preferred) / steps, *_lengths(sides, tokenizer)))
    domain = sum(count * tokens for count, tokens, *_ in at_once)
    if isinstance(recipe, PpoRecipe):  # its own answers, and as many new rows in each change as there are
        at_once[0] = (float(min(recipe.batch_rows, facts)), *at_once[0][1:])
        prompts = [replace(row, answer="") for row in (*spec.rows, *spec.earlier)] + [
            _row(pair, "") for pair in spec.pairs
        ]
        own = min(recipe.batch_answers, recipe.prompts_per_step)
        at_once.append((own, *_answered(prompts, tokenizer, recipe.answer_tokens)))
    general = min(recipe.replay_rows, len(spec.replay_prompts))
    answer = recipe.replay_answer_tokens
    asked = [TrainingRow(prompt=prompt, answer="") for prompt in spec.replay_prompts[:LOOKED_AT]]
    lengths = _answered(asked, tokenizer, answer)
    per_step = recipe.replay_rows_per_step if spec.general is None else spec.general * domain / max(1.0, lengths[0])
    at_once.append((min(per_step, general), *lengths))
    rows = sum(count for count, *_ in at_once)
    scored = max((longest for count, _, _, longest in at_once if count and longest < FUSED_FROM), default=FUSED_FROM)
    settled = Work(
        method=recipe.method,
        upper_layers=1.0,
        examples=steps * recipe.batch_rows if isinstance(recipe, PreferenceRecipe) else facts,
        rows_at_once=max(1, round(rows)),
        row_tokens=round(sum(count * tokens for count, tokens, *_ in at_once) / rows),
        answer_tokens=round(sum(count * tokens for count, _, tokens, _ in at_once) / rows),
        longest_tokens=round(scored),
        kept_rows=len(spec.rows) - _facts(new) + len(spec.earlier) + general + sum(map(len, preferred)),
        weight_bytes=2 if spec.precision == "bfloat16" and recipe.method != "full" else FP32,
        parts=spec.threads,
        keeps_best=stops_after(recipe) > 0 or isinstance(recipe, PpoRecipe),
        answers=recipe.steps * recipe.prompts_per_step if isinstance(recipe, PpoRecipe) else 0,
        drawn_at_once=min(recipe.prompts_per_step, ROWS_AT_ONCE) if isinstance(recipe, PpoRecipe) else 0,
        processes=spec.processes,
        sharded=spec.sharded,
    )
    said = asdict(recipe)
    work = replace(settled, **{name: said[name] for name in OF_RECIPE if name in said})
    if work.processes > 1 and not work.sharded:
        return work
    if work.packed:
        together, slots = (
            min(tokens, TOKENS_AT_ONCE * work.parts)
            for tokens in (work.tokens_at_once, work.rows_at_once * round(scored))
        )
        return replace(work, tokens_together=together, padding=max(1.0, slots / together))
    kinds = (
        at_once[0][0] * at_once[0][1] + at_once[1][0] * at_once[1][1],
        *(count * long for count, long, *_ in at_once[2:]),
    )
    return replace(work, tokens_together=min(round(max(kinds) / work.processes), TOKENS_AT_ONCE))


def _of_rankings(spec: TrainSpec, recipe: RewardRecipe, tokenizer: Tokenizer) -> Work:
    """Each answer of a ranking is run once, however many pairs it is in."""
    answers = {
        (pair.ranking, pair.prompt, words): _row(pair, words)
        for pair in spec.pairs
        for words in (pair.chosen, pair.rejected)
    }
    rankings = len({pair.ranking or number for number, pair in enumerate(spec.pairs)})
    long, answer, _ = _lengths(list(answers.values()), tokenizer)
    rows = max(1, round(len(answers) / max(1, -(-rankings // recipe.batch_rankings))))
    return Work(
        method=recipe.method,
        examples=rankings,
        epochs=recipe.epochs,
        batch_rows=recipe.batch_rankings,
        rows_at_once=rows,
        row_tokens=round(long),
        answer_tokens=round(answer),
        kept_rows=0,
        rank=recipe.rank,
        upper_layers=recipe.upper_layers,
        weight_bytes=2 if spec.precision == "bfloat16" else FP32,
        tokens_together=min(round(rows * long), TOKENS_AT_ONCE),
    )


def _preferred(spec: TrainSpec) -> list[tuple[TrainingRow, ...]]:
    """What people prefer, as the rows of a step that it takes: both sides of a pair, or an answer."""
    if not isinstance(spec.recipe, PreferenceRecipe):
        return []
    if spec.recipe.from_labels:
        return [(_row(label, label.answer),) for label in spec.labels]
    return [(_row(pair, pair.chosen), _row(pair, pair.rejected)) for pair in spec.pairs]


def _row(asked: TrainingPair | TrainingLabel, answer: str) -> TrainingRow:
    return TrainingRow(prompt=asked.prompt, answer=answer, system=asked.system, history=asked.history)


def _facts(rows: Sequence[TrainingRow]) -> int:
    return len({row.group or f"row {number}" for number, row in enumerate(rows)})


def _shown(rows: Sequence[TrainingRow]) -> int:
    """How many facts an epoch shows, each as often as it weighs."""
    return math.ceil(sum({row.group or f"row {number}": row.weight for number, row in enumerate(rows)}.values()))


def _answered(rows: Sequence[TrainingRow], tokenizer: Tokenizer, answer: int) -> tuple[float, float, float]:
    """As `_lengths`, of rows that will be answered with so many tokens."""
    mean, _, longest = _lengths(rows, tokenizer)
    return mean + answer, answer, longest + answer


def _lengths(rows: Sequence[TrainingRow], tokenizer: Tokenizer) -> tuple[float, float, float]:
    """Tokens of a row, and of its answer, on average, and of the longest row of which attention keeps its scores (or of the
    longest, where it keeps none)."""
    if not rows:
        return 0.0, 0.0, 0.0
    few = rows[:: max(1, len(rows) // LOOKED_AT)]
    before = [
        "\n".join([row.system or "", *(text for turn in row.history for text in turn), row.prompt]) for row in few
    ]
    asked, answered = (
        [len(cut.ids) for cut in tokenizer.encode_batch(texts)] for texts in (before, [row.answer for row in few])
    )
    whole = [one + other + MARKS for one, other in zip(asked, answered, strict=True)]
    longest = max((tokens for tokens in whole if tokens < FUSED_FROM), default=max(whole))
    return sum(whole) / len(few), sum(answered) / len(few) + 1, longest
