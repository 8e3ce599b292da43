"""Child processes that never outlive their parent, and the questions an engine must answer before it counts as ready.

The tie is a pipe: the child holds the reading end as its standard input and ends when the writing end closes, which the kernel does
for a parent that dies in whatever way. PR_SET_PDEATHSIG would not do alone: it fires when the *thread* that started the child
ends, not the process.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from streams.errors import Unavailable

POLL_S = 0.02
SPINS = "200"
"""How often a waiting OpenMP thread looks again before it sleeps. A token takes hundreds of waits of some microseconds: threads
that sleep at once took 1.7 times as long for 16 answers together and 1.9 times for one, as measured. Threads that spin for long
take the core from everybody else: beside a busy core, 1000 looks were slower than none."""


def start_child(
    script: Path, arguments: Sequence[str], *, environment: dict[str, str], stdout: int | None, niceness: int
) -> subprocess.Popen[str]:
    """Start `python script arguments…` tied to this process, as the leader of its own group.

    By path, not as a module: a child should not import what its package imports. Secrets go into its `environment`, not
    into its argument list, which everybody on the machine can read. `nice` sets the priority before the child's first step:
    set from here, it would come too late for what the child starts at once.
    """
    return subprocess.Popen(
        # -P: its folder's modules must not shadow others.
        ["nice", "-n", str(niceness), sys.executable, "-P", str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        text=True,
        env={**os.environ, "GOMP_SPINCOUNT": SPINS, **environment},
        start_new_session=True,  # Ctrl-C in a terminal goes to the host, which stops its engines in order
    )


def stop_child(child: subprocess.Popen[Any], deadline_s: float) -> None:
    """SIGTERM, then SIGKILL to what is left of its process group after `deadline_s`."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            child.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def wait_until(condition: Callable[[], bool], alive: Callable[[], bool], deadline: float, what: str) -> None:
    """Ask `condition` until it holds. Raises Unavailable when `alive` no longer does or `deadline` (monotonic, s) has passed."""
    while not condition():
        if not alive():
            raise Unavailable(f"{what}: the engine process ended")
        if time.monotonic() > deadline:
            raise Unavailable(f"{what}: no sign within the deadline")
        time.sleep(POLL_S)


def get(url: str, key: str) -> httpx.Response | None:
    """One GET; None while nobody listens."""
    try:
        return httpx.get(
            url,
            headers={"Authorization": f"Bearer {key}", "Connection": "close"},
            timeout=5.0,
            trust_env=False,
            verify=False,
        )
    except httpx.HTTPError:
        return None
