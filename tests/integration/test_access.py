"""Who may do what: every route of the door, as every role, of the key's own domain and of another."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask
from flask.testing import FlaskClient
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Engine, event, text

import api.keys
from api.app import OPEN_PATHS, build, create_app
from api.guessing import AT_ONCE, WrongKeys
from api.keys import RECHECK_S, ApiKeys, create_key, hash_of, key_rows
from api.sessions import begin_session
from tests.door_world import World, wait_until
from tests.waiting import PATIENCE_S

TABLE = Path(__file__).parents[2] / "deploy" / "access.md"
WRITE = "WRITE_ACCESS_TABLE"
OWN, OTHER = "walk-own", "walk-other"  # what the walk over all routes ends in, it ends
MINE, THEIRS = "ward-mine", "ward-theirs"
REFUSALS = (401, 403, 404)
COLUMNS = (
    "no key that holds",
    "chat",
    "service",
    "annotator",
    "data",
    "operator",
    "operator of all domains",
    "its session on the page",
)


class Things(Struct, frozen=True):
    """What there is in one domain to be asked for."""

    domain: str
    reply_id: str
    event_id: str
    round_id: str


Ask = tuple[str, Any]  # path with query, and body (None: no body)


def of(path: str, body: Any = None) -> Callable[[Things], Ask]:
    """An ask whose path, and strings of whose body, name the domain's things."""

    def filled(value: Any, things: Things) -> Any:
        match value:
            case str():
                return value.format(**{name: getattr(things, name) for name in things.__struct_fields__})
            case dict():
                return {name: filled(one, things) for name, one in value.items()}
            case list():
                return [filled(one, things) for one in value]
            case _:
                return value

    return lambda things: (filled(path, things), filled(body, things))


_QUESTION = {"model": "{domain}", "messages": [{"role": "user", "content": "how much?"}], "user": "ann"}
_TRIPLE = [{"subject": "a pump", "predicate": "colour", "object": "red"}]
_SEED = [
    {
        "major": {"law": "Pump Act", "article": "Article 1", "rule": "Pumps are red."},
        "minor": "It is a pump.",
        "conclusion": {"article": "Article 1", "result": "it is red."},
    }
]
_EXAM = [{"question": "Who?", "answer": "She.", "kind": "general"}]
_EXAMPLE = [{"instruction": "Say one", "output": "one"}]
_PREFERENCE = [{"prompt": "Say one", "chosen": "one", "rejected": "two"}]
# Each route once, harmless to the others; what ends something comes last.
ASKS: dict[tuple[str, str], Callable[[Things], Ask]] = {
    ("GET", "/healthz"): of("/healthz"),
    ("GET", "/readyz"): of("/readyz"),
    ("GET", "/metrics"): of("/metrics"),
    ("POST", "/v1/chat/completions"): of("/v1/chat/completions", _QUESTION),
    ("GET", "/v1/models"): of("/v1/models"),
    ("GET", "/v1/models/<name>"): of("/v1/models/{domain}"),
    ("POST", "/v1/feedback"): of("/v1/feedback", {"reply_id": "{reply_id}", "user": "ann", "rating": "up"}),
    ("GET", "/v1/replies/<reply_id>/recalled"): of("/v1/replies/{reply_id}/recalled"),
    ("GET", "/v1/people/<person>/corrections"): of("/v1/people/ann/corrections"),
    ("GET", "/v1/bases"): of("/v1/bases"),
    ("GET", "/v1/bases/<base>"): of("/v1/bases/none"),
    ("GET", "/v1/domains"): of("/v1/domains"),
    ("GET", "/v1/domains/<domain>"): of("/v1/domains/{domain}"),
    ("GET", "/v1/domains/<domain>/status"): of("/v1/domains/{domain}/status"),
    ("GET", "/v1/domains/<domain>/policy"): of("/v1/domains/{domain}/policy"),
    ("GET", "/v1/domains/<domain>/exam"): of("/v1/domains/{domain}/exam"),
    ("POST", "/v1/domains/<domain>/exam"): of("/v1/domains/{domain}/exam", _EXAM),
    ("POST", "/v1/domains/<domain>/exam/retire"): of("/v1/domains/{domain}/exam/retire", {}),
    ("GET", "/v1/domains/<domain>/examples"): of("/v1/domains/{domain}/examples"),
    ("POST", "/v1/domains/<domain>/examples"): of("/v1/domains/{domain}/examples?user=ann", _EXAMPLE),
    ("POST", "/v1/domains/<domain>/examples/retire"): of("/v1/domains/{domain}/examples/retire", {}),
    ("GET", "/v1/domains/<domain>/examples/table"): of("/v1/domains/{domain}/examples/table?text=pump"),
    ("GET", "/v1/domains/<domain>/examples/<example_id>"): of("/v1/domains/{domain}/examples/none"),
    ("POST", "/v1/domains/<domain>/examples/decide"): of(
        "/v1/domains/{domain}/examples/decide", {"verb": "retire", "ids": ["none"]}
    ),
    ("POST", "/v1/domains/<domain>/examples/undo"): of("/v1/domains/{domain}/examples/undo", {"decision": "none"}),
    ("GET", "/v1/domains/<domain>/preferences"): of("/v1/domains/{domain}/preferences"),
    ("POST", "/v1/domains/<domain>/preferences"): of("/v1/domains/{domain}/preferences?user=ann", _PREFERENCE),
    ("POST", "/v1/domains/<domain>/preferences/retire"): of("/v1/domains/{domain}/preferences/retire", {}),
    ("POST", "/v1/domains/<domain>/style/pairs"): of("/v1/domains/{domain}/style/pairs", {}),
    ("GET", "/v1/domains/<domain>/documents"): of("/v1/domains/{domain}/documents"),
    ("POST", "/v1/domains/<domain>/documents"): of("/v1/domains/{domain}/documents?name=a.txt", "A pump."),
    ("GET", "/v1/domains/<domain>/documents/<document_id>"): of("/v1/domains/{domain}/documents/none"),
    ("DELETE", "/v1/domains/<domain>/documents/<document_id>"): of("/v1/domains/{domain}/documents/none"),
    ("GET", "/v1/domains/<domain>/triples"): of("/v1/domains/{domain}/triples"),
    ("POST", "/v1/domains/<domain>/triples"): of("/v1/domains/{domain}/triples", _TRIPLE),
    ("POST", "/v1/domains/<domain>/triples/retire"): of("/v1/domains/{domain}/triples/retire", {}),
    ("GET", "/v1/domains/<domain>/seeds"): of("/v1/domains/{domain}/seeds"),
    ("POST", "/v1/domains/<domain>/seeds"): of("/v1/domains/{domain}/seeds", _SEED),
    ("POST", "/v1/domains/<domain>/seeds/retire"): of("/v1/domains/{domain}/seeds/retire", {}),
    ("GET", "/v1/domains/<domain>/builds"): of("/v1/domains/{domain}/builds"),
    ("POST", "/v1/domains/<domain>/builds"): of("/v1/domains/{domain}/builds", {"builder": "self-kg"}),
    ("GET", "/v1/domains/<domain>/builds/<build_id>"): of("/v1/domains/{domain}/builds/none"),
    ("POST", "/v1/domains/<domain>/builds/<build_id>/undo"): of("/v1/domains/{domain}/builds/none/undo", {}),
    ("GET", "/v1/domains/<domain>/proposals"): of("/v1/domains/{domain}/proposals"),
    ("POST", "/v1/domains/<domain>/proposals/accept"): of("/v1/domains/{domain}/proposals/accept", {"build": "none"}),
    ("POST", "/v1/domains/<domain>/proposals/reject"): of("/v1/domains/{domain}/proposals/reject", {"build": "none"}),
    ("GET", "/v1/queues"): of("/v1/queues"),
    ("GET", "/v1/domains/<domain>/queue"): of("/v1/domains/{domain}/queue"),
    ("POST", "/v1/domains/<domain>/queue/next"): of("/v1/domains/{domain}/queue/next", {}),
    ("POST", "/v1/domains/<domain>/queue/<proposal_id>/judge"): of(
        "/v1/domains/{domain}/queue/none/judge", {"verdict": "accept"}
    ),
    ("POST", "/v1/domains/<domain>/queue/<proposal_id>/skip"): of("/v1/domains/{domain}/queue/none/skip", {}),
    ("POST", "/v1/domains/<domain>/queue/<proposal_id>/take-back"): of("/v1/domains/{domain}/queue/none/take-back", {}),
    ("POST", "/v1/domains/<domain>/queue/raise"): of(
        "/v1/domains/{domain}/queue/raise", {"proposals": ["none"], "concern": "hard"}
    ),
    ("GET", "/v1/domains/<domain>/comparisons"): of("/v1/domains/{domain}/comparisons"),
    ("GET", "/v1/domains/<domain>/base-comparisons"): of("/v1/domains/{domain}/base-comparisons"),
    ("POST", "/v1/domains/<domain>/recall"): of("/v1/domains/{domain}/recall", {"question": "how much?"}),
    ("GET", "/v1/rounds"): of("/v1/rounds?domain={domain}"),
    ("GET", "/v1/rounds/<round_id>"): of("/v1/rounds/{round_id}"),
    ("GET", "/v1/rounds/<round_id>/card"): of("/v1/rounds/{round_id}/card"),
    ("GET", "/v1/rounds/<round_id>/snapshot"): of("/v1/rounds/{round_id}/snapshot"),
    ("GET", "/v1/rounds/<round_id>/snapshot/lines"): of("/v1/rounds/{round_id}/snapshot/lines"),
    ("GET", "/v1/rounds/<round_id>/snapshot/changes"): of("/v1/rounds/{round_id}/snapshot/changes?from={round_id}"),
    ("GET", "/v1/rounds/<round_id>/snapshot/map"): of("/v1/rounds/{round_id}/snapshot/map"),
    ("GET", "/v1/rounds/<round_id>/snapshot/export"): of("/v1/rounds/{round_id}/snapshot/export"),
    ("GET", "/v1/releases"): of("/v1/releases?domain={domain}"),
    ("GET", "/v1/events"): of("/v1/events?domain={domain}&limit=5"),
    ("GET", "/v1/events/<event_id>"): of("/v1/events/{event_id}"),
    ("POST", "/v1/domains"): of("/v1/domains", {"domain": "{domain}"}),
    ("POST", "/v1/bases"): of("/v1/bases", {"model": "sha256:" + "0" * 64}),
    ("PUT", "/v1/domains/<domain>/policy"): of("/v1/domains/{domain}/policy", {}),
    ("POST", "/v1/domains/<domain>/rounds"): of("/v1/domains/{domain}/rounds", {}),
    ("POST", "/v1/domains/<domain>/comparisons"): of("/v1/domains/{domain}/comparisons", {}),
    ("POST", "/v1/domains/<domain>/base-comparisons"): of("/v1/domains/{domain}/base-comparisons", {"bases": []}),
    ("POST", "/v1/domains/<domain>/rollback"): of("/v1/domains/{domain}/rollback", {"to": 0}),
    ("GET", "/v1/quarantine"): of("/v1/quarantine"),
    ("GET", "/v1/quarantine/<place>"): of("/v1/quarantine/nowhere"),
    ("POST", "/v1/quarantine/skip"): of("/v1/quarantine/skip", {"partition": "noria.domains-0"}),
    ("GET", "/v1/people/<person>/erase"): of("/v1/people/nil/erase"),
    ("POST", "/v1/people/<person>/erase"): of("/v1/people/eve/erase", {}),
    ("GET", "/v1/me"): of("/v1/me"),
    ("GET", "/v1/keys"): of("/v1/keys"),
    ("POST", "/v1/keys"): of("/v1/keys", {"name": "made-by-the-walk"}),
    ("POST", "/v1/keys/<named>/revoke"): of("/v1/keys/nobody/revoke", {}),
    ("POST", "/v1/sessions"): of("/v1/sessions", {}),
    ("POST", "/v1/sessions/link"): of("/v1/sessions/link", {}),
    ("POST", "/v1/sessions/end"): of("/v1/sessions/end", {}),
    ("POST", "/v1/rounds/<round_id>/cancel"): of("/v1/rounds/{round_id}/cancel", {}),
    ("POST", "/v1/rounds/<round_id>/rebuild"): of("/v1/rounds/{round_id}/rebuild", {}),
    ("POST", "/v1/domains/<domain>/retire"): of("/v1/domains/{domain}/retire", {}),
}
# What these ask for is not there for anybody: a 404 with one of these codes is the answer of who may ask.
_NOT_THERE = {
    "base_not_found",
    "build_not_found",
    "decision_not_found",
    "document_not_found",
    "example_not_found",
    "key_not_found",
    "not_quarantined",
    "person_not_found",
    "proposal_not_found",
}


@pytest.fixture(scope="module")
def app(world: World) -> Flask:
    """The door of the world, patient with wrong keys: here many are tried at once."""
    return create_app(replace(world.services, wrong_keys=WrongKeys(at_once=10**6)))


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="module")
def own(world: World) -> Things:
    return _things(world, OWN)


@pytest.fixture(scope="module")
def other(world: World) -> Things:
    return _things(world, OTHER)


@pytest.fixture(scope="module")
def mine(world: World) -> Things:
    return _things(world, MINE)


@pytest.fixture(scope="module")
def theirs(world: World) -> Things:
    return _things(world, THEIRS)


def _things(world: World, domain: str) -> Things:
    world.domain(domain)
    world.chat(domain, user="eve")
    said = world.chat(domain, user="ann")
    world.caught_up(said["metadata"]["position"])
    asked = world.as_operator.post(f"/v1/domains/{domain}/rounds", json={}).json()
    world.caught_up(asked["position"])
    rounds = wait_until(lambda: world.as_data.get("/v1/rounds", params={"domain": domain}).json()["data"])
    return Things(domain, said["metadata"]["reply_ids"][0], asked["event_id"], rounds[0]["round_id"])


@pytest.fixture(scope="module")
def holders(world: World, own: Things) -> dict[str, Callable[[], str | None]]:
    """Who calls, by column, and the token of each: of one domain, unless it says of all."""
    database = world.database

    def key(role: str, person: str | None, domains: list[str] | None = None, **more: Any) -> str:
        return create_key(database, f"walk-{role}", role, person=person, domains=domains, **more)

    operator = key("operator", None)
    (row,) = key_rows(database, operator)
    tokens = {
        "chat": key("chat", "ann", [OWN]),
        "service": key("chat", None, [OWN]),
        "annotator": key("annotator", "ida", [OWN]),
        "data": key("data", "ann", [OWN]),
        "operator": key("operator", None, [OWN]),
        "operator of all domains": operator,
    }
    found: dict[str, Callable[[], str | None]] = {name: lambda token=token: token for name, token in tokens.items()}
    # A session of its own for each request: one of them ends it.
    return found | {"its session on the page": lambda: begin_session(database, row.key_id).token}


@pytest.fixture(scope="module")
def dead(world: World) -> dict[str, str | None]:
    """Keys that hold no more, and what is none."""
    database = world.database
    found: dict[str, str | None] = {"none": None, "wrong": "noria-" + "0" * 64, "empty": " "}
    for name in ("expired", "revoked"):
        found[name] = create_key(database, name, "operator", person=None)
    found["a one-time link"] = "noria-once-" + "0" * 64
    found["a session that ended"] = "noria-session-" + "0" * 64
    with database.begin() as connection:
        for name, column in (("expired", "expires_at"), ("revoked", "revoked_at")):
            connection.execute(
                text(f"UPDATE access.api_keys SET {column} = now() - interval '1 s' WHERE name = :name"), {"name": name}
            )
    return found


def call(client: FlaskClient, method: str, ask: Ask, token: str | None, **headers: str) -> Any:
    path, body = ask
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return client.open(path, method=method, json=body if method in ("POST", "PUT") else None, headers=headers)


def routes(app: Flask) -> set[tuple[str, str]]:
    """Every (method, rule); what Flask adds to each by itself is asked apart."""
    found = set()
    for rule in app.url_map.iter_rules():
        found |= {(method, rule.rule) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    return found


def cell(answer: Any) -> str:
    """`yes`, or the status of the refusal. A request that is wrong in itself was let in."""
    status: int = answer.status_code
    assert status < 500 and status != 429, answer.get_data(as_text=True)
    if status not in REFUSALS:
        return "yes"
    code = answer.get_json()["error"]["code"] if answer.get_data() else None
    return "yes" if status == 404 and code in _NOT_THERE else str(status)


def test_every_route_has_a_row_here(app: Flask) -> None:
    assert routes(app) == set(ASKS), "a new route needs a row in ASKS: who may ask for it is then found out"


def test_the_table_of_who_may_do_what_is_what_the_door_does(
    client: FlaskClient,
    own: Things,
    other: Things,
    holders: dict[str, Callable[[], str | None]],
    dead: dict[str, str | None],
) -> None:
    lines = []
    for (method, rule), ask in ASKS.items():
        cells = []
        for name in COLUMNS:
            if name == COLUMNS[0]:
                said = {cell(call(client, method, ask(own), token)) for token in dead.values()}
                assert len(said) == 1, (rule, said)
                here = there = said.pop()
            else:
                answers = [call(client, method, ask(things), holders[name]()) for things in (own, other)]
                here, there = (cell(answer) for answer in answers)
                if name in ("chat", "service", "annotator", "data", "operator") and rule not in OPEN_PATHS:
                    for answer in answers:
                        assert OTHER not in answer.get_data(as_text=True), (name, method, rule)
            cells.append(here if here == there else f"{here} · {there}")
        lines.append([f"`{method} {rule}`", *cells])
    written = _table(lines)
    if os.environ.get(WRITE):
        TABLE.write_text(written)
    how = f"write it anew with: {WRITE}=1 python -m pytest {Path(__file__).relative_to(TABLE.parents[1])}"
    assert TABLE.read_text() == written, f"{TABLE.name} is not what the door does. If the door is right, {how}"


def _table(lines: list[list[str]]) -> str:
    head = ["route", *COLUMNS]
    rows = [head, ["---"] * len(head), *lines]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return (
        "# Who may do what\n\n"
        "Found out by `tests/integration/test_access.py`, which asks every route as everybody; a test fails when this page is not\n"
        "what the door does.\n\n"
        "A cell is `yes`, or the status of the refusal. Where two stand, the first is for the key's own domain and the second for\n"
        "another: the keys of the first five roles are made for one domain (`noria key create NAME --domain DOMAIN`). No key that\n"
        "holds: none, a wrong one, one that has expired, one that was revoked, a link that was used, a session that has ended.\n"
        "Lists that name no domain hold the key's own only.\n\n"
        f"{table}\n"
    )


def test_heads_and_options_are_refused_where_the_others_are(
    client: FlaskClient, own: Things, dead: dict[str, str | None]
) -> None:
    for (_, rule), ask in ASKS.items():
        for method in ("HEAD", "OPTIONS", "PROPFIND"):
            for token in (None, dead["revoked"]):
                status = call(client, method, ask(own), token).status_code
                assert (status == 401) is (rule not in OPEN_PATHS), (method, rule, status)


def test_another_domain_is_not_there_whatever_the_method(
    client: FlaskClient, other: Things, holders: dict[str, Callable[[], str | None]]
) -> None:
    for (_, rule), ask in ASKS.items():
        if "<domain>" in rule:
            for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"):
                answer = call(client, method, ask(other), holders["operator"]())
                assert answer.status_code in (404, 405), (method, rule)


def test_lists_without_a_domain_hold_the_keys_own_only(
    client: FlaskClient, own: Things, other: Things, holders: dict[str, Callable[[], str | None]]
) -> None:
    for path in ("/v1/models", "/v1/domains", "/v1/rounds", "/v1/releases", "/v1/events?limit=500"):
        of_one = call(client, "GET", (path, None), holders["operator"]()).get_data(as_text=True)
        of_all = call(client, "GET", (path, None), holders["operator of all domains"]()).get_data(as_text=True)
        assert OWN in of_one and OTHER not in of_one, path
        assert OWN in of_all and OTHER in of_all, path
    whole = call(client, "GET", ("/v1/events?after=beginning&limit=5000", None), holders["data"]()).get_json()
    assert {shown["event"]["data"]["domain"] for shown in whole["data"]} == {OWN}


# Keys: one person, one life.


def make(world: World, name: str, **wanted: Any) -> httpx.Client:
    """A client with a new key, made over HTTP."""
    answer = world.as_operator.post("/v1/keys", json={"name": name, **wanted})
    assert answer.status_code == 201, answer.text
    return world.client(answer.json()["key"])


def question(domain: str, **more: Any) -> dict[str, Any]:
    return {"model": domain, "messages": [{"role": "user", "content": "how much?"}], **more}


def refusal(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("error", {}).get("code")


def test_a_chat_key_speaks_as_its_person_and_as_nobody_else(world: World, mine: Things) -> None:
    with make(world, "dora-phone", person="dora") as dora:
        said = dora.post("/v1/chat/completions", json=question(MINE)).json()
        world.caught_up(said["metadata"]["position"])
        assert dora.post("/v1/chat/completions", json=question(MINE, user="dora")).status_code == 200
        assert refusal(dora.post("/v1/chat/completions", json=question(MINE, user="ann"))) == (403, "another_person")
        rating = {"reply_id": said["metadata"]["reply_ids"][0], "rating": "up"}
        assert refusal(dora.post("/v1/feedback", json=rating | {"user": "ann"})) == (403, "another_person")
        assert dora.post("/v1/feedback", json=rating).status_code == 200
        assert refusal(dora.post("/v1/feedback", json={"reply_id": mine.reply_id, "rating": "up"}))[0] == 403
        assert dora.get("/v1/people/ann/corrections").status_code == 403
    (prompt, *_) = [e for e in world.events(MINE, "prompt_asked") if e["data"]["person"] == "dora"]
    assert prompt["data"]["release"] == 0


def test_a_key_that_was_made_for_nobody_speaks_as_itself(world: World, mine: Things) -> None:
    with make(world, "kiosk") as kiosk:
        assert kiosk.get("/v1/me").json() | {"domains": 0} == {
            "name": "kiosk",
            "role": "chat",
            "person": "key:kiosk",
            "names_persons": False,
            "domains": 0,
        }
        assert kiosk.post("/v1/chat/completions", json=question(MINE, user="key:kiosk")).status_code == 200
        assert kiosk.post("/v1/chat/completions", json=question(MINE, user="key:local")).status_code == 403


def test_of_two_keys_of_one_name_none_reads_what_the_other_said(world: World) -> None:
    with make(world, "desk"):
        second = world.as_operator.post("/v1/keys", json={"name": "desk"})
        assert refusal(second) == (409, "name_taken")
        assert world.as_operator.post("/v1/keys", json={"name": "desk", "person": "ann"}).status_code == 201
        assert world.as_operator.post("/v1/keys", json={"name": "desk", "service": True}).status_code == 201
    world.as_operator.post("/v1/keys/desk/revoke")
    with make(world, "desk"):
        pass


def test_the_log_says_which_key_acted(world: World, mine: Things) -> None:
    with make(world, "nora-phone", person="nora") as nora:
        said = nora.post("/v1/chat/completions", json=question(MINE)).json()
        rating = {"reply_id": said["metadata"]["reply_ids"][0], "rating": "up"}
        assert nora.post("/v1/feedback", json=rating).status_code == 200
        world.caught_up(said["metadata"]["position"])
    (key_id,) = {
        row["key_id"] for row in world.as_operator.get("/v1/keys").json()["data"] if row["name"] == "nora-phone"
    }
    told = [e for name in ("prompt_asked", "reply_drafted", "reply_rated") for e in world.events(MINE, name)]
    assert {e["source"] for e in told if e["data"]["person"] == "nora"} == {f"/noria/api/keys/{key_id}"}


def test_a_service_and_an_operator_name_whom_they_speak_for(world: World, mine: Things) -> None:
    with make(world, "ward-app", service=True) as app, make(world, "head", role="operator") as head:
        for client in (app, head):
            assert client.get("/v1/me").json()["names_persons"] is True
            assert client.post("/v1/chat/completions", json=question(MINE, user="fred")).status_code == 200
            assert client.get("/v1/people/fred/corrections").status_code == 200
        assert app.get("/v1/rounds").status_code == 403
    with make(world, "one-operator", role="operator", person="olga") as olga:
        assert olga.post("/v1/chat/completions", json=question(MINE, user="fred")).status_code == 403


def test_people_whom_a_service_invents_count_as_one_unless_the_policy_says_otherwise(world: World) -> None:
    world.domain("crowd", policy={"thresholds": {"corrections": 100, "people": 5}})

    def status() -> dict[str, Any]:
        found: dict[str, Any] = world.as_operator.get("/v1/domains/crowd/status").json()
        return found

    def correct(client: httpx.Client, **user: str) -> None:
        said = client.post("/v1/chat/completions", json=question("crowd", **user)).json()
        given = {"reply_id": said["metadata"]["reply_ids"][0], "correction": "At the second gate."} | user
        assert client.post("/v1/feedback", json=given).status_code == 200

    with make(world, "app", service=True) as app, make(world, "ida-phone", person="ida") as ida:
        for number in range(3):
            correct(app, user=f"invented-{number}")
        correct(ida)
        wait_until(lambda: status()["gathered"] == {"corrections": 4, "preferences": 0, "people": 2})
        with make(world, "files", role="data") as files:
            for user in ("curie", "noether"):
                item = {"instruction": "Who opens the gate?", "output": "Whoever rings.", "input": user}
                path = "/v1/domains/crowd/examples"
                assert files.post(path, params={"user": user}, json=[item]).status_code in (200, 201)
            wait_until(lambda: status()["gathered"] == {"corrections": 6, "preferences": 0, "people": 3})
        assert "the 5 whom services named count as one a key (thresholds.named_people)" in [
            one["words"] for one in status()["missing"]
        ]
        for rule, people in (("each", 6), ("none", 1)):
            policy = {"thresholds": {"corrections": 100, "people": 5, "named_people": rule}}
            assert world.as_operator.put("/v1/domains/crowd/policy", json=policy).status_code == 200
            wait_until(lambda people=people: status()["gathered"]["people"] == people)


@pytest.mark.parametrize(
    ("wanted", "status", "param"),
    [
        ({"name": "local"}, 422, "name"),
        ({"name": "a/b"}, 400, "name"),
        ({"name": "a\x00"}, 400, "name"),
        ({"name": "0" * 32}, 400, "name"),
        ({"role": "root"}, 400, "role"),
        ({"domains": []}, 400, "domains"),
        ({"domains": ["nowhere"]}, 404, "domain"),
        ({"domains": ["Ward-Mine"]}, 400, "domains"),
        ({"expires_in_s": 1}, 400, "expires_in_s"),
        ({"expires_in_s": 2**70}, 400, "expires_in_s"),
        ({"service": True, "role": "data"}, 400, "service"),
        ({"service": True, "person": "ann"}, 400, "person"),
        ({"person": "a\nb"}, 400, "person"),
        ({"made_up": 1}, 400, "made_up"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_field(
    world: World, mine: Things, wanted: dict[str, Any], status: int, param: str
) -> None:
    answer = world.as_operator.post("/v1/keys", json={"name": "fine", **wanted})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_keys_are_listed_with_all_but_the_key_and_used_to_the_minute(world: World, mine: Things) -> None:
    wanted = {"name": "listed", "person": "ann", "domains": [MINE], "expires_in_s": 3600}
    made = world.as_operator.post("/v1/keys", json=wanted).json()
    token = made.pop("key")
    (row,) = [row for row in world.as_operator.get("/v1/keys").json()["data"] if row["name"] == "listed"]
    assert row == made and row["used_at"] is None and row["domains"] == [MINE] and row["person"] == "ann"
    left = datetime.fromisoformat(row["expires_at"]) - datetime.fromisoformat(row["created_at"])
    assert left.total_seconds() == 3600
    with world.client(token) as client:
        assert client.get("/v1/me").status_code == 200
    listed = world.as_operator.get("/v1/keys")
    assert token not in listed.text and hash_of(token) not in listed.text
    (row,) = [row for row in listed.json()["data"] if row["name"] == "listed"]
    assert datetime.fromisoformat(row["used_at"]).second == 0


class _Statements:
    """What is sent to PostgreSQL while it is open."""

    def __init__(self, database: Engine) -> None:
        self.seen: list[str] = []
        self._database = database

    def __enter__(self) -> "_Statements":
        event.listen(self._database, "before_cursor_execute", self._see)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self._database, "before_cursor_execute", self._see)

    def _see(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.seen.append(statement)


def test_a_key_costs_one_statement_every_few_seconds(world: World) -> None:
    database, now = world.database, [0.0]
    keys = ApiKeys(database, clock=lambda: now[0])
    token = create_key(database, "counted", "chat", person="ann")
    with _Statements(database) as sent:
        for _ in range(100):
            assert not isinstance(keys.caller(token), str)
            now[0] += RECHECK_S / 50
    assert len(sent.seen) == 2


def test_a_key_ends_at_its_time_though_nobody_looks(world: World) -> None:
    database, now = world.database, [0.0]
    keys = ApiKeys(database, clock=lambda: now[0])
    token = create_key(database, "short", "chat", person="ann", expires_in_s=1)
    assert not isinstance(keys.caller(token), str)
    with database.begin() as connection:
        connection.execute(text("UPDATE access.api_keys SET expires_at = now() WHERE name = 'short'"))
    now[0] = 0.9
    assert not isinstance(keys.caller(token), str)
    now[0] = 1.1
    assert now[0] < RECHECK_S and keys.caller(token) == "expired"


def test_a_revoked_key_is_refused_at_its_next_request_and_by_every_other_door(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.keys, "RECHECK_S", 600.0)  # so that a door knows no more than it is told
    other = build(world.settings, client_id="other-door")
    other.routes.start()
    try:
        assert other.routes.wait_ready(PATIENCE_S)
        with make(world, "lost-phone", person="ann") as lost:
            token = lost.headers["Authorization"].removeprefix("Bearer ")
            assert lost.get("/v1/me").status_code == 200
            with _Statements(other.database) as sent:
                assert not isinstance(other.keys.caller(token), str)
                assert not isinstance(other.keys.caller(token), str)
            assert len(sent.seen) == 1, "the second time it is remembered"
            assert len(world.as_operator.post("/v1/keys/lost-phone/revoke", json={}).json()["revoked"]) == 1
            assert refusal(lost.get("/v1/me")) == (401, "revoked_api_key")
        wait_until(lambda: other.keys.caller(token) == "revoked", "the other door hears of it")
    finally:
        other.routes.stop()
        other.recorder.log.close()
        other.database.dispose()
    assert refusal(world.as_operator.post("/v1/keys/lost-phone/revoke", json={})) == (404, "key_not_found")


def test_a_door_that_is_told_nothing_refuses_at_once_what_it_revoked_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.keys, "RECHECK_S", 600.0)
    deaf = replace(world.services, keys=ApiKeys(world.database))
    client, token = create_app(deaf).test_client(), create_key(deaf.database, "lost-tablet", "chat", person="ann")
    me: Ask = ("/v1/me", None)
    assert call(client, "GET", me, token).status_code == 200
    assert call(client, "POST", ("/v1/keys/lost-tablet/revoke", {}), world.key).status_code == 200
    assert call(client, "GET", me, token).status_code == 401


def test_whoever_follows_the_log_with_a_revoked_key_hears_no_more(world: World, mine: Things) -> None:
    asked = {"follow": 1, "after": "end"}
    with (
        make(world, "follower", role="data", domains=[MINE]) as key,
        key.stream("GET", "/v1/events", params=asked) as log,
    ):
        lines = log.iter_lines()
        assert next(lines) == ": the log follows"
        world.as_operator.post("/v1/keys/follower/revoke", json={})
        assert ": the key does not hold any more" in list(lines)


def test_wrong_keys_are_slowed_down_and_a_right_one_goes_on(world: World, mine: Things) -> None:
    client = create_app(replace(world.services, wrong_keys=WrongKeys(clock=lambda: 0.0))).test_client()

    def status(token: str, address: str = "10.0.0.1") -> tuple[int, str | None]:
        headers = {"Authorization": f"Bearer {token}"}
        answer = client.get("/v1/me", headers=headers, environ_overrides={"REMOTE_ADDR": address})
        return answer.status_code, answer.headers.get("Retry-After")

    with make(world, "neighbour", person="ann") as right:
        token = right.headers["Authorization"].removeprefix("Bearer ")
        assert status(token)[0] == 200
        tried = [status(f"noria-{number}") for number in range(AT_ONCE + 5)]
        assert [one for one in tried if one[0] == 401] == [(401, None)] * AT_ONCE
        assert tried[AT_ONCE:] == [(429, "1")] * 5
        assert status(token)[0] == 200
        assert status("noria-x", "10.0.0.2")[0] == 401


# What somebody tries who has a key, and wants more than it is for.


def test_no_header_query_or_cookie_makes_more_of_a_request_than_its_key(world: World, mine: Things) -> None:
    smuggled = {name: "ann" for name in ("X-Person", "X-Noria-Person", "X-User", "X-Forwarded-User", "Remote-User")}
    smuggled |= {"X-Role": "operator", "X-Noria-Role": "operator", "X-Original-URL": "/v1/keys"}
    smuggled |= {"X-HTTP-Method-Override": "PUT", "X-Forwarded-For": "127.0.0.1"}
    with make(world, "smuggler", person="sam") as sam:
        assert sam.get("/v1/me", headers=smuggled).json()["person"] == "sam"
        assert sam.get("/v1/keys", headers=smuggled).status_code == 403
        said = sam.post("/v1/chat/completions", json=question(MINE), headers=smuggled).json()
        world.caught_up(said["metadata"]["position"])
    prompts = [e["data"] for e in world.events(MINE, "prompt_asked")]
    assert [p["person"] for p in prompts if p["conversation_id"] == said["metadata"]["conversation_id"]] == ["sam"]
    key = world.key
    with world.client(None) as nobody:
        for name in ("key", "api_key", "access_token", "token", "Authorization"):
            assert nobody.get("/v1/me", params={name: key}).status_code == 401
            assert nobody.get("/v1/me", headers={"Cookie": f"{name}={key}"}).status_code == 401
        for value in (f"Basic {key}", key, f"Bearer{key}", "Bearer", f"Token {key}", f"Bearer {key} x"):
            assert nobody.get("/v1/me", headers={"Authorization": value}).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/domains/{THEIRS.upper()}/status",
        f"/v1/domains/%77{THEIRS[1:]}/status",
        f"/v1/domains/{THEIRS}%00/status",
        f"/v1/domains/{MINE}/../{THEIRS}/status",
        f"/v1/domains/{MINE}%2f..%2f{THEIRS}/status",
        f"/v1/domains/{THEIRS}/status/",
        f"//v1/domains/{THEIRS}/status",
        f"/v1/rounds?domain={MINE}&domain={THEIRS}",
        f"/v1/rounds?domain={THEIRS}&domain={MINE}",
        f"/v1/domains/{MINE}/status?domain={THEIRS}",
        f"/v1/models/{THEIRS}@0",
    ],
)
def test_no_spelling_of_another_domain_finds_it(world: World, mine: Things, theirs: Things, path: str) -> None:
    with make(world, "speller", role="operator", domains=[MINE]) as client:
        answer = client.get(path)
        assert answer.status_code == 404 and THEIRS not in answer.text, answer.text


def test_a_key_of_one_domain_neither_asks_nor_goes_on_in_another(world: World, mine: Things, theirs: Things) -> None:
    said = world.chat(THEIRS, user="ann")
    world.caught_up(said["metadata"]["position"])
    there = {"conversation_id": said["metadata"]["conversation_id"]}
    with make(world, "ann-here", person="ann", domains=[MINE]) as ann:
        for model in (THEIRS, f"{THEIRS}@0"):
            assert refusal(ann.post("/v1/chat/completions", json=question(model))) == (404, "model_not_found")
        answer = ann.post("/v1/chat/completions", json=question(MINE, metadata=there))
        assert refusal(answer) == (404, "conversation_not_found")
        for kind in ({"rating": "up"}, {"correction": "more"}, {"comment": "why"}, {"pick": True}):
            answer = ann.post("/v1/feedback", json={"reply_id": said["metadata"]["reply_ids"][0], **kind})
            assert refusal(answer) == (404, "reply_not_found")
        own = world.chat(MINE, user="bert")["metadata"]
        world.caught_up(own["position"])
        others = {"conversation_id": own["conversation_id"]}
        assert ann.post("/v1/chat/completions", json=question(MINE, metadata=others)).status_code == 403


def test_corrections_are_shown_of_the_keys_own_domains(world: World, mine: Things, theirs: Things) -> None:
    for domain in (MINE, THEIRS):
        said = world.chat(domain, user="cora")["metadata"]
        world.caught_up(said["position"])
        body = {"reply_id": said["reply_ids"][0], "user": "cora", "correction": "so it is"}
        world.caught_up(world.as_chat.post("/v1/feedback", json=body).json()["position"])
    said = world.chat(THEIRS, user="only-there")["metadata"]
    world.caught_up(said["position"])
    with make(world, "cora-here", person="cora", domains=[MINE]) as cora:
        assert [row["domain"] for row in cora.get("/v1/people/cora/corrections").json()["data"]] == [MINE]
    with make(world, "curators", role="data", domains=[MINE]) as data:
        assert [row["domain"] for row in data.get("/v1/people/cora/corrections").json()["data"]] == [MINE]
        assert refusal(data.get("/v1/people/only-there/corrections")) == (404, "person_not_found")


def test_an_idempotency_key_is_its_keys_own(world: World, mine: Things) -> None:
    with make(world, "gina-1", person="gina") as one, make(world, "gina-2", person="gina") as two:
        said = one.post("/v1/chat/completions", json=question(MINE)).json()["metadata"]
        world.caught_up(said["position"])
        body = {"reply_id": said["reply_ids"][0], "rating": "up"}
        answers = [c.post("/v1/feedback", json=body, headers={"Idempotency-Key": "k"}) for c in (one, one, two)]
    assert [answer.json()["duplicate"] for answer in answers] == [False, True, False]
    with make(world, "hugo", person="hugo") as hugo:
        assert hugo.post("/v1/feedback", json=body, headers={"Idempotency-Key": "k"}).status_code == 403


def test_a_link_begins_one_session_and_a_session_makes_nothing_that_outlives_it(world: World, mine: Things) -> None:
    with make(world, "ida", role="operator") as ida:
        once = ida.post("/v1/sessions/link", json={}).json()["token"]
    with world.client(once) as link:
        assert link.get("/v1/me").status_code == 401
        begun = link.post("/v1/sessions", json={})
        assert begun.status_code == 201
        assert link.post("/v1/sessions", json={}).status_code == 401
    with world.client(begun.json()["token"]) as session:
        assert session.get("/v1/me").json()["role"] == "operator"
        for path, body in (("/v1/keys", {"name": "later"}), ("/v1/sessions", {}), ("/v1/sessions/link", {})):
            assert refusal(session.post(path, json=body)) == (403, "session")
        assert session.post("/v1/sessions/end", json={}).status_code == 200
        assert session.get("/v1/me").status_code == 401


def test_a_link_that_is_too_old_and_a_session_of_a_revoked_key_are_nobodys(world: World, mine: Things) -> None:
    database = world.database
    with make(world, "jo", person="jo") as jo:
        once = jo.post("/v1/sessions/link", json={}).json()["token"]
        begun = jo.post("/v1/sessions", json={}).json()["token"]
    with database.begin() as connection:
        connection.execute(text("UPDATE access.sessions SET expires_at = now() WHERE kind = 'once'"))
    with world.client(once) as link, world.client(begun) as session:
        assert link.post("/v1/sessions", json={}).status_code == 401
        assert session.get("/v1/me").json()["person"] == "jo"
        world.as_operator.post("/v1/keys/jo/revoke", json={})
        assert refusal(session.get("/v1/me")) == (401, "revoked_api_key")


def test_of_many_who_open_one_link_at_once_one_comes_in(world: World, mine: Things) -> None:
    once = world.as_operator.post("/v1/sessions/link", json={}).json()["token"]
    database, many = world.database, 3
    keys = ApiKeys(database)
    at_the_link = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND query LIKE '%access.sessions%'"
    )

    def all_wait() -> bool:
        with database.connect() as looking:
            return bool(looking.execute(at_the_link).scalar_one() == many)

    with ThreadPoolExecutor(many) as callers:
        with database.begin() as holding:  # so that they meet
            holding.execute(
                text("SELECT 1 FROM access.sessions WHERE hash = :hash FOR UPDATE"), {"hash": hash_of(once)}
            )
            came = [callers.submit(keys.redeem, once) for _ in range(many)]
            wait_until(all_wait, what="that all of them are at the link")
        assert sum(not isinstance(one.result(), str) for one in came) == 1
