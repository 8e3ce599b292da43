"""One contract for every log: the one in memory, which other tests lean on, and Kafka."""

import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from deploy.ports import LOOPBACK, free_port
from streams import log as log_module
from streams.cluster import Cluster
from streams.errors import Unavailable
from streams.events import CONVERSATIONS, DOMAINS, ORDERS
from streams.log import KafkaLog, Log, MemoryLog, Message, Position
from streams.topics import TOPICS
from tests.integration.conftest import side_by_side
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module", params=["memory", "kafka"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    made: Log = MemoryLog()
    if request.param == "kafka":
        made = KafkaLog(request.getfixturevalue("empty_log"), "test-contract")
    yield made
    made.close()


def messages(key: str, count: int, topic: str = CONVERSATIONS) -> list[Message]:
    return [Message(topic, key, f"{key} {number}".encode()) for number in range(count)]


def test_what_is_appended_under_one_key_is_read_in_the_same_order(log: Log) -> None:
    keys = [f"order-{number}-{uuid4().hex}" for number in range(6)]
    mixed = [message for number in range(40) for key in keys for message in messages(key, 40)[number : number + 1]]
    positions = log.append(mixed, PATIENCE_S)
    for key in keys:
        places = [p for p, message in zip(positions, mixed, strict=True) if message.key == key]
        partitions = {place.partition for place in places}
        assert len(partitions) == 1
        assert [place.offset for place in places] == sorted(place.offset for place in places)
        (partition,) = partitions
        read = list(log.read(CONVERSATIONS, partition, places[0].offset, places[-1].offset + 1))
        assert [r.value for r in read if r.key == key.encode()] == [m.value for m in messages(key, 40)]


def test_each_message_stands_where_its_position_says(log: Log) -> None:
    sent = [*messages("a", 3), *messages("b", 3, DOMAINS), *messages("c", 3, ORDERS)]
    for position, message in zip(log.append(sent, PATIENCE_S), sent, strict=True):
        assert position.topic == message.topic
        (record,) = log.read(position.topic, position.partition, position.offset, position.offset + 1)
        assert (record.topic, record.partition, record.offset) == (
            position.topic,
            position.partition,
            position.offset,
        )
        assert (record.key, record.value) == (message.key.encode(), message.value)


def test_offsets_of_one_partition_follow_each_other_without_a_gap(log: Log) -> None:
    log.append(messages("gapless", 25, ORDERS), PATIENCE_S)
    end = log.ends(ORDERS)[0]
    assert [record.offset for record in log.read(ORDERS, 0, 0, end)] == list(range(end))


def test_a_read_takes_its_start_and_leaves_its_end(log: Log) -> None:
    places = log.append(messages("range", 10, DOMAINS), PATIENCE_S)
    partition, first = places[0].partition, places[0].offset

    def offsets(start: int, end: int) -> list[int]:
        return [record.offset - first for record in log.read(DOMAINS, partition, first + start, first + end)]

    assert offsets(2, 5) == [2, 3, 4]
    assert offsets(0, 10) == list(range(10))
    assert offsets(9, 10) == [9]
    assert offsets(4, 4) == offsets(5, 4) == []


def test_two_reads_that_are_interleaved_do_not_disturb_each_other(log: Log) -> None:
    one, other = (log.append(messages(key, 20, DOMAINS), PATIENCE_S) for key in ("left", "right"))
    pairs = zip(
        log.read(DOMAINS, one[0].partition, one[0].offset, one[-1].offset + 1),
        log.read(DOMAINS, other[0].partition, other[0].offset, other[-1].offset + 1),
        strict=True,
    )
    assert [(a.value, b.value) for a, b in pairs] == [
        (f"left {number}".encode(), f"right {number}".encode()) for number in range(20)
    ]


def test_a_read_that_is_given_up_halfway_leaves_the_next_one_whole(log: Log) -> None:
    places = log.append(messages("given up", 10, ORDERS), PATIENCE_S)
    reading = log.read(ORDERS, 0, places[0].offset, places[-1].offset + 1)
    assert next(iter(reading)).value == b"given up 0"
    del reading
    again = log.read(ORDERS, 0, places[0].offset, places[-1].offset + 1)
    assert [record.value for record in again] == [message.value for message in messages("given up", 10)]


def test_the_ends_name_every_partition_and_move_by_what_is_appended(log: Log) -> None:
    for topic in TOPICS:
        assert set(log.ends(topic.name)) == set(range(topic.partitions))
    before = log.ends(CONVERSATIONS)
    places = log.append(messages("end", 7), PATIENCE_S)
    after = log.ends(CONVERSATIONS)
    assert after == before | {places[-1].partition: before[places[-1].partition] + 7}
    assert places[-1].offset + 1 == after[places[-1].partition]


def test_a_topic_that_does_not_exist_is_unavailable(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "QUIET_S", 1.0)
    with pytest.raises(Unavailable):
        log.append(messages("lost", 1, "noria.no-such-topic"), 10)
    with pytest.raises(Unavailable):
        log.ends("noria.no-such-topic")
    with pytest.raises(Unavailable):
        list(log.read("noria.no-such-topic", 0, 0, 1))


def test_after_a_message_was_refused_the_log_takes_others(log: Log) -> None:
    with pytest.raises(Unavailable):
        log.append(messages("lost", 1, "noria.no-such-topic"), 10)
    (place,) = log.append(messages("found", 1), PATIENCE_S)
    assert log.ends(CONVERSATIONS)[place.partition] == place.offset + 1


def test_a_position_says_where_in_one_word() -> None:
    assert str(Position(DOMAINS, 1, 42)) == "noria.domains-1@42"


def test_both_logs_give_a_key_the_same_partition(empty_log: Cluster) -> None:
    kafka, memory = KafkaLog(empty_log, "test-same"), MemoryLog()
    keys = ["", "road-traffic", "c-1", "交通", *(uuid4().hex for _ in range(40))]
    for topic in (CONVERSATIONS, DOMAINS, ORDERS):
        sent = [Message(topic, key, b"x") for key in keys]
        there = [p.partition for p in kafka.append(sent, PATIENCE_S)]
        assert there == [p.partition for p in memory.append(sent, PATIENCE_S)]
    kafka.close()


def test_a_broker_that_is_not_there_is_unavailable_within_the_timeout() -> None:
    nobody = Cluster(servers=f"{LOOPBACK}:{free_port()}")

    def is_unavailable(ask: Callable[[KafkaLog], object]) -> None:
        log = KafkaLog(nobody, "test-nobody")
        assert not log.answers()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            ask(log)
        assert time.monotonic() - began < 60  # it neither hangs nor takes Kafka's own minutes
        log.close()

    asked: list[Callable[[KafkaLog], object]] = [
        lambda log: log.append(messages("nobody", 1), 2),
        lambda log: log.ends(CONVERSATIONS),
        lambda log: list(log.read(CONVERSATIONS, 0, 0, 1)),
    ]
    side_by_side(is_unavailable, [(ask,) for ask in asked])
