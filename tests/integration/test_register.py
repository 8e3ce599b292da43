"""The register of places: what workers computed from a person's words goes when that person is erased, and it is told."""

import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine

from deploy.ports import LOOPBACK, free_port
from streams.cluster import Cluster
from streams.codec import decode
from streams.errors import Unavailable
from streams.events import DOMAINS
from streams.facts.people import PersonErased, PlacesPurged
from streams.log import KafkaLog, Log, MemoryLog
from streams.orders import PurgePlaces
from streams.sealing import Keyring
from streams.store import open_database
from tests.door_world import make_settings
from tests.integration.by_hand import ByHand, change, empty, order_message, rows
from tests.waiting import PATIENCE_S
from workers.context import Context
from workers.loop import STEPS, steps, work_once
from workers.register import TRAINING_FOLDER, purge, register, run, strike, sweep

HERE = "this-host"


@pytest.fixture(scope="module")
def log(empty_log: Cluster) -> Iterator[KafkaLog]:
    log = KafkaLog(empty_log, "test-register")
    yield log
    log.close()


@pytest.fixture
def database(database: Engine) -> Engine:
    empty(database)
    return database


def folder(database: Engine, root: Path, name: str, *kids: str, kind: str = "training") -> Path:
    """A place with something in it."""
    place = root / name
    register(database, HERE, kind, str(place), f"order-{name}", kids)
    (place / "checkpoint").mkdir(parents=True)
    (place / "checkpoint" / "adapter.safetensors").write_bytes(b"computed from words")
    return place


def registered(database: Engine) -> list[str]:
    return [Path(str(row[0])).name for row in rows(database, "SELECT place FROM work.places ORDER BY place")]


def purged(log: Log, order_id: UUID) -> list[PlacesPurged]:
    found = []
    for partition, end in log.ends(DOMAINS).items():
        for record in log.read(DOMAINS, partition, 0, end):
            event = decode(record.value).event
            if isinstance(event, PlacesPurged) and event.order_id == order_id:
                found.append(event)
    return found


def test_a_place_is_on_the_register_with_its_keys_until_it_is_struck(database: Engine, tmp_path: Path) -> None:
    place = folder(database, tmp_path, "one", "k1", "k2")
    assert rows(database, "SELECT place, kind, owner, kids FROM work.places") == [
        (str(place), "training", "order-one", ["k1", "k2"])
    ]
    strike(database, HERE, str(place))
    assert not place.exists() and registered(database) == []
    strike(database, HERE, str(place))  # a repeated order strikes again


def test_a_place_that_is_registered_again_holds_what_was_said_last(database: Engine, tmp_path: Path) -> None:
    register(database, HERE, "training", str(tmp_path / "one"), "first", ["k1"])
    register(database, HERE, "training", str(tmp_path / "one"), "second", ["k2", "k3"])
    assert rows(database, "SELECT owner, kids FROM work.places") == [("second", ["k2", "k3"])]


def test_of_an_erased_person_every_place_goes_and_of_others_none(database: Engine, tmp_path: Path) -> None:
    theirs = [
        folder(database, tmp_path, "a", "ann-1", "bob-1"),
        folder(database, tmp_path, "b", "ann-2"),
        folder(database, tmp_path, "c", "bob-1", "ann-1", kind="exam"),
    ]
    others = [folder(database, tmp_path, "d", "bob-1"), folder(database, tmp_path, "e")]
    assert purge(database, HERE, ["ann-1", "ann-2"]) == {"training": 2, "exam": 1}
    assert not any(place.exists() for place in theirs)
    assert all((place / "checkpoint" / "adapter.safetensors").exists() for place in others)
    assert registered(database) == ["d", "e"]
    assert purge(database, HERE, ["ann-1", "ann-2"]) == {}


def test_a_place_on_another_host_is_removed_there_and_only_then_the_purge_is_told(
    database: Engine, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both hosts call the folder alike; here there is one with that name, and it is another's."""
    monkeypatch.setattr("workers.register.OTHERS_WITHIN_S", 0.0)
    keyring.key_for("person:ann")
    ((kid,),) = rows(database, "SELECT kid FROM keyring.person_keys")
    place = folder(database, tmp_path / "training", "round-1", "k1")
    register(database, "other-host", TRAINING_FOLDER, str(place), "round-1", [str(kid)])
    settings, log = replace(make_settings(tmp_path, Cluster(servers="unused"), "unused"), host=HERE), MemoryLog()
    context = Context(settings, database, log, keyring, "worker-1")
    order = PurgePlaces(order_id=uuid4(), domain="roads", person="ann", kids=(str(kid),))
    with pytest.raises(Unavailable, match="something of theirs is left on other-host"):
        run(order, context)
    assert place.exists() and purged(log, order.order_id) == []
    change(database, "UPDATE keyring.person_keys SET destroyed_at = now()")
    sweep(database, HERE, tmp_path / "none")
    assert place.exists() and len(registered(database)) == 2, "neither is this host's to remove"
    there = tmp_path / "elsewhere"  # what the other host finds under that name
    change(database, "UPDATE work.places SET place = :p WHERE host = 'other-host'", p=str(there))
    there.mkdir()
    sweep(database, "other-host", tmp_path / "none")
    assert not there.exists() and place.exists() and registered(database) == ["round-1"]
    run(order, context)
    assert [event.places for event in purged(log, order.order_id)] == [{}]


def test_a_place_that_was_registered_and_never_made_goes_from_the_register(database: Engine, tmp_path: Path) -> None:
    register(database, HERE, "training", str(tmp_path / "never"), "order", ["k1"])
    assert purge(database, HERE, ["k1"]) == {"training": 1}
    assert registered(database) == []


def test_a_person_without_keys_touches_nothing(database: Engine, tmp_path: Path) -> None:
    place = folder(database, tmp_path, "one", "k1")
    assert purge(database, HERE, []) == purge(database, HERE, ["k2"]) == {}
    assert place.exists()


def test_the_step_purges_and_tells_how_many_of_each_kind(
    database: Engine, log: KafkaLog, keyring: Keyring, tmp_path: Path, empty_log: Cluster
) -> None:
    settings = replace(make_settings(tmp_path, empty_log, "unused"), host=HERE)
    context = Context(settings, database, log, keyring, "worker-1")
    gone = [folder(database, tmp_path, name, "k1") for name in ("a", "b")]
    stays = folder(database, tmp_path, "c", "k2")
    order = PurgePlaces(order_id=uuid4(), domain="roads", person="ann", kids=("k1",))
    log.append([order_message(order)], PATIENCE_S)
    assert work_once(context, steps(["purge"]), threading.Event())
    assert not any(place.exists() for place in gone) and stays.exists()
    expected = PlacesPurged(domain="roads", person="ann", order_id=order.order_id, places={"training": 2})
    assert purged(log, order.order_id) == [expected]
    assert rows(database, "SELECT state FROM work.claims") == [("done",)]


def test_an_erasure_on_the_log_leads_to_the_purge(
    database: Engine, keyring: Keyring, tmp_path: Path, empty_log: Cluster
) -> None:
    world = ByHand(database, MemoryLog())
    place = folder(database, tmp_path, "one", "k1")
    world.say(PersonErased(domain="roads", person="ann", kids=("k1", "k0"), by="operator"))
    world.settle()
    settings = replace(make_settings(tmp_path, empty_log, "unused"), host=HERE)
    context = Context(settings, database, world.log, keyring, "worker-1")
    assert STEPS["purge_places"][0] == "purge"
    assert work_once(context, steps(["purge"]), threading.Event())
    assert not place.exists()
    world.settle()
    assert rows(database, "SELECT type FROM noria.events ORDER BY type") == [("person_erased",), ("places_purged",)]
    assert not work_once(context, steps(["purge"]), threading.Event())


def test_without_postgresql_nothing_is_written_where_nobody_would_find_it(tmp_path: Path) -> None:
    away = open_database(f"postgresql://noria:x@{LOOPBACK}:{free_port()}/noria")
    with pytest.raises(Unavailable):
        register(away, HERE, "training", str(tmp_path / "one"), "order", ["k1"])
    with pytest.raises(Unavailable):
        purge(away, HERE, ["k1"])
