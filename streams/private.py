"""Files for their owner only: keys, passwords and what holds one. Whoever reads one finds it whole."""

import os
import threading
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """The file is on disk when this returns, or as it was."""
    written_beside(path, content).replace(path)


def make_private(path: Path, content: bytes) -> None:
    """Unless there is one: of processes that start together the first makes the file, and the others take it."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = path.resolve()
    temporary = written_beside(path, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    temporary.unlink()


def written_beside(path: Path, content: bytes) -> Path:
    """A file beside `path` that holds `content` on disk."""
    temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def is_private(path: Path) -> bool:
    """Whether nobody but its owner may touch it. Raises OSError."""
    return not path.stat().st_mode & 0o077
