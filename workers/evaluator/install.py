"""OpenCompass's own environment: `python -m workers.evaluator.install`.

Its pinned requirements contradict ours (numpy below 2, datasets below 4, an old httpx), so that it can only be called as a process.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from streams.errors import Invalid, Unavailable
from streams.settings import home_of
from workers.alone import alone

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "opencompass.txt"
_STAMP = "noria-requirements.sha256"
LOCK = "noria-install.lock"  # in the environment; held by whoever makes it
# Imported once at the end, which both proves the environment and compiles what an exam imports: the first would pay a minute.
_PROOF = "import opencompass.cli.main, opencompass.models, opencompass.datasets, opencompass.openicl"


class NotInstalled(Unavailable):
    """It is not there, or not yet."""


def python_of(environment: Path) -> Path:
    """The interpreter of an installed environment. Raises NotInstalled when there is none, saying how to get it."""
    python = environment / "bin" / "python"
    if not (environment / _STAMP).exists() or not python.exists():
        raise NotInstalled(
            f"OpenCompass is not installed in {environment}: run `python -m workers.evaluator.install`, "
            "or set NORIA_OPENCOMPASS to the folder where it is"
        )
    return python


def made_of(environment: Path) -> str:
    """What the environment was made of, as a digest; empty when it is not there."""
    stamp = environment / _STAMP
    return stamp.read_text().strip() if stamp.exists() else ""


def install(folder: Path, progress: Callable[[str], None], requirements: Path = REQUIREMENTS) -> Path:
    """Make `folder` the environment that `requirements` pins, and return its interpreter; at once if it is that already.

    Raises Invalid when uv, the installer, is missing or `folder` holds something else, Unavailable when a package cannot be had.
    """
    if not requirements.is_file():
        raise Invalid(f"there is no {requirements.name}; it lies in the source tree's requirements folder")
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = folder / _STAMP
    if stamp.exists() and stamp.read_text().strip() == wanted:
        return python_of(folder)
    if folder.exists() and not (folder / "pyvenv.cfg").exists() and any(p.name != LOCK for p in folder.iterdir()):
        raise Invalid(f"{folder} is not empty and not an environment; name another folder in NORIA_OPENCOMPASS")
    uv = _uv()
    with alone(folder / LOCK):
        if not stamp.exists() or stamp.read_text().strip() != wanted:
            _make(folder, uv, requirements, progress)
            stamp.write_text(wanted + "\n")
            progress("OpenCompass is ready")
    return python_of(folder)


def _make(folder: Path, uv: list[str], requirements: Path, progress: Callable[[str], None]) -> None:
    (folder / _STAMP).unlink(missing_ok=True)
    progress(f"making OpenCompass's environment in {folder}")
    python = folder / "bin" / "python"
    _run(
        [*uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)],
        "cannot make the environment",
    )
    progress("installing OpenCompass (about 6 GB on disk, shared with the uv cache)")
    _run(
        [*uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)],
        "cannot install OpenCompass",
    )
    progress("starting OpenCompass once")
    _run([str(python), "-c", _PROOF], "the installed OpenCompass does not start")


def _uv() -> list[str]:
    if importlib.util.find_spec("uv") is not None:
        return [sys.executable, "-m", "uv"]
    found = shutil.which("uv")
    if found is None:
        raise Invalid("uv is not installed: `python -m pip install uv`")
    return [found]


def _run(command: list[str], trouble: str) -> None:
    # Offline for the proof alone; uv does not look at these.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the proof compiles
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"{trouble}: {' '.join(lines[-5:]) or f'status {done.returncode}'}")


def main() -> int:
    argparse.ArgumentParser(prog="python -m workers.evaluator.install", description=__doc__).parse_args()
    folder = Path(os.environ.get("NORIA_OPENCOMPASS") or home_of(os.environ) / "opencompass")
    try:
        install(folder, lambda line: print(line, flush=True))
    except (Invalid, Unavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
