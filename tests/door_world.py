"""A whole door for tests: real HTTP, Kafka and PostgreSQL, the real store following the log, and engines that are stubs."""

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from kafka import KafkaConsumer, TopicPartition
from msgspec.structs import replace
from sqlalchemy import text

from api.app import build, create_app, make_server
from api.client import LIMITS
from api.domains import DEFAULT_BASE_MODEL
from api.keys import create_key, ensure_local
from api.services import Services
from migrations.roles import grant, url_of
from streams.cluster import Cluster
from streams.codec import encode, envelope_for, topic_of
from streams.connections import DOOR, SHARES, STREAM
from streams.errors import Unavailable
from streams.events import CONVERSATIONS, DOMAINS, Event
from streams.facts.releases import ReleaseFinished, ReleaseStarted
from streams.log import PATIENCE, KafkaLog, Message, Position, Record
from streams.relay import Relay
from streams.sealing import MasterKey
from streams.settings import Settings
from streams.store import Store, open_database
from streams.topics import TOPICS
from tests.engine_server import EngineServer
from tests.waiting import PATIENCE_S, wait_until

# Of the processes' roles, which are one server's, however many databases and doors a session has on it.
PASSWORDS = Path(tempfile.mkdtemp(prefix="noria-test-keys-")) / "postgres-roles.json"
MODEL = "sha256:" + "1" * 64
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<repo_name>", "[INST]", "</s>")


class World:
    """Door and stream connect as their own roles, `database` as the owner.

    `door_url` answers; `engine` answers for every release; `key` (the local operator's), `data_key` and `chat_key` (a service's)
    are bearer keys."""

    def __init__(self, settings: Settings, kafka: Cluster) -> None:
        self.settings = settings
        self.kafka = kafka
        MasterKey.made(settings.master_key)
        self.database = open_database(settings.database_url)  # as the owner of the tables
        grant(settings.database_url, PASSWORDS)
        as_door = replace(settings, database_url=url_of(DOOR, settings.database_url, PASSWORDS))
        self.services: Services = build(as_door, client_id=f"test-door-{uuid4().hex[:6]}")
        ensure_local(self.database, settings.local_key)
        self.key = settings.local_key.read_text().strip()
        self.data_key = create_key(self.database, "curator", "data", person="key:curator")
        self.chat_key = create_key(self.database, "app", "chat", person=None)
        self.engine = EngineServer()
        self.services.routes.start()
        self.server = make_server(create_app(self.services), "127.0.0.1", 0)
        self.door_url = f"http://127.0.0.1:{self.server.effective_port}"
        self.following = threading.Event()  # clear it, and the projections stand still
        self.following.set()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, daemon=True),
            threading.Thread(target=self._follow, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.as_operator = self.client(self.key)
        self.as_data = self.client(self.data_key)
        self.as_chat = self.client(self.chat_key)

    def client(self, key: str | None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.door_url, headers=headers, timeout=PATIENCE_S, limits=LIMITS, trust_env=False)

    def stop(self) -> None:
        self._stopping.set()
        self.following.set()
        self.engine.stop()
        self.server.close()
        for client in (self.as_operator, self.as_data, self.as_chat):
            client.close()
        self.services.routes.stop()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self.services.recorder.log.close()
        self.services.database.dispose()
        self.database.dispose()

    def domain(self, name: str | None = None, **more: Any) -> str:
        """A new domain that answers with release 0."""
        name = name or f"d-{uuid4().hex[:8]}"
        body = {"domain": name, "base_model": MODEL, **more}
        created = self.as_operator.post("/v1/domains", json=body)
        assert created.status_code == 201, created.text
        self.caught_up(created.json()["position"])
        self.release(name, 0)
        return name

    def release(self, domain: str, release: int, engine: EngineServer | None = None) -> None:
        """Let `release` answer, the way the swapper does."""
        order_id = uuid4()
        self.say(ReleaseStarted(domain=domain, release=release, order_id=order_id, model=MODEL))
        self.route(domain, release, engine or self.engine)
        finished = ReleaseFinished(
            domain=domain,
            release=release,
            order_id=order_id,
            model=MODEL,
            golden_difference=0.0,
            ready_s=0.1,
            flip_ms=1.0,
        )
        self.caught_up(self.say(finished))

    def route(
        self, domain: str, release: int, engine: EngineServer, state: str = "ready", kind: str = "llamacpp"
    ) -> None:
        engine_id = f"{domain}@{release}"
        with self.database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO work.engines (engine_id, domain, release, kind, model, wanted, state, base_url,"
                    " changed_at, control_tokens, context_tokens) VALUES (:id, :domain, :release, :kind, :model, true,"
                    " :state, :url, now(), :tokens, :window)"
                    " ON CONFLICT (engine_id) DO UPDATE SET state = excluded.state, base_url = excluded.base_url,"
                    " kind = excluded.kind"
                ),
                {
                    "id": engine_id,
                    "domain": domain,
                    "release": release,
                    "kind": kind,
                    "model": MODEL,
                    "state": state,
                    "url": engine.base_url,
                    "tokens": list(CONTROL_TOKENS),
                    "window": engine.context_tokens,
                },
            )
            generation = connection.execute(
                text(
                    "INSERT INTO work.routes (domain, release, engine_id, generation, decided_offset, flipped_at)"
                    " VALUES (:domain, :release, :id, 1, 0, now()) ON CONFLICT (domain) DO UPDATE SET"
                    " release = excluded.release, engine_id = excluded.engine_id,"
                    " generation = work.routes.generation + 1 RETURNING generation"
                ),
                {"id": engine_id, "domain": domain, "release": release},
            ).scalar_one()
            connection.execute(text("NOTIFY noria_routes"))
        wait_until(lambda: self._known(domain) == (generation, state, engine.base_url), what="the route")

    def engine_state(self, domain: str, release: int, state: str, base_url: str | None = None) -> None:
        with self.database.begin() as connection:
            connection.execute(
                text(
                    "UPDATE work.engines SET state = :state, base_url = coalesce(:url, base_url) WHERE engine_id = :id"
                ),
                {"id": f"{domain}@{release}", "state": state, "url": base_url},
            )
            connection.execute(text("NOTIFY noria_routes"))

        def known() -> bool:
            served = self.services.routes.table()[1].get(f"{domain}@{release}")
            return served is not None and served.state == state and base_url in (None, served.base_url)

        wait_until(known, what=f"engine {state}")

    def say(self, event: Event, id: UUID | None = None) -> str:
        """Append an event as a worker would; its position."""
        envelope = envelope_for(
            event, id=id or uuid4(), source="/test", time=datetime.now(UTC), correlation_id=event.domain
        )
        message = Message(topic_of(event), envelope.key, encode(envelope))
        (position,) = self.services.recorder.log.append([message], PATIENCE_S)
        return str(position)

    def caught_up(self, position: str) -> None:
        """The projections took in `position`."""
        topic, _, rest = position.rpartition("-")
        partition, _, offset = rest.partition("@")
        wanted = Position(topic, int(partition), int(offset))
        assert self.services.recorder.wait_for([wanted], PATIENCE_S), f"{position} was not applied"

    def events(self, domain: str, kind: str | None = None) -> list[dict[str, Any]]:
        """The events of a domain on the log, as they stand there."""
        found = self.as_data.get("/v1/events", params={"domain": domain, "limit": 500}).json()["data"]
        return [e["event"] for e in found if kind is None or e["event"]["type"] == f"noria.{kind}"]

    def chat(self, domain: str, words: str = "hello there", user: str = "ann", **more: Any) -> dict[str, Any]:
        body = {"model": domain, "messages": [{"role": "user", "content": words}], "user": user, **more}
        answered = self.as_chat.post("/v1/chat/completions", json=body)
        assert answered.status_code == 200, answered.text
        found: dict[str, Any] = answered.json()
        return found

    def in_flight(self) -> dict[str, int]:
        return self.services.routes.table()[2]

    def _known(self, domain: str) -> tuple[int, str, str | None] | None:
        routes, engines, _ = self.services.routes.table()
        route = routes.get(domain)
        engine = engines.get(route.engine_id) if route else None
        return (route.generation, engine.state, engine.base_url) if route and engine else None

    def _serve(self) -> None:
        try:
            self.server.run()
        except OSError:
            assert self._stopping.is_set()  # its socket was closed under it

    def _follow(self) -> None:
        as_stream = url_of(STREAM, self.settings.database_url, PASSWORDS)
        database = open_database(as_stream, SHARES["streams"])
        store, relay = Store(database), Relay(database, KafkaLog(self.kafka, "test-relay"))
        consumer: KafkaConsumer | None = None
        while not self._stopping.is_set():
            try:
                if consumer is None:
                    consumer = self._consumer(store)
                self.following.wait()
                batches = consumer.poll(timeout_ms=30, max_records=500)
                records = [
                    Record(r.topic, r.partition, r.offset, r.key, r.value) for batch in batches.values() for r in batch
                ]
                if records:
                    store.apply(records)
                relay.step(datetime.now(UTC))
            except Unavailable:
                self._stopping.wait(0.1)
        if consumer is not None:
            consumer.close(autocommit=False)
        database.dispose()

    def _consumer(self, store: Store) -> KafkaConsumer:
        consumer = KafkaConsumer(
            **self.kafka.client(), group_id=None, enable_auto_commit=False, fetch_max_wait_ms=20, **PATIENCE
        )
        places = [
            TopicPartition(topic.name, partition)
            for topic in TOPICS
            if topic.name in (CONVERSATIONS, DOMAINS)
            for partition in range(topic.partitions)
        ]
        consumer.assign(places)
        there = store.positions()
        for place in places:
            consumer.seek(place, there.get((place.topic, place.partition), 0))
        return consumer


def make_settings(home: Path, kafka: Cluster, database_url: str) -> Settings:
    return Settings(
        home=home,
        kafka=kafka,
        database_url=database_url,
        door_url="http://127.0.0.1:1",
        page_url="",
        master_key=home / "keys" / "master.key",
        erasures=home / "keys" / "erasures.jsonl",
        opencompass=home / "opencompass",
    )


@contextmanager
def running(kafka: Cluster, database_url: str, home: Path) -> Iterator[World]:
    """A world on an empty log and a fresh database."""
    models = home / "models" / "index.json"
    models.parent.mkdir(parents=True, exist_ok=True)
    models.write_text(json.dumps({DEFAULT_BASE_MODEL: MODEL}))
    world = World(make_settings(home, kafka, database_url), kafka)
    try:
        yield world
    finally:
        world.stop()
