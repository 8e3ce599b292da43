"""Which engine answers, in the door's own memory: routes, what is in flight on each engine, and the door's heartbeat.

The swapper flips a route in one UPDATE and notifies; the door takes new requests to the new engine from then on and says
so, with its count of what is still in flight, in its row of `work.doors`. The old engine is stopped by these counts.
"""

import logging
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psycopg2
import psycopg2.extensions
from msgspec import Struct
from msgspec.structs import replace
from psycopg2.extras import Json

from streams.connections import SHARES
from streams.erasures import ERASED_CHANNEL
from streams.recalled import Recall
from streams.sealing import Keyring
from streams.sqlstate import meaning_of, words_of
from streams.store import CONNECT_TIMEOUT_S, settle

logger = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
FORGET_DOORS_AFTER = "10 minutes"
_COMING = frozenset({"asked", "starting", "asleep"})  # who sleeps comes when it is asked for
_THERE = frozenset({"ready", "asleep"})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Route(Struct, frozen=True):
    release: int
    engine_id: str
    generation: int


class Manner(Struct, frozen=True):
    """How a domain answers: what its conversations begin with, and what is recalled for them."""

    system_prompt: str
    recall: Recall = Recall()


class Served(Struct, frozen=True):
    """An engine as the machinery's table shows it."""

    engine_id: str
    domain: str
    release: int
    state: str
    base_url: str | None
    model: str
    wanted: bool
    kind: str
    control_tokens: list[str] | None
    context_tokens: int | None
    host: str | None = None  # where it runs

    def seen_from(self, host: str) -> "Served":
        """An engine that listens on the loopback of another host is not there for this one: somebody else may listen here."""
        far = self.host not in (None, host) and urlsplit(self.base_url or "").hostname in LOOPBACK
        return replace(self, state="elsewhere", base_url=None) if far else self


class Pin(Struct, frozen=True):
    """A request's promise: whatever happens, this release answers it."""

    domain: str
    release: int
    engine_id: str
    kind: str  # of its engine
    context_tokens: int | None = None

    @property
    def name(self) -> str:
        return f"{self.domain}@{self.release}"


class NotServed(Exception):
    """No route, or no ready engine, for what was asked. `known`: the domain has a route."""

    def __init__(self, known: bool) -> None:
        super().__init__("not served")
        self.known = known


class NoEngine(Exception):
    """The release that should answer has no engine that lives."""


class QueueFull(Exception):
    """As much as the door lets wait for one engine is waiting."""


class Routes:
    """Thread-safe. `limit` is the number of drafts that may be in flight on one engine. `told`: what else PostgreSQL says on a
    channel, and who is to hear it; an empty word, when the connection is new and something may have been missed. `host`: where
    the door runs (None: as the system calls it)."""

    def __init__(
        self,
        database_url: str,
        limit: int,
        keyring: Keyring | None = None,
        door_id: str | None = None,
        told: Mapping[str, Callable[[str], None]] | None = None,
        host: str | None = None,
    ) -> None:
        host = host or socket.gethostname()
        self._database_url = database_url
        self._keyring = keyring
        self._limit = limit
        self._host = host
        self._told = dict(told or {})
        if keyring is not None:
            self._told[ERASED_CHANNEL] = lambda _: keyring.forget()
        self.door_id = door_id or f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self._changed = threading.Condition()
        self._routes: dict[str, Route] = {}
        self._engines: dict[str, Served] = {}
        self._in_flight: dict[str, int] = {}
        self._used: set[str] = set()  # engines that were asked since the last heartbeat
        self._manners: dict[str, Manner] = {}  # of the domains that live
        self._retired: set[str] = set()  # by this door: its projections may say otherwise for a moment
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="routes", daemon=True)

    @property
    def limit(self) -> int:
        """How many drafts may be in flight on one engine."""
        return self._limit

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leave: the door's row goes, so that nobody waits for it."""
        self._stopping.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether the tables were read at least once within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._seen, timeout_s)

    _seen = False

    def pin(self, domain: str, release: int | None, drafts: int) -> Pin:
        """Count `drafts` in on the engine that answers `domain` (or exactly `release` of it) and promise it.

        Raises NotServed, NoEngine or QueueFull, having counted nothing.
        """
        with self._changed:
            route = self._routes.get(domain)
            if release is None:
                if route is None:
                    raise NotServed(known=False)
                engine = self._engines.get(route.engine_id)
                if engine is None or engine.state not in _COMING | {"ready"}:
                    raise NoEngine
            else:
                ready = [
                    e
                    for e in self._engines.values()
                    if (e.domain, e.release, e.wanted) == (domain, release, True) and e.state in _THERE
                ]
                if not ready:
                    raise NotServed(known=route is not None)
                # The route's own engine, if it is among them.
                engine = next((e for e in ready if route and e.engine_id == route.engine_id), ready[0])
            if self._in_flight.get(engine.engine_id, 0) + drafts > self._limit:
                raise QueueFull
            self._in_flight[engine.engine_id] = self._in_flight.get(engine.engine_id, 0) + drafts
            self._used.add(engine.engine_id)
            return Pin(domain, engine.release, engine.engine_id, engine.kind, engine.context_tokens)

    def unpin(self, engine_id: str) -> None:
        """One draft less is in flight on that engine."""
        with self._changed:
            left = self._in_flight[engine_id] - 1
            if left:
                self._in_flight[engine_id] = left
                return
            del self._in_flight[engine_id]
            routed = any(route.engine_id == engine_id for route in self._routes.values())
        if not routed:
            self._wake()  # somebody waits for this engine to drain

    def manner(self, domain: str) -> Manner | None:
        """How a domain answers; None where no domain that lives is known by that name."""
        with self._changed:
            return self._manners.get(domain) if domain not in self._retired else None

    def retire(self, domain: str) -> None:
        """That the domain has been retired is on the log: it answers nobody here from now on."""
        with self._changed:
            self._retired.add(domain)

    def is_retired(self, domain: str) -> bool:
        """Whether this door retired it. (Nothing brings a retired domain back.)"""
        with self._changed:
            return domain in self._retired

    def address(self, engine_id: str) -> str | None:
        """Where that engine listens; None while it is not ready."""
        engine = self.ready(engine_id)
        return engine.base_url if engine is not None else None

    def ready(self, engine_id: str) -> Served | None:
        """That engine, if it answers; one whose control tokens nobody has said is not asked: people's could not be escaped."""
        with self._changed:
            engine = self._engines.get(engine_id)
        return engine if engine is not None and engine.state == "ready" and engine.control_tokens is not None else None

    def wake(self, engine_id: str) -> bool:
        """Ask for the engine if it sleeps; whether it does."""
        with self._changed:
            engine = self._engines.get(engine_id)
            if engine is None or engine.state != "asleep":
                return False
            self._used.add(engine_id)
        self._wake()
        return True

    def there(self) -> bool:
        """Whether anything answers, at once or when it has woken."""
        with self._changed:
            named = [self._engines.get(route.engine_id) for route in self._routes.values()]
        return any(engine is not None and engine.state in _THERE for engine in named)

    def lives(self, engine_id: str) -> bool:
        """Whether waiting for that engine makes sense."""
        with self._changed:
            engine = self._engines.get(engine_id)
            return engine is not None and engine.state in _COMING | {"ready"}

    def wait(self, timeout_s: float) -> None:
        """Until something changed, or the time is over."""
        with self._changed:
            self._changed.wait(timeout_s)

    def table(self) -> tuple[dict[str, Route], dict[str, Served], dict[str, int]]:
        with self._changed:
            return dict(self._routes), dict(self._engines), dict(self._in_flight)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"!")
        except BlockingIOError:
            pass  # enough wake-ups are waiting already

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                connection = psycopg2.connect(self._database_url, connect_timeout=CONNECT_TIMEOUT_S)
            except psycopg2.OperationalError as error:
                logger.warning("routes: PostgreSQL does not answer (%s)", type(error).__name__)
                self._stopping.wait(0.5)
                continue
            try:
                connection.autocommit = True
                settle(connection, SHARES["door"])
                with connection.cursor() as cursor:
                    cursor.execute("LISTEN noria_routes; LISTEN noria_engines; LISTEN noria_domains")
                    for channel, hear in self._told.items():
                        cursor.execute(f"LISTEN {channel}")
                        hear("")  # of what happened before, nobody has told
                    while not self._stopping.is_set():
                        began = time.monotonic()
                        self._refresh(cursor)
                        self._heartbeat(cursor)
                        heard = self._hear(connection)  # while the tables were read
                        if self._keyring is not None:
                            self._keyring.vouch(began)
                        if not heard:
                            self._sleep(connection)
                    cursor.execute("DELETE FROM work.doors WHERE door_id = %s", (self.door_id,))
            except psycopg2.Error as error:
                if meaning_of(error) != "unavailable":
                    raise
                # What is in memory still holds; the engines answer without PostgreSQL.
                logger.warning("routes: %s", words_of(error))
                self._stopping.wait(0.2)
            finally:
                connection.close()

    def _sleep(self, connection: "psycopg2.extensions.connection") -> None:
        waited: list[Any] = [connection, self._wake_read]
        readable, _, _ = select.select(waited, [], [], HEARTBEAT_S)
        if connection in readable:
            connection.poll()
            self._hear(connection)
        if self._wake_read in readable:
            os.read(self._wake_read, 4096)

    def _hear(self, connection: "psycopg2.extensions.connection") -> bool:
        """Hand on what was said; whether anything was."""
        said = list(connection.notifies)
        connection.notifies.clear()
        for one in said:
            if one.channel in self._told:
                self._told[one.channel](one.payload)
        return bool(said)

    def _refresh(self, cursor: "psycopg2.extensions.cursor") -> None:
        cursor.execute("SELECT domain, release, engine_id, generation FROM work.routes")
        routes = {domain: Route(*row) for domain, *row in cursor.fetchall()}
        cursor.execute(
            "SELECT engine_id, domain, release, state, base_url, model, wanted, kind, control_tokens, context_tokens, host"
            " FROM work.engines WHERE wanted OR state = 'ready'"
        )
        engines = {row[0]: Served(*row).seen_from(self._host) for row in cursor.fetchall()}
        cursor.execute(
            "SELECT domain, system_prompt, policy -> 'recall', live_release FROM noria.domains WHERE retired_at IS NULL"
        )
        domains = cursor.fetchall()
        manners = {domain: Manner(said, recall_of(recall)) for domain, said, recall, _ in domains}
        lost = {domain for domain, *_, live in domains if live is not None} - routes.keys()
        with self._changed:
            # The log says that it lives, and no table says where: it was lost, and comes back. Until then it is where it was.
            for domain in lost & self._routes.keys():
                route = self._routes[domain]
                routes[domain] = route
                if route.engine_id not in engines and route.engine_id in self._engines:
                    engines[route.engine_id] = self._engines[route.engine_id]
            self._manners = manners
            different = (routes, engines) != (self._routes, self._engines) or not self._seen
            self._routes, self._engines, self._seen = routes, engines, True
            if different:
                self._changed.notify_all()

    def _heartbeat(self, cursor: "psycopg2.extensions.cursor") -> None:
        with self._changed:
            # One look under the lock: whoever reads that the new generation is in use reads the counts that go with it.
            generations = {domain: route.generation for domain, route in self._routes.items()}
            in_flight = dict(self._in_flight)
            used, self._used = sorted({*self._used, *in_flight}), set()
        if used:
            cursor.execute("UPDATE work.engines SET used_at = now() WHERE engine_id = ANY(%s)", (used,))
            cursor.execute(
                "UPDATE work.engines SET state = 'asked', changed_at = now() WHERE engine_id = ANY(%s) AND state = 'asleep'",
                (used,),
            )
            if cursor.rowcount:
                cursor.execute("NOTIFY noria_engines")
        cursor.execute(
            "INSERT INTO work.doors (door_id, generations, in_flight, seen_at, host) VALUES (%s, %s, %s, now(), %s)"
            " ON CONFLICT (door_id) DO UPDATE SET generations = excluded.generations,"
            " in_flight = excluded.in_flight, seen_at = excluded.seen_at",
            (self.door_id, Json(generations), Json(in_flight), self._host),
        )
        cursor.execute(f"DELETE FROM work.doors WHERE seen_at < now() - interval '{FORGET_DOORS_AFTER}'")


def recall_of(said: Any) -> Recall:
    """What a policy says of recall, as it stands in the table: nothing, where it comes from before there was any, or where a later
    version says what this one does not know."""
    try:
        return msgspec.convert(said or {}, Recall)
    except msgspec.ValidationError:
        return Recall()


def engine_key(derive: Callable[[str], str], engine_id: str) -> str:
    """The key that the engine was started with; it is never stored."""
    return derive(f"engine:{engine_id}")
