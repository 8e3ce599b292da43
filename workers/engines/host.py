"""The host of engines: keeps the engines that are wanted running on this machine. `python -m workers.engines.host`

What is wanted stands in `work.engines`; each wanted engine has a keeper thread that starts it, says that it is ready, and
starts it again when it dies. Engines die with their host, and come back with it.

An engine that no door has used for a while falls asleep: first its row says so, and it ends once every living door knows and
nothing is in flight there. A door that needs it asks for it again.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, text
from sqlalchemy import Engine as Database

from streams.connections import SHARES
from streams.errors import Invalid, Unavailable
from streams.relay import Waiter
from streams.sealing import Keyring, MasterKey
from streams.settings import Settings, from_env
from streams.store import open_engine, postgres_trouble
from workers.artifacts import Artifacts
from workers.context import Cancelled, retry
from workers.engines import make_engine
from workers.engines.protocol import EngineSpec
from workers.models.tokens import control_tokens

ATTEMPTS = 4
HEALTHY_S = 30.0
DOOR_SLOW_S = 1.0  # between what a door knew and what it says of it
DOOR_SILENT_S = 5.0  # a door that has not been heard of for so long is gone
logger = logging.getLogger("noria.engines")


class Wanted(Struct, frozen=True):
    engine_id: str
    kind: str
    model: str


class Keeper:
    """Keeps one engine running until told to stop."""

    def __init__(self, wanted: Wanted, settings: Settings, database: Database, key: str) -> None:
        self.wanted = wanted
        self._settings = settings
        self._database = database
        self._key = key
        self._stopping = threading.Event()
        self._sleeping = False
        self.serving = False
        self._thread = threading.Thread(target=self._keep, name=wanted.engine_id, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def sleep(self) -> None:
        """Stop, leaving the engine's row as it is but for the address."""
        self._sleeping = True
        self._stopping.set()

    def join(self) -> None:
        self._thread.join()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def _keep(self) -> None:
        attempt, wait_s = 0, 0.2
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._serve()
                attempt, wait_s = (0, 0.2) if time.monotonic() - began > HEALTHY_S else (attempt, wait_s)
            except Unavailable as error:
                attempt += 1
                logger.warning("engine %s: %s", self.wanted.engine_id, error)
                if attempt >= ATTEMPTS:
                    self._say("failed", error=str(error))
            except Invalid as error:
                logger.error("engine %s: %s", self.wanted.engine_id, error)
                self._say("failed", error=str(error))
                return
            self._stopping.wait(wait_s)
            wait_s = min(2 * wait_s, 10.0)
        if not self._sleeping:
            self._say("stopped")

    def _serve(self) -> None:
        """Start the engine, and return when it has died or is to stop. Raises Unavailable, Invalid."""
        model_dir = Artifacts(self._settings.artifacts).path(self.wanted.model)
        spec = EngineSpec(
            kind=self.wanted.kind,
            model_dir=model_dir,
            model_name=self.wanted.engine_id,
            slots=self._settings.engine_slots,
            threads=self._settings.engine_threads,
            lightllm=self._settings.lightllm,
        )
        engine = make_engine(spec, self._key)
        reads = {"control_tokens": list(control_tokens(model_dir)), "context_tokens": spec.context_tokens}
        self._say("starting")
        engine.start()
        try:
            engine.ready(engine.start_deadline_s)
            self._say("ready", base_url=engine.base_url, pid=engine.pid, **reads)
            self.serving = True
            while engine.alive() and not self._stopping.wait(0.1):
                pass
            if not self._stopping.is_set():
                self._say("starting")
                raise Unavailable("the process ended")
        finally:
            self.serving = False
            engine.stop()

    def _say(self, state: str, **known: Any) -> None:
        """Write the engine's state; of the rest what is not `known` now is not known."""

        def write() -> None:
            with postgres_trouble(), self._database.begin() as connection:
                connection.execute(
                    text(
                        "UPDATE work.engines SET state = :state, base_url = :base_url, pid = :pid, error = :error,"
                        " control_tokens = :control_tokens, context_tokens = :context_tokens,"
                        " changed_at = clock_timestamp() WHERE engine_id = :id"
                    ),
                    {
                        **dict.fromkeys(("base_url", "pid", "error", "control_tokens", "context_tokens")),
                        **known,
                        "state": state,
                        "id": self.wanted.engine_id,
                    },
                )
                connection.execute(text("NOTIFY noria_routes"))  # doors hold these addresses too

        try:
            retry(write, self._stopping)
        except Cancelled:
            logger.warning("engine %s: its state (%s) could not be written", self.wanted.engine_id, state)


class Host:
    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._keyring = Keyring(database, MasterKey(settings.master_key))
        self._keepers: dict[str, Keeper] = {}

    def forget_the_past(self) -> None:
        """No engine of a former host is alive: say so before anybody is sent to it."""
        with postgres_trouble(), self._database.begin() as connection:
            connection.execute(
                text(
                    "UPDATE work.engines SET state = CASE WHEN wanted AND state = 'asleep' THEN 'asleep'"
                    " WHEN wanted THEN 'asked' ELSE 'stopped' END, base_url = NULL"
                )
            )

    def step(self) -> None:
        """Bring what runs to what is wanted. Raises Unavailable."""
        self.close_retired()
        self.let_sleep()
        with postgres_trouble(), self._database.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT engine_id, kind, model, state FROM work.engines WHERE wanted ORDER BY changed_at, engine_id"
                )
            ).all()
        wanted = {row.engine_id: Wanted(row.engine_id, row.kind, row.model) for row in rows}
        asleep = {row.engine_id for row in rows if row.state == "asleep"}
        self._awake(row.engine_id for row in rows if row.state == "asked")
        for name, keeper in list(self._keepers.items()):
            if keeper.over:
                del self._keepers[name]
            elif wanted.get(name) != keeper.wanted:
                keeper.stop()
        for name, found in wanted.items():
            if name not in self._keepers and name not in asleep and not self._failed(name):
                self._keepers[name] = Keeper(
                    found, self._settings, self._database, self._keyring.derive(f"engine:{name}")
                )

    def close_retired(self) -> None:
        """The engines of a domain that has been retired are wanted no more, once no door sends there and nothing is in flight."""
        with postgres_trouble(), self._database.begin() as connection:
            closed = connection.execute(
                text(
                    "DELETE FROM work.routes r USING noria.domains d"
                    " WHERE d.domain = r.domain AND d.retired_at IS NOT NULL RETURNING r.domain"
                )
            ).all()
            if closed:
                connection.execute(text("NOTIFY noria_routes"))
            connection.execute(
                text(
                    "UPDATE work.engines e SET wanted = false FROM noria.domains d"
                    " WHERE d.domain = e.domain AND d.retired_at IS NOT NULL AND e.wanted AND NOT EXISTS ("
                    " SELECT FROM work.doors w WHERE w.seen_at > now() - make_interval(secs => :silent)"
                    " AND (w.generations -> e.domain IS NOT NULL OR (w.in_flight ->> e.engine_id)::int > 0))"
                ),
                {"silent": DOOR_SILENT_S},
            )

    def let_sleep(self) -> None:
        """Have the engines fall asleep that nothing has used for as long as the setting says; end those that all doors know of."""
        if not self._settings.engine_sleep_after_s:
            return
        with postgres_trouble(), self._database.begin() as connection:
            fallen = connection.execute(
                text(
                    "UPDATE work.engines SET state = 'asleep', changed_at = clock_timestamp() WHERE wanted AND state = 'ready'"
                    " AND greatest(used_at, changed_at) < now() - make_interval(secs => :after) RETURNING engine_id"
                ),
                {"after": self._settings.engine_sleep_after_s},
            ).all()
            if fallen:
                connection.execute(text("NOTIFY noria_routes"))
            known = connection.execute(
                text(
                    "SELECT e.engine_id, coalesce(bool_or((d.in_flight ->> e.engine_id)::int > 0), false) AS used,"
                    " coalesce(bool_and(d.seen_at > e.changed_at + make_interval(secs => :slow)), true) AS known"
                    " FROM work.engines e LEFT JOIN work.doors d ON d.seen_at > now() - make_interval(secs => :silent)"
                    " WHERE e.state = 'asleep' AND e.base_url IS NOT NULL GROUP BY e.engine_id"
                ),
                {"slow": DOOR_SLOW_S, "silent": DOOR_SILENT_S},
            ).all()
            for row in known:
                if row.used:  # somebody came while it fell asleep
                    self._wake(connection, row.engine_id)
                elif row.known and (keeper := self._keepers.get(row.engine_id)) is not None:
                    ends = connection.execute(
                        text(
                            "UPDATE work.engines SET base_url = NULL, pid = NULL"
                            " WHERE engine_id = :id AND state = 'asleep'"
                        ),
                        {"id": row.engine_id},
                    )
                    if ends.rowcount:  # nobody has asked for it in between
                        keeper.sleep()

    def _awake(self, asked: Iterable[str]) -> None:
        """An engine that was asked for before it ended is ready still."""
        for name in asked:
            keeper = self._keepers.get(name)
            if keeper is not None and keeper.serving and not keeper.stopping:
                with postgres_trouble(), self._database.begin() as connection:
                    self._wake(connection, name)

    def _wake(self, connection: Connection, name: str) -> None:
        connection.execute(
            text(
                "UPDATE work.engines SET state = 'ready', changed_at = clock_timestamp() WHERE engine_id = :id"
                " AND state IN ('asleep', 'asked') AND base_url IS NOT NULL"
            ),
            {"id": name},
        )
        connection.execute(text("NOTIFY noria_routes"))

    def stop(self) -> None:
        for keeper in self._keepers.values():
            keeper.stop()
        for keeper in self._keepers.values():
            keeper.join()

    def _failed(self, name: str) -> bool:
        """An engine that cannot start is left alone until it is asked for anew."""
        with postgres_trouble(), self._database.connect() as connection:
            state = connection.execute(text("SELECT state FROM work.engines WHERE engine_id = :id"), {"id": name})
            return bool(state.scalar_one() == "failed")


def main() -> int:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = from_env(os.environ)
        database = open_engine(settings.database_url, SHARES["engines"])
        host = Host(settings, database)
    except Invalid as error:
        print(error, file=sys.stderr)
        return 2
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    waiter = Waiter(database, "noria_engines")
    try:
        retry(host.forget_the_past, stopping)
        while not stopping.is_set():
            try:
                host.step()
                waiter.wait(0.5)
            except Unavailable as error:
                logger.warning("%s", error)
                stopping.wait(1.0)
    except Cancelled:
        pass  # told to stop before it began
    finally:
        host.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
