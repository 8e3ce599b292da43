"""Noria on one machine: the process table, as data, and `up`."""

import functools
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from deploy import kafka, postgres
from deploy.ports import LOOPBACK, free_port, is_free
from deploy.supervisor import Process, Supervisor
from migrations.roles import url_of
from streams.cluster import Cluster, named_cluster
from streams.connections import SHARES, Name
from streams.errors import Invalid, Unavailable
from streams.private import write_private

PREFERRED = {"kafka": 19092, "postgres": 15432, "door": 8400, "page": 8401, "recall": 8402}


REBUILT_WITHIN_S = 86_400.0
RESTORING = "restoring.json"  # stands in a home while a restore writes to it


class Addresses(Struct):
    """Where everything answers; kept in run/noria.json, so that a restart finds its data under the same names."""

    kafka: Cluster
    database_url: str
    door: str
    page: str
    recall: str
    ports: dict[str, int]


def addresses(home: Path, environ: Mapping[str, str]) -> Addresses:
    """The addresses of last time where they are free, else others. NORIA_KAFKA and NORIA_DATABASE_URL name real clusters; a broker
    that is started here asks for a password, which is made where there is none. Raises Invalid."""
    theirs = named_cluster(environ)
    written = home / "run" / "noria-ports.json"
    before: dict[str, int] = msgspec.json.decode(written.read_bytes(), type=dict[str, int]) if written.exists() else {}
    ports: dict[str, int] = {}
    for name, port in PREFERRED.items():
        choices = [p for p in (before.get(name, port), port) if is_free(p) and p not in ports.values()]
        ports[name] = choices[0] if choices else free_port()
    write_private(written, msgspec.json.encode(ports))
    return Addresses(
        kafka=theirs or kafka.cluster(ports["kafka"], kafka.made_password(home / "keys" / "kafka.password")),
        database_url=environ.get("NORIA_DATABASE_URL") or "",
        door=f"http://{LOOPBACK}:{ports['door']}",
        page=f"http://{LOOPBACK}:{ports['page']}",
        recall=f"http://{LOOPBACK}:{ports['recall']}",
        ports=ports,
    )


def process_table(home: Path, found: Addresses, environ: Mapping[str, str]) -> list[Process]:
    """Every process of Noria on one machine. They are stopped from the last to the first.

    What a round needs and an answer does not is made beside: the worker waits for it, when a round needs it."""
    table: list[Process] = []
    log: tuple[str, ...] = ()
    database: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    if not environ.get("NORIA_KAFKA"):
        port, broker = found.ports["kafka"], kafka.argv(home / "kafka", found.kafka)
        table.append(_process("kafka", broker, (), lambda: _listens(port), 300.0, found.kafka.servers))
        log = ("kafka",)
    if not environ.get("NORIA_DATABASE_URL"):
        port_ = found.ports["postgres"]
        argv = ("-m", "deploy.postgres", "--data", str(home / "postgres"), "--port", str(port_))
        ready = _postgres_ready(home, port_)
        table.append(_process("postgres", argv, (), ready, 120.0, f"{LOOPBACK}:{port_}", signal.SIGINT))
        database = ("postgres",)
        roles = ("--roles", str(_passwords(home)))
    made = ("erased",)
    door = found.door

    def serving(name: Name, argv: tuple[str, ...], *more: Any) -> Process:
        """A process that has its own role, where PostgreSQL is ours."""
        process = _process(name, argv, *more)
        return replace(process, environment=_connects(home, name)) if roles else process

    return [
        *table,
        # After an update it may read the whole log.
        _step("migrate", ("-m", "migrations", *roles), log + database, deadline_s=REBUILT_WITHIN_S),
        _step("topics", ("-m", "streams.topics"), log + database),
        _step("keys", ("-m", "api.keys", "--ensure-local"), ("migrate",)),
        _step("erased", ("-m", "streams.erased"), ("topics", "keys")),  # before anything opens a word
        _step("base-model", ("-m", "workers.models.base", "--home", str(home)), deadline_s=600.0),
        serving("streams", ("-m", "streams.app"), made),
        serving("relay", ("-m", "streams.relay"), made),
        serving("engines", ("-m", "workers.engines.host"), made),
        serving("worker", ("-m", "workers.loop", "--kinds", "select,train,evaluate"), made),
        serving("builder", ("-m", "workers.loop", "--kinds", "build"), made),
        serving("swapper", ("-m", "workers.loop", "--kinds", "swap,purge"), (*made, "base-model")),
        serving("recall", ("-m", "workers.recall"), made),
        serving("door", ("-m", "api.app"), made, lambda: _answers(f"{door}/healthz"), 180.0, door),
        _process("page", ("-m", "api.ui"), made, lambda: _answers(found.page), 180.0, found.page),
        _beside("opencompass", ("-m", "workers.evaluator.install")),
        _beside("answers", ("-m", "workers.trainer.answers", "--home", str(home))),
    ]


def _passwords(home: Path) -> Path:
    """Of the processes' roles."""
    return home / "keys" / "postgres-roles.json"


def _connects(home: Path, name: Name) -> Callable[[], Mapping[str, str]]:
    """The one address of PostgreSQL that the process is given: its own role's."""

    @functools.cache  # for as long as this Noria runs
    def found() -> Mapping[str, str]:
        written = msgspec.json.decode((home / "run" / "noria.json").read_bytes(), type=dict[str, str])
        role = SHARES[name].role
        assert role is not None
        return {"NORIA_DATABASE_URL": url_of(role, written["database_url"], _passwords(home))}

    return found


def environment(home: Path, found: Addresses, environ: Mapping[str, str]) -> dict[str, str]:
    """What every process is given beside the caller's environment."""
    return dict(environ) | {
        "NORIA_HOME": str(home),
        **found.kafka.environ(),
        "NORIA_DOOR": found.door,
        "NORIA_PAGE": found.page,
        "NORIA_RECALL": found.recall,
        "GOMP_SPINCOUNT": "0",  # waiting OpenMP threads that spin make everything ten times slower on few cores
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def up(home: Path, environ: Mapping[str, str] = os.environ, say: Callable[[str], None] = print) -> None:
    """Run everything until SIGTERM or SIGINT. Raises Invalid or Unavailable, saying what did not come up."""
    if (home / RESTORING).exists():
        raise Invalid("a restore into this home was broken off: run `noria restore` again, it begins anew")
    for folder in (home, home / "run", home / "keys"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = addresses(home, environ)
    table = process_table(home, found, environ)
    supervisor = Supervisor(home, table, environment(home, found, environ), say)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: supervisor.stop())
    write_addresses(home, found)
    supervisor.run(lambda: say(f"ready: page {found.page}  API {found.door}/v1"))


def write_addresses(home: Path, found: Addresses) -> None:
    """For whoever looks for what runs here."""
    cluster = {name.removeprefix("NORIA_").lower(): said for name, said in found.kafka.environ().items()}
    written = cluster | {"door": found.door, "page": found.page, "recall": found.recall}
    if found.database_url:
        written["database_url"] = found.database_url
    write_private(home / "run" / "noria.json", msgspec.json.encode(written))


def main() -> int:
    """`python -m deploy.local`: what `noria up` runs."""
    home = Path(os.environ.get("NORIA_HOME", ".noria")).absolute()
    try:
        up(home)
    except (Invalid, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _process(
    name: str,
    argv: tuple[str, ...],
    after: tuple[str, ...],
    ready: Callable[[], bool] | None = None,
    deadline_s: float = 60.0,
    address: str = "",
    stop_signal: int = signal.SIGTERM,
) -> Process:
    command = (sys.executable, *argv)
    return Process(name, command, after, ready, stop_signal=stop_signal, deadline_s=deadline_s, address=address)


def _step(name: str, argv: tuple[str, ...], after: tuple[str, ...] = (), deadline_s: float = 120.0) -> Process:
    return Process(name, (sys.executable, *argv), after, once=True, deadline_s=deadline_s)


def _beside(name: str, argv: tuple[str, ...]) -> Process:
    return Process(name, (sys.executable, *argv), once=True, beside=True)


def _listens(port: int) -> bool:
    with socket.create_connection((LOOPBACK, port), timeout=1.0):
        return True


def _postgres_ready(home: Path, port: int) -> Callable[[], bool]:
    def ready() -> bool:
        """Once it takes connections, its address (with the password that it made) is written for the others."""
        data = home / "postgres"
        if not (data / "made").exists() or not _listens(port):
            return False
        path = home / "run" / "noria.json"
        written: dict[str, str] = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        write_private(path, msgspec.json.encode(written | {"database_url": postgres.url(data, port)}))
        return True

    return ready


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
