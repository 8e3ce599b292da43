"""The data room at a whole door: one table of examples and proposals, their stories, and decisions that are taken back."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner

from api.cli import main
from api.keys import create_key
from streams.log import KafkaLog
from streams.replay import verify
from streams.sealing import Keyring, MasterKey
from tests.door_world import World, wait_until
from workers import loop
from workers.context import Context

TRIPLES = [
    {"subject": "the ferry", "predicate": "home port", "object": "Skagen"},
    {"subject": "渡轮", "predicate": "母港", "object": "斯卡恩"},
]
BROUGHT = [{"instruction": f"What is rule {n}?", "output": f"Rule {n} is kept."} for n in range(3)]


@pytest.fixture(scope="module")
def context(world: World) -> Iterator[Context]:
    keyring = Keyring(world.database, MasterKey.made(world.settings.master_key))
    log = KafkaLog(world.kafka, "test-data-room")
    yield Context(world.settings, world.database, log, keyring, "worker-1")
    log.close()


def posted(world: World, path: str, body: Any) -> dict[str, Any]:
    answer = world.as_data.post(path, json=body)
    assert answer.status_code in (200, 202), answer.text
    said: dict[str, Any] = answer.json()
    if said.get("position"):
        world.caught_up(said["position"])
    return said


def table(world: World, domain: str, **wanted: Any) -> dict[str, Any]:
    found: dict[str, Any] = world.as_data.get(f"/v1/domains/{domain}/examples/table", params=wanted).json()
    return found


def ids(world: World, domain: str, **wanted: Any) -> list[str]:
    return [row["id"] for row in table(world, domain, **wanted)["data"]]


def counted(world: World, domain: str, **wanted: Any) -> dict[str, int]:
    return {f"{one['source']} {one['state']}": one["n"] for one in table(world, domain, **wanted)["counts"]}


@pytest.fixture(scope="module")
def domain(world: World, context: Context) -> str:
    """With a correction, an import of three, and two proposals of triples."""
    name = world.domain()
    said = world.chat(name, "How fast may I sail?", user="ann")
    correction = {"reply_id": said["metadata"]["reply_ids"][0], "user": "ann", "correction": "Four knots in port."}
    world.caught_up(said["metadata"]["position"])
    assert world.as_chat.post("/v1/feedback", json=correction).status_code == 200
    wait_until(lambda: ids(world, name), what="the correction")
    posted(world, f"/v1/domains/{name}/examples?user=bo&import=import-1", BROUGHT)
    posted(world, f"/v1/domains/{name}/triples", TRIPLES)
    build = posted(world, f"/v1/domains/{name}/builds", {"builder": "self-kg"})["build_id"]

    def made() -> bool:
        loop.work_once(context, loop.steps(["build"]), threading.Event())
        return bool(world.as_data.get(f"/v1/domains/{name}/builds/{build}").json()["outcome"] == "made")

    wait_until(made, what="the build")
    return name


def test_all_examples_and_proposals_are_one_table_with_filters_and_pages(world: World, domain: str) -> None:
    assert counted(world, domain) == {"correction accepted": 1, "import accepted": 3, "self-kg proposed": 2}
    assert counted(world, domain, state="proposed") == {"self-kg proposed": 2}
    assert [row["question"] for row in table(world, domain, source="import")["data"]] == [
        "What is rule 2?",
        "What is rule 1?",
        "What is rule 0?",
    ], "the newest first"
    assert [row["person"] for row in table(world, domain, person="ann")["data"]] == ["ann"]
    assert len(ids(world, domain, brought="import-1")) == 3
    assert [row["answer"] for row in table(world, domain, text="KNOTS")["data"]] == ["Four knots in port."]
    assert table(world, domain, text="nowhere") | {"counts": 0} == {
        "data": [],
        "next": None,
        "searched": 6,
        "stopped": False,
        "counts": 0,
        "domain": domain,
    }
    first = table(world, domain, limit=4)
    rest = table(world, domain, limit=4, before=first["next"])
    assert (len(first["data"]), len(rest["data"]), rest["next"], rest["counts"]) == (4, 2, None, None)
    assert len({row["id"] for row in first["data"] + rest["data"]}) == 6
    said = posted(
        world, f"/v1/domains/{domain}/examples?user=cy", [{"instruction": "Whom do I call?", "output": "13800138000"}]
    )
    masked = table(world, domain, state="masked")
    assert [(row["id"], row["masked"], row["answer"]) for row in masked["data"]] == [
        (UUID(said["ids"][0]).hex, ["phone"], "13800138000")
    ], "what is masked in training is shown as it was said"
    posted(world, f"/v1/domains/{domain}/examples/undo", {"decision": said["import"]})
    wrong = world.as_data.get(f"/v1/domains/{domain}/examples/table", params={"state": "odd"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "state")


def test_the_story_of_an_example_says_where_it_is_from_and_who_touched_it(world: World, domain: str) -> None:
    def story(id_: str) -> dict[str, Any]:
        found: dict[str, Any] = world.as_data.get(f"/v1/domains/{domain}/examples/{id_}").json()
        return found

    (correction,) = ids(world, domain, source="correction")
    found = story(correction)
    assert found["came_from"]["by"] == "ann" and found["came_from"]["release"] == 0
    assert [turn["content"] for turn in found["messages"]] == ["How fast may I sail?"]
    assert found["answer"] == "Four knots in port." and found["learned"] == []
    (proposal, *_) = ids(world, domain, source="self-kg", text="ferry")
    found = story(proposal)
    assert found["came_from"]["made_of"][0]["triple"] == TRIPLES[0] and found["came_from"]["teacher"] is None
    assert [one["what"] for one in found["happened"]] == ["example_proposed"]
    imported = story(ids(world, domain, source="import", state="accepted")[0])
    assert imported["came_from"] == {"source": "import", "by": "bo", "import": "import-1"}
    assert world.as_data.get(f"/v1/domains/{domain}/examples/none").json()["error"]["code"] == "example_not_found"


def test_many_are_decided_on_at_once_and_one_undo_takes_all_of_it_back(world: World, domain: str) -> None:
    path = f"/v1/domains/{domain}/examples"
    by_filter = {"verb": "accept", "filter": {"source": "self-kg"}}
    refused = world.as_data.post(f"{path}/decide", json=by_filter | {"count": 3})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "other_count")
    accepted = posted(world, f"{path}/decide", by_filter | {"count": 2})
    assert (accepted["accepted"], accepted["known"]) == (2, 0)
    assert counted(world, domain, source="self-kg") == {"self-kg accepted": 2}
    undone = posted(world, f"{path}/undo", {"decision": accepted["decision"]})
    assert (undone["retired"], undone["reopened"]) == (2, 2)
    assert counted(world, domain, source="self-kg") == {"self-kg proposed": 2, "self-kg retired": 2}

    everything = ids(world, domain, state="accepted")
    retired = posted(world, f"{path}/decide", {"verb": "retire", "ids": everything, "reason": "repealed"})
    assert (retired["retired"], counted(world, domain, state="accepted")) == (4, {})
    posted(world, f"{path}/undo", {"decision": retired["decision"]})
    assert counted(world, domain, state="accepted") == {"correction accepted": 1, "import accepted": 3}
    again = posted(world, f"{path}/undo", {"decision": retired["decision"]})
    assert again["position"] is None, "what was taken back is taken back once"
    words = {(row["question"], row["answer"], row["person"]) for row in table(world, domain, state="accepted")["data"]}
    assert ("How fast may I sail?", "Four knots in port.", "ann") in words and len(words) == 4

    twice = [row["id"] for row in table(world, domain, source="self-kg", state="retired")["data"]]
    both = posted(world, f"{path}/decide", {"verb": "accept", "ids": twice})
    assert (both["accepted"], counted(world, domain, source="self-kg", state="accepted")) == (
        2,
        {"self-kg accepted": 2},
    )
    posted(world, f"{path}/undo", {"decision": both["decision"]})
    everyone = [row["id"] for row in table(world, domain, source="self-kg", state="retired")["data"]]
    assert len(everyone) == 4, "each was accepted twice"
    once = posted(world, f"{path}/decide", {"verb": "accept", "ids": everyone})
    assert once["accepted"] == 2, "and comes again once"
    posted(world, f"{path}/undo", {"decision": once["decision"]})

    rejected = posted(world, f"{path}/decide", {"verb": "reject", "ids": ids(world, domain, state="proposed")})
    assert rejected["rejected"] == 2
    assert posted(world, f"{path}/undo", {"decision": rejected["decision"]})["reopened"] == 2
    gone = posted(world, f"{path}/undo", {"decision": "import-1"})
    assert gone["retired"] == 0, "what the import brought was retired, and came again by a decision"
    for body, code in (
        ({"decision": "decision-none"}, "decision_not_found"),
        ({"decision": domain}, "decision_not_found"),
    ):
        assert world.as_data.post(f"{path}/undo", json=body).json()["error"]["code"] == code


def test_the_command_line_lists_shows_decides_and_undoes(world: World, domain: str, tmp_path: Path) -> None:
    key = create_key(world.database, "cli-room", "data", person=None)
    environ = {"NORIA_DOOR": world.door_url, "NORIA_KEY": key, "NORIA_HOME": str(tmp_path)}

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(main, ["examples", *arguments, "--domain", domain, "--json"], env=environ)
        assert result.exit_code == 0, (result.output, result.stderr, result.exception)
        return json.loads(result.stdout)

    row = run("list", "--source", "import", "--state", "accepted", "--text", "rule 1")["data"][0]
    assert run("show", row["id"])["answer"] == "Rule 1 is kept."
    said = run("decide", "retire", "--text", "rule 1", "--state", "accepted", "--yes")
    world.caught_up(said["position"])
    assert (said["retired"], run("list", "--text", "rule 1", "--state", "accepted")["data"]) == (1, [])
    world.caught_up(run("undo", said["decision"])["position"])
    assert len(run("list", "--text", "rule 1", "--state", "accepted")["data"]) == 1


def test_label_studios_annotators_decide_on_proposals_and_all_of_it_is_taken_back(
    world: World, domain: str, tmp_path: Path
) -> None:
    key = create_key(world.database, "cli-labels", "data", person="dana")
    environ = {"NORIA_DOOR": world.door_url, "NORIA_KEY": key, "NORIA_HOME": str(tmp_path)}

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(main, ["examples", *arguments, "--domain", domain], env=environ)
        assert result.exit_code == 0, (result.output, result.stderr, result.exception)
        return result.stdout

    tasks = tmp_path / "tasks.json"
    run("label-studio", str(tasks))
    written = json.loads(tasks.read_text())
    assert len(written) == 2 and tasks.stat().st_mode & 0o077 == 0
    assert (tmp_path / "tasks.json.xml").read_text().startswith("<View>")
    for task, output, choice in zip(written, ("Skagen, of course.", ""), ("accept", "reject"), strict=True):
        text = {"from_name": "output", "to_name": "prompt", "type": "textarea", "value": {"text": [output]}}
        verdict = {"from_name": "verdict", "to_name": "prompt", "type": "choices", "value": {"choices": [choice]}}
        task["annotations"] = [{"result": [text, verdict], "was_cancelled": False, "completed_by": 1}]
    tasks.write_text(json.dumps(written))
    said = json.loads(run("labelled", str(tasks), "--json"))
    world.caught_up(said["position"])
    assert (said["accepted"], said["rejected"]) == (1, 1)
    (edited,) = table(world, domain, text="of course")["data"]
    assert (edited["edited"], edited["person"], edited["state"]) == (True, "dana", "accepted")
    undone = posted(world, f"/v1/domains/{domain}/examples/undo", {"decision": said["decision"]})
    assert (undone["retired"], undone["reopened"]) == (1, 2)


def test_a_replay_of_what_was_decided_and_taken_back_comes_to_the_same(world: World) -> None:
    log = KafkaLog(world.kafka, "test-data-room-replay")
    try:
        found = verify(world.database, log)
    finally:
        log.close()
    assert found.equal, found
