"""The worker's side of a training: start the child, hand it the spec, read its lines."""

import subprocess
import sys
from collections.abc import Callable

import msgspec

from streams.errors import Invalid, Unavailable
from workers.trainer.spec import Failure, Outcome, Progress, StageDone, TrainSpec

KILL_AFTER_S = 30.0
Line = Progress | StageDone | Outcome | Failure
_LINES: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class Trainer:
    """A training child. It serves one spec.

    Loading torch and transformers takes it as long as several steps, so it may be started before the spec is known; then it
    waits, and takes no processor. Start it from a thread that lives as long as it is needed: the child ends with the thread
    that started it.
    """

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "workers.trainer.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    def waits(self) -> bool:
        """Whether a spec can be given to it."""
        return self._child.poll() is None

    def close(self) -> None:
        """End it. Closing twice is allowed."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    def train(self, spec: TrainSpec, progress: Callable[[Progress | StageDone], None]) -> Outcome:
        """Train as `spec` says and wait for it, calling `progress` for each of the child's lines: how far it is, and what came of a
        stage. Can be called once.

        When `progress` raises (a lost lease, a cancelled round), the child is ended first and the error goes on to the caller.

        Raises Invalid if the spec can never be trained, Unavailable if this machine could not do it (memory, disk, a killed
        child), RuntimeError for a bug in the child.
        """
        assert self._child.stdin is not None and self._child.stdout is not None
        last: Line | None = None
        try:
            try:
                with self._child.stdin as pipe:
                    pipe.write(msgspec.json.encode(spec))
            except BrokenPipeError:
                pass  # it died at once; its exit code below says so
            for line in self._child.stdout:
                last = _LINES.decode(line)
                if isinstance(last, Progress | StageDone):
                    progress(last)
            code = self._child.wait(timeout=KILL_AFTER_S)
        finally:
            self.close()
        if isinstance(last, Outcome) and code == 0:
            return last
        if not isinstance(last, Failure):
            raise Unavailable(f"the training child ended with code {code} and no result")
        if last.reason == "invalid":
            raise Invalid(last.message)
        if last.reason == "unavailable":
            raise Unavailable(last.message)
        raise RuntimeError(f"the training child failed: {last.message}")
