"""A conversation on the log: each prompt records what is new, and whoever reads gets exactly what was sent."""

import json
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from streams import history
from streams.sealed import Sealed
from streams.sealing import open_sealed
from streams.store import open_database
from tests.door_world import World, wait_until

Messages = list[dict[str, str]]


@pytest.fixture(scope="module")
def domain(world: World) -> str:
    return world.domain(system_prompt="Answer about water wheels.")


class Talk:
    """One person's client, which sends all of a conversation each time and may change what it holds."""

    def __init__(self, world: World, domain: str, named: bool = True, person: str = "") -> None:
        self.world, self.domain, self.named = world, domain, named
        self.person = person or f"p-{uuid4().hex[:8]}"
        self.messages: Messages = []
        self.conversation: str | None = None
        self.answer: dict[str, Any] = {}

    def ask(self, words: str, drafts: int = 1, take: int = 0) -> str:
        """Ask and go on with draft `take`; the prompt's id."""
        self.messages.append({"role": "user", "content": words})
        body: dict[str, Any] = {"model": self.domain, "messages": self.messages, "user": self.person, "n": drafts}
        if self.named and self.conversation is not None:
            body["metadata"] = {"conversation_id": self.conversation}
        answered = self.world.as_chat.post("/v1/chat/completions", json=body)
        assert answered.status_code == 200, answered.text
        self.answer = answered.json()
        self.world.caught_up(self.answer["metadata"]["position"])
        self.conversation = self.answer["metadata"]["conversation_id"]
        self.messages.append({"role": "assistant", "content": self.answer["choices"][take]["message"]["content"]})
        return str(self.answer["id"])

    def new_in(self, prompt_id: str) -> list[str]:
        """What the prompt's event opens to."""
        row = self._row(prompt_id)
        opened = open_sealed(Sealed(**row.messages), self.world.services.keyring)
        return [message["content"] for message in json.loads(opened)]

    def whole(self, prompt_id: str) -> Messages:
        """What was asked, put together from the projections; without the domain's own words."""
        row = self._row(prompt_id)
        with self.world.database.connect() as connection:
            before = history.before(connection, [row.follows])
        whole = before.whole(Sealed(**row.messages), row.follows)
        found = history.open_whole(whole, self.world.services.keyring)
        assert found.pop(0) == {"role": "system", "content": "Answer about water wheels."}
        return found

    def follows(self, prompt_id: str) -> str | None:
        return self._row(prompt_id).follows

    def _row(self, prompt_id: str) -> Any:
        with self.world.database.connect() as connection:
            query = text("SELECT messages, follows, conversation_id FROM noria.prompts WHERE prompt_id = :id")
            return connection.execute(query, {"id": prompt_id}).one()


@pytest.fixture(params=["remembered", "forgotten"])
def memory(request: pytest.FixtureRequest, world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """A door that recorded all of it itself, and one that has just started."""
    if request.param == "forgotten":
        monkeypatch.setattr(world.services.turns, "remember", lambda *_: None)
    return str(request.param)


@pytest.mark.parametrize("named", [True, False], ids=["named", "only sent"])
def test_each_prompt_records_what_is_new_and_names_what_it_follows(
    world: World, domain: str, memory: str, named: bool
) -> None:
    talk = Talk(world, domain, named)
    first = talk.ask("What is a noria?")
    replied, conversation = talk.answer["metadata"]["reply_ids"], talk.conversation
    assert talk.whole(first) == talk.messages[:1] and talk.follows(first) is None
    second = talk.ask("Who built the first?")
    assert talk.new_in(second) == ["Who built the first?"] and [talk.follows(second)] == replied
    assert talk.whole(second) == talk.messages[:3]
    third = talk.ask("And when?")
    assert talk.new_in(third) == ["And when?"] and talk.whole(third) == talk.messages[:5]
    assert talk.conversation == conversation, "who only sends it goes on with it all the same"


def test_an_answer_asked_for_again_follows_what_the_first_one_followed(world: World, domain: str, memory: str) -> None:
    talk = Talk(world, domain)
    talk.ask("One?")
    second = talk.ask("Two?")
    assert talk.follows(second) is not None
    del talk.messages[-2:]
    again = talk.ask("Two?")
    assert again != second and talk.follows(again) == talk.follows(second)
    assert talk.new_in(again) == ["Two?"] and talk.whole(again) == talk.messages[:3]


def test_an_earlier_turn_that_was_changed_begins_a_branch_there(world: World, domain: str, memory: str) -> None:
    talk = Talk(world, domain)
    talk.ask("One?")
    first = talk.answer["metadata"]["reply_ids"]
    talk.ask("Two?")
    talk.ask("Three?")
    talk.messages[2]["content"] = "Two, but otherwise?"
    changed = talk.ask("Four?")
    assert [talk.follows(changed)] == first and talk.new_in(changed)[0] == "Two, but otherwise?"
    assert talk.whole(changed) == talk.messages[:7]
    after = talk.ask("Five?")
    assert talk.new_in(after) == ["Five?"] and talk.whole(after) == talk.messages[:9]


def test_a_models_turn_that_the_client_changed_is_recorded_as_it_was_sent(
    world: World, domain: str, memory: str
) -> None:
    talk = Talk(world, domain)
    for number in range(3):
        asked = talk.ask(f"Question {number}?")
        assert len(talk.new_in(asked)) == 2, "the turn that was changed (at first the domain's own), and the question"
        assert talk.whole(asked) == talk.messages[:-1]
        talk.messages[-1]["content"] = f" {talk.messages[-1]['content']} "


def test_the_draft_that_was_gone_on_from_is_the_one_that_is_followed(
    world: World, domain: str, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(world, domain)
    monkeypatch.setattr(world.engine, "answer", lambda messages: [uuid4().hex])
    talk.ask("One?", drafts=2, take=1)
    replies = talk.answer["metadata"]["reply_ids"]
    second = talk.ask("Two?")
    assert talk.follows(second) == replies[1] and talk.whole(second) == talk.messages[:3]


def test_whoever_sends_what_another_person_said_follows_nothing_of_theirs(
    world: World, domain: str, memory: str
) -> None:
    talk = Talk(world, domain, named=False)
    talk.ask("A question of mine?")
    other = Talk(world, domain, named=False)
    other.messages = [dict(message) for message in talk.messages]
    asked = other.ask("And I go on with it?")
    assert other.follows(asked) is None and other.conversation != talk.conversation
    assert other.whole(asked) == other.messages[:3]


def test_a_named_conversation_is_not_gone_on_with_by_another(world: World, domain: str, memory: str) -> None:
    talk = Talk(world, domain)
    talk.ask("One?")
    second = Talk(world, domain, person=talk.person)
    second.conversation = f"cnv_{uuid4().hex}"
    second.messages = [dict(message) for message in talk.messages]
    asked = second.ask("Two?")
    assert second.conversation != talk.conversation
    assert second.follows(asked) is None and second.whole(asked) == second.messages[:3]


def test_what_is_sent_again_after_an_erasure_is_recorded_anew(world: World, domain: str, memory: str) -> None:
    talk = Talk(world, domain)
    talk.ask("One?")
    world.services.keyring.destroy(f"person:{talk.person}")
    second = talk.ask("Two?")
    assert talk.follows(second) is None and talk.whole(second) == talk.messages[:3]


def test_a_correction_late_in_a_conversation_is_exported_with_all_that_stood_before_it(world: World) -> None:
    domain = world.domain()
    talk = Talk(world, domain)
    for words in ("One?", "Two?", "Three?"):
        talk.ask(words)
    said = {"reply_id": talk.answer["metadata"]["reply_ids"][0], "user": talk.person, "correction": "Four."}
    given = world.as_chat.post("/v1/feedback", json=said)
    world.caught_up(given.json()["position"])

    def exported() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = world.as_data.get(f"/v1/domains/{domain}/examples").json()["data"]
        return found

    (example,) = wait_until(exported, what="the example")
    assert (example["instruction"], example["output"]) == ("Three?", "Four.")
    assert example["history"] == [["One?", "You said: One?"], ["Two?", "You said: Two?"]]


def test_a_door_without_postgresql_records_anew_what_it_does_not_remember(
    world: World, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(world, domain)
    talk.ask("One?")
    monkeypatch.setattr(world.services.turns, "_database", open_database("postgresql://nobody@127.0.0.1:1/none"))
    world.services.turns._points.clear()
    second = talk.ask("Two?")
    assert talk.follows(second) is None and talk.whole(second) == talk.messages[:3]
