"""Events a second of a replay of a log of 200,000 events, and that it ends where the live tables stand.

The live tables are made by the same `Store.apply` and relay that Noria runs on. NORIA_BENCH_EVENTS for a quick try.
"""

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from sqlalchemy import Engine

from streams.events import CONVERSATIONS, DOMAINS
from streams.log import KafkaLog, Message, Record
from streams.relay import Relay
from streams.replay import rebuild, verify
from streams.store import Store, open_database
from tests.bench.generate import Generator
from tests.bench.report import Row, row
from tests.bench.size import size
from tests.local_noria import log_and_database

EVENTS = 200_000
RUNS = 3
APPEND_MESSAGES = 500
LIVE_RECORDS = 500  # as the stream processor takes them


def measure(home: Path) -> list[Row]:
    events, runs = size("EVENTS", EVENTS), size("RUNS", RUNS)
    with log_and_database(home) as settings:
        log, database = KafkaLog(settings.kafka, "bench-replay"), open_database(settings.database_url)
        try:
            sizes = append(log, Generator().messages(events))
            live_s = follow(log, database)
            ends = _ends(log)
            records = sum(ends.values())
            rates = [rebuild(database, log, ends).records_per_s for _ in range(runs)]
            report = verify(database, log)
            assert report.equal, (report.differences, report.unsaid, report.unexplained)
            assert report.records == records
            with database.connect() as connection:
                applied = connection.exec_driver_sql("SELECT count(*) FROM noria.events").scalar_one()
                implied = connection.exec_driver_sql(
                    "SELECT count(*) FROM noria.outbox WHERE topic <> 'noria.orders'"
                ).scalar_one()
            assert applied == records == len(sizes) + implied and len(sizes) == events
        finally:
            log.close()
            database.dispose()
    return [
        row("log", "generated events", "events", [len(sizes)]),
        row("log", "implied events", "events", [implied]),
        row("log", "bytes of an event", "bytes", [sum(sizes) / len(sizes)]),
        row("live, batches of 500", "rate", "events/s", [records / live_s]),
        row("replay", "rate", "events/s", rates),
        row("replay and compare", "rate", "events/s", [report.records_per_s]),
    ]


def append(log: KafkaLog, messages: Iterable[Message]) -> list[int]:
    """Append all; the size of each in bytes."""
    sizes = []
    waiting = iter(messages)
    while batch := list(itertools.islice(waiting, APPEND_MESSAGES)):
        log.append(batch, 60)
        sizes += [len(message.value) for message in batch]
    return sizes


def follow(log: KafkaLog, database: Engine) -> float:
    """Apply what is on the log and send what that implies, until nothing is left; seconds spent applying."""
    store, relay, spent_s = Store(database), Relay(database, log), 0.0
    while True:
        there, before = store.positions(), spent_s
        for (topic, partition), end in _ends(log).items():
            batch: list[Record] = []
            for record in log.read(topic, partition, there.get((topic, partition), 0), end):
                batch.append(record)
                if len(batch) == LIVE_RECORDS or record.offset == end - 1:
                    began = monotonic()
                    store.apply(batch)
                    spent_s += monotonic() - began
                    batch.clear()
        while relay.step(datetime.now(UTC)).rows:
            pass
        if spent_s == before:
            return spent_s


def _ends(log: KafkaLog) -> dict[tuple[str, int], int]:
    return {(topic, part): end for topic in (CONVERSATIONS, DOMAINS) for part, end in log.ends(topic).items() if end}
