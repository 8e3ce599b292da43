"""One Noria for every fault, each in domains of its own: whole ones are long in starting."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.faults.crowd import Acknowledged
from tests.local_noria import LocalNoria, running

SIZES = {"postgres": "400m", "kafka": "150m"}


class SmallDisks:
    """File systems of their own for the stores of a home. `refused`: why there are none, where none can be mounted."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.refused = ""

    @contextmanager
    def mounted(self) -> Iterator["SmallDisks"]:
        with ExitStack() as stack:
            for name, size in SIZES.items():
                place = self.home / name
                place.mkdir(parents=True)
                command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    self.refused = done.stderr.strip()
                    break
                stack.callback(subprocess.run, ["umount", str(place)], check=True)
            yield self


@pytest.fixture(scope="package")
def small_disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisks]:
    with SmallDisks(tmp_path_factory.mktemp("faults") / "noria").mounted() as disks:
        yield disks


@pytest.fixture(scope="package")
def noria(small_disks: SmallDisks) -> Iterator[LocalNoria]:
    """A Noria whose stores lie on small disks."""
    with running(small_disks.home) as found:
        yield found


@pytest.fixture(scope="package")
def said() -> Acknowledged:
    """All that was acknowledged so far."""
    return Acknowledged()
