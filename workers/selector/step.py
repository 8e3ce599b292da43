"""The step `select`: from the examples that stood on the log at the round's pin to a snapshot, with reasons."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from streams.errors import Erased, Invalid
from streams.facts.rounds import ExamplesSelected, SnapshotSelected
from streams.history import Before, Whole, before
from streams.orders import SelectSnapshot
from streams.reading.learning import AskedInVain, Example, asked_in_vain, exam_as_of, examples_as_of, line_of_round
from streams.sealing import open_sealed
from streams.store import postgres_trouble
from workers.context import Context
from workers.models.chat_tokens import ChatTokens
from workers.recall.encoder import sentence_encoder
from workers.selector.agreement import OpenExample, settle, words_of
from workers.selector.snapshot import FORMAT, Dropped, Opened, Snapshot, SnapshotRow, open_prompt, save
from workers.selector.wordings import Asked, same_question
from workers.trainer.rows import encode_rows
from workers.trainer.spec import TrainingRow

IN_THE_EXAM = "its question stands in the exam"
ERASED = "erased"
TOO_LONG = "longer than the recipe's row_tokens"
NAMED_AT_ONCE = 10_000  # examples, in one event: half of what it may hold
UNREADABLE = "no conversation that can be read"


def run(order: SelectSnapshot, context: Context) -> None:
    snapshot = select(order, context)
    new = [row for row in snapshot.rows if row.role == "new"]
    digest, kept = save(snapshot, context.artifacts), tuple(row.example_id for row in new)
    about: dict[str, Any] = {
        "domain": order.domain,
        "round_id": order.round_id,
        "order_id": order.order_id,
        "snapshot": digest,
    }
    named = range(0, max(0, len(kept) - NAMED_AT_ONCE), NAMED_AT_ONCE)
    for start in named:
        part = ExamplesSelected(**about, kept=kept[start : start + NAMED_AT_ONCE])
        context.publish(order, part, f"examples_selected {digest} {start}")
    event = SnapshotSelected(
        **about,
        kept=kept[len(named) * NAMED_AT_ONCE :],
        named=len(named) * NAMED_AT_ONCE,
        earlier=len(snapshot.rows) - len(new),
        wordings=sum(len(row.wordings) for row in new),
        dropped=dict(sorted(Counter(d.reason for d in snapshot.dropped).items())),
    )
    context.publish(order, event, "snapshot_selected")


def select(order: SelectSnapshot, context: Context) -> Snapshot:
    """The training set, by what stood on the log at the pin and opens now. Raises Cancelled, Unavailable."""
    examples, exam, in_vain, earlier = _read(order, context)
    wholes: dict[str, Whole] = {}
    opened: dict[str, Opened] = {}
    candidates, dropped = [], []
    forbidden = {words_of(question) for question in exam}
    for done, row in enumerate(examples):
        context.progress(order, "select", done, len(examples))
        try:
            whole = earlier.whole(row.prompt, row.follows)
            found = open_prompt(whole, context.keyring)
            words = open_sealed(row.answer, context.keyring)
        except Erased:
            dropped.append(Dropped(row.example_id, ERASED))
            continue
        except Invalid:
            dropped.append(Dropped(row.example_id, UNREADABLE))
            continue
        if words_of(found.question) in forbidden:
            dropped.append(Dropped(row.example_id, IN_THE_EXAM))
            continue
        opened[row.example_id], wholes[row.example_id] = found, whole
        candidates.append(
            OpenExample(
                example_id=row.example_id,
                person=row.person,
                question=found.question,
                context=found.context,
                answer=words,
                said_at=row.said_at,
                learned=row.learned,
            )
        )
    decisions = settle(candidates)
    dropped += [Dropped(d.example_id, d.reason) for d in decisions if not d.kept]
    kept = {d.example_id for d in decisions if d.kept}
    # Only now: what is too long to be learned still says that what it replaced is not to be learned.
    fits = _measure(order, context)
    answers = {candidate.example_id: candidate.answer for candidate in candidates}
    too_long = {e for e in kept if not fits(opened[e], answers[e])}
    dropped += [Dropped(e, TOO_LONG) for e in sorted(too_long)]
    kept -= too_long
    wordings = _wordings(
        context,
        {e: opened[e] for e in kept},
        in_vain,
        earlier,
        lambda e, asked: words_of(asked.question) not in forbidden and fits(asked, answers[e]),
    )
    rows = tuple(
        SnapshotRow(
            example_id=row.example_id,
            role="earlier" if row.learned else "new",
            person=row.person,
            prompt=wholes[row.example_id],
            answer=row.answer,
            wordings=wordings.get(row.example_id, ()),
        )
        for row in examples
        if row.example_id in kept
    )
    context.check()
    return Snapshot(FORMAT, order.domain, order.round_id, order.pin, rows, tuple(dropped))


def _read(order: SelectSnapshot, context: Context) -> tuple[list[Example], list[str], list[AskedInVain], Before]:
    """The domain's examples and exam questions as of the pin, what was asked in vain before each correction, and what stands before
    them all. `learned`: by the release that the round starts from."""
    with postgres_trouble(), context.database.connect() as connection:
        line = line_of_round(connection, order.domain, order.round_id)
        examples = examples_as_of(connection, order.domain, order.pin, line)
        exam = exam_as_of(connection, order.domain, order.pin)
        in_vain = asked_in_vain(connection, order.domain, order.pin)
        earlier = before(connection, {*(row.follows for row in examples), *(row.follows for row in in_vain)})
    questions = []
    for item in exam:
        try:
            questions.append(str(json.loads(open_sealed(item.item, context.keyring))["question"]))
        except Erased:
            continue  # an exam item of an erased domain key cannot be asked either
    return examples, questions, in_vain, earlier


def _measure(order: SelectSnapshot, context: Context) -> Callable[[Opened, str], bool]:
    """Whether a prompt and its answer are short enough for the recipe, by the very function that will encode them."""
    if order.base_model is None or order.recipe is None:
        return lambda asked, answer: True
    tokens, limit = ChatTokens(context.artifacts.path(order.base_model)), order.recipe.row_tokens

    def fits(asked: Opened, answer: str) -> bool:
        # Turns before it are left out, if need be.
        return bool(
            encode_rows(tokens, [TrainingRow(prompt=asked.question, answer=answer, system=asked.system)], limit)
        )

    return fits


def _wordings(
    context: Context,
    kept: dict[str, Opened],
    in_vain: list[AskedInVain],
    earlier: Before,
    usable: Callable[[str, Opened], bool],
) -> dict[str, tuple[Whole, ...]]:
    """By example: the prompts that asked the same in other words, of those that are `usable` for it."""
    others: dict[str, list[Asked]] = {}
    wholes: dict[str, Whole] = {}
    for row in in_vain:
        if row.example_id not in kept:
            continue
        try:
            whole = earlier.whole(row.messages, row.follows)
            prompt = open_prompt(whole, context.keyring)
        except (Erased, Invalid):
            continue
        if usable(row.example_id, prompt):
            wholes[row.prompt_id] = whole
            others.setdefault(row.example_id, []).append(Asked(row.prompt_id, prompt.question))
    asked = [*(prompt for prompts in others.values() for prompt in prompts)]
    asked += [Asked(example_id, kept[example_id].question) for example_id in others]
    if not asked:
        return {}
    vectors = dict(zip((a.id for a in asked), sentence_encoder().embed([a.question for a in asked]), strict=True))
    return {
        example_id: tuple(
            wholes[prompt_id]
            for prompt_id in same_question(Asked(example_id, kept[example_id].question), prompts, vectors)
        )
        for example_id, prompts in others.items()
    }
