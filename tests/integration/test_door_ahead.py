"""What the door does ahead of time, and what it knows without asking: never at the price of a promise."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from api.routing import Manner
from streams.errors import Erased, Unavailable
from streams.facts.domains import DomainRetired
from streams.log import Message, Position
from streams.sealing import Keyring, MasterKey, open_sealed, seal
from streams.store import open_database
from tests.door_world import World, wait_until
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def domain(world: World) -> str:
    return world.domain()


class Held:
    """An append that is under way until it is let go."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        append = world.services.recorder.log.append

        def held(messages: Sequence[Message], timeout_s: float) -> list[Position]:
            self.begun.set()
            assert self.go.wait(PATIENCE_S)
            if fails:
                raise Unavailable("the log did not acknowledge")
            return append(messages, timeout_s)

        monkeypatch.setattr(world.services.recorder.log, "append", held)


@contextmanager
def asking(world: World, domain: str, **more: Any) -> Iterator[list[bytes]]:
    """What comes of a streamed answer, piece by piece, from its first byte on; whole at the end."""
    came: list[bytes] = []
    body = {"model": domain, "messages": [{"role": "user", "content": "hi you"}], "stream": True, **more}

    def ask() -> None:
        with world.client(world.chat_key) as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
            came.append(b"%d" % answer.status_code)
            came.extend(answer.iter_raw())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield came
    finally:
        thread.join()


def test_the_engine_works_while_the_prompt_is_being_recorded_and_no_byte_leaves_before_it_is(
    world: World, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(world.engine.requests)
    held = Held(world, monkeypatch)
    with asking(world, domain) as came:
        assert held.begun.wait(PATIENCE_S)
        wait_until(lambda: len(world.engine.requests) > before and not world.engine.busy, what="the whole answer")
        assert came == []
        held.go.set()
    assert came[0] == b"200" and b"".join(came).rstrip().endswith(b"[DONE]")


def test_an_answer_whose_prompt_was_not_recorded_is_given_to_nobody(
    world: World, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(world, monkeypatch, fails=True)
    with asking(world, domain) as came:
        assert held.begun.wait(PATIENCE_S)
        held.go.set()
    assert came[0] == b"503" and b"You said" not in b"".join(came)
    wait_until(lambda: not world.in_flight(), what="the engine is free again")
    monkeypatch.undo()
    wait_until(lambda: world.as_chat.post("/v1/chat/completions", json=plain(domain)).status_code == 200)


def test_a_log_that_gives_no_sign_of_life_costs_no_engine_a_request(
    world: World, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(world.engine.requests)
    monkeypatch.setattr(world.services.recorder.log, "answers", lambda timeout_s=0.5: False)
    assert world.as_chat.post("/v1/chat/completions", json=plain(domain)).status_code == 503
    assert len(world.engine.requests) == before and not world.in_flight()


def plain(domain: str) -> dict[str, Any]:
    return {"model": domain, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("logprobs", [False, True])
def test_pieces_that_come_together_are_written_together_and_say_the_same(
    world: World, domain: str, monkeypatch: pytest.MonkeyPatch, logprobs: bool
) -> None:
    words = ['"quoted"', "\\", "\x1a", "{}", "终", "\n", " end"]
    monkeypatch.setattr(world.engine, "answer", lambda messages: words)
    held = Held(world, monkeypatch)
    with asking(world, domain, n=2, logprobs=logprobs) as came:
        assert held.begun.wait(PATIENCE_S)
        wait_until(lambda: not world.in_flight(), what="both answers in the door")
        held.go.set()
    lines = [line[6:] for line in b"".join(came[1:]).split(b"\n\n") if line.startswith(b"data: ")]
    assert lines.pop() == b"[DONE]"
    said: dict[int, list[str]] = {0: [], 1: []}
    for line in lines:
        for choice in json.loads(line)["choices"]:
            said[choice["index"]].append(choice["delta"].get("content") or "")
            if logprobs and choice["delta"].get("content"):
                assert choice["logprobs"]["content"][0]["token"] == choice["delta"]["content"]
    assert ["".join(found) for found in said.values()] == ["".join(words)] * 2


def test_a_domain_that_was_retired_here_answers_nobody_though_the_projections_stand_still(world: World) -> None:
    domain = world.domain()
    assert world.as_chat.post("/v1/chat/completions", json=plain(domain)).status_code == 200
    world.following.clear()
    try:
        assert world.as_operator.post(f"/v1/domains/{domain}/retire").status_code == 202
        refused = world.as_chat.post("/v1/chat/completions", json=plain(domain))
    finally:
        world.following.set()
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


def test_what_a_domains_conversations_begin_with_is_known_without_asking(world: World) -> None:
    domain = world.domain(system_prompt="Answer about water wheels.")
    wait_until(lambda: world.services.routes.manner(domain), what="the domain's words")
    assert world.services.routes.manner(domain) == Manner("Answer about water wheels.")
    retired = world.domain()
    wait_until(lambda: world.services.routes.manner(retired) is not None, what="the other domain")
    world.caught_up(world.say(DomainRetired(domain=retired, by="elsewhere")))
    wait_until(lambda: world.services.routes.manner(retired) is None, what="what happened elsewhere")


def test_a_key_that_was_destroyed_elsewhere_is_forgotten_here(world: World) -> None:
    here = world.services.keyring
    words = seal("my name is Eva", here.key_for("person:eva"), "e#text")
    elsewhere = Keyring(open_database(world.settings.database_url), MasterKey.made(world.settings.master_key))
    assert elsewhere.destroy("person:eva") == (words.kid,)

    def gone() -> bool:
        try:
            open_sealed(words, here)
        except Erased:
            return True
        return False

    wait_until(gone, "the key is forgotten")


def test_a_request_asks_postgresql_nothing_that_the_door_knows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = world.domain()
    first = world.chat(domain, "One?")
    conversation = first["metadata"]["conversation_id"]
    wait_until(lambda: world.services.routes.manner(domain) is not None, what="the domain")
    wait_until(lambda: world.services.keyring._vouched_until > 0, what="the keys are vouched for")

    def asked(*_: Any, **__: Any) -> Any:
        raise AssertionError("PostgreSQL was asked")

    app = world.services.keys.caller(world.chat_key)
    monkeypatch.setattr(world.services.keys, "caller", lambda token: app)
    for name in ("connect", "begin"):
        monkeypatch.setattr(world.services.database, name, asked)
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
    ]
    second = world.chat(
        domain,
        "Two?",
        messages=[*messages, {"role": "user", "content": "Two?"}],
        metadata={"conversation_id": conversation},
    )
    assert second["metadata"]["conversation_id"] == conversation
