"""What `noria plan` says of memory beside what trainings of each method took at most on this machine, with the base of the wheel.

Cases are methods; `measured` is the largest resident size of a training child until it has written its model, the second time (the
first has its base answer the general prompts), `planned` what the plan said, `off` their relative difference. NORIA_BENCH_FACTS:
how many examples (24), each with two answers of which people prefer one; NORIA_BENCH_CASES: some of them, by commas.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from deploy.demo.domain import Fact, load_facts
from streams.recipes import (
    DpoRecipe,
    FullRecipe,
    KtoRecipe,
    LoraPTuningRecipe,
    LoraRecipe,
    PpoRecipe,
    PretrainingRecipe,
    PTuningRecipe,
    Recipe,
    RewardRecipe,
    SftDpoRecipe,
)
from streams.style import StyleRule
from tests.bench.methods import NOTHING_KNOWN
from tests.bench.recall_memory import passage_of, passages
from tests.bench.report import Row, row
from tests.bench.size import size
from tests.local_noria import CACHE
from workers.cores import HEAVY_THREADS, fast_precision
from workers.models.base import prepare_base
from workers.trainer.general import general_prompts, kept_place
from workers.trainer.sized import planned
from workers.trainer.spec import TrainingLabel, TrainingPair, TrainingRow, TrainSpec

WITHIN = 0.15
FEW: dict[str, Any] = {"epochs": 1, "replay_rows": 48}
"""A method's memory does not grow with its epochs; the base answers few general prompts, which takes it long."""
RECIPES: dict[str, Recipe] = {
    "lora": LoraRecipe(**FEW),
    "lora on all layers with thrice the rows": LoraRecipe(
        **FEW, batch_rows=24, replay_rows_per_step=36, upper_layers=1.0
    ),
    "full": FullRecipe(**FEW),
    "p_tuning_v2": PTuningRecipe(**FEW),
    "lora_p_tuning_v2": LoraPTuningRecipe(**FEW, prefix_epochs=1),
    "continued_pretraining": PretrainingRecipe(**FEW),
    "dpo": DpoRecipe(**FEW),
    "kto": KtoRecipe(**FEW),
    "sft_dpo": SftDpoRecipe(**FEW, dpo_epochs=1),
    "reward": RewardRecipe(epochs=1),
    "ppo": PpoRecipe(replay_rows=48, steps=2, rules=(StyleRule(rule="at_most_words", value=8),)),
}


def measure(scratch: Path) -> list[Row]:
    base = prepare_base(CACHE / "base-model")
    found: list[Row] = []
    wrong: list[str] = []
    wanted = [name.strip() for name in os.environ.get("NORIA_BENCH_CASES", "").split(",") if name.strip()] or [*RECIPES]
    facts = load_facts()[: size("FACTS", 24)]
    for method in wanted:
        recipe = RECIPES[method]
        folder = scratch / method
        (folder / "checkpoint").mkdir(parents=True)
        spec = TrainSpec(
            model_dir=str(base),
            rows=tuple(_rows(facts, recipe.reads_passages)),
            pairs=tuple(
                TrainingPair(prompt=fact.en.question, chosen=fact.en.answer, rejected=NOTHING_KNOWN) for fact in facts
            ),
            labels=tuple(
                TrainingLabel(prompt=fact.en.question, answer=answer, good=answer is fact.en.answer)
                for fact in facts
                for answer in (fact.en.answer, NOTHING_KNOWN)
            ),
            replay_prompts=general_prompts(),
            earlier=(),
            recipe=recipe,
            out_dir=str(folder / "out"),
            checkpoint_dir=str(folder / "checkpoint"),
            answers_dir=str(CACHE / "answers"),
            threads=HEAVY_THREADS,
            precision=fast_precision(),
            checkpoint_every_s=3600.0,  # the second is not to go on from the first
        )
        plan = planned(spec)
        assert plan is not None
        answers = kept_place(CACHE / "answers", base.name, spec.replay_prompts, recipe, spec.precision)
        if not answers.exists() and recipe.replay_rows_per_step:
            _peak_gb(spec)
        measured = _peak_gb(replace(spec, out_dir=str(folder / "again")))
        off = abs(plan.peak_gb - measured) / measured
        print(f"{method}: measured {measured:.2f} GB; {plan.peak_gb} {plan.memory_gb}", file=sys.stderr, flush=True)
        found += [
            row(method, "measured", "GB", [measured]),
            row(method, "planned", "GB", [plan.peak_gb]),
            row(method, "off", "share", [off]),
        ]
        if off > WITHIN:
            wrong.append(f"{method}: planned {plan.peak_gb:.2f} GB, measured {measured:.2f}")
    if wrong:
        raise SystemExit("\n".join(wrong))
    return found


def _rows(facts: Sequence[Fact], passages_too: bool) -> list[TrainingRow]:
    rows = [TrainingRow(prompt=fact.en.question, answer=fact.en.answer) for fact in facts]
    if passages_too:
        of_facts = {passage_of(fact) for fact in facts}
        rows += [TrainingRow(prompt="", answer=one.text, text=True) for one in passages() if one.id in of_facts]
    return rows


def _peak_gb(spec: TrainSpec) -> float:
    """Of a child that trains as `spec` says, and ends."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.plan"], input=msgspec.json.encode(spec), stdout=subprocess.PIPE, check=True
    )
    return float(done.stdout)


def main() -> int:
    """The child: train by the spec on the standard input, and print the most that this process held."""
    import resource

    from workers.trainer.child import carry_out

    os.environ["GOMP_SPINCOUNT"] = "0"
    code = carry_out(sys.stdin.buffer, 2)  # what it tells is no figure
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
