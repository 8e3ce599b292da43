"""Files that visitors drop on the page, as long as they look at what these hold: in a folder of the page's own, of its owner alone.

A session holds one at a time. It goes when it was imported or put away, when another comes, and after a while by itself.
"""

import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from streams.errors import Invalid

FILE_BYTES = 64 * 1024 * 1024
KEPT_S = 900.0


class Dropped:
    """By session. Thread-safe; the folder goes with the process, or, where that was killed, with the next of its `home`."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.monotonic) -> None:
        prefix = f"noria-dropped-{hashlib.sha256(str(home.absolute()).encode()).hexdigest()[:12]}-"
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):  # a home has one page
            shutil.rmtree(left, ignore_errors=True)
        self._folder = tempfile.TemporaryDirectory(prefix=prefix)  # mode 0700
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, tuple[Path, float]] = {}

    async def hold(self, session: str, name: str, body: AsyncIterator[bytes]) -> None:
        """Raises Invalid for one that is too large, or whose name is none."""
        if not name or Path(name).name != name or name.startswith("."):
            raise Invalid("a file is dropped by its name alone")
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        path, size = folder / name, 0
        try:
            with path.open("xb") as file:
                async for piece in body:
                    size += len(piece)
                    if size > FILE_BYTES:
                        raise Invalid(f"a dropped file has at most {FILE_BYTES:,} bytes: noria examples import")
                    file.write(piece)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.put_away(session)
        with self._lock:
            self._held[session] = (path, self._clock())

    def of(self, session: str) -> Path | None:
        self._clear()
        with self._lock:
            found = self._held.get(session)
        return found[0] if found is not None else None

    def put_away(self, session: str) -> None:
        self._clear()
        with self._lock:
            found = self._held.pop(session, None)
        if found is not None:
            shutil.rmtree(found[0].parent, ignore_errors=True)

    def _clear(self) -> None:
        with self._lock:
            old = [session for session, (_, at) in self._held.items() if self._clock() - at > KEPT_S]
            gone = [self._held.pop(session)[0] for session in old]
        for path in gone:
            shutil.rmtree(path.parent, ignore_errors=True)
