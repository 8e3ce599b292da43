"""A child that is asked once: the task comes on its stdin, one answer leaves on its stdout.

For what needs torch, which stays in a process that has loaded it, or a core for seconds. The task may hold people's words, opened;
so they stand in no file, no argument and no environment. Errors are told by kind and place, as in `workers.trainer.child`.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

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
    told: bytes | None = None
    try:
        given: bytes | None = msgspec.json.encode(task)
        while told is None:
            look()
            try:
                told, _ = child.communicate(given, timeout=POLL_S)
            except subprocess.TimeoutExpired:
                given = None  # what it has not read yet is still handed to it
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
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
