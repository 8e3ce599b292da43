"""A whole Noria on this machine, as `noria up` starts it, for tests and benchmarks that need every real process.

What takes minutes to make (the base model, OpenCompass) is made once in pytest's cache and shared by all homes. NORIA_OPENCOMPASS
names an installed one; that of this checkout's own home is used if it is there.
"""

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from api.client import Address, Door
from deploy import local
from deploy.ports import free_port
from deploy.supervisor import ProcessState, Supervisor, SupervisorState
from streams.artifacts import Artifacts
from streams.recipes import LoraRecipe
from streams.settings import Settings, from_env
from tests import ward
from tests.waiting import PATIENCE_S, TRAINING_S, wait_until
from workers.cores import fast_precision
from workers.evaluator.install import REQUIREMENTS
from workers.models.base import WHEEL, prepare_base_digest
from workers.trainer.general import answers_folder, general_prompts, kept_place

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".pytest_cache" / "d"
UP_WITHIN_S = TRAINING_S  # the first makes what all share
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl
until = wait_until


class LocalNoria:
    """A running Noria: where it answers, and which processes it is made of."""

    def __init__(self, home: Path, supervisor: int) -> None:
        self.home = home
        self.supervisor = supervisor
        written = msgspec.json.decode((home / "run" / "noria.json").read_bytes(), type=dict[str, str])
        self.kafka = self.settings().kafka
        self.database_url = written["database_url"]
        self.door_url = written["door"]
        self.page_url = written["page"]
        self.key = (home / "keys" / "local.key").read_text().strip()

    def door(self, url: str | None = None) -> Door:
        """A client with the operator's key; close it."""
        return Door(Address(url or self.door_url, self.key))

    def settings(self) -> Settings:
        return from_env({"NORIA_HOME": str(self.home)})

    def processes(self) -> dict[str, ProcessState]:
        """The processes that serve, as the supervisor told last, by name."""
        raw = (self.home / "run" / "supervisor.json").read_bytes()
        told = msgspec.json.decode(raw, type=SupervisorState).processes
        return {process.name: process for process in told if process.state not in ("stopped", "working")}

    def engine_pids(self) -> list[int]:
        """The engines themselves: children of the process that hosts them."""
        host = self.processes()["engines"].pid
        try:
            return sorted(child.pid for child in psutil.Process(host).children())
        except psutil.NoSuchProcess:
            return []

    def log_tail(self, name: str, lines: int = 20) -> str:
        return "\n".join((self.home / "logs" / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def running(home: Path, environ: Mapping[str, str] | None = None, cache: Path = CACHE) -> Iterator[LocalNoria]:
    """Everything of `python -m deploy.local` with `home` (made if need be), ready; all stopped at the end.

    `environ` is added to this process's own environment, of which nothing called NORIA_… is handed on.
    """
    home = home.absolute()
    take_ports(home)
    give_models(home, cache)
    handed_on = {name: value for name, value in os.environ.items() if not name.startswith("NORIA_")}
    given = {"NORIA_OPENCOMPASS": str(opencompass_folder(cache)), **(environ or {}), "NORIA_HOME": str(home)}
    log = home / "supervisor.out"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "deploy.local"],
            cwd=ROOT,
            env=handed_on | given,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with(os.getpid()),  # a test session that is killed leaves nothing running
        )
    try:

        def ready() -> bool:
            said = log.read_text(errors="replace")
            assert child.poll() is None, f"noria did not come up:\n{said}"
            return any(line.startswith("ready:") for line in said.splitlines())

        until(ready, "noria is ready", patience_s=UP_WITHIN_S)
        yield LocalNoria(home, child.pid)
    finally:
        child.terminate()
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()  # what it started is tied to it
            child.wait()


@contextmanager
def log_and_database(home: Path) -> Iterator[Settings]:
    """Kafka with its topics and PostgreSQL with its tables, and nothing that reads or writes them."""
    for folder in (home, home / "run", home / "keys"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    take_ports(home)
    found = local.addresses(home, {})
    local.write_addresses(home, found)
    wanted = ("kafka", "postgres", "migrate", "topics")
    table = [process for process in local.process_table(home, found, {}) if process.name in wanted]
    handed_on = {name: value for name, value in os.environ.items() if not name.startswith("NORIA_")}
    ready, said = threading.Event(), list[str]()
    supervisor = Supervisor(home, table, local.environment(home, found, handed_on), said.append)
    thread = threading.Thread(target=supervisor.run, args=(ready.set,), name="supervisor")
    thread.start()
    try:
        until(lambda: ready.is_set() or not thread.is_alive(), "Kafka and PostgreSQL", patience_s=UP_WITHIN_S)
        assert ready.is_set(), said
        yield from_env({"NORIA_HOME": str(home)})
    finally:
        supervisor.stop()
        thread.join()


def take_ports(home: Path) -> None:
    """Ports of this home's own. The usual ones, while a killed process is away, would look free to the next Noria."""
    written = home / "run" / "noria-ports.json"
    if not written.exists():
        written.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written.write_bytes(msgspec.json.encode({name: free_port() for name in local.PREFERRED}))


def give_models(home: Path, cache: Path = CACHE) -> dict[str, str]:
    """The base model and the ward's small one in the artifact store of `home`, hard-linked from the cache; digests by name.

    No test trains by the default recipe: of the answers that it would need an empty file says that they are there already.
    """
    kept = cache / "base-model"
    digests = {
        WHEEL: prepare_base_digest(kept),
        ward.MODEL: prepare_base_digest(kept, str(ward.base(cache / "taught"))),
    }
    for digest in digests.values():
        Artifacts(home / "artifacts").put_dir(Artifacts(kept / "artifacts").path(digest))
        place = _answers_place(home, digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (home / "models" / "index.json").write_text(json.dumps(digests))
    return digests


def give_answers(home: Path, cache: Path = CACHE) -> None:
    """What the base makes of the general prompts under the default recipe, for a benchmark that trains by it."""
    kept = cache / "base-model"
    prepare_base_digest(kept)
    subprocess.run(
        [sys.executable, "-m", "workers.trainer.answers", "--home", str(kept)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    shutil.copytree(answers_folder(kept), answers_folder(home), dirs_exist_ok=True)


def _answers_place(home: Path, digest: str) -> Path:
    name = Artifacts(home / "artifacts").path(digest).name
    return kept_place(answers_folder(home), name, general_prompts(), LoraRecipe(), fast_precision())


def opencompass_folder(cache: Path = CACHE) -> Path:
    """Where OpenCompass is installed, or will be by the first Noria that needs it."""
    named = os.environ.get("NORIA_OPENCOMPASS")
    if named:
        return Path(named).absolute()
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = ROOT / ".noria" / "opencompass" / "noria-requirements.sha256"
    if stamp.exists() and stamp.read_text().strip() == wanted:
        return stamp.parent
    return cache / "opencompass"


def end_with(parent: int) -> Callable[[], None]:
    """To be called in a child before it runs: it is told to stop when the thread that started it ends, in whatever way."""

    def in_child() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return in_child
