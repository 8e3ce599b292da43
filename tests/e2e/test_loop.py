"""The whole loop as a newcomer turns it: the demo told to its end; then a second domain, an erasure and replays."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from api.client import Door
from deploy.demo.domain import load_facts
from deploy.demo.load import Load
from deploy.demo.story import DOMAIN, FACTS_A_ROUND
from tests.local_noria import LocalNoria, give_base_model, opencompass_folder, running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
CANARIES = tuple(f"the {animal} keeps its umbrella under stone {n}{n * 7}" for n, animal in enumerate(
    "adder badger civet dingo ermine ferret gecko heron ibis jackal kudu lemur marten newt otter puffin quail raven stoat tapir".split(), 11
))  # fmt: skip
SHARE_KEYS = ("fixes_before", "fixes_after", "held_out_before", "held_out_after", "general_before", "general_after")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("loop") / "noria"
    home.mkdir()
    give_base_model(home)
    return home


@pytest.fixture(scope="module")
def report(home: Path) -> dict[str, Any]:
    """What `noria demo` wrote, having started everything and stopped it again."""
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "demo", "--once"],
        cwd=ROOT,
        env=os.environ | {"NORIA_HOME": str(home), "NORIA_OPENCOMPASS": str(opencompass_folder())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads((home / "demo-report.json").read_text())
    return found


@pytest.fixture(scope="module")
def noria(home: Path, report: dict[str, Any]) -> Iterator[LocalNoria]:
    """Started again on what the demo left."""
    with running(home) as found:
        yield found


@pytest.fixture(scope="module")
def door(noria: LocalNoria) -> Iterator[Door]:
    with noria.door() as door:
        until(lambda: any(m["id"] == DOMAIN for m in door.models()), "the release of the demo answers again", 120)
        yield door


def test_the_demo_ships_a_release_that_has_learned_and_forgotten_little(report: dict[str, Any]) -> None:
    assert report["corrections"] == FACTS_A_ROUND
    assert report["people"] == 6
    assert report["gate_verdict"] == "ship"
    assert report["gate_p_value"] < 0.0001
    assert report["fixes_after"] >= 0.9 > report["fixes_before"]
    assert all(0 <= report[key] <= 1 for key in SHARE_KEYS)
    assert report["events"] > 500


def test_no_request_failed_or_was_answered_by_two_versions_during_the_swaps(report: dict[str, Any]) -> None:
    assert report["requests_during_swaps"] > 0
    assert report["failed_requests"] == 0
    assert report["mixed_answers"] == 0


def test_the_demos_log_replays_to_equal_tables(report: dict[str, Any]) -> None:
    assert report["replay_equal"] is True


def test_what_the_demo_made_is_there_after_a_restart(door: Door, report: dict[str, Any]) -> None:
    releases = {release["release"]: release["state"] for release in door.releases(DOMAIN)}
    assert releases == {0: "retired", 1: "live"}
    assert door.rounds(DOMAIN)[0]["step"] == "released"


def test_a_second_domain_gets_its_release_by_http_alone_while_the_first_one_serves(
    noria: LocalNoria, door: Door
) -> None:
    load = Load(door, DOMAIN, [fact.en.question for fact in load_facts()[:6]])
    load.start()
    try:
        script = [sys.executable, str(ROOT / "tests" / "e2e" / "second_domain.py"), "--door", noria.door_url]
        done = subprocess.run(
            [*script, "--key", str(noria.home / "keys" / "local.key")], capture_output=True, text=True, check=False
        )
    finally:
        load.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["round"], told["release"], told["verdict"]["outcome"]) == ("released", 1, "ship")
    assert told["right"] >= 18
    assert load.seen.requests > 50
    assert load.seen.failures == []
    assert load.mixed(DOMAIN) == 0


def test_an_erased_persons_words_are_found_nowhere_and_nobody_elses_words_at_rest_in_clear(
    noria: LocalNoria, door: Door
) -> None:
    said = 0
    for canary in CANARIES:
        pieces = [*door.chat(DOMAIN, [{"role": "user", "content": canary}], person="canary", more={"max_tokens": 1})]
        reply_id = pieces[-1].reply_ids[0]  # type: ignore[union-attr]
        door.feedback(reply_id, person="canary", correction=f"Because {canary}.")
        said += 1
    assert said == 20
    checkpoint(noria)
    words = [*CANARIES, *(fact.en.answer for fact in load_facts()[:FACTS_A_ROUND])]
    assert found_at_rest(noria.home, words) == []

    erased = noria_command(noria, "erase", "canary", "--yes", "--json")
    assert erased.returncode == 0, erased.stdout + erased.stderr
    checkpoint(noria)
    assert found_at_rest(noria.home, words) == []
    assert noria_command(noria, "verify").returncode == 0


def test_verify_names_the_table_and_the_row_that_was_changed_by_hand(noria: LocalNoria, door: Door) -> None:
    with psycopg2.connect(noria.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT event_id, rating FROM noria.feedback WHERE kind = 'rating' ORDER BY event_id LIMIT 1")
        event_id, rating = cursor.fetchall()[0]
        cursor.execute("UPDATE noria.feedback SET rating = %s WHERE event_id = %s", (7, event_id))
    connection.close()
    told = noria_command(noria, "verify")
    assert told.returncode == 1
    assert "feedback" in told.stderr and event_id in told.stderr and "rating" in told.stderr
    with psycopg2.connect(noria.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE noria.feedback SET rating = %s WHERE event_id = %s", (rating, event_id))
    connection.close()
    assert noria_command(noria, "verify").returncode == 0


def noria_command(noria: LocalNoria, *argv: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"NORIA_HOME": str(noria.home)}
    return subprocess.run(
        [sys.executable, "-m", "api.cli", *argv], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )


def checkpoint(noria: LocalNoria) -> None:
    """Bring PostgreSQL's pages to its files; Kafka's are read through the page cache as they are."""
    connection = psycopg2.connect(noria.database_url)
    connection.autocommit = True
    connection.cursor().execute("CHECKPOINT")
    connection.close()


def found_at_rest(home: Path, words: list[str]) -> list[str]:
    """The files under `home` that hold any of the words, in the encodings that a program might write."""
    wanted = [
        form for word in words for form in (word.encode(), json.dumps(word)[1:-1].encode(), word.encode("utf-16-le"))
    ]
    found: list[str] = []
    for path in sorted(home.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.suffix in (".safetensors", ".gguf"):
            continue
        content = path.read_bytes()
        if any(form in content for form in wanted):
            found.append(str(path.relative_to(home)))
    return found
