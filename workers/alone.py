"""What several processes may want to make, one of them makes: the others wait for it, or do something else meanwhile."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process holds `lock`, and hold it. Whoever ends, in whatever way, holds it no more."""
    lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Turn:
    """A lock that is asked for again and again, by whoever has something to say while another process holds it."""

    def __init__(self, lock: Path) -> None:
        lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = lock.open("w")

    def has_come(self) -> bool:
        """Whether this is its holder now. Whoever closes it or ends, in whatever way, holds it no more."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._file.close()


def is_held(lock: Path) -> bool:
    """Whether a process holds `lock` now."""
    try:
        file = lock.open()
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
