"""What the demo told, and a Noria started again on what it left."""

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
from tests.conftest import ROOT, Demo
from tests.local_noria import LocalNoria, running, until

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="package")
def report(demo: Demo) -> dict[str, Any]:
    """What `noria demo` wrote, having started everything and stopped it again."""
    done = demo.told()
    assert done.returncode == 0, done.stdout[-8000:]
    found: dict[str, Any] = json.loads((demo.home / "demo-report.json").read_text())
    return found


@pytest.fixture(scope="package")
def noria(demo: Demo, report: dict[str, Any]) -> Iterator[LocalNoria]:
    """Started again on what the demo left."""
    with running(demo.home) as found:
        yield found


@pytest.fixture(scope="package")
def door(noria: LocalNoria) -> Iterator[Door]:
    with noria.door() as door:
        until(lambda: any(m["id"] == DOMAIN for m in door.models()), "the release of the demo answers again")
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
