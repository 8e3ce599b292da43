"""A body is read once its sender is known: a stranger's costs the door nothing, and a key's own is bounded while it comes."""

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from api.documents import routes
from api.documents.faults import Unreadable
from api.documents.protocol import FILE_BYTES
from api.keys import create_key, revoke_keys
from api.wire import DATASET_BODY_BYTES
from tests.door_world import World, wait_until
from tests.waiting import PATIENCE_S

MEGABYTE = 1024 * 1024
PIECE = b"x" * 65_536
STRANGERS = 12
EVERY_BODY = [
    "/v1/chat/completions",
    "/v1/feedback",
    "/v1/domains/d/exam",
    "/v1/domains/d/examples",
    "/v1/domains/d/documents",
    "/v1/keys",
    "/nowhere",
]
WRONG = ["", "Authorization: Bearer noria-wrong\r\n", "Authorization: Bearer noria-once-wrong\r\n"]


@contextmanager
def opened(world: World) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", world.server.effective_port), timeout=PATIENCE_S) as connection:
        yield connection


def head(path: str, key: str, length: int | None, more: str = "") -> bytes:
    how = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: door\r\n{key}{how}\r\n{more}\r\n".encode()


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}\r\n"


def send(connection: socket.socket, size: int, chunked: bool) -> int:
    """Send that much of a body, or as much as is taken; how much went."""
    gone = 0
    try:
        while gone < size:
            piece = PIECE[: size - gone]
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            gone += len(piece)
    except OSError:
        pass  # the door has had enough
    return gone


def answer(connection: socket.socket) -> bytes:
    """All that comes, until the door closes the connection."""
    said = b""
    while piece := connection.recv(65_536):
        said += piece
    return said


def temporary_files() -> set[str]:
    """What this process has open in the folder of temporary files."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(one))
        except OSError:
            pass  # closed meanwhile
    return {name for name in found if name.startswith(tempfile.gettempdir()) and name.endswith("(deleted)")}


@pytest.mark.parametrize(
    ("path", "key"), [*((path, "") for path in EVERY_BODY), *((EVERY_BODY[0], key) for key in WRONG[1:])]
)
def test_a_stranger_is_refused_by_the_headers_alone(world: World, path: str, key: str) -> None:
    for length in (1, 50 * MEGABYTE, None):
        with opened(world) as connection:
            connection.sendall(head(path, key, length))
            said = answer(connection)  # the body never comes
        assert said.startswith(b"HTTP/1.1 401 ") and b"\r\nConnection: close\r\n" in said, said
        assert b'"type":"authentication_error"' in said and b"Www-Authenticate: Bearer" in said


@pytest.mark.parametrize("chunked", [False, True])
def test_fifty_megabytes_of_a_stranger_are_answered_and_thrown_away(world: World, chunked: bool) -> None:
    with opened(world) as connection:
        connection.sendall(head("/v1/domains/d/examples", WRONG[0], None if chunked else 50 * MEGABYTE))
        send(connection, 50 * MEGABYTE, chunked)
        said = answer(connection)
    assert said.startswith(b"HTTP/1.1 401 ") and said.endswith(b"}"), said


@pytest.mark.parametrize("chunked", [False, True])
def test_the_memory_and_temporary_files_of_the_door_do_not_grow_with_what_strangers_send(
    world: World, chunked: bool
) -> None:
    path, size = "/v1/domains/d/examples", DATASET_BODY_BYTES - len(PIECE)
    with opened(world) as connection:  # what is made once for any of them is there
        connection.sendall(head(path, "", 1) + b"x")
        assert connection.recv(12) == b"HTTP/1.1 401"
    me = psutil.Process()
    before, files = me.memory_info().rss, temporary_files()
    connections = [
        socket.create_connection(("127.0.0.1", world.server.effective_port), timeout=PATIENCE_S)
        for _ in range(STRANGERS)
    ]
    try:
        senders = []
        for connection in connections:  # none sends the end of its body
            connection.sendall(head(path, "", None if chunked else size + 1))
            senders.append(threading.Thread(target=send, args=(connection, size, chunked), daemon=True))
            senders[-1].start()
        for sender in senders:
            sender.join()
        grown = me.memory_info().rss - before
        assert grown < 12 * MEGABYTE, f"{grown // MEGABYTE} MB for {STRANGERS} times {size // MEGABYTE} MB"
        assert temporary_files() <= files
        for connection in connections:
            assert connection.recv(12) == b"HTTP/1.1 401"
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/v1/chat/completions", 256 * 1024),
        ("/v1/domains/d/examples", DATASET_BODY_BYTES),
        ("/v1/domains/d/documents?name=a.txt", FILE_BYTES),
    ],
)
def test_a_body_over_what_its_route_takes_is_413_as_soon_as_that_is_known(
    world: World, path: str, most: int, chunked: bool
) -> None:
    path = path.replace("/d/", f"/{world.domain()}/")
    with opened(world) as connection:
        connection.sendall(head(path, bearer(world.key), None if chunked else most + 1))
        if chunked:
            send(connection, most + 1, True)  # and no end
        said = answer(connection)
    assert said.startswith(b"HTTP/1.1 413 ") and f"the body is larger than {most} bytes".encode() in said, said
    assert b'"code":"body_too_large"' in said


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_just_what_its_route_takes_is_read(world: World, chunked: bool) -> None:
    most = world.services.settings.body_bytes
    with opened(world) as connection:
        close = "Connection: close\r\n"
        connection.sendall(head("/v1/feedback", bearer(world.key), None if chunked else most, close))
        assert send(connection, most, chunked) == most
        connection.sendall(b"0\r\n\r\n" if chunked else b"")
        said = answer(connection)
    assert said.startswith(b"HTTP/1.1 400 "), said  # it is no JSON


@pytest.mark.parametrize("chunked", [False, True])
def test_a_document_of_just_what_is_taken_is_held_in_memory_alone(
    world: World, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, set[str]]] = []

    def reads(kind: str, body: bytes) -> None:
        seen.append((len(body), temporary_files()))
        raise Unreadable("empty", "it has been seen")

    monkeypatch.setattr(routes, "read", reads)
    before, path = temporary_files(), f"/v1/domains/{world.domain()}/documents?name=a.txt"
    with opened(world) as connection:
        connection.sendall(head(path, bearer(world.key), None if chunked else FILE_BYTES, "Connection: close\r\n"))
        assert send(connection, FILE_BYTES, chunked) == FILE_BYTES
        connection.sendall(b"0\r\n\r\n" if chunked else b"")
        assert b"it has been seen" in answer(connection)
    ((size, files),) = seen
    assert size == FILE_BYTES and files <= before


def test_a_line_of_a_chunked_body_that_never_ends_is_413(world: World) -> None:
    with opened(world) as connection:
        connection.sendall(head("/v1/feedback", bearer(world.key), None))
        send(connection, 2 * MEGABYTE, False)
        assert answer(connection).startswith(b"HTTP/1.1 4")


def test_who_waits_to_be_told_to_continue_is_told_by_their_key(world: World) -> None:
    expects = "Expect: 100-continue\r\nConnection: close\r\n"
    with opened(world) as connection:
        connection.sendall(head("/v1/feedback", WRONG[1], 2, expects))
        assert answer(connection).startswith(b"HTTP/1.1 401 ")
    with opened(world) as connection:
        connection.sendall(head("/v1/feedback", bearer(world.key), 2, expects))
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert answer(connection).startswith(b"HTTP/1.1 400 ")


def test_requests_behind_each_other_are_answered_in_their_order(world: World) -> None:
    """The second's headers come along with the first's body; the third is a stranger's, and what it sends is never a request."""
    first = head("/v1/feedback", bearer(world.key), 2) + b"{}"
    hidden = head("/v1/feedback", bearer(world.key), 2) + b"{}"
    with opened(world) as connection:
        connection.sendall(first + first + head("/v1/feedback", WRONG[0], len(hidden)) + hidden)
        said = answer(connection)
    assert [line[9:12] for line in said.split(b"HTTP/1.1")[1:] for line in [b"HTTP/1.1" + line]] == [
        b"400",
        b"400",
        b"401",
    ]


def test_who_opens_no_door_sends_no_body_either(world: World) -> None:
    with opened(world) as connection:
        connection.sendall(head("/healthz", "", 50 * MEGABYTE))
        assert answer(connection).startswith(b"HTTP/1.1 413 ")


def test_a_body_counts_once_against_the_limit_of_its_key(world: World) -> None:
    key = create_key(world.database, "counted", "chat", person="counted")
    took: list[str] = []
    count, limits = world.services.limits.count_request, world.services.limits
    limits.count_request = lambda who: (took.append(who.name), count(who))[1]  # type: ignore[method-assign, func-returns-value]
    try:
        with world.client(key) as client:
            assert client.post("/v1/feedback", json={}).status_code == 400
            assert client.get("/v1/models").status_code == 200
    finally:
        limits.count_request = count  # type: ignore[method-assign]
    assert took == ["counted", "counted"]


def test_a_key_that_is_no_more_is_refused_though_its_body_was_read_on_trust(world: World) -> None:
    key = create_key(world.database, "trusted", "chat", person="trusted")
    with world.client(key) as client:
        assert client.post("/v1/feedback", json={}).status_code == 400
        assert world.services.keys.remembers(key)
        revoke_keys(world.database, "trusted")
        wait_until(lambda: not world.services.keys.remembers(key), what="word of it")
        assert client.post("/v1/feedback", json={}).status_code == 401
    with opened(world) as connection:
        connection.sendall(head("/v1/feedback", bearer(key), 100))
        assert answer(connection).startswith(b"HTTP/1.1 401 ")  # by the headers, as any stranger's


def test_a_link_that_works_once_still_does_when_its_request_has_a_body(world: World) -> None:
    token = world.as_operator.post("/v1/sessions/link").json()["token"]
    with world.client(token) as client:
        assert client.post("/v1/sessions", json={}).status_code == 201
        assert client.post("/v1/sessions", json={}).status_code == 401


def test_a_client_that_leaves_while_its_body_comes_leaves_nothing(world: World) -> None:
    with opened(world) as connection:
        us = connection.getsockname()

        def there() -> bool:
            return any(channel.addr == us for channel in list(world.server.active_channels.values()))

        connection.sendall(head("/v1/feedback", bearer(world.key), 100) + b"{")
        wait_until(there, what="the connection")
    wait_until(lambda: not there(), what="its end")
