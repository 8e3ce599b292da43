"""The page's door: what is behind it is reached by who has logged in, and by nobody else."""

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from api.client import Address, Door, Refused
from api.guessing import AT_ONCE, ONE_EVERY_S, WrongKeys
from api.ui import dropped as dropped_room
from api.ui.dropped import KEPT_S, Dropped
from api.ui.entry import GUESS_EVERY_S, GUESSES_AT_ONCE, RECHECK_S, STALE_S, VISITOR, Entry, Visitors
from api.ui.page import words_of
from api.ui.words import _WORDS
from streams.errors import Invalid
from tests.door_server import CHAT_KEY, DATA_KEY, KEY, FakeDoor, serving

HOST = "http://page.test:8401"
COOKIE = "noria-8401"
GRADIO = [
    ("GET", "/"),
    ("GET", "/config"),
    ("GET", "/gradio_api/info"),
    ("GET", "/gradio_api/queue/data?session_hash=tab"),
    ("GET", "/gradio_api/heartbeat/tab"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/cancel"),
    ("POST", "/gradio_api/run/predict"),
    ("POST", "/gradio_api/call/predict"),
    ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/component_server"),
    ("GET", "/gradio_api/file=/etc/passwd"),
    ("GET", "/gradio_api/file=..%2f..%2fetc%2fpasswd"),
    ("GET", "/gradio_api/proxy=http://127.0.0.1:8400/v1/keys"),
    ("GET", "/gradio_api/app_id"),
    ("GET", "/gradio_api/startup-events"),
    ("GET", "/gradio_api/openapi.json"),
    ("GET", "/gradio_api/mcp/sse"),
    ("GET", "/monitoring"),
    ("GET", "/static/img/logo.svg"),
    ("GET", "/assets/index.js"),
    ("GET", "/theme.css"),
    ("GET", "/manifest.json"),
    ("POST", "/dropped?name=a.json"),
    ("POST", "/logout"),
    ("GET", "/login/"),
    ("GET", "/LOGIN"),
    ("GET", "/login/../config"),
    ("GET", "/login%2f..%2fconfig"),
    ("GET", "/healthz/../config"),
    ("GET", "/healthz;/config"),
    ("GET", "/no-such-path"),
]


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    """What gradio would be: says who it thinks has come, and what they said."""
    visitor = scope.get(VISITOR)
    body = await Request(scope, receive).body()
    told = {"person": visitor.person if visitor is not None else None, "path": scope["path"], "said": body.decode()}
    await JSONResponse(told)(scope, receive, send)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def served() -> Iterator[FakeDoor]:
    with serving() as found:
        yield found


@pytest.fixture
def door(served: FakeDoor) -> FakeDoor:
    served.reset()
    return served


@pytest.fixture
def entry(door: FakeDoor, clock: Clock) -> Iterator[Entry]:
    with Door(Address(door.url, None)) as client:
        yield Entry(behind, Visitors(client, clock), {"page.test"})


def browser(entry: Entry) -> TestClient:
    """A browser of its own, that follows no redirect."""
    return TestClient(entry, base_url=HOST, follow_redirects=False)


def log_in(entry: Entry, key: str = KEY) -> TestClient:
    found = browser(entry)
    answer = found.post("/login", data={"key": key})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return found


def test_nothing_is_reached_without_a_session(entry: Entry) -> None:
    forged = ["", f"{COOKIE}=x", f"{COOKIE}={KEY}", f"noria={KEY}"]
    client = browser(entry)
    for (method, path), cookie in product(GRADIO, forged):
        for asked in (method, "OPTIONS"):
            headers = {"Cookie": cookie, "Authorization": f"Bearer {KEY}", "X-Noria-Visitor": "operator"}
            answer = client.request(asked, path, headers=headers, json={"session_hash": "tab"})
            if path == "/" and asked == "GET":
                assert (answer.status_code, answer.headers["location"]) == (303, "/login")
            else:
                assert answer.status_code == 401, (asked, path, cookie)
                assert "person" not in answer.text


def test_a_data_team_drops_files_and_who_chats_does_not(entry: Entry) -> None:
    for key, status in ((KEY, 200), (DATA_KEY, 200), (CHAT_KEY, 403)):
        client = log_in(entry, key)
        assert client.post("/dropped?name=a.json", content=b"[]").status_code == status
        assert client.get("/dropped?name=a.json").status_code == 404
        foreign = client.post("/dropped?name=a.json", content=b"[]", headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403


def test_a_dropped_file_is_its_owners_alone_and_goes_when_it_was_looked_at(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for killed in ("one", "other"):
        held = tempfile.mkdtemp(prefix=Path(Dropped(tmp_path / killed)._folder.name).name[:-8])
        (Path(held) / "a.json").write_text("[]")
    dropped = Dropped(tmp_path / "one", clock)
    assert len([*tmp_path.glob("*/a.json")]) == 1, (
        "what a page of this home left when it was killed goes, and no other's"
    )

    def hold(session: str, name: str, *pieces: bytes) -> None:
        async def body() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        asyncio.run(dropped.hold(session, name, body()))

    hold("ana", "a.json", b"[", b"]")
    first = dropped.of("ana")
    assert first is not None and first.read_bytes() == b"[]" and dropped.of("ben") is None
    assert first.parent.stat().st_mode & 0o077 == 0
    hold("ana", "b.json", b"{}")
    second = dropped.of("ana")
    assert second is not None and second.name == "b.json" and not first.exists(), "one at a time"
    monkeypatch.setattr(dropped_room, "FILE_BYTES", 3)
    for name, pieces in (("c.json", [b"[1,", b"2]"]), ("../c.json", [b""]), ("", [b""]), (".c", [b""])):
        with pytest.raises(Invalid):
            hold("ana", name, *pieces)
    assert dropped.of("ana") == second, "what is refused takes no place"
    clock.now += KEPT_S + 1
    assert dropped.of("ana") is None and not second.parent.exists()
    hold("ben", "b.json", b"")
    dropped.put_away("ben")
    dropped.put_away("ben")
    assert dropped.of("ben") is None


def test_under_a_name_that_is_not_its_own_it_is_not_reached_at_all(entry: Entry) -> None:
    client = log_in(entry)
    for host in ("evil.example", "evil.example:8401", "page.test.evil.example", "127.0.0.1.evil.example", "[::1", ""):
        for path in ("/", "/login", "/config", "/healthz"):
            headers = {"Host": host, "Origin": f"http://{host}"}
            assert client.get(path, headers=headers).status_code == 421, (host, path)
            assert client.post(path, headers=headers, data={"key": KEY}).status_code == 421, (host, path)
    for host in ("page.test", "PAGE.test:8401", "localhost:8401", "127.0.0.1:1", "[::1]:8401"):
        assert client.get("/config", headers={"Host": host}).status_code == 200, host


def test_no_socket_is_opened(entry: Entry) -> None:
    for client in (browser(entry), log_in(entry)):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/gradio_api/queue/join"):
            pass


def test_who_has_logged_in_reaches_the_page_and_no_more_of_gradio_than_it_needs(entry: Entry) -> None:
    client = log_in(entry)
    for path in ("/", "/config", "/theme.css", "/assets/index.js", "/gradio_api/queue/data?session_hash=tab"):
        assert client.get(path).json()["person"] == "key:test-operator"
    said = {"session_hash": "tab", "data": ["é"]}
    assert json.loads(client.post("/gradio_api/queue/join", json=said).json()["said"]) == said
    for path in ("/gradio_api/info", "/gradio_api/file=/etc/passwd", "/gradio_api/upload", "/assets/%2e%2e/config"):
        assert client.get(path).status_code == 404


def test_a_session_is_new_with_each_log_in_and_ends_the_one_before(entry: Entry, door: FakeDoor) -> None:
    client = browser(entry)
    client.cookies.set(COOKIE, "chosen-by-somebody-else", domain="page.test")
    client.post("/login", data={"key": CHAT_KEY})
    first = client.cookies[COOKIE]
    assert first != "chosen-by-somebody-else" and len(first) > 40
    client.post("/login", data={"key": KEY})
    assert client.cookies[COOKIE] != first
    assert list(door.tokens.values()) == [KEY]
    old = browser(entry)
    old.cookies.set(COOKIE, first, domain="page.test")
    assert old.get("/config").status_code == 401


def test_a_cookie_is_for_this_page_alone_and_secure_where_the_way_is(entry: Entry) -> None:
    client = browser(entry)
    cookie = client.post("/login", data={"key": KEY}).headers["set-cookie"].lower()
    for attribute in ("httponly", "samesite=strict", "path=/"):
        assert attribute in cookie
    assert not any(word in cookie for word in ("max-age", "expires", "domain", "secure"))
    over_tls = TestClient(entry, base_url="https://page.test:8401", follow_redirects=False)
    assert "secure" in over_tls.post("/login", data={"key": KEY}).headers["set-cookie"].lower()


def test_a_link_works_once_and_is_no_key(entry: Entry, door: FakeDoor) -> None:
    with Door(Address(door.url, CHAT_KEY)) as client:
        once = client.page_link(HOST).partition("#once=")[2]
    assert log_in(entry, once).get("/config").json()["person"] == "key:test-chat"
    assert browser(entry).post("/login", data={"key": once}).status_code == 401
    assert browser(entry).get("/", headers={"Cookie": f"{COOKIE}={once}"}).status_code == 303


@pytest.mark.parametrize("query", [f"key={KEY}", f"once={KEY}", f"token={KEY}"])
def test_a_key_in_an_address_opens_nothing(entry: Entry, query: str) -> None:
    assert browser(entry).get(f"/?{query}").status_code == 303
    assert browser(entry).get(f"/login?{query}").status_code == 200
    assert browser(entry).post(f"/login?{query}").status_code == 401
    assert browser(entry).get(f"/config?{query}").status_code == 401


@pytest.mark.parametrize("key", ["", " ", "x" * 600, "ключ", "a\nb", "a\x00b", "noria-wrong"])
def test_what_is_no_key_is_refused_with_the_form_again(entry: Entry, key: str) -> None:
    answer = browser(entry).post("/login", data={"key": key})
    assert answer.status_code == 401 and 'name="key"' in answer.text
    assert "set-cookie" not in answer.headers and (not key.strip() or key not in answer.text)


def test_another_site_neither_logs_in_nor_acts(entry: Entry) -> None:
    client = log_in(entry)
    for origin in ("http://evil.test", "http://page.test:9999", "https://page.test:8401.evil.test", "null"):
        for method, path in (("POST", "/login"), ("POST", "/logout"), ("GET", "/config"), ("OPTIONS", "/config")):
            answer = client.request(method, path, headers={"Origin": origin}, data={"key": KEY})
            assert answer.status_code == 403, (origin, method, path)
            assert "access-control-allow-origin" not in answer.headers
    own = client.get("/config", headers={"Origin": HOST})
    assert own.json()["person"] == "key:test-operator"


def test_a_tab_is_whose_it_was_first(entry: Entry) -> None:
    ana, eve = log_in(entry), log_in(entry, CHAT_KEY)
    assert ana.post("/gradio_api/queue/join", json={"session_hash": "tab"}).status_code == 200
    assert ana.get("/gradio_api/queue/data?session_hash=tab").status_code == 200
    assert eve.get("/gradio_api/queue/data?session_hash=tab").status_code == 403
    assert eve.get("/gradio_api/queue/data?session_hash=own&session_hash=tab").status_code == 403
    assert eve.get("/gradio_api/queue/data?session_hash=tab&session_hash=own").status_code == 403
    assert eve.get("/gradio_api/heartbeat/tab").status_code == 403
    for body in (b'{"session_hash": "tab"}', b'{"session_hash": "own", "session_hash": "tab"}'):
        assert eve.post("/gradio_api/queue/join", content=body).status_code == 403
    for body in (b"{}", b"", b"[]", b'{"session_hash": 1}', '{"session_hash": "tab"}'.encode("utf-16"), b"\xff"):
        assert eve.post("/gradio_api/queue/join", content=body).status_code == 400
    assert eve.post("/gradio_api/queue/join", content=b"[" * 2_000_000).status_code == 413


def test_who_logs_out_is_out_at_once(entry: Entry, door: FakeDoor) -> None:
    client = log_in(entry)
    session = client.cookies[COOKIE]
    assert client.get("/logout").status_code == 405
    answer = client.post("/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert not door.tokens and COOKIE not in client.cookies
    client.cookies.set(COOKIE, session, domain="page.test")
    assert client.get("/config").status_code == 401


def test_a_revoked_key_ends_its_sessions_and_a_door_that_is_away_does_not(
    entry: Entry, door: FakeDoor, clock: Clock
) -> None:
    client = log_in(entry)
    door.down = True
    clock.now += STALE_S - 1
    assert client.get("/config").status_code == 200
    clock.now += 2
    assert client.get("/config").status_code == 503
    door.down = False
    assert client.get("/config").status_code == 200
    door.revoked.add(KEY)
    clock.now += RECHECK_S
    assert client.get("/config").status_code == 401


def test_who_tries_many_keys_waits(entry: Entry) -> None:
    client = browser(entry)
    tried = [client.post("/login", data={"key": f"noria-{number}"}) for number in range(GUESSES_AT_ONCE + 3)]
    assert [answer.status_code for answer in tried[:GUESSES_AT_ONCE]] == [401] * GUESSES_AT_ONCE
    assert tried[-1].status_code == 429 and tried[-1].headers["retry-after"] == "5"


def test_who_guesses_at_the_page_leaves_the_others_their_tries_at_the_door(clock: Clock) -> None:
    here, door = WrongKeys(clock, GUESSES_AT_ONCE, GUESS_EVERY_S), WrongKeys(clock)
    for _ in range(1000):
        if here.take("10.0.0.1") == 0.0:
            assert door.take("127.0.0.1") == 0.0
        clock.now += ONE_EVERY_S / 10
    assert [door.take("127.0.0.1") for _ in range(AT_ONCE - 1)] == [0.0] * (AT_ONCE - 1)


def test_the_form_speaks_both_languages(entry: Entry) -> None:
    texts: dict[str, Any] = {lang: browser(entry).get(f"/login?lang={lang}").text for lang in ("en", "zh")}
    assert "Your key" in texts["en"] and "你的密钥" in texts["zh"] and 'lang="zh-CN"' in texts["zh"]


def test_what_the_door_refuses_is_said_in_the_language_of_the_page_where_its_code_has_words() -> None:
    door_says = "it does not wait for anybody: it has been decided on"
    assert words_of(Refused(409, door_says, code="decided"), "en") == f"The door says: {door_says}"
    assert words_of(Refused(409, door_says, code="decided"), "zh") == "它此前已有定论。"
    assert words_of(Refused(409, door_says, code="of_tomorrow"), "zh") == f"服务答复：{door_says}"
    codes = {code for file in Path("api").glob("*.py") for code in re.findall(r'code="(\w+)"', file.read_text())}
    assert {key.removeprefix("problem_") for key in _WORDS if key.startswith("problem_")} <= codes
