"""How the door knows, without asking, that a broker's port is open."""

import socket
from collections.abc import Iterator

import pytest

from streams import log as logs
from streams.cluster import Cluster
from streams.log import KafkaLog
from tests.door_world import wait_until


@pytest.fixture
def port() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture
def log(port: socket.socket) -> Iterator[KafkaLog]:
    log = KafkaLog(Cluster(servers=f"127.0.0.1:{port.getsockname()[1]}"), "test")
    yield log
    log.close()


def connections(port: socket.socket) -> list[socket.socket]:
    """Those that wait to be taken."""
    found = []
    try:
        while True:
            found.append(port.accept()[0])
    except BlockingIOError:
        return found


def test_one_connection_says_for_a_while_that_the_port_is_open(
    port: socket.socket, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "SIGN_OF_LIFE_S", 3600.0)
    assert all(log.answers() for _ in range(50))
    (taken,) = connections(port)
    taken.close()


def test_a_host_that_vanishes_without_a_word_is_found_out(
    port: socket.socket, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "SIGN_OF_LIFE_S", 0.0)
    assert log.answers() and log.answers()
    assert len(connections(port)) == 2, "asked anew, for the old connection would say nothing"


def test_a_broker_that_ends_is_known_to_be_away_at_once(
    port: socket.socket, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "SIGN_OF_LIFE_S", 3600.0)
    assert log.answers()
    (taken,) = connections(port)
    port.close()
    taken.close()
    wait_until(lambda: not log.answers(), "the port is closed")
