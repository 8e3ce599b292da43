"""Encoders of sentences: the one on board, and the one behind an endpoint, with whatever that may answer."""

import json
import threading
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from streams.errors import Invalid, Unavailable
from workers.recall.encoder import EndpointEncoder, sentence_encoder

SECRET = "a person's own words"


def endpoint(answer: Callable[[httpx.Request], httpx.Response], dims: int | None = None) -> EndpointEncoder:
    return EndpointEncoder("http://encoder.test/v1/", "m-1", "key-1", dims, transport=httpx.MockTransport(answer))


def of_lengths(request: httpx.Request) -> httpx.Response:
    """A vector that tells how long a text is, in another order than was asked for."""
    texts = json.loads(request.content)["input"]
    rows = [{"index": at, "embedding": [3.0 * len(text), 4.0 * len(text)]} for at, text in enumerate(texts)]
    return httpx.Response(200, json={"data": rows[::-1]})


def answering(status: int = 200, **body: object) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status, json=body)


def test_an_endpoint_is_asked_in_batches_and_gives_unit_vectors_in_the_order_of_the_texts() -> None:
    sizes = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert str(request.url) == "http://encoder.test/v1/embeddings"
        assert request.headers["authorization"] == "Bearer key-1" and body["model"] == "m-1"
        sizes.append(len(body["input"]))
        rows = [{"index": at, "embedding": [float(text), 1.0]} for at, text in enumerate(body["input"])]
        return httpx.Response(200, json={"data": rows[::-1]})

    encoder = endpoint(answer, dims=2)
    found = encoder.embed([str(n) for n in range(200)])
    assert found.shape == (200, 2) and found.dtype == np.float32
    assert sum(sizes) == 200 and max(sizes) < 100
    assert found[:, 0] / found[:, 1] == pytest.approx(np.arange(200), rel=1e-5)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0)
    assert encoder.embed([]).shape == (0, 2)


def test_an_endpoint_that_does_not_say_its_dimensions_is_asked_for_them_once() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["input"])
        return of_lengths(request)

    encoder = endpoint(answer)
    assert (encoder.dims, encoder.dims, len(asked)) == (2, 2, 1)


def no_answer(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectTimeout("too slow", request=request)


@pytest.mark.parametrize("answer", [no_answer, answering(500), answering(503), answering(429)])
def test_an_endpoint_that_does_not_answer_is_unavailable(answer: Callable[[httpx.Request], httpx.Response]) -> None:
    with pytest.raises(Unavailable, match="m-1"):
        endpoint(answer, dims=2).embed([SECRET])


@pytest.mark.parametrize(
    "answer",
    [
        answering(400, error=f"cannot embed {SECRET}"),
        answering(401),
        answering(data=[]),
        answering(data=None),
        answering(data=[{"index": 0, "embedding": ["x", "y"]}]),
        answering(data=[{"index": 0, "embedding": [0.0, 0.0]}]),
        answering(data=[{"index": 0, "embedding": [1.0, [2.0]]}]),
        answering(data=[{"index": 1, "embedding": [1.0, 2.0]}]),
        answering(data=[{"index": 0, "embedding": [1.0, 2.0, 3.0]}]),
        lambda request: httpx.Response(200, content=b'{"data": [{"index": 0, "embedding": [NaN, 1.0]}]}'),
        lambda request: httpx.Response(200, content=b"<html>"),
    ],
)
def test_an_endpoint_that_answers_with_something_else_is_invalid_and_quotes_nobody(
    answer: Callable[[httpx.Request], httpx.Response],
) -> None:
    with pytest.raises(Invalid, match="m-1") as trouble:
        endpoint(answer, dims=2).embed([SECRET])
    assert SECRET not in str(trouble.value)


def test_the_encoder_on_board_puts_what_means_the_same_near_each_other_and_serves_many_threads() -> None:
    encoder = sentence_encoder()
    assert encoder is sentence_encoder() and "multilingual-3/" in encoder.name
    texts = [
        "How old must a driver be?",
        "At what age may I drive?",
        "驾驶员必须年满多少岁？",
        "What is the capital of France?",
    ]
    one = encoder.embed(texts)
    assert one.shape == (4, encoder.dims) and np.linalg.norm(one, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert min(one[0] @ one[1], one[0] @ one[2]) > one[0] @ one[3] + 0.3
    assert encoder.embed([]).shape == (0, encoder.dims)
    found = []
    threads = [threading.Thread(target=lambda: found.append(encoder.embed(texts * 2))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for vectors in found:
        assert vectors == pytest.approx(np.tile(one, (2, 1)), abs=1e-3)
