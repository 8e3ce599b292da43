"""`python -m tests.bench` lists the benchmarks; `python -m tests.bench NAME` runs one and writes bench/NAME.json under the home.

NORIA_BENCH_RUNS, …_RATE, …_EVENTS, …_SECONDS, …_MEMORY_SECONDS, …_FACTS, …_EVERY, …_SEED, …_CASES, …_INSTRUCTIONS, …_COMPARED,
…_ROWS, …_CALLS and …_IN_FLIGHT make one other than it is by itself.
"""

import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from streams.settings import home_of
from tests.bench.report import Report, Row, commit, machine, write

NAMES = (
    "capture",
    "conversation",
    "replay",
    "scale",
    "loop",
    "swap",
    "recall",
    "recall_index",
    "training",
    "methods",
    "continual",
    "held_out",
    "alignment",
    "material",
    "plan",
    "preferring",
    "selection",
    "usefulness",
)


def describe(name: str) -> str:
    """The first line of what the benchmark says of itself."""
    return (import_module(f"tests.bench.{name}").__doc__ or "").strip().splitlines()[0]


def run(name: str, folder: Path) -> Path:
    """Run one benchmark in a home of its own, and write its report into `folder`, and beside it what pictures it draws."""
    at, on = commit(), machine()
    module = import_module(f"tests.bench.{name}")
    with tempfile.TemporaryDirectory(prefix=f"noria-bench-{name}-") as scratch:
        rows: list[Row] = module.measure(Path(scratch))
    path = write(Report(name, at, on, tuple(rows)), folder)
    for picture, svg in module.pictures(rows).items() if hasattr(module, "pictures") else ():
        (folder / f"{picture}.svg").write_text(svg, encoding="utf-8")
    return path


def main(arguments: list[str]) -> int:
    if not arguments:
        for name in NAMES:
            print(f"{name:<12} {describe(name)}")
        return 0
    if len(arguments) > 1 or arguments[0] not in NAMES:
        print(f"no such benchmark: {' '.join(arguments)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    path = run(arguments[0], home_of(os.environ) / "bench")
    print(path.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
