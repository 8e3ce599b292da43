"""Folders that live in memory only. An exam's questions are people's words, which are never at rest in clear."""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from streams.errors import Invalid

MEMORY = Path("/dev/shm")
_PREFIX = "noria-exam-"
_MOUNTS = Path("/proc/mounts")


def check_in_memory(folder: Path) -> None:
    """Raise Invalid unless `folder` is there and on a memory file system (tmpfs or ramfs), by the kernel's table of mounts."""
    if not folder.is_dir() or not _MOUNTS.exists():
        raise Invalid(f"exams need a memory file system at {folder}; there is none")
    kinds: dict[Path, str] = {}
    for line in _MOUNTS.read_text().splitlines():
        _, place, kind, *_ = line.split(" ")
        kinds[Path(place.encode().decode("unicode_escape"))] = kind  # a later mount hides an earlier one
    found = folder.resolve()
    kind = next(kinds[place] for place in (found, *found.parents) if place in kinds)
    if kind not in ("tmpfs", "ramfs"):
        raise Invalid(
            f"exams need a memory file system at {folder}; it is {kind}, which would write people's words to a disk"
        )


@contextlib.contextmanager
def memory_folder(memory: Path = MEMORY) -> Iterator[Path]:
    """A new folder of this user alone, gone when the block ends. Raises Invalid where `memory` is not memory.

    A process that is killed leaves its folder behind, without the lock that says that somebody uses it: see `purge_left_overs`.
    """
    check_in_memory(memory)
    name = secrets.token_hex(8)
    new = memory / f".{_PREFIX}{name}"  # not yet under the name that purging looks for
    new.mkdir(mode=0o700)
    lock = os.open(new, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = new.rename(memory / f"{_PREFIX}{name}")
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(lock)


def in_use(folder: Path) -> bool:
    """Whether the folder is there and its owner lives."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def purge_left_overs(memory: Path = MEMORY) -> int:
    """Remove the folders whose owner is gone; returns how many. Those in use, and other users', are left alone."""
    removed = 0
    for folder in memory.glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # its owner was quicker
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
        finally:
            os.close(lock)
    return removed
