"""The memory as a process: what doors ask it, what it refuses, and that it may be killed, or be two."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from deploy.ports import LOOPBACK, free_port
from streams.errors import Unavailable
from streams.recall_client import KEY, MOST_PLACES, RecallClient
from streams.recalled import Recall
from streams.sealing import Keyring
from tests.integration.by_hand import empty
from tests.integration.test_memory import DOMAIN, FARE, LAST, World, fill
from tests.local_noria import until
from tests.memories import Bags
from tests.waiting import PATIENCE_S
from workers.recall.server import application, make_server
from workers.selector.mapped import Maps

BOTH = Recall(of="both")


@pytest.fixture
def world(database: Engine, keyring: Keyring) -> World:
    empty(database)
    return World(database, keyring)


@contextmanager
def served(world: World) -> Iterator[str]:
    """The world's own memory, behind the server."""
    url = f"http://{LOOPBACK}:{free_port()}"
    maps = Maps(world.database, world.keyring, lambda recall: Bags())
    server = make_server(application(lambda: world.memory.held, world.keyring.derive(KEY), maps.lay_out), url)
    threading.Thread(target=server.run, daemon=True).start()
    yield url
    server.close()


def client(world: World, url: str, timeout_s: float = PATIENCE_S) -> RecallClient:
    return RecallClient(url, world.keyring.derive(KEY), timeout_s)


def test_a_door_is_told_ids_and_scores_of_what_is_good_enough_and_no_words(world: World) -> None:
    fill(world)
    with served(world) as url:
        first, *_ = client(world, url).recall(DOMAIN, LAST, BOTH)
        assert (first.kind, first.id) == ("correction", world.examples()[0]) and 0.3 < first.score <= 1
        assert client(world, url).recall(DOMAIN, "Who painted the Mona Lisa?", BOTH) == ()
        everything = client(world, url).recall(DOMAIN, LAST, Recall(of="both", least=0.0, most=10))
        assert len(everything) == 4 and [m.score for m in everything] == sorted(
            (m.score for m in everything), reverse=True
        )
        assert {m.kind for m in client(world, url).recall(DOMAIN, LAST, Recall(of="documents", least=0.0))} == {
            "passage"
        }


def test_who_has_not_the_key_or_asks_rubbish_is_refused_and_what_is_not_held_is_not_there(world: World) -> None:
    fill(world)
    key = {"Authorization": f"Bearer {world.keyring.derive(KEY)}"}
    with served(world) as url, httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) as http:
        assert http.post("/recall", json={}).status_code == 401
        assert http.post("/recall", json={}, headers={"Authorization": "Bearer x"}).status_code == 401
        for body in (b"", b"{", b'{"domain": 1}', b'{"domain":"trams","question":"x","kinds":["fish"],"most":3}'):
            refused = http.post("/recall", content=body, headers=key)
            assert refused.status_code == 400, body
        many = {"domain": DOMAIN, "question": "x", "kinds": [], "most": 10_000}
        assert http.post("/recall", json=many, headers=key).status_code == 400
        assert http.get("/recall", headers=key).status_code == 404
        assert (
            http.post("/map", json={}).status_code == 401 and http.post("/map", json={}, headers=key).status_code == 400
        )
        places = {"domain": DOMAIN, "round_id": "r", "pin": 9, "examples": ["e"] * (MOST_PLACES + 1)}
        assert http.post("/map", json=places, headers=key).status_code == 400
        assert http.post("/recall", content=b"x" * 300_000, headers=key).status_code == 413
        with pytest.raises(Unavailable, match="503"):
            client(world, url).recall("nowhere", LAST, BOTH)
        told = http.get("/healthz").json()
        assert told == {"ready": True, "domains": {DOMAIN: {"memories": 4, "pending": 0}}}


def test_a_memory_that_is_not_whole_yet_says_so(world: World) -> None:
    fill(world)
    world.memory = world.restarted()
    world.memory._follow()
    with served(world) as url:
        with pytest.raises(Unavailable, match="503"):
            client(world, url).recall(DOMAIN, LAST, BOTH)
        world.follow_all()
        assert client(world, url).recall(DOMAIN, LAST, BOTH)


@contextmanager
def process(world: World, folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    url = f"http://{LOOPBACK}:{free_port()}"
    environment = os.environ | {
        "NORIA_HOME": str(folder),
        "NORIA_KAFKA": "unused:1",
        "NORIA_DATABASE_URL": world.database.url.render_as_string(hide_password=False),
        "NORIA_DOOR": "http://unused:1",
        "NORIA_MASTER_KEY": str(folder / "master.key"),
        "NORIA_RECALL": url,
    }
    running = subprocess.Popen([sys.executable, "-m", "workers.recall"], env=environment)
    try:
        until(lambda: running.poll() is None and ready(url), "the memory is ready")
        yield url, running
    finally:
        running.kill()
        running.wait()


def ready(url: str) -> bool:
    try:
        told = httpx.get(f"{url}/healthz", timeout=PATIENCE_S, trust_env=False).json()
        return bool(told["ready"] and DOMAIN in told["domains"])
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_two_memories_agree_and_one_that_was_killed_comes_back_with_the_same(world: World, tmp_path: Path) -> None:
    fill(world)
    questions = (LAST, FARE, "where do dogs ride", "die letzte Bahn")
    everything = Recall(of="both", least=0.0, most=10)

    def said(url: str) -> list[object]:
        return [client(world, url).recall(DOMAIN, question, everything) for question in questions]

    with process(world, tmp_path) as (one, running), process(world, tmp_path) as (other, _):
        before = said(one)
        assert said(other) == before and len(before[0]) == 4  # type: ignore[arg-type]
        running.kill()
        running.wait()
        with pytest.raises(Unavailable, match="does not answer"):
            client(world, one).recall(DOMAIN, LAST, BOTH)
        assert said(other) == before
        with process(world, tmp_path) as (again, _):
            assert said(again) == before
        world.corrects("cem", "May I bring my canoe?", "Only at low tide.")
        asked = lambda: client(world, other).recall(DOMAIN, "bring a canoe", BOTH)  # noqa: E731
        found = until(asked, "what was corrected is recalled")
        assert found[0].id == world.examples()[-1]
