"""The step `evaluate`: the candidate and the release in force answer the same questions; the counts go to the gate.

The rows are kept as an artifact, sealed, and serve again: what a model has answered before is not asked again, unless it would be
asked or scored otherwise now.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from streams import scoring
from streams.alike import words_of
from streams.engines import serving_kind
from streams.errors import Erased, Invalid
from streams.facts.rounds import CandidateEvaluated
from streams.gate import EARLIER, FIXES, GENERAL, GENERAL_FIRST, HELD_OUT, PREFERENCE, SERVED, SKILL, Paired
from streams.orders import EvaluateCandidate
from streams.reading.learning import examples_to_learn, live_lines
from streams.reading.rounds import Served, served
from streams.sealed import Sealed
from streams.sealing import Keys, open_sealed, seal
from streams.snapshots import Snapshot, load, masked_prompt, open_prompt
from streams.store import postgres_trouble
from workers.context import Cancelled, Context
from workers.engines import engine_version, exam_engines, make_engine
from workers.engines.protocol import EngineSpec
from workers.evaluator import inside, opencompass
from workers.evaluator.install import made_of
from workers.evaluator.installation import Installation
from workers.evaluator.opencompass import AT_ONCE, Cost, Endpoint, Exam, Examiner, ExamRow
from workers.evaluator.pleasing import Answered, Looked, look_through, paired_of, preferred
from workers.evaluator.questions import Question, as_served, fix, of_exam, of_skill, of_snapshot
from workers.recall.as_of import memory_as_of
from workers.register import EXAM_ROOM, Words, WordsGone, register, unregister

NICENESS = 10  # of the engines that are examined
SECONDS_PER_ITEM = 10.0
NEAR_S = 60.0  # a round that time alone may start within this is near
AHEAD_AT_ONCE = 200  # a started exam is lost when an order comes
CORRECTED_AT_ONCE = 16  # an order may be about to come
CORRECTED_AT_LEAST = 8  # an engine is started for them


class KeptRow(Struct, frozen=True):
    """One answered question. `fingerprint` is a digest of question, answer and keys, keyed by whose they are; `prediction` is
    sealed with the same key. What it cost, rows of an older form do not say."""

    id: str
    set: str
    fingerprint: str
    right: bool
    prediction: Sealed
    cost: Cost | None = None


class Evaluation(Struct, frozen=True):
    format: int
    model: str
    rows: tuple[KeptRow, ...]


class _Pace:
    """Tells how many questions were answered and how long the rest takes."""

    def __init__(self, order: EvaluateCandidate, context: Context) -> None:
        self._order = order
        self._context = context
        self._first: tuple[int, float] | None = None  # engines and OpenCompass take their time to start
        self._told = -1

    def tell(self, done: int, total: int) -> None:
        if done == self._told:
            self._context.check()
            return
        self._told, now = done, time.monotonic()
        left: float | None = None
        if self._first is None and done:
            self._first = (done, now)
        elif self._first is not None and done > self._first[0]:
            left = (now - self._first[1]) / (done - self._first[0]) * (total - done)
        self._context.progress(self._order, "evaluate", done, total, left)


def run(order: EvaluateCandidate, context: Context) -> None:
    with closing(Installation(context.settings.opencompass)) as installation:
        context.wait(order, "evaluate", installation.missing)
    while True:
        try:
            return _evaluate(order, context)
        except WordsGone:
            context.check()


def _evaluate(order: EvaluateCandidate, context: Context) -> None:
    began = time.monotonic()
    snapshot = load(order.snapshot, context.artifacts)
    bare = of_skill(order.domain, context.keyring) if snapshot.opening else of_snapshot(snapshot, context.keyring)
    bare += of_exam(order.domain, order.pin, context, snapshot.mask)
    _check_apart(snapshot, bare, context.keyring)
    # What learns from pairs alone has no fixes: it is asked what it must keep, and what people prefer.
    by_preference = bool(snapshot.pairs or snapshot.labels)
    if not (by_preference and bare) and not any(question.item.set in (FIXES, EARLIER, SKILL) for question in bare):
        raise Invalid("nothing of the snapshot can be examined: all its people were erased")
    counted = {PREFERENCE: preferred(order, snapshot, context)} if by_preference else {}
    served: dict[int, Question] = {}
    if order.recall.kinds:
        memory = memory_as_of(order.domain, order.round_id, order.pin, order.recall.kinds, context)
        served = as_served(bare, memory, order.recall, context.keyring, snapshot.mask)
    questions = bare + list(served.values())
    kind, base_kind = (serving_kind(order.engine, needs) for needs in (order.needs, order.base_needs))
    form = form_of(base_kind, context)
    before = answered_before(order.domain, order.base_model, form, context)
    missing = [q for q in questions if q.fingerprint not in before]
    wanted = [Examined(kind, order.candidate_model, questions)]
    if missing:
        wanted.append(Examined(base_kind, order.base_model, missing))
    general = [] if order.first_model in (None, order.base_model) else [q for q in bare if q.item.set == GENERAL]
    at_first: dict[str, bool] = {}
    if general:
        assert order.first_model is not None
        first_form = form_of(
            order.engine, context
        )  # the first model is a base, which the domain's engine serves as it is
        at_first = answered_before(order.domain, order.first_model, first_form, context)
        if never := [q for q in general if q.fingerprint not in at_first]:
            wanted.append(Examined(order.engine, order.first_model, never))
    rows, *more = examine(wanted, context, _Pace(order, context).tell)
    context.dismiss()
    for one, fresh in zip(wanted[1:], more, strict=True):
        keep(order.domain, one.model, form_of(one.engine, context), one.questions, fresh, context)
        known = before if one.model == order.base_model else at_first
        known |= {q.fingerprint: row.right for q, row in zip(one.questions, fresh, strict=True)}
    results = [(before[q.fingerprint], row.right) for q, row in zip(questions, rows, strict=True)]
    paired = paired_by_set(bare, served, results)
    if general:
        after = {q.fingerprint: row.right for q, row in zip(questions, rows, strict=True)}
        paired[GENERAL_FIRST] = paired_of([(at_first[q.fingerprint], after[q.fingerprint]) for q in general])
    pleases = order.pleases or by_preference
    looked = Looked()
    if pleases or order.style:
        looked = look_through(order, pleases, _answered(order, bare, rows, form, context), context)
    event = CandidateEvaluated(
        domain=order.domain,
        round_id=order.round_id,
        order_id=order.order_id,
        rows=keep(order.domain, order.candidate_model, form_of(kind, context), questions, rows, context),
        paired=paired | counted | looked.paired,
        means=looked.means,
        absent=looked.absent,
        duration_s=round(time.monotonic() - began, 1),
    )
    context.publish(order, event, "candidate_evaluated")


def _check_apart(snapshot: Snapshot, questions: Sequence[Question], keys: Keys) -> None:
    """Raise Invalid where a question of the exam is taught: whoever chose the training set should not have let it in, and what a
    candidate scores on that says nothing."""
    exam = {words_of(question.item.question) for question in questions if question.item.set in (HELD_OUT, GENERAL)}
    taught = [row.prompt for row in snapshot.rows] + [wording for row in snapshot.rows for wording in row.wordings]
    taught += [pair.prompt for pair in snapshot.pairs] + [label.prompt for label in snapshot.labels]
    leaked = 0
    for prompt in taught if exam else ():
        with suppress(Erased, Invalid):
            leaked += words_of(masked_prompt(open_prompt(prompt, keys), snapshot.mask).question) in exam
    if leaked:
        raise Invalid(
            f"{leaked} of the prompts of the training set stand in the exam: nothing that is asked may be taught"
        )


def _answered(
    order: EvaluateCandidate, bare: Sequence[Question], rows: Sequence[ExamRow], form: str, context: Context
) -> list[Answered]:
    """What the release in force and the candidate answered to the `bare` questions. `rows`: the candidate's, of these first. Raises
    WordsGone."""
    known = rows_before(order.domain, order.base_model, form, context)
    try:
        before = [open_sealed(known[question.fingerprint].prediction, context.keyring) for question in bare]
    except Erased:
        raise WordsGone from None
    return [Answered(q, said, row.prediction) for q, said, row in zip(bare, before, rows, strict=False)]


def form_of(engine: str, context: Context) -> str:
    """A digest of everything that an answer and whether it is right depend on, besides model and question: the kind of engine and
    its version, OpenCompass's, the form in which it asks, and the scorer."""
    return hashlib.sha256(
        json.dumps([_form_of_code(engine, context.settings.lightllm), made_of(context.settings.opencompass)]).encode()
    ).hexdigest()


@lru_cache
def _form_of_code(engine: str, lightllm: Path | None) -> str:
    """Of what stays the same as long as this process lives."""
    known = hashlib.sha256(json.dumps([engine, engine_version(engine, lightllm)]).encode())
    for module in (opencompass, inside, scoring):
        known.update(Path(str(module.__file__)).read_bytes())
    return known.hexdigest()


def look_ahead(context: Context, stop: Callable[[], bool]) -> bool:
    """Let a release in force answer, while nothing else is to be done, what the next round will ask it: the questions of its exam
    and those that people have corrected. The round is live so much sooner. Gives up when `stop` says that there is an order.

    True if it has examined anything. Raises Unavailable.
    """
    with postgres_trouble(), context.database.connect() as connection:
        live = served(connection, NEAR_S)
        answered = _exam_answered(connection, live)
    for release in live:
        questions: list[Question] = []
        form = form_of(release.engine, context)
        if release.exam_items > answered.get((release.domain, release.model, form), 0):
            known = answered_before(release.domain, release.model, form, context)
            exam = of_exam(release.domain, None, context, release.mask)
            questions = [q for q in exam if q.fingerprint not in known][:AHEAD_AT_ONCE]
        looked_at = None
        if not questions:
            least = 1 if release.near else CORRECTED_AT_LEAST
            questions, looked_at = _corrected(release, form, least, context)
        if questions and not _answer_ahead(
            release.domain, release.engine, release.model, form, questions, context, stop
        ):
            return False
        if looked_at is not None:
            context.looked_at[release.domain, release.model] = looked_at
        if questions:
            return True
    return False


def _exam_answered(connection: Connection, live: Sequence[Served]) -> dict[tuple[str, str, str], int]:
    """How many questions of its exam each of them has answered, by domain, model and form. Cheap to ask four times a second; what
    was answered twice (an order carried out again) counts twice, and then less is asked ahead."""
    rows = connection.execute(
        text(
            "SELECT domain, model, form, sum(exam_items) AS answered FROM work.examined"
            " JOIN unnest(cast(:domains AS text[]), cast(:models AS text[])) l (domain, model) USING (domain, model)"
            " GROUP BY domain, model, form"
        ),
        {"domains": [one.domain for one in live], "models": [one.model for one in live]},
    )
    return {(row.domain, row.model, row.form): int(row.answered) for row in rows}


def _answer_ahead(
    domain: str,
    engine: str,
    model: str,
    form: str,
    questions: list[Question],
    context: Context,
    stop: Callable[[], bool],
) -> bool:
    """Whether it came to its end."""

    def tell(answered: int, total: int) -> None:
        if stop():
            raise Cancelled

    try:
        (rows,) = examine([Examined(engine, model, questions)], context, tell)
        keep(domain, model, form, questions, rows, context)
    except (Cancelled, WordsGone):
        return False
    return True


def _corrected(release: Served, form: str, least: int, context: Context) -> tuple[list[Question], int | None]:
    """The next few corrections that the live release has not learned and was not asked, and up to where they go on the log; nothing
    while there are not `least`."""
    domain, model = release.domain, release.model
    with postgres_trouble(), context.database.connect() as connection:
        line = live_lines(connection, [domain])[domain]
        after = context.looked_at.get((domain, model), -1)
        new = examples_to_learn(connection, domain, line, after, CORRECTED_AT_ONCE)
    if len(new) < least:
        return [], None
    known = answered_before(domain, model, form, context)
    found = [fix(row.example_id, row.prompt, row.answer, context.keyring, release.mask) for row in new]
    return [q for q in found if q is not None and q.fingerprint not in known], new[-1].accepted_offset


def answered_before(domain: str, model: str, form: str, context: Context) -> dict[str, bool]:
    """Whether what the model has answered before in the form was right, by fingerprint."""
    return {fingerprint: row.right for fingerprint, row in rows_before(domain, model, form, context).items()}


def rows_before(domain: str, model: str, form: str, context: Context) -> dict[str, KeptRow]:
    """What the model has answered before in the form, as a candidate or ahead of a round, by fingerprint."""
    with postgres_trouble(), context.database.connect() as connection:
        digests = connection.execute(
            text(
                "SELECT evaluation FROM work.examined WHERE domain = :domain AND model = :model AND form = :form"
                " ORDER BY made_at"
            ),
            {"domain": domain, "model": model, "form": form},
        ).scalars()
        kept = [d for d in digests if context.artifacts.has(d)]
    found: dict[str, KeptRow] = {}
    for name in kept:
        evaluation = msgspec.json.decode(context.artifacts.read(name), type=Evaluation)
        found |= {row.fingerprint: row for row in evaluation.rows}
    return found


class Examined(Struct, frozen=True):
    """A model that is asked questions, as an engine of that kind serves it."""

    engine: str
    model: str
    questions: Sequence[Question]


def examine(wanted: Sequence[Examined], context: Context, tell: Callable[[int, int], None]) -> list[list[ExamRow]]:
    """The rows of each, in the order of its questions. `tell(answered, all)` reports. Raises NotInstalled, Unavailable, and
    WordsGone when somebody was erased whose words are asked; the room is empty then."""
    if context.examiner is None or not context.examiner.waits():
        context.examiner = Examiner(context.settings.opencompass)
    with ExitStack() as engines:
        exams = []
        for one in wanted:
            model_dir = context.artifacts.path(one.model)
            spec = EngineSpec(
                kind=one.engine,
                model_dir=model_dir,
                model_name=f"exam-{one.model[-12:]}",
                slots=AT_ONCE,
                niceness=NICENESS,
                lightllm=context.settings.lightllm,
            )
            key = secrets.token_urlsafe()
            asked = [make_engine(spec, key) for _ in range(exam_engines(one.engine))]
            for engine in asked:
                engines.callback(engine.stop)
                engine.start()
            for engine in asked:
                engine.ready(engine.start_deadline_s)
            endpoint = Endpoint(tuple(engine.base_url for engine in asked), key, spec.model_name)
            exams.append(Exam(endpoint, model_dir, [question.item for question in one.questions]))
        deadline_s = 60.0 + SECONDS_PER_ITEM * sum(len(exam.items) for exam in exams)
        kids = sorted({kid for one in wanted for question in one.questions for kid in question.kids})
        words, room = Words(context, kids), str(context.examiner.room)
        register(context.database, context.settings.host, EXAM_ROOM, room, context.worker, kids)
        try:
            words.look(at_once=True)

            def look_and_tell(answered: int, total: int) -> None:
                words.look()
                tell(answered, total)

            return context.examiner.evaluate(exams, deadline_s, look_and_tell)
        finally:
            unregister(context.database, context.settings.host, room)


def keep(
    domain: str, model: str, form: str, questions: Sequence[Question], rows: Sequence[ExamRow], context: Context
) -> str:
    """Seal and keep what the model answered, so that no round asks it again; the digest. Raises WordsGone when somebody was erased
    whose words were asked."""
    kept = []
    for question, row in zip(questions, rows, strict=True):
        try:
            with postgres_trouble():
                key = context.keyring.find(question.kids[-1])
        except Erased:
            raise WordsGone from None
        sealed = seal(row.prediction, key, f"{model}#{row.set}/{row.id}")
        kept.append(KeptRow(row.id, row.set, question.fingerprint, row.right, sealed, row.cost))
    name = context.artifacts.put_bytes(msgspec.json.encode(Evaluation(1, model, tuple(kept))))
    of_exam = sum(row.set in (HELD_OUT, GENERAL) for row in rows)
    with postgres_trouble(), context.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO work.examined (evaluation, domain, model, form, exam_items, made_at)"
                " VALUES (:rows, :domain, :model, :form, :of_exam, now()) ON CONFLICT DO NOTHING"
            ),
            {"rows": name, "domain": domain, "model": model, "form": form, "of_exam": of_exam},
        )
    return name


def paired_by_set(
    bare: Sequence[Question], served: Mapping[int, Question], results: Sequence[tuple[bool, bool]]
) -> dict[str, Paired]:
    """The counts of each set. `results`, (right before, right after): of the bare questions, then of the `served` ones. A set is
    there as it is served where anything is recalled for it; of a question for which nothing is, bare is how it is served."""
    found: dict[str, list[tuple[bool, bool]]] = {}
    as_served = dict(zip(served, results[len(bare) :], strict=True))
    recalled = {bare[number].item.set for number in served}
    for number, question in enumerate(bare):
        name = question.item.set
        found.setdefault(name, []).append(results[number])
        if name in recalled:
            found.setdefault(SERVED[name], []).append(as_served.get(number, results[number]))
    return {name: paired_of(pairs) for name, pairs in sorted(found.items())}
