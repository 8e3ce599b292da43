"""Feedback over HTTP: every kind, every refusal, and what it becomes."""

import json
import threading
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from streams import sealing
from streams.domain import unpack
from streams.envelope import Envelope
from streams.errors import Unacknowledged, Unavailable
from streams.facts.releases import ReleaseFinished, ReleaseStarted
from streams.facts.rounds import CandidateEvaluated, CandidateTrained, SnapshotSelected
from streams.fresh import Fresh
from streams.gate import Paired
from streams.log import Message, Position
from streams.sealed import Sealed
from tests import door_world
from tests.door_world import MODEL, World, wait_until
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def domain(world: World) -> str:
    return world.domain()


@pytest.fixture(scope="module")
def drafts(world: World, domain: str) -> list[str]:
    return list(world.chat(domain, n=3)["metadata"]["reply_ids"])


@pytest.fixture
def reply_id(world: World, domain: str) -> str:
    """A fresh reply to ann: `You said: hello there`."""
    return str(world.chat(domain)["metadata"]["reply_ids"][0])


def give(world: World, reply_id: str, key: str | None = None, user: str = "ann", **said: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    body = {"reply_id": reply_id, "user": user, **said}
    return world.as_chat.post("/v1/feedback", json=body, headers=headers)


def feedback_rows(world: World, reply_id: str) -> list[Any]:
    with world.database.connect() as connection:
        found = connection.exec_driver_sql("SELECT * FROM noria.feedback WHERE reply_id = %s", (reply_id,))
        return list(found.all())


@pytest.mark.parametrize(
    ("said", "kind", "rating", "scale"),
    [
        ({"rating": "up"}, "rating", 1, "thumb"),
        ({"rating": "down"}, "rating", -1, "thumb"),
        ({"rating": 1}, "rating", 1, "stars"),
        ({"rating": 5}, "rating", 5, "stars"),
        ({"pick": True}, "pick", None, None),
        ({"correction": "something else"}, "correction", None, None),
        ({"comment": "well"}, "comment", None, None),
    ],
)
def test_each_kind_is_recorded_and_answered_with_its_position(
    world: World, reply_id: str, said: dict[str, Any], kind: str, rating: int | None, scale: str | None
) -> None:
    answer = give(world, reply_id, **said)
    assert answer.status_code == 200, answer.text
    assert answer.json()["duplicate"] is False
    world.caught_up(answer.json()["position"])
    (row,) = feedback_rows(world, reply_id)
    assert (row.kind, row.rating, row.scale, row.person) == (kind, rating, scale, "ann")
    assert row.event_id == answer.json()["event_id"]


def test_a_comment_may_come_along_with_anything(world: World, reply_id: str) -> None:
    answer = give(world, reply_id, key=uuid4().hex, rating="down", comment="the date is wrong").json()
    world.caught_up(answer["position"])
    assert sorted(row.kind for row in feedback_rows(world, reply_id)) == ["comment", "rating"]


def test_a_correction_is_sealed_and_becomes_an_example(world: World) -> None:
    domain = world.domain()
    reply_id = world.chat(domain, "how far")["metadata"]["reply_ids"][0]
    answer = give(world, reply_id, correction="seven secret miles").json()
    wait_until(lambda: world.events(domain, "example_accepted"), what="the example")
    (corrected,) = world.events(domain, "reply_corrected")
    assert "secret" not in json.dumps(world.events(domain))
    sealed = Sealed(**corrected["data"]["text"])
    assert sealed.ref == f"{answer['event_id']}#text"
    assert sealing.open_sealed(sealed, world.services.keyring) == "seven secret miles"


def test_a_pick_among_drafts_becomes_a_preference(world: World) -> None:
    domain = world.domain()
    ids = world.chat(domain, n=2)["metadata"]["reply_ids"]
    assert give(world, ids[1], pick=True).status_code == 200
    (preference,) = wait_until(lambda: world.events(domain, "preference_accepted"), what="the preference")
    assert preference["data"]["person"] == "ann" and len(preference["data"]["rejected"]) == 1


def test_an_order_of_drafts_is_recorded_and_counts_as_a_preference(world: World) -> None:
    domain = world.domain()
    ids = world.chat(domain, n=4)["metadata"]["reply_ids"]
    ranking = [ids[2], [ids[0], ids[3]], ids[1]]
    answer = give(world, ids[0], key="order", ranking=ranking)
    assert answer.status_code == 200, answer.text
    assert give(world, ids[0], key="order", ranking=ranking).json() == {**answer.json(), "duplicate": True}
    assert give(world, ids[0], key="order", ranking=[ids[0], ids[1]]).status_code == 409
    (preference,) = wait_until(lambda: world.events(domain, "preference_accepted"), what="the preference")
    assert preference["data"]["person"] == "ann" and len(preference["data"]["rejected"]) == 3
    (row,) = feedback_rows(world, ids[0])
    assert (row.kind, row.ranking) == ("ranking", [[ids[2]], [ids[0], ids[3]], [ids[1]]])


@pytest.mark.parametrize(
    ("ranking", "status", "param"),
    [
        ([0], 400, "ranking"),
        ([], 400, "ranking"),
        ([0, []], 400, "ranking"),
        ([0, 1, [1]], 400, "ranking"),
        ([0, "rpl_nothing"], 422, "ranking"),
        ([0, "another"], 422, "ranking"),
        ([1, 2], 400, "reply_id"),
        ([0, *(f"rpl_{number}" for number in range(9))], 400, "ranking"),
        ("0", 400, "ranking"),
    ],
)
def test_an_order_that_is_none_of_drafts_of_one_prompt_is_refused_by_name(
    world: World, domain: str, drafts: list[str], reply_id: str, ranking: Any, status: int, param: str
) -> None:
    def named(one: Any) -> Any:
        return [named(each) for each in one] if isinstance(one, list) else drafts[one] if isinstance(one, int) else one

    answer = give(
        world,
        drafts[0],
        ranking=[reply_id if one == "another" else one for one in named(ranking)]
        if isinstance(ranking, list)
        else ranking,
    )
    assert (answer.status_code, answer.json()["error"]["param"].partition("[")[0]) == (status, param), answer.text


def test_feedback_given_at_once_waits_for_the_reply_to_be_known(world: World, domain: str) -> None:
    world.following.clear()
    reply_id = world.chat(domain)["metadata"]["reply_ids"][0]
    answers: list[httpx.Response] = []
    giving = threading.Thread(target=lambda: answers.append(give(world, reply_id, rating="up")))
    giving.start()
    giving.join(0.2)
    assert giving.is_alive()
    world.following.set()
    giving.join()
    assert answers[0].status_code == 200


def test_a_reply_that_cannot_be_known_yet_is_503_and_not_404(
    world: World, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.conversations.CATCH_UP_S", 0.3)
    world.following.clear()
    try:
        reply_id = world.chat(domain)["metadata"]["reply_ids"][0]
        answer = give(world, reply_id, rating="up")
    finally:
        world.following.set()
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "not_caught_up"
    assert int(answer.headers["Retry-After"]) >= 1
    assert give(world, reply_id, rating="up").status_code == 200


def test_an_unknown_reply_is_404(world: World) -> None:
    answer = give(world, "rpl_nothing", rating="up")
    assert answer.status_code == 404 and answer.json()["error"]["param"] == "reply_id"
    assert give(world, "rpl\x00", rating="up").status_code == 404


def test_another_person_is_403(world: World, reply_id: str) -> None:
    assert give(world, reply_id, user="eve", rating="up").status_code == 403
    assert feedback_rows(world, reply_id) == []


def test_the_same_key_and_body_get_the_first_answer_again(world: World, reply_id: str) -> None:
    first = give(world, reply_id, key="k-1", rating="up").json()
    again = give(world, reply_id, key="k-1", rating="up").json()
    assert again == {**first, "duplicate": True}
    world.caught_up(first["position"])
    assert len(feedback_rows(world, reply_id)) == 1


def test_the_same_key_with_another_body_is_409(world: World, reply_id: str) -> None:
    assert give(world, reply_id, key="k-2", rating="up").status_code == 200
    answer = give(world, reply_id, key="k-2", rating="down")
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "idempotency_key_reused"


def test_the_key_is_remembered_by_a_door_that_was_restarted(world: World, domain: str) -> None:
    reply_id = world.chat(domain)["metadata"]["reply_ids"][0]
    first = give(world, reply_id, key="k-3", rating="up", comment="so").json()
    fresh = door_world.build(world.settings, "another-door")
    server = door_world.make_server(door_world.create_app(fresh), "127.0.0.1", 0)
    threading.Thread(target=server.run, daemon=True).start()
    body = {"reply_id": reply_id, "user": "ann", "rating": "up", "comment": "so"}
    headers = {"Idempotency-Key": "k-3", "Authorization": f"Bearer {world.chat_key}"}
    url = f"http://127.0.0.1:{server.effective_port}/v1/feedback"
    assert httpx.post(url, json=body, headers=headers, timeout=PATIENCE_S).json() == {**first, "duplicate": True}
    assert httpx.post(url, json={**body, "rating": "down"}, headers=headers, timeout=PATIENCE_S).status_code == 409
    fresh.recorder.log.close()
    fresh.database.dispose()


def test_the_same_key_of_two_people_is_two_things(world: World, domain: str) -> None:
    of_ann, of_bob = (world.chat(domain, user=user)["metadata"]["reply_ids"][0] for user in ("ann", "bob"))
    first = give(world, of_ann, key="k-4", user="ann", rating="up").json()
    second = give(world, of_bob, key="k-4", user="bob", rating="up").json()
    assert first["event_id"] != second["event_id"] and not second["duplicate"]


def test_many_at_once_with_one_key_are_one(world: World, reply_id: str) -> None:
    answers: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(give(world, reply_id, key="k-5", rating="up").json()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({a["event_id"] for a in answers}) == 1 and sum(not a["duplicate"] for a in answers) == 1


@pytest.mark.parametrize("said", ["You said: hello there", "  You said: hello there\n", "Ｙou said: hello there"])
def test_a_correction_that_says_the_same_is_422(world: World, reply_id: str, said: str) -> None:
    answer = give(world, reply_id, correction=said)
    assert answer.status_code == 422 and answer.json()["error"]["param"] == "correction"


@pytest.mark.parametrize("name", ["correction", "comment"])
def test_text_over_its_limit_is_413(world: World, reply_id: str, name: str) -> None:
    assert give(world, reply_id, **{name: "x" * 32 * 1024}).status_code == 200
    answer = give(world, reply_id, **{name: "x" * (32 * 1024 + 1)})
    assert answer.status_code == 413 and answer.json()["error"]["param"] == name


def test_a_megabyte_is_413(world: World, reply_id: str) -> None:
    answer = give(world, reply_id, correction="x" * 1_000_000)
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({}, "rating"),
        ({"correction": ""}, "correction"),
        ({"correction": " \n"}, "correction"),
        ({"comment": ""}, "comment"),
        ({"rating": 0}, "rating"),
        ({"rating": 6}, "rating"),
        ({"rating": True}, "rating"),
        ({"rating": "great"}, "rating"),
        ({"pick": False}, "pick"),
        ({"pick": True, "rating": "up"}, "pick"),
        ({"correction": "x", "rating": "up"}, "correction"),
        ({"correction": 5}, "correction"),
        ({"made_up": 5}, "made_up"),
        ({"reply_id": ""}, "reply_id"),
        ({"reply_id": None}, "reply_id"),
        ({"user": "a\nb"}, "user"),
    ],
)
def test_what_says_nothing_or_too_much_is_400_naming_the_field(
    world: World, reply_id: str, said: dict[str, Any], param: str
) -> None:
    answer = world.as_chat.post("/v1/feedback", json={"reply_id": reply_id, "user": "ann", **said})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("raw", [b"", b"{", b'{"reply_id": "\xc3\x28"}', b'"x"', b'{"reply_id": "\\udc00"}'])
def test_a_broken_body_is_400(world: World, raw: bytes) -> None:
    answer = world.as_chat.post("/v1/feedback", content=raw)
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_a_bad_idempotency_key_is_400(world: World, reply_id: str) -> None:
    answer = give(world, reply_id, key="has blanks in it", rating="up")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "Idempotency-Key"


def test_somebody_without_a_name_speaks_as_their_key(world: World, domain: str) -> None:
    body = {"model": domain, "messages": [{"role": "user", "content": "hi"}]}
    reply_id = world.as_chat.post("/v1/chat/completions", json=body).json()["metadata"]["reply_ids"][0]
    assert world.as_chat.post("/v1/feedback", json={"reply_id": reply_id, "rating": "up"}).status_code == 200
    assert world.as_data.post("/v1/feedback", json={"reply_id": reply_id, "rating": "up"}).status_code == 403


def test_a_correction_is_followed_from_waiting_to_live(world: World) -> None:
    domain = world.domain(policy={"thresholds": {"corrections": 2}})
    ids = [world.chat(domain, words, user="zoe")["metadata"]["reply_ids"][0] for words in ("one", "two")]

    def mine() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = world.as_data.get("/v1/people/zoe/corrections").json()["data"]
        return found

    assert give(world, ids[0], user="zoe", correction="first").status_code == 200
    wait_until(mine)
    assert [c["state"] for c in mine()] == ["waiting"] and mine()[0]["reply_id"] == ids[0]
    assert give(world, ids[1], user="zoe", correction="second").status_code == 200
    rounds = wait_until(lambda: world.as_data.get("/v1/rounds", params={"domain": domain}).json()["data"])
    round_id = rounds[0]["round_id"]
    assert rounds[0]["step"] == "select" and rounds[0]["number"] == 1

    def order_id() -> UUID:
        """The order that the domain's round waits for."""
        with world.database.connect() as connection:
            body = connection.exec_driver_sql(
                "SELECT body FROM noria.states WHERE kind = 'domain' AND key = %s", (domain,)
            ).scalar_one()
        found = unpack(bytes(body), Fresh()).round
        assert found is not None
        return found.order_id

    selected = SnapshotSelected(
        domain=domain,
        round_id=round_id,
        order_id=order_id(),
        snapshot=MODEL,
        kept=tuple(c["example_id"] for c in mine()),
        earlier=0,
        wordings=0,
        dropped={},
    )
    world.caught_up(world.say(selected))
    assert {c["state"] for c in mine()} == {"in_round"} and mine()[0]["round"] == 1
    assert world.as_data.get(f"/v1/domains/{domain}/status").json()["round"]["step"] == "train"

    trained = CandidateTrained(
        domain=domain,
        round_id=round_id,
        order_id=order_id(),
        model="sha256:" + "2" * 64,
        adapter=MODEL,
        golden=MODEL,
        loss=0.1,
        steps=3,
        duration_s=1.0,
        export_difference=0.0,
    )
    world.caught_up(world.say(trained))
    paired = {
        "fixes": Paired(n=40, both=0, only_before=0, only_after=40, neither=0),
        "general": Paired(n=200, both=200, only_before=0, only_after=0, neither=0),
    }
    evaluated = CandidateEvaluated(
        domain=domain, round_id=round_id, order_id=order_id(), rows=MODEL, paired=paired, duration_s=1.0
    )
    world.caught_up(world.say(evaluated))

    def judged() -> dict[str, Any] | None:
        found: dict[str, Any] = world.as_data.get(f"/v1/rounds/{round_id}").json()
        return found if found["step"] == "swap" else None

    assert wait_until(judged)["verdict"]["outcome"] == "ship"
    started = ReleaseStarted(domain=domain, release=1, order_id=order_id(), model=trained.model)
    world.say(started)
    finished = ReleaseFinished(
        domain=domain,
        release=1,
        order_id=started.order_id,
        model=trained.model,
        golden_difference=0.0,
        ready_s=0.1,
        flip_ms=1.0,
    )
    world.caught_up(world.say(finished))
    assert {(c["state"], c["release"]) for c in mine()} == {("live", 1)}
    assert all(0 < c["live_after_s"] < 900 for c in mine())
    assert world.as_chat.get("/v1/people/zoe/corrections").json()["data"] == mine()  # who speaks for her may tell her
    newest = world.as_data.get("/v1/people/zoe/corrections", params={"limit": 1}).json()
    assert newest["data"] == mine()[:1] and newest["total"] == len(mine()) > 1
    assert world.as_chat.get("/v1/people/key:app/corrections").json()["data"] == []


def test_what_was_left_out_when_the_log_died_between_a_rating_and_its_comment_is_recorded_when_it_is_said_again(
    world: World, reply_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = world.services.recorder.append

    def half(envelopes: list[Envelope], timeout_s: float) -> list[Position]:
        whole(envelopes[:1])
        raise Unavailable("the log does not answer")

    said = {"rating": 4, "comment": "only half of it arrived"}
    with monkeypatch.context() as patched:
        patched.setattr(world.services.recorder, "append", half)
        assert give(world, reply_id, key="two-halves", **said).status_code == 503
    again = give(world, reply_id, key="two-halves", **said).json()
    assert again["duplicate"] is False
    world.caught_up(again["position"])
    assert sorted(row.kind for row in feedback_rows(world, reply_id)) == ["comment", "rating"]
    third = give(world, reply_id, key="two-halves", **said).json()
    assert third == again | {"duplicate": True}


def test_feedback_whose_acknowledgement_was_lost_is_one_event_when_it_is_sent_again(
    world: World, reply_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = world.services.recorder.log.append

    def unheard(messages: list[Message], timeout_s: float) -> list[Position]:
        """It landed; the broker's answer did not come."""
        whole(messages, timeout_s)
        raise Unacknowledged("the log did not acknowledge")

    with monkeypatch.context() as patched:
        patched.setattr(world.services.recorder.log, "append", unheard)
        lost = give(world, reply_id, key="unheard", rating=2)
    assert lost.status_code == 503 and lost.json()["error"]["code"] == "unacknowledged"
    assert "not known" in lost.json()["error"]["message"]

    def given() -> httpx.Response | None:
        answer = give(world, reply_id, key="unheard", rating=2)
        return answer if answer.status_code == 200 else None

    wait_until(given, what="the door tries the log again")
    again = give(world, reply_id, key="unheard", rating=2).json()
    world.caught_up(again["position"])
    assert [row.rating for row in feedback_rows(world, reply_id)] == [2]
