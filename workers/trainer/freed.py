"""What a step has freed goes back to the machine, where more and more of it is kept.

The C library keeps what is freed for the next time, in a heap for each thread. Steps are not all of one size, and what one leaves
does not fit what the next one wants: after each a training held more, though it needed no more.
"""

import ctypes
from collections.abc import Callable

import psutil

GROWN = 1.1
"""Times what was held after a step, from which on it is given back. To do so after every step costs the time in which the machine
clears the same memory again."""


class Freed:
    """Looked at after each step of a training on a CPU."""

    def __init__(
        self,
        held: Callable[[], int] = lambda: int(psutil.Process().memory_info().rss),
        give_back: Callable[[], None] | None = None,
    ) -> None:
        """`held`: bytes that this process holds; `give_back`: glibc's, which other C libraries lack."""
        library = ctypes.CDLL(None)
        trim = getattr(library, "malloc_trim", None)
        self._held = held
        self._give_back = give_back or ((lambda: trim(0)) if trim is not None else None)
        self._usual: int | None = None  # held after the first step, and after the first one since it was given back

    def look(self) -> None:
        """Give back what is kept, if that has grown."""
        if self._give_back is None:
            return
        now = self._held()
        if self._usual is None:
            self._usual = now
        elif now > GROWN * self._usual:
            self._give_back()
            self._usual = None

    def all(self) -> None:
        """Give it all back: the steps are over."""
        if self._give_back is not None:
            self._give_back()
