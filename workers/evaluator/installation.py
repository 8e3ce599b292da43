"""Seeing to it that OpenCompass comes to be there, for a round that needs it before it is."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from streams.facts.orders import WaitsFor
from workers.alone import is_held
from workers.engines.process import stop_child
from workers.evaluator.install import LOCK, NotInstalled, python_of
from workers.trainer.child import end_with_parent

RETRY_S = 30.0
STOP_S = 2.0
NICENESS = 19


class Installation:
    """Of OpenCompass, by whatever process is at it, or else by a child of this one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self._failed = False
        self._not_before = 0.0

    def missing(self) -> WaitsFor | None:
        """What to wait for, if it is not there. To be asked again and again: whatever is to be done meanwhile is done here."""
        with suppress(NotInstalled):
            python_of(self._folder)
            return None
        if self._child is not None and self._child.poll() is not None:
            self._failed = self._child.returncode != 0
            self._not_before = time.monotonic() + RETRY_S
            self.close()
        if self._child is None and time.monotonic() > self._not_before and not is_held(self._folder / LOCK):
            self._child = self._start()
        return "opencompass_failed" if self._failed else "opencompass"

    def close(self) -> None:
        """End what this process has begun."""
        child, self._child = self._child, None
        if child is not None:
            stop_child(child, STOP_S)

    def _start(self) -> subprocess.Popen[bytes]:
        parent = os.getpid()

        def in_child() -> None:
            end_with_parent(parent)
            os.nice(NICENESS)

        return subprocess.Popen(
            [sys.executable, "-m", "workers.evaluator.install"],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"NORIA_OPENCOMPASS": str(self._folder)},
            start_new_session=True,
            preexec_fn=in_child,
        )
