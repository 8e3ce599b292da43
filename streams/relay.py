"""The relay sends what the stream asked to be said, in order, and tells the log the time. `python -m streams.relay`

A row is marked sent after Kafka acknowledged it. Whoever dies in between sends it again under the same id, and readers
drop the second. One relay at a time: an advisory lock decides which.
"""

import itertools
import logging
import select
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from msgspec import Struct
from sqlalchemy import Engine

from streams import process
from streams.codec import envelope_for
from streams.connections import SHARES
from streams.continuity import Continuity
from streams.facts.domains import ClockTicked
from streams.log import KafkaLog, Log, Message, message_of
from streams.settings import Settings
from streams.store import open_database, postgres_trouble
from streams.tables import LIVE

BATCH_ROWS = 500
APPEND_TIMEOUT_S = 10.0
TICK_EVERY = timedelta(minutes=1)  # of one domain, at most
SENT_KEPT = "1 day"  # rows of the outbox that were sent: somebody may want to see them
FORGET_EVERY = timedelta(minutes=1)
FORGET_ROWS = 10_000  # at once
NEVER = datetime.min.replace(tzinfo=UTC)
logger = logging.getLogger("noria.relay")


class Sent(Struct, frozen=True):
    rows: int
    ticks: int


class Relay:
    def __init__(self, database: Engine, log: Log) -> None:
        self._database = database
        self._log = log
        self._continuity = Continuity(database, log)
        self._ticked: dict[str, datetime] = {}
        self._forgot_at = NEVER

    def step(self, now: datetime) -> Sent:
        """Send what is waiting, and the time to whom it matters. Raises Unavailable (call again), or LostHistory."""
        self._continuity.check()
        sent = Sent(self._send(), self._tick(now))
        if now - self._forgot_at >= FORGET_EVERY:
            self.forget_sent()
            self._forgot_at = now
        return sent

    def forget_sent(self) -> int:
        """Remove rows that were sent a while ago; how many. What was said stands on the log, and no id is made twice but by a cause
        that is applied twice, which no cause is. Raises Unavailable."""
        with postgres_trouble(), self._database.begin() as connection:
            done = connection.exec_driver_sql(
                f"DELETE FROM {LIVE}.outbox WHERE id IN (SELECT id FROM {LIVE}.outbox"
                f" WHERE sent_at < now() - interval '{SENT_KEPT}' LIMIT {FORGET_ROWS})"
            )
            return int(done.rowcount)

    def _send(self) -> int:
        with postgres_trouble(), self._database.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock(hashtext('noria.relay.{LIVE}'))")
            rows = connection.exec_driver_sql(
                f"SELECT id, topic, key, value FROM {LIVE}.outbox WHERE sent_at IS NULL ORDER BY id LIMIT {BATCH_ROWS}"
            ).all()
            # Topic by topic in the order of the rows: an order must not overtake the event that explains it.
            for _, run in itertools.groupby(rows, key=lambda row: row.topic):
                self._log.append([Message(r.topic, r.key, bytes(r.value)) for r in run], APPEND_TIMEOUT_S)
            if rows:
                connection.exec_driver_sql(
                    f"UPDATE {LIVE}.outbox SET sent_at = now() WHERE id = ANY(%s)", ([row.id for row in rows],)
                )
        return len(rows)

    def _tick(self, now: datetime) -> int:
        with postgres_trouble(), self._database.connect() as connection:
            due = connection.exec_driver_sql(
                f"SELECT domain FROM {LIVE}.domains WHERE wake_at <= %s ORDER BY domain", (now,)
            ).scalars()
            waiting = [domain for domain in due if now - self._ticked.get(domain, NEVER) >= TICK_EVERY]
        for domain in waiting:
            ticked = ClockTicked(domain=domain, at=now)
            envelope = envelope_for(ticked, id=uuid4(), source="/noria/clock", time=now, correlation_id=domain)
            self._log.append([message_of(envelope)], APPEND_TIMEOUT_S)
            self._ticked[domain] = now
        return len(waiting)


class Waiter:
    """Waits for a NOTIFY on a channel, or for the time to pass."""

    def __init__(self, database: Engine, channel: str) -> None:
        self._database = database
        self._channel = channel
        self._connection: Any = None

    def wait(self, timeout_s: float) -> bool:
        """True if somebody notified within `timeout_s`. Raises Unavailable."""
        with postgres_trouble():
            if self._connection is None:
                fresh = self._database.raw_connection()
                self._connection = fresh.driver_connection
                fresh.detach()  # ours alone from here on: the pool must not lend it out
                self._connection.set_session(autocommit=True)
                with self._connection.cursor() as cursor:
                    cursor.execute(f"LISTEN {self._channel}")
            try:
                ready, _, _ = select.select([self._connection], [], [], timeout_s)
                if ready:
                    self._connection.poll()
                    self._connection.notifies.clear()
                return bool(ready)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def run(relay: Relay, waiter: Waiter, stopping: threading.Event) -> None:
    def step() -> None:
        if relay.step(datetime.now(UTC)).rows < BATCH_ROWS:
            waiter.wait(1.0)

    process.keep(step, stopping)


def work(settings: Settings, stopping: threading.Event) -> None:
    database = open_database(settings.database_url, SHARES["relay"])
    log = KafkaLog(settings.kafka, "noria-relay")
    try:
        run(Relay(database, log), Waiter(database, "noria_outbox"), stopping)
    finally:
        log.close()


if __name__ == "__main__":
    raise SystemExit(process.run(work))
