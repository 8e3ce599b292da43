"""kill -9 for one process after the other, of every kind, each time until it has been started again.

What a killed process had started must end with it: nothing may go on working without its parent.
"""

import os
import random
import signal
from collections import Counter

import psutil

from tests.local_noria import LocalNoria, until

ENGINE = "engine"  # llama.cpp itself, a child of the process `engines`


class Killer:
    """Picks in laps over all kinds, each lap in another order, the same for the same seed."""

    def __init__(self, noria: LocalNoria, seed: int) -> None:
        self._noria = noria
        self._chance = random.Random(seed)
        self._lap: list[str] = []
        self.killed: Counter[str] = Counter()

    @property
    def kinds(self) -> set[str]:
        return {*self._noria.processes(), ENGINE}

    def kill_next(self) -> str:
        """Kill one, and return its kind once another stands in its place."""
        if not self._lap:
            self._lap = sorted(self.kinds)
            self._chance.shuffle(self._lap)
        kind = self._lap.pop()
        self.kill(kind)
        return kind

    def kill(self, kind: str) -> None:
        until(lambda: self._kill_engine() if kind == ENGINE else self._kill(kind), f"{kind} lives")
        self.killed[kind] += 1

    def _kill(self, kind: str) -> bool:
        before = self._noria.processes()[kind]
        # The table may be about to change: only a child of our own supervisor is killed.
        if before.pid is None or not _is_child(before.pid, self._noria.supervisor):
            return False
        below = psutil.Process(before.pid).children(recursive=True)
        os.kill(before.pid, signal.SIGKILL)
        until(
            lambda: self._noria.processes()[kind].restarts > before.restarts,
            f"{kind} is started again",
        )
        until(lambda: not any(map(_lives, below)), f"what {kind} had started is gone")
        return True

    def _kill_engine(self) -> bool:
        there = self._noria.engine_pids()
        if not there:
            return False
        os.kill(there[0], signal.SIGKILL)
        until(lambda: set(self._noria.engine_pids()) - set(there), "the engine is started again")
        return True


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_child(pid: int, parent: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.ppid() == parent and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
