"""The worker's side of a training: start the child, hand it the spec, read its lines."""

import subprocess
import sys
from collections.abc import Callable

import msgspec

from streams.errors import Invalid, Unavailable
from workers.trainer.spec import Failure, Progress, TrainingResult, TrainSpec

_LINES: msgspec.json.Decoder[Progress | TrainingResult | Failure] = msgspec.json.Decoder(
    Progress | TrainingResult | Failure
)


def train_in_child(spec: TrainSpec, progress: Callable[[Progress], None], kill_after_s: float = 30.0) -> TrainingResult:
    """Train in a child process and wait for it, calling `progress` for each of its lines.

    Must be called from a thread that lives until it returns: the child ends with the thread that started it.
    When `progress` raises (a lost lease, a cancelled round), the child is ended first and the error goes on
    to the caller.

    Raises Invalid if the spec can never be trained, Unavailable if this machine could not do it (memory,
    disk, a killed child), RuntimeError for a bug in the child.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "workers.trainer.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    last: Progress | TrainingResult | Failure | None = None
    try:
        try:
            with child.stdin as pipe:
                pipe.write(msgspec.json.encode(spec))
        except BrokenPipeError:
            pass  # it died at once; its exit code below says so
        for line in child.stdout:
            last = _LINES.decode(line)
            if isinstance(last, Progress):
                progress(last)
        code = child.wait(timeout=kill_after_s)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        child.stdout.close()
    if isinstance(last, TrainingResult) and code == 0:
        return last
    if not isinstance(last, Failure):
        raise Unavailable(f"the training child ended with code {code} and no result")
    if last.reason == "invalid":
        raise Invalid(last.message)
    if last.reason == "unavailable":
        raise Unavailable(last.message)
    raise RuntimeError(f"the training child failed: {last.message}")
