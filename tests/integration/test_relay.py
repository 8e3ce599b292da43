"""The relay: what the stream asked to be said is said in order, again if need be, and the clock ticks only where it matters."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from streams.cluster import Cluster
from streams.codec import decode
from streams.errors import Unavailable
from streams.events import DOMAINS, ORDERS, QUARANTINE
from streams.facts.domains import ClockTicked
from streams.log import KafkaLog, Log, MemoryLog, Message, Position, Record
from streams.relay import BATCH_ROWS, Relay, Sent, Waiter
from tests.integration.by_hand import AT, ByHand, change, empty, live_domain, message, rows, talk
from tests.waiting import PATIENCE_S

LATER = AT + timedelta(hours=1)


@pytest.fixture(scope="module")
def kafka(empty_log: Cluster) -> Iterator[KafkaLog]:
    log = KafkaLog(empty_log, "test-relay")
    yield log
    log.close()


@pytest.fixture
def database(database: Engine) -> Engine:
    empty(database)
    return database


class Killed(BaseException):
    """Ends whoever appended, after the log has taken it."""


class FatalLog:
    """A log whose writer dies right after the n-th append was acknowledged."""

    def __init__(self, log: Log, dies_after: int) -> None:
        self._log = log
        self._left = dies_after

    def append(self, messages: Sequence[Message], timeout_s: float) -> list[Position]:
        positions = self._log.append(messages, timeout_s)
        self._left -= 1
        if self._left == 0:
            raise Killed
        return positions

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Record]:
        return self._log.read(topic, partition, start, end)

    def ends(self, topic: str) -> dict[int, int]:
        return self._log.ends(topic)

    def close(self) -> None:
        self._log.close()


class DeafLog(MemoryLog):
    def append(self, messages: Sequence[Message], timeout_s: float) -> list[Position]:
        raise Unavailable("nobody hears")


def put(database: Engine, count: int, topic: str = QUARANTINE, key: str = "k") -> list[bytes]:
    """Rows to be sent; their bytes, in order."""
    values = [f"{key} {number}".encode() for number in range(count)]
    with database.begin() as connection:
        for value in values:
            connection.exec_driver_sql(
                "INSERT INTO noria.outbox (message_id, topic, key, value) VALUES (%s, %s, %s, %s)",
                (str(uuid4()), topic, key, value),
            )
    return values


def unsent(database: Engine) -> int:
    return len(rows(database, "SELECT 1 FROM noria.outbox WHERE sent_at IS NULL"))


def new_on(log: Log, topic: str, since: dict[int, int]) -> list[Record]:
    return [r for partition, end in log.ends(topic).items() for r in log.read(topic, partition, since[partition], end)]


def ticks(log: Log) -> list[tuple[str, datetime]]:
    found = []
    for partition, end in log.ends(DOMAINS).items():
        for record in log.read(DOMAINS, partition, 0, end):
            event = decode(record.value).event
            if isinstance(event, ClockTicked):
                found.append((event.domain, event.at))
    return sorted(found)


def test_rows_are_sent_in_order_and_marked(database: Engine, kafka: KafkaLog) -> None:
    since = kafka.ends(QUARANTINE)
    values = put(database, 40)
    assert Relay(database, kafka).step(AT) == Sent(40, 0)
    assert [record.value for record in new_on(kafka, QUARANTINE, since)] == values
    assert unsent(database) == 0
    assert Relay(database, kafka).step(AT) == Sent(0, 0)
    assert len(new_on(kafka, QUARANTINE, since)) == 40


def test_more_rows_than_a_batch_are_sent_batch_by_batch(database: Engine) -> None:
    log = MemoryLog()
    values = put(database, BATCH_ROWS + 3)
    relay = Relay(database, log)
    assert [relay.step(AT).rows for _ in range(3)] == [BATCH_ROWS, 3, 0]
    assert [record.value for record in new_on(log, QUARANTINE, {0: 0})] == values


def test_a_row_that_was_committed_late_with_a_smaller_id_is_sent_all_the_same(
    database: Engine, kafka: KafkaLog
) -> None:
    since = kafka.ends(QUARANTINE)
    with database.connect() as slow:
        insert = "INSERT INTO noria.outbox (message_id, topic, key, value) VALUES (%s, %s, %s, %s)"
        slow.exec_driver_sql(insert, ("early", QUARANTINE, "k", b"early"))
        put(database, 2)
        assert Relay(database, kafka).step(AT).rows == 2
        slow.commit()
    assert Relay(database, kafka).step(AT).rows == 1
    assert [record.value for record in new_on(kafka, QUARANTINE, since)] == [b"k 0", b"k 1", b"early"]


def test_an_order_does_not_overtake_the_event_before_it(database: Engine) -> None:
    put(database, 1, DOMAINS, "event")
    put(database, 1, ORDERS, "order")
    put(database, 1, DOMAINS, "next")
    appended: list[str] = []

    class Watched(MemoryLog):
        def append(self, messages: Sequence[Message], timeout_s: float) -> list[Position]:
            appended.extend(message.key for message in messages)
            return super().append(messages, timeout_s)

    Relay(database, Watched()).step(AT)
    assert appended == ["event", "order", "next"]


def test_a_relay_that_dies_between_sending_and_marking_sends_again_and_readers_drop_the_second(
    database: Engine, kafka: KafkaLog
) -> None:
    world, domain = ByHand(database, kafka), "twice"
    live_domain(world, domain, corrections=2, people=1)
    since = kafka.ends(DOMAINS)
    orders = len(world.orders())
    world.say(*talk(domain, "ann"), *talk(domain, "bob"))
    world.follow()
    with pytest.raises(Killed):
        Relay(database, FatalLog(kafka, 1)).step(AT)
    assert unsent(database) == 4
    world.settle()
    written = [record for record in new_on(kafka, DOMAINS, since) if record.key == domain.encode()]
    ids = [decode(record.value).id for record in written]
    assert len(ids) == 4 + 4 + 1  # two examples and two preferences, said twice; one round
    assert len(set(ids)) == 5
    assert rows(database, "SELECT count(*) FROM noria.examples WHERE domain = :d", d=domain) == [(2,)]
    assert rows(database, "SELECT number FROM noria.rounds WHERE domain = :d", d=domain) == [(1,)]
    assert len(world.orders()) == orders + 1


def test_a_relay_that_dies_before_an_order_is_marked_orders_once(database: Engine) -> None:
    world = ByHand(database, MemoryLog())
    live_domain(world, "roads", corrections=1)
    world.say(*talk("roads", "ann"))
    world.follow()
    world.relay.step(AT)  # the example and the preference
    world.follow()
    world.relay.step(AT)  # that a round begins
    world.follow()  # its first order
    with pytest.raises(Killed):
        Relay(database, FatalLog(world.log, 1)).step(AT)
    world.settle()
    orders = [order for order in world.orders() if order.round_id]
    assert len(orders) == 2 and orders[0] == orders[1]  # workers take in an id once
    assert rows(database, "SELECT number FROM noria.rounds") == [(1,)]


def test_a_log_that_does_not_answer_leaves_the_rows_unsent(database: Engine) -> None:
    put(database, 3)
    with pytest.raises(Unavailable):
        Relay(database, DeafLog()).step(AT)
    assert unsent(database) == 3


def test_the_clock_does_not_tick_for_a_domain_that_waits_for_no_time(database: Engine) -> None:
    world = ByHand(database, MemoryLog())
    live_domain(world, "roads", corrections=40)
    assert rows(database, "SELECT wake_at FROM noria.domains") == [(None,)]
    assert world.relay.step(LATER).ticks == 0
    assert ticks(world.log) == []


def test_the_clock_ticks_when_the_time_that_a_domain_waits_for_has_come(database: Engine, kafka: KafkaLog) -> None:
    world, domain = ByHand(database, kafka), "burst"
    live_domain(world, domain, corrections=2, settle_s=600)
    world.say(*talk(domain, "ann"), *talk(domain, "bob"))
    world.settle(AT)
    assert rows(database, "SELECT wake_at FROM noria.domains WHERE domain = :d", d=domain) == [
        (AT + timedelta(seconds=600),)
    ]
    assert world.relay.step(AT + timedelta(seconds=599)).ticks == 0
    now = AT + timedelta(seconds=600)
    assert world.relay.step(now).ticks == 1
    assert ticks(kafka) == [(domain, now)]
    assert rows(database, "SELECT count(*) FROM noria.rounds WHERE domain = :d", d=domain) == [(0,)]
    world.settle(now)
    assert rows(database, "SELECT number FROM noria.rounds WHERE domain = :d", d=domain) == [(1,)]
    assert rows(database, "SELECT wake_at FROM noria.domains WHERE domain = :d", d=domain) == [(None,)]


def test_the_clock_ticks_for_one_domain_at_most_once_a_minute(database: Engine) -> None:
    world = ByHand(database, MemoryLog())
    for domain in ("roads", "fields"):
        live_domain(world, domain, corrections=40)
    change(database, "UPDATE noria.domains SET wake_at = :at WHERE domain = 'roads'", at=AT)
    told = [world.relay.step(AT + timedelta(seconds=second)).ticks for second in range(0, 150, 10)]
    assert told == [1, 0, 0, 0, 0, 0] * 2 + [1, 0, 0]
    assert ticks(world.log) == [("roads", AT + timedelta(minutes=minute)) for minute in range(3)]


def test_the_waiter_wakes_when_something_is_to_be_said(database: Engine) -> None:
    waiter = Waiter(database, "noria_outbox")
    assert waiter.wait(0.05) is False
    world = ByHand(database, MemoryLog())
    world.log.append([message(event) for event in talk("roads", "ann")], 10)
    world.follow()
    assert waiter.wait(PATIENCE_S) is True
    assert waiter.wait(0.05) is False
    waiter.close()
