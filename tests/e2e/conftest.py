"""One demo, told once for all tests here, and a Noria started again on what it left."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.client import Door
from deploy.demo.story import DOMAIN
from deploy.supervisor import down
from tests.local_noria import LocalNoria, give_base_model, opencompass_folder, running, until

ROOT = Path(__file__).parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="package")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("loop") / "noria"
    home.mkdir()
    give_base_model(home)
    return home


@pytest.fixture(scope="package")
def report(demo_home: Path) -> dict[str, Any]:
    """What `noria demo` wrote, having started everything and stopped it again."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "api.cli", "demo", "--once"],
            cwd=ROOT,
            env=os.environ | {"NORIA_HOME": str(demo_home), "NORIA_OPENCOMPASS": str(opencompass_folder())},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        down(demo_home)  # it has done so itself, unless it was killed
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads((demo_home / "demo-report.json").read_text())
    return found


@pytest.fixture(scope="package")
def noria(demo_home: Path, report: dict[str, Any]) -> Iterator[LocalNoria]:
    """Started again on what the demo left."""
    with running(demo_home) as found:
        yield found


@pytest.fixture(scope="package")
def door(noria: LocalNoria) -> Iterator[Door]:
    with noria.door() as door:
        until(lambda: any(m["id"] == DOMAIN for m in door.models()), "the release of the demo answers again", 120)
        yield door


@pytest.fixture(scope="package")
def command(noria: LocalNoria, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs `noria …` against it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("commands")

    def run(*argv: str, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
        environ = os.environ | {"NORIA_HOME": str(noria.home), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "api.cli", *argv], cwd=cwd, env=environ, capture_output=True, text=True, check=False
        )

    return run
