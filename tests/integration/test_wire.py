"""Whoever reads the log needs nothing of ours; and nothing of what people said can be read from any disk."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import psycopg2
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka
from cloudevents.core.formats.json import JSONFormat
from kafka import KafkaConsumer, TopicPartition

from streams.cluster import Cluster
from streams.codec import EVENT_TYPES, decode, schemas, topic_of
from streams.events import CONVERSATIONS, DOMAINS
from streams.log import KafkaLog, Message
from tests.at_rest import checkpoint, files_holding
from tests.door_world import World
from tests.waiting import PATIENCE_S

SCHEMAS = schemas()
EXAMPLES = Path(__file__).parents[1] / "examples" / "events"
SENTENCES = [
    f"{beginning} {ending}"
    for beginning in (
        "my grandmother Wilhelmine keeps the key behind brick nineteen",
        "the pension office still owes me four hundred and twelve crowns",
        "Dr Okonkwo says that the left kidney is the one to watch",
        "我把备用钥匙藏在蓝色信箱后面第三块砖下",
        "la clave del portal es el cumpleaños de mi hermana menor",
    )
    for ending in ("on Mondays", "since the flood", "which nobody knows", "以后再说")
]


def every_example() -> list[bytes]:
    found = []
    for file in sorted(EXAMPLES.glob("*.json")):
        value = file.read_bytes()
        if json.loads(value)["type"].removeprefix("noria.") in EVENT_TYPES:
            found.append(value)
    return found


def read_as_anybody(cluster: Cluster, topic: str) -> list[tuple[bytes, BaseCloudEvent]]:
    """Every event of a topic, by kafka-python and the CloudEvents SDK alone: the record's key, and the event."""
    consumer = KafkaConsumer(**cluster.client(), group_id=None, auto_offset_reset="earliest")
    places = [TopicPartition(topic, partition) for partition in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(places)
    ends = consumer.end_offsets(places)
    found: list[tuple[bytes, BaseCloudEvent]] = []
    while any(consumer.position(place) < ends[place] for place in places):
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                message = KafkaMessage(headers=dict(record.headers), key=None, value=record.value)
                found.append((record.key, from_kafka(message, JSONFormat())))
    consumer.close()
    return found


def document_of(event: BaseCloudEvent) -> dict[str, Any]:
    """The event as the SDK writes it in structured JSON."""
    written: dict[str, Any] = json.loads(JSONFormat().write(event))
    return written


def test_there_is_an_example_of_every_type_of_event() -> None:
    assert {json.loads(value)["type"].removeprefix("noria.") for value in every_example()} == set(EVENT_TYPES)


def test_any_cloudevents_reader_reads_every_event_and_our_schemas_hold(world: World, empty_log: Cluster) -> None:
    domain = world.domain()
    said = world.chat(domain, user="ann")
    log = KafkaLog(empty_log, "test-wire")
    for value in every_example():
        envelope = decode(value)
        log.append([Message(topic_of(envelope.event), envelope.key, value)], PATIENCE_S)
    log.close()
    published = {f"urn:noria:{name.replace('.v', ':')}": schema for name, schema in SCHEMAS.items()}
    types: set[str] = set()
    replies: list[str] = []
    for topic in (CONVERSATIONS, DOMAINS):
        for key, event in read_as_anybody(empty_log, topic):
            assert event.get_specversion() == "1.0"
            assert UUID(event.get_id())
            assert event.get_source().startswith("/")
            assert event.get_datacontenttype() == "application/json"
            time = event.get_time()
            assert isinstance(time, datetime) and time.utcoffset() is not None
            assert str(event.get_subject()).encode() == key
            assert event.get_extension("correlationid")
            schema = published[str(event.get_dataschema())]
            checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
            jsonschema.Draft202012Validator(schema, format_checker=checker).validate(document_of(event))
            types.add(event.get_type())
            data = event.get_data()
            assert isinstance(data, dict)
            if event.get_type() == "noria.reply_drafted" and data["domain"] == domain:
                replies.append(data["reply_id"])
    assert types == {f"noria.{name}" for name in EVENT_TYPES}
    assert len(replies) == 1 and said["model"] == f"{domain}@0"


def test_a_schema_refuses_what_is_not_its_event() -> None:
    (rated,) = [json.loads(value) for value in every_example() if b'"noria.reply_rated"' in value]
    validator = jsonschema.Draft202012Validator(SCHEMAS["reply_rated.v1"])
    validator.validate(rated)
    without = {name: value for name, value in rated.items() if name != "correlationid"}
    for broken in (
        without,
        rated | {"specversion": "0.3"},
        rated | {"type": "noria.reply_corrected"},
        rated | {"data": rated["data"] | {"rating": "five"}},
        rated | {"data": rated["data"] | {"scale": "miles"}},
        rated | {"data": {}},
    ):
        assert not validator.is_valid(broken)


def test_every_order_is_a_cloudevent_too(world: World, empty_log: Cluster) -> None:
    domain = world.domain()
    events = [event for _, event in read_as_anybody(empty_log, "noria.orders")]
    ours = [event for event in events if isinstance(d := event.get_data(), dict) and d["domain"] == domain]
    assert [event.get_type() for event in ours] == ["noria.swap_release"]
    for event in events:
        name, document = event.get_type().removeprefix("noria."), document_of(event)
        version = document["dataschema"].rpartition(":")[2]
        jsonschema.Draft202012Validator(SCHEMAS[f"{name}.v{version}"]).validate(document)


def test_what_twenty_people_say_through_the_door_is_found_on_no_disk(
    world: World, postgres_server: str, database_url: str, kafka_data: Path, postgres_data: Path
) -> None:
    domain = world.domain()
    assert len(set(SENTENCES)) == 20
    for number, sentence in enumerate(SENTENCES):
        person = f"person-{number}"
        reply = world.chat(domain, sentence, user=person)
        reply_id = reply["metadata"]["reply_ids"][0]
        assert sentence in reply["choices"][0]["message"]["content"]
        for body in ({"correction": f"no: {sentence}"}, {"comment": f"because {sentence}"}):
            given = world.as_chat.post("/v1/feedback", json={"reply_id": reply_id, "user": person, **body})
            assert given.status_code == 200, given.text
        world.caught_up(given.json()["position"])
    folders = [kafka_data, postgres_data, world.settings.home]

    # The search finds what is there: the same ways to both disks, with words that nobody said.
    control = "a sentence that is written in clear on purpose"
    log = KafkaLog(world.kafka, "test-wire")
    log.append([Message("noria.quarantine", "control", f'{{"words": "{control}"}}'.encode())], PATIENCE_S)
    log.close()
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = on")  # the log is written out with it
        control_rows = "CREATE TABLE public.control AS SELECT jsonb_build_object('words', %s) AS words"
        # Many: one may lie across the border of two pages.
        cursor.execute(f"{control_rows} FROM generate_series(1, 50)", (control,))
    connection.close()
    # Before the checkpoint, which may remove what stood there.
    wal = postgres_data / "server" / "pg_wal"
    assert files_holding(wal, [control]), "what is written to PostgreSQL stands in its write-ahead log"
    assert files_holding(wal, SENTENCES) == set()
    checkpoint(postgres_server)
    found = {name for folder in folders for name in files_holding(folder, [control])}
    assert any(name.startswith("log/noria.quarantine-0/") for name in found), found
    assert any(name.startswith("server/base/") for name in found), found

    for folder in folders:
        assert files_holding(folder, SENTENCES) == set()
