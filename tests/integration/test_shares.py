"""No process has more of PostgreSQL than its share: who waits too long for it is told so, and what may last is not cut."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic

import psycopg2
import pytest
from sqlalchemy import Engine, text

from streams.connections import SHARES, Share
from streams.erasures import vacuum_keyring
from streams.errors import Unavailable
from streams.store import open_database, postgres_trouble
from tests.door_world import World, wait_until


@pytest.fixture
def hasty(database_url: str) -> Iterator[Engine]:
    database = open_database(database_url, Share(pool=1, wait_s=0.2, statement_s=1, lock_s=1, idle_in_transaction_s=1))
    yield database
    database.dispose()


def test_a_statement_that_takes_too_long_is_unavailable_and_named(hasty: Engine) -> None:
    with pytest.raises(Unavailable, match="statement_timeout"), postgres_trouble(), hasty.connect() as connection:
        connection.execute(text("SELECT pg_sleep(600)"))  # which ends by itself without an error
    with hasty.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_a_lock_that_is_not_given_in_time_is_unavailable_and_named(database: Engine, hasty: Engine) -> None:
    with database.begin() as holder:
        holder.execute(text("LOCK TABLE noria.positions"))
        with pytest.raises(Unavailable, match="lock_timeout"), postgres_trouble(), hasty.connect() as connection:
            connection.execute(text("SET statement_timeout = 0"))
            connection.execute(text("SELECT count(*) FROM noria.positions"))


def test_who_does_nothing_in_a_transaction_is_put_out_of_it(database: Engine, hasty: Engine) -> None:
    with pytest.raises(Unavailable), postgres_trouble(), hasty.connect() as connection:
        (pid,) = connection.execute(text("SELECT pg_backend_pid()")).one()

        def gone() -> bool:
            with database.connect() as other:
                asked = other.execute(text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid})
                return asked.scalar_one() == 0

        wait_until(gone, what="the end of the idle transaction")
        connection.execute(text("SELECT 1"))


def test_a_pool_that_is_all_in_use_is_unavailable_and_not_a_hang(hasty: Engine) -> None:
    with (
        hasty.connect(),
        pytest.raises(Unavailable, match="every connection to PostgreSQL is in use"),
        postgres_trouble(),
        hasty.connect(),
    ):
        pass


def test_the_vacuum_after_an_erasure_takes_as_long_as_it_takes(database_url: str, database: Engine) -> None:
    narrow = open_database(database_url, Share(pool=1, statement_s=1))
    holder = psycopg2.connect(database_url)
    holder.cursor().execute("LOCK TABLE keyring.person_keys IN SHARE UPDATE EXCLUSIVE MODE")
    failed: list[BaseException] = []

    def vacuum() -> None:
        try:
            vacuum_keyring(narrow)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=vacuum)
    thread.start()
    beyond = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'VACUUM keyring%' AND state = 'active'"
        " AND now() - query_start > interval '1500 ms'"
    )

    def waits() -> bool:
        with database.connect() as connection:
            return bool(connection.execute(text(beyond)).scalar_one()) or not thread.is_alive()

    try:
        wait_until(waits, what="a vacuum beyond the limit")
    finally:
        holder.close()
        thread.join()
    assert not failed
    with narrow.connect() as connection:  # and all else is as it was
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "1s"
    narrow.dispose()


def test_the_door_answers_503_when_all_its_connections_are_in_use_and_goes_on_after(world: World) -> None:
    database = world.services.database
    assert world.as_operator.get("/v1/domains").status_code == 200
    with ExitStack() as held:
        wait_until(lambda: database.pool.checkedout() == 0, what="a door that asks nothing")  # type: ignore[attr-defined]
        for _ in range(SHARES["door"].pool):
            held.enter_context(database.connect())
        began = monotonic()
        refused = world.as_operator.get("/v1/domains")
        took_s = monotonic() - began
    assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1, refused.text
    assert SHARES["door"].wait_s <= took_s < 60  # and no hang
    assert world.as_operator.get("/v1/domains").status_code == 200


def test_every_connection_of_the_door_has_the_limits_of_the_door(world: World) -> None:
    with world.services.database.connect() as connection:
        settings = "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone"
        found = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in settings]
    assert found == ["10s", "5s", "1min", "UTC"]
