"""The whole that a prompt ends, put together of its parts; and digests that only their person's key makes."""

import json

import pytest

from streams.errors import Invalid
from streams.history import Before, Part, Prompt, Reply, digests, next_digest, open_question, open_whole
from streams.sealed import Sealed
from streams.sealing import seal
from tests.keyring import Ring

RING = Ring()
KEY = RING.key_for("person:ann")


def said(*words: str, role: str = "user") -> Sealed:
    return seal(json.dumps([{"role": role, "content": each} for each in words]), KEY, "e#messages")


def replied(words: str) -> Sealed:
    return seal(words, KEY, "e#text")


def test_a_whole_goes_from_reply_to_prompt_and_from_prompt_to_prompt_back_to_its_beginning() -> None:
    prompts = {"p1": Prompt(said("one"), None), "p2": Prompt(said("two"), "r1"), "p3": Prompt(said("three"), "p2")}
    before = Before(prompts, {"r1": Reply(replied("an answer"), "p1")})
    whole = before.whole(said("four"), "p3")
    assert [part.is_reply for part in whole] == [False, True, False, False, False]
    assert [message["content"] for message in open_whole(whole, RING)] == ["one", "an answer", "two", "three", "four"]
    assert [message["role"] for message in open_whole(whole, RING)] == ["user", "assistant", "user", "user", "user"]


@pytest.mark.parametrize("follows", ["p9", "r9", "p1", "p2"])
def test_what_no_door_can_have_said_is_refused_and_never_followed_for_ever(follows: str) -> None:
    prompts = {"p1": Prompt(said("one"), "p2"), "p2": Prompt(said("two"), "p1")}
    with pytest.raises(Invalid):
        Before(prompts, {"r9": Reply(replied("an answer"), "p8")}).whole(said("three"), follows)


@pytest.mark.parametrize("words", ["", "{}", "[1]", '[{"role": "user"}]', "null"])
def test_a_part_that_does_not_open_to_messages_is_invalid(words: str) -> None:
    with pytest.raises(Invalid):
        open_whole((Part(seal(words, KEY, "e#messages")),), RING)


def test_a_question_is_the_last_of_its_own_part_and_a_persons() -> None:
    assert open_question(said("one", "two"), RING) == "two"
    with pytest.raises(Invalid):
        open_question(said("one", role="assistant"), RING)


def test_digests_are_equal_for_equal_beginnings_under_one_key_in_one_domain_only() -> None:
    talk = [{"role": role, "content": words} for role, words in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    found = digests("roads", talk, KEY)
    assert found[:2] == digests("roads", talk[:2], KEY) and len(set(found)) == 3
    assert found[2] == next_digest(found[1], talk[2], KEY)
    moved = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": ""}, talk[2]]
    others = [
        digests("fields", talk, KEY),
        digests("roads", talk, RING.key_for("person:ben")),
        digests("roads", moved, KEY),
    ]
    assert not any(set(other) & set(found) for other in others)
