"""The order `compare`: the base model and the live release answer the same questions, bare and with what is recalled for them.

What either has answered before in the same form, in a round or ahead of one, is not asked again.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TypeVar

from streams.engines import serving_kind
from streams.errors import Invalid
from streams.facts.comparisons import UNTAUGHT, Answers, ComparisonMade, Variant
from streams.gate import EARLIER, FIXES
from streams.orders import CompareBases, CompareReleases
from streams.reading.learning import lines, masked_kinds, taught_by
from streams.store import postgres_trouble
from workers.context import Context
from workers.evaluator.installation import Installation
from workers.evaluator.questions import Question, as_served, fix, of_exam
from workers.evaluator.step import Examined, KeptRow, examine, form_of, keep, rows_before
from workers.recall.as_of import memory_of, settled
from workers.register import WordsGone

Sets = dict[str, list[int]]  # the places of its questions
Name = TypeVar("Name", bound=str)


def run(order: CompareReleases, context: Context) -> None:
    for model in (order.base_model, order.model):
        if not context.artifacts.has(model):
            raise Invalid(f"the model {model}, which is to be compared, is not on the disk any more")
    while True:
        try:
            return _compare(order, context)
        except WordsGone:
            context.check()


def _compare(order: CompareReleases, context: Context) -> None:
    began = time.monotonic()
    bare, served, sets = _questions(order, context)
    if not bare:
        raise Invalid("there is nothing to compare them by: no correction counts, and the exam is empty")
    models: dict[Variant, str] = {"base": order.base_model}
    if order.model != order.base_model:
        models["trained"] = order.model
    kinds = {name: serving_kind(order.engine, order.needs if name == "trained" else "merged") for name in models}
    asked = {name: (kinds[name], model) for name, model in models.items()}
    rows = answered(order, asked, [*bare, *served.values()], context)
    event = ComparisonMade(
        domain=order.domain,
        order_id=order.order_id,
        release=order.release,
        sets={name: _counted(order, places, bare, served, models, rows) for name, places in sets.items()},
        duration_s=round(time.monotonic() - began, 1),
    )
    context.publish(order, event, "comparison_made")


def _questions(order: CompareReleases, context: Context) -> tuple[list[Question], dict[int, Question], Sets]:
    """The corrections that count and the exam, as of the pin; by place those for which something is recalled, behind that; and
    which of them are of which set. `fixes` are what the newest round of the release taught, `earlier` what those before it did."""
    with postgres_trouble(), context.database.connect() as connection:
        line = lines(connection, [order.domain]).of(order.domain, order.release)
        taught, mask = taught_by(connection, line), masked_kinds(connection, order.domain)
    newest = min(map(line.index, taught.values()), default=None)
    corrections = settled(order.domain, line, order.pin, context)
    bare: list[Question] = []
    sets: Sets = {}
    for row in corrections.kept:
        question = fix(row.example_id, row.prompt, row.answer, context.keyring, mask)
        if question is None:
            continue  # erased a moment ago
        by = taught.get(row.example_id)
        name = UNTAUGHT if by is None else FIXES if line.index(by) == newest else EARLIER
        sets.setdefault(name, []).append(len(bare))
        bare.append(question)
    for question in of_exam(order.domain, order.pin, context, mask):
        sets.setdefault(question.item.set, []).append(len(bare))
        bare.append(question)
    if not order.recall.kinds:
        return bare, {}, sets
    memory = memory_of(order.domain, corrections, order.pin, order.recall.kinds, context)
    return bare, as_served(bare, memory, order.recall, context.keyring, mask), sets


def answered(
    order: CompareReleases | CompareBases,
    models: Mapping[Name, tuple[str, str]],
    questions: Sequence[Question],
    context: Context,
) -> dict[Name, dict[str, KeptRow]]:
    """What each model, served by engines of a kind, answered, by fingerprint; what it was not asked before, it is asked now.
    `models`: the kind, and the digest. Raises WordsGone."""

    def known() -> dict[Name, dict[str, KeptRow]]:
        return {
            name: rows_before(order.domain, model, form_of(kind, context), context)
            for name, (kind, model) in models.items()
        }

    found = known()
    missing = {name: [q for q in questions if q.fingerprint not in found[name]] for name in models}
    wanted = [Examined(*models[name], asked) for name, asked in missing.items() if asked]
    if not wanted:
        return found
    with closing(Installation(context.settings.opencompass)) as installation:
        context.wait(order, "evaluate", installation.missing)
    answers = examine(wanted, context, lambda done, total: context.progress(order, "evaluate", done, total))
    context.dismiss()
    for one, rows in zip(wanted, answers, strict=True):
        keep(order.domain, one.model, form_of(one.engine, context), one.questions, rows, context)
    return known()


def _counted(
    order: CompareReleases,
    places: Sequence[int],
    bare: Sequence[Question],
    served: Mapping[int, Question],
    models: Mapping[Variant, str],
    rows: Mapping[Variant, Mapping[str, KeptRow]],
) -> dict[Variant, Answers]:
    """Of the questions at those places. One for which nothing is recalled is served bare."""
    recalled: dict[Variant, Variant] = {"base": "base_recalled", "trained": "trained_recalled"}
    found: dict[Variant, Answers] = {}
    for name in models:
        found[name] = answers_of([rows[name][bare[place].fingerprint] for place in places])
        if order.recall.kinds:
            asked = [served.get(place, bare[place]) for place in places]
            found[recalled[name]] = answers_of([rows[name][question.fingerprint] for question in asked])
    return found


def answers_of(rows: Sequence[KeptRow]) -> Answers:
    """The costs are averages over the questions of which they are known."""
    right, costs = sum(row.right for row in rows), [row.cost for row in rows if row.cost is not None]
    if not costs:
        return Answers(len(rows), right)
    return Answers(
        n=len(rows),
        right=right,
        prompt_tokens=round(sum(cost.prompt_tokens for cost in costs) / len(costs), 2),
        completion_tokens=round(sum(cost.completion_tokens for cost in costs) / len(costs), 2),
        seconds=round(sum(cost.seconds for cost in costs) / len(costs), 4),
    )
