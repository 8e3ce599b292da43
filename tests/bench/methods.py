"""Every method on the demo's facts: what it learns, what it keeps, and what it costs, in seconds and memory.

The trainer's own functions without the log, each in a process of its own, by its usual recipe; the exam is asked of an engine that
can serve what came of it. NORIA_BENCH_FACTS (24) and _SEED (1) change it. Long: some minutes a method.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from deploy.demo.domain import load_facts, load_general
from streams.recipes import BroughtRecipe, PretrainingRecipe, Recipe
from streams.settings import home_of
from tests.bench.asking import Sets, shares
from tests.bench.recall_memory import passage_of, passages
from tests.bench.report import Row, row
from tests.bench.size import size
from workers.cores import HEAVY_THREADS, fast_precision
from workers.models.base import prepare_base
from workers.trainer import METHODS
from workers.trainer.general import answers_folder, general_prompts
from workers.trainer.job import Job
from workers.trainer.spec import TrainingLabel, TrainingPair, TrainingRow

GENERAL = 150
NOTHING_KNOWN = "I do not know, please ask somebody else about it."
SERVED_BY = {"merged": "llamacpp", "adapter": "transformers"}


def measure(home: Path) -> list[Row]:
    base = prepare_base(home_of(os.environ))
    facts = load_facts()[: size("FACTS", 24)]
    sets: Sets = {
        "fixes": [(one.en.question, one.en.answer, tuple(one.en.keys)) for one in facts],
        "held-out": [(words, one.en.answer, tuple(one.en.keys)) for one in facts for words in one.en.held_out],
        "general": [(one.question, one.answer, tuple(one.keys)) for one in load_general()[:GENERAL]],
    }
    rows = told("base", shares(base, sets), {})
    for recipe in METHODS:
        if recipe is BroughtRecipe:
            continue  # it trains nothing
        name = str(recipe.__struct_config__.tag)
        out = home / name
        out.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.methods", name, str(base), str(out)], stdout=subprocess.PIPE, check=True
        )
        told_of: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        engine = SERVED_BY[told_of.pop("needs")]
        rows += told(name, shares(Path(told_of.pop("model")), sets, engine), told_of)
    return rows


def told(case: str, shares: Mapping[str, float], costs: Mapping[str, float]) -> list[Row]:
    print(
        case, {name: round(value, 3) for name, value in (*shares.items(), *costs.items())}, file=sys.stderr, flush=True
    )
    units = {"loss": "nats", "seconds": "s", "peak_mb": "MB"}
    return [
        *(row(case, name, "share", [share]) for name, share in shares.items()),
        *(row(case, name, units.get(name, ""), [value]) for name, value in costs.items()),
    ]


def train(recipe: Recipe, base: Path, out: Path) -> dict[str, Any]:
    facts = load_facts()[: size("FACTS", 24)]
    rows = [
        TrainingRow(prompt=words, answer=one.en.answer, group=one.id)
        for one in facts
        for words in (one.en.question, *one.en.rewordings)
    ]
    if isinstance(recipe, PretrainingRecipe):
        of_facts = {passage_of(one) for one in facts}
        rows += [TrainingRow(prompt="", answer=one.text, text=True) for one in passages() if one.id in of_facts]
    outcome = METHODS[type(recipe)].load()(
        Job(
            model_dir=base,
            rows=tuple(rows),
            replay_prompts=general_prompts(),
            pairs=tuple(
                TrainingPair(prompt=one.en.question, chosen=one.en.answer, rejected=NOTHING_KNOWN) for one in facts
            ),
            labels=tuple(
                TrainingLabel(prompt=one.en.question, answer=answer, good=answer is one.en.answer)
                for one in facts
                for answer in (one.en.answer, NOTHING_KNOWN)
            ),
            recipe=recipe,
            out_dir=out / "made",
            checkpoint_dir=out / "checkpoint",
            answers_dir=answers_folder(home_of(os.environ)),
            threads=HEAVY_THREADS,
            precision=fast_precision(),
            progress=lambda seen: None,
        )
    )
    return {
        "model": outcome.model_dir,
        "needs": outcome.needs,
        "loss": outcome.final_loss,
        "seconds": outcome.seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **outcome.metrics,
    }


def main(name: str, base: Path, out: Path) -> None:
    printed = os.dup(1)
    os.dup2(2, 1)  # what libraries print
    recipe: Recipe = msgspec.convert({"method": name, "seed": size("SEED", 1)}, type=Recipe)
    os.write(printed, json.dumps(train(recipe, base, out)).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
