"""Asking an engine, against a small real server."""

import http.client
import io
import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.engine_client import ChatStream, Delta, Sampling, _chunks
from streams.errors import Invalid, Unavailable
from tests.door_world import wait_until
from tests.engine_server import EngineServer


@pytest.fixture
def engine() -> Iterator[EngineServer]:
    engine = EngineServer()
    yield engine
    engine.stop()


def ask(base_url: str, **more: Any) -> Any:
    settings: dict[str, Any] = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 1, **more}
    return ChatStream(base_url, "k", "d@1", [{"role": "user", "content": "hi you"}], Sampling(**settings))


def test_the_pieces_come_and_the_last_one_has_the_counts(engine: EngineServer) -> None:
    assert list(ask(engine.base_url, stop=("#",))) == [
        Delta("You said:"),
        Delta(" hi"),
        Delta(" you"),
        Delta("", "stop", 7, 3),
    ]
    (sent,) = engine.requests
    assert engine.keys == ["Bearer k"] and sent["model"] == "d@1" and sent["stream"] and sent["stop"] == ["#"]


def test_an_answer_that_breaks_off_is_unavailable(engine: EngineServer) -> None:
    engine.break_after = 1
    with pytest.raises(Unavailable):
        list(ask(engine.base_url))


@pytest.mark.parametrize(("status", "error"), [(400, Invalid), (500, Unavailable), (503, Unavailable)])
def test_what_an_engine_refuses_is_invalid_and_what_it_cannot_is_unavailable(
    engine: EngineServer, status: int, error: type[Exception]
) -> None:
    engine.refuse = status
    with pytest.raises(error):
        list(ask(engine.base_url))


def test_no_engine_is_unavailable(engine: EngineServer) -> None:
    engine.stop()
    with pytest.raises(Unavailable):
        list(ask(engine.base_url))


def test_closing_the_stream_frees_the_engine(engine: EngineServer) -> None:
    engine.answer = lambda messages: ["word"] * 500
    engine.piece_s = 0.005
    with closing(ask(engine.base_url, max_tokens=500)) as stream:
        next(stream)
    wait_until(lambda: engine.left == 1 and engine.busy == 0, what="the free engine")


class Parts(io.RawIOBase):
    """A connection on which the bytes come in these parts."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._parts:
            return 0
        part, rest = self._parts[0][: len(buffer)], self._parts[0][len(buffer) :]
        self._parts = ([rest] if rest else []) + self._parts[1:]
        buffer[: len(part)] = part
        return len(part)


@given(
    bodies=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    extension=st.sampled_from([b"", b";name=value"]),
)
def test_chunks_are_the_same_wherever_the_network_cut_them(
    bodies: list[bytes], cuts: list[int], extension: bytes
) -> None:
    sent = b"".join(b"%x%s\r\n%s\r\n" % (len(body), extension, body) for body in bodies) + b"0\r\n\r\n"
    at = [0, *sorted({cut for cut in cuts if 0 < cut < len(sent)}), len(sent)]
    parts = [sent[begin:end] for begin, end in itertools.pairwise(at)]
    assert b"".join(_chunks(io.BufferedReader(Parts(list(parts))))) == b"".join(bodies)
    with pytest.raises(http.client.HTTPException):
        list(_chunks(io.BufferedReader(Parts([sent[:-6]]))))


@pytest.mark.parametrize(
    "head",
    [b"", b"rubbish\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: much\r\n\r\n"],
    ids=["nothing", "no status line", "no status", "no length"],
)
def test_what_is_no_http_is_unavailable(head: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(head)

        engine = threading.Thread(target=answer)
        engine.start()
        with pytest.raises(Unavailable):
            list(ask(f"http://127.0.0.1:{server.getsockname()[1]}"))
        engine.join()
