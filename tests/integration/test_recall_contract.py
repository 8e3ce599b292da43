"""What whoever asks a domain's memory may count on, whichever memory it is."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from streams.errors import Unavailable
from streams.recall_client import TIMEOUT_S, Answer, Question, RecallClient
from streams.recalled import Recall, Recalled
from tests.recall_server import remembering
from tests.waiting import PATIENCE_S, wait_until

KEY = "of-the-memory"
KNOWN = Recalled("correction", "example-1", 0.75)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """A memory that knows one thing, of the domain `roads`, and answers to KEY."""
    with remembering(KEY) as memory:
        memory.holds = {"roads"}
        memory.recalls = lambda asked: [KNOWN] if "correction" in asked.kinds else []
        yield memory.base_url


def post(base_url: str, body: Any, key: str | None = KEY) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return httpx.post(f"{base_url}/recall", content=content, headers=headers, timeout=PATIENCE_S, trust_env=False)


@pytest.mark.parametrize("key", [None, "another", KEY[:-1], KEY + "s"])
def test_who_has_not_the_key_is_told_nothing(base_url: str, key: str | None) -> None:
    answer = post(base_url, Question("roads", "how fast?", ("correction",), 3), key)
    assert answer.status_code == 401 and b"example" not in answer.content


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        {"domain": "roads"},
        {"domain": 5, "question": "?", "kinds": [], "most": 1},
        {"domain": "roads", "question": "?", "kinds": ["person"], "most": 1},
        {"domain": "roads", "question": "?", "kinds": ["correction"], "most": "many"},
    ],
)
def test_rubbish_is_400_and_its_words_are_not_repeated(base_url: str, body: Any) -> None:
    answer = post(base_url, body)
    assert answer.status_code == 400 and b"roads" not in answer.content


def test_of_a_domain_that_it_does_not_hold_it_does_not_say_that_nothing_fits(base_url: str) -> None:
    """Or a domain whose memory is being read would decline whatever it is asked."""
    answer = post(base_url, Question("nobody-knows-it", "how fast?", ("correction", "passage"), 3))
    assert answer.status_code == 503 and b"example" not in answer.content


def test_what_it_recalls_are_ids_and_scores_of_the_kinds_that_were_asked_for(base_url: str) -> None:
    recalled = msgspec.json.decode(
        post(base_url, Question("roads", "how fast?", ("correction",), 3)).content, type=Answer
    ).recalled
    assert recalled and all(one.kind == "correction" and 0 <= one.score <= 1 for one in recalled)
    assert [one.score for one in recalled] == sorted((one.score for one in recalled), reverse=True)
    of_passages = post(base_url, Question("roads", "how fast?", ("passage",), 3))
    assert msgspec.json.decode(of_passages.content, type=Answer) == Answer(())


def test_it_answers_within_the_time_that_a_question_has(base_url: str) -> None:
    client = RecallClient(base_url, KEY)

    def answers() -> bool:
        try:
            return bool(client.recall("roads", "how fast?", Recall("corrections")))
        except Unavailable:
            return False  # this machine was too busy for so short a time

    wait_until(answers, f"an answer within {TIMEOUT_S} s")
    client.close()


def test_the_client_calls_whatever_it_cannot_use_unavailable(base_url: str) -> None:
    for url, key in (("", KEY), (base_url, "another"), ("http://127.0.0.1:9", KEY)):
        client = RecallClient(url, key)
        with pytest.raises(Unavailable) as caught:
            client.recall("roads", "a secret question", Recall("both"))
        assert "secret" not in str(caught.value)
        client.close()


def test_the_client_waits_no_longer_than_an_answer_may_wait() -> None:
    assert TIMEOUT_S == 0.25  # more than that no answer waits for what it can do without
    go_on = threading.Event()
    with remembering(KEY) as memory:
        memory.recalls = lambda asked: go_on.wait(PATIENCE_S) and ()
        client = RecallClient(memory.base_url, KEY)
        with pytest.raises(Unavailable):
            client.recall("roads", "how fast?", Recall("both"))
        go_on.set()
        client.close()
