"""Training children that are forked from a process which has loaded torch: that takes most of a small training's time.

All else of a child is its own: its process, its pipes, its niceness, its death. That a child is started by its command, loads by
itself and ends with whoever started it is held by the children of `test_trainer_child` that are started so.
"""

import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from subprocess import TimeoutExpired
from typing import Any

from workers.trainer.child import main
from workers.trainer.parent import Trainer

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([f"{__name__}_loaded"])


class ForkedTrainer(Trainer):
    """A training child that has loaded already."""

    def __init__(self) -> None:
        self._child: Any = _Child()


class _Child:
    """What a `Trainer` uses of a `Popen`."""

    def __init__(self) -> None:
        said, spec = _FORKS.Pipe(duplex=False)
        told, lines = _FORKS.Pipe(duplex=False)
        self._process = _FORKS.Process(target=_be_child, args=(said, lines), daemon=True)
        self._process.start()
        for end in (said, lines):
            end.close()
        self.stdin = os.fdopen(os.dup(spec.fileno()), "wb")
        self.stdout = os.fdopen(os.dup(told.fileno()), "rb")
        for end in (spec, told):
            end.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired("a training child", timeout or 0.0)
        return self._process.exitcode


def _be_child(said: Connection, lines: Connection) -> None:
    os.dup2(said.fileno(), 0)
    os.dup2(lines.fileno(), 1)
    for end in (said, lines):
        end.close()
    sys.stdin, sys.argv = os.fdopen(0), sys.argv[:1]
    os._exit(main())
