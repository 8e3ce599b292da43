"""A selection by every step, killed as each of them begins: whoever takes it up chooses what nobody disturbed would have chosen,
and of each candidate it can be asked what became of it."""

import json
import multiprocessing
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from api.cli import main
from streams.events import ORDERS
from streams.facts.examples import ExampleAccepted
from streams.facts.material import ExampleProposed, Source
from streams.facts.rounds import RoundAsked
from streams.orders import SelectSnapshot
from streams.sealing import Keyring, MasterKey, domain_subject, seal
from streams.snapshots import Line, save
from tests.door_world import World, wait_until
from tests.integration.test_rollback import newest
from tests.killed_selector import context_of, run
from tests.memories import Bags
from tests.unit import trainer_tiny as tiny
from workers.context import Context
from workers.recall import encoder
from workers.selector import opened
from workers.selector import step as selector

STEPS: list[dict[str, Any]] = [
    {"step": "leakage", "overlap": 0.9, "cosine": 0.95},
    {"step": "agreement"},
    {"step": "length"},
    {"step": "dedupe", "cosine": 0.8},
    {"step": "k_center", "k": 9},
    {"step": "nuggets", "tasks": 2, "least": 0, "most": 9},
    {"step": "hard", "share": 0.25, "tail": 0.5},
    {"step": "budget", "tokens": 90},
    {"step": "mixing", "general": 0.5},
]
SAID = datetime(2026, 3, 1, tzinfo=UTC)
# What builders proposed, and people accepted.
FOUND: list[tuple[str, str]] = [
    ("What is the fine?", "The fine is 200 yuan."),
    ("What is the fine then?", "The fine is 200 yuan."),
    *((question, answer) for question, answer in tiny.FACTS if answer[0] in "IALNY"),
]


def bring(world: World, domain: str) -> None:
    keyring = Keyring(world.database, MasterKey.made(world.settings.master_key))
    key, position = keyring.key_for(domain_subject(domain)), ""
    for number, (question, answer) in enumerate(FOUND):
        id_ = uuid5(UUID(int=number), domain)
        example_id = uuid5(id_, "accepted")
        messages = json.dumps([{"role": "user", "content": question}])
        words = json.dumps({"instruction": question, "input": "", "output": answer, "system": ""})
        proposal = ExampleProposed(
            domain=domain,
            proposal_id=id_.hex,
            build_id=UUID(int=1),
            builder="self-kg",
            kind="fact",
            sources=(Source("triple", "none"),),
            proposal=seal(words, key, f"{id_}#proposal"),
        )
        world.say(proposal, id_)
        accepted = ExampleAccepted(
            domain=domain,
            example_id=example_id.hex,
            kind="annotation",
            person="ida",
            prompt=seal(messages, key, f"{example_id}#prompt"),
            answer=seal(answer, key, f"{example_id}#answer"),
            said_at=SAID + timedelta(hours=number),
            proposal_id=id_.hex,
        )
        position = world.say(accepted, example_id)
    world.caught_up(position)


@pytest.fixture
def context(world: World) -> Iterator[Context]:
    found = context_of(world.settings, "worker-2")
    yield found
    found.close()
    found.database.dispose()


@pytest.fixture
def bags(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Bags()
    for module in (encoder, opened):
        monkeypatch.setattr(module, "sentence_encoder", lambda: found)


def why(world: World, domain: str, candidate: str) -> str:
    environ = {"NORIA_DOOR": world.door_url, "NORIA_KEY": world.data_key}
    done = CliRunner().invoke(main, ["snapshot", "why", candidate, "--domain", domain], env=environ)
    assert done.exit_code == 0, done.output
    return done.output.strip()


def test_killed_as_each_step_begins_it_ends_in_the_set_of_one_that_was_not_and_tells_of_each_candidate(
    world: World, context: Context, bags: None, tmp_path: Path
) -> None:
    domain = world.domain(policy={"thresholds": {"corrections": 400}, "selection": STEPS})
    exam = [{"question": "how long is the TERM", "answer": "Ten years.", "kind": "general"}]
    world.caught_up(world.as_operator.post(f"/v1/domains/{domain}/exam", json=exam).json()["position"])
    bring(world, domain)
    base = context.artifacts.put_dir(tiny.make_model(tmp_path / "tiny"))
    after = context.log.ends(ORDERS)[0]
    world.caught_up(world.say(RoundAsked(domain=domain, by="ops")))
    asked = newest(context, domain, SelectSnapshot, after)
    order = replace(asked, base_model=base, reference_model=base, recipe=tiny.RECIPE)

    undisturbed = selector.select(order, context)
    with world.database.begin() as connection:
        removed = connection.exec_driver_sql(
            "DELETE FROM work.vectors WHERE domain = %s RETURNING memory_id", (domain,)
        )
        assert {id.partition("#")[2] for id in removed.scalars()} == {"selection", "gains", "losses"}
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([run.__module__])
    for dies_at in (*range(len(STEPS)), None):
        one = processes.Process(target=run, args=(world.settings, order, dies_at))
        one.start()
        one.join()
        assert one.exitcode == (0 if dies_at is None else -signal.SIGKILL), f"at step {dies_at}"
    (selected,) = wait_until(lambda: world.events(domain, "snapshot_selected"), what="the snapshot")
    digest = selected["data"]["snapshot"]
    assert save(undisturbed, context.artifacts) == digest, "whatever stood in the cache already"

    lines: dict[str, Line] = {line.reason or line.step: line for line in undisturbed.lines if line.kind == "example"}
    told = {reason: why(world, domain, line.id) for reason, line in lines.items()}
    for sentence in told.values():
        print(sentence)
    near = lines["says the same as another"]
    assert told["budget"].startswith("round 1: kept by budget (")
    assert told[near.reason] == f"round 1: {near.reason} by dedupe ({near.number:g}, next to {near.neighbour})"
    hard = "so hard that it may be wrong: an annotator is to look at it"
    assert told[hard] == f"round 1: {hard} by hard ({lines[hard].number:g})"
    assert any(line.kind == "general" and line.step == "mixing" for line in undisturbed.lines)
