"""A child that is asked once: the task comes on its stdin, one answer leaves on its stdout.

For what needs torch, which stays in a process that has loaded it, or a core for seconds. The task may hold people's words, opened;
so they stand in no file, no argument and no environment. Errors are told by kind and place, as in `workers.trainer.child`.
"""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, TypeVar

import msgspec
from msgspec import Struct

from streams.errors import Invalid, Unavailable
from workers.cores import HEAVY_THREADS
from workers.trainer.child import NICENESS, end_with_parent, load, place_of
from workers.trainer.spec import Failure

POLL_S = 0.5
Task = TypeVar("Task", bound=Struct)
Answer = TypeVar("Answer", bound=Struct)


def ask(module: str, task: Struct, kind: type[Answer], look: Callable[[], None]) -> Answer:
    """What `python -m module` answers. `kind` is tagged by `kind`, as Failure is. `look` is called while it works; when it raises,
    the child is ended first.

    Raises Invalid if the task cannot be done, Unavailable if this machine could not do it, RuntimeError for a bug in the child."""
    child = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    # Before Python 3.14 `communicate` hands over no more than a pipe holds, where the child reads later than its timeout.
    given, child.stdin = child.stdin, None
    feeder = threading.Thread(target=_hand_over, args=(given, msgspec.json.encode(task)), daemon=True)
    feeder.start()
    told: bytes | None = None
    try:
        while told is None:
            look()
            try:
                told, _ = child.communicate(timeout=POLL_S)
            except subprocess.TimeoutExpired:
                continue
    finally:
        child.kill()
        child.wait()
        feeder.join()
        if child.stdout is not None:
            child.stdout.close()
    try:
        found: Any = msgspec.json.decode(told, type=kind | Failure)
    except msgspec.MsgspecError:
        raise Unavailable(f"the child {module} ended with code {child.returncode}") from None
    if not isinstance(found, Failure):
        answer: Answer = found
        return answer
    if found.reason == "invalid":
        raise Invalid(found.message)
    if found.reason == "unavailable":
        raise Unavailable(found.message)
    raise RuntimeError(f"the child {module} failed: {found.message}")


def _hand_over(pipe: IO[bytes] | None, task: bytes) -> None:
    assert pipe is not None
    with suppress(BrokenPipeError), pipe:  # of a child that has ended
        pipe.write(task)


def answer(kind: type[Task], work: Callable[[Task], Struct], *, with_torch: bool = True) -> int:
    """The child's main: do the task that comes, and answer. Exit code 0 after an answer, 1 after a failure."""
    end_with_parent(os.getppid())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would be people's words at rest
    os.nice(NICENESS)
    os.environ |= {"GOMP_SPINCOUNT": "0", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    out = os.dup(1)
    os.dup2(2, 1)
    said: Struct
    try:
        if with_torch:
            load()
            import torch

            torch.set_num_threads(HEAVY_THREADS)
        said = work(msgspec.json.decode(sys.stdin.buffer.read(), type=kind))
    except Invalid as error:
        said = Failure(reason="invalid", message=str(error))
    except (Unavailable, MemoryError, OSError) as error:
        said = Failure(reason="unavailable", message=place_of(error))
    except Exception as error:
        said = Failure(reason="bug", message=place_of(error))
    with os.fdopen(out, "wb") as pipe:
        pipe.write(msgspec.json.encode(said))
    return int(isinstance(said, Failure))
