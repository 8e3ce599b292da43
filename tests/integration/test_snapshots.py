"""What a round was taught can be looked through: every candidate with what became of it, until its person is erased."""

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from api.cli import main
from deploy.ports import LOOPBACK, free_port
from streams.events import ORDERS
from streams.log import KafkaLog
from streams.orders import SelectSnapshot
from streams.reading.learning import Example
from streams.recall_client import KEY
from streams.sealing import seal
from tests.candidates import START, candidate
from tests.door_world import World, wait_until
from tests.integration.test_rollback import select
from tests.memories import Bags
from tests.unit import trainer_tiny as tiny
from workers.asked import ask as asked_once
from workers.context import Context
from workers.recall import encoder
from workers.recall.server import application, make_server
from workers.selector import instruments
from workers.selector.golden import Gains, Task
from workers.selector.mapped import Maps

STEPS: list[dict[str, Any]] = [
    {"step": "leakage", "overlap": 0.9},
    {"step": "agreement"},
    {"step": "length"},
    {"step": "dedupe", "cosine": 0.8},
    {"step": "k_center", "k": 5},
]
SAID = [
    ("How fast may a cart be driven in the yard?", "At 6 km/h."),
    ("How fast may a cart be driven in the old yard?", "At 6 km/h."),
    ("Who opens the gate?", "The keeper opens it."),
    ("Which lamp is lit at night?", "The red one."),
]


@pytest.fixture
def context(world: World) -> Iterator[Context]:
    log = KafkaLog(world.kafka, "test-snapshots")
    yield Context(world.settings, world.database, log, world.services.keyring, "worker-1")
    log.close()


@pytest.fixture
def bags(monkeypatch: pytest.MonkeyPatch) -> Bags:
    found = Bags()
    monkeypatch.setattr(encoder, "sentence_encoder", lambda: found)
    return found


def corrected(world: World, domain: str, question: str, answer: str, user: str) -> None:
    reply_id = world.chat(domain, question, user=user)["metadata"]["reply_ids"][0]
    said = {"reply_id": reply_id, "user": user, "correction": answer}
    at = f"/v1/domains/{domain}/examples"
    before = len(world.as_data.get(at).json()["data"])
    given = world.as_chat.post("/v1/feedback", json=said)
    world.caught_up(given.json()["position"])
    # It becomes an example of the domain by an event of its own; a round that is pinned before that does not learn it.
    wait_until(lambda: len(world.as_data.get(at).json()["data"]) > before, what="the example")


@contextmanager
def mapping(world: World, context: Context) -> Iterator[None]:
    """A memory that the door may ask for maps."""
    url = f"http://{LOOPBACK}:{free_port()}"
    lay_out = Maps(context.database, context.keyring, lambda recall: encoder.encoder_of(recall, world.settings)).lay_out
    server = make_server(application(dict, world.services.keyring.derive(KEY), lay_out), url)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(world.services.recaller, "_url", url)
            yield
    finally:
        server.close()


def noria(world: World, *arguments: str) -> str:
    environ = {"NORIA_DOOR": world.door_url, "NORIA_KEY": world.data_key}
    done = CliRunner().invoke(main, ["snapshot", *arguments], env=environ)
    assert done.exit_code == 0, done.output
    return done.output


def test_each_candidate_says_what_became_of_it_and_a_later_round_embeds_only_what_is_new(
    world: World, context: Context, bags: Bags, tmp_path: Path
) -> None:
    domain = world.domain(policy={"thresholds": {"corrections": 400}, "selection": STEPS})
    for place, (question, answer) in enumerate(SAID):
        corrected(world, domain, question, answer, "dora" if place == 3 else "cleo")
    exam = [{"question": "who opens the gate", "answer": "The keeper.", "kind": "general"}]
    added = world.as_operator.post(f"/v1/domains/{domain}/exam", json=exam)
    world.caught_up(added.json()["position"])
    first = select(world, context, domain, context.log.ends(ORDERS)[0])
    assert len(first.kept) == 2 and bags.texts == 2 * 3, (
        "three are looked at by meaning, each with and without its answer"
    )

    at = f"/v1/rounds/{first.round_id}/snapshot"
    shown = world.as_data.get(at).json()
    assert shown["selection"][3] == {"step": "dedupe", "cosine": 0.8} and shown["libraries"]["encoder"] == "bags"
    assert {(one["step"], one["candidates"]) for one in shown["counts"]} == {("", 2), ("leakage", 1), ("dedupe", 1)}
    lines = world.as_data.get(f"{at}/lines").json()["data"]
    by_step = {line["step"]: line for line in lines if not line["kept"]}
    assert by_step["leakage"]["number"] == 1 and by_step["dedupe"]["neighbour"] in first.kept
    one = world.as_data.get(f"{at}/lines", params={"candidate": by_step["dedupe"]["id"]}).json()["data"]
    assert one == [by_step["dedupe"]]
    assert (
        world.as_data.get(f"{at}/lines", params={"candidate": "nobody"}).json()["error"]["code"]
        == "candidate_not_found"
    )
    page = world.as_data.get(f"{at}/lines", params={"limit": 3}).json()
    rest = world.as_data.get(f"{at}/lines", params={"limit": 3, "since": page["next"]}).json()
    assert page["data"] + rest["data"] == lines and rest["next"] is None
    taught = world.as_data.get(f"{at}/export").json()["data"]
    assert {(row["instruction"], row["output"]) for row in taught} == {SAID[1], SAID[3]}

    cancelled = world.as_operator.post(f"/v1/rounds/{first.round_id}/cancel").json()
    world.caught_up(cancelled["position"])
    corrected(world, domain, "Which gate is the north one?", "The green gate.", "cleo")
    bags.texts = 0
    second = select(world, context, domain, context.log.ends(ORDERS)[0])
    assert len(second.kept) == 3 and bags.texts == 2, "the vectors of the others were kept"
    (change,) = world.as_data.get(
        f"/v1/rounds/{second.round_id}/snapshot/changes", params={"from": first.round_id}
    ).json()["data"]
    assert change["before"] is None and change["after"]["kept"] and change["id"] in second.kept

    assert "chosen by leakage, agreement, length, dedupe, k_center" in noria(world, "show", "1", "--domain", domain)
    told = noria(world, "why", by_step["leakage"]["id"], "--domain", domain)
    assert told.startswith("round 2: its question stands in the exam by leakage (1, next to ")
    assert noria(world, "diff", "1", "2", "--domain", domain).endswith("no candidate -> kept\n")
    assert len(json.loads(noria(world, "list", "--domain", domain, "--json"))) == 2

    away = world.as_data.get(f"/v1/rounds/{second.round_id}/snapshot/map")
    assert away.status_code == 503 and away.json()["error"]["code"] == "memory_unavailable"
    bags.texts = 0
    with mapping(world, context):
        drawn = world.as_data.get(f"/v1/rounds/{second.round_id}/snapshot/map").json()
    assert bags.texts == 2, "of the one that no step has looked at by meaning"
    points = {one["question"]: one for one in drawn["points"]}
    assert len(points) == 5 and drawn["left_out"] == 0
    assert {one["id"] for one in drawn["points"] if one["new"] and one["kept"]} == set(second.kept)
    assert points[SAID[0][0]]["step"] == "dedupe" and points[SAID[2][0]]["step"] == "leakage"
    cart, *others = (points[question] for question, _ in (SAID[0], SAID[1], SAID[3]))
    near, far = (math.dist((cart["x"], cart["y"]), (one["x"], one["y"])) for one in others)
    assert near < far, "what says nearly the same lies near"

    erased = world.as_operator.post("/v1/people/dora/erase")
    world.caught_up(erased.json()["position"])
    with mapping(world, context):
        told = noria(world, "map", "2", "--domain", domain, "--html", str(tmp_path / "map.html"))
    assert told.split() == ["2", "kept", "1", "kept", "back", "by", "dedupe", "1", "kept", "back", "by", "leakage"]
    assert SAID[3][0] not in (written := (tmp_path / "map.html").read_text()) and SAID[1][0] in written
    left = world.as_data.get(f"{at}/export").json()
    assert [(row["instruction"], row["output"]) for row in left["data"]] == [SAID[1]] and left["erased"] == 1
    noria(world, "export", "1", str(tmp_path / "taught.jsonl"), "--domain", domain)
    assert [json.loads(row)["output"] for row in (tmp_path / "taught.jsonl").read_text().splitlines()] == ["At 6 km/h."]
    with world.database.connect() as connection:
        cached = connection.exec_driver_sql(
            "SELECT count(*) FROM work.vectors WHERE memory_id LIKE '%%#selection' AND domain = %s", (domain,)
        )
        assert cached.scalar_one() == 5, (
            "four of the steps, and of the map the one that none of them looked at by meaning"
        )


def test_gains_are_computed_once_for_an_example_a_model_and_its_tasks(
    world: World, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[int, int]] = []

    def ask(module: str, task: Task, kind: type[Gains], look: Any) -> Gains:
        asked.append((len(task.shots), len(task.tasks)))
        return asked_once(module, task, kind, look)

    monkeypatch.setattr(instruments, "ask", ask)
    context.progress = lambda *_, **__: None  # type: ignore[method-assign]
    rows, found = [], []
    for name, (question, answer) in zip("abcd", tiny.FACTS, strict=False):
        key = context.keyring.key_for(f"gain-{name}")
        prompt = seal(json.dumps([{"role": "user", "content": question}]), key, f"{name}#prompt")
        rows.append(Example(name, name, prompt, None, seal(answer, key, f"{name}#answer"), START, 1, False))
        found.append(candidate(name, question, answer))
    order = SelectSnapshot(
        order_id=uuid4(),
        domain="gains",
        round_id="none",
        pin=1,
        base_model=context.artifacts.put_dir(tiny.make_model(tmp_path / "tiny")),
    )

    def gains(shots: int, tasks: slice) -> Any:
        measured = instruments.RoundInstruments(order, context, rows, {}, {}, lambda prompt, answer: 1)
        return measured.gains(found[:shots], found[tasks]).tolist()

    one = gains(1, slice(2, 4))
    ((first, second), (third, fourth)) = gains(2, slice(2, 4))
    assert [[first, second]] == one and len({first, second, third, fourth, 0.0}) == 5
    assert asked == [(1, 2), (1, 2)], "of the two the one that was new"
    gains(1, slice(1, 4))
    assert asked[2:] == [(1, 3)], "other tasks are other gains"
    with world.database.begin() as connection:
        purged = connection.exec_driver_sql(
            "DELETE FROM work.vectors WHERE domain = 'gains' AND %s = ANY(kids) RETURNING memory_id",
            (rows[3].answer.kid,),
        )
        assert sorted(purged.scalars()) == ["a#gains", "a#gains", "b#gains"], "they know the words of their tasks, too"


def test_a_round_that_has_chosen_nothing_yet_has_nothing_to_show(world: World) -> None:
    domain = world.domain(policy={"thresholds": {"corrections": 400}})
    asked = world.as_operator.post(f"/v1/domains/{domain}/rounds", json={}).json()
    world.caught_up(asked["position"])
    (round_,) = wait_until(lambda: world.as_data.get("/v1/rounds", params={"domain": domain}).json()["data"])
    refused = world.as_data.get(f"/v1/rounds/{round_['round_id']}/snapshot")
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "no_snapshot"


@pytest.mark.parametrize(
    ("steps", "field", "words"),
    [
        ([*STEPS[:3], {"step": "shuffle"}], "selection[3].step", "shuffle"),
        ([*STEPS, {"step": "length"}], "selection[5]", "stands there twice"),
        ([*STEPS[:3], {"step": "k_center", "k": 3, "least": {"generated": 4}}], "selection[3].least", "asks for 4"),
        ([*STEPS[:3], {"step": "dedupe", "cosin": 0.9}], "selection[3].cosin", ""),
    ],
    ids=["unknown step", "impossible order", "quota", "unknown field"],
)
def test_a_selection_that_cannot_be_is_refused_by_its_field_and_the_policy_stays(
    steps: list[dict[str, Any]], field: str, words: str, world: World
) -> None:
    domain = world.domain()
    before = world.as_operator.get(f"/v1/domains/{domain}/policy").json()
    refused = world.as_operator.put(f"/v1/domains/{domain}/policy", json={"selection": steps})
    assert refused.status_code in (400, 422), refused.text
    error = refused.json()["error"]
    assert field in f"{error['param']} {error['message']}" and words in error["message"]
    assert world.as_operator.get(f"/v1/domains/{domain}/policy").json() == before
