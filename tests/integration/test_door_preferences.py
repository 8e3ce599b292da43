"""What people say at the door of a domain's answers is there as pairs, until they are erased."""

from typing import Any
from uuid import uuid4

import httpx

from streams.preferred import ERASED
from streams.rankings import EQUAL
from streams.reading.preferences import cut_now, said_of_answers
from tests.door_world import World


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
