"""The Faust app: follows the log live and hands every record to `Store.apply`. `python -m streams.app`

What must not happen here: a record acknowledged before its transaction is committed. A plain `async for` acknowledges
what raised or was cancelled, so the stream is `noack()` and acknowledged by hand; anything unexpected stops the process.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faust

from streams.errors import Invalid, Unavailable
from streams.events import CONVERSATIONS, DOMAINS
from streams.log import KafkaLog, Record
from streams.settings import Settings, from_env
from streams.store import Store, open_engine

BATCH_RECORDS = 500
BATCH_WAIT_S = 0.02
STALLED_S = 45.0
logger = logging.getLogger("noria.streams")


def build_app(settings: Settings, store: Store) -> faust.App:
    app = faust.App(
        "noria-streams",
        broker=f"kafka://{settings.kafka.replace(',', ';kafka://')}",
        datadir=settings.home / "faust",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.5,
        stream_wait_empty=False,
        consumer_auto_offset_reset="earliest",
    )
    topic = app.topic(
        CONVERSATIONS, DOMAINS, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )
    one_thread = ThreadPoolExecutor(1, "store")  # psycopg2 blocks, and order is kept by there being one

    @app.agent(topic, concurrency=1, name="apply")
    async def follow(stream: Any) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for batch in stream.noack_take(BATCH_RECORDS, within=BATCH_WAIT_S):
                records = [
                    Record(
                        e.message.topic, e.message.partition, e.message.offset, e.message.key, e.message.value or b""
                    )
                    for e in batch
                ]
                await loop.run_in_executor(one_thread, apply_when_available, store, records)
                for event in batch:
                    await stream.ack(event)
        except asyncio.CancelledError:
            raise  # the worker is stopping; nothing of this batch was acknowledged unless it was committed
        except BaseException:
            stop("a record could not be applied")

    return app


def apply_when_available(store: Store, records: list[Record]) -> None:
    """Apply, retrying in place as long as PostgreSQL does not answer: order is kept and nothing is skipped."""
    wait_s = 0.1
    while True:
        try:
            store.apply(records)
            return
        except Unavailable as error:
            logger.warning("%s; trying again in %.1f s", error, wait_s)
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, 5.0)


def stop(why: str) -> None:
    """End the process at once, so that what was not acknowledged is delivered to the next one."""
    logger.critical("%s; the process stops", why, exc_info=True)
    logging.shutdown()
    os._exit(70)


def watch(settings: Settings, store: Store) -> None:
    """Stop the process when records wait and none is applied: consumers are known to die silently after outages."""
    log, moved_at = KafkaLog(settings.kafka, "noria-streams-watch"), time.monotonic()
    last: dict[tuple[str, int], int] = {}
    while True:
        time.sleep(5.0)
        try:
            ends = {(t, p): end for t in (CONVERSATIONS, DOMAINS) for p, end in log.ends(t).items()}
            now = store.positions()
        except Unavailable:
            moved_at = time.monotonic()
            continue
        if now != last or all(now.get(place, 0) >= end for place, end in ends.items()):
            moved_at, last = time.monotonic(), now
        elif time.monotonic() - moved_at > STALLED_S:
            stop(f"records waited for {STALLED_S:.0f} s and none was applied")


def main() -> int:
    try:
        settings = from_env(os.environ)
    except Invalid as error:
        print(error, file=sys.stderr)
        return 2
    store = Store(open_engine(settings.database_url, pool_size=2))
    threading.Thread(target=watch, args=(settings, store), daemon=True).start()
    worker = faust.Worker(build_app(settings, store), loglevel="WARNING")
    worker.execute_from_commandline()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
