"""The door while Kafka, PostgreSQL or its own process goes away and comes back."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from api import door
from deploy import kafka
from deploy.ports import free_port
from streams.log import KafkaLog, Message, Position
from streams.topics import create_topics
from tests import door_world
from tests.door_world import World, wait_until
from tests.waiting import PATIENCE_S


class Broker:
    """A Kafka of this module's own, to be killed, frozen and started again on the same files and port."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.port = free_port()
        self.cluster = kafka.cluster(self.port, kafka.made_password(data / "password"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, *kafka.argv(self._data, self.cluster)]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(KafkaLog(self.cluster, "test").answers, "Kafka")

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    create_topics(broker.cluster)
    yield broker
    broker.signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def world(broker: Broker, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with door_world.running(broker.cluster, database_url, tmp_path_factory.mktemp("door")) as running:
        yield running


def ask(world: World, domain: str, **more: Any) -> httpx.Response:
    body = {"model": domain, "messages": [{"role": "user", "content": "hi"}], "user": "ann", **more}
    return world.as_chat.post("/v1/chat/completions", json=body)


class Sent:
    """What the door gave to the log. `refused`: it answered that it cannot, and gave it nothing: nothing was waited for."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.appended = 0
        append = world.services.recorder.log.append

        def counted(messages: Sequence[Message], timeout_s: float) -> list[Position]:
            self.appended += 1
            return append(messages, timeout_s)

        monkeypatch.setattr(world.services.recorder.log, "append", counted)

    def refused(self, act: Callable[[], httpx.Response]) -> bool:
        before = self.appended
        answer = act()
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1, answer.text
        return self.appended == before and answer.json()["error"]["code"] == "unavailable"


def test_while_kafka_is_down_writes_are_refused_at_once_and_it_recovers_by_itself(
    world: World, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "DRAFTS_PATIENCE_S", PATIENCE_S)
    domain = world.domain()
    answered = world.chat(domain)
    world.caught_up(answered["metadata"]["position"])
    reply_id = answered["metadata"]["reply_ids"][0]
    asked_before = len(world.engine.requests)

    world.engine.hold.clear()
    in_the_middle: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: in_the_middle.append(ask(world, domain)))
    waiting.start()
    wait_until(lambda: len(world.engine.requests) > asked_before, what="the request that is under way")
    # The engine is asked while the log takes the question in: only what is on the log is answered after the broker has died.
    wait_until(lambda: len(world.events(domain, "prompt_asked")) == 2, what="the question on the log")
    broker.signal(signal.SIGKILL)
    world.engine.hold.set()

    sent = Sent(world, monkeypatch)
    rating = {"reply_id": reply_id, "user": "ann", "rating": "up"}
    keyed = {"Idempotency-Key": "k"}
    unknown = {"reply_id": "rpl_unknown", "user": "ann", "rating": "up"}
    for _ in range(5):
        assert sent.refused(lambda: ask(world, domain))
        assert sent.refused(lambda: world.as_chat.post("/v1/feedback", json=rating))
        assert sent.refused(lambda: world.as_chat.post("/v1/feedback", json=unknown, headers=keyed))
        assert sent.refused(lambda: world.as_data.get("/v1/events"))
        assert sent.refused(lambda: world.as_operator.post(f"/v1/domains/{domain}/rounds"))
    assert len(world.engine.requests) == asked_before + 1  # nothing went to the engine that was not recorded
    ready = httpx.get(f"{world.door_url}/readyz", timeout=PATIENCE_S)
    assert ready.status_code == 503 and ready.json()["missing"] == ["kafka"]
    assert world.as_data.get(f"/v1/domains/{domain}").status_code == 200

    broker.start()
    waiting.join()
    # The answer that was there already is given once it is recorded, and not before.
    assert in_the_middle[0].status_code == 200, in_the_middle[0].text
    wait_until(lambda: ask(world, domain).status_code == 200, "the recovery")
    wait_until(lambda: httpx.get(f"{world.door_url}/readyz", timeout=PATIENCE_S).status_code == 200, "readiness")
    world.caught_up(world.chat(domain)["metadata"]["position"])
    recorded = {event["data"]["prompt_id"] for event in world.events(domain, "reply_drafted")}
    assert {answered["id"], in_the_middle[0].json()["id"]} <= recorded


def test_a_frozen_kafka_is_found_out_once_and_then_refused_at_once(
    world: World, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain, sent = world.domain(), Sent(world, monkeypatch)
    broker.signal(signal.SIGSTOP)
    try:
        assert not sent.refused(lambda: ask(world, domain))
        # Whoever comes later than a second after it tries again.
        wait_until(lambda: sent.refused(lambda: ask(world, domain)), "somebody who is refused at once")
    finally:
        broker.signal(signal.SIGCONT)
    wait_until(lambda: ask(world, domain).status_code == 200, "the recovery")


def test_the_door_survives_the_loss_of_its_database_connections(world: World) -> None:
    domain = world.domain()
    with world.database.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert ask(world, domain).status_code == 200
    second = door_world.EngineServer()
    world.release(domain, 1, second)
    assert ask(world, domain).json()["model"] == f"{domain}@1"
    second.stop()


def test_the_process_makes_its_key_serves_and_leaves_cleanly(world: World, broker: Broker, tmp_path: Path) -> None:
    domain = world.domain()
    port = free_port()
    environ = os.environ | {
        "NORIA_HOME": str(tmp_path),
        **broker.cluster.environ(),
        "NORIA_DATABASE_URL": world.settings.database_url,
        "NORIA_DOOR": f"http://127.0.0.1:{port}",
        "NORIA_MASTER_KEY": str(world.settings.master_key),
    }
    for _ in range(2):
        made = subprocess.run(
            [sys.executable, "-m", "api.keys", "--ensure-local"], env=environ, capture_output=True, text=True
        )
        assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    key_file = tmp_path / "keys" / "local.key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    key = key_file.read_text().strip()
    door = subprocess.Popen([sys.executable, "-m", "api.app"], env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert door.stdout is not None and door.stdout.readline() == f"door: http://127.0.0.1:{port}\n"
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S
        )
        wait_until(lambda: client.get("/readyz", timeout=PATIENCE_S).status_code == 200, what="readiness")
        body = {"model": domain, "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/chat/completions", json=body).json()["model"] == f"{domain}@0"
        assert client.post("/v1/people/key:local/erase").status_code == 200
        client.close()
        assert doors(world) == 2
        door.send_signal(signal.SIGTERM)
        assert door.wait() == 0
        assert doors(world) == 1
    finally:
        door.kill()
        door.wait()


def doors(world: World) -> int:
    with world.database.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM work.doors")).scalar_one())
