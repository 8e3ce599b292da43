"""The training child: its spec comes as one JSON document on stdin, its progress and its result leave as JSON
lines on stdout.

    python -m workers.trainer.child < spec

Where several processes train together it starts the others: see `workers.trainer.together`.

The spec holds people's words, opened; so they stand in no file, no argument and no environment. Errors are
told by their kind and place alone, because the text of an exception could quote a row. The child runs at low
priority and ends with its parent.
"""

import ctypes
import gc
import os
import resource
import signal
import sys
import traceback
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from streams.disk import is_full
from streams.engines import serving_kind
from streams.errors import Invalid, Unavailable
from workers.trainer import METHODS
from workers.trainer.job import job_of
from workers.trainer.spec import Failure, Progress, StageDone, TrainSpec
from workers.trainer.together import AnotherEnded, TakenTogether, first_of_all, join

PR_SET_PDEATHSIG = 1
NICENESS = 10


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(1)


def place_of(error: BaseException) -> str:
    """Kind and place of an error, without its message: "ValueError in loop.py:120 (_prepare)"."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "trainer" in frame.filename] or frames
    where = f" in {Path(ours[-1].filename).name}:{ours[-1].lineno} ({ours[-1].name})" if ours else ""
    return type(error).__name__ + where


def load() -> None:
    """Load what every method needs, before the spec is there: it takes most of the time until the first step."""
    gc.disable()  # nothing of what is loaded can be thrown away: to look for it takes a sixth of the time (measured)
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, utils  # noqa: F401

    logging: Any = utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gc.freeze()
    gc.enable()


def run(spec: TrainSpec, out: int) -> None:
    """Carry out `spec`, writing lines to the file descriptor `out`."""

    def tell(line: msgspec.Struct) -> None:
        os.write(out, msgspec.json.encode(line) + b"\n")

    def told(line: Progress | StageDone) -> None:
        tell(line)

    from workers.models.finish import finish

    with first_of_all(spec, tell) if spec.processes > 1 else nullcontext():
        result = METHODS[type(spec.recipe)].load()(job_of(spec, told))
    if spec.engine is not None:
        kind = serving_kind(spec.engine, result.needs)
        difference = finish(Path(result.model_dir), kind, Path(spec.model_dir))
        result = msgspec.structs.replace(result, export_difference=difference)
    tell(result)


def take_part(spec: TrainSpec, process: int, port: int) -> None:
    """Be one of the others."""
    join(spec, process, port)
    with suppress(TakenTogether):
        METHODS[type(spec.recipe)].load()(job_of(spec, lambda line: None, process))


def main() -> int:
    """Exit code 0 after a result, 1 after a failure line."""
    end_with_parent(os.getppid())
    # A core file would be people's words at rest.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.argv[1:]:
        os.nice(NICENESS)  # the others have it from the first
    # Before torch is loaded: two processes whose threads spin while they wait slow each other down ten times
    # (measured).
    os.environ["GOMP_SPINCOUNT"] = "0"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Whatever a library prints must not get between the lines: they have a descriptor of their own.
    out = os.dup(1)
    os.dup2(2, 1)
    return carry_out(sys.stdin.buffer, out, *map(int, sys.argv[1:]))


def carry_out(said: BinaryIO, out: int, process: int = 0, port: int = 0) -> int:
    """Load, then carry out the spec that is `said`; what comes of it goes to the file descriptor `out`. The exit code."""
    try:
        load()
        spec = msgspec.json.decode(said.read(), type=TrainSpec)
        if process:
            take_part(spec, process, port)
        else:
            run(spec, out)
    except msgspec.DecodeError as error:
        failure = Failure(reason="invalid", message=f"the spec cannot be read ({type(error).__name__})")
    except AnotherEnded as error:
        failure = error.failure
    except Invalid as error:
        failure = Failure(reason="invalid", message=str(error))
    except (Unavailable, MemoryError, OSError) as error:
        failure = Failure(reason="unavailable", message=place_of(error))
    except Exception as error:
        failure = Failure(reason="unavailable" if is_full(error) else "bug", message=place_of(error))
    else:
        return 0
    os.write(out, msgspec.json.encode(failure) + b"\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
