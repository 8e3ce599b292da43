"""Tables that other code made are rebuilt from the log and put in their place: nothing is lost, doubled or said anew meanwhile."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Engine, Text

from migrations.roles import grant, url_of
from streams import upgrade as module
from streams import versions
from streams.cluster import Cluster
from streams.connections import DOOR
from streams.errors import Invalid
from streams.facts import conversations
from streams.log import KafkaLog, MemoryLog
from streams.replay import verify
from streams.tables import LIVE, projections
from streams.upgrade import upgrade, wanted
from streams.versions import OtherVersion
from streams.writes import Insert, Write
from tests import door_world
from tests.door_world import World
from tests.integration.by_hand import ByHand, change, empty, live_domain, rows, story, talk
from tests.integration.conftest import eventually
from tests.integration.test_roles import HELD

ROOT = Path(__file__).parents[2]


def made_anew(database: Engine) -> None:
    """The tables of this code, empty."""
    empty(database)
    upgrade(database, MemoryLog)


@pytest.fixture
def world(database: Engine) -> ByHand:
    made_anew(database)
    return ByHand(database, MemoryLog())


@pytest.fixture
def colour() -> Iterator[str]:
    """A column that the table of replies has from now on."""
    table = projections.tables[f"{LIVE}.replies"]
    column: Column[Any] = Column("colour", Text, nullable=True)
    table.append_column(column)
    yield "colour"
    table._columns.remove(column)


def bump(monkeypatch: pytest.MonkeyPatch, name: str = "domain") -> None:
    monkeypatch.setitem(versions.STATES, name, versions.STATES[name] + 1)


def outbox(database: Engine) -> list[tuple[object, ...]]:
    return rows(database, "SELECT message_id, topic, key, value::text, made_at, sent_at FROM noria.outbox ORDER BY id")


def as_the_code_says(database: Engine) -> bool:
    options = {"include_schemas": True, "include_name": lambda name, kind, _: kind != "schema" or name == LIVE}
    with database.connect() as connection:
        connection.exec_driver_sql("SET search_path TO public")  # the user is called as the schema is
        connection.dialect.default_schema_name = "public"
        return not compare_metadata(MigrationContext.configure(connection, opts=options), projections)


def test_a_new_column_and_a_new_fold_fill_themselves_from_old_events(
    world: ByHand, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    story(world, "roads", ["ann", "bob"], talks=8)
    before = outbox(world.database)
    assert before and wanted(world.database) == []
    colour = request.getfixturevalue("colour")
    rows_of = conversations.rows

    def painted(*given: Any) -> list[Write]:
        found = rows_of(*given)
        return [Insert(w.table, w.row | {colour: "red"}) if w.table == "replies" else w for w in found]  # type: ignore[union-attr]

    monkeypatch.setattr(conversations, "rows", painted)
    assert wanted(world.database) == ["replies"] and not as_the_code_says(world.database)
    done = upgrade(world.database, lambda: world.log)
    assert done is not None and done.records == sum(world.store.positions().values())
    assert rows(world.database, "SELECT DISTINCT colour FROM noria.replies") == [("red",)]
    assert as_the_code_says(world.database) and wanted(world.database) == []
    assert outbox(world.database) == before
    assert upgrade(world.database, lambda: world.log) is None
    world = ByHand(world.database, world.log)
    world.say(*talk("roads", "cem"))
    world.settle()
    assert verify(world.database, world.log).equal


def test_what_comes_while_it_is_rebuilt_is_neither_lost_nor_doubled_and_the_older_stream_stops_then(
    world: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_domain(world, "roads", corrections=2)
    world.say(*talk("roads", "ann"))
    world.settle()
    bump(monkeypatch)
    came: list[int] = []

    def meanwhile(done: int, total: int) -> None:
        world.say(*talk("roads", "bob"))
        world.settle()
        world.say(*talk("roads", "cem"))  # stands on the log, and is not applied
        came.append(total)

    assert upgrade(world.database, lambda: world.log, meanwhile) is not None and came
    with pytest.raises(OtherVersion, match="domain differ"):
        world.follow()
    newer = ByHand(world.database, world.log)
    newer.settle()
    newer.work()
    assert verify(world.database, world.log).equal
    ids = rows(world.database, "SELECT count(*), count(DISTINCT prompt_id) FROM noria.prompts")
    assert ids == [(1 + 2 * len(came),) * 2]


@pytest.mark.parametrize("short", [0, 2_000])
def test_what_comes_in_the_last_moment_is_taken_in_too(
    world: ByHand, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    live_domain(world, "roads", corrections=2)
    bump(monkeypatch)
    hold, came = module._hold, list[str]()

    def late(connection: Connection) -> None:
        if not came:
            came.append("once")
            world.say(*talk("roads", "bob"))
            world.settle()
        hold(connection)

    monkeypatch.setattr(module, "_hold", late)
    monkeypatch.setattr(module, "SHORT", short)
    assert upgrade(world.database, lambda: world.log) is not None and came
    assert rows(world.database, "SELECT count(*) FROM noria.prompts") == [(1,)]
    assert verify(world.database, world.log).equal


def test_rights_go_over_to_the_new_tables(
    world: ByHand, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(database_url, tmp_path / "roles.json")

    def held() -> list[tuple[object, ...]]:
        return rows(world.database, HELD.replace("%s", "ARRAY['noria']") + " ORDER BY 1, 2, 3")

    before = held()
    live_domain(world, "roads")
    bump(monkeypatch)
    upgrade(world.database, lambda: world.log)
    assert held() == before and any(row[2] == DOOR for row in before)
    connection = psycopg2.connect(url_of(DOOR, database_url, tmp_path / "roles.json"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT domain FROM noria.domains")
        assert cursor.fetchall() == [("roads",)]
    connection.close()


def test_tables_that_hold_what_the_log_lacks_are_left_as_they_are(
    world: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_domain(world, "roads")
    change(
        world.database,
        "INSERT INTO noria.events SELECT 'another', topic, partition, 99, type, time, source, key, domain, person,"
        " correlation_id, causation_id FROM noria.events LIMIT 1",
    )
    bump(monkeypatch)
    with pytest.raises(Invalid, match=r"of the live tables \d+ did"):
        upgrade(world.database, lambda: world.log)
    assert wanted(world.database) == ["state domain"]
    assert rows(world.database, "SELECT count(*) FROM noria.events WHERE event_id = 'another'") == [(1,)]


@pytest.fixture
def world_of_door(empty_log: Cluster, database: Engine, database_url: str, tmp_path: Path) -> Iterator[World]:
    made_anew(database)
    with door_world.running(empty_log, database_url, tmp_path) as running:
        yield running


def read_again_and_again(read: Callable[[], object]) -> tuple[threading.Event, list[object], threading.Thread]:
    stop, found = threading.Event(), list[object]()

    def loop() -> None:
        while not stop.is_set():
            try:
                found.append(read())
            except Exception as error:
                found.append(repr(error))

    thread = threading.Thread(target=loop)
    thread.start()
    return stop, found, thread


def migrate(database_url: str, world: World) -> "subprocess.Popen[str]":
    environ = os.environ | {
        "NORIA_HOME": str(world.settings.home),
        **world.kafka.environ(),
        "NORIA_DATABASE_URL": database_url,
        "NORIA_DOOR": world.door_url,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "migrations"],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_half_way_it_begins_again_and_the_door_is_read_all_along(
    world_of_door: World, database_url: str
) -> None:
    world = world_of_door
    domain = world.domain()
    world.following.clear()
    database = world.database
    change(database, 'COMMENT ON SCHEMA noria IS \'{"domains": "0"}\'')
    expected = world.as_data.get(f"/v1/domains/{domain}").json()
    stop, answers, thread = read_again_and_again(
        lambda: (found := world.as_data.get(f"/v1/domains/{domain}")).status_code == 200 and found.json()
    )
    try:
        holder = psycopg2.connect(database_url)
        with holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtext('noria.positions.noria'))")
        holder.commit()
        first = migrate(database_url, world)
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

        def waiting() -> bool:
            assert first.poll() is None, first.communicate()
            return rows(database, waits) != [(0,)]

        eventually(waiting, "the rebuilt tables wait to be put in their place")
        first.send_signal(signal.SIGKILL)
        first.communicate()
        holder.close()
        assert rows(database, "SELECT count(*) > 0 FROM noria_shadow.events") == [(True,)]
        assert wanted(database) != []
        second = migrate(database_url, world)
        said, _ = second.communicate()
        assert second.returncode == 0 and "made anew, from" in said, said
        read = len(answers)
        eventually(lambda: len(answers) > read + 2, "the door is read after it")
    finally:
        stop.set()
        thread.join()
    assert wanted(database) == []
    assert answers == [expected] * len(answers)
    assert rows(database, "SELECT to_regnamespace('noria_before')::text") == [(None,)]
    log = KafkaLog(world.kafka, "test-upgrade")
    world.following.set()
    assert verify(database, log).equal
    log.close()
