"""Whatever is asked of whatever path: an answer in the door's own shape, and never a fault of the door."""

import json
import re
from codecs import BOM_UTF8
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.app import create_app
from tests.door_world import World

ODD = [
    *("%00", "a%00b", "%ff", "%F0%9F%92%A7", "%e2%80%8d", "..", "%2e%2e%2f", "%0a", "%25", "%20"),
    *("'", "-", "0", "9" * 40, "a" * 300),
]
DEEP = 100_000
BODIES = [
    b"",
    b"\x00",
    b"\xff\xfe{\x00}\x00",
    BOM_UTF8,
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"1e999",
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b'{"metadata":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"thresholds":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
]
quick = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def routes(world: World) -> list[tuple[str, str]]:
    """(method, rule) of every path of the door."""
    rules = create_app(world.services).url_map.iter_rules()
    return sorted((m, rule.rule) for rule in rules for m in (rule.methods or set()) & {"GET", "POST", "PUT"})


def no_fault(answer: httpx.Response) -> None:
    if answer.status_code < 400:
        return
    assert answer.status_code != 500, answer.request.url
    assert set(answer.json().get("error", {"message", "type", "param", "code"})) == {"message", "type", "param", "code"}


def ask(world: World, method: str, path: str, body: bytes | None = None, query: str = "") -> httpx.Response:
    url = httpx.URL(world.door_url).copy_with(raw_path=(path + query).encode())
    return world.as_operator.request(method, url, content=body)


def test_there_are_routes_to_try(routes: list[tuple[str, str]]) -> None:
    assert len(routes) > 20 and ("POST", "/v1/chat/completions") in routes


@pytest.mark.parametrize("odd", ODD)
def test_no_path_with_odd_bytes_is_a_fault(world: World, routes: list[tuple[str, str]], odd: str) -> None:
    for method, rule in routes:
        if "<" in rule:
            no_fault(ask(world, method, re.sub("<[^>]*>", odd, rule), b"{}" if method != "GET" else None))
    for method, path in (("GET", "/v1/events"), ("GET", "/v1/rounds"), ("GET", "/v1/releases")):
        for name in ("domain", "after", "limit", "topic"):
            no_fault(ask(world, method, path, query=f"?{name}={odd}"))


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_no_body_is_a_fault(world: World, routes: list[tuple[str, str]], number: int) -> None:
    domain = world.domain()
    for method, rule in routes:
        if method != "GET" and not rule.endswith("/rounds"):
            no_fault(ask(world, method, re.sub("<[^>]*>", domain, rule), BODIES[number]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    [
        *(
            "model",
            "messages",
            "metadata",
            "reply_id",
            "user",
            "rating",
            "correction",
            "misfit",
            "comment",
            "pick",
            "to",
            "domain",
        ),
        *("title", "languages", "system_prompt", "base_model", "engine", "replay_prompts", "response_format", "seed"),
    ]
)


@quick
@given(body=st.dictionaries(names, json_values, max_size=4), chance=st.randoms())
def test_no_object_is_a_fault(world: World, routes: list[tuple[str, str]], body: dict[str, Any], chance: Any) -> None:
    method, rule = chance.choice([route for route in routes if route[0] != "GET"])
    no_fault(ask(world, method, re.sub("<[^>]*>", "nope", rule), json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/events?domain=nope", "domain_not_found"),
        ("GET", "/v1/events?domain=nope&follow=1", "domain_not_found"),
        ("GET", "/v1/rounds?domain=nope", "domain_not_found"),
        ("GET", "/v1/releases?domain=nope", "domain_not_found"),
        ("GET", "/v1/domains/nope", "domain_not_found"),
        ("GET", "/v1/domains/nope/policy", "domain_not_found"),
        ("GET", "/v1/domains/nope/status", "domain_not_found"),
        ("GET", "/v1/domains/nope/exam", "domain_not_found"),
        ("GET", "/v1/domains/nope/examples", "domain_not_found"),
        ("POST", "/v1/domains/nope/rounds", "domain_not_found"),
        ("GET", "/v1/rounds/nope", "round_not_found"),
        ("POST", "/v1/rounds/nope/cancel", "round_not_found"),
        ("GET", "/v1/events/nope", "event_not_found"),
        ("GET", "/v1/models/nope", "model_not_found"),
        ("GET", "/v1/people/nope/corrections", "person_not_found"),
        ("GET", "/v1/people/nope/erase", "person_not_found"),
        ("POST", "/v1/people/nope/erase", "person_not_found"),
    ],
)
def test_what_is_not_there_is_404(world: World, method: str, path: str, code: str) -> None:
    answer = world.as_operator.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


def test_what_is_there_and_empty_is_not_404(world: World) -> None:
    domain = world.domain()
    assert world.as_data.get("/v1/rounds", params={"domain": domain}).json() == {"data": []}
    world.chat(domain, user="cleo")
    assert world.as_data.get("/v1/people/cleo/corrections").json()["data"] == []
    mine = world.as_chat.get("/v1/people/key:app/corrections")  # a key's own person may have said nothing yet
    assert mine.status_code == 200 and mine.json()["data"] == []


def test_a_byte_order_mark_before_a_body_is_passed_over(world: World) -> None:
    domain = world.domain()
    body = BOM_UTF8 + json.dumps({"model": domain, "messages": [{"role": "user", "content": "hi"}]}).encode()
    assert ask(world, "POST", "/v1/chat/completions", body).status_code == 200
