"""Append to the log and read it: Kafka, and an in-memory log that passes the same contract tests."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.partitioner.default import murmur2
from msgspec import Struct

from streams.cluster import Cluster
from streams.codec import MAX_EVENT_BYTES, encode, topic_of
from streams.envelope import Envelope
from streams.errors import LogUnavailable, Unacknowledged, Unavailable
from streams.reach import unreachable
from streams.topics import TOPICS

IDLE_CONSUMERS = 2
ENDS_TIMEOUT_MS = 5_000
SIGN_OF_LIFE_S = 1.0
QUIET_S = 30.0  # how long a read waits for the next record


# A broker that comes back is noticed within a second; the library's own waiting grows to half a minute.
PATIENCE = {"bootstrap_timeout_ms": 3_000, "reconnect_backoff_ms": 50, "reconnect_backoff_max_ms": 500}


class LostHistory(Exception):
    """Records are missing where some stood or should stand. A bug, or a topic that was tampered with."""


class Position(Struct, frozen=True):
    """Where one event stands on the log; as text `topic-partition@offset`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}@{self.offset}"


class Record(Struct, frozen=True):
    """Bytes as they stand on the log; a null value is empty.

    `since`: from there to `offset` the log holds no record, but what a transaction left (its mark, or what it took back). None
    where that is not known."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    since: int | None = None

    @property
    def digest(self) -> str:
        """Of key and value, in hexadecimal."""
        key = self.key or b""
        return hashlib.sha256(len(key).to_bytes(4) + key + self.value).hexdigest()


class Message(Struct, frozen=True):
    """Bytes to be appended."""

    topic: str
    key: str
    value: bytes


def message_of(envelope: Envelope) -> Message:
    """Raises Invalid for an event that is too large."""
    return Message(topic_of(envelope.event), envelope.key, encode(envelope))


class Log(Protocol):
    def append(self, messages: Sequence[Message], timeout_s: float) -> list[Position]:
        """Append in order; return once every message is acknowledged by all in-sync replicas.

        Raises Unavailable when nothing was sent, and Unacknowledged when that did not happen in `timeout_s`: what was sent may
        still be recorded then. Send it again under the same id, readers drop the second.
        """

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Record]:
        """The records with `start` <= offset < `end`; not every offset has one. Raises Unavailable, LostHistory."""

    def ends(self, topic: str) -> dict[int, int]:
        """The next offset of each partition; what an open transaction wrote is behind it. Raises Unavailable."""

    def close(self) -> None: ...


def _is_open(connection: socket.socket) -> bool:
    """Whether the other end has not closed it. It never says anything, being asked nothing."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def partition_of(key: str, partitions: int) -> int:
    """The partition that Kafka's default partitioner gives a key."""
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % partitions


class KafkaLog:
    """The log on Kafka, through kafka-python's idempotent producer and plain consumers."""

    def __init__(self, cluster: Cluster, client_id: str) -> None:
        self._cluster = cluster
        self._client_id = client_id
        self._lock = threading.Lock()
        self._reader_lock = threading.Lock()  # of its own: to ask where the log ends takes as long as the log likes
        self._producer: KafkaProducer | None = None
        self._reader: KafkaConsumer | None = None
        self._closed = False
        self._sign: socket.socket | None = None
        self._sign_until = 0.0
        self._idle: list[KafkaConsumer] = []  # a consumer's first poll takes 200 ms, its next ones 3

    @property
    def cluster(self) -> Cluster:
        return self._cluster

    def answers(self, timeout_s: float = 0.5) -> bool:
        """Whether a broker's port is open: the cheapest sign of life, for a door that must refuse at once.

        A connection that is kept for it says so without asking: a broker that dies closes it. A host that vanishes does not, so
        it is opened anew each second."""
        with self._lock:
            if self._sign is not None and time.monotonic() < self._sign_until and _is_open(self._sign):
                return True
        for server in self._cluster.addresses:
            host, _, port = server.rpartition(":")
            try:
                sign = socket.create_connection((host, int(port)), timeout=timeout_s)
            except OSError:
                continue
            sign.setblocking(False)
            self._keep_sign(sign)
            return True
        self._keep_sign(None)
        return False

    def _keep_sign(self, sign: socket.socket | None) -> None:
        with self._lock:
            if not self._closed:
                sign, self._sign = self._sign, sign
                self._sign_until = time.monotonic() + SIGN_OF_LIFE_S
        if sign is not None:
            sign.close()

    def append(self, messages: Sequence[Message], timeout_s: float) -> list[Position]:
        deadline = time.monotonic() + timeout_s
        futures: list[Any] = []
        try:
            producer = self._open_producer()
        except KafkaError as error:
            raise unreachable(self._cluster, error) from error
        try:
            for message in messages:
                futures.append(producer.send(message.topic, key=message.key.encode(), value=message.value))
            positions = []
            for future in futures:
                done = future.get(timeout=max(0.001, deadline - time.monotonic()))
                positions.append(Position(done.topic, done.partition, done.offset))
            return positions
        except KafkaError as error:
            self._drop_producer()
            if not futures:
                raise LogUnavailable(f"the log does not answer: {type(error).__name__}") from error
            raise Unacknowledged(f"the log did not acknowledge: {type(error).__name__}") from error

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Record]:
        if start >= end:
            return
        with self._lock:
            consumer = self._idle.pop() if self._idle else None
        if consumer is None:
            consumer = self._consumer(f"{self._client_id}-read")
        place = TopicPartition(topic, partition)
        sound = True
        try:
            consumer.assign([place])
            consumer.seek(place, start)
            quiet_since, since = time.monotonic(), start
            while True:
                batches = consumer.poll(timeout_ms=500, max_records=5000)
                for record in batches.get(place, ()):
                    if record.offset >= end:
                        return
                    yield Record(topic, partition, record.offset, record.key, record.value or b"", since)
                    since = record.offset + 1
                if consumer.position(place) >= end:
                    return
                if batches:
                    quiet_since = time.monotonic()
                elif time.monotonic() - quiet_since > QUIET_S:
                    sound = False
                    raise LogUnavailable(f"nothing came of {topic}-{partition} from offset {consumer.position(place)}")
        except OffsetOutOfRangeError:
            sound = False
            raise LostHistory(f"{topic}-{partition} does not hold offset {start}") from None
        except KafkaError as error:
            sound = False
            raise LogUnavailable(f"the log could not be read: {type(error).__name__}") from error
        finally:
            with self._lock:
                keep = sound and not self._closed and len(self._idle) < IDLE_CONSUMERS
                if keep:
                    self._idle.append(consumer)
            if not keep:
                consumer.close(autocommit=False)

    def ends(self, topic: str) -> dict[int, int]:
        with self._reader_lock:
            try:
                if self._reader is None:
                    self._reader = self._consumer(f"{self._client_id}-ends")
                partitions = self._reader.partitions_for_topic(topic) or set()
                if not partitions:
                    raise LogUnavailable(f"topic {topic} does not exist")
                places = [TopicPartition(topic, p) for p in sorted(partitions)]
                ends = self._reader.end_offsets(places, timeout_ms=ENDS_TIMEOUT_MS)
            except KafkaError as error:
                self._reader = None
                raise LogUnavailable(f"the log did not answer: {type(error).__name__}") from error
            return {place.partition: int(offset) for place, offset in ends.items()}

    def close(self) -> None:
        self._drop_producer()
        with self._lock:
            self._closed = True
            if self._sign is not None:
                self._sign.close()
                self._sign = None
            while self._idle:
                self._idle.pop().close(autocommit=False)
        with self._reader_lock:
            if self._reader is not None:
                self._reader.close(autocommit=False)
                self._reader = None

    def _open_producer(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = KafkaProducer(
                    **self._cluster.client(),
                    client_id=self._client_id,
                    acks="all",
                    enable_idempotence=True,
                    # One message's fate is known within this time, so that a caller's refusal is seldom contradicted.
                    delivery_timeout_ms=10_000,
                    request_timeout_ms=5_000,
                    max_block_ms=2_000,
                    max_request_size=MAX_EVENT_BYTES + 48_000,
                    metrics_enabled=False,  # nobody reads them, and they are a sixth of what an append costs
                    **PATIENCE,
                )
            return self._producer

    def _drop_producer(self) -> None:
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(timeout=0)
        except KafkaError:
            # It wants to send what it still holds before it closes. Whoever waited for that has been told otherwise.
            producer._sender.force_close()
            producer._closed = True

    def _consumer(self, client_id: str) -> KafkaConsumer:
        try:
            return KafkaConsumer(
                **self._cluster.client(),
                client_id=client_id,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",  # lost history must be loud
                isolation_level="read_committed",  # what a transaction took back was never said
                max_partition_fetch_bytes=8_388_608,
                fetch_max_wait_ms=100,
                **PATIENCE,
            )
        except KafkaError as error:
            raise unreachable(self._cluster, error) from error


class MemoryLog:
    """The log in memory: for tests and for trying things out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[tuple[str, int], list[Record]] = {
            (topic.name, partition): [] for topic in TOPICS for partition in range(topic.partitions)
        }
        self._partitions = {topic.name: topic.partitions for topic in TOPICS}

    def append(self, messages: Sequence[Message], timeout_s: float) -> list[Position]:
        positions = []
        with self._lock:
            for message in messages:
                if message.topic not in self._partitions:
                    raise Unavailable(f"topic {message.topic} does not exist")
                partition = partition_of(message.key, self._partitions[message.topic])
                records = self._records[message.topic, partition]
                position = Position(message.topic, partition, len(records))
                key = message.key.encode()
                records.append(Record(message.topic, partition, position.offset, key, message.value, position.offset))
                positions.append(position)
        return positions

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Record]:
        if (topic, partition) not in self._records:
            raise Unavailable(f"{topic}-{partition} does not exist")
        with self._lock:
            records = self._records[topic, partition][start:end]
        yield from records

    def ends(self, topic: str) -> dict[int, int]:
        if topic not in self._partitions:
            raise Unavailable(f"topic {topic} does not exist")
        with self._lock:
            return {p: len(self._records[topic, p]) for p in range(self._partitions[topic])}

    def close(self) -> None:
        """Nothing is held open."""
