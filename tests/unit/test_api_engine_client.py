"""Asking an engine, against a small real server."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from streams.engine_client import Delta, Sampling, chat_stream
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
    return chat_stream(base_url, "k", "d@1", [{"role": "user", "content": "hi you"}], Sampling(**settings))


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
    wait_until(lambda: engine.left == 1 and engine.busy == 0, timeout_s=3, what="the free engine")
