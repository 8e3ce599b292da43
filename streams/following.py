"""What following the log takes besides Faust: records applied in order whatever is away, and offsets that no record stands at."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from streams.continuity import Continuity
from streams.errors import Unavailable
from streams.events import CONVERSATIONS, DOMAINS
from streams.floods import read_operations, tell_stops
from streams.log import Log, LostHistory, Record
from streams.parking import Parked
from streams.store import SOURCE, Store, TooManyInvalid, is_of

LOOK_EVERY_S = 1.0
STALLED_S = 45.0
BATCH_RECORDS = 500  # applied at once
logger = logging.getLogger("noria.streams")
Result = TypeVar("Result")


def apply_when_available(store: Store, log: Log, records: list[Record]) -> None:
    """Apply, retrying in place as long as PostgreSQL does not answer: order is kept and nothing is skipped. Raises LostHistory, and
    TooManyInvalid once it is said on the log where that was."""

    def apply() -> None:
        try:
            _apply(store, log, records)
        except LostHistory:
            # A transaction left offsets without a record, the consumer left something out, or the store was put back.
            missing = _as_the_log_has_them(store, log, records)
            while batch := list(islice(missing, BATCH_RECORDS)):
                _apply(store, log, batch)

    when_available(apply)


def when_available(action: Callable[[], Result]) -> Result:
    """Call `action` until it is not Unavailable."""
    wait_s = 0.1
    while True:
        try:
            return action()
        except Unavailable as error:
            logger.warning("%s; trying again in %.1f s", error, wait_s)
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, 5.0)


def _apply(store: Store, log: Log, records: list[Record]) -> None:
    try:
        store.apply(records)
    except TooManyInvalid as flood:
        if store.let_past(read_operations(log).allowed):
            return _apply(store, log, records)
        tell_stops(log, flood.met, SOURCE)
        raise


def _as_the_log_has_them(store: Store, log: Log, records: list[Record]) -> Iterator[Record]:
    reached = store.positions()
    ends = {(record.topic, record.partition): record.offset + 1 for record in records}
    return (record for place, end in sorted(ends.items()) for record in log.read(*place, reached.get(place, 0), end))


def take_up_parked(store: Store, log: Log) -> None:
    """Take up each parked key where it stands, in steps of BATCH_RECORDS of its events; one that meets a bug stays parked. Nobody
    else follows meanwhile. Raises Unavailable, LostHistory."""
    for key, parked in sorted(store.parked().items()):
        stands: Parked | None = parked
        while stands is not None:
            end = store.positions()[stands.topic, stands.partition]
            of_key = (r for r in log.read(stands.topic, stands.partition, stands.offset, end) if is_of(r, key))
            batch = list(islice(of_key, BATCH_RECORDS))
            upto = end if len(batch) < BATCH_RECORDS else batch[-1].offset + 1
            stands = store.take_up(stands, batch, upto)
            if stands is not None and stands.offset < upto:
                logger.error("%s stays parked at %s: %s", stands.kind, stands.place, stands.reason)
                break
        else:
            logger.warning("%s was parked at %s, and is no more", parked.kind, parked.place)


def stop(why: str) -> None:
    """End the process at once, so that what was not acknowledged is delivered to the next one."""
    logger.critical("%s; the process stops", why, exc_info=True)
    logging.shutdown()
    os._exit(70)


def watch(store: Store, log: Log, continuity: Continuity) -> None:
    """Move on where the log ends with offsets that no record stands at. Stop the process when the log is not the one any more that
    was read, and when records wait and none is applied: consumers are known to die silently after outages."""
    moved_at = time.monotonic()
    last: dict[tuple[str, int], int] | None = None
    try:
        while True:
            time.sleep(LOOK_EVERY_S)
            try:
                continuity.check()
                ends = {(topic, p): end for topic in (CONVERSATIONS, DOMAINS) for p, end in log.ends(topic).items()}
                now = store.positions()
                behind = {place: end for place, end in ends.items() if now.get(place, 0) < end}
                if now != last or not behind:
                    moved_at = time.monotonic()
                for place, end in behind.items():
                    if last is not None and last.get(place, 0) == now.get(place, 0):
                        pass_over_marks(store, log, place, now.get(place, 0), end)
                last = now
            except Unavailable:
                moved_at = time.monotonic()
            if time.monotonic() - moved_at > STALLED_S:
                stop(f"records waited for {STALLED_S:.0f} s and none was applied")
    except BaseException:
        stop("the log is watched no more")


def pass_over_marks(store: Store, log: Log, place: tuple[str, int], start: int, end: int) -> None:
    """Move the position to `end` if the log holds no record from `start` to there. Raises Unavailable, LostHistory."""
    if next(iter(log.read(*place, start, end)), None) is None:
        store.pass_over(*place, start, end)
