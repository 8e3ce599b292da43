"""The Faust app: follows the log live and hands every record to `Store.apply`. `python -m streams.app`

What must not happen here: a record acknowledged before its transaction is committed. A plain `async for` acknowledges
what raised or was cancelled, so the stream is `noack()` and acknowledged by hand; anything unexpected stops the process.
"""

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faust

from streams.cluster import Cluster
from streams.committed import CommittedApp
from streams.connections import SHARES
from streams.continuity import Continuity
from streams.errors import Invalid
from streams.events import CONVERSATIONS, DOMAINS
from streams.following import BATCH_RECORDS, apply_when_available, stop, take_up_parked, watch, when_available
from streams.log import KafkaLog, Log, LostHistory, Record
from streams.settings import Settings, from_env
from streams.store import Store, open_database

BATCH_WAIT_S = 0.02


def build_app(settings: Settings, store: Store, log: Log) -> faust.App:
    app = CommittedApp(
        "noria-streams",
        lambda: when_available(store.positions),
        broker=";".join(f"kafka://{address}" for address in settings.kafka.addresses),
        broker_credentials=credentials(settings.kafka),
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
                await loop.run_in_executor(one_thread, apply_when_available, store, log, records)
                for event in batch:
                    await stream.ack(event)
        except asyncio.CancelledError:
            raise  # the worker is stopping; nothing of this batch was acknowledged unless it was committed
        except BaseException:
            stop("a record could not be applied")

    return app


def credentials(cluster: Cluster) -> faust.auth.Credentials | None:
    """How Faust connects; None: as anybody. Raises Invalid."""
    context = cluster.tls_context() if cluster.speaks_tls else None
    if cluster.asks_login:
        return faust.SASLCredentials(
            username=cluster.user, password=cluster.password(), ssl_context=context, mechanism=cluster.mechanism
        )
    return faust.SSLCredentials(context) if context else None


def main() -> int:
    try:
        settings = from_env(os.environ)
    except Invalid as error:
        print(error, file=sys.stderr)
        return 2
    database, log = open_database(settings.database_url, SHARES["streams"]), KafkaLog(settings.kafka, "noria-streams")
    store, continuity = Store(database), Continuity(database, log)
    try:
        when_available(lambda: log.ends(CONVERSATIONS))  # what keeps Faust out, it does not say in words
        when_available(continuity.check)
    except LostHistory:
        stop("nothing is applied")
    try:
        when_available(lambda: take_up_parked(store, log))
    except Exception:
        stop("what stands parked could not be taken up")
    threading.Thread(target=watch, args=(store, log, continuity), daemon=True).start()
    worker = faust.Worker(build_app(settings, store, log), loglevel="WARNING")
    worker.execute_from_commandline()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
