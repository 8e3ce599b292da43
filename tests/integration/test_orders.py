"""Orders: taken in once, held by one worker at a time, carried on by another when it dies, and what came of them is told."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4, uuid5

import msgspec
import pytest
from sqlalchemy import Engine

import workers.context
from streams.cluster import Cluster
from streams.codec import decode
from streams.envelope import Envelope
from streams.errors import Invalid, Unavailable
from streams.events import DOMAINS, ORDERS
from streams.facts.orders import OrderFailed, OrderProgressed, Step, WaitsFor
from streams.facts.rounds import SnapshotSelected
from streams.log import KafkaLog, Message
from streams.orders import Order, PurgePlaces, SelectSnapshot
from streams.sealing import Keyring
from tests.door_world import make_settings
from tests.integration.by_hand import change, empty, order_message, rows
from tests.integration.conftest import eventually
from tests.waiting import PATIENCE_S
from workers import loop, orders
from workers.context import Context
from workers.loop import StepFunction, work_once
from workers.orders import ATTEMPTS, Claim

KINDS = ["select_snapshot", "purge_places"]


@pytest.fixture(scope="module")
def log(empty_log: Cluster) -> Iterator[KafkaLog]:
    log = KafkaLog(empty_log, "test-orders")
    yield log
    log.close()


@pytest.fixture
def database(database: Engine, log: KafkaLog) -> Engine:
    """No claims, and what stands on the log of earlier tests is behind us."""
    empty(database)
    for topic, table in ((ORDERS, "work.intake"), (DOMAINS, "noria.positions")):
        taken_in = f"INSERT INTO {table} (topic, partition, next_offset) VALUES (:topic, :partition, :end)"
        for partition, end in log.ends(topic).items():
            change(database, taken_in, topic=topic, partition=partition, end=end)
    return database


@pytest.fixture
def context(database: Engine, log: KafkaLog, keyring: Keyring, tmp_path: Path, empty_log: Cluster) -> Context:
    return Context(make_settings(tmp_path, empty_log, "unused"), database, log, keyring, "worker-1")


def ask(log: KafkaLog, *wanted: Order) -> None:
    log.append([order_message(order) for order in wanted], PATIENCE_S)


def select(domain: str = "roads") -> SelectSnapshot:
    return SelectSnapshot(order_id=uuid4(), domain=domain, round_id=str(uuid4()), pin=7)


def purge() -> PurgePlaces:
    return PurgePlaces(order_id=uuid4(), domain="roads", person="ann", kids=("k1",))


def claims(database: Engine) -> list[tuple[object, ...]]:
    return rows(database, "SELECT order_id, state, attempts, worker FROM work.claims ORDER BY received_at")


def lease_runs_out(database: Engine) -> None:
    change(database, "UPDATE work.claims SET lease_until = now() - interval '1 second' WHERE lease_until IS NOT NULL")


def wait_is_over(database: Engine) -> None:
    change(database, "UPDATE work.claims SET not_before = now() - interval '1 second'")


def told(log: KafkaLog, order: Order) -> list[Envelope]:
    """What the log says of an order."""
    found = []
    for partition, end in log.ends(DOMAINS).items():
        for record in log.read(DOMAINS, partition, 0, end):
            envelope = decode(record.value)
            if getattr(envelope.event, "order_id", None) == order.order_id:
                found.append(envelope)
    return found


def failures_of(log: KafkaLog, order: Order) -> list[OrderFailed]:
    events = [envelope.event for envelope in told(log, order)]
    failures = [event for event in events if isinstance(event, OrderFailed)]
    assert len(failures) == len(events)
    return failures


def table(run: StepFunction) -> dict[str, tuple[Step, StepFunction]]:
    return {"select_snapshot": ("select", run)}


def begin_round(database: Engine, order: SelectSnapshot) -> None:
    change(
        database,
        "INSERT INTO noria.rounds (round_id, domain, number, step, reasons, opening, pin, base_model, base_release, requested_at)"
        " VALUES (:id, 'roads', 1, 'select', '[]', false, 7, 'm', 0, now())",
        id=order.round_id,
    )


def end_round(database: Engine, order: SelectSnapshot) -> None:
    change(database, "UPDATE noria.rounds SET ended_at = now() WHERE round_id = :id", id=order.round_id)


def test_an_order_is_taken_in_once_however_often_it_stands_on_the_log(database: Engine, log: KafkaLog) -> None:
    one, other = select(), purge()
    ask(log, one, one, other)
    assert orders.Intake(database, log).take_in() == 3
    assert orders.Intake(database, log).take_in() == 0
    ask(log, one)
    orders.Intake(database, log).take_in()
    assert claims(database) == [(str(one.order_id), "open", 0, None), (str(other.order_id), "open", 0, None)]


def test_an_order_that_is_done_is_not_opened_again_by_its_repetition(database: Engine, log: KafkaLog) -> None:
    order = select()
    ask(log, order)
    orders.Intake(database, log).take_in()
    held = orders.claim(database, KINDS, "worker-1", "here")
    assert held is not None
    orders.finish(database, held, "done")
    ask(log, order)
    orders.Intake(database, log).take_in()
    assert orders.claim(database, KINDS, "worker-2", "here") is None


def test_an_order_that_cannot_be_read_is_kept_by_its_place_and_the_rest_goes_on(
    database: Engine, log: KafkaLog
) -> None:
    order = select()
    log.append([Message(ORDERS, "x", b"no order"), order_message(order)], PATIENCE_S)
    orders.Intake(database, log).take_in()
    end = log.ends(ORDERS)[0]
    assert [row[:2] for row in claims(database)] == [
        (f"{ORDERS}-0@{end - 2}", "unreadable"),
        (str(order.order_id), "open"),
    ]
    held = orders.claim(database, KINDS, "worker-1", "here")
    assert held is not None and held.order == order


@pytest.mark.parametrize(
    "changed", [{"dataschema": "urn:noria:select_snapshot:9"}, {"type": "noria.ponder_snapshot"}], ids=str
)
def test_an_order_that_a_later_version_wrote_fails_as_an_event_and_stops_no_worker(
    context: Context, changed: dict[str, str]
) -> None:
    later, order = select(), select()
    message = order_message(later)
    value = json.dumps(json.loads(message.value) | changed).encode()
    context.log.append([msgspec.structs.replace(message, value=value), order_message(order)], PATIENCE_S)
    done: list[Order] = []
    for _ in range(2):
        assert work_once(context, table(lambda order, context: done.append(order)), threading.Event())
    assert done == [order]
    (failed,) = failures_of(context.log, later)
    assert (failed.step, failed.will_retry, failed.round_id) == (None, False, later.round_id)
    assert failed.reason.startswith("the order cannot be read: ")
    assert (str(later.order_id), "failed") in [row[:2] for row in claims(context.database)]


def test_workers_that_ask_at_once_get_each_order_once(database: Engine, log: KafkaLog) -> None:
    wanted = [select() for _ in range(20)]
    ask(log, *wanted)
    taken: list[Claim] = []
    start = threading.Barrier(4)

    def work(name: str) -> None:
        start.wait()
        orders.Intake(database, log).take_in()
        while (held := orders.claim(database, KINDS, name, "here")) is not None:
            taken.append(held)

    workers = [threading.Thread(target=work, args=(f"worker-{number}",)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(str(held.order.order_id) for held in taken) == sorted(str(order.order_id) for order in wanted)
    assert {held.attempt for held in taken} == {1}


def test_the_oldest_order_comes_first_and_only_of_the_kinds_asked_for(database: Engine, log: KafkaLog) -> None:
    first, second, third = select(), purge(), select()
    ask(log, first, second, third)
    orders.Intake(database, log).take_in()
    names = [["purge_places"], KINDS, KINDS, KINDS]
    held = [orders.claim(database, kinds, "worker-1", "here") for kinds in names]
    assert [one.order if one else None for one in held] == [second, first, third, None]


def test_when_the_lease_runs_out_another_worker_takes_over_and_the_first_has_lost_it(
    database: Engine, log: KafkaLog
) -> None:
    ask(log, select())
    orders.Intake(database, log).take_in()
    first = orders.claim(database, KINDS, "worker-1", "here")
    assert first is not None and orders.renew(database, first)
    assert orders.claim(database, KINDS, "worker-2", "here") is None
    lease_runs_out(database)
    second = orders.claim(database, KINDS, "worker-2", "here")
    assert second is not None and (second.order, second.attempt) == (first.order, 2)
    assert not orders.renew(database, first)
    orders.finish(database, first, "failed")  # says nothing about what is no longer its own
    assert claims(database) == [(str(first.order.order_id), "open", 2, "worker-2")]
    assert orders.renew(database, second)


def test_a_worker_that_lost_an_order_and_got_it_back_does_not_hold_it_by_its_old_claim(
    database: Engine, log: KafkaLog
) -> None:
    ask(log, select())
    orders.Intake(database, log).take_in()
    first = orders.claim(database, KINDS, "worker-1", "here")
    lease_runs_out(database)
    second = orders.claim(database, KINDS, "worker-1", "here")
    assert first is not None and second is not None
    assert not orders.renew(database, first) and orders.renew(database, second)


def test_a_lease_is_not_renewed_once_the_round_has_ended(database: Engine, log: KafkaLog) -> None:
    order = select()
    ask(log, order)
    orders.Intake(database, log).take_in()
    held = orders.claim(database, KINDS, "worker-1", "here")
    assert held is not None and orders.renew(database, held)  # the projections may not know the round yet
    begin_round(database, order)
    assert orders.renew(database, held)
    end_round(database, order)
    assert not orders.renew(database, held)


def test_an_order_without_a_round_is_renewed_whatever_rounds_do(database: Engine, log: KafkaLog) -> None:
    ask(log, purge())
    orders.Intake(database, log).take_in()
    held = orders.claim(database, KINDS, "worker-1", "here")
    assert held is not None and orders.renew(database, held)


def test_an_order_is_carried_out_once_and_what_came_of_it_is_told_under_a_fixed_id(context: Context) -> None:
    log, order = context.log, select()
    assert isinstance(log, KafkaLog)
    ask(log, order, order)
    carried: list[Order] = []

    def run(order: SelectSnapshot, context: Context) -> None:
        carried.append(order)
        event = SnapshotSelected(
            domain=order.domain,
            round_id=order.round_id,
            order_id=order.order_id,
            snapshot="sha256:" + "3" * 64,
            kept=(),
            earlier=0,
            wordings=0,
            dropped={},
        )
        context.publish(order, event, "snapshot_selected")
        context.publish(order, event, "snapshot_selected")

    stopping = threading.Event()
    assert work_once(context, table(run), stopping) is True
    assert work_once(context, table(run), stopping) is False
    assert carried == [order]
    assert [state for _, state, _, _ in claims(context.database)] == ["done"]
    first, second = told(log, order)
    assert first.id == second.id == uuid5(order.order_id, "snapshot_selected")
    assert (first.source, first.causation_id) == ("/noria/workers/worker-1", order.order_id)


def test_what_can_never_work_is_told_and_not_tried_again(context: Context) -> None:
    log, order = context.log, select()
    assert isinstance(log, KafkaLog)
    ask(log, order)

    def run(order: SelectSnapshot, context: Context) -> None:
        raise Invalid("there is no artifact " + "x" * 600)

    assert work_once(context, table(run), threading.Event())
    (failed,) = failures_of(log, order)
    assert (failed.step, failed.will_retry, failed.attempt, failed.round_id) == ("select", False, 1, order.round_id)
    assert failed.reason.startswith("there is no artifact") and len(failed.reason) == 500
    assert [row[1] for row in claims(context.database)] == ["failed"]
    assert not work_once(context, table(run), threading.Event())


def test_what_is_not_there_at_present_is_tried_again_later_and_not_for_ever(context: Context) -> None:
    log, order = context.log, select()
    assert isinstance(log, KafkaLog)
    ask(log, order)

    def run(order: SelectSnapshot, context: Context) -> None:
        raise Unavailable("the teacher does not answer")

    for attempt in range(1, ATTEMPTS + 1):
        assert work_once(context, table(run), threading.Event())
        last = attempt == ATTEMPTS
        assert not work_once(context, table(run), threading.Event()), "it waits before it is tried again"
        assert [row[1:3] for row in claims(context.database)] == [("failed" if last else "open", attempt)]
        wait_is_over(context.database)
    failures = failures_of(log, order)
    assert [failed.will_retry for failed in failures] == [True] * (ATTEMPTS - 1) + [False]
    assert [failed.attempt for failed in failures] == list(range(1, ATTEMPTS + 1))
    assert not work_once(context, table(run), threading.Event())


def test_a_full_disk_is_no_bug_and_is_tried_again(context: Context) -> None:
    log, order = context.log, select()
    assert isinstance(log, KafkaLog)
    ask(log, order)

    def run(order: SelectSnapshot, context: Context) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert work_once(context, table(run), threading.Event())
    (failed,) = failures_of(log, order)
    assert failed.reason == "the disk is full" and failed.will_retry
    assert [row[1] for row in claims(context.database)] == ["open"]


def test_an_order_that_kills_its_workers_is_given_up(context: Context) -> None:
    log, order = context.log, select()
    assert isinstance(log, KafkaLog)
    ask(log, order)
    context.intake.take_in()
    for number in range(ATTEMPTS):
        assert orders.claim(context.database, KINDS, f"dead-{number}", "here") is not None
        lease_runs_out(context.database)

    def run(order: SelectSnapshot, context: Context) -> None:
        raise AssertionError("it must not be tried once more")

    assert work_once(context, table(run), threading.Event())
    (failed,) = failures_of(log, order)
    assert failed.reason == f"{ATTEMPTS} attempts ended without a word" and not failed.will_retry
    assert [row[1] for row in claims(context.database)] == ["failed"]


def test_a_bug_is_told_by_its_kind_and_stops_the_worker(context: Context) -> None:
    log, order = context.log, select()
    assert isinstance(log, KafkaLog)
    ask(log, order)

    def run(order: SelectSnapshot, context: Context) -> None:
        raise KeyError("Ann's own words")

    for _ in range(3):
        with pytest.raises(KeyError):
            work_once(context, table(run), threading.Event())
        wait_is_over(context.database)
    failures = failures_of(log, order)
    assert [failed.will_retry for failed in failures] == [True, True, False]
    assert {failed.reason for failed in failures} == {"a bug: KeyError"}
    assert not work_once(context, table(run), threading.Event())


def test_an_order_whose_round_was_cancelled_is_dropped_in_the_middle(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RENEW_EVERY_S", 0.05)
    log, order = context.log, select()
    assert isinstance(log, KafkaLog)
    ask(log, order)
    begin_round(context.database, order)

    def run(order: SelectSnapshot, context: Context) -> None:
        end_round(context.database, order)
        assert context.cancelled.wait(PATIENCE_S)
        context.check()

    assert work_once(context, table(run), threading.Event())
    assert [row[1] for row in claims(context.database)] == ["cancelled"]
    assert told(log, order) == []
    assert not work_once(context, table(run), threading.Event())


def test_a_worker_that_is_stopped_leaves_its_order_to_the_next(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RENEW_EVERY_S", 0.05)
    log, order, stopping = context.log, select(), threading.Event()
    assert isinstance(log, KafkaLog)
    ask(log, order)

    def run(order: SelectSnapshot, context: Context) -> None:
        stopping.set()
        assert context.cancelled.wait(PATIENCE_S)
        context.check()

    assert work_once(context, table(run), stopping)
    assert [row[1:3] for row in claims(context.database)] == [("open", 1)]
    assert work_once(context, table(lambda order, context: None), threading.Event())
    assert [row[1:3] for row in claims(context.database)] == [("done", 2)]


def test_a_long_step_keeps_its_lease(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "RENEW_EVERY_S", 0.05)
    order = select()
    assert isinstance(context.log, KafkaLog)
    ask(context.log, order)

    def run(order: SelectSnapshot, context: Context) -> None:
        query = "SELECT lease_until FROM work.claims"
        first = rows(context.database, query)
        eventually(lambda: rows(context.database, query) > first, "the lease is renewed")
        assert orders.claim(context.database, KINDS, "worker-2", "here") is None

    assert work_once(context, table(run), threading.Event())
    assert [row[1] for row in claims(context.database)] == ["done"]


def test_a_step_that_waits_for_what_is_being_made_says_so_keeps_its_lease_and_goes_on(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RENEW_EVERY_S", 0.05)
    monkeypatch.setattr(workers.context, "LOOK_EVERY_S", 0.01)
    log, order = context.log, select()
    assert isinstance(log, KafkaLog)
    ask(log, order)
    answers: list[WaitsFor] = ["opencompass", "opencompass", "opencompass_failed", "opencompass_failed"]

    def run(order: SelectSnapshot, context: Context) -> None:
        query = "SELECT lease_until FROM work.claims"
        first = rows(context.database, query)

        def missing() -> WaitsFor | None:
            if answers:
                return answers.pop(0)
            return "opencompass_failed" if rows(context.database, query) == first else None

        context.wait(order, "select", missing)
        assert orders.claim(context.database, KINDS, "worker-2", "here") is None

    assert work_once(context, table(run), threading.Event())
    assert [row[1:3] for row in claims(context.database)] == [("done", 1)]
    events = [envelope.event for envelope in told(log, order)]
    said = [event for event in events if isinstance(event, OrderProgressed)]
    assert len(said) == len(events)
    assert [event.waits_for for event in said] == ["opencompass", "opencompass_failed"], "each reason once"


def test_a_step_that_waits_is_dropped_when_its_round_is_cancelled(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RENEW_EVERY_S", 0.05)
    order = select()
    assert isinstance(context.log, KafkaLog)
    ask(context.log, order)
    begin_round(context.database, order)

    def run(order: SelectSnapshot, context: Context) -> None:
        end_round(context.database, order)
        context.wait(order, "select", lambda: "general_answers")

    assert work_once(context, table(run), threading.Event())
    assert [row[1] for row in claims(context.database)] == ["cancelled"]


def test_a_step_whose_order_another_worker_took_is_dropped(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "RENEW_EVERY_S", 0.05)
    order = select()
    assert isinstance(context.log, KafkaLog)
    ask(context.log, order)

    def run(order: SelectSnapshot, context: Context) -> None:
        change(context.database, "UPDATE work.claims SET worker = 'worker-2', attempts = attempts + 1")
        assert context.cancelled.wait(PATIENCE_S)
        context.check()

    assert work_once(context, table(run), threading.Event())
    assert [row[1:] for row in claims(context.database)] == [("open", 2, "worker-2")]


def test_the_longer_a_step_takes_the_more_seldom_its_progress_is_told(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, told_at = [100.0], list[float]()
    monkeypatch.setattr(workers.context.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(context, "_publish_progress", lambda order, event: told_at.append(now[0]))
    order = select()
    while now[0] < 36_100:
        context.progress(order, "train", int(now[0]), 40_000)
        now[0] += 1.0
    assert told_at[:3] == [100.0, 102.0, 104.0]
    assert 250 < len(told_at) < 400
    context.progress(order, "evaluate", 0, 10)  # another step begins anew
    now[0] += 2.0
    context.progress(order, "evaluate", 1, 10)
    assert told_at[-1] == 36_102.0


def test_progress_is_told_at_most_every_two_seconds_and_always_at_the_end(context: Context) -> None:
    order = select()
    for done in range(101):
        context.progress(order, "select", done, 100, loss=1.5)
    assert isinstance(context.log, KafkaLog)
    events = [envelope.event for envelope in told(context.log, order)]
    said = [event for event in events if isinstance(event, OrderProgressed)]
    assert len(said) == len(events)
    assert [event.done for event in said] == [0, 100]
    assert said[0].values == {"loss": 1.5}
