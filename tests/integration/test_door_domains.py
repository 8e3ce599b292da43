"""Domains, policies, exams, examples, rounds, releases, events and people over HTTP."""

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api import domains
from api.client import Address, Door
from api.recording import POLL_S
from streams.events import CONVERSATIONS
from streams.facts.releases import CandidateRetired, ReleaseRolledBack
from streams.log import KafkaLog, Message
from tests.door_world import MODEL, World, wait_until
from tests.engine_server import EngineServer
from tests.integration.by_hand import change, rows
from tests.waiting import PATIENCE_S
from workers.context import Context
from workers.reconciler import Reconciler


def error_of(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["error"]["param"]


def correct(world: World, domain: str, words: str, correction: str, user: str = "ann") -> str:
    """One correction; the position of its event."""
    reply_id = world.chat(domain, words, user=user)["metadata"]["reply_ids"][0]
    body = {"reply_id": reply_id, "user": user, "correction": correction}
    answer = world.as_chat.post("/v1/feedback", json=body)
    assert answer.status_code == 200, answer.text
    position: str = answer.json()["position"]
    return position


def test_a_domain_is_created_with_its_policy_and_can_be_read_at_once(world: World) -> None:
    body = {
        "domain": "pumps-1",
        "title": "Pumps 泵",
        "languages": ["en", "zh-CN"],
        "system_prompt": "Answer about pumps.",
        "replay_prompts": ["What is the capital of France?"],
        "policy": {"thresholds": {"corrections": 20, "people": 4}},
    }
    created = world.as_operator.post("/v1/domains", json=body)
    assert created.status_code == 201 and created.json()["base_model"] == MODEL
    shown = world.as_data.get("/v1/domains/pumps-1", params={"after": created.json()["position"]}).json()
    assert shown["title"] == "Pumps 泵" and shown["languages"] == ["en", "zh-CN"]
    assert shown["policy"]["thresholds"]["corrections"] == 20 and shown["policy"]["thresholds"]["people"] == 4
    assert "pumps-1" in [row["domain"] for row in world.as_data.get("/v1/domains").json()["data"]]
    again = world.as_operator.post("/v1/domains", json=body)
    assert error_of(again) == (409, "domain")


def test_whoever_creates_a_domain_may_go_on_at_once_although_the_projections_lag(world: World) -> None:
    item = {"question": "How often?", "answer": "Weekly.", "keys": ["weekly"], "kind": "held_out"}
    world.following.clear()
    try:
        created = world.as_operator.post("/v1/domains", json={"domain": "in-a-hurry"})
        assert created.status_code == 201, created.text
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(world.as_data.post("/v1/domains/in-a-hurry/exam", json=[item]))
        )
        asking.start()
    finally:
        world.following.set()
    asking.join()
    assert [answer.status_code for answer in answers] == [200], answers[0].text


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"domain": "Bad Name"}, 400, "domain"),
        ({"domain": "-x"}, 400, "domain"),
        ({"domain": "x" * 64}, 400, "domain"),
        ({"domain": 5}, 400, "domain"),
        ({"domain": None}, 400, "domain"),
        ({"title": "a\x00b"}, 400, "title"),
        ({"languages": ["english!"]}, 400, "languages[0]"),
        ({"base_model": "nobody"}, 422, "base_model"),
        ({"engine": "abacus"}, 422, "engine"),
        ({"replay_prompts": [""]}, 400, "replay_prompts[0]"),
        ({"made_up": 1}, 400, "made_up"),
        ({"policy": {"thresholds": {"corrections": 0}}}, 422, "policy.thresholds.corrections"),
        ({"policy": {"thresholds": {"corrections": 2**64}}}, 422, "policy.thresholds.corrections"),
        ({"policy": {"recipe": {"epochs": 10**6}}}, 422, "policy.recipe.epochs"),
        ({"policy": {"thresholds": {"corrections": "many"}}}, 400, "policy.thresholds.corrections"),
        ({"policy": {"made_up": 1}}, 400, "policy.made_up"),
        ({"policy": {"schedule": {"cron": "never"}}}, 422, "policy.schedule.cron"),
        ({"policy": {"budget_timezone": "Mars/Base"}}, 422, "policy.budget_timezone"),
    ],
)
def test_a_domain_that_cannot_be_is_refused_by_field(
    world: World, change: dict[str, Any], status: int, param: str
) -> None:
    answer = world.as_operator.post("/v1/domains", json={"domain": "fine", "base_model": MODEL, **change})
    assert error_of(answer) == (status, param)


def test_a_policy_is_set_and_shown(world: World) -> None:
    domain = world.domain()
    policy = {"thresholds": {"corrections": 7}, "quiet_hours": {"start": "22:00", "end": "06:00"}}
    answer = world.as_operator.put(f"/v1/domains/{domain}/policy", json=policy)
    assert answer.status_code == 200
    shown = world.as_data.get(f"/v1/domains/{domain}/policy", params={"after": answer.json()["position"]}).json()
    assert shown["thresholds"]["corrections"] == 7 and shown["quiet_hours"]["end"] == "06:00"
    bad = world.as_operator.put(f"/v1/domains/{domain}/policy", json={"quiet_hours": {"start": "25:00", "end": "1"}})
    assert error_of(bad) == (422, "quiet_hours.start")
    assert world.as_operator.put("/v1/domains/nobody/policy", json={}).status_code == 404


def test_the_status_says_why_not_yet(world: World) -> None:
    domain = world.domain(policy={"thresholds": {"corrections": 3}})
    before = world.as_data.get(f"/v1/domains/{domain}/status").json()
    assert before["missing"][0]["words"] == "0 of 3 corrections; 3 more" and before["live_release"] == 0
    correct(world, domain, "one", "eins")
    status = wait_until(lambda: _status(world, domain, lambda s: s["gathered"]["corrections"] == 1))
    assert status["missing"] == [
        {"code": "corrections", "values": {"have": 1, "need": 3}, "words": "1 of 3 corrections; 2 more"}
    ]
    assert status["feedback"] == {"correction": 1} and status["serving"]["state"] == "ready"
    assert status["round"] is None and not status["due"]


def _status(world: World, domain: str, holds: Any) -> Any:
    status = world.as_data.get(f"/v1/domains/{domain}/status").json()
    return status if holds(status) else None


def test_exam_items_are_sealed_and_adding_twice_adds_once(world: World) -> None:
    domain = world.domain()
    items = [
        {"question": "How secret?", "answer": "Very.", "keys": ["very", "utterly"], "kind": "held_out"},
        {"question": "Capital of France?", "answer": "Paris", "kind": "general"},
    ]
    added = world.as_data.post(f"/v1/domains/{domain}/exam", json=items).json()
    assert (added["added"], added["known"]) == (2, 0)
    shown = world.as_data.get(f"/v1/domains/{domain}/exam", params={"after": added["position"]}).json()
    assert shown["data"][0] | {"item_id": ""} == items[0] | {"item_id": ""}
    assert shown["data"][1]["keys"] == ["Paris"]
    again = world.as_data.post(f"/v1/domains/{domain}/exam", json=items).json()
    assert (again["added"], again["known"], again["ids"]) == (0, 2, added["ids"])
    assert "secret" not in json.dumps(world.events(domain))
    assert _status(world, domain, lambda s: s["exam"] == {"held_out": 1, "general": 1})


def test_an_exam_item_is_retired_once_and_what_is_added_again_is_new(world: World) -> None:
    domain = world.domain()
    path, items = f"/v1/domains/{domain}/exam", [{"question": "Who?", "answer": "She.", "kind": "general"}]
    items += [{"question": "When?", "answer": "Now.", "kind": "general"}]
    first = world.as_data.post(path, json=items).json()
    retired = world.as_data.post(f"{path}/retire", json={"items": first["ids"][:1], "reason": "unclear"}).json()
    assert (retired["retired"], retired["known"]) == (1, 0)
    shown = world.as_data.get(path, params={"after": retired["position"]}).json()
    assert [item["question"] for item in shown["data"]] == ["When?"] and shown["retired"] == 1
    assert _status(world, domain, lambda s: s["exam"] == {"general": 1})
    (event,) = world.events(domain, "exam_item_retired")
    assert event["data"]["item_id"] == first["ids"][0] and event["data"]["reason"] == "unclear"
    repeated = world.as_data.post(f"{path}/retire", json={"items": first["ids"][:1]}).json()
    assert (repeated["retired"], repeated["known"], repeated["position"]) == (0, 1, None)
    again = world.as_data.post(path, json=items).json()
    assert (again["added"], again["known"]) == (1, 1) and again["ids"][0] != first["ids"][0]
    assert again["ids"][1] == first["ids"][1]
    world.caught_up(again["position"])
    assert _status(world, domain, lambda s: s["exam"] == {"general": 2})
    third = world.as_data.post(path, json=items).json()
    assert (third["added"], third["ids"]) == (0, again["ids"])


def test_an_import_is_taken_back_by_its_id_and_nothing_else_with_it(world: World) -> None:
    domain = world.domain(policy={"thresholds": {"corrections": 40}})
    path = f"/v1/domains/{domain}/examples"
    one, two, three = [{"instruction": f"Say {word}", "output": word} for word in ("one", "two", "three")]
    world.as_data.post(path, json=[one])
    for part in ([one, two], [three]):
        said = world.as_data.post(path, params={"import": "team-a.1"}, json=part).json()
        assert said["import"] == "team-a.1"
    body = {"import": "team-a.1"}
    back = world.as_data.post(f"{path}/retire", json=body).json()
    assert back["retired"] == 2
    out = world.as_data.get(path, params={"after": back["position"]}).json()
    assert [item["output"] for item in out["data"]] == ["one"] and out["retired"] == 2
    assert world.as_data.post(f"{path}/retire", json=body).json()["known"] == 2


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "items"),
        ({"items": ["x"], "import": "y"}, 400, "items"),
        ({"items": ["nothing"]}, 404, "items[0]"),
        ({"import": "never"}, 404, "import"),
        ({"import": "never", "reason": "x" * 201}, 400, "reason"),
    ],
)
def test_what_is_not_there_cannot_be_retired(world: World, body: Any, status: int, param: str) -> None:
    domain = _one_domain(world, "retire-refusals")
    assert error_of(world.as_data.post(f"/v1/domains/{domain}/exam/retire", json=body)) == (status, param)


def _one_domain(world: World, name: str) -> str:
    return name if world.as_data.get(f"/v1/domains/{name}").status_code == 200 else world.domain(name)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, None),
        ([], 400, None),
        ([{"question": "x", "answer": "y", "kind": "odd"}], 400, "[0].kind"),
        ([{"question": " ", "answer": "y", "kind": "general"}], 400, "[0].question"),
        ([{"question": "x", "kind": "general"}], 400, "[0].answer"),
        ([{"question": "x" * 40_000, "answer": "y", "kind": "general"}], 413, "[0]"),
    ],
)
def test_a_bad_exam_is_refused_by_field(world: World, body: Any, status: int, param: str | None) -> None:
    domain = _one_domain(world, "exam-refusals")
    assert error_of(world.as_data.post(f"/v1/domains/{domain}/exam", json=body)) == (status, param)


def test_examples_go_in_and_come_out_in_the_alpaca_shape(world: World) -> None:
    domain = world.domain(policy={"thresholds": {"corrections": 40}})
    items = [
        {"instruction": "Name the law.", "input": "secret article 91", "output": "Road Traffic Safety Law"},
        {"instruction": "And then?", "output": "A fine.", "system": "Be brief.", "history": [["Hi", "Hello"]]},
    ]
    sent = [items[0] | {"system": None, "history": None, "id": "x1"}, items[1] | {"category": "fines", "id": "x2"}]
    added = world.as_data.post(f"/v1/domains/{domain}/examples", params={"user": "curie"}, json=sent).json()
    assert added["added"] == 2 and added["set_aside"] == {"category": 1, "id": 2}
    out = world.as_data.get(f"/v1/domains/{domain}/examples?format=alpaca", params={"after": added["position"]}).json()
    assert out["erased"] == out["retired"] == 0
    assert out["data"] == [
        {
            "instruction": "Name the law.\nsecret article 91",
            "input": "",
            "output": "Road Traffic Safety Law",
            "system": "",
            "history": [],
        },
        items[1] | {"input": ""},
    ]
    again = world.as_data.post(f"/v1/domains/{domain}/examples", params={"user": "curie"}, json=items).json()
    assert (again["added"], again["known"]) == (0, 2)
    assert "secret" not in json.dumps(world.events(domain))
    bad = world.as_data.post(f"/v1/domains/{domain}/examples", json=[{"instruction": "x", "output": ""}])
    assert error_of(bad) == (400, "[0].output")


def test_a_domain_is_taken_out_page_by_page_and_a_page_is_bounded(world: World) -> None:
    domain = world.domain(policy={"thresholds": {"corrections": 40}})
    items = [{"instruction": f"Question {number}?", "output": f"Answer {number}."} for number in range(7)]
    path = f"/v1/domains/{domain}/examples"
    added = world.as_data.post(path, json=items).json()
    gone = world.as_data.post(f"{path}/retire", json={"items": [added["ids"][1]]}).json()
    pages, since = [], 0
    while since is not None:
        page = world.as_data.get(path, params={"limit": 3, "since": since, "after": gone["position"]}).json()
        pages.append(([one["output"] for one in page["data"]], page["retired"], page["erased"]))
        since = page["next"]
    assert pages == [
        (["Answer 0.", "Answer 2."], 1, 0),
        (["Answer 3.", "Answer 4.", "Answer 5."], 0, 0),
        (["Answer 6."], 0, 0),
    ]
    door = Door(Address(world.door_url, world.data_key))
    whole = door.examples(domain)
    told = door.examples(domain, with_origin=True)["data"]
    door.close()
    assert [(one["example_id"], one["kind"]) for one in told] == [
        (id_, "annotation") for number, id_ in enumerate(added["ids"]) if number != 1
    ]
    assert [{name: one[name] for name in whole["data"][0]} for one in told] == whole["data"]
    assert error_of(world.as_data.get(path, params={"origin": "x"})) == (400, "origin")
    assert [one["output"] for one in whole["data"]] == [f"Answer {n}." for n in (0, 2, 3, 4, 5, 6)]
    assert (whole["retired"], whole["erased"]) == (1, 0)
    questions = [{"question": f"Who {number}?", "answer": "She.", "kind": "general"} for number in range(3)]
    asked = world.as_data.post(f"/v1/domains/{domain}/exam", json=questions).json()
    exam = {"limit": 2, "after": asked["position"]}
    first = world.as_data.get(f"/v1/domains/{domain}/exam", params=exam).json()
    second = world.as_data.get(f"/v1/domains/{domain}/exam", params=exam | {"since": first["next"]}).json()
    assert [len(page["data"]) for page in (first, second)] == [2, 1] and second["next"] is None
    assert error_of(world.as_data.get(path, params={"limit": 5001})) == (400, "limit")
    assert error_of(world.as_data.get(path, params={"since": "x"})) == (400, "since")


def test_a_large_import_is_taken_where_a_large_chat_is_not(world: World) -> None:
    domain = world.domain(policy={"thresholds": {"corrections": 400}})
    items = [{"instruction": f"{n} " + "x" * 10_000, "output": "y"} for n in range(60)]
    assert world.as_data.post(f"/v1/domains/{domain}/examples", json=items).json()["added"] == 60


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"recipe": {"method": "none"}}, 400, None),
        ({"recipe": {"method": "full", "rank": 8}}, 400, "recipe.rank"),
        ({"recipe": {"rank": 0}}, 422, "recipe.rank"),
        ({"recipe": {"method": "full", "learning_rate": 1e3}}, 422, "recipe.learning_rate"),
        ({"recipe": {"method": "brought", "adapter": "mine"}}, 422, "recipe.adapter"),
        ({"recipe": {"method": "brought", "adapter": "sha256:" + "a" * 64}, "opening": True}, 422, "recipe"),
        ({"recipe": {"method": "brought", "adapter": "sha256:" + "a" * 64}, "from_base": True}, 422, "from_base"),
        ({"from_base": True, "opening": True}, 422, "from_base"),
    ],
)
def test_a_recipe_by_which_no_round_could_train_is_refused_by_name(
    world: World, body: dict[str, Any], status: int, param: str | None
) -> None:
    domain = world.domain()
    refused = world.as_operator.post(f"/v1/domains/{domain}/rounds", json=body)
    assert refused.status_code == status, refused.text
    assert param is None or refused.json()["error"]["param"] == param


def test_a_round_is_asked_for_with_a_recipe_of_its_own(world: World) -> None:
    domain = world.domain()
    correct(world, domain, "one", "eins")
    recipe = {"method": "full", "epochs": 2}
    asked = world.as_operator.post(f"/v1/domains/{domain}/rounds", json={"recipe": recipe})
    assert asked.status_code == 202, asked.text
    (requested,) = wait_until(lambda: world.events(domain, "round_requested"))
    told = requested["data"]["policy"]["recipe"]
    assert (told["method"], told["epochs"]) == ("full", 2)


def test_a_round_is_asked_for_shown_and_cancelled(world: World) -> None:
    domain = world.domain()
    correct(world, domain, "one", "eins")
    asked = world.as_operator.post(f"/v1/domains/{domain}/rounds")
    assert asked.status_code == 202
    params = {"domain": domain, "after": asked.json()["position"]}
    (found,) = wait_until(
        lambda: world.as_data.get("/v1/rounds", params=params).json()["data"]
    )  # decided, and recorded
    assert found["step"] == "select" and found["reasons"][0]["words"] == "asked for by key:local"
    assert world.as_operator.post(f"/v1/domains/{domain}/rounds").status_code == 409
    assert world.as_data.get(f"/v1/rounds/{found['round_id']}").json() == found
    cancelled = world.as_operator.post(f"/v1/rounds/{found['round_id']}/cancel")
    assert cancelled.status_code == 202
    shown = world.as_data.get(f"/v1/rounds/{found['round_id']}", params={"after": cancelled.json()["position"]})
    assert shown.json()["step"] == "cancelled"
    assert world.as_operator.post(f"/v1/rounds/{found['round_id']}/cancel").status_code == 409
    assert world.as_data.get("/v1/rounds/nothing").status_code == 404
    assert world.as_operator.post("/v1/domains/nobody/rounds").status_code == 404


def test_a_rollback_goes_to_a_release_that_was_live(world: World) -> None:
    domain = world.domain()
    world.release(domain, 1)
    listed = world.as_data.get("/v1/releases", params={"domain": domain}).json()["data"]
    assert [(r["release"], r["state"]) for r in listed] == [(0, "retired"), (1, "live")]
    asked = world.as_operator.post(f"/v1/domains/{domain}/rollback", json={"to": 0})
    assert asked.status_code == 202
    (event,) = world.events(domain, "rollback_asked")
    assert event["data"] == {"domain": domain, "to": 0, "by": "key:local"}
    rolled = ReleaseRolledBack(domain=domain, release=1, to=0, order_id=uuid4(), flip_ms=1.0, ready_s=0.0)
    world.caught_up(world.say(rolled))
    assert world.as_data.get(f"/v1/domains/{domain}").json()["live_release"] == 0
    assert error_of(world.as_operator.post(f"/v1/domains/{domain}/rollback", json={"to": 0})) == (422, "to")
    assert error_of(world.as_operator.post(f"/v1/domains/{domain}/rollback", json={"to": 9})) == (404, "to")
    assert error_of(world.as_operator.post(f"/v1/domains/{domain}/rollback", json={})) == (400, "to")


def test_a_rollback_to_a_release_whose_model_was_removed_is_refused_with_that_word(world: World) -> None:
    domain = world.domain()
    world.release(domain, 1)
    world.release(domain, 2)
    gone = CandidateRetired(domain=domain, round_id="r", release=1, model=MODEL, adapter=MODEL, reason="enough")
    world.caught_up(world.say(gone))
    refused = world.as_operator.post(f"/v1/domains/{domain}/rollback", json={"to": 1})
    assert error_of(refused) == (409, "to") and "its model is not on the disk any more" in refused.text
    assert world.as_operator.post(f"/v1/domains/{domain}/rollback", json={"to": 0}).status_code == 202


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/v1/rounds", "data"),
        ("GET", "/v1/releases", "data"),
        ("GET", "/v1/events", "data"),
        ("GET", "/v1/domains/x/status", "data"),
        ("GET", "/v1/domains/x/examples", "data"),
        ("POST", "/v1/domains/x/exam", "data"),
        ("POST", "/v1/domains/x/exam/retire", "data"),
        ("POST", "/v1/domains/x/examples/retire", "data"),
        ("POST", "/v1/domains", "operator"),
        ("PUT", "/v1/domains/x/policy", "operator"),
        ("POST", "/v1/domains/x/rounds", "operator"),
        ("POST", "/v1/domains/x/rollback", "operator"),
        ("POST", "/v1/domains/x/retire", "operator"),
        ("POST", "/v1/rounds/x/cancel", "operator"),
        ("POST", "/v1/rounds/x/rebuild", "operator"),
        ("POST", "/v1/people/x/erase", "operator"),
        ("GET", "/v1/quarantine", "operator"),
        ("GET", "/v1/quarantine/noria.orders-0@1", "operator"),
    ],
)
def test_a_key_without_the_role_is_403(world: World, method: str, path: str, role: str) -> None:
    assert world.as_chat.request(method, path, json={}).status_code == 403
    data = world.as_data.request(method, path, json={})
    assert (data.status_code == 403) is (role == "operator")


def test_a_retired_domain_answers_nobody_takes_nothing_and_keeps_its_log(world: World) -> None:
    domain = world.domain()
    reply_id = world.chat(domain, "hello")["metadata"]["reply_ids"][0]
    retired = world.as_operator.post(f"/v1/domains/{domain}/retire", json={})
    assert retired.status_code == 202
    world.caught_up(retired.json()["position"])
    shown = world.as_data.get(f"/v1/domains/{domain}").json()
    assert shown["retired_at"] is not None and [one["code"] for one in shown["missing"]] == ["retired"]
    asked = {"model": domain, "messages": [{"role": "user", "content": "hello"}]}
    for model in (domain, f"{domain}@0"):
        assert world.as_chat.post("/v1/chat/completions", json=asked | {"model": model}).status_code == 404
    path = f"/v1/domains/{domain}"
    refused = [
        world.as_operator.put(f"{path}/policy", json={}),
        world.as_operator.post(f"{path}/rounds", json={}),
        world.as_operator.post(f"{path}/rollback", json={"to": 0}),
        world.as_data.post(f"{path}/examples", json=[{"instruction": "a", "output": "b"}]),
        world.as_data.post(f"{path}/exam/retire", json={"items": ["x"]}),
        world.as_chat.post("/v1/feedback", json={"reply_id": reply_id, "rating": "up"}),
    ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in refused] == [
        (409, "domain_retired")
    ] * len(refused)
    assert {event["type"] for event in world.events(domain)} >= {"noria.prompt_asked", "noria.domain_retired"}
    assert world.as_operator.post(f"{path}/retire", json={}).json()["known"]
    again = world.as_operator.post("/v1/domains", json={"domain": domain, "base_model": MODEL})
    assert error_of(again) == (409, "domain")


def test_the_engines_of_a_retired_domain_stop_once_nothing_is_sent_there_any_more(world: World) -> None:
    domain, other = world.domain(), world.domain()
    log = KafkaLog(world.kafka, "test-retired")
    reconciler = Reconciler(Context(world.settings, world.database, log, world.services.keyring, "swapper-1"))
    retired = world.as_operator.post(f"/v1/domains/{domain}/retire", json={}).json()
    world.caught_up(retired["position"])
    pin = world.services.routes.pin(domain, None, 1)  # a request that was on its way

    def wanted() -> list[tuple[object, ...]]:
        reconciler.step()
        query = "SELECT domain FROM work.engines WHERE wanted AND domain IN (:one, :two)"
        return rows(world.database, query, one=domain, two=other)

    reconciler.step()
    wait_until(lambda: domain not in world.services.routes.table()[0], what="the route is gone")
    in_flight = "SELECT count(*) FROM work.doors WHERE NOT generations ? :domain AND (in_flight ->> :pinned)::int = 1"
    wait_until(
        lambda: rows(world.database, in_flight, domain=domain, pinned=pin.engine_id) == [(1,)],
        what="the door has said so",
    )
    assert sorted(wanted()) == sorted([(domain,), (other,)])
    world.services.routes.unpin(pin.engine_id)
    wait_until(lambda: wanted() == [(other,)], what="the engine is wanted no more")
    log.close()


def test_what_could_not_be_read_is_listed_for_operators_with_its_place_reason_and_size(world: World) -> None:
    broken = [b"no event", b"\xff" * 400_001]
    found = world.services.recorder.log.append([Message(CONVERSATIONS, "c", value) for value in broken], PATIENCE_S)
    listed = wait_until(lambda: _quarantine(world, {str(position) for position in found}), what="both in quarantine")
    sizes = {row["place"]: row["bytes"] for row in listed["data"]}
    assert [sizes[str(position)] for position in found] == [len(value) for value in broken]
    assert all(row["reason"] and "value_base64" not in row for row in listed["data"])
    for position, value in zip(found, broken, strict=True):
        shown = world.as_operator.get(f"/v1/quarantine/{position}").json()
        assert base64.b64decode(shown["value_base64"]) == value
    assert world.as_operator.get("/v1/quarantine/noria.orders-0@9999").status_code == 404
    assert world.as_operator.get("/v1/quarantine/yesterday").status_code == 400
    assert listed["count"] >= len(broken)
    assert f"noria_quarantined {listed['count']}.0" in world.as_operator.get("/metrics").text
    assert world.as_operator.get("/v1/quarantine", params={"limit": 1}).json()["data"] == listed["data"][:1]


def test_a_domain_that_stands_parked_says_so_and_takes_nothing_that_nobody_would_act_upon(world: World) -> None:
    domain = world.domain()
    world.release(domain, 0)
    put = "INSERT INTO noria.parked VALUES ('domain', :domain, :domain, 'noria.domains', 0, 9, 'KeyError at a.py:1 f')"
    change(world.database, put, domain=domain)
    begun = (
        "INSERT INTO noria.rounds (round_id, domain, number, step, reasons, opening, pin, base_model, base_release, requested_at)"
        " VALUES (:id, :domain, 1, 'train', '[]', false, 1, 'm', 0, now())"
    )
    change(world.database, begun, id=f"{domain}-1", domain=domain)
    question = {"question": "q", "answer": "a", "keys": ["a"], "kind": "general"}
    try:
        for method, path, body in (
            ("POST", f"domains/{domain}/rounds", {}),
            ("POST", f"domains/{domain}/rollback", {"to": 1}),
            ("PUT", f"domains/{domain}/policy", {}),
            ("POST", f"domains/{domain}/retire", {}),
            ("POST", f"domains/{domain}/exam", [question]),
            ("POST", f"domains/{domain}/exam/retire", {"items": ["i"]}),
            ("POST", f"domains/{domain}/examples", [{"instruction": "i", "output": "o"}]),
            ("POST", f"domains/{domain}/examples/retire", {"items": ["i"]}),
            ("POST", f"rounds/{domain}-1/cancel", {}),
            ("POST", f"rounds/{domain}-1/rebuild", {}),
        ):
            refused = world.as_operator.request(method, f"/v1/{path}", json=body)
            assert refused.status_code == 409, (path, refused.text)
            assert refused.json()["error"]["code"] == "domain_parked", path
            assert "noria.domains-0@9" in refused.json()["error"]["message"]
        (told,) = world.as_data.get(f"/v1/domains/{domain}/status").json()["parked"]
        assert told["kind"] == "domain" and told["place"] == "noria.domains-0@9"
        assert told["reason"] == "KeyError at a.py:1 f" and told["since"]
        assert told in world.as_operator.get("/v1/quarantine").json()["parked"]
        assert 'noria_parked{kind="domain"} 1.0' in world.as_data.get("/metrics").text
        assert world.as_chat.get("/readyz").status_code == 200
        assert world.chat(domain)["choices"]
    finally:
        change(world.database, "DELETE FROM noria.parked")


def test_a_domain_goes_on_while_one_of_its_conversations_stands_parked(world: World) -> None:
    domain = world.domain()
    put = "INSERT INTO noria.parked VALUES ('exchange', 'c', :domain, 'noria.conversations', 0, 9, 'KeyError at a.py:1 f')"
    change(world.database, put, domain=domain)
    try:
        said = world.as_operator.put(f"/v1/domains/{domain}/policy", json={})
        assert said.status_code == 200, said.text
        (told,) = world.as_data.get(f"/v1/domains/{domain}/status").json()["parked"]
        assert told["kind"] == "exchange"
    finally:
        change(world.database, "DELETE FROM noria.parked")


def test_a_word_to_skip_says_nothing_where_the_stream_goes_on_and_is_refused_where_nothing_stands(world: World) -> None:
    world.domain()
    said = world.as_operator.post("/v1/quarantine/skip", json={"partition": "noria.domains-0"})
    assert (said.status_code, said.json()["to"], said.json()["position"]) == (200, None, None)
    assert world.as_operator.get("/v1/quarantine").json()["skips"] == []
    for body, status, param in (
        ({"partition": "noria.orders-0", "to": 0}, 400, "partition"),
        ({"partition": "noria.conversations-99", "to": 0}, 400, "partition"),
        ({"partition": "conversations"}, 400, "partition"),
        ({"partition": "noria.domains-0", "to": 10**9}, 400, "to"),
        ({"partition": "noria.domains-0", "to": -1}, 400, "to"),
    ):
        refused = world.as_operator.post("/v1/quarantine/skip", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), refused.text


def _quarantine(world: World, places: set[str]) -> Any:
    listed = world.as_operator.get("/v1/quarantine").json()
    return listed if places <= {row["place"] for row in listed["data"]} else None


def test_a_read_that_asks_to_be_fresher_than_the_projections_can_be_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = world.as_operator.post("/v1/domains", json={"domain": "tanks-1", "title": "Tanks"}).json()["position"]
    for nowhere in (
        "yesterday",
        "noria.domains-0@99999999",
        "noria.domains-7@0",
        "noria.nothing-7@1",
        "noria.orders-0@0",
    ):
        assert error_of(world.as_data.get("/v1/domains", params={"after": nowhere})) == (400, "after"), nowhere
    asked: list[int] = []

    def unmoved(connection: Any, schema: str) -> dict[tuple[str, int], int]:
        asked.append(1)
        return {}

    monkeypatch.setattr("api.recording.positions", unmoved)
    monkeypatch.setattr(world.services.recorder, "_read", None)  # what was read a moment before counts for POLL_S
    monkeypatch.setattr("api.app.FRESHNESS_TIMEOUT_S", 1.0)
    with ThreadPoolExecutor(16) as waiting:
        answers = list(
            waiting.map(lambda _: error_of(world.as_operator.get("/v1/domains", params={"after": there})), range(16))
        )
    assert answers == [(504, "after")] * 16
    assert len(asked) <= 1.5 / POLL_S  # together, whatever their number


def test_events_are_listed_shown_and_paged(world: World) -> None:
    domain = world.domain()
    for word in ("one", "two", "three"):
        world.chat(domain, word)
    last = world.as_data.get("/v1/events", params={"domain": domain, "limit": 2}).json()
    assert [e["event"]["type"] for e in last["data"]] == ["noria.prompt_asked", "noria.reply_drafted"]
    newest = last["data"][-1]
    shown = wait_until(lambda: _ok(world.as_data.get(f"/v1/events/{newest['event']['id']}")))
    assert shown == newest
    assert world.as_data.get("/v1/events/nothing").status_code == 404

    paged: list[str] = []
    cursor = "beginning"
    while True:
        params = {"domain": domain, "after": cursor, "limit": 3}
        page = world.as_data.get("/v1/events", params=params).json()
        if not page["data"] and page["next"] == cursor:
            break
        paged += [e["event"]["id"] for e in page["data"]]
        cursor = page["next"]
    everything = world.as_data.get("/v1/events", params={"domain": domain, "limit": 500}).json()
    assert sorted(paged) == sorted(e["event"]["id"] for e in everything["data"]) and len(set(paged)) == len(paged)
    only = world.as_data.get("/v1/events", params={"domain": domain, "topic": "domains"}).json()
    assert {e["position"].split("-")[0] for e in only["data"]} == {"noria.domains"}
    assert error_of(world.as_data.get("/v1/events", params={"topic": "secrets"})) == (400, "topic")
    assert error_of(world.as_data.get("/v1/events", params={"limit": "0"})) == (400, "limit")
    assert error_of(world.as_data.get("/v1/events", params={"after": "x"})) == (400, "after")


def _ok(answer: httpx.Response) -> Any:
    return answer.json() if answer.status_code == 200 else None


def test_events_can_be_followed_and_taken_up_again(world: World) -> None:
    domain = world.domain()
    seen: list[dict[str, Any]] = []
    cursor = ""
    params = {"domain": domain, "follow": "1", "after": "end"}
    with world.as_data.stream("GET", "/v1/events", params=params) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith(":")
        asking = threading.Thread(target=lambda: world.chat(domain))
        asking.start()
        for line in lines:
            if line.startswith("id: "):
                cursor = line.removeprefix("id: ")
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
            if cursor and len(seen) >= 2:
                break
        asking.join()
    assert [e["event"]["type"] for e in seen] == ["noria.prompt_asked", "noria.reply_drafted"]
    world.chat(domain, "later")
    later = world.as_data.get("/v1/events", params={"domain": domain, "after": cursor}).json()["data"]
    assert [e["event"]["type"] for e in later] == ["noria.prompt_asked", "noria.reply_drafted"]


def test_followers_that_leave_make_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(20):  # more than may follow at once
        with world.as_data.stream("GET", "/v1/events", params={"follow": "1", "after": "end"}) as answer:
            assert answer.status_code in (200, 429)
            if answer.status_code == 200:
                next(answer.iter_lines())
    wait_until(lambda: _follows(world), what="room to follow")


def _follows(world: World) -> bool:
    with world.as_data.stream("GET", "/v1/events", params={"follow": "1", "after": "end"}) as answer:
        return answer.status_code == 200


def test_an_erased_person_is_gone_everywhere_and_what_learned_from_them_is_named(world: World) -> None:
    first, second = world.domain(policy={"thresholds": {"corrections": 40}}), world.domain()
    correct(world, first, "my canary", "canary sings", user="gone")
    correct(world, first, "other", "stays", user="stays")
    world.chat(second, "hello", user="gone")
    wait_until(lambda: len(_examples(world, first)["data"]) == 2, what="two examples")
    answer = world.as_operator.post("/v1/people/gone/erase").json()
    assert answer["domains"] == sorted((first, second)) and len(answer["kids"]) == 1
    assert answer["examples"] == 1 and answer["learned_by"] == []
    for position in answer["positions"]:
        world.caught_up(position)
    out = _examples(world, first)
    assert [e["output"] for e in out["data"]] == ["stays"] and out["erased"] == 1
    (event,) = world.events(first, "person_erased")
    assert event["data"]["person"] == "gone" and event["data"]["kids"] == answer["kids"]
    again = world.as_operator.post("/v1/people/gone/erase").json()
    assert again["kids"] == answer["kids"]
    shown = world.as_operator.get("/v1/people/gone/erase", params={"after": again["position"]}).json()
    assert {d["domain"] for d in shown["domains"]} == {first, second} and shown["places"] == []
    assert world.as_operator.post("/v1/people/nobody-ever/erase").status_code == 404
    assert world.as_operator.post("/v1/people/%0A/erase").status_code == 400


def _examples(world: World, domain: str) -> Any:
    return world.as_data.get(f"/v1/domains/{domain}/examples").json()


def test_feedback_on_what_was_erased_is_410(world: World) -> None:
    domain = world.domain()
    answer = world.chat(domain, "hello", user="left")
    world.caught_up(answer["metadata"]["position"])
    assert world.as_operator.post("/v1/people/left/erase").status_code == 200
    body = {"reply_id": answer["metadata"]["reply_ids"][0], "user": "left", "correction": "no"}
    assert world.as_chat.post("/v1/feedback", json=body).status_code == 410


def test_somebody_erased_may_speak_again_under_a_new_key(world: World) -> None:
    domain = world.domain()
    world.caught_up(world.chat(domain, user="back")["metadata"]["position"])
    assert world.as_operator.post("/v1/people/back/erase").status_code == 200
    second = world.chat(domain, "again", user="back")
    kids = {event["data"]["messages"]["kid"] for event in world.events(domain, "prompt_asked")}
    assert len(kids) == 2 and second["model"] == f"{domain}@0"


def test_two_domains_are_two_lines_of_models(world: World) -> None:
    one, two = world.domain(), world.domain()
    other = EngineServer(lambda messages: ["two"])
    world.release(two, 1, other)
    assert world.chat(one)["model"] == f"{one}@0" and world.chat(two)["model"] == f"{two}@1"
    other.stop()


def test_of_two_who_create_a_domain_at_once_one_does_and_its_policy_stands(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks before the projections know of the other."""
    name = f"twice-{uuid4().hex[:6]}"
    monkeypatch.setattr(domains, "find_domain", lambda connection, domain: None)
    for number in (7, 8):
        body = {"domain": name, "base_model": MODEL, "policy": {"thresholds": {"corrections": number}}}
        answer = world.as_operator.post("/v1/domains", json=body)
        assert answer.status_code == 201, answer.text
        world.caught_up(answer.json()["position"])
    monkeypatch.undo()
    assert world.as_operator.get(f"/v1/domains/{name}/policy").json()["thresholds"]["corrections"] == 7


def test_no_domain_is_created_while_it_is_not_known_which_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.services.recorder, "wait_for_ends", lambda topic, timeout_s: False)
    body = {"domain": f"lag-{uuid4().hex[:6]}", "base_model": MODEL}
    assert world.as_operator.post("/v1/domains", json=body).status_code == 503
