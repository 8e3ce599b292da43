"""What the door says on the log, and how fresh its reading is.

The door never accepts what it cannot record. A log that does not answer is found out once, and then refused at once,
with one request at a time trying whether it is back; and one that comes back without what was read of it takes nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from sqlalchemy import Engine

from streams.continuity import Continuity
from streams.envelope import Envelope
from streams.errors import LoginRefused, LogUnavailable, Unavailable
from streams.events import CONVERSATIONS, DOMAINS
from streams.log import Log, LostHistory, Position, message_of
from streams.store import positions, postgres_trouble
from streams.tables import LIVE

APPEND_TIMEOUT_S = 3.0
REFUSE_FOR_S = 1.0
POLL_S = 0.02
LOOK_EVERY_S = 1.0  # whether the log is the one that was read
logger = logging.getLogger(__name__)


class DoorLog(Log, Protocol):
    def answers(self, timeout_s: float = 0.5) -> bool:
        """The cheapest sign of life."""


class Recorder:
    """Appends events, and waits until the projections have taken them in."""

    def __init__(
        self,
        log: DoorLog,
        database: Engine,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        continuity: Continuity | None = None,
    ) -> None:
        self.log = log
        self._database = database
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        self._broken_until: float | None = None
        self._probing = False
        self._continuity = continuity or Continuity(database, log)
        self._lost: str | None = None
        self.refused: str | None = None  # the log, when it was last asked, did not know who asks
        self._reading = threading.Lock()
        self._read: tuple[float, dict[tuple[str, int], int]] | None = None  # when the projections' positions were read

    def append(self, envelopes: Sequence[Envelope], timeout_s: float = APPEND_TIMEOUT_S) -> list[Position]:
        """Append and return the positions, all acknowledged. Raises Unavailable, at once while the log is known to be down, or
        LostHistory; Invalid for an event that is too large."""
        messages = [message_of(envelope) for envelope in envelopes]
        came_back = self._admit()
        try:
            if not self.log.answers(0.3):
                raise LogUnavailable("the log does not answer")
            if came_back:
                self.look()
            self.check_sound()
            found = self.log.append(messages, timeout_s)
        except BaseException as error:
            with self._lock:
                self._probing = False
                if isinstance(error, Unavailable):
                    self._broken_until = self._clock() + REFUSE_FOR_S
                    self._continuity.doubt()
            if isinstance(error, Unavailable):
                self._note(error)
            raise
        with self._lock:
            self._probing = False
            self._broken_until = None
        self.refused = None
        return found

    def check(self) -> None:
        """Raises Unavailable if the log is known to be down or gives no sign of life, LostHistory if it is not the one that was
        read. An append may find out otherwise yet."""
        self.check_sound()
        with self._lock:
            refusing = self._broken_until is not None and (self._probing or self._clock() < self._broken_until)
        if refusing or not self.log.answers(0.3):
            raise LogUnavailable("the log does not answer")

    def check_sound(self) -> None:
        """Raises LostHistory if the log was not the one that was read, when it was last looked at."""
        if self._lost is not None:
            raise LostHistory(self._lost)

    def look(self) -> None:
        """See whether the log is the one that was read; one that does not answer shows nothing."""
        try:
            self._continuity.check()
            self._lost = self.refused = None
        except LostHistory as error:
            self._lost = str(error)
        except Unavailable as error:
            self._note(error)

    def _note(self, error: Unavailable) -> None:
        refused = str(error) if isinstance(error, LoginRefused) else None
        if refused is not None and self.refused is None:
            logger.error("%s", refused)  # once: it is tried again and again
        self.refused = refused

    def watch(self, stopping: threading.Event) -> None:
        """Look again and again."""
        while not stopping.wait(LOOK_EVERY_S):
            self.look()

    def append_patiently(self, envelopes: Sequence[Envelope], patience_s: float) -> list[Position]:
        """Append again and again, under the same ids, until acknowledged. Raises Unavailable after `patience_s`."""
        deadline = self._clock() + patience_s
        while True:
            try:
                return self.append(envelopes)
            except Unavailable:
                if self._clock() >= deadline:
                    raise
            self._pause(0.1)

    def wait_for(self, wanted: Sequence[Position], timeout_s: float) -> bool:
        """Whether the projections took in every wanted position within the time."""
        deadline = self._clock() + timeout_s
        while True:
            there = self._reached()
            if all(there.get((p.topic, p.partition), 0) > p.offset for p in wanted):
                return True
            if self._clock() >= deadline:
                return False
            self._pause(POLL_S)

    def stands(self, wanted: Position) -> bool:
        """Whether the projections will take in a record at that position: whoever waits for another waits in vain. Raises
        Unavailable."""
        if wanted.topic not in (CONVERSATIONS, DOMAINS):
            return False
        reached = self._reached().get((wanted.topic, wanted.partition), 0)
        return reached > wanted.offset or self.ends(wanted.topic).get(wanted.partition, 0) > wanted.offset

    def _reached(self) -> dict[tuple[str, int], int]:
        """The positions of the projections, read once in POLL_S however many wait for them."""
        asked_at = self._clock()
        with self._reading:
            if self._read is not None and self._read[0] >= asked_at - POLL_S:
                return self._read[1]
            read_at = self._clock()
            with postgres_trouble(), self._database.connect() as connection:
                there = positions(connection, LIVE)
            self._read = (read_at, there)
            return there

    def wait_for_ends(self, topic: str, timeout_s: float) -> bool:
        """Whether the projections reached, within the time, where the topic ended when this was called."""
        ends = self.ends(topic)
        return self.wait_for([Position(topic, p, end - 1) for p, end in ends.items() if end > 0], timeout_s)

    def ends(self, topic: str) -> dict[int, int]:
        """The next offset of each partition. Raises Unavailable, at once while the log is known to be down."""
        with self._lock:
            if self._broken_until is not None and self._clock() < self._broken_until:
                raise LogUnavailable("the log does not answer")
        if not self.log.answers(0.3):
            raise LogUnavailable("the log does not answer")
        return self.log.ends(topic)

    def _admit(self) -> bool:
        """Whether the log was away, and this is who tries whether it is back."""
        with self._lock:
            if self._broken_until is None:
                return False
            if self._probing or self._clock() < self._broken_until:
                raise LogUnavailable("the log does not answer")
            self._probing = True
            return True
