"""Holds the memories of all domains whose policy recalls anything, and follows what the log makes of them.

A correction is recalled as soon as the tables hold it: PostgreSQL says when they moved. What takes long, the passages of a large
document, is taken in a few at a time in between.
"""

import logging
import time
from collections.abc import Callable, Mapping

from sqlalchemy import Engine

from streams.reading.memories import Place, changes, corrections_changed, corrections_of, positions, recalling
from streams.recalled import Recall
from streams.sealing import Keyring
from streams.store import postgres_trouble
from workers.recall.encoder import Encoder
from workers.recall.held import EncoderFailed, Held

COMPARE_EVERY_S = 30.0
ENCODER_AGAIN_S = 5.0  # after it failed
logger = logging.getLogger("noria.recall")


class Follower:
    """`held`: by domain; replaced as a whole, so that whoever searches needs no lock."""

    def __init__(self, database: Engine, keyring: Keyring, encoder_for: Callable[[Recall], Encoder]) -> None:
        self.held: Mapping[str, Held] = {}
        self._database = database
        self._keyring = keyring
        self._encoder_for = encoder_for
        self._reached: dict[Place, int] | None = None
        self._compared_at = float("-inf")
        self._paused: dict[str, float] = {}  # by domain, until when
        self._hold_again_at = float("inf")  # for a domain whose encoder failed at the beginning

    def step(self) -> bool:
        """Take in what happened, and a little of what is to be embedded; whether more is left to do. Raises Unavailable."""
        self._follow()
        left = [self._go_on(domain, held) for domain, held in self.held.items()]
        return any(left)

    def _go_on(self, domain: str, held: Held) -> bool:
        """One domain's encoder that fails holds up no other domain."""
        if time.monotonic() < self._paused.get(domain, 0.0):
            return False
        try:
            return held.step()
        except EncoderFailed as error:
            logger.warning("the memory of %s takes nothing in: %s", domain, error)
            self._paused[domain] = time.monotonic() + ENCODER_AGAIN_S
            return False

    def _follow(self) -> None:
        with postgres_trouble(), self._database.connect() as connection:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
            now = positions(connection)
            before = self._reached
            if before is None or any(now.get(place, 0) < offset for place, offset in before.items()):
                # At first; and where the tables were put back, whatever was read of them is read again.
                self.held = {}
                self._hold(recalling(connection))
                self._reached, self._compared_at = now, time.monotonic()
                return
            if now != before:
                found = changes(connection, before)
                if found.policies:
                    self._hold_again_at = 0.0
                for domain, since in found.domains.items():
                    if (held := self.held.get(domain)) is not None:
                        held.look_at(sorted(corrections_changed(connection, domain, since)))
                        held.look_at_documents(connection)
                for domain, example_ids in corrections_of(connection, found.conversations).items():
                    if (held := self.held.get(domain)) is not None:
                        held.look_at(sorted(example_ids))
                self._reached = dict(found.reached)
            if time.monotonic() >= self._hold_again_at:
                self._hold(recalling(connection))
            if time.monotonic() - self._compared_at >= COMPARE_EVERY_S:
                self._compared_at = time.monotonic()
                for held in self.held.values():
                    held.compare(connection)

    def _hold(self, wanted: Mapping[str, Recall]) -> None:
        """Memories of these domains; what of the policy changes no memory is not looked at."""
        self._hold_again_at = float("inf")
        held: dict[str, Held] = {}
        for domain, recall in wanted.items():
            there = self.held.get(domain)
            if there is None or (there.recall.kinds, there.recall.embeddings) != (recall.kinds, recall.embeddings):
                try:
                    there = Held(self._database, self._keyring, domain, recall, self._encoder_for(recall))
                except EncoderFailed as error:
                    logger.warning("%s has no memory: %s", domain, error)
                    self._hold_again_at = time.monotonic() + ENCODER_AGAIN_S
                    continue
            held[domain] = there
        self.held = held
