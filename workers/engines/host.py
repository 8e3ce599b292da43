"""The host of engines: keeps the engines that are wanted running on this machine. `python -m workers.engines.host`

What is wanted stands in `work.engines`; each wanted engine has a keeper thread that starts it, says that it is ready, and
starts it again when it dies. Engines die with their host, and come back with it.

An engine belongs to one host at a time: the first that takes its row up holds it for as long as it says, again and again, that it
is there. A host that has been silent for HOLD_S has lost its engines to whichever comes next, and stops them when it is back. A row
that is gone (somebody dropped the schema) is no word about its engine: that runs on for FORGOTTEN_S, for the row to come back.

An engine that no door has used for a while falls asleep: first its row says so, and it ends once every living door knows and
nothing is in flight there. A door that needs it asks for it again.
"""

import logging
import threading
import time
from contextlib import suppress
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, text
from sqlalchemy import Engine as Database

from streams import process
from streams.artifacts import open_artifacts
from streams.connections import SHARES
from streams.errors import Invalid, Unavailable
from streams.relay import Waiter
from streams.sealing import Keyring, MasterKey
from streams.settings import Settings
from streams.store import open_database, postgres_trouble
from workers.context import Cancelled, retry
from workers.engines import make_engine
from workers.engines.protocol import EngineSpec
from workers.models.tokens import control_tokens
from workers.routes import HOLD_S

ATTEMPTS = 4
HEALTHY_S = 30.0
DOOR_SLOW_S = 1.0  # between what a door knew and what it says of it
DOOR_SILENT_S = 5.0  # a door that has not been heard of for so long is gone
HELD_ANEW_S = HOLD_S / 3  # before a hold ends
FORGOTTEN_S = 60.0
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
        self._ready: dict[str, Any] | None = None  # what was said of it, while it serves
        self._thread = threading.Thread(target=self._keep, name=wanted.engine_id, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def sleep(self) -> None:
        """Stop, leaving the engine's row as it is but for the address."""
        self._sleeping = True
        self._stopping.set()

    def say_again(self) -> bool:
        """Where it serves, say so once more; whether it does."""
        ready = self._ready
        if ready is None or self.stopping:
            return False
        self._say("ready", **ready)
        return True

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
        model_dir = open_artifacts(self._settings.artifacts, self._settings.shared_artifacts).path(self.wanted.model)
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
            self._ready = {"base_url": engine.base_url, "pid": engine.pid, **reads}
            self._say("ready", **self._ready)
            while engine.alive() and not self._stopping.wait(0.1):
                pass
            if not self._stopping.is_set():
                self._ready = None
                self._say("starting")
                raise Unavailable("the process ended")
        finally:
            self._ready = None
            engine.stop()

    def _say(self, state: str, **known: Any) -> None:
        """Write the engine's state; of the rest what is not `known` now is not known."""

        def write() -> None:
            with postgres_trouble(), self._database.begin() as connection:
                connection.execute(
                    text(
                        "UPDATE work.engines SET state = :state, base_url = :base_url, pid = :pid, error = :error,"
                        " control_tokens = :control_tokens, context_tokens = :context_tokens,"
                        " changed_at = clock_timestamp() WHERE engine_id = :id AND host = :host"
                    ),
                    {
                        **dict.fromkeys(("base_url", "pid", "error", "control_tokens", "context_tokens")),
                        **known,
                        "state": state,
                        "id": self.wanted.engine_id,
                        "host": self._settings.host,
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
        self._missing: dict[str, float] = {}  # since when a keeper's row is not there

    def forget_the_past(self) -> None:
        """No engine that this host had is alive: say so before anybody is sent to it."""
        with postgres_trouble(), self._database.begin() as connection:
            connection.execute(
                text(
                    "UPDATE work.engines SET state = CASE WHEN wanted AND state = 'asleep' THEN 'asleep'"
                    " WHEN wanted THEN 'asked' ELSE 'stopped' END, base_url = NULL WHERE host = :host"
                ),
                {"host": self._settings.host},
            )

    def step(self) -> None:
        """Bring what runs to what is wanted here. Raises Unavailable."""
        self._hold()
        self.let_sleep()
        with postgres_trouble(), self._database.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT engine_id, kind, model, state, wanted AND host = :host AS here FROM work.engines"
                    " WHERE (wanted AND host = :host) OR engine_id = ANY(:kept) ORDER BY changed_at, engine_id"
                ),
                {"host": self._settings.host, "kept": list(self._keepers)},
            ).all()
        self._note_missing({row.engine_id for row in rows})
        here = {row.engine_id: row for row in rows if row.here}
        wanted = {name: Wanted(name, row.kind, row.model) for name, row in here.items()}
        for name, keeper in list(self._keepers.items()):
            if keeper.over:
                del self._keepers[name]
            elif name in self._missing:
                if time.monotonic() - self._missing[name] > FORGOTTEN_S:
                    keeper.stop()
            elif wanted.get(name) != keeper.wanted:
                keeper.stop()
            elif here[name].state == "asked":
                keeper.say_again()  # it was asked for before it ended
        for name, found in wanted.items():
            # One that cannot start is left alone until it is asked for anew.
            if name not in self._keepers and here[name].state != "asleep" and not self._failed(name):
                self._keepers[name] = Keeper(
                    found, self._settings, self._database, self._keyring.derive(f"engine:{name}")
                )

    def _hold(self) -> None:
        """Say that this host is there, and take up what no other holds."""
        mine = {"host": self._settings.host, "hold": HOLD_S}
        with postgres_trouble(), self._database.begin() as connection:
            connection.execute(
                text(
                    "UPDATE work.engines SET held_until = now() + make_interval(secs => :hold) WHERE wanted AND host = :host"
                    " AND coalesce(held_until, now()) < now() + make_interval(secs => :anew)"
                ),
                mine | {"anew": HOLD_S - HELD_ANEW_S},
            )
            taken = connection.execute(
                text(
                    "UPDATE work.engines SET host = :host, held_until = now() + make_interval(secs => :hold), base_url = NULL,"
                    " pid = NULL, state = CASE WHEN state = 'asleep' THEN 'asleep' ELSE 'asked' END"
                    " WHERE wanted AND (host IS NULL OR (host != :host AND coalesce(held_until, now()) <= now()))"
                    " RETURNING engine_id"
                ),
                mine,
            ).all()
            if taken:
                connection.execute(text("NOTIFY noria_routes"))

    def _note_missing(self, there: set[str]) -> None:
        missing = [name for name in self._keepers if name not in there]
        self._missing = {name: self._missing.get(name, time.monotonic()) for name in missing}

    def let_sleep(self) -> None:
        """Have the engines fall asleep that nothing has used for as long as the setting says; end those that all doors know of."""
        if not self._settings.engine_sleep_after_s:
            return
        with postgres_trouble(), self._database.begin() as connection:
            fallen = connection.execute(
                text(
                    "UPDATE work.engines SET state = 'asleep', changed_at = clock_timestamp() WHERE wanted AND state = 'ready'"
                    " AND host = :host AND greatest(used_at, changed_at) < now() - make_interval(secs => :after)"
                    " RETURNING engine_id"
                ),
                {"after": self._settings.engine_sleep_after_s, "host": self._settings.host},
            ).all()
            if fallen:
                connection.execute(text("NOTIFY noria_routes"))
            known = connection.execute(
                text(
                    "SELECT e.engine_id, coalesce(bool_or((d.in_flight ->> e.engine_id)::int > 0), false) AS used,"
                    " coalesce(bool_and(d.seen_at > e.changed_at + make_interval(secs => :slow)), true) AS known"
                    " FROM work.engines e LEFT JOIN work.doors d ON d.seen_at > now() - make_interval(secs => :silent)"
                    " WHERE e.state = 'asleep' AND e.base_url IS NOT NULL AND e.host = :host GROUP BY e.engine_id"
                ),
                {"slow": DOOR_SLOW_S, "silent": DOOR_SILENT_S, "host": self._settings.host},
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
        with suppress(Unavailable), postgres_trouble(), self._database.begin() as connection:  # nobody need wait for it
            connection.execute(
                text("UPDATE work.engines SET held_until = now() WHERE host = :host"), {"host": self._settings.host}
            )

    def _failed(self, name: str) -> bool:
        """An engine that cannot start is left alone until it is asked for anew."""
        with postgres_trouble(), self._database.connect() as connection:
            state = connection.execute(text("SELECT state FROM work.engines WHERE engine_id = :id"), {"id": name})
            return bool(state.scalar_one_or_none() == "failed")


def work(settings: Settings, stopping: threading.Event) -> None:
    database = open_database(settings.database_url, SHARES["engines"])
    host, waiter = Host(settings, database), Waiter(database, "noria_engines")

    def step() -> None:
        host.step()
        waiter.wait(0.5)

    try:
        with suppress(Cancelled):  # told to stop before it began
            retry(host.forget_the_past, stopping)
            process.keep(step, stopping)
    finally:
        host.stop()


if __name__ == "__main__":
    raise SystemExit(process.run(work))
