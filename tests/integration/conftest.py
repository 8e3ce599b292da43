"""One real Kafka and one real PostgreSQL a session; each module gets a database of its own and an empty log."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
from alembic import command
from kafka.admin import KafkaAdminClient
from sqlalchemy import Engine

from deploy import kafka, postgres
from deploy.ports import free_port
from migrations.__main__ import config_for
from streams.cluster import Cluster
from streams.log import KafkaLog, MemoryLog
from streams.sealing import Keyring, MasterKey
from streams.store import open_database
from streams.topics import TOPICS, create_topics
from streams.upgrade import upgrade
from tests import door_world
from tests.door_world import World
from tests.waiting import PATIENCE_S, wait_until

eventually = wait_until


def side_by_side(check: Callable[..., None], cases: Iterable[Sequence[object]]) -> None:
    """Check every case at the same time: each waits, and takes no processor."""
    cases = list(cases)
    with ThreadPoolExecutor(len(cases)) as pool:
        for done in [pool.submit(check, *case) for case in cases]:
            done.result()


@pytest.fixture(scope="session")
def kafka_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of everything that the broker writes."""
    return tmp_path_factory.mktemp("kafka")


@pytest.fixture(scope="session")
def cluster(kafka_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    password = kafka.made_password(tmp_path_factory.mktemp("keys") / "kafka.password")
    found = kafka.cluster(free_port(), password)
    with started([sys.executable, *kafka.argv(kafka_data, found)]):
        eventually(KafkaLog(found, "test").answers, "Kafka answers")
        yield found


@pytest.fixture(scope="session")
def postgres_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of everything that PostgreSQL writes."""
    return tmp_path_factory.mktemp("postgres")


@pytest.fixture(scope="session")
def postgres_server(postgres_data: Path) -> Iterator[str]:
    """The URL of the server's maintenance database."""
    data, port = postgres_data, free_port()
    with started([sys.executable, "-m", "deploy.postgres", "--data", str(data), "--port", str(port)]):
        eventually(lambda: psycopg2.connect(postgres.url(data, port)).close() is None, "PostgreSQL answers")
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):  # no machine loses its power here
            _execute(postgres.url(data, port), f"ALTER SYSTEM SET {setting} = off")
        _execute(postgres.url(data, port), "SELECT pg_reload_conf()")
        yield postgres.url(data, port)


@pytest.fixture(scope="session")
def newest(postgres_server: str) -> str:
    """The name of a database at the newest revision, which is only copied."""
    _execute(postgres_server, "CREATE DATABASE newest")
    url = postgres_server.rpartition("/")[0] + "/newest"
    command.upgrade(config_for(url), "head")
    database = open_database(url)
    upgrade(database, MemoryLog)  # the projections, of which nothing is read yet
    database.dispose()
    return "newest"


@pytest.fixture(scope="module")
def database_url(postgres_server: str, newest: str) -> Iterator[str]:
    """A fresh database, migrated to the newest revision."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    _execute(postgres_server, f"CREATE DATABASE {name} TEMPLATE {newest}")
    yield postgres_server.rpartition("/")[0] + f"/{name}"
    _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    database = open_database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def keyring(database: Engine, tmp_path: Path) -> Keyring:
    return Keyring(database, MasterKey.made(tmp_path / "master.key"))


@pytest.fixture(scope="module")
def empty_log(cluster: Cluster) -> Cluster:
    """The broker, its topics made anew."""
    make_anew(cluster)
    return cluster


def make_anew(cluster: Cluster, names: Sequence[str] = tuple(topic.name for topic in TOPICS)) -> None:
    """Remove these topics with all that they hold, and create them."""
    admin = KafkaAdminClient(**cluster.client())
    there = [name for name in admin.list_topics() if name in names]
    if there:
        admin.delete_topics(there)
        eventually(lambda: not set(admin.list_topics()) & set(names), "the old topics are gone")
    admin.close()
    create_topics(cluster)


class started:
    def __init__(self, argv: list[str]) -> None:
        self._argv = argv

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def bare_database_url(postgres_server: str) -> Iterator[str]:
    """A database with nothing in it."""
    name = f"empty_{uuid.uuid4().hex[:12]}"
    _execute(postgres_server, f"CREATE DATABASE {name}")
    yield f"{postgres_server.rpartition('/')[0]}/{name}"
    _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    connection.cursor().execute(statement)
    connection.close()


@pytest.fixture(scope="module")
def world(empty_log: Cluster, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A door with everything behind it, on an empty log: one for a module's tests."""
    with door_world.running(empty_log, database_url, tmp_path_factory.mktemp("door")) as running:
        yield running
