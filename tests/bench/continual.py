"""Does it stay: rounds of new facts in a row, each from the release before; what of all that came before is still right.

The trainer's own functions without the log: facts of invented towns, taught bare and behind what is recalled, and the demo's
general quiz as what must not be lost. NORIA_BENCH_RUNS (rounds, 10), _FACTS (of a round, 48), _EVERY (each N-th round begins at the
base, with all facts so far as new ones; never, if it is not said) and _SEED (1) change it. Long: some ten minutes a round.
"""

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.demo.domain import load_general
from streams.recipes import LoraRecipe
from streams.settings import home_of
from tests.bench.asking import Sets, shares
from tests.bench.invented import invented
from tests.bench.report import Row, row
from tests.bench.size import size
from tests.bench.taught import Memories, TaughtFact
from workers.cores import HEAVY_THREADS, fast_precision
from workers.models.base import prepare_base
from workers.trainer import METHODS
from workers.trainer.general import answers_folder, general_prompts
from workers.trainer.job import Job

PERPLEXITY_TEXTS = 60


def measure(home: Path) -> list[Row]:
    rounds, a_round = size("RUNS", 10), size("FACTS", 48)
    every, seed = size("EVERY", 10**6), size("SEED", 1)
    base = prepare_base(home_of(os.environ))
    facts = invented(rounds * a_round, seed)
    index = Memories()
    rows = told("base", asked(base, facts[:a_round], index, ()), perplexity(base), 0.0)
    model = base
    for number in range(1, rounds + 1):
        new = facts[(number - 1) * a_round : number * a_round]
        before = facts[: (number - 1) * a_round]
        index.put(new)
        anew = number % every == 0
        began = time.monotonic()
        out = home / f"round-{number}"
        out.mkdir()
        outcome = METHODS[LoraRecipe].load()(
            Job(
                model_dir=base if anew else model,
                rows=tuple(index.rows([*before, *new] if anew else new)),
                earlier=() if anew else tuple(index.rows(before)),
                replay_prompts=general_prompts(),
                recipe=LoraRecipe(seed=seed),
                out_dir=out,
                checkpoint_dir=out / "checkpoint",
                reference_dir=base,
                answers_dir=answers_folder(home_of(os.environ)),
                threads=HEAVY_THREADS,
                precision=fast_precision(),
                progress=lambda seen: None,
            )
        )
        took = time.monotonic() - began
        model = Path(outcome.model_dir)
        rows += told(f"round {number}", asked(model, new, index, before), perplexity(model), took)
    return rows


def asked(model: Path, new: Sequence[TaughtFact], memories: Memories, before: Sequence[TaughtFact]) -> dict[str, float]:
    """The share of right answers, by set."""
    held_out = [(words, fact.answer, fact.keys) for fact in [*before, *new] for words in fact.held_out[:1]]
    sets: Sets = {
        "fixes": [(fact.trained[0], fact.answer, fact.keys) for fact in new],
        "earlier fixes": [(fact.trained[0], fact.answer, fact.keys) for fact in before],
        "held-out bare": held_out,
        "held-out recalled": [(memories.recalled(words), answer, keys) for words, answer, keys in held_out],
        "general": [(one.question, one.answer, tuple(one.keys)) for one in load_general()],
    }
    return shares(model, sets)


def perplexity(model: Path) -> float:
    """Of the general quiz' questions and answers as plain text, by transformers in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    loss, tokens = 0.0, 0
    with torch.no_grad():
        for item in load_general()[:PERPLEXITY_TEXTS]:
            ids = tokenizer(f"{item.question} {item.answer}", return_tensors="pt").input_ids
            loss += float(loaded(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
    return math.exp(loss / tokens)


def told(case: str, shares: dict[str, float], perplexity: float, seconds: float) -> list[Row]:
    print(
        case,
        {name: round(share, 3) for name, share in shares.items()},
        round(perplexity, 2),
        file=sys.stderr,
        flush=True,
    )
    return [
        *(row(case, name, "share", [share]) for name, share in shares.items()),
        row(case, "perplexity", "", [perplexity]),
        row(case, "training", "s", [seconds]),
    ]
