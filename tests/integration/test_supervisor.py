"""The supervisor: what starts after what, what fails is named, what dies comes back, and nothing outlives it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from deploy import supervisor
from deploy.supervisor import Process, Supervisor, down, status
from streams.errors import Invalid, Unavailable
from tests.integration.conftest import eventually
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
# Says that it began, and serves until it is stopped. What it is called and where it writes come from its arguments.
SERVE = "import os, sys, time; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n'); print('at work', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)
# A supervisor in a process of its own: the name of the home, then what is to be run.
ALONE = """
import os, signal, sys
from pathlib import Path
from deploy.supervisor import Process, Supervisor
table = [Process(f"p{n}", (sys.executable, "-c", code)) for n, code in enumerate(sys.argv[2:])]
running = Supervisor(Path(sys.argv[1]), table, dict(os.environ))
signal.signal(signal.SIGTERM, lambda *_: running.stop())
running.run(lambda: print("ready: all", flush=True))
"""


def python(code: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code, *map(str, arguments))


def serving(name: str, home: Path, ready: Callable[[], bool] | None = None, **more: object) -> Process:
    return Process(name, python(SERVE, home / "began", name), ready=ready or (lambda: name in began(home)), **more)  # type: ignore[arg-type]


def began(home: Path) -> list[str]:
    file = home / "began"
    return file.read_text().split() if file.exists() else []


def pids(home: Path) -> dict[str, int]:
    return {process.name: process.pid for process in status(home).processes if process.pid is not None}


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def running(home: Path, *table: Process) -> Iterator[list[str]]:
    """A supervisor that has everything ready; what it said."""
    said: list[str] = []
    ready = threading.Event()
    made = Supervisor(home, table, os.environ, said.append)
    thread = threading.Thread(target=made.run, args=(ready.set,))
    thread.start()
    try:
        eventually(lambda: ready.is_set() or not thread.is_alive(), "everything is ready")
        yield said
    finally:
        made.stop()
        thread.join()


@contextmanager
def alone(home: Path, *codes: str) -> Iterator[subprocess.Popen[str]]:
    """A supervisor in a process of its own, with everything ready."""
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-c", ALONE, str(home), *codes]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and not line.startswith("ready:"):
            pass
        assert line
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_process_starts_when_all_that_it_needs_are_up_and_what_needs_nothing_at_once(tmp_path: Path) -> None:
    def first_is_ready() -> bool:
        return "free" in began(tmp_path)  # which did not wait for it

    last = SERVE.replace("time.sleep(600)", "open(sys.argv[1], 'a').write('end\\n'); time.sleep(600)")
    step = Process("step", python("import sys; open(sys.argv[1], 'a').write('step\\n')", tmp_path / "began"), once=True)
    table = [
        serving("first", tmp_path, first_is_ready),
        msgspec.structs.replace(step, after=("first",)),
        serving("free", tmp_path),
        Process(
            "last",
            python(last, tmp_path / "began", "last"),
            ("step", "free"),
            lambda: "end" in began(tmp_path),
            address="http://somewhere",
        ),
    ]
    with running(tmp_path, *table) as said:
        assert sorted(began(tmp_path)[:2]) == ["first", "free"]
        assert began(tmp_path)[2:] == ["step", "last", "end"]
        told = {line.split()[0]: line for line in said}
        assert set(told) == {"first", "step", "free", "last"}
        assert "ready in" in told["first"] and "done in" in told["step"]
        assert said[-1] == told["last"] and told["last"].endswith("http://somewhere")


def test_a_process_that_needs_one_that_does_not_stand_above_it_is_refused(tmp_path: Path) -> None:
    table = [serving("door", tmp_path, after=("topics", "keys")), serving("keys", tmp_path)]
    with pytest.raises(ValueError, match="door is to start after keys, topics"):
        Supervisor(tmp_path, table, os.environ)
    assert began(tmp_path) == []
    beside = Process("models", python(""), once=True, beside=True)
    with pytest.raises(ValueError, match="worker is to start after models"):
        Supervisor(tmp_path, [beside, serving("worker", tmp_path, after=("models",))], os.environ)


def test_a_step_that_fails_is_named_with_its_last_line_and_what_runs_is_stopped(tmp_path: Path) -> None:
    fail = "import sys; print('looked everywhere'); sys.exit('there is no Java')"
    table = [
        serving("first", tmp_path),
        Process("topics", python(fail), ("first",), once=True),
        serving("last", tmp_path, after=("topics",)),
    ]
    pid: list[int] = []
    made = Supervisor(tmp_path, table, os.environ, lambda line: pid.append(pids(tmp_path)["first"]))
    with pytest.raises(Unavailable, match=r"topics ended with code 1: there is no Java \(logs/topics\.log\)"):
        made.run()
    assert began(tmp_path) == ["first"]
    assert not lives(pid[0])


def test_a_step_beside_begins_when_all_else_is_up_and_is_no_part_of_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 0.05)
    code = (
        "import os, sys, time\n"
        "open(sys.argv[1], 'a').write('install ')\n"
        "while not os.path.exists(sys.argv[2]): time.sleep(0.01)\n"
        "sys.exit(open(sys.argv[2]).read() or None)"
    )
    end = tmp_path / "end"
    install = Process("install", python(code, tmp_path / "began", end), once=True, beside=True)
    with running(tmp_path, install, serving("door", tmp_path)) as said:
        eventually(lambda: began(tmp_path) == ["door", "install"], "it begins, after the door")
        eventually(lambda: _state(tmp_path, "install") == "working", "it is told")
        assert status(tmp_path).condition == "ready"
        assert psutil.Process(pids(tmp_path)["install"]).nice() == supervisor.NICENESS_BESIDE
        assert psutil.Process(pids(tmp_path)["door"]).nice() < supervisor.NICENESS_BESIDE
        end.write_text("the registry does not answer")
        eventually(lambda: status(tmp_path).processes[0].restarts >= 2, "it is tried again and again")
        assert status(tmp_path).processes[1].restarts == 0
        words = [line for line in said if "ended with code 1: the registry does not answer" in line]
        assert len(words) == 1, "once, however often"
        end.write_text("")
        eventually(lambda: _state(tmp_path, "install") == "stopped", "it is done")
        assert status(tmp_path).condition == "ready"
        eventually(lambda: said[-1].startswith("install") and "done in" in said[-1], "it is said")


def test_while_a_step_beside_waits_for_its_next_try_the_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 60.0)
    install = Process("install", python("raise SystemExit(1)"), once=True, beside=True)
    with running(tmp_path, serving("door", tmp_path), install):
        eventually(lambda: _state(tmp_path, "install") == "backoff", "its failure is noticed")
        assert status(tmp_path).condition == "degraded"


def test_a_process_that_ends_before_it_is_ready_is_named(tmp_path: Path) -> None:
    made = Supervisor(tmp_path, [Process("door", python("raise SystemExit(3)"), ready=lambda: False)], os.environ)
    with pytest.raises(Unavailable, match="door ended with code 3: it said nothing"):
        made.run()


def test_a_process_that_is_never_ready_is_named_and_stopped(tmp_path: Path) -> None:
    table = [serving("door", tmp_path, lambda: False, deadline_s=0.5)]
    with pytest.raises(Unavailable, match=r"door was not ready within 0 s|door was not ready within 1 s"):
        Supervisor(tmp_path, table, os.environ).run()
    assert status(tmp_path).condition == "stopped" or not pids(tmp_path)


def test_a_question_whether_it_is_ready_that_cannot_be_asked_yet_is_a_no(tmp_path: Path) -> None:
    asked: list[int] = []

    def ready() -> bool:
        asked.append(1)
        if len(asked) < 3:
            raise ConnectionRefusedError
        return True

    with running(tmp_path, serving("door", tmp_path, ready)):
        assert len(asked) == 3


def test_what_is_killed_is_started_again_with_growing_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 0.2)
    monkeypatch.setattr(supervisor, "HEALTHY_S", 3600.0)  # none of them holds out
    starts = 1

    def ready() -> bool:
        return began(tmp_path).count("door") == starts  # one line of each, and those of the earlier ones stay

    with running(tmp_path, serving("door", tmp_path, ready), serving("other", tmp_path)):
        other = pids(tmp_path)["other"]
        for restart, wait_s in ((1, 0.2), (2, 0.4), (3, 0.8)):
            pid = pids(tmp_path)["door"]
            starts = 0  # not ready before that has been seen
            killed_at = time.time()
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: status(tmp_path).condition == "degraded", "the death is noticed")
            starts = 1 + restart
            eventually(lambda: _state(tmp_path, "door") == "ready", "it is ready again")
            door = status(tmp_path).processes[0]
            assert door.restarts == restart and door.since - killed_at >= wait_s
            assert door.pid is not None and door.pid != pid and lives(door.pid)
        assert pids(tmp_path)["other"] == other
        assert began(tmp_path).count("door") == 4
        assert status(tmp_path).condition == "ready"


def _state(home: Path, name: str) -> str:
    return next(process.state for process in status(home).processes if process.name == name)


def test_a_process_that_always_dies_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 0.05)
    may_die = tmp_path / "may_die"  # one that dies before everything is up ends the start instead
    code = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)"
    with running(tmp_path, serving("door", tmp_path), Process("dying", python(code, may_die))):
        may_die.touch()
        eventually(lambda: status(tmp_path).processes[1].restarts >= 3, "it is tried again and again")
        assert _state(tmp_path, "door") == "ready"
        assert status(tmp_path).processes[0].restarts == 0


def test_a_disk_without_room_ends_nothing_and_what_died_meanwhile_comes_back_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the way of each file does what a full disk does: it cannot be written."""
    monkeypatch.setattr(supervisor, "BACKOFF_MOST_S", 0.3)

    start, tries = Supervisor._start, list[str]()

    def ready() -> bool:
        return "steady" in began(tmp_path)

    def counted(self: Supervisor, process: Process) -> None:
        tries.append(process.name)
        start(self, process)

    monkeypatch.setattr(Supervisor, "_start", counted)
    with running(tmp_path, serving("steady", tmp_path, ready), serving("mortal", tmp_path)):
        before = pids(tmp_path)
        log = tmp_path / "logs" / "mortal.log"
        log.unlink()
        in_the_way = [log, tmp_path / "run" / "supervisor.new"]
        for folder in in_the_way:
            folder.mkdir()
        os.kill(before["mortal"], signal.SIGKILL)
        eventually(lambda: tries.count("mortal") > 2, "it is tried again and again")
        assert lives(before["steady"])
        for folder in in_the_way:
            folder.rmdir()
        eventually(lambda: began(tmp_path).count("mortal") == 2, "it is back")
        eventually(lambda: pids(tmp_path).get("mortal") not in (None, before["mortal"]), "it is told")
        assert lives(before["steady"])


def test_everything_is_stopped_in_reverse_order_with_its_own_signal(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "def end(number, frame):\n"
        "    open(sys.argv[1], 'a').write(f'{sys.argv[2]}-{number} ')\n"
        "    sys.exit()\n"
        "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, end)\n"
        "open(sys.argv[1] + '.' + sys.argv[2], 'w').close()\n"
        "time.sleep(600)\n"
    )
    ended = tmp_path / "ended"

    def process(name: str, stop_signal: int) -> Process:
        ready = (tmp_path / f"ended.{name}").exists
        return Process(name, python(code, ended, name), ready=ready, stop_signal=stop_signal)

    with running(tmp_path, process("kafka", signal.SIGTERM), process("postgres", signal.SIGINT)):
        before = pids(tmp_path)
        assert set(before) == {"kafka", "postgres"}
    assert ended.read_text().split() == [f"postgres-{signal.SIGINT:d}", f"kafka-{signal.SIGTERM:d}"]
    assert not any(lives(pid) for pid in before.values())


def test_what_does_not_want_to_stop_is_killed_and_so_is_what_a_process_leaves_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_DEADLINE_S", 0.3)
    parent = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {STUBBORN!r}]); time.sleep(600)"
    )
    log = tmp_path / "logs" / "parent.log"
    table = [
        Process("deaf", python(STUBBORN), ready=lambda: "deaf" in (tmp_path / "logs" / "deaf.log").read_text()),
        Process("parent", python(parent), ready=lambda: "deaf" in log.read_text()),
    ]
    with running(tmp_path, *table):
        all_of_them = [pid for pid in pids(tmp_path).values()]
        all_of_them += [child.pid for pid in all_of_them for child in psutil.Process(pid).children(recursive=True)]
        assert len(all_of_them) == 3 and all(lives(pid) for pid in all_of_them)
    eventually(lambda: not any(lives(pid) for pid in all_of_them), "all are gone")


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    with alone(tmp_path, "import time; time.sleep(600)", "import time; time.sleep(600)") as process:
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(children) == 2
        assert status(tmp_path).condition == "ready"
        process.kill()
        eventually(lambda: not any(lives(child) for child in children), "the children are gone")
        process.wait()
        assert status(tmp_path).condition == "stopped"
        assert down(tmp_path) is False
        with running(tmp_path, serving("door", tmp_path)):  # and the next one may start
            assert status(tmp_path).condition == "ready"


def test_a_second_supervisor_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, serving("door", tmp_path)):
        with pytest.raises(Invalid, match="noria runs here already"):
            Supervisor(tmp_path, [serving("door", tmp_path)], os.environ).run()
        assert began(tmp_path) == ["door"]
        assert status(tmp_path).condition == "ready"


def test_a_log_that_grows_while_its_process_runs_is_put_aside_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 2000)
    monkeypatch.setattr(supervisor, "LOGS_EVERY_S", 0.05)
    code = "import sys, time\nfor n in range(10**6): print(f'{n:09}', flush=True); time.sleep(0.001)"
    log, aside = tmp_path / "logs" / "wordy.log", tmp_path / "logs" / "wordy.log.1"
    with running(tmp_path, Process("wordy", python(code), ready=lambda: log.stat().st_size > 0)):
        eventually(aside.exists, "it is put aside")
        eventually(lambda: log.stat().st_size > 0, "it goes on")
    written = [int(line) for file in (aside, log) for line in file.read_text().split()]
    assert written == sorted(set(written)) and not log.read_text().startswith(f"{0:09}")
    assert log.stat().st_mode & 0o077 == aside.stat().st_mode & 0o077 == 0


def test_no_process_leaves_a_core_file(tmp_path: Path) -> None:
    with running(tmp_path, serving("door", tmp_path)):
        assert psutil.Process(pids(tmp_path)["door"]).rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_down_stops_a_supervisor_and_waits_until_all_is_gone(tmp_path: Path) -> None:
    assert down(tmp_path) is False
    assert status(tmp_path) == supervisor.Status("stopped", [])
    with alone(tmp_path, "import time; time.sleep(600)") as process:
        children = [child.pid for child in psutil.Process(process.pid).children()]
        waiter = threading.Thread(target=process.wait)
        waiter.start()
        assert down(tmp_path) is True
        assert not any(lives(child) for child in children)
        assert status(tmp_path) == supervisor.Status("stopped", [])
        assert down(tmp_path) is False
        waiter.join()
        assert process.returncode == 0


def test_a_process_that_got_the_supervisors_number_by_chance_is_not_taken_for_it(tmp_path: Path) -> None:
    with running(tmp_path, serving("door", tmp_path)):
        told = tmp_path / "run" / "supervisor.json"
        raw = told.read_bytes()
        forged = raw.replace(f'"started":{psutil.Process().create_time()}'.encode(), b'"started":1.0')
        assert forged != raw
    told.write_bytes(forged)
    assert status(tmp_path).condition == "stopped"
    assert down(tmp_path) is False


def test_what_a_process_says_is_in_its_log_for_this_user_only(tmp_path: Path) -> None:
    with running(tmp_path, serving("door", tmp_path)):
        log = tmp_path / "logs" / "door.log"
        eventually(lambda: log.read_text() == "at work\n", "it has spoken")
        for path in (log, tmp_path / "run" / "supervisor.json"):
            assert path.stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_detach_shows_the_progress_and_returns_when_all_is_ready(tmp_path: Path) -> None:
    said: list[str] = []
    command = [sys.executable, "-c", ALONE, str(tmp_path), "import time; time.sleep(600)"]
    supervisor.detach([*command], tmp_path, said.append, PATIENCE_S)
    try:
        assert said[0].startswith("p0") and said[-1] == "ready: all"
        assert status(tmp_path).condition == "ready"
    finally:
        assert down(tmp_path)
    with pytest.raises(Unavailable, match="did not come up"):
        supervisor.detach([sys.executable, "-c", "print('no'); raise SystemExit(1)"], tmp_path, said.append, PATIENCE_S)
    assert said[-1] == "no"
