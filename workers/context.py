"""What every step of a round is handed: the stores it may use, and how it tells the log what happened."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID, uuid5

from sqlalchemy import Engine, text

from streams.artifacts import IN_USE_LOCK, open_artifacts
from streams.codec import envelope_for
from streams.errors import Unavailable
from streams.events import Event
from streams.facts.orders import OrderProgressed, Step, WaitsFor
from streams.log import Log, message_of
from streams.orders import BuildMaterial, Order
from streams.sealing import Keyring
from streams.settings import Settings
from streams.store import postgres_trouble
from workers.evaluator.opencompass import Examiner
from workers.orders import Claim, Intake
from workers.trainer.parent import Trainer

PROGRESS_EVERY_S = 2.0
PROGRESS_EVERY_SHARE = 0.02  # of the time that a step has taken: some 300 times in ten hours
LOOK_EVERY_S = 0.5  # whether what a step waits for is there
APPEND_TIMEOUT_S = 10.0
Result = TypeVar("Result")


class Cancelled(Exception):
    """The order is no longer wanted, or another worker holds it."""


class Context:
    """`cancelled` is set when the order must be dropped; long steps look at it, or call `check`."""

    def __init__(self, settings: Settings, database: Engine, log: Log, keyring: Keyring, worker: str) -> None:
        self.settings = settings
        self.database = database
        self.log = log
        self.keyring = keyring
        self.worker = worker
        self.intake = Intake(database, log)
        self.artifacts = open_artifacts(settings.artifacts, settings.shared_artifacts)
        self.cancelled = threading.Event()
        self.held: Claim | None = None  # the order in hand
        # Children that wait for the next round: see `workers.loop.Idle`.
        self.trainer: Trainer | None = None
        self.examiner: Examiner | None = None
        # By domain and model: up to where on the log corrections were put to it ahead of their round.
        self.looked_at: dict[tuple[str, str], int] = {}
        self.went_live: dict[str, int] = {}  # by event: which release answered from there on
        self._telling: tuple[UUID, Step] | None = None  # of which order and step progress is told
        self._told_at = self._began_at = 0.0

    def dismiss(self) -> None:
        """End the children that wait; each holds half a gigabyte."""
        for child in (self.trainer, self.examiner):
            if child is not None:
                child.close()
        self.trainer = self.examiner = None

    def close(self) -> None:
        self.dismiss()
        self.log.close()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Nothing is removed from the artifacts meanwhile: from when something is put there until it is told on the log."""
        with postgres_trouble(), self.database.connect() as connection:
            connection.execute(text(f"SELECT pg_advisory_xact_lock_shared({IN_USE_LOCK})"))
            yield

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled

    def publish(self, order: Order, event: Event, name: str) -> None:
        """Record a fact about `order`, under an id computed from the order's, so that a repeated order repeats no fact.

        Raises Unavailable.
        """
        self.say([(uuid5(order.order_id, name), event)], order.round_id or order.domain, order.order_id)

    def say(self, events: Sequence[tuple[UUID, Event]], correlation_id: str, causation_id: UUID | None = None) -> None:
        """Record facts under their ids, in order. Raises Unavailable."""
        at = datetime.now(UTC)
        envelopes = [
            envelope_for(
                event,
                id=id_,
                source=f"/noria/workers/{self.worker}",
                time=at,
                correlation_id=correlation_id,
                causation_id=causation_id,
            )
            for id_, event in events
        ]
        self.log.append([message_of(envelope) for envelope in envelopes], APPEND_TIMEOUT_S)

    def progress(
        self,
        order: Order,
        step: Step,
        done: int,
        total: int,
        seconds_left: float | None = None,
        stage: str | None = None,
        **values: float,
    ) -> None:
        """Tell how far a step is: every PROGRESS_EVERY_S seconds, and the longer it takes the more seldom, for each time stands on
        the log for ever. A log that does not answer is no reason to stop."""
        self.check()
        now = time.monotonic()
        if self._telling != (order.order_id, step):
            self._telling, self._began_at = (order.order_id, step), now
        every_s = max(PROGRESS_EVERY_S, (now - self._began_at) * PROGRESS_EVERY_SHARE)
        tells = order.round_id is not None or isinstance(order, BuildMaterial)
        if not tells or (now - self._told_at < every_s and done < total):
            return
        self._told_at = now
        event = OrderProgressed(
            domain=order.domain,
            round_id=order.round_id,
            order_id=order.order_id,
            step=step,
            done=done,
            total=total,
            seconds_left=seconds_left,
            values=values,
            stage=stage,
        )
        try:
            self._publish_progress(order, event)
        except Unavailable:
            self._told_at = now + PROGRESS_EVERY_S

    def wait(self, order: Order, step: Step, missing: Callable[[], WaitsFor | None]) -> None:
        """Return when nothing is `missing` any more; until then the step's progress says what it waits for.

        Raises Cancelled. It may take as long as it takes: the order stays in hand, and no attempt is counted.
        """
        told: WaitsFor | None = None
        while (waits_for := missing()) is not None:
            self.check()
            if order.round_id is not None and waits_for != told:
                event = OrderProgressed(
                    domain=order.domain,
                    round_id=order.round_id,
                    order_id=order.order_id,
                    step=step,
                    done=0,
                    total=0,
                    waits_for=waits_for,
                )
                with suppress(Unavailable):  # it is told at the next look
                    self._publish_progress(order, event)
                    told = waits_for
            self.cancelled.wait(LOOK_EVERY_S)

    def _publish_progress(self, order: Order, event: OrderProgressed) -> None:
        self.publish(order, event, f"progress {self.worker} {time.time_ns()}")


def retry(action: Callable[[], Result], stopping: threading.Event) -> Result:
    """Call `action` until it is available, or raise Cancelled when `stopping` is set."""
    wait_s = 0.2
    while True:
        try:
            return action()
        except Unavailable:
            if stopping.wait(wait_s):
                raise Cancelled from None
            wait_s = min(2 * wait_s, 5.0)
