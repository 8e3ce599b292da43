"""What one key may take of a door, so that no caller stops the others: by key, in the door's own memory, and bounded.

Each limit is two numbers: for a key that speaks as one person, and for one that names whom it speaks for (a service's, an
operator's).
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from api.chat_request import HIGHEST_DRAFTS
from api.errors import ApiError
from api.keys import Caller
from streams.settings import KeyLimits, Pair

KEYS = 10_000  # remembered
SOON_S = 1  # after which what is held may be free again
BYTES_A_TOKEN = 4  # before an engine has counted


class _Bucket(Struct):
    left: float
    at: float


class Limits:
    """Thread-safe. `clock` in seconds, monotonic."""

    def __init__(self, settings: KeyLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()
        self._held: dict[tuple[str, Hashable], int] = {}

    def count_request(self, who: Caller) -> None:
        """Raises ApiError 429."""
        most = _of(who, self._settings.requests)
        self._take(who, "requests", most, 1)

    def take_tokens(self, who: Caller, estimate: int) -> None:
        """Before a prompt is answered, by what it looks like. Whoever has any left may ask, and waits the longer for it afterwards.
        Raises ApiError 429."""
        self._take(who, "tokens", _of(who, self._settings.tokens), estimate)

    def settle_tokens(self, who: Caller, more: int) -> None:
        """It was that much more (or less) than the estimate."""
        most = _of(who, self._settings.tokens)
        with self._lock:
            bucket = self._bucket(who, "tokens", most)
            bucket.left = min(most, bucket.left - more)

    def hold_open(self, who: Caller) -> Callable[[], None]:
        """An answer or a follower that holds a thread until what is returned is called. Raises ApiError 429."""
        most = _of(who, self._settings.open)
        return self._hold(
            who, who.key_id, 1, most, "NORIA_LIMIT_OPEN", f"have {most} answers or followers open at once"
        )

    def hold_drafts(self, who: Caller, engine_id: str, drafts: int, queue: int) -> Callable[[], None]:
        """A share of an engine's queue of `queue` drafts. Raises ApiError 429."""
        most = max(HIGHEST_DRAFTS, queue * _of(who, self._settings.queue_percent) // 100)
        words = f"have {most} drafts in one engine's queue"
        return self._hold(who, (who.key_id, engine_id), drafts, most, "NORIA_LIMIT_QUEUE_PERCENT", words)

    @contextmanager
    def waiting(self, who: Caller) -> Iterator[None]:
        """Waits for the projections. Raises ApiError 429."""
        most = _of(who, self._settings.waits)
        release = self._hold(who, who.key_id, 1, most, "NORIA_LIMIT_WAITS", f"wait for {most} positions at once")
        try:
            yield
        finally:
            release()

    def _take(self, who: Caller, kind: str, most: int, amount: int) -> None:
        with self._lock:
            bucket = self._bucket(who, kind, most)
            wanted = min(amount, 1)
            if bucket.left < wanted:
                wait_s = (wanted - bucket.left) * 60 / most
                raise _refused(f"NORIA_LIMIT_{kind.upper()}", f"take {most} {kind} a minute", math.ceil(wait_s))
            bucket.left -= amount

    def _bucket(self, who: Caller, kind: str, most: int) -> _Bucket:
        """What is left of a minute's worth, filled up to now."""
        now = self._clock()
        bucket = self._buckets.setdefault((who.key_id, kind), _Bucket(most, now))
        self._buckets.move_to_end((who.key_id, kind))
        if len(self._buckets) > KEYS:
            self._buckets.popitem(last=False)
        bucket.left = min(most, bucket.left + (now - bucket.at) * most / 60)
        bucket.at = now
        return bucket

    def _hold(self, who: Caller, place: Hashable, number: int, most: int, name: str, words: str) -> Callable[[], None]:
        key = (name, place)
        with self._lock:
            if self._held.get(key, 0) + number > most:
                raise _refused(name, words, SOON_S)
            self._held[key] = self._held.get(key, 0) + number
        once = threading.Lock()

        def release() -> None:
            if not once.acquire(blocking=False):
                return
            with self._lock:
                self._held[key] -= number
                if not self._held[key]:
                    del self._held[key]

        return release


def _of(who: Caller, limit: Pair) -> int:
    return limit[0] if who.speaks_as is not None else limit[1]


def _refused(name: str, words: str, wait_s: int) -> ApiError:
    return ApiError(429, f"this key may {words} ({name})", code="rate_limit_exceeded", retry_after_s=max(1, wait_s))
