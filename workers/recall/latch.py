"""Many may read, or one may write."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Latch:
    """Who wants to write waits for those who read already, and those who come after it wait for it: reading never keeps a
    writer out for long. Not to be taken twice by one thread."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._readers = 0
        self._writers = 0  # writing or waiting to
        self._written = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._writers)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                if not self._readers:
                    self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._changed:
            self._writers += 1
            self._changed.wait_for(lambda: not self._readers and not self._written)
            self._written = True
        try:
            yield
        finally:
            with self._changed:
                self._written = False
                self._writers -= 1
                self._changed.notify_all()
