"""What any Kafka tool can write to any topic: every reader skips and names it, and what comes after it takes effect."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import msgspec
import pyarrow
import pytest
from kafka import KafkaProducer, codec
from sqlalchemy import Engine

from api.events import events_after
from api.services import Services
from streams.cluster import Cluster
from streams.codec import decode_order, encode, envelope_for
from streams.events import CONVERSATIONS, DOMAINS, ORDERS, QUARANTINE, Event
from streams.facts.domains import ClockTicked
from streams.log import KafkaLog, Message, partition_of
from streams.orders import PurgePlaces
from streams.replay import verify
from streams.store import Store
from streams.topics import TOPICS
from tests.integration.by_hand import order_message, placed, rows, talk
from tests.integration.conftest import eventually
from tests.integration.test_following import start_app
from tests.waiting import PATIENCE_S
from workers import orders

KEY = "odd"


def decode_id(value: bytes) -> str:
    return str(msgspec.json.decode(value)["id"])


@pytest.fixture(scope="module")
def log(empty_log: Cluster) -> Iterator[KafkaLog]:
    log = KafkaLog(empty_log, "test-foreign")
    yield log
    log.close()


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory, empty_log: Cluster, database_url: str) -> Iterator[None]:
    app = start_app(tmp_path_factory.mktemp("app"), empty_log, database_url)
    yield
    app.terminate()
    app.wait()


def event(topic: str, name: str = KEY) -> Event:
    return talk("odd", "ann", name)[0] if topic == CONVERSATIONS else ClockTicked(domain=name, at=datetime.now(UTC))


def message(topic: str) -> Message:
    """What belongs on the topic, with an id of its own."""
    if topic in (ORDERS, QUARANTINE):
        order = PurgePlaces(order_id=uuid4(), domain="odd", person="ann", kids=("k",))
        return Message(topic, str(order.order_id), order_message(order).value)
    id_ = uuid4()
    said = envelope_for(
        placed(event(topic), id_), id=id_, source="/foreign", time=datetime.now(UTC), correlation_id="odd"
    )
    return Message(topic, said.key, encode(said))


def write_odd_ones(producer: KafkaProducer, topic: str) -> None:
    """Records with nothing to be read in them."""
    elsewhere = message(DOMAINS if topic == CONVERSATIONS else CONVERSATIONS)
    for partition in producer.partitions_for(topic):
        for key, value in [
            (b"\xff", None),
            (b"any", None),
            (None, b""),
            (b"any", b""),
            (b"\xff\xfe", b"\x00\xff"),
            (None, message(topic).value if topic not in (ORDERS, QUARANTINE) else b"[]"),
            (elsewhere.key.encode(), elsewhere.value),
            (b"any", b'{"domain": "\\u0000"}'),
        ]:
            producer.send(topic, key=key, value=value, headers=[("h", b"\xff"), ("", b"")], partition=partition)
    producer.flush(PATIENCE_S)


def write_in_transactions(producer: KafkaProducer, topic: str) -> tuple[Message, Message]:
    """A message that was committed and one that was taken back; both leave a mark, the last of the partition."""
    kept, gone = message(topic), message(topic)
    for one, end in ((kept, producer.commit_transaction), (gone, producer.abort_transaction)):
        producer.begin_transaction()
        producer.send(topic, key=one.key.encode(), value=one.value).get(PATIENCE_S)
        end()
    return kept, gone


def transactional(kafka: Cluster) -> KafkaProducer:
    producer = KafkaProducer(**kafka.client(), transactional_id=f"foreign-{uuid4()}")
    producer.init_transactions()
    return producer


def write_compressed(
    kafka: Cluster, topics: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, Message]]:
    """With what the readers have no library for, too."""

    def compress(name: str) -> Any:
        return lambda payload, **_: pyarrow.compress(payload, codec=name, asbytes=True)

    zstd = SimpleNamespace(ZstdCompressor=lambda: SimpleNamespace(compress=compress("zstd")))
    sent = []
    with monkeypatch.context() as libraries:
        libraries.setattr(codec, "zstd", zstd)
        libraries.setattr(codec, "snappy", SimpleNamespace(compress=compress("snappy")))
        for name in ("gzip", "snappy", "zstd"):
            producer = KafkaProducer(**kafka.client(), compression_type=name)
            for topic in topics:
                one = message(topic)
                sent.append((topic, one))
                producer.send(topic, key=one.key.encode(), value=one.value, headers=[("h", b"")])
            producer.flush(PATIENCE_S)
            producer.close()
    return sent


def test_what_anybody_can_write_is_skipped_and_named_and_what_comes_after_it_takes_effect(
    stream: None, log: KafkaLog, empty_log: Cluster, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(database)
    topics = [topic.name for topic in TOPICS]
    readable: dict[str, list[Message]] = {topic: [] for topic in topics}
    producer = KafkaProducer(**empty_log.client())
    for topic in topics:
        write_odd_ones(producer, topic)
    producer.close()
    for topic, one in write_compressed(empty_log, topics, monkeypatch):
        readable[topic].append(one)
    producer = transactional(empty_log)
    for topic in topics:
        kept, _ = write_in_transactions(producer, topic)
        readable[topic].append(kept)
    producer.close()

    ends = {(topic, p): end for topic in (CONVERSATIONS, DOMAINS) for p, end in log.ends(topic).items()}
    eventually(lambda: store.positions() == ends, "the stream passes the marks at the ends")
    for topic in (CONVERSATIONS, DOMAINS):
        readable[topic].append(message(topic))
    log.append([readable[CONVERSATIONS][-1], readable[DOMAINS][-1]], PATIENCE_S)
    ids = sorted(decode_id(one.value) for topic in (CONVERSATIONS, DOMAINS) for one in readable[topic])
    eventually(
        lambda: sorted(str(row[0]) for row in rows(database, "SELECT event_id FROM noria.events")) == ids,
        "what can be read takes effect, and what was taken back does not",
    )

    partitions = sum(topic.partitions for topic in TOPICS if topic.name in (CONVERSATIONS, DOMAINS))
    ((quarantined, reasons),) = rows(
        database,
        "SELECT count(*), array_agg(DISTINCT convert_from(value, 'UTF8')::json ->> 'reason') FROM noria.outbox"
        " WHERE topic = 'noria.quarantine'",
    )
    assert quarantined == 8 * partitions
    assert "the record has no key, so that nothing keeps it in order" in cast(list[str], reasons)

    report = verify(database, log)
    assert report.equal, report.differences

    services = cast(Services, SimpleNamespace(recorder=SimpleNamespace(log=log, ends=log.ends)))
    shown, reached = events_after(services, dict.fromkeys(ends, 0), None, 1000)
    assert sorted(decode_id(bytes(one["event"])) for one in shown) == ids
    assert events_after(services, reached, None, 1000)[0] == []

    intake = orders.Intake(database, log)
    intake.take_in()
    assert intake.take_in() == 0
    (real,) = log.append([message(ORDERS)], PATIENCE_S)
    assert intake.take_in() == 1
    claims = dict(rows(database, "SELECT order_id, state FROM work.claims"))
    (last,) = log.read(ORDERS, 0, real.offset, real.offset + 1)
    opened = {decode_id(one.value) for one in readable[ORDERS]} | {str(decode_order(last.value).order_id)}
    assert {name for name, state in claims.items() if state == "open"} == opened
    assert {state for name, state in claims.items() if name not in opened} == {"unreadable"} and len(claims) == 13


def test_what_a_transaction_takes_back_has_no_effect_while_it_is_open_and_none_after(
    stream: None, log: KafkaLog, empty_log: Cluster, database: Engine
) -> None:
    producer = transactional(empty_log)
    gone, meanwhile, after = message(DOMAINS), message(CONVERSATIONS), message(DOMAINS)

    def took_effect(one: Message) -> bool:
        return bool(rows(database, "SELECT FROM noria.events WHERE event_id = :id", id=decode_id(one.value)))

    producer.begin_transaction()
    producer.send(DOMAINS, key=gone.key.encode(), value=gone.value).get(PATIENCE_S)
    log.append([meanwhile], PATIENCE_S)
    eventually(lambda: took_effect(meanwhile), "what was said elsewhere meanwhile takes effect")
    assert not took_effect(gone)
    producer.abort_transaction()
    producer.close()
    log.append([after], PATIENCE_S)
    eventually(lambda: took_effect(after), "what was said after it takes effect")
    assert not took_effect(gone)


def test_an_offset_that_holds_no_record_is_told_from_one_that_was_lost(log: KafkaLog, empty_log: Cluster) -> None:
    before = log.ends(DOMAINS)
    producer = transactional(empty_log)
    write_in_transactions(producer, DOMAINS)
    producer.close()
    partition = partition_of(KEY, len(before))
    start, end = before[partition], before[partition] + 4
    eventually(lambda: log.ends(DOMAINS)[partition] == end, "two records and two marks")
    assert [(record.offset, record.since) for record in log.read(DOMAINS, partition, start, end)] == [(start, start)]
    assert list(log.read(DOMAINS, partition, start + 1, end)) == []
