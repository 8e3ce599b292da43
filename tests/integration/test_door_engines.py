"""The door and its engines: releases that change under it, a full queue, engines that die and callers that leave."""

import json
import socket
import threading
from typing import Any

import pytest

from api import routing
from tests import door_world
from tests.door_world import World, wait_until
from tests.engine_server import EngineServer
from tests.waiting import PATIENCE_S

GOOD: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def test_a_request_is_answered_by_the_release_that_was_live_when_it_came(world: World) -> None:
    domain = world.domain()
    world.engine.hold.clear()
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(world.chat(domain)))
    try:
        asking.start()
        wait_until(lambda: world.in_flight().get(f"{domain}@0"), what="the request in flight")
        second = EngineServer(lambda messages: ["from", " two"])
        world.release(domain, 1, second)
        assert world.chat(domain)["model"] == f"{domain}@1"
        assert world.in_flight() == {f"{domain}@0": 1}
    finally:
        world.engine.hold.set()
        asking.join()
    assert answers[0]["model"] == f"{domain}@0"
    wait_until(lambda: not world.in_flight(), what="the drain")
    second.stop()


def test_the_door_tells_the_swapper_what_it_uses_and_what_is_in_flight(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = world.domain()

    def row() -> tuple[dict[str, int], dict[str, int]]:
        with world.database.connect() as connection:
            found = connection.exec_driver_sql(
                "SELECT generations, in_flight FROM work.doors WHERE door_id = %s", (world.services.routes.door_id,)
            ).one()
        return found.generations, found.in_flight

    wait_until(lambda: row()[0].get(domain) == 1, what="generation 1")
    world.engine.hold.clear()
    asking = threading.Thread(target=lambda: world.chat(domain))
    try:
        asking.start()
        wait_until(lambda: world.in_flight().get(f"{domain}@0"), what="the request in flight")
        second = EngineServer()
        monkeypatch.setattr(routing, "HEARTBEAT_S", 3600.0)  # of the drain it is told without one
        world.release(domain, 1, second)
        wait_until(lambda: row()[0].get(domain) == 2 and row()[1].get(f"{domain}@0") == 1, what="the heartbeat")
    finally:
        world.engine.hold.set()
        asking.join()
    wait_until(lambda: row()[1].get(f"{domain}@0", 0) == 0, what="the drain, at once")
    second.stop()


def test_a_full_queue_is_429_with_retry_after(world: World) -> None:
    domain = world.domain()
    world.engine.hold.clear()
    body = {"model": domain, **GOOD}

    def by_another_key() -> None:
        world.as_operator.post("/v1/chat/completions", json=body | {"n": 4})

    # One key alone may not fill it.
    four = [threading.Thread(target=lambda: world.chat(domain, n=4)) for _ in range(3)]
    four.append(threading.Thread(target=by_another_key))
    try:
        for thread in four:
            thread.start()
        wait_until(lambda: world.in_flight().get(f"{domain}@0") == 16, what="a full queue")
        answer = world.as_operator.post("/v1/chat/completions", json=body)
    finally:
        world.engine.hold.set()
        for thread in four:
            thread.join()
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["error"]["code"] == "queue_full"
    assert world.chat(domain)["model"] == f"{domain}@0"


def test_no_living_engine_is_503_with_retry_after(world: World) -> None:
    domain = world.domain()
    world.engine_state(domain, 0, "failed")
    answer = world.as_chat.post("/v1/chat/completions", json={"model": domain, **GOOD})
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["error"]["code"] == "no_engine"


def test_a_new_domain_without_an_engine_is_503(world: World) -> None:
    created = world.as_operator.post("/v1/domains", json={"domain": "no-engine-yet", "base_model": door_world.MODEL})
    world.caught_up(created.json()["position"])
    answer = world.as_chat.post("/v1/chat/completions", json={"model": "no-engine-yet", **GOOD})
    assert answer.status_code == 503 and "Retry-After" in answer.headers


def test_an_engine_that_comes_back_elsewhere_answers_the_request_that_waited(world: World) -> None:
    mine = EngineServer()
    domain = world.domain()
    world.release(domain, 1, mine)
    mine.stop()
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(world.chat(domain)))
    asking.start()
    wait_until(lambda: world.in_flight().get(f"{domain}@1"), what="the request in flight")
    back = EngineServer()
    world.engine_state(domain, 1, "ready", back.base_url)
    asking.join()
    assert answers and answers[0]["model"] == f"{domain}@1"
    back.stop()


def test_an_engine_that_dies_in_mid_answer_is_made_good_unless_something_was_shown(world: World) -> None:
    mine = EngineServer()
    domain = world.domain()
    world.release(domain, 1, mine)
    mine.break_after = 1
    body = {"model": domain, **GOOD, "stream": True}
    with world.as_chat.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert "[DONE]" not in "".join(lines) and "error" in json.loads(lines[-1].removeprefix("data: "))
    assert world.events(domain, "reply_drafted") == []

    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(world.chat(domain)))
    before = len(mine.requests)
    asking.start()
    wait_until(lambda: len(mine.requests) > before, what="the first try")
    mine.break_after = None
    asking.join()
    assert answers[0]["choices"][0]["message"]["content"] == "You said: hello there"
    mine.stop()


def test_what_the_engine_refuses_is_400(world: World) -> None:
    mine = EngineServer()
    domain = world.domain()
    world.release(domain, 1, mine)
    mine.refuse = 400
    answer = world.as_chat.post("/v1/chat/completions", json={"model": domain, **GOOD})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "engine_refused"
    mine.stop()


def test_a_client_that_leaves_frees_the_engine_and_nothing_is_recorded_as_a_reply(world: World) -> None:
    mine = EngineServer(lambda messages: ["word"] * 400)
    mine.piece_s = 0.05
    domain = world.domain()
    world.release(domain, 1, mine)
    body = {"model": domain, **GOOD, "stream": True, "max_tokens": 1000}
    with world.as_chat.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
    wait_until(lambda: mine.left == 1 and not world.in_flight(), what="the free engine")
    assert len(world.events(domain, "prompt_asked")) == 1
    assert world.events(domain, "reply_drafted") == []
    mine.stop()


def ask_and_leave(world: World, engine: EngineServer, body: dict[str, Any]) -> None:
    """Leave when the engine is at work, and nothing has come."""
    content, before = json.dumps(body).encode(), len(engine.requests)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: door\r\nAuthorization: Bearer {world.chat_key}\r\n"
    with socket.create_connection(("127.0.0.1", world.server.effective_port), PATIENCE_S) as connection:
        connection.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        )
        wait_until(lambda: len(engine.requests) > before, "the engine at work")


def test_a_client_that_leaves_before_the_answer_frees_the_engine_too(world: World) -> None:
    mine = EngineServer(lambda messages: ["word"] * 400)
    mine.piece_s = 0.05
    domain = world.domain()
    world.release(domain, 1, mine)
    ask_and_leave(world, mine, {"model": domain, **GOOD, "max_tokens": 1000})
    wait_until(lambda: mine.left == 1 and not world.in_flight(), what="the free engine")
    mine.stop()


def test_a_client_that_leaves_while_its_prompt_is_read_frees_the_engine(world: World) -> None:
    mine = EngineServer()
    domain = world.domain()
    world.release(domain, 1, mine)
    mine.hold.clear()
    for stream in (False, True):
        ask_and_leave(world, mine, {"model": domain, **GOOD, "stream": stream})
        wait_until(lambda: not world.in_flight(), what="the free engine")
    mine.stop()


def conversation(turns: int) -> list[dict[str, str]]:
    said = [{"role": "system", "content": "Be brief."}]
    for turn in range(turns):
        said += [{"role": "user", "content": f"question {turn} " + "x " * 40}, {"role": "assistant", "content": "yes"}]
    return [*said, {"role": "user", "content": "and now"}]


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_conversation_goes_on_without_its_oldest_turns_and_the_answer_says_so(
    world: World, stream: bool
) -> None:
    mine = EngineServer()
    mine.context_tokens = 400
    domain = world.domain()
    world.release(domain, 1, mine)
    body = {"model": domain, "messages": conversation(20), "user": "ann", "stream": stream, "n": 2}
    answer = world.as_chat.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    told = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")] or [answer.json()]
    metadata = next(chunk["metadata"] for chunk in told if "metadata" in chunk)
    shown = mine.requests[-1]["messages"]
    assert metadata["messages_left_out"] == 42 - len(shown) > 0
    assert shown[0] == conversation(20)[0] and shown[1:] == conversation(20)[1:][-len(shown[1:]) :]
    assert shown[1]["role"] == "user" and mine.count(shown) <= 300 < mine.count(shown) + 53  # as few as will do
    world.caught_up(metadata["position"])
    assert world.chat(domain)["metadata"]["messages_left_out"] == 0
    mine.stop()


def test_a_prompt_longer_than_the_window_is_400_with_both_numbers(world: World) -> None:
    mine = EngineServer()
    mine.context_tokens = 64
    domain = world.domain()
    world.release(domain, 1, mine)
    found = {model["id"]: model for model in world.as_chat.get("/v1/models").json()["data"]}
    assert found[domain]["context_length"] == found[f"{domain}@1"]["context_length"] == 64
    for stream in (False, True):
        messages = [{"role": "user", "content": "valve " * 95}]
        body = {"model": domain, "messages": messages, "stream": stream}
        answer = world.as_chat.post("/v1/chat/completions", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
        assert "maximum context length is 64 tokens" in error["message"] and "100 tokens" in error["message"]
    wait_until(lambda: not world.in_flight(), what="the free engine")
    mine.stop()


def test_an_engine_that_does_not_count_is_shown_less_until_it_takes_it(world: World) -> None:
    mine = EngineServer()
    mine.context_tokens = 200
    domain = world.domain()
    world.release(domain, 1)
    world.route(domain, 1, mine, kind="lightllm")
    messages = conversation(20)
    answer = world.as_chat.post("/v1/chat/completions", json={"model": domain, "messages": messages})
    assert answer.status_code == 200 and 0 < answer.json()["metadata"]["messages_left_out"] < 41
    mine.context_tokens = 5
    answer = world.as_chat.post("/v1/chat/completions", json={"model": domain, "messages": messages})
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    mine.stop()


def test_pieces_are_handed_on_as_they_come(world: World) -> None:
    second = threading.Event()

    def answer(messages: list[dict[str, str]]) -> list[str]:
        return ["one", " two"]

    mine = EngineServer(answer)
    mine.piece_s = 0.2
    domain = world.domain()
    world.release(domain, 1, mine)
    body = {"model": domain, **GOOD, "stream": True}
    with world.as_chat.stream("POST", "/v1/chat/completions", json=body) as said:
        for line in said.iter_lines():
            if '"one"' in line:
                assert mine.busy == 1  # the engine has not finished
                second.set()
    assert second.is_set()
    mine.stop()
