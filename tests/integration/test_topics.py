"""Topics: made so that nothing expires, and refused where something would."""

import pytest
from kafka.admin import ConfigResource, KafkaAdminClient, NewTopic

from streams.cluster import Cluster
from streams.errors import Invalid
from streams.events import QUARANTINE
from streams.topics import CONFIG, TOPICS, create_topics, replication_factor
from tests.integration.conftest import eventually, make_anew


def test_a_topic_that_others_made_and_that_would_lose_records_is_refused_by_name(empty_log: Cluster) -> None:
    admin = KafkaAdminClient(**empty_log.client())
    try:
        admin.delete_topics([QUARANTINE])
        eventually(lambda: QUARANTINE not in admin.list_topics(), "it is gone")
        admin.create_topics([NewTopic(QUARANTINE, 1, 1)])
        with pytest.raises(Invalid, match=r"noria\.quarantine would lose records: its retention\.ms is 604800000"):
            create_topics(empty_log)
        make_anew(empty_log, [QUARANTINE])
        assert create_topics(empty_log) == []
    finally:
        admin.close()


def test_what_is_made_keeps_everything_on_as_many_brokers_as_there_are(empty_log: Cluster) -> None:
    admin = KafkaAdminClient(**empty_log.client())
    try:
        names = [topic.name for topic in TOPICS]
        found = admin.describe_configs([ConfigResource("TOPIC", name) for name in names], config_filter="all")["topic"]
        for name in names:
            assert {key: found[name][key]["value"] for key in CONFIG} == CONFIG
            assert found[name]["min.insync.replicas"]["value"] == "1"
        assert {len(p["replica_nodes"]) for topic in admin.describe_topics(names) for p in topic["partitions"]} == {1}
    finally:
        admin.close()


@pytest.mark.parametrize("given", ["", "0", "two", "-1"])
def test_a_replication_factor_that_is_no_number_is_refused(given: str) -> None:
    with pytest.raises(Invalid, match="NORIA_REPLICATION_FACTOR"):
        replication_factor({"NORIA_REPLICATION_FACTOR": given})
    assert replication_factor({}) is None and replication_factor({"NORIA_REPLICATION_FACTOR": "2"}) == 2
