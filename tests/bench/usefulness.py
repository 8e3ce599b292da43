"""Does selection help: a model taught what each way chooses of a pool of the demo's facts in which trouble is planted.

Of the pool 30 % are near duplicates, 10 % wrong answers and 10 % in another language; of the clean half every second fact was
corrected by somebody in its first wording, all else was brought. Each way has half of the pool's tokens to choose, and every
training goes over as many tokens. Asked in wordings that nobody taught, bare and as served (behind what is recalled of the whole
pool), in those of the pool, and the general quiz; what guards against forgetting is the same for all. NORIA_BENCH_FACTS (24, drawn
by the seed), _SEED (1) and _CASES (names with commas, all) change it. Long: some minutes a case.
"""

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from deploy.demo.domain import Fact, load_facts, load_general
from streams.recalled import Memory as Shown
from streams.recalled import Recall, with_recalled
from streams.recipes import LoraRecipe
from streams.selection import USUAL, Budget, Dedupe, Hard, KCenter, Leakage, Nuggets, Selection
from streams.settings import home_of
from tests.bench.asking import Sets, shares
from tests.bench.report import Row, row
from tests.bench.size import size
from tests.candidates import candidate
from workers.asked import ask
from workers.cores import HEAVY_THREADS, fast_precision
from workers.models.base import prepare_base
from workers.models.chat_tokens import ChatTokens
from workers.recall.encoder import sentence_encoder
from workers.recall.index import Index, Memory, texts_of
from workers.selector import perplexity
from workers.selector.agreement import settle
from workers.selector.candidates import OpenExample, Vectors
from workers.selector.golden import Gains, Task, Turn
from workers.selector.pipeline import choose
from workers.trainer import METHODS
from workers.trainer.general import answers_folder, general_prompts
from workers.trainer.job import Job
from workers.trainer.rows import encode_rows, row_limit
from workers.trainer.spec import TrainingRow

GENERAL = 150
BUDGET = 0.5  # of the pool's tokens
DUPLICATES, WRONG, OTHER_LANGUAGE = 0.3, 0.1, 0.1  # of the pool
CASES = ("random", "dedupe", "full", "everything")
Kind = Literal["clean", "duplicate", "wrong", "other language"]


class Pool(Struct, frozen=True):
    """`kinds`: what was planted, by example."""

    examples: tuple[OpenExample, ...]
    kinds: Mapping[str, Kind]


def measure(home: Path) -> list[Row]:
    base, seed = prepare_base(home_of(os.environ)), size("SEED", 1)
    facts = random.Random(seed).sample(load_facts(), size("FACTS", 24))
    wanted = [name.strip() for name in os.environ.get("NORIA_BENCH_CASES", "").split(",") if name.strip()] or [*CASES]
    if strange := [name for name in wanted if name not in CASES]:
        raise SystemExit(f"no such case: {', '.join(strange)}; there are {', '.join(CASES)}")
    pool = planted(facts, seed)
    measures = Measured(base, {f"{one.id} {n}": words for one in facts for n, words in enumerate(one.en.held_out)})
    memory = Remembered(pool.examples)
    sets = _sets(facts, memory)
    rows = [row("base", asked, "share", [share]) for asked, share in shares(base, sets).items()]
    budget = round(BUDGET * sum(measures.tokens(one) or 0 for one in pool.examples))
    whole = LoraRecipe().epochs * budget  # tokens that a training goes over
    for name in wanted:
        began = time.monotonic()
        kept = chosen(name, pool, measures, budget)
        chose_s = time.monotonic() - began
        tokens = sum((measures.tokens(one) or 0) * one.weight for one in kept)  # of an epoch
        recipe = LoraRecipe(seed=seed, epochs=max(1, round(whole / tokens)))
        began, out = time.monotonic(), home / name
        out.mkdir()
        outcome = METHODS[LoraRecipe].load()(
            Job(
                model_dir=base,
                rows=tuple(one for example in kept for one in memory.rows(example)),
                replay_prompts=general_prompts(),
                recipe=recipe,
                out_dir=out / "made",
                checkpoint_dir=out / "checkpoint",
                answers_dir=answers_folder(home_of(os.environ)),
                threads=HEAVY_THREADS,
                precision=fast_precision(),
                progress=lambda seen: None,
            )
        )
        took_s = time.monotonic() - began
        found = shares(Path(outcome.model_dir), sets)
        print(name, {asked: round(share, 3) for asked, share in found.items()}, file=sys.stderr, flush=True)
        rows += [row(name, asked, "share", [share]) for asked, share in found.items()]
        of_kind = Counter(pool.kinds[one.example_id] for one in kept)
        rows += [row(name, f"kept: {kind}", "rows", [of_kind[kind]]) for kind in sorted(set(pool.kinds.values()))]
        taught = {one.example_id.partition("#")[0] for one in kept if pool.kinds[one.example_id] != "wrong"}
        rows += [
            row(name, "facts taught", "facts", [len(taught)]),
            row(name, "tokens chosen", "tokens", [sum(measures.tokens(one) or 0 for one in kept)]),
            row(name, "tokens trained", "tokens", [round(tokens * recipe.epochs)]),
            row(name, "choosing", "s", [chose_s]),
            row(name, "training", "s", [took_s]),
        ]
    return rows


def planted(facts: Sequence[Fact], seed: int) -> Pool:
    """Each fact in its four wordings, every second fact corrected by somebody in its first, and as many rows of trouble;
    in no order. An id begins with that of the fact whose question it asks."""
    chance = random.Random(seed)
    clean = [(fact, words) for fact in facts for words in fact.en.trained]
    examples = [
        candidate(
            f"{fact.id}#{number}",
            words,
            fact.en.answer,
            hour=number,
            person=f"p-{number % 7}",
            source="correction" if words == fact.en.question and facts.index(fact) % 2 == 0 else "annotation",
        )
        for number, (fact, words) in enumerate(clean)
    ]
    kinds: dict[str, Kind] = {one.example_id: "clean" for one in examples}
    in_all = len(clean) / (1 - DUPLICATES - WRONG - OTHER_LANGUAGE)

    def plant(fact: Fact, question: str, answer: str, kind: Kind) -> None:
        number = len(examples)
        name = f"{fact.id}#{number}"
        kinds[name] = kind
        examples.append(candidate(name, question, answer, hour=number, person=f"p-{number % 7}", source="annotation"))

    for number in range(round(DUPLICATES * in_all)):
        fact, words = chance.choice(clean)
        plant(fact, _again(words, number), fact.en.answer, "duplicate")
    for number in range(round(WRONG * in_all)):
        fact, words = chance.choice(clean)
        other = chance.choice([one for one in facts if one.id != fact.id])
        plant(fact, words if number % 2 else _again(words, number), other.en.answer, "wrong")
    for _ in range(round(OTHER_LANGUAGE * in_all)):
        fact = chance.choice(facts)
        plant(fact, chance.choice(fact.zh.trained), fact.zh.answer, "other language")
    chance.shuffle(examples)
    return Pool(tuple(examples), kinds)


def _again(words: str, number: int) -> str:
    """The same question as somebody else types it."""
    small = f"{words[0].lower()}{words[1:]}"
    return (words.upper(), f"Hello, {small}", f"{words} Thank you.", f"Please tell me: {small}")[number % 4]


def chosen(name: str, pool: Pool, measures: "Measured", budget: int) -> Sequence[OpenExample]:
    """The pool stands in no order, so that what is cut by the budget alone is a random choice."""
    ways: Mapping[str, Selection] = {
        "random": (Budget(tokens=budget),),
        "dedupe": (Dedupe(), Budget(tokens=budget)),
        "full": (
            Leakage(overlap=0.9),
            *USUAL[1:],
            Dedupe(),
            KCenter(k=len(pool.examples) // 2),
            Nuggets(),
            Hard(),
            Budget(tokens=budget),
        ),
        "everything": (),
    }
    return choose(ways[name], pool.examples, measures).kept


class Measured:
    """What steps measure by, as in a round: the base's tokens and gains, the encoder's vectors."""

    def __init__(self, base: Path, exam: Mapping[str, str]) -> None:
        self.exam = exam
        self.mask: tuple[str, ...] = ()
        self._base, self._tokens = base, ChatTokens(base)
        self._limit = row_limit(base, LoraRecipe())

    def tokens(self, candidate: OpenExample) -> int | None:
        made = encode_rows(self._tokens, [TrainingRow(prompt=candidate.question, answer=candidate.answer)], self._limit)
        return len(made[0].ids) if made else None

    def vectors(self, candidates: Sequence[OpenExample]) -> Vectors:
        return self.embed([f"{one.question}\n{one.answer}" for one in candidates])

    def question_vectors(self, candidates: Sequence[OpenExample]) -> Vectors:
        return self.embed([one.question for one in candidates])

    def embed(self, texts: Sequence[str]) -> Vectors:
        return sentence_encoder().embed(texts)

    def gains(self, shots: Sequence[OpenExample], tasks: Sequence[OpenExample]) -> NDArray[np.float64]:
        turns = (tuple(Turn(one.question, one.answer) for one in some) for some in (shots, tasks))
        found = ask("workers.selector.golden", Task(str(self._base), *turns), Gains, lambda: None)
        return np.array(found.gains, np.float64)

    @property
    def anew(self) -> bool:
        return True

    def losses(self, candidates: Sequence[OpenExample]) -> NDArray[np.float64]:
        rows = tuple(TrainingRow(prompt=one.question, answer=one.answer) for one in candidates)
        asked = perplexity.Task(str(self._base), rows)
        return np.array(ask("workers.selector.perplexity", asked, perplexity.Losses, lambda: None).losses, np.float64)

    def check(self) -> None:
        pass


class Remembered:
    """What a door would recall of the pool: all that counts of one question, whatever is taught."""

    def __init__(self, examples: Sequence[OpenExample]) -> None:
        counts = {decision.example_id for decision in settle(examples) if decision.kept}
        self._known = {one.example_id: one for one in sorted(examples, key=lambda one: one.example_id)}
        encoder = sentence_encoder()
        memories = [
            Memory(id, "correction", (one.question,), one.answer) for id, one in self._known.items() if id in counts
        ]
        self._index = Index(encoder.dims)
        self._index.put_all(memories, [encoder.embed(texts_of(memory)) for memory in memories])

    def recalled(self, question: str, own: str | None = None) -> str:
        """The question behind what is recalled for it. `own`: of an example that is taught, which stands first and is not known by
        its own wording."""
        (vector,) = sentence_encoder().embed([question])
        without = None if own is None else question
        hits = self._index.search(question, vector, 2 * Recall().most, frozenset({"correction"}), frozenset(), without)
        ids = [hit.id for hit in hits if self._index.good_enough(hit, None)]
        if own is not None:
            ids = [own, *(id for id in ids if id != own)]
        few = [self._known[id] for id in ids[: Recall().most]]
        return with_recalled(question, [Shown(text=one.answer, question=one.question) for one in few])

    def rows(self, example: OpenExample) -> list[TrainingRow]:
        """Bare, and beside it behind what is recalled for it."""
        id, answer = example.example_id, example.answer
        return [
            TrainingRow(prompt=example.question, answer=answer, group=id),
            TrainingRow(prompt=self.recalled(example.question, id), answer=answer, group=f"{id} recalled", beside=True),
        ]


def _sets(facts: Sequence[Fact], memory: Remembered) -> Sets:
    held_out = [(words, one.en.answer, one.en.keys) for one in facts for words in one.en.held_out]
    return {
        "taught wordings": [(words, one.en.answer, one.en.keys) for one in facts for words in one.en.trained],
        "held-out bare": held_out,
        "held-out as served": [(memory.recalled(words), answer, keys) for words, answer, keys in held_out],
        "general": [(one.question, one.answer, one.keys) for one in load_general()[:GENERAL]],
    }
