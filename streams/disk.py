"""What lies on the disk, by kind, and what it means that it is full."""

import errno
import os
import shutil
import stat
import threading
import time
from collections import Counter
from pathlib import Path

from msgspec import Struct

from streams.settings import Settings

FULL = (errno.ENOSPC, errno.EDQUOT)
_KINDS = {
    "kafka": "kafka",
    "postgres": "postgres",
    "logs": "logs",
    "opencompass": "opencompass",
    "training": "training",
}
_REMEMBERED_S = 60.0


class DiskUse(Struct, frozen=True):
    """Bytes. `kinds`: models, adapters and rows (snapshots, exams) among the artifacts; kafka, postgres, logs, opencompass,
    training; caches is the rest. What is linked twice is counted once."""

    free: int
    total: int
    kinds: dict[str, int]


def disk_use(settings: Settings) -> DiskUse:
    """Of this machine's home; a Kafka or PostgreSQL elsewhere is not in it."""
    found: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    home = settings.home
    places = [("rows", settings.artifacts)]
    places += [(_KINDS.get(entry.name, "caches"), entry) for entry in _entries(home) if entry != settings.artifacts]
    if home not in settings.opencompass.parents:
        places.append(("opencompass", settings.opencompass))
    for kind, place in places:
        for folder, _, names in os.walk(place):
            inside = Path(folder)
            for name in names:
                try:
                    status = (inside / name).lstat()
                except OSError:
                    continue  # gone since
                if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    found[_of_artifact(inside, names) if kind == "rows" else kind] += status.st_blocks * 512
    disk = shutil.disk_usage(home)
    return DiskUse(disk.free, disk.total, dict(sorted(found.items())))


class RememberedUse:
    """`disk_use`, looked at no more often than is worth it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._found: tuple[float, DiskUse] | None = None

    def get(self) -> DiskUse:
        with self._lock:
            if self._found is None or time.monotonic() - self._found[0] > _REMEMBERED_S:
                self._found = (time.monotonic(), disk_use(self._settings))
            return self._found[1]


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is that a disk is full. Some libraries say so in words only."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _of_artifact(folder: Path, names: list[str]) -> str:
    if folder.name in ("sha256", "arriving"):
        return "rows"
    return "adapters" if any(name.startswith("adapter_") for name in names) else "models"
