"""Material from the door to what a round may learn: real Kafka and PostgreSQL, and a teacher that is a small server of our own."""

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from api.cli import main
from api.keys import create_key
from streams.connections import Share
from streams.endpoints import Teacher
from streams.history import before
from streams.log import KafkaLog
from streams.reading.learning import examples_as_of
from streams.replay import verify
from streams.sealing import Keyring, MasterKey
from streams.store import open_database
from tests import door_world, scripted_tasks
from tests.door_world import World
from tests.integration.by_hand import rows
from tests.integration.test_exam_ahead import add_exam
from tests.teacher_server import Reply, ScriptedDesk, TeacherServer
from workers import loop
from workers.builder import declining, rewordings, self_instruct, self_qa, step, style
from workers.builder import teacher as teacher_room
from workers.builder.material import Material, Proposed
from workers.builder.teacher import MALFORMED, REFUSED, TRUNCATED, Desk
from workers.context import Context
from workers.selector.opened import open_examples

TASKS = Path(__file__).parents[2] / "deploy" / "demo" / "road_traffic" / "tasks.jsonl"
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


def with_teacher(world: World, server: TeacherServer, style: Sequence[Any] = (), **more: Any) -> str:
    domain = world.domain()
    body = {"teacher": {"base_url": server.base_url, "model": "heron-70b"} | more, "style": style}
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
    numbers = count(1)

    def keep(desk: Any, call: str, answer: Any) -> None:
        number = next(numbers)  # another is kept meanwhile
        kept(desk, call, answer)
        if number == 5:
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


def test_the_domain_declines_in_the_words_of_its_policy_and_no_more_often_than_its_share(
    world: World, context: Context, teacher: Callable[[Callable[[str], Reply]], TeacherServer]
) -> None:
    domain = world.domain()
    path = f"/v1/domains/{domain}"
    guide = [
        {"rule": "declines_with", "value": "The harbour office answers for ferries only."},
        {"rule": "address", "value": "formal"},
    ]
    world.caught_up(world.as_operator.put(f"{path}/policy", json={"style": guide}).json()["position"])
    asides = [{"question": f"Who painted picture {number}?"} for number in range(12)] + [
        {"question": "蒙娜丽莎是谁画的？"}
    ]
    posted(world, f"{path}/seeds", asides)
    row = built(world, context, domain, "declining")
    assert (row["proposed"], row["dropped"]) == (0, {step.FULL: 12, declining.UNLIKE_THE_GUIDE: 1}), "no example yet"
    for number in range(20):
        posted(
            world, f"{path}/examples", [{"instruction": f"Where is pier {number}?", "output": f"By crane {number}."}]
        )
    row = built(world, context, domain, "declining")
    assert (row["proposed"], row["dropped"][step.FULL]) == (2, 10), "a tenth of twenty"
    assert {one["output"] for one in proposed(world, domain)} == {
        "I am sorry, but that is not something that can be answered here. The harbour office answers for ferries only."
    }


def test_accepted_answers_are_worded_as_the_guide_asks_and_take_the_place_of_those_that_were_not(
    world: World, context: Context, teacher: Callable[[Callable[[str], Reply]], TeacherServer]
) -> None:
    answers = {
        "boss": "It is Ben.",
        "colour": "It is red.",
        "length": "It is 40 metres.",
        "home": "Skagen is the home port it has.",
    }
    server = teacher(lambda prompt: next(said for word, said in answers.items() if f"What is the {word}" in prompt))
    domain = with_teacher(world, server, style=[{"rule": "at_most_words", "value": 5}])
    allow(context, server)
    path = f"/v1/domains/{domain}"
    facts = {"boss": "Ben", "colour": "red", "length": "43 metres", "home port": "Skagen"}
    posted(world, f"{path}/triples", [{"subject": "ferry", "predicate": p, "object": o} for p, o in facts.items()])
    built(world, context, domain, "self-kg")
    accepted = posted(
        world, f"{path}/proposals/accept", {"proposals": [one["proposal_id"] for one in proposed(world, domain)]}
    )
    for one in ("Where does it berth?", "Who paints it?"):  # a person's words: they go to no teacher
        posted(
            world,
            f"{path}/examples?user=ann",
            [{"instruction": one, "output": "At pier four, where it has always been."}],
        )
    for number in range(3):
        posted(world, f"{path}/examples?user=ann", [{"instruction": f"And pier {number}?", "output": "No."}])
    row = built(world, context, domain, "style")
    assert (row["outcome"], row["proposed"], row["calls"]) == ("made", 2, 4), row["failure"]
    assert row["dropped"] == {style.ADDS: 1, declining.UNLIKE_THE_GUIDE: 1}
    assert not any("pier" in prompt for prompt in server.asked)
    (boss, _) = proposed(world, domain)
    assert (boss["output"], boss["sources"]) == ("It is Ben.", [{"kind": "example", "id": accepted["examples"][0]}])
    posted(world, f"{path}/proposals/accept", {"proposals": [boss["proposal_id"]]})
    exported = [one["output"] for one in world.as_data.get(f"{path}/examples").json()["data"]]
    assert "It is Ben." in exported and "The boss of ferry is Ben." not in exported and len(exported) == 9


def test_a_wording_of_somebody_elses_is_proposed_and_goes_when_whoever_asked_or_answered_is_erased(
    world: World, context: Context
) -> None:
    domain = world.domain()
    path = f"/v1/domains/{domain}"
    reply = world.chat(domain, "When does the last tram leave the harbour?", user="ann.harbour")["metadata"][
        "reply_ids"
    ][0]
    correction = {"reply_id": reply, "user": "ann.harbour", "correction": "The last tram leaves the harbour at 1:20."}
    given = world.as_chat.post("/v1/feedback", json=correction)
    assert given.status_code == 200, given.text
    asked = {
        "ben.harbour": "At what time is the last tram from the harbour?",
        "cat.harbour": "Until when do trams run from the port?",
        "dora.harbour": "Who painted the Mona Lisa?",
        "ann.harbour": "What time does the last tram leave the harbour?",
        "eve.harbour": "when does the last tram leave the harbour",
    }
    for person, words in asked.items():
        world.chat(domain, words, user=person)
    door_world.wait_until(
        lambda: (
            len(rows(world.database, "SELECT prompt_id FROM noria.prompts WHERE domain = :d", d=domain)) == 6
            and rows(world.database, "SELECT example_id FROM noria.examples WHERE domain = :d", d=domain)
        ),
        what="all that was said",
    )
    row = built(world, context, domain, "rewordings")
    assert (row["outcome"], row["proposed"], row["dropped"]) == ("made", 2, {rewordings.ELSE: 2}), row["failure"]
    of = {one["instruction"]: one for one in proposed(world, domain)}
    assert {words: one["kind"] for words, one in of.items()} == {
        asked["ben.harbour"]: "rewording",
        asked["cat.harbour"]: "unsure_rewording",
    }
    assert {one["output"] for one in of.values()} == {"The last tram leaves the harbour at 1:20."}
    assert {source["kind"] for source in of[asked["ben.harbour"]]["sources"]} == {"example", "prompt"}
    edited = {"instruction": asked["cat.harbour"].upper(), "output": "At 1:20."}
    posted(world, f"{path}/proposals/accept", {"proposals": [of[asked["ben.harbour"]]["proposal_id"]]})
    posted(
        world, f"{path}/proposals/accept", {"proposals": [of[asked["cat.harbour"]]["proposal_id"]], "edited": edited}
    )

    def learned() -> set[str]:
        with world.database.connect() as connection:
            found = examples_as_of(connection, domain, None, ())
            opened = open_examples(
                found, before(connection, {one.follows for one in found}), frozenset(), context.keyring
            )
        return {one.question for one in opened.candidates}

    first = "When does the last tram leave the harbour?"
    assert learned() == {first, asked["ben.harbour"], edited["instruction"]}
    retired = "SELECT example_id FROM noria.examples WHERE domain = :d AND retired_reason = 'erased'"
    for person, left, theirs in (("cat.harbour", {first, asked["ben.harbour"]}, 1), ("ann.harbour", set[str](), 3)):
        gone = world.as_operator.post(f"/v1/people/{person}/erase")
        world.caught_up(gone.json()["position"])
        context.keyring.forget()
        assert learned() == left
        assert gone.json()["examples"] == len(rows(world.database, retired, d=domain)) == theirs
    assert proposed(world, domain, state="all") == [], "one of its two keys is enough"
    assert built(world, context, domain, "rewordings")["proposed"] == 0


@contextmanager
def builder_process(world: World, server: TeacherServer, home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    kafka, settings = world.kafka, world.settings
    environment = os.environ | {
        "NORIA_HOME": str(home),
        "NORIA_DOOR": "http://unused:1",
        "NORIA_DATABASE_URL": settings.database_url,
        "NORIA_MASTER_KEY": str(settings.master_key),
        "NORIA_PRIVATE_ENDPOINTS": server.place,
        "NORIA_KAFKA": kafka.servers,
        "NORIA_KAFKA_SECURITY": kafka.security,
        "NORIA_KAFKA_MECHANISM": kafka.mechanism,
        "NORIA_KAFKA_USER": kafka.user,
        "NORIA_KAFKA_PASSWORD_FILE": str(kafka.password_file or ""),
    }
    running = subprocess.Popen([sys.executable, "-m", "workers.loop", "--kinds", "build"], env=environment)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


class Stalling:
    """A teacher that from some call on answers nobody until it is let: what is under way then is known."""

    def __init__(self, script: Callable[[str], Reply], after: int) -> None:
        self.held: set[str] = set()  # whoever asks may have asked before, and not have waited so long
        self.go_on = threading.Event()
        self._script, self._left, self._lock = script, after, threading.Lock()

    def __call__(self, prompt: str) -> Reply:
        with self._lock:
            self._left -= 1
            stalls = self._left < 0 and not self.go_on.is_set()
            if stalls:
                self.held.add(prompt)
        if stalls:
            self.go_on.wait()
        return self._script(prompt)


@pytest.mark.parametrize(("builder", "most", "after"), [("self-instruct", 40, 30), ("self-qa", None, 5)])
def test_a_build_whose_process_was_killed_makes_the_same_and_pays_twice_only_for_what_was_on_its_way(
    world: World,
    context: Context,
    teacher: Callable[[Callable[[str], Reply]], TeacherServer],
    tmp_path: Path,
    builder: str,
    most: int | None,
    after: int,
) -> None:
    in_flight = 3
    script, build = {
        "self-instruct": (scripted_tasks.answer, self_instruct.build),
        "self-qa": (scripted, self_qa.build),
    }[builder]
    stalling = Stalling(script, after)
    server = teacher(stalling)
    domain = with_teacher(world, server, in_flight=in_flight)
    if builder == "self-instruct":
        posted(world, f"/v1/domains/{domain}/seeds", [json.loads(line) for line in TASKS.read_text().splitlines()])
    posted(world, f"/v1/domains/{domain}/builds", {"builder": builder, "most": most})
    with builder_process(world, server, tmp_path) as running:
        counted = "SELECT call FROM work.teacher_calls WHERE domain = :d"
        door_world.wait_until(
            lambda: len(stalling.held) == in_flight and len(rows(world.database, counted, d=domain)) == after,
            "all that may be under way, and what was answered before to be kept",
        )
        running.kill()
        running.wait()
    stalling.go_on.set()
    with world.database.begin() as connection:
        connection.exec_driver_sql("UPDATE work.claims SET lease_until = now() WHERE state = 'open'")
    allow(context, server)
    row = built(world, context, domain, builder, most=most)
    assert row["outcome"] == "made", row["failure"]
    twice = [prompt for prompt, times in Counter(server.asked).items() if times > 1]
    assert sorted(twice) == sorted(stalling.held) and row["calls"] >= after + in_flight
    material = Material(world.database, context.keyring, domain, row["asked_offset"] + 1)
    desk = ScriptedDesk(script, in_flight)
    uninterrupted = (one for one in build(material, desk) if isinstance(one, Proposed))
    expected = list(islice(uninterrupted, most))
    desk.close()
    assert [(one["instruction"], one["input"], one["output"]) for one in proposed(world, domain)] == [
        (one.instruction, one.input, one.output) for one in expected
    ]


def test_more_may_be_under_way_than_there_are_connections(
    world: World, teacher: Callable[[Callable[[str], Reply]], TeacherServer]
) -> None:
    server = teacher(str)
    database = open_database(world.settings.database_url, Share(pool=1, wait_s=5))
    keyring = Keyring(database, MasterKey.made(world.settings.master_key))
    asks = Teacher(server.base_url, "heron-70b", in_flight=8)
    desk = Desk(asks, "", world.domain(), uuid4(), database, keyring, lambda wait_s: None)
    try:
        said = [answer.text for _, answer in desk.ask_all((number, f"number {number}") for number in range(24))]
    finally:
        desk.close()
        database.dispose()
    assert said == [f"number {number}" for number in range(24)]


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
