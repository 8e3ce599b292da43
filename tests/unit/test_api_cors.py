"""Pages of other origins: kept out, or let in by name."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.cors import allow_origins
from streams.errors import Invalid
from streams.settings import from_env

MINE = "https://chat.example.org"
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def door(*origins: str) -> FlaskClient:
    app = Flask("door")
    allow_origins(app, origins)
    app.before_request(lambda: ("no key", 401))
    return app.test_client()


def test_no_page_is_let_in_unless_a_setting_names_it() -> None:
    answer = door().options("/v1/models", headers={"Origin": MINE, **ASKED})
    assert answer.status_code == 401 and not [name for name, _ in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("origins", [(MINE,), ("http://127.0.0.1:3000", MINE), ("*",)])
def test_a_page_that_is_named_may_ask_what_it_may_and_reads_the_answer(origins: tuple[str, ...]) -> None:
    client = door(*origins)
    preflight = client.options("/v1/chat/completions", headers={"Origin": MINE, **ASKED})
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == MINE
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert preflight.headers["Access-Control-Allow-Headers"] == ASKED["Access-Control-Request-Headers"]
    answer = client.post("/v1/chat/completions", headers={"Origin": MINE})
    assert answer.status_code == 401 and answer.headers["Access-Control-Allow-Origin"] == MINE  # a key is needed too
    assert "X-Noria-Release" in answer.headers["Access-Control-Expose-Headers"]
    assert "Origin" in answer.headers["Vary"] and "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://chat.example.org.evil.example", "http://chat.example.org", "null"])
def test_another_page_is_not(origin: str) -> None:
    answer = door(MINE).options("/v1/models", headers={"Origin": origin, **ASKED})
    assert answer.status_code == 401 and "Access-Control-Allow-Origin" not in answer.headers


def setting(text: str) -> tuple[str, ...]:
    needed = {"NORIA_HOME": "/nowhere", "NORIA_KAFKA": "k", "NORIA_DATABASE_URL": "d", "NORIA_DOOR": "http://h:1"}
    return from_env({**needed, "NORIA_CORS_ORIGINS": text}).cors_origins


def test_the_setting_is_a_list_of_origins() -> None:
    assert setting("") == () and setting("*") == ("*",)
    assert setting(f"{MINE}, http://127.0.0.1:3000") == (MINE, "http://127.0.0.1:3000")


@pytest.mark.parametrize("text", ["chat.example.org", f"{MINE}/", f"{MINE}/chat", "https://Chat.example.org"])
def test_what_no_browser_says_is_no_origin(text: str) -> None:
    with pytest.raises(Invalid, match="NORIA_CORS_ORIGINS"):
        setting(text)
