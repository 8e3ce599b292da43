"""Every topic as data, and the command that creates them: `python -m streams.topics`."""

import argparse
import os
import sys
from collections.abc import Mapping

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError
from msgspec import Struct

from streams.errors import Invalid, Unavailable
from streams.events import CONVERSATIONS, DOMAINS, ORDERS, QUARANTINE
from streams.settings import from_env


class Topic(Struct, frozen=True):
    """`key` is what order is kept within; `written_by` the only processes that append."""

    name: str
    key: str
    partitions: int
    written_by: tuple[str, ...]


TOPICS = (
    Topic(CONVERSATIONS, "conversation id", 4, ("api",)),
    Topic(DOMAINS, "domain", 2, ("api", "streams (outbox)", "workers")),
    Topic(ORDERS, "order id", 1, ("streams (outbox)",)),
    Topic(QUARANTINE, "none", 1, ("streams (outbox)",)),
)
# Kafka is the record: nothing expires and nothing is compacted away.
CONFIG = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "min.insync.replicas": "1",
    # Whatever a producer compresses with: the readers have no library for most of it.
    "compression.type": "uncompressed",
}


def create_topics(
    bootstrap: str, replication_factor: int = 1, partitions: Mapping[str, int] | None = None
) -> list[str]:
    """Create the topics that are missing (with as many `partitions` as are named); return their names.

    Raises Unavailable if Kafka does not answer."""
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap.split(","), client_id="noria-topics", reconnect_backoff_max_ms=500
        )
    except KafkaError as error:
        raise Unavailable(f"Kafka at {bootstrap} does not answer: {type(error).__name__}") from error
    try:
        there = set(admin.list_topics())
        missing = [topic for topic in TOPICS if topic.name not in there]
        for topic in missing:
            config = CONFIG | {"min.insync.replicas": str(max(1, replication_factor - 1))}
            number = (partitions or {}).get(topic.name, topic.partitions)
            new = NewTopic(topic.name, number, replication_factor, topic_configs=config)
            try:
                admin.create_topics([new], timeout_ms=30_000)
            except TopicAlreadyExistsError:
                pass  # another process was first
        return [topic.name for topic in missing]
    except KafkaError as error:
        raise Unavailable(f"Kafka at {bootstrap} refused: {type(error).__name__}: {error}") from error
    finally:
        admin.close()


def main() -> int:
    argparse.ArgumentParser(prog="python -m streams.topics", description=__doc__).parse_args()
    try:
        settings = from_env(os.environ)
        created = create_topics(settings.kafka, int(os.environ.get("NORIA_REPLICATION_FACTOR", "1")))
    except (Invalid, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"topics created: {', '.join(created)}" if created else "topics: all there")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
