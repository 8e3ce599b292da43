"""Engines and routes are what the log says, whatever became of them: by another look, and by as many reconcilers as there are."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine

from streams.cluster import Cluster
from streams.errors import Unavailable
from streams.events import ORDERS
from streams.log import KafkaLog
from streams.sealing import Keyring
from tests.door_world import make_settings
from tests.integration.by_hand import change, empty, rows
from tests.integration.swaps import (
    GoldenEngine,
    caught_up,
    close_all,
    door,
    host_says,
    order_for,
    released,
    route,
    run_with_host,
    told,
    wanted,
)
from workers import reconciler, swapper
from workers.context import Context
from workers.reconciler import Reconciler
from workers.routes import point


@pytest.fixture(scope="module")
def log(empty_log: Cluster) -> Iterator[KafkaLog]:
    log = KafkaLog(empty_log, "test-reconciler")
    yield log
    log.close()


@pytest.fixture
def context(database: Engine, log: KafkaLog, keyring: Keyring, tmp_path: Path, empty_log: Cluster) -> Context:
    empty(database)
    return Context(make_settings(tmp_path, empty_log, "unused"), database, log, keyring, "swapper-1")


@pytest.fixture
def engine() -> Iterator[GoldenEngine]:
    made = GoldenEngine()
    yield made
    made.stop()


@pytest.fixture
def level(context: Context) -> Reconciler:
    return Reconciler(context)


@pytest.fixture
def two(context: Context, engine: GoldenEngine, tmp_path: Path) -> Context:
    """Release 1 answers, release 0 is warm, and both are what the log says."""
    for release in (0, 1):
        order = order_for(context, tmp_path, release=release)
        run_with_host(context, order, engine)
        released(context, order)
    return context


def test_a_route_that_was_moved_by_an_order_that_was_then_given_up_comes_back_to_what_is_live(
    context: Context, engine: GoldenEngine, level: Reconciler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapper, "DOOR_SILENT_S", 0.2)
    monkeypatch.setattr(reconciler, "CAUGHT_UP_WITHIN_S", 0.0)
    first = order_for(context, tmp_path, release=0)
    run_with_host(context, first, engine)
    released(context, first)
    door(context, "slow", 1)
    with pytest.raises(Unavailable, match="did not take up"):
        run_with_host(context, order_for(context, tmp_path, release=1), engine)
    caught_up(context)
    change(context.database, "INSERT INTO work.intake (topic, partition, next_offset) VALUES (:t, 0, 0)", t=ORDERS)
    context.intake.take_in()
    assert context.intake.known and level.step() == ()
    assert route(context) == (1, "roads@1", 2), "while its order is open, it decides"
    close_all(context)
    change(context.database, "UPDATE noria.positions SET next_offset = 0")
    assert level.step() == ()
    assert route(context) == (1, "roads@1", 2), "the tables may not know yet what the order has told"
    caught_up(context)
    assert level.step()
    assert route(context) == (0, "roads@0", 3)
    assert level.step() == ()


def test_when_engines_and_routes_were_lost_the_release_that_the_log_names_answers_again(
    context: Context, engine: GoldenEngine, level: Reconciler, tmp_path: Path
) -> None:
    order = order_for(context, tmp_path, release=3)
    released(context, order)
    level.step()
    assert wanted(context) == {"roads@3": True} and route(context) is None
    host_says(context, order, "ready", engine)
    level.step()
    assert route(context) == (3, "roads@3", 1)
    assert told(context, order) == [], "nothing has happened that the log does not know"


def test_the_release_before_stays_warm_and_an_older_one_stops_once_nothing_is_in_flight_there(
    two: Context, engine: GoldenEngine, level: Reconciler, tmp_path: Path
) -> None:
    order = order_for(two, tmp_path, release=2)
    run_with_host(two, order, engine)
    released(two, order)
    door(two, "busy", 3, in_flight='{"roads@0": 2}')
    assert level.step() == ()
    door(two, "busy", 2, in_flight="{}")
    assert level.step() == (), "it still sends to another"
    assert wanted(two) == {"roads@0": True, "roads@1": True, "roads@2": True}
    door(two, "busy", 3, in_flight='{"roads@0": 0, "roads@2": 1}')
    assert level.step()
    assert wanted(two) == {"roads@0": False, "roads@1": True, "roads@2": True}
    assert level.step() == ()


@pytest.mark.parametrize(
    "by_hand",
    [
        "UPDATE work.routes SET release = 0, engine_id = 'roads@0'",
        "UPDATE work.routes SET release = 0, engine_id = 'roads@0', decided_offset = 1000000, generation = 50",
        "UPDATE work.routes SET decided_offset = 1000000",  # no order would move it any more
        "DELETE FROM work.routes",
    ],
)
def test_a_route_that_was_changed_or_deleted_by_hand_is_what_the_log_says_again(
    two: Context, level: Reconciler, by_hand: str
) -> None:
    before = rows(two.database, "SELECT release, engine_id, decided_offset FROM work.routes")
    assert level.step() == ()
    change(two.database, by_hand)
    level.step()
    assert rows(two.database, "SELECT release, engine_id, decided_offset FROM work.routes") == before
    assert level.step() == ()


def test_an_engine_whose_row_was_deleted_by_hand_is_wanted_again(two: Context, level: Reconciler) -> None:
    change(two.database, "DELETE FROM work.engines WHERE engine_id = 'roads@0'")
    level.step()
    assert wanted(two) == {"roads@0": True, "roads@1": True}, "the one that a rollback goes to"
    change(two.database, "TRUNCATE work.engines CASCADE")
    level.step()
    assert wanted(two) == {"roads@0": True, "roads@1": True} and route(two) is None
    change(two.database, "UPDATE work.engines SET state = 'ready'")
    level.step()
    assert route(two) == (1, "roads@1", 1)


def test_a_retired_domain_is_closed_and_its_engines_end(two: Context, level: Reconciler) -> None:
    change(two.database, "UPDATE noria.domains SET retired_at = now()")
    door(two, "knows", 2, in_flight='{"roads@1": 1}')
    level.step()
    assert route(two) is None and wanted(two) == {"roads@0": False, "roads@1": True}, "it answers somebody"
    change(two.database, "UPDATE work.doors SET generations = '{}', in_flight = '{}'")
    level.step()
    assert wanted(two) == {"roads@0": False, "roads@1": False}
    assert level.step() == ()


def test_a_reconciler_that_was_paused_after_its_look_undoes_nothing(two: Context, level: Reconciler) -> None:
    """What it saw is old by then: an order has moved the route, and wants the engine that was wanted no more."""
    change(two.database, "UPDATE work.routes SET release = 0, engine_id = 'roads@0'")
    late = level._look()
    with two.database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE work.routes SET release = 2, engine_id = 'roads@1', decided_offset = 99, generation = generation + 1"
        )
    for amend in late:
        level._carry_out(amend)
    assert route(two) == (2, "roads@1", 3)
    change(two.database, "DELETE FROM noria.events")
    change(two.database, "UPDATE work.routes SET release = 1, generation = 2")
    (unwanted,) = [amend for amend in level._look() if isinstance(amend, reconciler.Unwant)]
    change(two.database, "UPDATE work.engines SET wanted = true WHERE engine_id = 'roads@0'")  # an order asks for it
    level._carry_out(unwanted)
    assert wanted(two) == {"roads@0": True, "roads@1": True}


def test_a_route_that_was_lost_and_made_anew_under_the_same_number_is_not_the_one_that_was_seen(
    two: Context, level: Reconciler
) -> None:
    change(two.database, "UPDATE work.routes SET release = 0, engine_id = 'roads@0'")
    late = level._look()
    change(two.database, "UPDATE work.routes SET release = 2, engine_id = 'roads@1', decided_offset = 99")
    for amend in late:
        level._carry_out(amend)
    assert route(two) == (2, "roads@1", 2)


def test_two_reconcilers_at_once_end_where_one_does(two: Context, tmp_path: Path) -> None:
    change(two.database, "UPDATE work.routes SET release = 0, engine_id = 'roads@0'")
    both = [Reconciler(replace_context(two, f"host-{number}")) for number in range(2)]
    meet = threading.Barrier(2)

    def run(one: Reconciler) -> None:
        meet.wait()
        one.step()

    threads = [threading.Thread(target=run, args=(one,)) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert route(two) == (1, "roads@1", 3), "moved once"
    assert [one.step() for one in both] == [(), ()]


def replace_context(context: Context, host: str) -> Context:
    """The same work on another host."""
    settings = replace(context.settings, host=host)
    return Context(settings, context.database, context.log, context.keyring, f"{host}-1")


def test_a_route_that_is_not_there_is_made_by_one_and_kept_by_the_other(two: Context) -> None:
    change(two.database, "DELETE FROM work.routes")
    with two.database.begin() as connection:
        assert point(connection, "roads", 1, "roads@1", 2, None)
        assert not point(connection, "roads", 0, "roads@0", 1, None)
    assert route(two) == (1, "roads@1", 1)
