"""Material from the door to what a round may learn: real Kafka and PostgreSQL, and a teacher that is a small server of our own."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from api.cli import main
from api.keys import create_key
from streams.log import KafkaLog
from streams.reading.learning import examples_as_of
from streams.replay import verify
from streams.sealing import Keyring, MasterKey
from tests import door_world
from tests.door_world import World
from tests.integration.by_hand import rows
from tests.integration.test_exam_ahead import add_exam
from tests.teacher_server import Reply, TeacherServer
from workers import loop
from workers.builder import teacher as teacher_room
from workers.builder.teacher import MALFORMED, REFUSED, TRUNCATED
from workers.context import Context

TRIPLES = [
    {"subject": "the ferry", "predicate": "homePort", "object": "Skagen"},
    {"subject": "Skagen", "predicate": "harbour master", "object": "Ida Holm"},
    {"subject": "渡轮", "predicate": "母港", "object": "斯卡恩"},
    {"subject": "the ferry", "predicate": "colour", "object": "red"},
    {"subject": "the ferry", "predicate": "colour", "object": "white"},
]
KEPT = "Question: …\nAnswer: A pump is checked every 15 days under Article 3."


@pytest.fixture
def context(world: World) -> Iterator[Context]:
    keyring = Keyring(world.database, MasterKey.made(world.settings.master_key))
    log = KafkaLog(world.kafka, "test-material")
    yield Context(world.settings, world.database, log, keyring, "worker-1")
    log.close()


@pytest.fixture
def teacher() -> Iterator[Callable[[Callable[[str], Reply]], TeacherServer]]:
    made: list[TeacherServer] = []

    def make(answer: Callable[[str], Reply]) -> TeacherServer:
        made.append(TeacherServer(answer))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def posted(world: World, path: str, body: Any) -> dict[str, Any]:
    answer = world.as_data.post(path, json=body)
    assert answer.status_code in (200, 202), answer.text
    said: dict[str, Any] = answer.json()
    if said.get("position"):
        world.caught_up(said["position"])
    return said


def built(world: World, context: Context, domain: str, builder: str, **more: Any) -> dict[str, Any]:
    asked = posted(world, f"/v1/domains/{domain}/builds", {"builder": builder} | more)

    def ended() -> dict[str, Any] | None:
        loop.work_once(context, loop.steps(["build"]), threading.Event())
        row = world.as_data.get(f"/v1/domains/{domain}/builds/{asked['build_id']}").json()
        return row if row["outcome"] != "under_way" else None

    return dict(door_world.wait_until(ended, what="the build"))


def proposed(world: World, domain: str, **params: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.as_data.get(f"/v1/domains/{domain}/proposals", params=params).json()["data"]
    return found


def test_triples_become_proposals_that_a_person_accepts_edits_rejects_and_takes_back(
    world: World, context: Context
) -> None:
    domain = world.domain()
    path = f"/v1/domains/{domain}"
    add_exam(world, domain, "渡轮的母港是什么？")
    brought = posted(world, f"{path}/triples", TRIPLES)
    assert (brought["added"], posted(world, f"{path}/triples", TRIPLES)["known"]) == (5, 5)
    row = built(world, context, domain, "self-kg")
    assert (row["outcome"], row["proposed"]) == ("made", 4), row["failure"]
    assert row["dropped"] == {"its question stands in the exam": 1}
    found = {one["instruction"]: one for one in proposed(world, domain)}
    assert {asked: one["output"] for asked, one in found.items()} == {
        "What is the home Port of the ferry?": "The home Port of the ferry is Skagen.",
        "What is the harbour master of the home Port of the ferry?": (
            "The home Port of the ferry is Skagen, and the harbour master of Skagen is Ida Holm."
        ),
        "What is the harbour master of Skagen?": "The harbour master of Skagen is Ida Holm.",
        "What is the colour of the ferry?": "The colour of the ferry is red and white.",
    }
    assert [len(one["sources"]) for one in found.values()] == [1, 2, 1, 2]
    again = built(world, context, domain, "self-kg")
    assert (again["proposed"], again["known"]) == (0, 4)
    for column, table in (("triple", "triples"), ("proposal", "proposals")):
        stored = rows(world.database, f"SELECT {column}::text FROM noria.{table} WHERE domain = :d", d=domain)
        assert stored and not any("Skagen" in str(words) for words in stored), "sealed at rest"

    first, second, third, fourth = (one["proposal_id"] for one in found.values())
    assert posted(world, f"{path}/proposals/accept", {"proposals": [first]})["accepted"] == 1
    assert posted(world, f"{path}/proposals/accept", {"proposals": [first]})["known"] == 1
    mended = {"instruction": "Who is harbour master at the ferry's home?", "output": "Ida Holm, of Skagen."}
    posted(world, f"{path}/proposals/accept", {"proposals": [second], "edited": mended})
    posted(world, f"{path}/proposals/reject", {"proposals": [third], "reason": "nobody asks it"})
    posted(world, f"{path}/proposals/accept", {"proposals": [third]})
    assert {one["proposal_id"]: one["state"] for one in proposed(world, domain, state="all")} == {
        first: "accepted",
        second: "edited",
        third: "accepted",
        fourth: "proposed",
    }
    exported = world.as_data.get(f"{path}/examples").json()["data"]
    assert {(one["instruction"], one["output"]) for one in exported} >= {tuple(mended.values())} and len(exported) == 3
    with world.database.connect() as connection:
        learned = examples_as_of(connection, domain, None, ())
    assert len(learned) == 3, "selection reads them as any accepted example"
    assert len({one.prompt.kid for one in learned}) == 2, "what a person edited is theirs, the rest the domain's"

    undone = posted(world, f"{path}/builds/{row['build_id']}/undo", {})
    assert (undone["rejected"], undone["retired"]) == (4, 3)
    assert world.as_data.get(f"{path}/examples").json()["data"] == [] and proposed(world, domain) == []
    back = posted(world, f"{path}/proposals/accept", {"proposals": [first]})
    assert back["accepted"] == 1 and len(world.as_data.get(f"{path}/examples").json()["data"]) == 1
    assert posted(world, f"{path}/triples/retire", {"import": brought["import"]})["retired"] == 5
    assert built(world, context, domain, "self-kg")["proposed"] == 0


def test_another_answer_to_a_question_that_was_answered_is_in_dispute_and_waits_before_all_others(
    world: World, context: Context
) -> None:
    domain = world.domain()
    path = f"/v1/domains/{domain}"
    brought = posted(world, f"{path}/triples", [{"subject": "the lock", "predicate": "depth", "object": "4 m"}])
    assert built(world, context, domain, "self-kg")["proposed"] == 1
    (first,) = proposed(world, domain)
    posted(world, f"{path}/proposals/accept", {"proposals": [first["proposal_id"]]})
    posted(world, f"{path}/triples/retire", {"items": brought["ids"]})
    more = [
        {"subject": "the quay", "predicate": "length", "object": "80 m"},
        {"subject": "the lock", "predicate": "depth", "object": "5 m"},
    ]
    posted(world, f"{path}/triples", more)
    assert built(world, context, domain, "self-kg")["proposed"] == 2
    item = world.as_data.post(f"{path}/queue/next", json={}).json()["item"]
    assert (item["waits"], item["reason"], item["proposal"]["output"]) == (
        "disputed",
        "another_answer",
        "The depth of the lock is 5 m.",
    )


def test_syllogisms_become_examples_in_three_steps_and_one_that_rests_on_another_article_is_refused(
    world: World, context: Context
) -> None:
    domain = world.domain()
    seed = {
        "major": {"law": "Harbour Act", "article": "Article 9", "rule": "Who moors without leave pays 200 crowns."},
        "minor": "Jon moored without leave.",
        "conclusion": {"article": "Article 9", "result": "Jon pays 200 crowns."},
    }
    wrong = seed | {"conclusion": {"article": "Article 8", "result": "Jon pays."}}
    refused = world.as_data.post(f"/v1/domains/{domain}/seeds", json=[seed, wrong])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "[1].conclusion.article")
    posted(world, f"/v1/domains/{domain}/seeds", [seed])
    assert built(world, context, domain, "syllogism")["proposed"] == 1
    (one,) = proposed(world, domain)
    assert one["input"] == "Jon moored without leave." and one["kind"] == "syllogism"
    assert [line.partition(":")[0] for line in one["output"].split("\n")] == [
        "Major premise",
        "Minor premise",
        "Conclusion",
    ]


def scripted(prompt: str) -> Reply:
    """Of each passage three questions; the answers are right, invented, broken off, refused, or nothing at all."""
    if "generate ten" in prompt:
        number = (re.findall(r"Article (\d+)", prompt) or ["0"])[0]
        return {
            "3": "1. Question: How often is a pump checked?\n2. Question: What does this article say?\n"
            "3. Question: Who pays for the pump?",
            "4": "1. Question: How long does a valve last?\n2. Question: Where is a valve kept?",
            "5": "1. Question: How loud may a horn be?",
        }.get(number, "I would rather not.")
    return {
        "How often is a pump checked?": KEPT,
        "Who pays for the pump?": "Answer: UNANSWERABLE",
        "How long does a valve last?": "Answer: A valve lasts 117 months.",
        "Where is a valve kept?": {"message": {"content": "Answer: In a"}, "finish_reason": "length"},
        "How loud may a horn be?": {"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"},
    }[next(q for q in re.findall(r"[A-Z][^?\n]*\?", prompt))]


DOCUMENT = (
    "Article 3 A pump is checked every fifteen days.\n\nArticle 4 A valve lasts 43 months and is kept dry.\n\n"
    "Article 5 A horn may be loud.\n\nArticle 6 The rest is left to the board.\n"
)


def with_teacher(world: World, server: TeacherServer, **more: Any) -> str:
    domain = world.domain()
    body = {"teacher": {"base_url": server.base_url, "model": "heron-70b"} | more}
    set_ = world.as_operator.put(f"/v1/domains/{domain}/policy", json=body)
    assert set_.status_code == 200, set_.text
    world.caught_up(set_.json()["position"])
    added = world.as_data.post(
        f"/v1/domains/{domain}/documents",
        params={"name": "rules.txt"},
        content=DOCUMENT,
        headers={"Content-Type": "text/plain"},
    )
    world.caught_up(added.json()["position"])
    return domain


def allow(context: Context, server: TeacherServer, key: str = "k-1") -> None:
    context.settings = replace(context.settings, private_endpoints=(server.place,), teacher_key=key)


def test_a_teachers_answers_are_kept_where_they_stand_in_the_passage_and_counted_by_reason_where_not(
    world: World, context: Context, teacher: Callable[[Callable[[str], Reply]], TeacherServer]
) -> None:
    server = teacher(scripted)
    domain = with_teacher(world, server)
    closed = built(world, context, domain, "self-qa")
    assert closed["outcome"] == "failed" and "at a private address" in closed["failure"] and not server.asked
    allow(context, server)
    row = built(world, context, domain, "self-qa")
    assert (row["outcome"], row["proposed"]) == ("made", 1), row["failure"]
    assert row["dropped"] == {
        "a number of it is not in its passage": 1,
        REFUSED: 1,
        TRUNCATED: 1,
        "it points back at a text that nobody sees": 1,
        "its passage does not answer it": 1,
        "no questions could be read from the teacher's answer": 1,
    }
    assert (row["calls"], row["tokens"], server.keys) == (9, 900, {"Bearer k-1"})
    (one,) = proposed(world, domain)
    assert one["instruction"] == "How often is a pump checked?" and one["sources"][0]["kind"] == "passage"
    asked = len(server.asked)
    again = built(world, context, domain, "self-qa")
    assert (again["proposed"], again["known"]) == (0, 1)
    assert len(server.asked) - asked == again["calls"] == 2, "only what was spoiled is asked again"


def test_whoever_takes_a_build_up_pays_for_no_answer_twice(
    world: World, context: Context, teacher: Callable[[Callable[[str], Reply]], TeacherServer]
) -> None:
    server = teacher(scripted)
    domain = with_teacher(world, server, in_flight=1)
    allow(context, server)
    posted(world, f"/v1/domains/{domain}/builds", {"builder": "self-qa"})
    kept = teacher_room.Desk._keep
    killed = 5

    def keep(desk: Any, call: str, answer: Any) -> None:
        nonlocal killed
        killed -= 1
        kept(desk, call, answer)
        if killed == 0:
            raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_room.Desk, "_keep", keep)
        with pytest.raises(SystemExit):
            door_world.wait_until(
                lambda: loop.work_once(context, loop.steps(["build"]), threading.Event()) and False, what="its death"
            )
    paid = len(server.asked)
    assert paid >= 5
    with world.database.begin() as connection:
        connection.exec_driver_sql("UPDATE work.claims SET lease_until = now() WHERE state = 'open'")
    row = built(world, context, domain, "self-qa")
    assert row["outcome"] == "made" and len(server.asked) == len(set(server.asked)) == 9 == row["calls"]


def test_a_busy_teacher_is_asked_again_one_that_refuses_the_key_ends_the_build_and_one_that_sends_pages_is_counted(
    world: World,
    context: Context,
    teacher: Callable[[Callable[[str], Reply]], TeacherServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teacher_room, "FIRST_WAIT_S", 0.01)
    busy: set[str] = set()

    def answer(prompt: str) -> Reply:
        if prompt not in busy:
            busy.add(prompt)
            return (429, b"") if len(busy) % 2 else (503, b"<html>")
        return (200, b"<html>Welcome</html>") if "generate ten" in prompt else scripted(prompt)

    server = teacher(answer)
    domain = with_teacher(world, server)
    allow(context, server)
    row = built(world, context, domain, "self-qa")
    assert (row["outcome"], row["dropped"]) == ("made", {MALFORMED: 4}), row["failure"]
    server.answer = lambda prompt: (401, b"who are you")
    refused = built(world, context, domain, "self-qa")
    assert refused["outcome"] == "failed" and "refuses with status 401" in refused["failure"]


def test_what_a_builder_lacks_is_said_at_once(world: World) -> None:
    domain = world.domain()
    for body, words in (
        ({"builder": "self-qa"}, "the domain's policy names none"),
        ({"builder": "self-made"}, "there is no builder 'self-made'"),
        ({"builder": "self-kg", "most": 0}, "most must be from 1"),
    ):
        refused = world.as_data.post(f"/v1/domains/{domain}/builds", json=body)
        assert refused.status_code == 422 and words in refused.json()["error"]["message"]
    wrong = world.as_operator.put(
        f"/v1/domains/{domain}/policy", json={"teacher": {"base_url": "ftp://x", "model": "m"}}
    )
    assert wrong.status_code == 422 or wrong.status_code == 400, wrong.text
    assert wrong.json()["error"]["param"].endswith("teacher.base_url")


def test_the_command_line_brings_builds_shows_and_decides(world: World, context: Context, tmp_path: Path) -> None:
    domain = world.domain()
    key = create_key(world.database, "cli", "operator", person=None)
    environ = {"NORIA_DOOR": world.door_url, "NORIA_KEY": key, "NORIA_HOME": str(tmp_path)}

    def run(*arguments: str, status: int = 0) -> Any:
        result = CliRunner().invoke(main, [*arguments, "--domain", domain, "--json"], env=environ)
        assert result.exit_code == status, (result.output, result.stderr, result.exception)
        return json.loads(result.stdout)

    facts = tmp_path / "facts.csv"
    facts.write_text("subject,predicate,object\nthe ferry,home port,Skagen\nthe ferry,,red\n渡轮,母港,斯卡恩\n")
    said = run("triples", "add", str(facts), status=1)
    assert (said["added"], said["faulty"]) == (2, 1), "the wrong line is named, the others go in"
    world.caught_up(said["position"])
    asked = run("build", "self-kg", "--most", "1")
    row = door_world.wait_until(
        lambda: (
            loop.work_once(context, loop.steps(["build"]), threading.Event()),
            next((one for one in run("build", "list") if one["outcome"] == "made"), None),
        )[1],
        what="the build",
    )
    assert (row["build_id"], row["proposed"]) == (asked["build_id"], 1)
    (one,) = run("examples", "proposed")["data"]
    world.caught_up(run("examples", "accept", one["proposal_id"])["position"])
    assert [row["state"] for row in run("examples", "proposed", "--state", "all")["data"]] == ["accepted"]
    world.caught_up(run("build", "undo", row["build_id"])["position"])
    assert run("examples", "proposed")["data"] == [] and len(run("triples", "list")["data"]) == 2
    assert run("triples", "retire", "--import", said["import"])["retired"] == 2


def test_a_replay_of_all_that_was_brought_proposed_and_decided_comes_to_the_same(world: World) -> None:
    log = KafkaLog(world.kafka, "test-material-replay")
    try:
        found = verify(world.database, log)
    finally:
        log.close()
    assert found.equal, found
