"""While no order waits, a release in force answers its exam: what a round needs is there before the round begins."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from uuid import uuid4

import pytest

from streams.artifacts import Artifacts
from streams.errors import Invalid, Unavailable
from streams.events import DomainEvent
from streams.facts.rounds import CandidateEvaluated
from streams.gate import (
    ANSWER_LENGTH,
    GENERAL,
    GENERAL_FIRST,
    PREFERENCE,
    REWARD_MODEL,
    GateMargins,
    Means,
    Paired,
    judge,
)
from streams.hacking import SIGNS
from streams.history import Part
from streams.log import KafkaLog
from streams.orders import EvaluateCandidate, Order
from streams.sealed import Sealed
from streams.sealing import Keyring, MasterKey
from streams.snapshots import FORMAT, Snapshot, SnapshotPair, save
from tests import door_world
from tests.door_world import MODEL, World
from tests.integration.by_hand import change, order_message, rows
from tests.waiting import PATIENCE_S
from workers import loop
from workers.context import Context
from workers.engines import engine_version
from workers.evaluator import pleasing
from workers.evaluator import step as evaluation
from workers.evaluator.installation import Installation
from workers.evaluator.opencompass import ExamRow
from workers.evaluator.questions import of_exam
from workers.evaluator.step import answered_before, form_of, look_ahead
from workers.loop import Idle

SECRET = "what the model said of the lighthouse"
Scored = tuple[float | None, ...] | Exception | None


@pytest.fixture
def context(world: World) -> Iterator[Context]:
    keyring = Keyring(world.database, MasterKey.made(world.settings.master_key))
    log = KafkaLog(world.kafka, "test-exam-ahead")
    yield Context(world.settings, world.database, log, keyring, "worker-1")
    log.close()


class Examined:
    """Stands in for engine and OpenCompass: every answer is the same, and right."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def __call__(
        self,
        wanted: Sequence[evaluation.Examined],
        context: Context,
        tell: Callable[[int, int], None],
    ) -> list[list[ExamRow]]:
        tell(0, 1)
        self.asked += [(one.model, [question.item.question for question in one.questions]) for one in wanted]
        return [[ExamRow(q.item.id, q.item.set, True, SECRET) for q in one.questions] for one in wanted]


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Examined:
    examined = Examined()
    monkeypatch.setattr(evaluation, "examine", examined)
    return examined


def add_exam(world: World, domain: str, *questions: str) -> None:
    items = [{"question": q, "answer": "yes", "keys": ["yes"], "kind": "general"} for q in questions]
    added = world.as_data.post(f"/v1/domains/{domain}/exam", json=items)
    assert added.status_code == 200, added.text
    world.caught_up(added.json()["position"])


ROUND = (
    "INSERT INTO noria.rounds (round_id, domain, number, step, reasons, opening, pin, base_model, base_release, requested_at)"
    " VALUES ('round-1', :domain, 1, 'train', '[]', false, 1, 'm', 0, now())"
)


def known(domain: str, model: str, context: Context) -> dict[str, bool]:
    return answered_before(domain, model, form_of("llamacpp", context), context)


def never() -> bool:
    return False


def drain(context: Context) -> None:
    """What other tests' domains have left to be examined."""
    while look_ahead(context, never):
        pass


def test_each_question_is_asked_once_and_the_round_knows_its_answer(
    world: World, context: Context, examined: Examined
) -> None:
    domain = world.domain()
    add_exam(world, domain, "Is it raining?", "Is it late?")
    drain(context)
    assert examined.asked == [(MODEL, ["Is it raining?", "Is it late?"])]
    assert not look_ahead(context, never)
    add_exam(world, domain, "Is it far?")
    assert look_ahead(context, never)
    assert examined.asked[1:] == [(MODEL, ["Is it far?"])]
    assert list(known(domain, MODEL, context).values()) == [True] * 3


def test_a_retired_question_is_not_asked_any_more_but_in_a_round_that_was_pinned_before(
    world: World, context: Context, examined: Examined
) -> None:
    drain(context)
    domain = world.domain()
    add_exam(world, domain, "Is it kept?", "Is it retired?")
    ids = [item["item_id"] for item in world.as_data.get(f"/v1/domains/{domain}/exam").json()["data"]]
    ((pin,),) = rows(
        context.database, "SELECT max(added_offset) + 1 FROM noria.exam_items WHERE domain = :domain", domain=domain
    )
    retired = world.as_data.post(f"/v1/domains/{domain}/exam/retire", json={"items": ids[1:]}).json()
    world.caught_up(retired["position"])

    def asked(pin: int | None) -> list[str]:
        return [question.item.question for question in of_exam(domain, pin, context)]

    assert asked(int(str(pin))) == ["Is it kept?", "Is it retired?"]
    assert asked(None) == asked(int(str(pin)) + 1000) == ["Is it kept?"]
    examined.asked.clear()
    drain(context)
    assert examined.asked == [(MODEL, ["Is it kept?"])]


def test_the_status_says_how_much_of_the_exam_the_live_release_has_answered(
    world: World, context: Context, examined: Examined
) -> None:
    domain = world.domain()

    def answered() -> tuple[int, int]:
        status = world.as_data.get(f"/v1/domains/{domain}/status").json()
        return status["exam_answered"], sum(status["exam"].values())

    add_exam(world, domain, "Is it one?", "Is it two?")
    assert answered() == (0, 2)
    drain(context)
    assert answered() == (2, 2)
    add_exam(world, domain, "Is it three?")
    assert answered() == (2, 3)


def test_an_exam_that_is_answered_is_not_opened_again(
    world: World, context: Context, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(context)
    add_exam(world, world.domain(), "Is it asked once?", "Is it opened once?")
    drain(context)
    monkeypatch.setattr(evaluation, "of_exam", pytest.fail)
    assert not look_ahead(context, never)


def test_an_exam_is_asked_in_portions(
    world: World, context: Context, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(context)
    examined.asked.clear()
    monkeypatch.setattr(evaluation, "AHEAD_AT_ONCE", 2)
    add_exam(world, world.domain(), *(f"Is {number} odd?" for number in range(5)))
    drain(context)
    assert [len(questions) for _, questions in examined.asked] == [2, 2, 1]


def test_an_order_that_waits_comes_first_and_what_was_begun_is_asked_again(
    world: World, context: Context, examined: Examined
) -> None:
    domain = world.domain()
    add_exam(world, domain, "Who comes first?")
    assert not look_ahead(context, lambda: True)
    assert examined.asked == []
    assert known(domain, MODEL, context) == {}
    drain(context)
    assert len(examined.asked) == 1


def correct(world: World, domain: str, *questions: str) -> None:
    """Let a person correct what was answered to each."""
    before = len(examples(world, domain))
    for question in questions:
        reply_id = world.chat(domain, question)["metadata"]["reply_ids"][0]
        said = {"reply_id": reply_id, "user": "ann", "correction": f"What is right about {question}"}
        assert world.as_chat.post("/v1/feedback", json=said).status_code == 200
    door_world.wait_until(lambda: len(examples(world, domain)) == before + len(questions), what="the examples")


def examples(world: World, domain: str) -> list[tuple[object, ...]]:
    query = "SELECT example_id FROM noria.examples WHERE domain = :d ORDER BY accepted_offset"
    return rows(world.database, query, d=domain)


def test_what_people_corrected_is_asked_when_there_is_enough_of_it_and_only_what_is_new(
    world: World, context: Context, examined: Examined
) -> None:
    domain = world.domain()
    drain(context)
    asked = [f"Is {number} the answer?" for number in range(evaluation.CORRECTED_AT_LEAST)]
    correct(world, domain, *asked[1:])
    assert not look_ahead(context, never)
    correct(world, domain, asked[0])
    assert look_ahead(context, never)
    assert examined.asked == [(MODEL, [*asked[1:], asked[0]])]
    assert len(known(domain, MODEL, context)) == len(asked)
    assert not look_ahead(context, never)
    examined.asked.clear()
    context.looked_at.clear()  # as another worker, which has not seen them
    assert not look_ahead(context, never)
    assert examined.asked == []


def test_when_a_round_is_near_each_correction_is_asked_but_none_that_a_release_has_learned(
    world: World, context: Context, examined: Examined
) -> None:
    domain = world.domain()
    drain(context)
    correct(world, domain, "Is it learned?", "Is it new?")
    assert not look_ahead(context, never)
    learned = str(examples(world, domain)[0][0])
    change(world.database, ROUND.replace("'train'", "'released'"), domain=domain)
    # Of the release that answers here, which has no round of its own.
    change(world.database, "UPDATE noria.rounds SET release = 0 WHERE round_id = 'round-1'")
    change(world.database, "INSERT INTO noria.learned (round_id, example_id) VALUES ('round-1', :e)", e=learned)
    change(world.database, "UPDATE noria.domains SET wake_at = now() WHERE domain = :domain", domain=domain)
    assert look_ahead(context, never)
    assert examined.asked == [(MODEL, ["Is it new?"])]
    for table in ("learned", "rounds"):
        change(world.database, f"DELETE FROM noria.{table} WHERE round_id = 'round-1'")
    change(world.database, "UPDATE noria.domains SET wake_at = NULL")


def test_what_a_model_answered_is_kept_sealed(world: World, context: Context, examined: Examined) -> None:
    domain = world.domain()
    add_exam(world, domain, "What of the lighthouse?")
    drain(context)
    ((kept,),) = rows(world.database, "SELECT evaluation FROM work.examined WHERE domain = :d", d=domain)
    content = Artifacts(world.settings.artifacts).path(str(kept)).read_bytes()
    assert SECRET.encode() not in content
    assert b'"right":true' in content


def test_another_model_has_answered_nothing(world: World, context: Context, examined: Examined) -> None:
    domain = world.domain()
    add_exam(world, domain, "Whose answer is it?")
    drain(context)
    assert len(known(domain, MODEL, context)) == 1
    assert known(domain, "sha256:" + "9" * 64, context) == {}


def test_what_would_be_asked_or_scored_otherwise_now_is_asked_again(
    world: World, context: Context, examined: Examined
) -> None:
    domain = world.domain()
    add_exam(world, domain, "Is it asked in the same way?")
    drain(context)
    context.settings.opencompass.mkdir(exist_ok=True)
    stamp = context.settings.opencompass / "noria-requirements.sha256"
    stamp.write_text("another OpenCompass")
    assert known(domain, MODEL, context) == {}
    drain(context)
    assert [asked for _, asked in examined.asked].count(["Is it asked in the same way?"]) == 2
    assert list(known(domain, MODEL, context).values()) == [True]
    status = world.as_data.get(f"/v1/domains/{domain}/status").json()
    assert status["exam_answered"] == 1, "and not two"
    stamp.unlink()
    assert list(known(domain, MODEL, context).values()) == [True], "each form has its own"


def test_each_thing_that_an_answer_depends_on_belongs_to_its_form(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = {form_of("llamacpp", context), form_of("lightllm", context)}
    for name in ("opencompass", "inside", "scoring"):
        with monkeypatch.context() as changed:
            evaluation._form_of_code.cache_clear()
            changed.setattr(evaluation, name, loop)  # another text
            forms.add(form_of("llamacpp", context))
    with monkeypatch.context() as changed:
        evaluation._form_of_code.cache_clear()
        changed.setattr(evaluation, "engine_version", lambda kind, lightllm: "another")
        forms.add(form_of("llamacpp", context))
    evaluation._form_of_code.cache_clear()
    assert len(forms) == 6
    assert engine_version("llamacpp", None).startswith("xllamacpp ")


def test_a_later_round_holds_general_ability_against_the_first_model_too_and_asks_that_once(
    world: World, context: Context, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Installation, "missing", lambda self: None)  # none is needed, and to make one takes minutes
    drain(context)
    domain, told = world.domain(), list[CandidateEvaluated]()
    add_exam(world, domain, "Is it general?", "Is it still?")

    def note(context: Context, order: Order, event: DomainEvent, name: str) -> None:
        if isinstance(event, CandidateEvaluated):
            told.append(event)

    monkeypatch.setattr(Context, "publish", note)
    opening = save(Snapshot(FORMAT, domain, "round-1", 10**6, (), (), opening=True), context.artifacts)
    first, base, candidate, last = (context.artifacts.put_bytes(name) for name in (b"first", b"base", b"one", b"two"))

    def asked_of_the_first(model: str, base_model: str) -> list[list[str]]:
        examined.asked.clear()
        order = EvaluateCandidate(
            order_id=uuid4(),
            domain=domain,
            round_id="round-1",
            pin=10**6,
            snapshot=opening,
            candidate_model=model,
            base_model=base_model,
            engine="llamacpp",
            first_model=first,
        )
        evaluation.run(order, context)
        return [questions for model, questions in examined.asked if model == first]

    assert asked_of_the_first(candidate, base) == [["Is it general?", "Is it still?"]]
    assert told[0].paired[GENERAL_FIRST] == Paired(2, 2, 0, 0, 0)
    assert asked_of_the_first(last, base) == [] and told[1].paired[GENERAL_FIRST].n == 2
    asked_of_the_first(last, first)
    assert GENERAL_FIRST not in told[2].paired, "it is the one that the round starts from"


def test_a_round_that_learned_from_pairs_alone_is_asked_what_it_must_keep_and_is_not_shipped_for_that(
    world: World, context: Context, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Installation, "missing", lambda self: None)
    drain(context)
    domain, told = world.domain(), list[CandidateEvaluated]()
    add_exam(world, domain, "Is it kept?", "Is it known?")

    def note(context: Context, order: Order, event: DomainEvent, name: str) -> None:
        if isinstance(event, CandidateEvaluated):
            told.append(event)

    monkeypatch.setattr(Context, "publish", note)
    words = Sealed("ann", "reply-1#text", "sealed")
    pair = SnapshotPair("prompt-1", (Part(words),), words, words, "reply-1", "reply-2", (), ("ann",))
    base, candidate = (context.artifacts.put_bytes(name) for name in (b"as it was", b"by pairs"))
    for pairs in ((pair,), ()):
        snapshot = Snapshot(FORMAT, domain, "round-1", 10**6, (), (), pairs=pairs)
        order = EvaluateCandidate(
            order_id=uuid4(),
            domain=domain,
            round_id="round-1",
            pin=10**6,
            snapshot=save(snapshot, context.artifacts),
            candidate_model=candidate,
            base_model=base,
            engine="llamacpp",
        )
        with nullcontext() if pairs else pytest.raises(Invalid, match="nothing of the snapshot can be examined"):
            evaluation.run(order, context)
    (event,) = told
    signs = {sign.name: Paired(2, 0, 0, 0, 2) for sign in SIGNS}
    assert event.paired == {GENERAL: Paired(2, 2, 0, 0, 0), PREFERENCE: Paired(0, 0, 0, 0, 0)} | signs
    assert event.means == {ANSWER_LENGTH: Means(2, len(SECRET), len(SECRET))} and event.absent == {}
    assert judge(event.paired, GateMargins()).outcome == "inconclusive"


def test_a_reward_model_scores_the_exam_or_is_absent_for_a_reason_and_the_round_goes_on(
    world: World, context: Context, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Installation, "missing", lambda self: None)
    drain(context)
    domain, told = world.domain(), list[CandidateEvaluated]()
    add_exam(world, domain, "Is it kept?", "Is it known?")

    def note(context: Context, order: Order, event: DomainEvent, name: str) -> None:
        if isinstance(event, CandidateEvaluated):
            told.append(event)

    monkeypatch.setattr(Context, "publish", note)
    opening = save(Snapshot(FORMAT, domain, "round-1", 10**6, (), (), opening=True), context.artifacts)
    made = "INSERT INTO noria.rounds (round_id, domain, number, step, reasons, pin, base_release, base_model, opening,"
    made += " said_by, requested_at, ended_at)"
    made += " VALUES (:id, :domain, 1, 'kept', '[]', 50, 0, '', false, CAST(:said_by AS jsonb), now(), now())"
    reward_round, keyring = f"reward of {domain}", context.keyring
    ana, ben, eve = (f"{who} of {domain}" for who in ("ana", "ben", "eve"))
    for who in (ana, ben, eve):
        keyring.key_for(f"person:{who}")
    keyring.destroy(f"person:{ana}")  # she came back
    keyring.key_for(f"person:{ana}")
    change(world.database, made, id=reward_round, domain=domain, said_by=json.dumps({ana: 3, ben: 1}))
    keyring.destroy(f"person:{eve}")
    model = context.artifacts.put_bytes(b"scores")

    def evaluated(reward_model: str = model, scored: Scored = (), round_id: str = reward_round) -> CandidateEvaluated:
        def scores(path: Path, said: Sequence[tuple[str, str]], look: Callable[[], None]) -> Scored:
            look()
            assert path == context.artifacts.path(model) and [asked for asked, _ in said] == 2 * [
                "Is it kept?",
                "Is it known?",
            ]
            if isinstance(scored, Exception):
                raise scored
            return scored

        monkeypatch.setattr(pleasing, "scores", scores)
        order = EvaluateCandidate(
            order_id=uuid4(),
            domain=domain,
            round_id="round-1",
            pin=10**6,
            snapshot=opening,
            candidate_model=context.artifacts.put_bytes(b"candidate"),
            base_model=context.artifacts.put_bytes(b"live"),
            engine="llamacpp",
            pleases=True,
            reward_model=reward_model,
            reward_round=round_id,
        )
        evaluation.run(order, context)
        return told[-1]

    assert evaluated(scored=(1.0, None, 2.0, 4.0)).means[REWARD_MODEL] == Means(1, 1.0, 2.0)
    assert evaluated(scored=None).absent == {REWARD_MODEL: "its score is no number"}
    assert evaluated(scored=(None, 1.0, 1.0, None)).absent == {REWARD_MODEL: "no answer to score"}
    assert evaluated(scored=Invalid("no reward model")).absent == {REWARD_MODEL: "cannot be read"}
    assert evaluated("sha256:" + "0" * 64).absent == {REWARD_MODEL: "removed"}
    keyring.destroy(f"person:{ben}")
    event = evaluated()
    assert event.absent == {REWARD_MODEL: "learned from somebody erased"} and REWARD_MODEL not in event.means
    assert ANSWER_LENGTH in event.means and {sign.name for sign in SIGNS} <= set(event.paired)
    assert PREFERENCE not in event.paired, "nobody's preferences were learned"


def idle(context: Context) -> Idle:
    return Idle(context, ["select_snapshot", "train_candidate", "evaluate_candidate"], threading.Event())


def test_a_worker_without_an_order_examines_ahead_and_an_order_calls_it_away(
    world: World, context: Context, examined: Examined
) -> None:
    drain(context)
    assert not idle(context).work()
    add_exam(world, world.domain(), "Is there time?")
    order = EvaluateCandidate(
        order_id=uuid4(),
        domain="elsewhere",
        round_id=str(uuid4()),
        pin=1,
        snapshot=MODEL,
        candidate_model=MODEL,
        base_model=MODEL,
        engine="llamacpp",
    )
    context.log.append([order_message(order)], PATIENCE_S)
    examined.asked.clear()
    assert not idle(context).work()
    assert examined.asked == []
    change(world.database, "UPDATE work.claims SET state = 'done'")
    assert idle(context).work()
    assert examined.asked == [(MODEL, ["Is there time?"])]


def test_an_exam_that_cannot_be_asked_ahead_is_tried_again_later_and_stops_nothing(
    world: World, context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_exam(world, world.domain(), "Is OpenCompass there?")
    tries = []

    def refuse(*_: object) -> list[list[ExamRow]]:
        tries.append(1)
        raise Unavailable("OpenCompass is not installed")

    monkeypatch.setattr(evaluation, "examine", refuse)
    waiting = idle(context)
    assert not waiting.work()
    assert not waiting.work()
    assert len(tries) == 1
    assert "OpenCompass is not installed" in caplog.text


def test_while_opencompass_is_being_installed_nothing_is_examined_ahead_and_nobody_is_alarmed(
    world: World, context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    domain = world.domain()
    add_exam(world, domain, "Is it installed?")
    monkeypatch.setattr(loop, "INSTALLING_RETRY_S", 0.0)
    waiting = idle(context)
    change(world.database, "UPDATE noria.domains SET wake_at = now() WHERE domain = :domain", domain=domain)
    monkeypatch.setattr(loop, "Trainer", Child)
    assert not waiting.work() and not waiting.work()
    assert isinstance(context.trainer, Child), "what a round needs beside it is started"
    change(world.database, "UPDATE noria.domains SET wake_at = NULL")
    assert not waiting.work()
    assert [record for record in caplog.records if record.name.startswith("noria")] == []
    monkeypatch.setattr(evaluation, "examine", Examined())
    assert waiting.work()


class Child:
    """Stands in for a trainer or an examiner that has been started."""

    def __init__(self, *_: object) -> None:
        self.alive = True

    def waits(self) -> bool:
        return self.alive

    def close(self) -> None:
        self.alive = False


def test_when_a_round_is_near_its_children_are_started_once_and_again_when_they_die(
    world: World, context: Context, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "Trainer", Child)
    monkeypatch.setattr(loop, "Examiner", Child)
    domain = world.domain()
    waiting = idle(context)
    waiting.work()
    assert (context.trainer, context.examiner) == (None, None)
    wake = "UPDATE noria.domains SET wake_at = now() + make_interval(secs => :secs) WHERE domain = :domain"
    change(world.database, wake, secs=3600, domain=domain)
    waiting.work()
    assert (context.trainer, context.examiner) == (None, None)
    change(world.database, wake, secs=30, domain=domain)
    waiting.work()
    trainer, examiner = context.trainer, context.examiner
    assert isinstance(trainer, Child) and isinstance(examiner, Child)
    waiting.work()
    assert (context.trainer, context.examiner) == (trainer, examiner)
    trainer.alive = False
    waiting.work()
    assert isinstance(context.trainer, Child) and context.trainer is not trainer
    assert context.examiner is examiner
    change(world.database, "UPDATE noria.domains SET wake_at = NULL")


def test_its_children_stay_while_a_round_runs_or_is_examined_for_and_are_ended_when_nothing_needs_them(
    world: World, context: Context, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(context)
    domain = world.domain()
    trainer, examiner = context.trainer, context.examiner = Child(), Child()  # type: ignore[assignment]
    add_exam(world, domain, "Is it still here?")
    waiting = idle(context)
    assert waiting.work()
    assert context.examiner is examiner
    assert not waiting.work()
    assert context.examiner is examiner, "it may be needed again in a moment"
    monkeypatch.setattr(loop, "REST_AFTER_S", 0.0)
    change(world.database, ROUND, domain=domain)
    assert not waiting.work()
    assert (context.trainer, context.examiner) == (trainer, examiner)
    change(world.database, "UPDATE noria.rounds SET ended_at = now() WHERE round_id = 'round-1'")
    assert not waiting.work()
    assert (context.trainer, context.examiner) == (None, None)
    assert not trainer.waits() and not examiner.waits()
    change(world.database, "DELETE FROM noria.rounds WHERE round_id = 'round-1'")
