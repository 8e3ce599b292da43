"""What nobody can read is written to every topic that the stream follows, more than it goes past by itself.

The stream stops and says where; on an operator's word it goes on, and nothing that could be read is lost."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from streams.cluster import Cluster
from streams.codec import decode
from streams.events import CONVERSATIONS, DOMAINS
from streams.facts.domains import ClockTicked
from streams.floods import read_operations
from streams.log import Message
from streams.replay import verify
from tests.door_world import World, make_settings, wait_until
from tests.integration.by_hand import message, rows, talk
from tests.integration.test_following import start_app
from tests.waiting import PATIENCE_S

BAD = 60
TOO_LONG = "".join(
    uuid4().hex for _ in range(300)
)  # 9,600 characters: no index takes them, however they are compressed


class Unfollowed(World):
    """The real stream follows the log, and the real relay."""

    def _follow(self) -> None:
        pass


@contextmanager
def kept(start: Callable[[], "subprocess.Popen[bytes]"]) -> Iterator[None]:
    """A process that is started again whenever it ends, as the supervisor does."""
    leaving = threading.Event()

    def keep() -> None:
        while not leaving.is_set():
            child = start()
            while child.poll() is None and not leaving.wait(0.05):
                pass
            child.terminate()
            child.wait()

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        leaving.set()
        thread.join()


@pytest.fixture
def noria(empty_log: Cluster, database_url: str, tmp_path: Path) -> Iterator[World]:
    world = Unfollowed(make_settings(tmp_path / "home", empty_log, database_url), empty_log)
    environment = {
        "NORIA_HOME": str(tmp_path / "home"),
        **empty_log.environ(),
        "NORIA_DATABASE_URL": database_url,
        "NORIA_DOOR": "http://127.0.0.1:1",
    }
    relay = subprocess.Popen([sys.executable, "-m", "streams.relay"], env=environment)
    try:
        with kept(lambda: start_app(tmp_path / "home", empty_log, database_url)):
            yield world
    finally:
        relay.terminate()
        relay.wait()
        world.stop()


def flood(topic: str) -> tuple[list[Message], list[Message]]:
    """What is written, and what of it can be read: one before, one among and one behind the rest; all on one partition."""
    if topic == CONVERSATIONS:
        (first, *_), (long, *_) = talk("ward", "ann", "c-flood"), talk("ward", "ann", TOO_LONG)
        fine = [message(first, id=uuid4()) for _ in range(3)]
    else:
        fine = [message(ClockTicked(domain="ward", at=datetime.now(UTC))) for _ in range(3)]
        long = ClockTicked(domain=TOO_LONG, at=datetime.now(UTC))
    bad = [Message(topic, fine[0].key, f"bad {number}".encode()) for number in range(BAD)]
    return [fine[0], *bad[:30], fine[1], *bad[30:], message(long), fine[2]], fine


@pytest.mark.slow
def test_sixty_bad_records_and_one_with_a_key_of_9600_characters_on_each_topic_stop_nothing_for_good(
    noria: World,
) -> None:
    ward, roads = noria.domain("ward"), noria.domain("roads")
    log = noria.services.recorder.log
    before = noria.chat(ward)["metadata"]["position"]
    noria.caught_up(before)
    readable = []
    for topic in (CONVERSATIONS, DOMAINS):
        written, fine = flood(topic)
        log.append(written, PATIENCE_S)
        readable += fine
    last = noria.chat(roads)["metadata"]["position"]

    def stopped() -> list[dict[str, object]]:
        found = noria.as_operator.get("/v1/quarantine", params={"limit": 0}).json()["stopped"]
        assert isinstance(found, list)
        return found

    def all_applied() -> bool:
        ends = {(t, p): end for t in (CONVERSATIONS, DOMAINS) for p, end in log.ends(t).items() if end}
        return not rows(noria.database, "SELECT FROM noria.outbox WHERE sent_at IS NULL") and all(
            noria.services.recorder._reached().get(place, 0) >= end for place, end in ends.items()
        )

    skipped: set[tuple[object, object]] = set()

    def new_stops() -> list[dict[str, object]]:
        return [stop for stop in stopped() if (stop["partition"], stop["last"]) not in skipped]

    while wait_until(lambda: all_applied() or (new_stops() and "stopped"), "the stream goes on or stops") is not True:
        for stop in new_stops():
            asked = noria.as_operator.post("/v1/quarantine/skip", json={"partition": stop["partition"]})
            assert asked.status_code in (200, 202), asked.text  # 200: it has gone on
            skipped.add((stop["partition"], stop["last"]))
    noria.caught_up(last)
    assert skipped, "it had stopped"
    told = noria.as_operator.get("/v1/quarantine", params={"limit": 5000}).json()
    assert told["count"] == 2 * (BAD + 1) and told["stopped"] == []
    assert {skip["partition"] for skip in told["skips"]} == {partition for partition, _ in skipped}
    assert all(skip["by"] == "key:local" for skip in told["skips"])
    assert sum(row["reason"].startswith("the store cannot hold it") for row in told["data"]) == 2
    there = {str(event_id) for (event_id,) in rows(noria.database, "SELECT event_id FROM noria.events")}
    assert {str(decode(one.value).id) for one in readable} <= there
    assert read_operations(log).allowed
    noria.caught_up(noria.chat(ward)["metadata"]["position"])
    report = verify(noria.database, log)
    assert report.equal, (report.differences, report.unsaid, report.unexplained)
