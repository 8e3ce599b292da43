"""The one transaction: however often a record comes, it has its effect once, and what is unreadable stops nothing."""

import base64
import hashlib
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

import msgspec
import psycopg2
import pytest
from sqlalchemy import Engine

from deploy.ports import LOOPBACK, free_port
from streams.codec import decode, decode_order
from streams.errors import Unavailable
from streams.events import CONVERSATIONS, DOMAINS, OPERATIONS, ORDERS, QUARANTINE
from streams.facts.conversations import DraftPicked, PromptAsked, ReplyCorrected
from streams.facts.domains import ClockTicked, PolicySet
from streams.facts.exam import ExamItemAdded, ExamItemRetired
from streams.facts.examples import ExampleAccepted, ExampleRetired, PreferenceAccepted
from streams.facts.operations import SkipAllowed
from streams.facts.people import PersonErased
from streams.facts.releases import ReleaseFinished, ReleaseRolledBack
from streams.floods import read_operations, say
from streams.following import apply_when_available
from streams.log import LostHistory, MemoryLog, Message, Record
from streams.orders import SwapRelease
from streams.policy import Policy, Schedule, Thresholds
from streams.replay import verify
from streams.schema import projections
from streams.store import Store, TooManyInvalid, open_database
from streams.tables import LIVE
from tests.integration.by_hand import (
    AT,
    ByHand,
    change,
    created,
    empty,
    live_domain,
    message,
    placed,
    policy,
    rows,
    sealed,
    talk,
)
from tests.integration.conftest import eventually


@pytest.fixture
def world(database: Engine) -> Iterator[ByHand]:
    empty(database)
    yield ByHand(database, MemoryLog())


def contents(database: Engine) -> dict[str, str]:
    """A digest of every table, marks of sending and times of making included."""
    found = {}
    for table in projections.sorted_tables:
        order = ", ".join(f'"{column.name}"' for column in table.primary_key)
        lines = repr(rows(database, f"SELECT t::text FROM {LIVE}.{table.name} t ORDER BY {order}"))
        found[table.name] = hashlib.sha256(lines.encode()).hexdigest()
    return found


def count(database: Engine, table: str) -> int:
    ((number,),) = rows(database, f"SELECT count(*) FROM noria.{table}")
    assert isinstance(number, int)
    return number


def outbox(database: Engine, topic: str) -> list[tuple[str, bytes]]:
    found = rows(database, "SELECT message_id, value FROM noria.outbox WHERE topic = :topic ORDER BY id", topic=topic)
    return [(str(message_id), bytes(value)) for message_id, value in found]  # type: ignore[call-overload]


def put(world: ByHand, key: str, value: bytes, topic: str = CONVERSATIONS) -> None:
    world.log.append([Message(topic, key, value)], 10)


def test_a_batch_that_is_delivered_again_changes_nothing(world: ByHand) -> None:
    world.say(created("roads"), *talk("roads", "ann"), *talk("roads", "bob"))
    batch = world.records()
    assert world.store.apply(batch).events == 15
    before = contents(world.database)
    again = world.store.apply(batch)
    assert (again.records, again.events, again.quarantined) == (0, 0, 0)
    assert contents(world.database) == before


def test_a_whole_partition_that_is_delivered_again_from_its_beginning_changes_nothing(world: ByHand) -> None:
    for number in range(12):
        world.say(*talk("roads", f"person-{number % 3}"))
        world.follow()
    put(world, "c", b"not an event")
    world.follow()
    before = contents(world.database)
    for topic, partition in sorted(world.store.positions()):
        end = world.log.ends(topic)[partition]
        assert end > 0
        assert world.store.apply(list(world.log.read(topic, partition, 0, end))).records == 0
    assert contents(world.database) == before


def test_of_a_delivery_that_overlaps_only_what_is_new_takes_effect(world: ByHand) -> None:
    world.say(*talk("roads", "ann", "c-1"))
    batch = world.records()
    world.store.apply(batch[:4])
    assert world.store.apply(batch[2:]).events == 3
    assert count(world.database, "events") == 7
    assert count(world.database, "feedback") == 4


def test_the_same_event_id_twice_on_the_log_takes_effect_once(world: ByHand) -> None:
    events = talk("roads", "ann", "c-1")
    sent = [message(event) for event in events]
    world.log.append(sent, 10)
    world.follow()
    before = {table: digest for table, digest in contents(world.database).items() if table != "positions"}
    world.log.append(sent, 10)
    applied = world.store.apply(world.records(since=world.store.positions()))
    assert (applied.records, applied.events) == (7, 0)
    assert {table: digest for table, digest in contents(world.database).items() if table != "positions"} == before


def test_the_same_event_id_twice_in_one_batch_takes_effect_once(world: ByHand) -> None:
    sent = [message(event) for event in talk("roads", "ann", "c-1")]
    world.log.append([twin for one in sent for twin in (one, one)], 10)
    applied = world.store.apply(world.records())
    assert (applied.records, applied.events) == (14, 7)
    assert count(world.database, "feedback") == 4
    assert len(outbox(world.database, DOMAINS)) == 2


def test_a_gap_is_lost_history_and_nothing_is_written(world: ByHand) -> None:
    world.say(*talk("roads", "ann", "c-1"))
    batch = world.records()
    before = contents(world.database)
    for broken in (batch[1:], [*batch[:3], *batch[4:]]):
        with pytest.raises(LostHistory, match=r"expected offset \d, got \d"):
            world.store.apply(broken)
        assert contents(world.database) == before
    assert world.store.apply(batch).events == 7


def test_records_out_of_order_are_lost_history(world: ByHand) -> None:
    world.say(*talk("roads", "ann", "c-1"))
    with pytest.raises(LostHistory):
        world.store.apply(world.records()[::-1])
    assert world.store.positions() == {}


def unreadable() -> Sequence[tuple[str, bytes, str]]:
    """A name, bytes under the key `c`, and what the reason says."""
    rated = message(talk("roads", "ann", "c")[4]).value
    document = msgspec.json.decode(rated)

    def changed(**more: object) -> bytes:
        return msgspec.json.encode(document | more)

    return [
        ("nothing", b"", "input data was truncated"),
        ("not json", b"words of nobody", "malformed"),
        ("not utf-8", b'{"specversion": "\xff"}', "unicode"),
        ("another spec", changed(specversion="0.3"), "specversion"),
        ("a foreign type", changed(type="org.example.thing"), "type is not one of noria's"),
        ("a later version", changed(dataschema="urn:noria:reply_rated:99"), "version 99"),
        ("a field of another kind", changed(data=document["data"] | {"rating": "five"}), "rating"),
        ("a field missing", changed(data={}), "missing required field"),
        ("a time without a zone", changed(time="2026-11-24T09:00:00"), "zone"),
        ("a time past all calendars", changed(time="0001-01-01T00:00:00+14:00"), ""),
        ("an id that is none", changed(id="1"), "uuid"),
        ("another's key", changed(subject="d"), "subject"),
        ("the character NUL", changed(data=document["data"] | {"reply_id": "a\0b"}), "NUL"),
    ]


@pytest.mark.parametrize(("value", "reason"), [case[1:] for case in unreadable()], ids=[c[0] for c in unreadable()])
def test_what_cannot_be_read_is_quarantined_with_its_place_and_the_rest_goes_on(
    world: ByHand, value: bytes, reason: str
) -> None:
    events = talk("roads", "ann", "c")
    world.say(*events[:3])
    put(world, "c", value)
    world.say(*events[3:])
    batch = world.records()
    applied = world.store.apply(batch)
    assert (applied.records, applied.events, applied.quarantined) == (8, 7, 1)
    assert count(world.database, "feedback") == 4
    ((_, said),) = outbox(world.database, QUARANTINE)
    told = msgspec.json.decode(said)
    assert told["place"] == f"{CONVERSATIONS}-{batch[3].partition}@3"
    assert reason.lower() in told["reason"].lower()
    assert base64.b64decode(told["value_base64"]) == value
    assert told["bytes"] == len(value)
    assert world.store.positions() == {(CONVERSATIONS, batch[3].partition): 8}


def test_an_event_on_the_wrong_topic_or_under_a_foreign_key_is_quarantined(world: ByHand) -> None:
    tick = ClockTicked(domain="roads", at=AT)
    put(world, "roads", message(tick).value, CONVERSATIONS)
    put(world, "fields", message(tick).value, DOMAINS)
    assert world.store.apply(world.records()).quarantined == 2
    assert count(world.database, "events") == 0
    reasons = [msgspec.json.decode(value)["reason"] for _, value in outbox(world.database, QUARANTINE)]
    assert reasons == ["clock_ticked does not belong on this topic", "the record's key is not the event's"]


def test_the_words_in_an_unreadable_record_are_not_in_the_reason(world: ByHand) -> None:
    secret = "Der Hund heißt Waldemar"
    document = msgspec.json.decode(message(talk("roads", "ann", "c")[4]).value)
    document["data"]["rating"] = secret
    put(world, "c", msgspec.json.encode(document))
    world.follow()
    ((_, said),) = outbox(world.database, QUARANTINE)
    assert secret not in msgspec.json.decode(said)["reason"]


def test_what_is_too_large_to_be_repeated_is_named_by_its_place_only(world: ByHand) -> None:
    put(world, "c", b"x" * 400_001)
    world.follow()
    ((_, said),) = outbox(world.database, QUARANTINE)
    told = msgspec.json.decode(said)
    assert (told["bytes"], told["value_base64"]) == (400_001, None)


def test_what_follows_and_is_larger_than_an_event_may_be_is_named_and_holds_nobody_up(world: ByHand) -> None:
    world.say(created("roads"))
    asked, *drafts, picked, _, corrected, _ = talk("roads", "ann", "c")
    assert isinstance(asked, PromptAsked) and isinstance(corrected, ReplyCorrected)
    large = msgspec.structs.replace(sealed("ann"), jwe="e" * 600_000)
    world.say(
        msgspec.structs.replace(asked, messages=large), *drafts, msgspec.structs.replace(corrected, text=large), picked
    )
    world.settle()
    assert rows(world.database, "SELECT 1 FROM noria.examples") == []
    assert len(rows(world.database, "SELECT 1 FROM noria.preferences")) == 1, "what came after it is said"
    ((_, said),) = outbox(world.database, QUARANTINE)
    told = msgspec.json.decode(said)
    assert told["place"].startswith("noria.conversations-")
    assert re.search(r"example_accepted would have 1,2\d\d,\d+ bytes", told["reason"])


def test_more_unreadable_records_than_the_limit_stop_the_reader_and_nothing_is_written(world: ByHand) -> None:
    store = Store(world.database, invalid_per_minute=5)
    for number in range(6):
        put(world, "c", f"{number}".encode())
    batch = world.records()
    before = contents(world.database)
    with pytest.raises(TooManyInvalid, match="limit 5"):
        store.apply(batch)
    assert contents(world.database) == before
    assert store.apply(batch[:5]).quarantined == 5
    with pytest.raises(TooManyInvalid):  # those of the last minute count, whatever batch they came in
        store.apply(batch[5:])
    assert Store(world.database, invalid_per_minute=None).apply(batch[5:]).quarantined == 1


def test_an_operators_word_lets_past_as_much_as_it_says_and_what_is_let_past_counts_towards_no_limit(
    world: ByHand,
) -> None:
    store = Store(world.database, invalid_per_minute=5)
    events = talk("roads", "ann", "c")
    for number in range(20):
        put(world, "c", f"{number}".encode())
    world.say(*events)
    put(world, "c", b"one more")
    batch = world.records()
    place = (batch[0].topic, batch[0].partition)
    with pytest.raises(TooManyInvalid, match=rf"20 of them from {place[0]}-{place[1]}@0 on"):
        apply_when_available(store, world.log, batch[:20])
    _, stop = read_operations(world.log).stopped[place]
    assert (stop.first, stop.last, stop.unreadable) == (0, 27, 21), "what comes after it is told, too"
    say(world.log, SkipAllowed(topic=place[0], partition=place[1], to=10, by="ann"), "/test")
    with pytest.raises(TooManyInvalid, match=r"10 of them from .*@11 on"):
        apply_when_available(store, world.log, batch)
    assert store.positions() == {}
    say(world.log, SkipAllowed(topic=place[0], partition=place[1], to=19, by="ann"), "/test")
    apply_when_available(store, world.log, batch)
    assert len(outbox(world.database, QUARANTINE)) == 21
    assert count(world.database, "events") == len(events)
    for number in range(5):
        put(world, "c", f"after {number}".encode())
    with pytest.raises(TooManyInvalid, match="6 records within a minute"):  # the first twenty are not among them
        apply_when_available(Store(world.database, invalid_per_minute=5), world.log, world.records())
    report = verify(world.database, world.log)
    assert report.equal, report.differences


def test_where_the_stream_stands_still_is_said_once_although_it_tries_again_and_again(world: ByHand) -> None:
    for number in range(6):
        put(world, "c", f"{number}".encode())
    world.log.append([Message(OPERATIONS, "c", b"no operation")], 10)
    for _ in range(3):
        with pytest.raises(TooManyInvalid):
            apply_when_available(Store(world.database, invalid_per_minute=5), world.log, world.records())
    assert len(read_operations(world.log).said) == 1


def test_a_value_that_no_column_holds_is_quarantined_and_the_rest_of_its_batch_goes_on(world: ByHand) -> None:
    events = talk("roads", "ann", "c")
    asked = msgspec.structs.replace(events[0], prompt_id="too-late", release=2**40)  # type: ignore[arg-type]
    world.say(*events[:3], asked, *events[3:5])
    applied = world.store.apply(world.records())
    assert (applied.records, applied.events, applied.quarantined) == (6, 5, 1)
    ((_, said),) = outbox(world.database, QUARANTINE)
    told = msgspec.json.decode(said)
    assert told["place"].endswith("@3")
    assert told["reason"] == "Expected `int` <= 2147483647 - at `$.release`"


@contextmanager
def raising(database: Engine, code: str, where: str = "true") -> Iterator[None]:
    """PostgreSQL refuses rows of `noria.events` with that SQLSTATE."""
    change(
        database,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END$$",
    )
    change(
        database,
        f"CREATE TRIGGER refuse BEFORE INSERT ON noria.events FOR EACH ROW WHEN ({where}) EXECUTE FUNCTION refuse()",
    )
    try:
        yield
    finally:
        change(database, "DROP FUNCTION refuse CASCADE")


@pytest.mark.parametrize("code", ["53100", "40P01", "57014", "55P03"])
def test_a_full_disk_a_deadlock_or_a_timeout_is_waited_for_and_nothing_is_quarantined(world: ByHand, code: str) -> None:
    world.say(*talk("roads", "ann"))
    with raising(world.database, code):
        for _ in range(2):
            with pytest.raises(Unavailable):
                world.store.apply(world.records())
    assert world.store.apply(world.records()).events == 7
    assert outbox(world.database, QUARANTINE) == []


@pytest.mark.parametrize("code", ["54001", "22000"])
def test_one_record_that_goes_beyond_a_limit_is_quarantined_and_its_neighbours_take_effect(
    world: ByHand, code: str
) -> None:
    world.say(*talk("roads", "ann"))
    with raising(world.database, code, "NEW.type = 'reply_rated'"):
        applied = world.store.apply(world.records())
    assert (applied.events, applied.quarantined) == (6, 1)
    ((_, said),) = outbox(world.database, QUARANTINE)
    assert msgspec.json.decode(said)["reason"].startswith("the store cannot hold it")


def test_an_error_that_no_record_can_cause_stops_the_reader(world: ByHand) -> None:
    world.say(*talk("roads", "ann"))
    with raising(world.database, "42P01"), pytest.raises(psycopg2.Error):
        world.store.apply(world.records())
    assert world.store.positions() == {}


def test_two_writers_at_once_give_each_record_once(world: ByHand) -> None:
    for number in range(30):
        world.say(*talk("roads", f"person-{number % 5}"))
    batches: list[list[Record]] = []
    for record in world.records():
        if not batches or len(batches[-1]) == 12 or batches[-1][-1].partition != record.partition:
            batches.append([])
        batches[-1].append(record)
    applied: list[int] = []
    start = threading.Barrier(2)

    def write() -> None:
        store = Store(world.database)
        start.wait()
        for batch in batches:
            applied.append(store.apply(batch).records)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(applied) == 2 * len(batches)
    assert sum(applied) == 30 * 7
    assert count(world.database, "events") == 30 * 7
    assert count(world.database, "feedback") == 30 * 4
    assert len(outbox(world.database, DOMAINS)) == 30 * 2


def test_of_two_readers_in_turn_each_knows_what_the_other_took_in(world: ByHand) -> None:
    live_domain(world, "roads", corrections=100)
    world.settle()
    readers = [world.store, Store(world.database), Store(world.database)]
    for number in range(7):
        world.say(*talk("roads", f"person-{number % 2}"))
        world.store = readers[number % 3]
        world.settle()
    world.say(PersonErased(domain="roads", person="person-0", kids=("kid-of-person-0",), by="operator"))
    world.settle()
    world.store = readers[1]
    world.say(*talk("roads", "person-0"))
    world.settle()
    ((corrections, preferences, people),) = rows(
        world.database, "SELECT corrections, preferences, people FROM noria.domains WHERE domain = 'roads'"
    )
    kept = "SELECT kind, count(*), count(DISTINCT person) FROM noria.fresh GROUP BY kind ORDER BY kind"
    assert rows(world.database, kept) == [("correction", corrections, people), ("preference", preferences, people)]
    assert verify(world.database, world.log).equal


def test_postgresql_away_is_unavailable(world: ByHand) -> None:
    world.say(*talk("roads", "ann"))
    away = Store(open_database(f"postgresql://noria:secret@{LOOPBACK}:{free_port()}/noria"))
    with pytest.raises(Unavailable) as told:
        away.apply(world.records())
    assert "secret" not in str(told.value)
    with pytest.raises(Unavailable):
        away.positions()


def test_a_connection_that_is_cut_in_the_middle_is_unavailable_and_the_batch_can_be_given_again(
    world: ByHand, database_url: str
) -> None:
    world.say(*talk("roads", "ann"))
    batch = world.records()
    database = open_database(database_url)
    holder = psycopg2.connect(database_url)
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE noria.outbox")  # the writer's last table: it waits here with all else written
    raised: list[BaseException] = []

    def write() -> None:
        try:
            Store(database).apply(batch)
        except Unavailable as error:
            raised.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    waiting = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND relation = 'noria.outbox'::regclass"
    eventually(lambda: rows(world.database, waiting) or not writer.is_alive(), "the writer's connection is cut")
    writer.join()
    holder.close()
    assert len(raised) == 1
    assert count(world.database, "events") == 0 and world.store.positions() == {}
    assert Store(database).apply(batch).events == 7
    database.dispose()


def test_what_an_event_implies_is_written_in_the_transaction_of_its_cause(world: ByHand) -> None:
    events = talk("roads", "ann", "c-1")
    ids = [uuid4() for _ in events]
    cause, pick = ids[5], ids[3]
    events = [placed(event, id_) for event, id_ in zip(events, ids, strict=True)]
    sent = [message(event, id=id_) for event, id_ in zip(events, ids, strict=True)]
    world.log.append(sent, 10)
    world.follow()
    implied = [decode(value) for _, value in outbox(world.database, DOMAINS)]
    preference, example = implied
    assert isinstance(preference.event, PreferenceAccepted) and preference.causation_id == pick
    assert isinstance(example.event, ExampleAccepted) and example.causation_id == cause
    assert example.id == uuid5(cause, "example_accepted")
    assert isinstance(events[5], ReplyCorrected) and isinstance(events[0], PromptAsked)
    assert (example.event.answer, example.event.prompt) == (events[5].text, events[0].messages)
    made = rows(world.database, "SELECT DISTINCT o.xmin::text FROM noria.outbox o")
    effect = rows(world.database, "SELECT DISTINCT f.xmin::text FROM noria.feedback f")
    moved = rows(world.database, "SELECT DISTINCT p.xmin::text FROM noria.positions p")
    assert made == effect == moved and len(made) == 1


def test_an_order_is_implied_by_a_new_domain(world: ByHand) -> None:
    world.say(created("roads"))
    world.follow()
    ((message_id, value),) = outbox(world.database, ORDERS)
    order = decode_order(value)
    assert isinstance(order, SwapRelease)
    assert (order.domain, order.release, str(order.order_id)) == ("roads", 0, message_id)
    ((event_id,),) = rows(world.database, "SELECT event_id FROM noria.events")
    assert order.order_id == uuid5(UUID(str(event_id)), "swap_release")


def test_a_correction_of_what_was_never_said_stays_without_effect(world: ByHand) -> None:
    lost = ReplyCorrected(
        domain="roads",
        conversation_id="c-9",
        prompt_id="p",
        reply_id="r",
        person="ann",
        request_digest="d",
        text=sealed("ann"),
    )
    world.say(lost)
    world.follow()
    assert count(world.database, "feedback") == 1
    assert outbox(world.database, DOMAINS) == []


def test_one_reply_corrected_and_picked_three_times_counts_once_and_the_newest_is_in_force(world: ByHand) -> None:
    live_domain(world, "roads", corrections=2, preferences=2)
    events = talk("roads", "ann", "c")
    picked, corrected = events[3], events[5]
    assert isinstance(picked, DraftPicked) and isinstance(corrected, ReplyCorrected)
    newest = msgspec.structs.replace(corrected, text=sealed("ann, at last"))
    repicked = msgspec.structs.replace(picked, reply_id="c-r2")
    world.say(*events, corrected, picked, newest, repicked)
    world.settle()
    assert rows(world.database, "SELECT corrections, preferences, people FROM noria.domains") == [(1, 1, 1)]
    in_force = "SELECT answer ->> 'kid' FROM noria.examples WHERE retired_offset IS NULL"
    assert rows(world.database, in_force) == [("kid-of-ann, at last",)]
    chosen = "SELECT reply_id FROM noria.preferences p JOIN noria.replies r ON r.text = p.chosen"
    assert rows(world.database, chosen) == [("c-r2",)]
    world.say(*talk("roads", "bob"))
    world.settle()
    assert rows(world.database, "SELECT number FROM noria.rounds") == [(1,)]


def test_what_is_retired_stays_retired_as_it_was_first_and_only_in_its_own_domain(world: ByHand) -> None:
    live_domain(world, "roads", corrections=40)
    world.say(*talk("roads", "ann"))
    world.settle()
    ((example_id,),) = rows(world.database, "SELECT example_id FROM noria.examples")
    item = ExamItemAdded(domain="roads", item_id="item", kind="general", item=sealed("roads"), by="curator")
    once, again = [
        (
            ExampleRetired(domain="roads", example_id=str(example_id), reason=reason, by="ann"),
            ExamItemRetired(domain="roads", item_id="item", reason=reason, by="ann"),
        )
        for reason in ("first", "second")
    ]
    elsewhere = [msgspec.structs.replace(event, domain="rivers") for event in once]
    shown = "SELECT retired_reason FROM noria.examples UNION ALL SELECT retired_reason FROM noria.exam_items"
    world.say(item, *elsewhere)
    world.settle()
    assert rows(world.database, shown) == [(None,), (None,)]
    world.say(*once, *again)
    world.settle()
    assert rows(world.database, shown) == [("first",), ("first",)]
    world.say(PersonErased(domain="roads", person="ann", kids=("kid-of-ann",), by="ann"))
    world.settle()
    assert rows(world.database, shown) == [("first",), ("first",)]


def test_a_rollback_to_what_was_never_released_has_no_effect_and_stops_nothing(world: ByHand) -> None:
    live_domain(world, "roads", corrections=1)
    rolled = ReleaseRolledBack(domain="roads", release=0, to=4, order_id=uuid4(), flip_ms=1.0, ready_s=0.1)
    world.say(rolled, *talk("roads", "ann"))
    world.settle()
    world.work()
    assert rows(world.database, "SELECT live_release FROM noria.domains") == [(1,)]
    assert rows(world.database, "SELECT release, state FROM noria.releases ORDER BY release") == [
        (0, "retired"),
        (1, "live"),
    ]


def test_a_release_that_came_before_its_domain_stops_nothing(world: ByHand) -> None:
    early = ReleaseFinished(
        domain="roads", release=3, order_id=uuid4(), model="m", golden_difference=0.0, ready_s=0.1, flip_ms=1.0
    )
    world.say(early, created("roads"), policy("roads", corrections=1))
    world.say(*talk("roads", "ann"))
    world.settle()
    world.work()
    assert rows(world.database, "SELECT step FROM noria.rounds ORDER BY number") == [("released",)]


@pytest.mark.parametrize(
    "broken",
    [
        Policy(thresholds=Thresholds(days=1e12)),
        Policy(schedule=Schedule("never", "UTC")),
        Policy(budget_timezone="Atlantis/Poseidonis"),
    ],
    ids=["days past all calendars", "a schedule that is none", "a zone that is none"],
)
def test_a_policy_that_passed_the_door_by_and_could_not_be_acted_upon_is_quarantined(
    world: ByHand, broken: Policy
) -> None:
    live_domain(world, "roads", corrections=2)
    world.say(PolicySet(domain="roads", policy=broken, by="nobody"), *talk("roads", "ann"), *talk("roads", "bob"))
    world.settle()
    assert len(outbox(world.database, QUARANTINE)) == 1
    assert rows(world.database, "SELECT number FROM noria.rounds") == [(1,)]


def test_a_time_or_number_that_no_state_holds_is_quarantined(world: ByHand) -> None:
    live_domain(world, "roads", corrections=2)
    here = Policy(budget_timezone="America/Bogota", thresholds=Thresholds(corrections=2))
    finished = ReleaseFinished(
        domain="roads", release=2**70, order_id=uuid4(), model="m", golden_difference=0.0, ready_s=0.1, flip_ms=1.0
    )
    first_day = datetime(1, 1, 1, tzinfo=UTC)
    world.say(PolicySet(domain="roads", policy=here, by="curator"), ClockTicked(domain="roads", at=first_day), finished)
    world.say(*talk("roads", "ann"), *talk("roads", "bob"))
    world.settle()
    reasons = [msgspec.json.decode(value)["reason"] for _, value in outbox(world.database, QUARANTINE)]
    assert reasons == ["at is not from 1970 to 8999", "Expected `int` <= 2147483647 - at `$.release`"]
    assert rows(world.database, "SELECT number FROM noria.rounds") == [(1,)]


@pytest.mark.parametrize("batch", [1, 100])
def test_what_is_quarantined_does_not_depend_on_how_the_records_were_batched(world: ByHand, batch: int) -> None:
    live_domain(world, "roads", corrections=2)
    before = world.store.positions()
    endless = Thresholds(corrections=2**64)
    world.say(PolicySet(domain="roads", policy=Policy(thresholds=endless), by="nobody"), policy("roads", corrections=3))
    asked, *rest = talk("roads", "ann", "c")
    too_long = "".join(f"{number}" for number in range(3000))  # for an index
    world.say(msgspec.structs.replace(asked, prompt_id=too_long))  # type: ignore[arg-type]
    world.say(msgspec.structs.replace(asked, prompt_id="early", release=2**31), asked, *rest)  # type: ignore[arg-type]
    fresh = world.records(since=before)
    for start in range(0, len(fresh), batch):
        world.store.apply(fresh[start : start + batch])
    reasons = [msgspec.json.decode(value)["reason"] for _, value in outbox(world.database, QUARANTINE)]
    assert sorted(reasons) == [
        "Expected `int` <= 2147483647 - at `$.release`",
        "a number of it is larger than any state can hold",
        "the store cannot hold it: ProgramLimitExceeded",
    ]
    report = verify(world.database, world.log)
    assert report.equal, report.differences
