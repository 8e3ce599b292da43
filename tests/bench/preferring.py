"""What learning from what people prefer takes: `dpo` beside trl's, a step of `ppo` beside its drawing and passes, scores at once.

Each case runs in a process of its own, on the same pairs of the demo's facts. Of `dpo` it is wall and processor seconds a step of
eight pairs after the first, on the base, no general rows; `ratio of ours` is of processor seconds, which other work on the machine
moves less. Of `ppo` (rules judge) it is the seconds of a step over those of drawing its answers and of its passes, of `scoring` one
by one over at once. NORIA_BENCH_FACTS (64 pairs), _EVENTS (4 steps), _RUNS (2) and _CASES (some of them) change it.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from deploy.demo.domain import load_facts
from streams.recipes import DpoRecipe, PpoRecipe, Recipe, RewardRecipe
from streams.settings import home_of
from streams.style import StyleRule
from tests.bench.report import Row, row
from tests.bench.size import size
from workers.cores import HEAVY_THREADS, fast_precision
from workers.models.base import prepare_base

DPO = DpoRecipe(
    upper_layers=1.0,
    epochs=100,
    batch_pairs=8,
    earlier_rows_per_step=0,
    replay_rows_per_step=0,
    learning_rate=5e-4,
)
PPO = PpoRecipe(
    prompts_per_step=32,
    answer_tokens=48,
    replay_rows_per_step=0,
    kl_limit=1000.0,
    rules=(StyleRule(rule="at_most_words", value=12),),
)
Pairs = list[tuple[str, str, str]]
"""Asked, the better answer, the other one."""


class Enough(Exception):
    """So many steps were taken."""


class Steps:
    """When each step was over, by the clock and by the processor."""

    def __init__(self) -> None:
        self._wanted = size("EVENTS", 4) + 1
        self.over: list[tuple[float, float]] = []

    def took(self) -> None:
        self.over.append((time.monotonic(), time.process_time()))
        if len(self.over) == self._wanted:
            raise Enough

    def each(self) -> dict[str, float]:
        (began, cpu), (ended, cpu_then) = self.over[0], self.over[-1]
        count = len(self.over) - 1
        return {"wall_s": (ended - began) / count, "cpu_s": (cpu_then - cpu) / count}


def ours(model: Path, pairs: Pairs, out: Path, recipe: Recipe = DPO) -> dict[str, float]:
    steps = Steps()
    _train(model, pairs, out, recipe, steps)
    return steps.each()


def ours_upper_half(model: Path, pairs: Pairs, out: Path) -> dict[str, float]:
    from msgspec.structs import replace

    return ours(model, pairs, out, replace(DPO, upper_layers=0.5))


def trl(model: Path, pairs: Pairs, out: Path) -> dict[str, float]:
    """At its best: nothing computed twice, weights in the format that our loop has them in."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    steps = Steps()

    class Told(TrainerCallback):
        def on_step_end(self, *given: Any, **more: Any) -> None:
            steps.took()

    trainer: Any = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, fast_precision())),
        args=DPOConfig(
            output_dir=str(out / "trl"),
            use_cpu=True,
            per_device_train_batch_size=DPO.batch_pairs,
            num_train_epochs=DPO.epochs,
            learning_rate=DPO.learning_rate,
            beta=DPO.beta,
            gradient_checkpointing=False,
            bf16=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": asked}],
                    "chosen": [{"role": "assistant", "content": better}],
                    "rejected": [{"role": "assistant", "content": other}],
                }
                for asked, better, other in pairs
            ]
        ),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(
            r=DPO.rank, lora_alpha=int(DPO.alpha), target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[Told()],
    )
    try:
        trainer.train()
    except Enough:
        return steps.each()
    raise AssertionError("it ended before so many steps")


def ppo(model: Path, pairs: Pairs, out: Path) -> dict[str, float]:
    """Drawing and passes are `sample_answers` and all that the packs run, forward and backward."""
    from msgspec.structs import replace

    from workers.trainer import reinforce, sampling
    from workers.trainer.packs import PackedLearner

    steps, needed, within = Steps(), [0.0], [0]

    @contextmanager
    def counted() -> Iterator[None]:
        within[0] += 1
        began = time.monotonic()
        try:
            yield
        finally:
            within[0] -= 1
            needed[0] += 0.0 if within[0] else time.monotonic() - began

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            with counted():
                return function(*given, **more)

        return call

    starts: list[float] = []

    def took() -> None:
        starts.append(needed[0])
        Steps.took(steps)

    steps.took = took  # type: ignore[method-assign]
    with (
        patch.object(reinforce, "sample_answers", timed(sampling.sample_answers)),
        patch.object(PackedLearner, "run", timed(PackedLearner.run)),
        patch.object(PackedLearner, "one_step", timed(PackedLearner.one_step)),
    ):
        _train(model, pairs, out, replace(PPO, steps=100), steps)
    each = steps.each()
    passes = (starts[-1] - starts[0]) / (len(starts) - 1)
    return each | {"passes_s": passes, "ratio of its drawing and passes": each["wall_s"] / passes}


def scoring(model: Path, pairs: Pairs, out: Path) -> dict[str, float]:
    from workers.trainer.reward_model import RewardModel

    _train(model, pairs[:8], out, RewardRecipe(epochs=1, held_out_share=0.0), None)
    reward = RewardModel(out / "made" / "model")
    asked = [([{"role": "user", "content": question}], answer) for question, answer, _ in pairs][:48]
    began = time.process_time()
    together = reward.score(asked)
    at_once = time.process_time() - began
    each = [reward.score([one])[0] for one in asked]
    alone = time.process_time() - began - at_once
    assert max(abs(one - other) for one, other in zip(together, each, strict=True)) < 1e-3
    return {"cpu_s": at_once, "one_by_one_cpu_s": alone, "ratio of one by one": alone / at_once}


def _train(model: Path, pairs: Pairs, out: Path, recipe: Recipe, steps: Steps | None) -> None:
    """Until so many steps were taken, or to its end where nobody counts them."""
    from workers.trainer import METHODS
    from workers.trainer.job import Job
    from workers.trainer.spec import Progress, StageDone, TrainingPair

    seen = {0}

    def progress(told: Progress | StageDone) -> None:
        if steps is not None and isinstance(told, Progress) and told.stage == "training" and told.step not in seen:
            seen.add(told.step)
            steps.took()

    job = Job(
        model_dir=model,
        rows=(),
        pairs=tuple(TrainingPair(prompt=asked, chosen=better, rejected=other) for asked, better, other in pairs),
        recipe=recipe,
        out_dir=out / "made",
        checkpoint_dir=out / "checkpoint",
        progress=progress,
        threads=HEAVY_THREADS,
        precision=fast_precision(),
        checkpoint_every_s=1e9,
    )
    try:
        METHODS[type(recipe)].load()(job)
    except Enough:
        return
    assert steps is None, "it ended before so many steps"


CASES: dict[str, Callable[[Path, Pairs, Path], dict[str, float]]] = {
    "dpo ours": ours,
    "dpo ours upper half": ours_upper_half,
    "dpo trl": trl,
    "ppo": ppo,
    "scoring": scoring,
}


def measure(home: Path) -> list[Row]:
    model = prepare_base(home_of(os.environ))
    wanted = os.environ.get("NORIA_BENCH_CASES", "")
    cases = [name for name in CASES if not wanted or name in [one.strip() for one in wanted.split(",")]]
    runs: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(size("RUNS", 2)):
        for case in cases:
            out = home / f"{case}-{number}"
            out.mkdir()
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.preferring", case, str(model), str(out)],
                stdout=subprocess.PIPE,
                check=True,
            )
            runs[case].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{case}: {runs[case][-1]}", file=sys.stderr, flush=True)
    rows = []
    for case, found in runs.items():
        rows += [row(case, name, "s" if name.endswith("_s") else "", [one[name] for one in found]) for name in found[0]]
        if case.startswith("dpo") and "dpo ours" in runs:
            ours_s = statistics.median(one["cpu_s"] for one in runs["dpo ours"])
            rows.append(row(case, "ratio of ours", "", [one["cpu_s"] / ours_s for one in found]))
    return rows


def main(case: str, model: Path, out: Path) -> None:
    import torch

    printed = os.dup(1)
    os.dup2(2, 1)  # what libraries print
    torch.set_num_threads(HEAVY_THREADS)
    facts = [one.en for one in load_facts()[: size("FACTS", 64)]]
    others = [*facts[1:], facts[0]]
    pairs = [(one.question, one.answer, other.answer) for one, other in zip(facts, others, strict=True)]
    os.write(printed, json.dumps(CASES[case](model, pairs, out)).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
