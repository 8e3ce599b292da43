"""The demo's story is told small beside the other tests, and its own tests are the last."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.supervisor import down
from tests.local_noria import end_with, opencompass_folder

ROOT = Path(__file__).parents[1]
PLACES = ("unit", "property", "integration", "faults", "e2e")


class Demo:
    """The small story, begun at once; `told` waits for its end."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._child: subprocess.Popen[str] | None = None
        self._ended = False
        self._pool = ThreadPoolExecutor(1, "demo")
        self._told = self._pool.submit(self._tell)

    def told(self) -> "subprocess.CompletedProcess[str]":
        return self._told.result()

    def end(self) -> None:
        """Leave nothing running, wherever it is."""
        self._ended = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
        self._pool.shutdown()
        down(self.home)  # it has done so itself, unless it was killed

    def _tell(self) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tests.e2e.small_story"]
        self._child = subprocess.Popen(
            command if not self._ended else ["false"],
            cwd=ROOT,
            env=os.environ | {"NORIA_HOME": str(self.home), "NORIA_OPENCOMPASS": str(opencompass_folder())},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=end_with(os.getpid()),
        )
        said, _ = self._child.communicate()
        return subprocess.CompletedProcess(command, self._child.returncode, said)


def asks_the_demo(item: pytest.Item) -> bool:
    return "report" in getattr(item, "fixturenames", ())


def pytest_collection(session: pytest.Session) -> None:
    gc.disable()  # all that is imported stays: to look through it again and again takes a quarter of the collecting's time


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick ones first, the demo's last: the Noria that goes on with what it left takes of both cores all the while."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return PLACES.index(folder) if folder in PLACES else 0, asks_the_demo(item)

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo | None]:
    """The demo, if any test asks for what it leaves."""
    if not any(map(asks_the_demo, request.session.items)):
        yield None
        return
    home = tmp_path_factory.mktemp("loop") / "noria"
    home.mkdir()
    demo = Demo(home)
    try:
        yield demo
    finally:
        demo.end()
