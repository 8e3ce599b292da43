"""What helps a fact to be known in wordings that nobody has taught, asked bare: one change to the usual training at a time.

48 of the demo's facts, each corrected in one wording; asked in it (fixes), in two others bare and behind what is recalled, and the
general quiz. NORIA_BENCH_FACTS (48), _RUNS (seeds, 1) and _CASES (names with commas, all) change it. Long: some minutes a case.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from deploy.demo.domain import load_facts, load_general
from streams.recipes import LoraRecipe
from streams.settings import home_of
from tests.bench.asking import Sets, shares
from tests.bench.report import Row, row
from tests.bench.size import size
from tests.bench.taught import Memories, TaughtFact
from workers.cores import HEAVY_THREADS, fast_precision
from workers.models.base import prepare_base
from workers.trainer import METHODS
from workers.trainer.general import answers_folder, general_prompts
from workers.trainer.job import Job
from workers.trainer.spec import TrainingRow

USUAL = LoraRecipe()
GENERAL = 150  # questions of the quiz: an answer takes longer than a step of training


def as_usual(facts: Sequence[TaughtFact]) -> list[TrainingRow]:
    """As one person's correction is taught."""
    return _memories(facts).rows([replace(fact, trained=fact.trained[:1]) for fact in facts])


def all_wordings(facts: Sequence[TaughtFact]) -> list[TrainingRow]:
    """As if others had asked the same in three more wordings."""
    return _memories(facts).rows(facts)


def bare_alone(facts: Sequence[TaughtFact]) -> list[TrainingRow]:
    return [one for one in as_usual(facts) if not one.beside]


def with_statements(facts: Sequence[TaughtFact]) -> list[TrainingRow]:
    """And the answer as text, without a question."""
    return as_usual(facts) + [
        TrainingRow(prompt="", answer=fact.answer, text=True, group=f"{fact.answer} said", beside=True)
        for fact in facts
    ]


def with_questions_asked_back(facts: Sequence[TaughtFact]) -> list[TrainingRow]:
    """And the question predicted from the answer."""
    return as_usual(facts) + [
        TrainingRow(
            prompt=f"Which question is answered by this? {fact.answer}",
            answer=fact.trained[0],
            group=f"{fact.answer} asked back",
            beside=True,
        )
        for fact in facts
    ]


def with_gaps(facts: Sequence[TaughtFact]) -> list[TrainingRow]:
    """And the answer with a gap where its key stands, to be filled."""
    rows = as_usual(facts)
    for fact in facts:
        key = next((key for key in fact.keys if re.search(re.escape(key), fact.answer, re.IGNORECASE)), None)
        if key is not None:
            gap = re.sub(re.escape(key), "___", fact.answer, flags=re.IGNORECASE)
            rows.append(
                TrainingRow(prompt=f"Fill the gap: {gap}", answer=fact.answer, group=f"{fact.answer} gap", beside=True)
            )
    return rows


def all_beside(facts: Sequence[TaughtFact]) -> list[TrainingRow]:
    """All of the above."""
    more = [with_statements(facts), with_questions_asked_back(facts), with_gaps(facts)]
    usual = len(as_usual(facts))
    return all_wordings(facts) + [one for rows in more for one in rows[usual:]]


class Case(Struct, frozen=True):
    recipe: LoraRecipe = USUAL
    rows: Callable[[Sequence[TaughtFact]], list[TrainingRow]] = as_usual


CASES: Mapping[str, Case] = {
    "usual": Case(),
    "bare rows alone": Case(rows=bare_alone),
    "all layers": Case(replace(USUAL, upper_layers=1.0)),
    "rank 64": Case(replace(USUAL, rank=64, alpha=128.0)),
    "28 epochs": Case(replace(USUAL, epochs=28)),
    "statements": Case(rows=with_statements),
    "asked back": Case(rows=with_questions_asked_back),
    "gaps": Case(rows=with_gaps),
    "four wordings": Case(rows=all_wordings),
    "four wordings and all rows": Case(rows=all_beside),
    "four wordings and all rows in all layers": Case(replace(USUAL, upper_layers=1.0), all_beside),
    "four wordings and all rows for 28 epochs": Case(replace(USUAL, epochs=28), all_beside),
}


def measure(home: Path) -> list[Row]:
    base = prepare_base(home_of(os.environ))
    facts = [
        TaughtFact(one.en.trained, one.en.held_out, one.en.answer, one.en.keys)
        for one in load_facts()[: size("FACTS", 48)]
    ]
    wanted = [name.strip() for name in os.environ.get("NORIA_BENCH_CASES", "").split(",") if name.strip()] or [*CASES]
    rows = []
    for name in wanted:
        for seed in range(1, size("RUNS", 1) + 1):
            case, out, began = CASES[name], home / f"{name}-{seed}".replace(" ", "-"), time.monotonic()
            out.mkdir()
            outcome = METHODS[LoraRecipe].load()(
                Job(
                    model_dir=base,
                    rows=tuple(case.rows(facts)),
                    replay_prompts=general_prompts(),
                    recipe=replace(case.recipe, seed=seed),
                    out_dir=out / "made",
                    checkpoint_dir=out / "checkpoint",
                    answers_dir=answers_folder(home_of(os.environ)),
                    threads=HEAVY_THREADS,
                    precision=fast_precision(),
                    progress=lambda seen: None,
                )
            )
            took_s = time.monotonic() - began
            found = shares(Path(outcome.model_dir), sets(facts))
            told = {name: round(share, 3) for name, share in found.items()}
            print(f"{name}, seed {seed}:", told, f"{took_s:.0f} s", file=sys.stderr, flush=True)
            rows += [row(f"{name}, seed {seed}", asked, "share", [share]) for asked, share in found.items()]
            rows.append(row(f"{name}, seed {seed}", "training", "s", [took_s]))
    return rows


def sets(facts: Sequence[TaughtFact]) -> Sets:
    memories = _memories(facts)
    held_out = [(words, fact.answer, fact.keys) for fact in facts for words in fact.held_out]
    return {
        "fixes": [(fact.trained[0], fact.answer, fact.keys) for fact in facts],
        "held-out bare": held_out,
        "held-out recalled": [(memories.recalled(words), answer, keys) for words, answer, keys in held_out],
        "general": [(one.question, one.answer, tuple(one.keys)) for one in load_general()[:GENERAL]],
    }


def _memories(facts: Sequence[TaughtFact]) -> Memories:
    """Who is corrected in one wording is remembered in it alone."""
    found = Memories()
    found.put([replace(fact, trained=fact.trained[:1]) for fact in facts])
    return found
