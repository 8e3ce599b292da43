"""Conversations: which replies become examples and preferences of their domain, and under which ids."""

from typing import Any
from uuid import uuid5

import msgspec
import pytest
from msgspec.structs import replace

from streams.envelope import Consequence
from streams.facts.conversations import (
    ConversationEvent,
    Draft,
    DraftPicked,
    DraftsRanked,
    Exchange,
    PromptAsked,
    ReplyCommented,
    ReplyCorrected,
    ReplyDrafted,
    ReplyRated,
    fold,
    key_of,
    react,
)
from streams.facts.examples import ExampleAccepted, ExampleRetired, PreferenceAccepted
from tests.samples import DOMAIN, START, enveloped, sealed

SAID: dict[str, Any] = {"domain": DOMAIN, "conversation_id": "cnv_1", "person": "ana"}
FEEDBACK: dict[str, Any] = SAID | {"request_digest": "9f" * 32}


def asked(prompt_id: str = "p1", follows: str | None = None) -> PromptAsked:
    messages = sealed(f"asked {prompt_id}")
    return PromptAsked(**SAID, prompt_id=prompt_id, messages=messages, release=0, follows=follows)


def drafted(reply_id: str, prompt_id: str = "p1") -> ReplyDrafted:
    return ReplyDrafted(
        **SAID,
        prompt_id=prompt_id,
        reply_id=reply_id,
        index=0,
        release=0,
        text=sealed(f"drafted {reply_id}"),
        finish_reason="stop",
        prompt_tokens=3,
        completion_tokens=4,
        duration_s=0.1,
    )


def picked(reply_id: str, prompt_id: str = "p1") -> DraftPicked:
    return DraftPicked(**FEEDBACK, prompt_id=prompt_id, reply_id=reply_id)


def ranked(*tiers: tuple[str, ...]) -> DraftsRanked:
    return DraftsRanked(**FEEDBACK, prompt_id="p1", reply_id="r1", ranking=tiers)


def corrected(reply_id: str = "r1", prompt_id: str = "p1", person: str = "ana") -> ReplyCorrected:
    text = sealed(f"corrected {reply_id}", f"key-of-{person}")
    return ReplyCorrected(**FEEDBACK | {"person": person}, prompt_id=prompt_id, reply_id=reply_id, text=text)


def rated() -> ReplyRated:
    return ReplyRated(**FEEDBACK, prompt_id="p1", reply_id="r1", rating=-1, scale="thumb")


def commented() -> ReplyCommented:
    return ReplyCommented(**FEEDBACK, prompt_id="p1", reply_id="r1", text=sealed("comment"))


def told(*events: ConversationEvent) -> tuple[dict[str, Exchange], list[Consequence]]:
    """The exchanges after `events`, by prompt, and what they implied."""
    states: dict[str, Exchange] = {}
    said: list[Consequence] = []
    for number, event in enumerate(events):
        envelope = enveloped(event, f"told {number}")
        state = states.get(event.prompt_id, Exchange())
        implied = react(state, envelope, event)
        assert react(state, envelope, event) == implied, "the same event twice is one consequence"
        states[event.prompt_id] = state = fold(state, envelope, event)
        said.extend(implied)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=Exchange) == state
    return states, said


def test_prompts_and_drafts_are_remembered_for_the_feedback_on_them() -> None:
    states, said = told(asked("p1"), drafted("r1"), asked("p2", "r1"), drafted("r2", "p2"))
    assert states == {
        "p1": Exchange(sealed("asked p1"), None, {"r1": Draft(sealed("drafted r1"))}),
        "p2": Exchange(sealed("asked p2"), "r1", {"r2": Draft(sealed("drafted r2"))}),
    }
    assert said == [], "what was only said teaches nothing"


def test_a_correction_becomes_an_example_of_the_prompt_with_the_persons_own_words() -> None:
    _, (found,) = told(asked(), drafted("r1"), corrected(person="ben"))
    cause = enveloped(corrected(), "told 2").id
    assert found.id == uuid5(cause, "example_accepted"), "the same correction twice is one example"
    assert found.event == ExampleAccepted(
        domain=DOMAIN,
        example_id=str(uuid5(cause, "example")),
        kind="correction",
        person="ben",
        prompt=sealed("asked p1"),
        answer=sealed("corrected r1", "key-of-ben"),
        said_at=START,
        prompt_id="p1",
    )


def test_the_newest_correction_of_a_reply_replaces_the_ones_before_it() -> None:
    _, said = told(asked(), drafted("r1"), corrected(), corrected(), corrected())
    assert len({found.id for found in said}) == 5
    in_force: set[str] = set()
    for number, found in enumerate(said):
        match found.event:
            case ExampleAccepted(example_id=example_id):
                in_force.add(example_id)
            case ExampleRetired(example_id=example_id, by=by):
                assert by == "ana" and example_id in in_force
                in_force.remove(example_id)
        assert len(in_force) <= 1, f"no more than one counts after {number}"
    assert in_force == {str(uuid5(enveloped(corrected(), "told 4").id, "example"))}


def test_a_correction_replaces_no_other_persons_and_no_other_replys() -> None:
    _, said = told(
        asked(), drafted("r1"), drafted("r2"), corrected("r1"), corrected("r1", person="ben"), corrected("r2")
    )
    assert [type(found.event) for found in said] == [ExampleAccepted] * 3


def test_a_prompt_picked_from_again_is_one_preference() -> None:
    _, said = told(asked(), drafted("r1"), drafted("r2"), picked("r1"), picked("r2"))
    first, second = (found.event for found in said)
    assert isinstance(first, PreferenceAccepted) and isinstance(second, PreferenceAccepted)
    assert first.preference_id == second.preference_id and second.chosen == sealed("drafted r2")
    assert said[0].id != said[1].id


def test_what_a_service_says_for_a_person_names_its_key_and_what_persons_say_themselves_names_none() -> None:
    exchange = Exchange(sealed("asked p1"), None, {"r1": Draft(sealed("one")), "r2": Draft(sealed("two"))})
    for event in (corrected(), picked("r1")):
        for source, service in (
            ("/noria/api/services/abc", "abc"),
            ("/noria/api/keys/abc", None),
            ("/noria/api", None),
        ):
            (found,) = react(exchange, replace(enveloped(event), source=source), event)
            assert isinstance(found.event, ExampleAccepted | PreferenceAccepted)
            assert found.event.service == service


def test_a_picked_draft_becomes_a_preference_over_all_others_of_its_prompt() -> None:
    _, (found,) = told(asked(), drafted("r3"), drafted("r1"), drafted("r2"), picked("r2"))
    assert isinstance(found.event, PreferenceAccepted)
    cause = enveloped(picked("r2"), "told 4").id
    assert found.id == uuid5(cause, "preference_accepted")
    assert found.event == PreferenceAccepted(
        domain=DOMAIN,
        preference_id=found.event.preference_id,
        person="ana",
        prompt=sealed("asked p1"),
        chosen=sealed("drafted r2"),
        rejected=(sealed("drafted r1"), sealed("drafted r3")),
        said_at=START,
        prompt_id="p1",
    )


def test_an_order_of_drafts_becomes_a_preference_for_the_best_over_all_that_stand_below_it() -> None:
    drafts = asked(), drafted("r1"), drafted("r2"), drafted("r3"), drafted("r4")
    _, (found,) = told(*drafts, ranked(("r3", "r1"), ("r4", "unknown")))
    assert isinstance(found.event, PreferenceAccepted)
    assert (found.event.chosen, found.event.rejected) == (sealed("drafted r3"), (sealed("drafted r4"),))
    _, (first, second) = told(*drafts, picked("r1"), ranked(("r2",), ("r1",)))
    assert isinstance(first.event, PreferenceAccepted) and isinstance(second.event, PreferenceAccepted)
    assert first.event.preference_id == second.event.preference_id, "one of a person on a prompt"


@pytest.mark.parametrize("tiers", [(), ((),), (("r1", "r2"),), (("unknown",), ("r1",)), (("r1",), ("unknown",))])
def test_an_order_in_which_nothing_known_stands_below_another_is_no_preference(tiers: tuple[tuple[str, ...]]) -> None:
    _, said = told(asked(), drafted("r1"), drafted("r2"), ranked(*tiers))
    assert said == []


def test_drafts_of_other_prompts_are_not_what_a_pick_rejected() -> None:
    _, said = told(asked("p1"), drafted("r1", "p1"), asked("p2"), drafted("r2", "p2"), picked("r1", "p1"))
    assert said == [], "and a pick among one is no preference"


@pytest.mark.parametrize("feedback", [rated(), commented()], ids=lambda event: type(event).__name__)
def test_a_rating_and_a_comment_teach_nothing_and_change_nothing(feedback: ConversationEvent) -> None:
    before, _ = told(asked(), drafted("r1"))
    after, said = told(asked(), drafted("r1"), feedback)
    assert after == before and said == []


@pytest.mark.parametrize(
    "events",
    [
        (corrected(),),
        (asked(), corrected()),
        (drafted("r1"), corrected()),
        (asked("p2"), drafted("r1"), corrected()),
        (picked("r1"),),
        (asked(), picked("r1")),
        (drafted("r1"), drafted("r2"), picked("r1")),
        (asked(), drafted("r2"), drafted("r3"), picked("r1")),
    ],
)
def test_feedback_on_what_was_never_said_stays_without_effect(events: tuple[ConversationEvent, ...]) -> None:
    _, said = told(*events)
    assert said == []


def test_the_state_holds_sealed_words_only_and_folding_never_changes_what_was_before() -> None:
    before = Exchange()
    after = fold(fold(before, enveloped(asked()), asked()), enveloped(drafted("r1")), drafted("r1"))
    assert before == Exchange() and after != before
    assert after.prompt == sealed("asked p1") and after.drafts["r1"].text == sealed("drafted r1")


@pytest.mark.parametrize(
    "feedback", [corrected("r2", "p2"), picked("r2", "p2")], ids=lambda event: type(event).__name__
)
def test_what_becomes_of_a_reply_names_what_its_prompt_followed(feedback: ConversationEvent) -> None:
    asking = (asked("p1"), drafted("r1"), asked("p2", "r1"), drafted("r2", "p2"), drafted("r3", "p2"))
    _, (found,) = told(*asking, feedback)
    assert isinstance(found.event, ExampleAccepted | PreferenceAccepted)
    assert (found.event.prompt, found.event.follows) == (sealed("asked p2"), "r1")


def test_prompts_whose_ids_only_look_alike_when_joined_have_states_of_their_own() -> None:
    pairs = [("a", "b c"), ("a b", "c"), ('a","b', "c"), ("a", 'b","c')]
    events = [msgspec.structs.replace(asked(prompt), conversation_id=talk) for talk, prompt in pairs]
    assert len({key_of(event) for event in events}) == len(pairs)
