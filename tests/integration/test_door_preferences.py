"""What people say at the door of a domain's answers is there as pairs, until they are erased."""

from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from sqlalchemy import text

from streams.preferred import ERASED
from streams.rankings import EQUAL
from streams.reading.preferences import cut_now, said_of_answers
from streams.sealed import Sealed
from streams.sealing import open_sealed
from tests.door_world import World, wait_until


def give(world: World, reply_id: str, user: str, **said: Any) -> dict[str, Any]:
    answer = world.as_chat.post("/v1/feedback", json={"reply_id": reply_id, "user": user, **said})
    assert answer.status_code == 200, answer.text
    world.caught_up(answer.json()["position"])
    found: dict[str, Any] = answer.json()
    return found


def preferences(world: World, domain: str, **asked: Any) -> httpx.Response:
    return world.as_data.get(f"/v1/domains/{domain}/preferences", params=asked)


def test_what_is_said_of_answers_makes_pairs_until_its_person_is_erased(world: World) -> None:
    domain, ann, ben = world.domain(), f"ann-{uuid4().hex[:6]}", f"ben-{uuid4().hex[:6]}"
    first, second = world.chat(domain, "how far", user=ann, n=2)["metadata"]["reply_ids"]
    give(world, first, ann, ranking=[second, first])
    correction = give(world, first, ann, correction="Seven miles.")
    (other,) = world.chat(domain, "How far?", user=ben)["metadata"]["reply_ids"]
    down = give(world, other, ben, rating="down")
    said = preferences(world, domain).json()
    (pair,) = said["pairs"]
    assert pair["prompt"] == [{"role": "user", "content": "how far"}] and pair["events"] == [correction["event_id"]]
    assert (pair["chosen"], pair["rejected"]) == ("Seven miles.", "You said: how far")
    assert said["held"] == {EQUAL: 1}, "the engine says the same twice"
    labels = {label["completion"]: (label["label"], label["events"]) for label in said["labels"]}
    assert labels["You said: How far?"] == (False, [down["event_id"]]) and labels["Seven miles."][0]
    with world.database.connect() as connection:
        read = cut_now(connection)
        before = said_of_answers(connection, domain, read, None)
    give(world, other, ben, correction="Eight miles.")
    with world.database.connect() as connection:
        assert said_of_answers(connection, domain, read, None) == before, "what came later lies behind the cut"
        assert said_of_answers(connection, domain, cut_now(connection), None) != before
    assert "Eight miles." in {one["chosen"] for one in preferences(world, domain).json()["pairs"]}
    erased = world.as_operator.post(f"/v1/people/{ann}/erase")
    world.caught_up(erased.json()["position"])
    left = preferences(world, domain).json()
    assert {one["chosen"] for one in left["pairs"]} == {"Eight miles."} and left["held"] == {ERASED: 1}


def test_what_a_data_team_brings_is_ranked_with_the_rest_and_can_be_taken_back(world: World) -> None:
    domain, person = world.domain(), f"team-{uuid4().hex[:6]}"
    asked = [{"role": "user", "content": "How far?"}]
    rows = [
        {"prompt": asked, "chosen": [{"role": "assistant", "content": "Seven."}], "rejected": "Far.", "score": 1},
        {"prompt": "How deep?", "completion": "Deep.", "label": False},
        {"instruction": "how far", "chosen": "Far.", "rejected": "Very far."},
        {"instruction": "How old?", "input": "", "output": "Ten years.", "kto_tag": True},
    ]
    said = world.as_data.post(f"/v1/domains/{domain}/preferences", params={"user": person}, json=rows).json()
    assert (said["added"], said["set_aside"]) == (4, {"score": 1})
    world.caught_up(said["position"])
    again = world.as_data.post(f"/v1/domains/{domain}/preferences", params={"user": person}, json=rows).json()
    assert (again["added"], again["known"]) == (0, 4)
    found = preferences(world, domain).json()
    pairs = {(pair["chosen"], pair["rejected"]) for pair in found["pairs"]}
    assert pairs == {("Seven.", "Far."), ("Far.", "Very far."), ("Seven.", "Very far.")}
    assert {one["completion"]: one["label"] for one in found["labels"]}.items() >= {
        "Deep.": False,
        "Ten years.": True,
    }.items()
    gone = world.as_data.post(f"/v1/domains/{domain}/preferences/retire", json={"import": said["import"]}).json()
    assert gone["retired"] == 4
    world.caught_up(gone["position"])
    assert preferences(world, domain).json() == {"pairs": [], "labels": [], "held": {}}


def test_what_is_brought_and_is_no_preference_is_refused_by_its_place(world: World) -> None:
    domain = world.domain()
    fine = {"prompt": "How far?", "chosen": "Seven.", "rejected": "Far."}
    for wrong, place in (
        ({"rejected": "Seven. "}, "rejected"),
        ({"rejected": None}, "rejected"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [{"role": "assistant", "content": "Hello."}]}, "prompt"),
        ({"chosen": [{"role": "user", "content": "Seven."}]}, "chosen"),
        ({"label": True}, "output"),
        ({"chosen": "x" * 40_000}, ""),
    ):
        answer = world.as_data.post(f"/v1/domains/{domain}/preferences", json=[fine, fine | wrong])
        assert answer.status_code in (400, 413) and answer.json()["error"]["param"] == f"[1].{place}".rstrip("."), wrong
    assert world.events(domain, "ranking_accepted") == []


def test_a_share_that_is_none_is_refused_by_name(world: World) -> None:
    domain = world.domain()
    for share in ("0", "1.5", "much", "nan"):
        answer = preferences(world, domain, person_share=share)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "person_share")
    assert preferences(world, domain).json() == {"pairs": [], "labels": [], "held": {}}


def test_a_style_guide_makes_pairs_of_the_answers_that_are_there_where_nobody_says_which_is_better(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain, ann = world.domain(), f"ann-{uuid4().hex[:6]}"

    def make() -> dict[str, Any]:
        answer = world.as_data.post(f"/v1/domains/{domain}/style/pairs", json={})
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        if made["position"] is not None:
            world.caught_up(made["position"])
        return made

    def pairs() -> set[tuple[str, str, bool]]:
        found = preferences(world, domain).json()["pairs"]
        return {(pair["chosen"], pair["rejected"], pair["by_guide"]) for pair in found}

    refused = world.as_data.post(f"/v1/domains/{domain}/style/pairs", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "no_guide")
    guide = [{"rule": "at_most_words", "value": 3}, {"rule": "whole_sentences"}, {"rule": "no_opener"}]
    known = world.as_operator.get(f"/v1/domains/{domain}/policy").json()
    told = world.as_operator.put(f"/v1/domains/{domain}/policy", json=known | {"style": guide})
    world.caught_up(told.json()["position"])
    short, plain, worst, own = (
        "Seven miles.",
        "It is seven miles.",
        "Sure, it is seven miles",
        "it is about eight miles",
    )
    drafts = [short, plain, worst]
    monkeypatch.setattr(world.engine, "answer", lambda messages: [drafts.pop()])
    world.chat(domain, "how far", user=ann, n=3)
    wait_until(lambda: len(world.events(domain, "reply_drafted")) == 3)
    made = make()
    assert (made["prompts"], made["added"]) == (1, 3)
    assert pairs() == {(short, plain, True), (short, worst, True), (plain, worst, True)}
    assert {event["data"]["source"] for event in world.events(domain, "ranking_accepted")} == {"style"}
    again = make()
    assert (again["added"], again["known"], again["position"]) == (0, 3, None)
    with world.database.connect() as connection:
        found = connection.execute(text("SELECT reply_id, text FROM noria.replies WHERE domain = :d"), {"d": domain})
        sealed = {reply_id: msgspec.convert(words, Sealed) for reply_id, words in found.tuples()}
    of = {open_sealed(words, world.services.keyring): reply_id for reply_id, words in sealed.items()}
    give(world, of[short], ann, correction=own)
    wait_until(lambda: world.events(domain, "example_accepted"))
    assert make()["added"] == 1, "what she wrote wins over the worst, and for its wording it loses to none"
    give(world, of[worst], ann, ranking=[of[worst], of[short], of[plain]])
    said = {
        (worst, short, False),
        (worst, plain, False),
        (short, plain, False),
        (own, short, False),
        (own, plain, False),
    }
    assert pairs() == said | {(own, worst, True)}, "where a person says which is better, no guide does"
    gone = world.as_data.post(f"/v1/domains/{domain}/preferences/retire", json={"import": made["import"]}).json()
    assert gone["retired"] == 3
    world.caught_up(gone["position"])
    assert pairs() == said | {(own, worst, True)}
    erased = world.as_operator.post(f"/v1/people/{ann}/erase")
    world.caught_up(erased.json()["position"])
    assert pairs() == set()
