"""The step `evaluate`: the candidate and the release in force answer the same questions; the counts go to the gate.

The rows are kept as an artifact, sealed, and serve again: what a model has answered before is not asked again.
"""

import json
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from msgspec import Struct
from sqlalchemy import text

from streams.errors import Erased, Invalid
from streams.events import CandidateEvaluated
from streams.gate import EARLIER, FIXES, Paired
from streams.orders import EvaluateCandidate
from streams.sealed import Sealed
from streams.sealing import digest, open_sealed, seal
from streams.store import postgres_trouble
from workers.context import Context
from workers.engines import make_engine
from workers.engines.protocol import EngineSpec
from workers.evaluator.opencompass import Endpoint, ExamItem, Row, evaluate
from workers.snapshot import load, open_prompt

READY_DEADLINE_S = 120.0
SECONDS_PER_ITEM = 10.0


class KeptRow(Struct, frozen=True):
    """One answered question. `fingerprint` is a keyed digest of question, answer and keys; `prediction` is sealed with the
    key of whoever asked."""

    id: str
    set: str
    fingerprint: str
    right: bool
    prediction: Sealed


class Evaluation(Struct, frozen=True):
    format: int
    model: str
    rows: tuple[KeptRow, ...]


class Question(Struct, frozen=True):
    """An exam item with who it belongs to."""

    item: ExamItem
    fingerprint: str
    subject: str  # whose key seals what a model answers to it

    def __repr__(self) -> str:
        return f"Question({self.item.id})"


class _Tally:
    """How many questions were answered, by all models together, and how long the rest takes."""

    def __init__(self, order: EvaluateCandidate, context: Context, total: int) -> None:
        self._order = order
        self._context = context
        self._total = total
        self._answered: dict[str, int] = {}
        self._first: tuple[int, float] | None = None  # engines and OpenCompass take their time to start

    def tell(self, model: str, answered: int) -> None:
        self._answered[model] = answered
        done, now = sum(self._answered.values()), time.monotonic()
        left: float | None = None
        if self._first is None and done:
            self._first = (done, now)
        elif self._first is not None and done > self._first[0]:
            left = (now - self._first[1]) / (done - self._first[0]) * (self._total - done)
        self._context.progress(self._order, "evaluate", done, self._total, left)


def run(order: EvaluateCandidate, context: Context) -> None:
    began = time.monotonic()
    questions = _questions(order, context)
    if not any(question.item.set == FIXES for question in questions):
        raise Invalid("nothing of the snapshot can be examined: all its people were erased")
    before = _known(order, context)
    missing = [q for q in questions if q.fingerprint not in before]
    tally = _Tally(order, context, len(questions) + len(missing))
    # Side by side: an engine computes on one thread, and most machines have two cores.
    with ThreadPoolExecutor(2, "exam") as examiners:
        of_candidate = examiners.submit(_examine, order, context, order.candidate_model, questions, tally)
        of_base = examiners.submit(_examine, order, context, order.base_model, missing, tally)
        rows, fresh = of_candidate.result(), of_base.result()
    was_right = before | {q.fingerprint: row.right for q, row in zip(missing, fresh, strict=True)}
    kept = Evaluation(
        1, order.candidate_model, tuple(_keep(order, context, q, r) for q, r in zip(questions, rows, strict=True))
    )
    event = CandidateEvaluated(
        domain=order.domain,
        round_id=order.round_id,
        order_id=order.order_id,
        rows=context.artifacts.put_bytes(msgspec.json.encode(kept)),
        paired=_paired([(q.item.set, was_right[q.fingerprint], r.right) for q, r in zip(questions, rows, strict=True)]),
        duration_s=round(time.monotonic() - began, 1),
    )
    context.publish(order, event, "candidate_evaluated")


def _questions(order: EvaluateCandidate, context: Context) -> list[Question]:
    """New and earlier fixes from the snapshot, held-out and general questions from the exam as of the pin."""
    found = []
    for row in load(order.snapshot, context.artifacts).rows:
        try:
            question = open_prompt(row.prompt, context.keyring).question
            answer = open_sealed(row.answer, context.keyring)
        except Erased:
            continue
        name = FIXES if row.role == "new" else EARLIER
        found.append(_question(context, f"person:{row.person}", row.example_id, name, question, answer, ()))
    with postgres_trouble(), context.engine.connect() as connection:
        items = connection.execute(
            text(
                "SELECT item_id, kind, item FROM noria.exam_items WHERE domain = :domain AND added_offset < :pin"
                " ORDER BY added_offset"
            ),
            {"domain": order.domain, "pin": order.pin},
        ).all()
    for item in items:
        try:
            opened = json.loads(open_sealed(msgspec.convert(item.item, Sealed), context.keyring))
        except Erased:
            continue
        asked, answer, keys = str(opened["question"]), str(opened["answer"]), tuple(map(str, opened["keys"]))
        found.append(_question(context, f"domain:{order.domain}", item.item_id, item.kind, asked, answer, keys))
    return found


def _question(
    context: Context, subject: str, id: str, name: str, question: str, answer: str, keys: tuple[str, ...]
) -> Question:
    fingerprint = digest(json.dumps([question, answer, keys]).encode(), context.keyring)
    return Question(ExamItem(id=id, set=name, question=question, answer=answer, keys=keys), fingerprint, subject)


def _known(order: EvaluateCandidate, context: Context) -> dict[str, bool]:
    """What the release in force answered when it was a candidate itself, by fingerprint."""
    with postgres_trouble(), context.engine.connect() as connection:
        digests = connection.execute(
            text("SELECT evaluation FROM noria.rounds WHERE domain = :d AND model = :m AND evaluation IS NOT NULL"),
            {"d": order.domain, "m": order.base_model},
        ).scalars()
        kept = [d for d in digests if context.artifacts.has(d)]
    found: dict[str, bool] = {}
    for name in kept:
        evaluation = msgspec.json.decode(context.artifacts.path(name).read_bytes(), type=Evaluation)
        found |= {row.fingerprint: row.right for row in evaluation.rows}
    return found


def _examine(
    order: EvaluateCandidate, context: Context, model: str, questions: Sequence[Question], tally: _Tally
) -> list[Row]:
    """The model's rows, in the order of `questions`."""
    if not questions:
        return []
    model_dir: Path = context.artifacts.path(model)
    name = f"exam-{model[-12:]}"
    spec = EngineSpec(
        kind=order.engine,
        model_dir=model_dir,
        model_name=name,
        slots=context.settings.engine_slots,
        threads=context.settings.engine_threads,
    )
    key = secrets.token_urlsafe()
    engine = make_engine(spec, key)
    engine.start()
    try:
        engine.ready(READY_DEADLINE_S)
        rows = evaluate(
            context.settings.opencompass,
            Endpoint(engine.base_url, key, name),
            [question.item for question in questions],
            model_dir,
            60.0 + SECONDS_PER_ITEM * len(questions),
            lambda answered, _: tally.tell(model, answered),
        )
    finally:
        engine.stop()
    by_id = {(row.set, row.id): row for row in rows}
    return [by_id[question.item.set, question.item.id] for question in questions]


def _keep(order: EvaluateCandidate, context: Context, question: Question, row: Row) -> KeptRow:
    ref = f"{order.order_id}#{row.set}/{row.id}"
    sealed = seal(row.prediction, context.keyring.key_for(question.subject), ref)
    return KeptRow(row.id, row.set, question.fingerprint, row.right, sealed)


def _paired(results: Sequence[tuple[str, bool, bool]]) -> dict[str, Paired]:
    """Counts by set, of (set, right before, right after)."""
    found = {}
    for name in sorted({name for name, _, _ in results}):
        pairs = [(before, after) for set_name, before, after in results if set_name == name]
        found[name] = Paired(
            n=len(pairs),
            both=pairs.count((True, True)),
            only_before=pairs.count((True, False)),
            only_after=pairs.count((False, True)),
            neither=pairs.count((False, False)),
        )
    return found
