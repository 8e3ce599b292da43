"""Every test, in four lanes side by side, which keeps two cores busy: `make test`.

One lane needs a processor, and serves models. Two wait much for Kafka and PostgreSQL, and one of them kills what a Noria is made
of; one tells the demo and goes on with what that leaves. What the others say is shown when the last has ended.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

TESTS = Path(__file__).parent
SERVED = tuple(f"integration/test_{name}.py" for name in ("engine_adapters", "engines", "engines_export"))
TRAINED = tuple(f"integration/test_{name}.py" for name in ("methods_by_order", "rebuild"))
LATER = tuple(
    name
    for path in sorted(TESTS.glob("integration/test_[l-z]*.py"))
    if (name := f"integration/{path.name}") not in TRAINED
)
# What each lane tries, and what it leaves to another.
LANES: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "unit, property, engines": (("unit", "property", *SERVED), ()),
    "integration a to k, trainings": (("integration",), (*SERVED, *LATER)),
    "integration l to z, faults": ((*LATER, "faults"), ()),
    "e2e": (("e2e",), ()),
}


def lane(places: Sequence[str], without: Sequence[str], output: int | None) -> "subprocess.Popen[bytes]":
    paths = [str(TESTS / place) for place in places] + [f"--ignore={TESTS / place}" for place in without]
    return subprocess.Popen([sys.executable, "-m", "pytest", *paths], cwd=TESTS.parent, stdout=output, stderr=output)


def main() -> int:
    """The exit code of pytest in the first lane that did not end well, 0 if all did."""
    began = time.monotonic()

    def ended(child: "subprocess.Popen[bytes]") -> tuple[int, float]:
        return child.wait(), time.monotonic() - began

    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(len(LANES) - 1)]
        lanes = [
            lane(*what, output)
            for what, output in zip(LANES.values(), [*(file.fileno() for file in said), None], strict=True)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(len(lanes)))
        waiting = [pool.submit(ended, child) for child in lanes]
        interrupted = 0
        while True:
            try:
                found = [one.result() for one in waiting]
                break
            except KeyboardInterrupt:  # all were interrupted, too, and stop what they have started
                interrupted = 2
        for file in said:
            file.seek(0)
            sys.stdout.buffer.write(file.read())
        for name, (code, seconds) in zip(LANES, found, strict=True):
            print(f"{seconds:5.0f} s, exit code {code}: {name}", flush=True)
    return next((code for code, _ in found if code), interrupted)


if __name__ == "__main__":
    sys.exit(main())
