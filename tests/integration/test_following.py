"""The Faust app on a real Kafka and a real PostgreSQL."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from api.recording import Recorder
from streams.cluster import Cluster
from streams.codec import encode, envelope_for, key_of, topic_of
from streams.events import DOMAINS
from streams.facts.domains import ClockTicked
from streams.log import KafkaLog, LostHistory, Message
from streams.store import Store
from tests.integration.by_hand import ByHand, created, empty, rows
from tests.integration.conftest import eventually, make_anew
from tests.waiting import PATIENCE_S
from workers.orders import Intake


def start_app(
    tmp_path: Path, kafka: Cluster, database_url: str, module: str = "streams.app", stderr: int | None = None
) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "NORIA_HOME": str(tmp_path),
        **kafka.environ(),
        "NORIA_DATABASE_URL": database_url,
        "NORIA_DOOR": "http://127.0.0.1:1",
    }
    return subprocess.Popen([sys.executable, "-m", module], env=environment, stderr=stderr)


def tick(domain: str) -> Message:
    event = ClockTicked(domain=domain, at=datetime.now(UTC))
    envelope = envelope_for(event, id=uuid4(), source="/test", time=event.at, correlation_id=domain)
    return Message(topic_of(event), key_of(event), encode(envelope))


def test_every_event_takes_effect_once_although_the_process_is_killed_again_and_again(
    tmp_path: Path, empty_log: Cluster, database_url: str, database: Engine
) -> None:
    log, store = KafkaLog(empty_log, "test"), Store(database)
    domains = [f"d{number}" for number in range(8)]
    appended = 0

    def count() -> int:
        with database.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM noria.events")).scalar_one())

    for _ in range(3):
        app = start_app(tmp_path, empty_log, database_url)
        try:
            messages = [tick(domain) for domain in domains for _ in range(50)]
            log.append(messages, timeout_s=PATIENCE_S)
            appended += len(messages)
            most = appended - 200
            eventually(lambda most=most: count() >= most, f"{most} events took effect")
        finally:
            app.send_signal(signal.SIGKILL)
            app.wait()
    app = start_app(tmp_path, empty_log, database_url)
    try:
        eventually(lambda: count() == appended, "everything took effect")
        ends = {(DOMAINS, partition): end for partition, end in log.ends(DOMAINS).items()}
        assert {place: store.positions()[place] for place in ends} == ends
    finally:
        app.terminate()
        app.wait()
        log.close()


def test_the_stream_begins_where_the_tables_say_whatever_its_group_has_committed(
    tmp_path: Path, empty_log: Cluster, database_url: str, database: Engine
) -> None:
    """PostgreSQL is put back as it was before everything."""
    log = KafkaLog(empty_log, "test")

    def count() -> int:
        return int(str(rows(database, "SELECT count(*) FROM noria.events")[0][0]))

    log.append([tick(f"d{number}") for number in range(8) for _ in range(5)], timeout_s=PATIENCE_S)
    standing = sum(log.ends(DOMAINS).values())
    for _ in range(2):
        empty(database)
        app = start_app(tmp_path, empty_log, database_url)
        try:
            eventually(lambda: count() == standing, "everything took effect")
        finally:
            app.terminate()  # which commits the group's offsets
            app.wait()
    log.close()


def test_the_stream_goes_on_past_a_bug_of_one_domain_and_takes_that_up_when_it_starts_without_it(
    tmp_path: Path, empty_log: Cluster, database_url: str, database: Engine
) -> None:
    empty(database)
    log = KafkaLog(empty_log, "test")
    log.append([tick(domain) for _ in range(5) for domain in ("well", "poor")], timeout_s=PATIENCE_S)

    def count(domain: str) -> object:
        return rows(database, "SELECT count(*) FROM noria.events WHERE domain = :domain", domain=domain)[0][0]

    for module, there in (("tests.integration.app_with_a_bug", 0), ("streams.app", 5)):
        app = start_app(tmp_path, empty_log, database_url, module)
        try:
            eventually(lambda there=there: (count("well"), count("poor")) == (5, there), "what can take effect did")
            eventually(lambda there=there: len(rows(database, "SELECT FROM noria.parked")) == (not there), "it is told")
        finally:
            app.terminate()
            app.wait()
    log.close()


def test_on_a_log_that_was_made_anew_nothing_goes_on_and_the_partition_is_named(
    tmp_path: Path, empty_log: Cluster, database_url: str, database: Engine
) -> None:
    empty(database)
    log = KafkaLog(empty_log, "test")
    world = ByHand(database, log)
    world.say(created("roads"))
    world.settle()
    Intake(database, log).take_in()
    make_anew(empty_log, [DOMAINS])
    processes = [
        start_app(tmp_path, empty_log, database_url, module, subprocess.PIPE)
        for module in ("streams.app", "streams.relay")
    ]
    for process in processes:
        said = process.communicate()[1].decode()
        assert process.returncode == 70
        assert f"{DOMAINS}-" in said and "it ends at offset 0, and was read up to" in said
    with pytest.raises(LostHistory, match=DOMAINS):
        Intake(database, log).take_in()
    recorder = Recorder(log, database)
    recorder.look()
    with pytest.raises(LostHistory, match=DOMAINS):
        recorder.check()
    log.close()
