"""One key that asks for all it can get, beside another: it meets its own limits, and the other meets nothing."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from msgspec.structs import replace

from api.keys import create_key
from streams.cluster import Cluster
from streams.settings import KeyLimits
from tests import door_world
from tests.door_world import World, make_settings, wait_until

WAITS, LARGE_PROMPTS, CALLS = 64, 300, 60


@pytest.fixture(scope="module")
def tight(empty_log: Cluster, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A door with small limits for keys of one person."""
    given = KeyLimits(requests=(400, 24_000), tokens=(40_000, 4_000_000), open=(3, 200), waits=(4, 32))
    home = tmp_path_factory.mktemp("tight")
    settings = replace(make_settings(home, empty_log, database_url), key_limits=given, prompt_bytes=64 * 1024)
    (home / "models").mkdir()
    world = door_world.World(settings, empty_log)
    yield world
    world.stop()


def key_of(world: World, person: str) -> str:
    return create_key(world.database, person, "chat", person=person)


def ask(client: httpx.Client, domain: str, words: str) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": domain, "messages": [{"role": "user", "content": words}]})


def p99_ms(took_s: list[float]) -> float:
    return sorted(took_s)[int(len(took_s) * 0.99)] * 1000


def test_sixty_four_waits_and_three_hundred_large_prompts_of_one_key_leave_another_keys_calls_alone(
    tight: World,
) -> None:
    domain = tight.domain(base_model=door_world.MODEL)
    with tight.client(key_of(tight, "greedy")) as greedy, tight.client(key_of(tight, "ann")) as ann:

        def calls() -> list[float]:
            took_s = []
            for number in range(CALLS):
                began = time.monotonic()
                answered = ann.get("/v1/models") if number % 3 else ask(ann, domain, f"question {number}")
                took_s.append(time.monotonic() - began)
                assert answered.status_code == 200, answered.text
            return took_s

        alone = calls()
        tight.following.clear()  # the projections stand still: a wait for what is new lasts
        position = ask(greedy, domain, "hello").json()["metadata"]["position"]
        stop = threading.Event()
        met: Counter[int] = Counter()
        told: set[str] = set()

        def take(answered: httpx.Response) -> None:
            met[answered.status_code] += 1
            if answered.status_code == 429:
                error = answered.json()["error"]
                assert error["code"] == "rate_limit_exceeded" and int(answered.headers["Retry-After"]) >= 1
                told.add(error["message"].rpartition("(")[2].rstrip(")"))

        def wait() -> None:
            take(greedy.get("/v1/models", params={"after": position}))

        def press(number: int) -> None:
            if not stop.is_set():
                take(ask(greedy, domain, f"{number} " + "word " * 12_000))

        with ThreadPoolExecutor(WAITS + 16) as pool:
            waits = [pool.submit(wait) for _ in range(WAITS)]
            prompts = [pool.submit(press, number) for number in range(LARGE_PROMPTS)]
            try:
                beside = calls()
            finally:
                stop.set()
                tight.following.set()
            for one in (*waits, *prompts):
                one.result()
    print(
        f"p99 alone {p99_ms(alone):.0f} ms, beside {p99_ms(beside):.0f} ms; the other met {dict(met)}: {sorted(told)}"
    )
    assert set(met) <= {200, 400, 429} and met[429]  # 400: beyond the window of its engine
    assert "NORIA_LIMIT_WAITS" in told
    assert told & {"NORIA_LIMIT_OPEN", "NORIA_LIMIT_TOKENS"}
    wait_until(lambda: not tight.services.limits._held, what="nothing is held any more")


def test_a_request_that_adds_more_than_may_be_added_is_refused_and_nothing_is_recorded(tight: World) -> None:
    domain = tight.domain(base_model=door_world.MODEL)
    refused = ask(tight.as_chat, domain, "x" * 65_000 + "y" * 600)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "prompt_too_large")
    assert "65536 bytes (NORIA_PROMPT_BYTES)" in refused.json()["error"]["message"]
    assert tight.events(domain, "prompt_asked") == []
    assert tight.in_flight() == {}
    half = {"role": "user", "content": "x" * 40_000}
    said = tight.as_chat.post("/v1/chat/completions", json={"model": domain, "messages": [half]}).json()
    answer = {"role": "assistant", "content": said["choices"][0]["message"]["content"]}
    whole = {
        "model": domain,
        "messages": [half, answer, half],
        "metadata": {"conversation_id": said["metadata"]["conversation_id"]},
    }
    assert tight.as_chat.post("/v1/chat/completions", json=whole).status_code == 200, (
        "what was said before is not added"
    )


def test_a_stream_that_is_left_in_the_middle_and_a_follower_are_held_no_more(tight: World) -> None:
    domain = tight.domain(base_model=door_world.MODEL)
    body = {"model": domain, "messages": [{"role": "user", "content": "hello"}], "stream": True, "user": "ann"}
    for _ in range(4):
        with tight.as_chat.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            next(answer.iter_lines())
    with tight.as_data.stream("GET", "/v1/events", params={"follow": 1, "after": "end"}) as followed:
        assert followed.status_code == 200
        assert tight.services.limits._held
    tight.chat(domain)  # what is written to a follower shows that it has left
    wait_until(lambda: not tight.services.limits._held, "nothing is held any more")
    assert tight.as_chat.head("/v1/models").status_code == 200
