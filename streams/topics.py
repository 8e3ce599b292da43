"""Every topic as data, and the command that creates them: `python -m streams.topics`."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from kafka.admin import ConfigResource, KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError
from msgspec import Struct

from streams.cluster import Cluster
from streams.errors import Invalid, Unavailable
from streams.events import CONVERSATIONS, DOMAINS, OPERATIONS, ORDERS, QUARANTINE
from streams.reach import unreachable
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
    Topic(OPERATIONS, "partition", 1, ("api", "streams")),
)
# Kafka is the record: nothing expires and nothing is compacted away.
CONFIG = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    # Whatever a producer compresses with: the readers have no library for most of it.
    "compression.type": "uncompressed",
}
KEPT = ("retention.ms", "retention.bytes", "cleanup.policy")  # what must be so on a topic that others have made, too
REPLICAS = 3


def replication_factor(environ: Mapping[str, str]) -> int | None:
    """NORIA_REPLICATION_FACTOR; None where it is not set. Raises Invalid."""
    given = environ.get("NORIA_REPLICATION_FACTOR")
    if given is not None and not (given.isdigit() and int(given) > 0):
        raise Invalid(f"NORIA_REPLICATION_FACTOR must be a whole number above 0; got {given!r}")
    return None if given is None else int(given)


def create_topics(
    cluster: Cluster, replicas: int | None = None, partitions: Mapping[str, int] | None = None
) -> list[str]:
    """Create the topics that are missing, with so many `replicas` (3, or as many as there are brokers) and as many `partitions` as
    are named; return their names.

    Raises Invalid for a topic that is there and would lose records, Unavailable if Kafka does not answer."""
    try:
        admin = KafkaAdminClient(**cluster.client(), client_id="noria-topics", reconnect_backoff_max_ms=500)
    except KafkaError as error:
        raise unreachable(cluster, error) from error
    try:
        there = set(admin.list_topics())
        missing = [topic for topic in TOPICS if topic.name not in there]
        _check_kept(admin, [topic.name for topic in TOPICS if topic.name in there])
        if missing and replicas is None:
            replicas = min(REPLICAS, len(admin.describe_cluster()["brokers"]))
        for topic in missing:
            number = (partitions or {}).get(topic.name, topic.partitions)
            # What is acknowledged is on two disks, where there are two.
            config = CONFIG | {"min.insync.replicas": str(min(2, replicas or 1))}
            new = NewTopic(topic.name, number, replicas, topic_configs=config)
            try:
                admin.create_topics([new], timeout_ms=30_000)
            except TopicAlreadyExistsError:
                pass  # another process was first
        return [topic.name for topic in missing]
    except KafkaError as error:
        raise Unavailable(f"Kafka at {cluster.servers} refused: {type(error).__name__}: {error}") from error
    finally:
        admin.close()


def _check_kept(admin: KafkaAdminClient, names: Sequence[str]) -> None:
    if not names:
        return
    found = admin.describe_configs([ConfigResource("TOPIC", name) for name in names], config_filter="all")["topic"]
    for name in names:
        for key in KEPT:
            if (value := found[name][key]["value"]) != CONFIG[key]:
                raise Invalid(f"{name} would lose records: its {key} is {value}, and must be {CONFIG[key]}")


def main() -> int:
    argparse.ArgumentParser(prog="python -m streams.topics", description=__doc__).parse_args()
    try:
        settings = from_env(os.environ)
        created = create_topics(settings.kafka, replication_factor(os.environ))
    except (Invalid, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"topics created: {', '.join(created)}" if created else "topics: all there")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
