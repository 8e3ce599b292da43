"""The log copied out to files, and written back with every record at the offset where it stood.

A partition is a file of JSON lines, compressed by gzip: {"offset", "key", "value"}; bytes that are not UTF-8 stand in base64 as
`key_base64`, `value_base64`. Offsets that no record stands at (marks of transactions, and what they took back) are left out, and
are made again by transactions when it is written back. Kafka's own times and headers, which nothing here reads, are not kept.
"""

import base64
import gzip
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError
from msgspec import UNSET, Struct, UnsetType

from streams.cluster import Cluster
from streams.codec import MAX_EVENT_BYTES
from streams.errors import Invalid, Unavailable
from streams.log import PATIENCE, Log, Record
from streams.reach import unreachable

ACKNOWLEDGED_S = 30.0
AT_ONCE = 2000  # records under way


class _Line(Struct, frozen=True, omit_defaults=True):
    offset: int
    key: str | UnsetType = UNSET
    key_base64: str | UnsetType = UNSET
    value: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET


def copy_out(log: Log, topic: str, partition: int, end: int, target: Path) -> int:
    """Write the records before `end` to the file `target`, on disk when this returns; how many there were. Raises Unavailable."""
    count = 0
    with target.open("xb") as raw:
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0) as file:
            for record in log.read(topic, partition, 0, end):
                named = _named("value", record.value) | ({} if record.key is None else _named("key", record.key))
                file.write(msgspec.json.encode(_Line(record.offset, **named)) + b"\n")
                count += 1
        raw.flush()
        os.fsync(raw.fileno())
    return count


def copied(topic: str, partition: int, source: Path) -> Iterator[Record]:
    """The records of a file that `copy_out` made. Raises Invalid for what is none."""
    try:
        with gzip.open(source) as file:
            for raw in file:
                line = msgspec.json.decode(raw, type=_Line)
                value = _bytes(line.value, line.value_base64)
                yield Record(topic, partition, line.offset, _bytes(line.key, line.key_base64), value or b"")
    except (OSError, EOFError, msgspec.MsgspecError, ValueError) as error:
        raise Invalid(f"{source.name} is not a copy of a partition: {type(error).__name__}") from None


def write_back(cluster: Cluster, log: Log, topic: str, partition: int, records: Iterable[Record], end: int) -> None:
    """Append to an empty partition, so that each record gets its old offset and the partition ends at `end`.

    Raises Unavailable, or Invalid when Kafka gave an offset that is not the old one."""
    back = _Back(cluster, log, topic, partition)
    try:
        held: Record | None = None
        for record in records:
            if held is not None:
                back.put(held, record.offset)
            elif record.offset:
                back.leave_out(record.offset)
            held = record
        if held is not None:
            back.put(held, end)
        elif end:
            back.leave_out(end)
        back.reached(end)
    except KafkaError as error:
        raise Unavailable(f"the log did not acknowledge: {type(error).__name__}") from error
    finally:
        back.close()


class _Back:
    def __init__(self, cluster: Cluster, log: Log, topic: str, partition: int) -> None:
        self._cluster = cluster
        self._log = log
        self._topic = topic
        self._partition = partition
        self._plain = self._producer(enable_idempotence=True)
        self._in_transactions: KafkaProducer | None = None
        self._under_way: list[tuple[int, object]] = []
        self._next = 0

    def put(self, record: Record, following: int) -> None:
        """Write `record`, and leave out what lies between it and the offset `following`."""
        if following - record.offset == 2:  # the mark that follows one record is of its own transaction
            self._acknowledged()
            producer = self._begun()
            self._send(producer, record.key, record.value)
            self._acknowledged()
            producer.commit_transaction()
            self._next += 1
            self.reached(following)
            return
        self._send(self._plain, record.key, record.value)
        if following > record.offset + 1:
            self.leave_out(following)

    def leave_out(self, following: int) -> None:
        self._acknowledged()
        if following - self._next < 2:
            raise Invalid(f"{self._topic}-{self._partition} begins with an offset that cannot be made again")
        producer = self._begun()
        while self._next < following - 1:
            self._send(producer, b"left out", b"")
        self._acknowledged()
        producer.abort_transaction()
        self._next += 1
        self.reached(following)

    def reached(self, end: int) -> None:
        """Wait until the partition ends there: a transaction's mark is written after its end was asked for."""
        self._acknowledged()
        deadline = time.monotonic() + ACKNOWLEDGED_S
        while (found := self._log.ends(self._topic)[self._partition]) < end:
            if time.monotonic() > deadline:
                raise Unavailable(f"{self._topic}-{self._partition} ends at {found}, not at {end}")
            time.sleep(0.01)
        if found != end or self._next != end:
            raise Invalid(f"{self._topic}-{self._partition} ends at {found}, not at {end}")

    def close(self) -> None:
        for producer in (self._plain, self._in_transactions):
            if producer is not None:
                producer.close(timeout=5)

    def _send(self, producer: KafkaProducer, key: bytes | None, value: bytes) -> None:
        future = producer.send(self._topic, key=key, value=value, partition=self._partition)
        self._under_way.append((self._next, future))
        self._next += 1
        if len(self._under_way) >= AT_ONCE:
            self._acknowledged()

    def _acknowledged(self) -> None:
        for offset, future in self._under_way:
            done = future.get(timeout=ACKNOWLEDGED_S)  # type: ignore[attr-defined]
            if done.offset != offset:
                raise Invalid(
                    f"{self._topic}-{self._partition} was written to by another: {offset} became {done.offset}"
                )
        self._under_way.clear()

    def _begun(self) -> KafkaProducer:
        if self._in_transactions is None:
            self._in_transactions = self._producer(transactional_id=f"noria-restore-{uuid4()}")
            self._in_transactions.init_transactions()
        self._in_transactions.begin_transaction()
        return self._in_transactions

    def _producer(self, **more: object) -> KafkaProducer:
        try:
            return KafkaProducer(
                **self._cluster.client(),
                client_id="noria-restore",
                acks="all",
                linger_ms=5,
                max_request_size=MAX_EVENT_BYTES + 48_000,
                **more,
                **PATIENCE,
            )
        except KafkaError as error:
            raise unreachable(self._cluster, error) from error


def _named(name: str, content: bytes) -> dict[str, str]:
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def _bytes(words: str | UnsetType, encoded: str | UnsetType) -> bytes | None:
    if words is not UNSET:
        return words.encode()
    return None if encoded is UNSET else base64.b64decode(encoded, validate=True)
