"""The supervisor: starts processes, each when those it needs are up, starts again what dies, and stops all when it is stopped.

What nothing here waits for is made beside the rest, at the lowest priority, once all else is up. Every child ends with the
supervisor, even if that is killed with -9. What runs is told in `run/supervisor.json` under the home.
"""

import ctypes
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec
import psutil
from msgspec import Struct, field

from streams.errors import Invalid, Unavailable

BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 10.0
HEALTHY_S = 30.0
STOP_DEADLINE_S = 15.0
LOG_BYTES = 5_000_000  # of one process; as many more lie aside
LOGS_EVERY_S = 10.0
NICENESS_BESIDE = 19  # the kernel takes a process's turn at the disk from it too
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


class Process(Struct, frozen=True):
    """One line of the process table. It starts when those named in `after`, which stand above it, are up: a process that
    serves when `ready` says so, one that runs `once` when it has ended with 0. `deadline_s`: how long either may take.

    One that runs `beside` starts when all others are up, and is tried again until it has ended with 0, however long it takes."""

    name: str
    argv: tuple[str, ...]
    after: tuple[str, ...] = ()
    ready: Callable[[], bool] | None = None
    once: bool = False
    beside: bool = False
    stop_signal: int = signal.SIGTERM
    deadline_s: float = 60.0
    address: str = ""
    environment: Callable[[], Mapping[str, str]] = dict  # what it alone is given, asked for at each start


class ProcessState(Struct):
    """`state`: waiting, starting, ready, working (what runs beside), backoff, stopped (a step: done), or failed (a step)."""

    name: str
    state: str = "waiting"
    pid: int | None = None
    restarts: int = 0
    since: float = 0.0
    address: str = ""


class SupervisorState(Struct):
    pid: int
    started: float  # the process's own start time, so that a pid given anew is not taken for it
    processes: list[ProcessState] = field(default_factory=list)


class Status(Struct, frozen=True):
    """`condition`: ready, degraded or stopped."""

    condition: str
    processes: list[ProcessState]


class Supervisor:
    """Runs a process table under `home`. `say` is told a line of progress for each process."""

    def __init__(
        self, home: Path, table: Sequence[Process], environment: Mapping[str, str], say: Callable[[str], None] = print
    ) -> None:
        """Raises ValueError for a process that is to start after one that does not stand above it, or that runs beside."""
        for number, process in enumerate(table):
            if missing := set(process.after) - {above.name for above in table[:number] if not above.beside}:
                raise ValueError(
                    f"{process.name} is to start after {', '.join(sorted(missing))}, which does not stand above it"
                )
        self._home = home
        self._table = table
        self._first = [process for process in table if not process.beside]
        self._environment = dict(environment)
        self._out = say
        self._stopping = threading.Event()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        me = psutil.Process()
        self._state = SupervisorState(
            me.pid, me.create_time(), [ProcessState(p.name, address=p.address) for p in table]
        )
        self._lock: IO[str] | None = None

    def run(self, when_ready: Callable[[], None] = lambda: None) -> None:
        """Start everything, then keep it running until `stop`. Raises Invalid if another supervisor runs here, Unavailable
        if something does not come up; whatever was started is stopped then."""
        (self._home / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._home / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        try:
            self._bring_up()
            if not self._stopping.is_set():
                for process in self._table:
                    if process.beside:
                        self._start(process)
                when_ready()
                self._keep()
        finally:
            self._stop_all()
            self._drop_lock()

    def stop(self) -> None:
        """May be called from a signal handler or another thread."""
        self._stopping.set()

    def _bring_up(self) -> None:
        """Return when everything is up, or when told to stop."""
        began: dict[str, float] = {}
        up: set[str] = set()
        while len(up) < len(self._first) and not self._stopping.is_set():
            for process in self._first:
                if process.name in up:
                    continue
                if process.name in began:
                    if self._is_up(process, time.monotonic() - began[process.name]):
                        up.add(process.name)
                elif up.issuperset(process.after):
                    began[process.name] = time.monotonic()
                    self._start(process)
            time.sleep(0.05)

    def _is_up(self, process: Process, took_s: float) -> bool:
        state = self._of(process.name)
        code = self._children[process.name].poll()
        if process.once and code == 0:
            self._tell(state, "stopped")
            self._say(f"{process.name:<12} done in {took_s:.1f} s")
            return True
        if code is not None:
            self._tell(state, "failed")
            raise Unavailable(f"{process.name} ended with code {code}: {self._last_line(process)}")
        if not process.once and (process.ready is None or _holds(process.ready)):
            self._tell(state, "ready")
            self._say(f"{process.name:<12} ready in {took_s:.1f} s{'  ' + process.address if process.address else ''}")
            return True
        if took_s > process.deadline_s:
            self._tell(state, "failed")
            raise Unavailable(f"{process.name} was not ready within {process.deadline_s:.0f} s")
        return False

    def _keep(self) -> None:
        """Start again what dies, with growing waits; a process that held out for a while begins anew."""
        kept = [process for process in self._table if process.beside or not process.once]
        due: dict[str, float] = {}
        waits: dict[str, float] = {}
        said: dict[str, str] = {}
        look_at = 0.0
        while not self._stopping.wait(0.1):
            now = time.monotonic()
            if now >= look_at:
                look_at = now + LOGS_EVERY_S
                for process in kept:
                    self._cut_log(process)
            for process in kept:
                state, child = self._of(process.name), self._children[process.name]
                if state.state == "stopped":
                    continue
                if process.name in due:
                    if now >= due[process.name]:
                        try:
                            self._start(process)
                        except OSError:  # no room for its log, or for one more process: the others go on
                            due[process.name] = now + BACKOFF_MOST_S
                            continue
                        del due[process.name]
                        state.restarts += 1
                elif process.beside and child.poll() == 0:
                    self._tell(state, "stopped")
                    self._say(f"{process.name:<12} done in {time.time() - state.since:.1f} s")
                elif (code := child.poll()) is not None:
                    held_out = not process.beside and time.time() - state.since > HEALTHY_S
                    waits[process.name] = (
                        BACKOFF_FIRST_S
                        if held_out
                        else min(BACKOFF_MOST_S, 2 * waits.get(process.name, BACKOFF_FIRST_S / 2))
                    )
                    due[process.name] = now + waits[process.name]
                    self._tell(state, "backoff")
                    words = f"{process.name:<12} ended with code {code}: {self._last_line(process)}; it is tried again"
                    if process.beside and said.get(process.name) != words:
                        said[process.name] = words
                        self._say(words)
                elif state.state == "starting" and (process.ready is None or _holds(process.ready)):
                    self._tell(state, "ready")

    def _start(self, process: Process) -> None:
        state = self._of(process.name)
        log = self._home / "logs" / f"{process.name}.log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        environment = dict(process.environment())
        parent = os.getpid()

        def in_child() -> None:
            _prctl(_PR_SET_PDEATHSIG, process.stop_signal)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold people's words and keys
            if os.getppid() != parent:
                os._exit(1)
            if process.beside:
                os.nice(NICENESS_BESIDE)

        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            self._children[process.name] = subprocess.Popen(
                process.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment | environment,
                start_new_session=True,
                preexec_fn=in_child,
            )
        state.pid, state.since = self._children[process.name].pid, time.time()
        self._tell(state, "working" if process.beside else "starting")

    def _cut_log(self, process: Process) -> None:
        """Put a log that has grown aside while its process writes on: it appends, wherever the file ends. What it writes between
        the two steps is lost."""
        log = self._home / "logs" / f"{process.name}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with suppress(OSError):
            if log.stat().st_size <= LOG_BYTES:
                return
            with log.open("rb") as old, os.fdopen(os.open(log.with_suffix(".log.1"), flags, 0o600), "wb") as aside:
                shutil.copyfileobj(old, aside)
            os.truncate(log, 0)

    def _stop_all(self) -> None:
        for process in reversed(self._table):
            child = self._children.get(process.name)
            if child is None:
                continue
            if child.poll() is None:
                child.send_signal(process.stop_signal)
                try:
                    child.wait(STOP_DEADLINE_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            try:
                os.killpg(child.pid, signal.SIGKILL)  # whatever it left behind in its group
            except ProcessLookupError:
                pass
            self._of(process.name).pid = None
            self._tell(self._of(process.name), "stopped")

    def _of(self, name: str) -> ProcessState:
        return next(state for state in self._state.processes if state.name == name)

    def _tell(self, state: ProcessState, what: str) -> None:
        state.state = what
        target = self._home / "run" / "supervisor.json"
        fresh = target.with_suffix(".new")
        with suppress(OSError):  # a full disk ends nothing; it is told when there is room
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.json.encode(self._state))
            fresh.replace(target)

    def _say(self, words: str) -> None:
        with suppress(OSError):  # where it is written to may be full, or gone
            self._out(words)

    def _last_line(self, process: Process) -> str:
        log = self._home / "logs" / f"{process.name}.log"
        lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
        return f"{lines[-1] if lines else 'it said nothing'} (logs/{process.name}.log)"

    def _take_lock(self) -> None:
        lock = (self._home / "run" / "supervisor.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise Invalid("noria runs here already: see `noria status`, or stop it with `noria down`") from None
        self._lock = lock

    def _drop_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def status(home: Path) -> Status:
    """What runs under `home`, as the supervisor last told it."""
    state = _read(home)
    if state is None or not _alive(state):
        return Status("stopped", [])
    running = [process for process in state.processes if process.state not in ("stopped", "working")]
    fine = bool(running) and all(process.state == "ready" for process in running)
    return Status("ready" if fine else "degraded", state.processes)


def down(home: Path, deadline_s: float = 90.0) -> bool:
    """Stop the supervisor of `home` and wait until everything is gone; False if none runs. Raises Unavailable."""
    state = _read(home)
    if state is None or not _alive(state):
        return False
    os.kill(state.pid, signal.SIGTERM)
    until = time.monotonic() + deadline_s
    while _alive(state):
        if time.monotonic() > until:
            raise Unavailable(f"the supervisor (pid {state.pid}) did not stop within {deadline_s:.0f} s")
        time.sleep(0.05)
    return True


def detach(argv: Sequence[str], home: Path, say: Callable[[str], None] = print, deadline_s: float = 900.0) -> None:
    """Start a supervisor in the background by `argv`, show its progress, and return when all is ready. Raises Unavailable."""
    (home / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)
    log = home / "logs" / "supervisor.log"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    shown, until = 0, time.monotonic() + deadline_s
    while True:
        ended = child.poll()
        lines = log.read_text(errors="replace").splitlines()
        for line in lines[shown:]:
            say(line)
        shown = len(lines)
        if ended is not None:
            raise Unavailable("noria did not come up; its last words are above")
        if any(line.startswith("ready:") for line in lines):
            return
        if time.monotonic() > until:
            child.terminate()
            raise Unavailable(f"noria was not up within {deadline_s:.0f} s")
        time.sleep(0.1)


def _read(home: Path) -> SupervisorState | None:
    path = home / "run" / "supervisor.json"
    return msgspec.json.decode(path.read_bytes(), type=SupervisorState) if path.exists() else None


def _alive(state: SupervisorState) -> bool:
    try:
        process = psutil.Process(state.pid)
        return process.create_time() == state.started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _holds(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except OSError:
        return False  # not there yet


if sys.platform != "linux":
    raise ImportError("the supervisor ties its children to itself by a call that only Linux has")
