"""Whoever tries one wrong key after another is slowed down, by the address that they come from."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from msgspec import Struct

AT_ONCE = 20  # wrong keys that cost nothing but their refusal
ONE_EVERY_S = 1.0  # and after these
ADDRESSES = 10_000
_SITE_BITS = 64  # what one customer of a provider gets of IPv6: each of its addresses is theirs


class _Tries(Struct):
    left: float
    at: float


class WrongKeys:
    """Tries left by address: a bucket that fills again. Thread-safe, and of bounded size."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        at_once: int = AT_ONCE,
        one_every_s: float = ONE_EVERY_S,
    ) -> None:
        self._clock = clock
        self._one_every_s = one_every_s
        self._at_once = at_once
        self._lock = threading.Lock()
        self._tries: OrderedDict[str, _Tries] = OrderedDict()

    def take(self, address: str | None) -> float:
        """Count a try of a key that is not known to be right. 0: go on; else the seconds until another is taken."""
        with self._lock:
            now, place = self._clock(), _place(address)
            tries = self._tries.setdefault(place, _Tries(self._at_once, now))
            self._tries.move_to_end(place)
            if len(self._tries) > ADDRESSES:
                self._tries.popitem(last=False)
            tries.left = min(self._at_once, tries.left + (now - tries.at) / self._one_every_s)
            tries.at = now
            if tries.left < 1:
                return (1 - tries.left) * self._one_every_s
            tries.left -= 1
            return 0.0

    def give_back(self, address: str | None) -> None:
        """The key was right."""
        with self._lock:
            tries = self._tries.get(_place(address))
            if tries is not None:
                tries.left = min(self._at_once, tries.left + 1)


def _place(address: str | None) -> str:
    try:
        found = ip_address(address or "")
    except ValueError:
        return address or ""
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ip_network((found.packed, _SITE_BITS), strict=False))
    return str(found)
