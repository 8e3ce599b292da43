"""An engine that nobody asks falls asleep, and wakes at the first question, which waits for it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from api.cli.processes import domain_lines
from streams.artifacts import Artifacts
from tests.door_world import CONTROL_TOKENS, MODEL, World, wait_until
from tests.engine_server import EngineServer
from tests.integration.by_hand import change, rows
from workers.engines import host as hosting
from workers.engines.host import Host


class Engine:
    """What a keeper starts and stops: a process that is a stub's server."""

    start_deadline_s = 5.0
    pid = 4711

    def __init__(self, started: list[EngineServer]) -> None:
        self._started = started

    def start(self) -> None:
        self._server = EngineServer()
        self._started.append(self._server)

    def ready(self, deadline_s: float) -> None:
        self.base_url = self._server.base_url

    def alive(self) -> bool:
        return True

    def stop(self) -> None:
        self._server.stop()


class Hosted:
    """A domain whose engine a host keeps."""

    def __init__(self, world: World, started: list[EngineServer]) -> None:
        self.world = world
        self.started = started
        self.domain = world.domain()
        self.name = f"{self.domain}@0"
        change(world.database, "UPDATE work.engines SET wanted = engine_id = :id", id=self.name)
        change(world.database, "UPDATE work.engines SET state = 'asked', base_url = NULL WHERE wanted")
        self.host = Host(replace(world.settings, engine_sleep_after_s=600), world.database)
        self.until_ready()

    def state(self) -> str:
        (found,) = rows(self.world.database, "SELECT state FROM work.engines WHERE engine_id = :id", id=self.name)
        return str(found[0])

    def until_ready(self) -> None:
        def is_ready() -> bool:
            self.host.step()
            return self.state() == self._seen() == "ready" and len(self.host._keepers) == 1

        wait_until(is_ready, what="an engine that is ready")

    def _seen(self) -> str:
        return self.world.services.routes.table()[1][self.name].state

    def nobody_asked_for_long(self) -> None:
        ago = "SET used_at = now() - interval '11 minutes', changed_at = now() - interval '11 minutes'"
        change(self.world.database, f"UPDATE work.engines {ago} WHERE engine_id = :id", id=self.name)

    def fall_asleep(self) -> None:
        def is_asleep() -> bool:
            if self.state() == "ready":
                self.nobody_asked_for_long()  # a door may have told since of what was asked before
            self.host.step()
            return self.state() == self._seen() == "asleep" and not self.host._keepers

        wait_until(is_asleep, what="an engine that falls asleep")

    def ask(self, answers: list[dict[str, Any]]) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.append(self.world.chat(self.domain)))
        thread.start()
        return thread


@pytest.fixture
def hosted(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosted]:
    started: list[EngineServer] = []
    monkeypatch.setattr(hosting, "make_engine", lambda spec, key: Engine(started))
    monkeypatch.setattr(hosting, "control_tokens", lambda folder: CONTROL_TOKENS)
    monkeypatch.setattr(hosting, "EngineSpec", lambda **given: SimpleNamespace(context_tokens=2048))
    monkeypatch.setattr(Artifacts, "path", lambda self, digest: Path(digest))
    found = Hosted(world, started)
    assert rows(world.database, "SELECT model FROM work.engines WHERE wanted") == [(MODEL,)]
    yield found
    found.host.stop()


def test_an_engine_that_nobody_asks_ends_and_the_first_question_waits_until_it_is_back(hosted: Hosted) -> None:
    hosted.world.chat(hosted.domain)
    hosted.host.step()
    assert hosted.state() == "ready", "it has just been asked"
    hosted.fall_asleep()
    status = hosted.world.as_data.get(f"/v1/domains/{hosted.domain}/status").json()
    assert domain_lines(status)[0] == f"{hosted.domain}: release 0 answers (asleep)"
    assert hosted.world.as_chat.get("/readyz").status_code == 200
    assert hosted.domain in {model["id"] for model in hosted.world.as_chat.get("/v1/models").json()["data"]}
    assert hosted.state() == "asleep", "to look at it is not to ask it"
    answers: list[dict[str, Any]] = []
    asking = hosted.ask(answers)
    hosted.until_ready()
    asking.join()
    assert [answer["model"] for answer in answers] == [f"{hosted.domain}@0"] and len(hosted.started) == 2


def test_an_engine_that_is_asked_while_it_falls_asleep_does_not_end(hosted: Hosted) -> None:
    hosted.started[-1].hold.clear()
    answers: list[dict[str, Any]] = []
    asking = hosted.ask(answers)
    try:
        wait_until(lambda: hosted.world.in_flight().get(hosted.name), what="the request in flight")
        hosted.nobody_asked_for_long()  # no door has said yet that somebody does
        hosted.host.let_sleep()
        hosted.until_ready()
    finally:
        hosted.started[-1].hold.set()
        asking.join()
    assert len(answers) == 1 and len(hosted.started) == 1


def test_a_host_that_comes_back_lets_those_sleep_that_slept(hosted: Hosted) -> None:
    hosted.fall_asleep()
    host = Host(hosted.world.settings, hosted.world.database)
    host.forget_the_past()
    host.step()
    assert hosted.state() == "asleep" and host._keepers == {}


def test_with_a_setting_of_0_no_engine_sleeps(hosted: Hosted) -> None:
    hosted.nobody_asked_for_long()
    Host(replace(hosted.world.settings, engine_sleep_after_s=0), hosted.world.database).let_sleep()
    assert hosted.state() == "ready"
