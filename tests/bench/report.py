"""What a benchmark found, as rows of figures, with the machine and the commit that they belong to."""

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

import msgspec
import psutil
from msgspec import Struct

ROOT = Path(__file__).parents[2]


class Row(Struct, frozen=True):
    """One figure. `value` is the median of `runs`."""

    case: str
    metric: str
    unit: str
    value: float
    runs: tuple[float, ...]


class Machine(Struct, frozen=True):
    cpus: int
    model: str
    memory_gib: float
    python: str
    system: str
    load_average: float  # of the last minute when the benchmark began: other work on the machine


class Report(Struct, frozen=True):
    name: str
    commit: str
    machine: Machine
    rows: tuple[Row, ...]


def row(case: str, metric: str, unit: str, runs: Sequence[float]) -> Row:
    kept = tuple(round(run, 4) for run in runs)
    return Row(case, metric, unit, round(median(kept), 4), kept)


def percentile(values: Sequence[float], percent: int) -> float:
    """The `percent`-th percentile (1 to 99) of at least two values, interpolated."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def machine() -> Machine:
    return Machine(
        cpus=os.cpu_count() or 1,
        model=_cpu_model(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        load_average=round(os.getloadavg()[0], 2),
    )


def commit() -> str:
    """The commit that is checked out, with a + if files differ from it; empty outside of a checkout."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if head and _git("status", "--porcelain", "--untracked-files=no") else "")


def write(report: Report, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    return path


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
