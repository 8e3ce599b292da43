"""The order `compare_bases`: what each base is worth to a domain, before a team chooses one.

Each base answers, bare, what the domain's people have corrected and what its exam asks; then one engine of it is timed and weighed,
its tokenizer read on the domain's own text, and a round of the policy's recipe sized. One base after the other, as all together may
not fit; what a base has answered before is not asked again, so whoever takes the order up goes on where it stood.
"""

import secrets
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import psutil
from msgspec import Struct
from tokenizers import Tokenizer

from streams.engine_client import ChatStream, Sampling
from streams.errors import Invalid
from streams.facts.comparisons import UNTAUGHT, BaseComparisonMade, BaseFigures, BaseTraining
from streams.orders import CompareBases
from streams.reading.learning import masked_kinds
from streams.reading.memories import passages_as_of
from streams.recipes import Recipe
from streams.sizing import GB
from streams.snapshots import SnapshotMemory, open_memory
from streams.store import postgres_trouble
from workers.context import Context
from workers.cores import HEAVY_THREADS, fast_precision
from workers.engines import make_engine
from workers.engines.protocol import EngineSpec
from workers.evaluator.compare import Sets, answered, answers_of
from workers.evaluator.questions import Question, fix, of_exam
from workers.evaluator.step import NICENESS
from workers.models.base import about_of
from workers.models.golden import PROMPTS
from workers.recall.as_of import settled
from workers.register import WordsGone
from workers.trainer.general import general_prompts
from workers.trainer.sized import plan_of
from workers.trainer.spec import TrainingRow, TrainSpec

PASSAGES_READ = 200  # of a domain's documents, evenly chosen
TIMED_TOKENS = 64  # of each answer at most


def run(order: CompareBases, context: Context) -> None:
    for name, model in order.bases.items():
        if not context.artifacts.has(model):
            raise Invalid(f"the base {name} is not on the disk any more: `noria base add` makes it again")
    while True:
        try:
            return _compare(order, context)
        except WordsGone:
            context.check()


def _compare(order: CompareBases, context: Context) -> None:
    began = time.monotonic()
    questions, sets = _questions(order, context)
    if not questions:
        raise Invalid("there is nothing to compare bases by: no correction counts, and the exam is empty")
    texts = [text for question in questions for text in (question.item.question, question.item.answer)]
    texts += _passages(order, context)
    found = {name: _figures(order, name, questions, sets, texts, context) for name in order.bases}
    event = BaseComparisonMade(
        domain=order.domain,
        order_id=order.order_id,
        bases=found,
        duration_s=round(time.monotonic() - began, 1),
    )
    context.publish(order, event, "base_comparison_made")


def _questions(order: CompareBases, context: Context) -> tuple[list[Question], Sets]:
    """The corrections that count, none of which any base was taught, and the exam, as of the pin; and which are of which set."""
    with postgres_trouble(), context.database.connect() as connection:
        mask = masked_kinds(connection, order.domain)
    questions: list[Question] = []
    sets: Sets = {}
    for row in settled(order.domain, (), order.pin, context).kept:
        question = fix(row.example_id, row.prompt, row.answer, context.keyring, mask)
        if question is not None:  # erased a moment ago
            sets.setdefault(UNTAUGHT, []).append(len(questions))
            questions.append(question)
    for question in of_exam(order.domain, order.pin, context, mask):
        sets.setdefault(question.item.set, []).append(len(questions))
        questions.append(question)
    return questions, sets


def _passages(order: CompareBases, context: Context) -> list[str]:
    with postgres_trouble(), context.database.connect() as connection:
        rows = passages_as_of(connection, order.domain, order.pin)
    some = [
        SnapshotMemory(row.passage_id, "passage", row.passage, title=row.title)
        for row in rows[:: max(1, len(rows) // PASSAGES_READ)]
    ]
    opened = (open_memory(one, context.keyring) for one in some)
    return [memory.text for memory in opened if memory is not None]


def _figures(
    order: CompareBases,
    name: str,
    questions: Sequence[Question],
    sets: Sets,
    texts: Sequence[str],
    context: Context,
) -> BaseFigures:
    model = order.bases[name]
    folder = context.artifacts.path(model)
    about = about_of(folder)
    kind = order.engine if order.engine in about.engines else about.engines[0]
    rows = answered(order, {name: (kind, model)}, questions, context)[name]
    context.check()
    timed = measured(kind, folder, context)
    return BaseFigures(
        family=about.family,
        parameters=about.parameters,
        context_tokens=about.context_tokens,
        licence=about.licence,
        engine=kind,
        sets={of: answers_of([rows[questions[place].fingerprint] for place in places]) for of, places in sets.items()},
        tokens_per_character=round(tokens_per_character(folder, texts), 4),
        tokens_per_s=round(timed.tokens_per_s, 2),
        memory_gb=round(timed.memory_gb, 3),
        training=_training(folder, questions, sets, order.recipe),
    )


class Measured(Struct, frozen=True):
    tokens_per_s: float
    memory_gb: float


def measured(kind: str, folder: Path, context: Context) -> Measured:
    """One engine, asked the golden prompts (nobody's words) one after another: the tokens of its answers over the seconds until
    each was whole, and what its processes hold in the host's memory then. The first answer is not timed: pages are read for it."""
    spec = EngineSpec(
        kind=kind,
        model_dir=folder,
        model_name=f"measured-{folder.name[-12:]}",
        slots=1,
        niceness=NICENESS,
        lightllm=context.settings.lightllm,
    )
    engine = make_engine(spec, secrets.token_urlsafe())
    asked = Sampling(max_tokens=TIMED_TOKENS, temperature=0.0, top_p=1.0, seed=0)
    tokens, seconds = 0, 0.0
    try:
        engine.start()
        engine.ready(engine.start_deadline_s)
        for number, prompt in enumerate((PROMPTS[0], *PROMPTS)):
            context.check()
            began = time.monotonic()
            said = [{"role": "user", "content": prompt}]
            with closing(ChatStream(engine.base_url, engine.key, engine.model_name, said, asked)) as answer:
                *_, last = answer
            if number:
                tokens, seconds = tokens + last.completion_tokens, seconds + time.monotonic() - began
        process = psutil.Process(engine.pid)
        held = sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    finally:
        engine.stop()
    return Measured(tokens / seconds, held / GB)


def tokens_per_character(folder: Path, texts: Sequence[str]) -> float:
    """How many tokens the model's tokenizer makes of a character of these texts, on average: what the same words cost in time and
    of the context (called fertility where it is of a word: Rust et al. 2021, ACL, section 4)."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    cut = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return sum(len(one.ids) for one in cut) / max(1, sum(map(len, texts)))


def _training(folder: Path, questions: Sequence[Question], sets: Sets, recipe: Recipe) -> BaseTraining | None:
    """Of the corrections; in a domain that has none yet, of as many examples as its exam has questions."""
    places = sets.get(UNTAUGHT) or range(len(questions))
    items = [questions[place].item for place in places]
    spec = TrainSpec(
        model_dir=str(folder),
        rows=tuple(TrainingRow(prompt=item.question, answer=item.answer, group=item.id) for item in items),
        earlier=(),
        replay_prompts=general_prompts(),
        recipe=recipe,
        out_dir="",
        checkpoint_dir="",
        threads=HEAVY_THREADS,
        precision=fast_precision(),
    )
    found = plan_of(spec)
    return None if found is None else BaseTraining(found.peak_gb, found.seconds, found.fits)
