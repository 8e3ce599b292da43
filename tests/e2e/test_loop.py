"""The whole loop as a newcomer turns it: the demo told to its end; then a second domain, an erasure and replays."""

import json
import subprocess
import sys
from typing import Any

import httpx
import psycopg2
import pytest

from api.client import Answer, Door, Source
from deploy.demo.load import Load
from deploy.demo.people import PEOPLE
from deploy.demo.story import DOMAIN
from streams.artifacts import Artifacts
from streams.facts.releases import CandidateRetired
from streams.log import KafkaLog
from tests.at_rest import checkpoint, files_holding
from tests.conftest import ROOT
from tests.e2e.conftest import Command
from tests.e2e.second_domain import DOMAIN as WARD
from tests.e2e.small_story import ACCEPTED, FACTS
from tests.integration.by_hand import message
from tests.local_noria import LocalNoria, until
from tests.waiting import PATIENCE_S, TRAINING_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CANARIES = tuple(f"the heron of house {number} keeps umbrella {number * 7919}" for number in range(101, 121))
MODELS = (".safetensors", ".gguf")  # gigabytes of weights
SHARE_KEYS = ("fixes_before", "fixes_after", "held_out_before", "held_out_after", "general_before", "general_after")


def test_the_demo_ships_a_release_that_has_learned_and_forgotten_little(report: dict[str, Any]) -> None:
    assert report["corrections"] == len(FACTS)
    assert report["people"] == len(PEOPLE)
    assert report["gate_verdict"] == "ship"
    assert report["gate_p_value"] < 0.01
    assert report["fixes_after"] >= 0.9 > report["fixes_before"]
    assert report["general_after"] >= report["general_before"] - 0.15
    assert all(0 <= report[key] <= 1 for key in SHARE_KEYS)
    assert report["events"] > 10 * len(FACTS)
    assert report["selected"] >= len(FACTS) and set(report["dropped_by_step"].values()) == {0}
    assert report["seconds_selection"] > 0


def test_the_first_round_also_learned_what_a_data_team_accepted_of_triples_and_cases(report: dict[str, Any]) -> None:
    assert report["material"] == {
        "proposed": {"self-kg": 3, "syllogism": 1},
        "dropped": {"its question stands in the exam": 1},
        "accepted": 2,
        "edited": 1,
        "rejected": 1,
    }
    assert report["learned_by_source"] == {"correction": len(FACTS), "self-kg": 2, "syllogism": 1}
    assert report["fixes_n"] == len(FACTS) + ACCEPTED


def test_no_request_failed_or_was_answered_by_two_versions_during_the_swaps(report: dict[str, Any]) -> None:
    assert report["requests_during_swaps"] >= 100
    assert report["failed_requests"] == 0
    assert report["mixed_answers"] == 0
    assert 0 < report["largest_pause_s"] < 240


def test_the_report_says_when_the_first_answer_was_there(report: dict[str, Any]) -> None:
    assert 0 < report["seconds_to_first_answer"] < report["seconds_total"]


def test_the_demos_log_replays_to_equal_tables(report: dict[str, Any]) -> None:
    assert report["replay_equal"] is True


def test_what_the_demo_made_is_there_after_a_restart(door: Door, report: dict[str, Any]) -> None:
    releases = {release["release"]: release["state"] for release in door.releases(DOMAIN)}
    assert releases == {0: "retired", 1: "live"}
    assert door.rounds(DOMAIN)[0]["step"] == "released"


def test_a_second_domain_gets_its_release_by_http_alone_while_the_first_one_serves(
    noria: LocalNoria, door: Door
) -> None:
    load = Load(door, DOMAIN, [fact.en.question for fact in FACTS[:6]], pause_s=0.5)
    load.start()
    try:
        script = [sys.executable, "-m", "tests.e2e.second_domain", "--door", noria.door_url]
        done = subprocess.run(
            [*script, "--key", str(noria.home / "keys" / "local.key")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        load.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["round"], told["release"], told["verdict"]["outcome"]) == ("released", 1, "ship")
    assert told["right"] >= 18
    assert load.seen.requests > 50
    assert load.seen.failures == []
    assert load.mixed() == 0


def test_a_model_that_was_removed_is_made_again_the_same_byte_by_byte_and_answers(
    noria: LocalNoria, door: Door, command: Command
) -> None:
    (made,) = door.rounds(WARD)
    go_to(command, door, 0)
    # As the policy would have it, once there are more of them.
    gone = CandidateRetired(
        domain=WARD, round_id=made["round_id"], release=1, model=made["model"], adapter=made["adapter"], reason="enough"
    )
    log = KafkaLog(noria.kafka, "test")
    log.append([message(gone)], 10)
    log.close()
    until(lambda: door.rounds(WARD)[0]["removed_at"], "the tables say that it is removed")
    artifacts = Artifacts(noria.settings().artifacts)
    for kind in ("model", "adapter"):
        artifacts.remove(made[kind])
    refused = command("release", "rollback", "1", "--domain", WARD)
    assert refused.returncode == 1 and f"noria round rebuild 1 --domain {WARD}" in refused.stderr

    assert command("round", "rebuild", "1", "--domain", WARD).returncode == 0
    until(
        lambda: (door.rounds(WARD)[0]["rebuild"] or {}).get("outcome") not in (None, "under_way"),
        "it is made",
        patience_s=TRAINING_S,
    )
    assert "the same again" in command("round", "show", "1", "--domain", WARD).stdout
    assert all(artifacts.verify(made[kind]) for kind in ("model", "adapter"))
    go_to(command, door, 1)
    *_, answer = door.chat(WARD, [{"role": "user", "content": "How warm?"}], person="greta", more={"max_tokens": 4})
    assert isinstance(answer, Answer) and answer.release == f"{WARD}@1"


def go_to(command: Command, door: Door, release: int) -> None:
    assert command("release", "rollback", str(release), "--domain", WARD).returncode == 0
    until(lambda: door.domain(WARD)["live_release"] == release, f"release {release} answers")


def test_the_page_opens_by_a_printed_link_and_for_as_long_as_its_key_holds(
    noria: LocalNoria, door: Door, command: Command
) -> None:
    made = json.loads(command("key", "create", "visitor", "--person", "vera", "--domain", DOMAIN, "--json").stdout)
    once = door.acting(made["key"]).page_link(noria.page_url).partition("#once=")[2]
    with httpx.Client(base_url=noria.page_url, trust_env=False, timeout=PATIENCE_S) as browser:
        assert browser.get("/config").status_code == 401
        assert browser.post("/login", data={"key": once}).headers["location"] == "/"
        assert browser.get("/config").status_code == 200
        with httpx.Client(base_url=noria.page_url, trust_env=False, timeout=PATIENCE_S) as second:
            assert second.post("/login", data={"key": once}).status_code == 401
        assert command("key", "revoke", "visitor").returncode == 0
        until(lambda: browser.get("/config").status_code == 401, "the page asks for a key again")
    # Neither a key nor what stands for one is in any file but the local key's own.
    tokens = [made["key"], once, *browser.cookies.values()]
    assert files_holding(noria.home, tokens, but=MODELS) == set()


def test_an_erased_persons_words_are_found_nowhere_and_nobody_elses_words_at_rest_in_clear(
    noria: LocalNoria, door: Door, command: Command
) -> None:
    policy = door.policy(DOMAIN)
    door.set_policy(DOMAIN, policy | {"recall": {"of": "corrections"}})
    for canary in CANARIES:
        pieces = [*door.chat(DOMAIN, [{"role": "user", "content": canary}], person=PEOPLE[0], more={"max_tokens": 1})]
        reply_id = pieces[-1].reply_ids[0]  # type: ignore[union-attr]
        door.feedback(reply_id, person=PEOPLE[0], correction=f"Because {canary}.")
    until(lambda: recalled(door), "what one person corrected is recalled for another")
    checkpoint(noria.database_url)
    words = [*CANARIES, *(fact.en.answer for fact in FACTS)]
    assert files_holding(noria.home, words, but=MODELS) == set()

    erased = command("erase", PEOPLE[0], "--yes", "--json")
    assert erased.returncode == 0, erased.stdout + erased.stderr
    learned = json.loads(erased.stdout)["learned_by"]
    assert [(entry["domain"], entry["release"]) for entry in learned] == [(DOMAIN, 1)]
    until(lambda: recalled(door) == (), "nobody recalls them any more")
    checkpoint(noria.database_url)
    assert files_holding(noria.home, words, but=MODELS) == set()
    assert command("verify").returncode == 0
    door.set_policy(DOMAIN, policy)


def recalled(door: Door) -> tuple[Source, ...] | None:
    """What somebody else is reminded of by a question about the first canary; None: the memory does not say."""
    asked = [{"role": "user", "content": f"which umbrella does {CANARIES[0].partition(' keeps')[0]} keep"}]
    answer = [*door.chat(DOMAIN, asked, person="visitor", more={"max_tokens": 1})][-1]
    assert isinstance(answer, Answer)
    return answer.recalled if answer.recall == "recalled" else None


def test_verify_names_the_table_and_the_row_that_was_changed_by_hand(noria: LocalNoria, command: Command) -> None:
    with psycopg2.connect(noria.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT event_id, rating FROM noria.feedback WHERE kind = 'rating' ORDER BY event_id LIMIT 1")
        event_id, rating = cursor.fetchall()[0]
        cursor.execute("UPDATE noria.feedback SET rating = %s WHERE event_id = %s", (7, event_id))
    connection.close()
    told = command("verify")
    assert told.returncode == 1
    assert "feedback" in told.stderr and event_id in told.stderr and "rating" in told.stderr
    with psycopg2.connect(noria.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE noria.feedback SET rating = %s WHERE event_id = %s", (rating, event_id))
    connection.close()
    assert command("verify").returncode == 0
