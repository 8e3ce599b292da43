"""What the policy had removed is made again from the log, although its worker was killed. Without whoever was erased since it
comes out different, and says so; what cannot be made again is refused by name. (Real trainings: tests/e2e/test_loop.py.)
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api.cards import card_page
from migrations.roles import url_of
from streams.artifacts import Artifacts
from streams.connections import WORKERS
from streams.facts.orders import Step
from streams.orders import Order
from streams.replay import verify
from tests import ward
from tests.door_world import MODEL, PASSWORDS, World, wait_until
from tests.integration.by_hand import change, results, rows
from tests.local_noria import CACHE, ROOT, end_with
from tests.waiting import TRAINING_S
from workers import retention
from workers.context import Context
from workers.loop import StepFunction, steps, work_once
from workers.models.base import prepare_base_digest
from workers.models.golden import GOLDEN_FILE
from workers.trainer import step as training
from workers.trainer.spec import Outcome, Progress, TrainSpec

Table = Mapping[str, tuple[Step, StepFunction]]
PEOPLE = ("ada", "bo", "ada")


def by_hand(order: Order, context: Context) -> None:
    for name, event in results(order):
        context.publish(order, event, name)


BY_HAND: Table = {
    "select_snapshot": ("select", by_hand),
    "train_candidate": ("train", by_hand),
    "evaluate_candidate": ("evaluate", by_hand),
    "swap_release": ("swap", by_hand),
}


class House:
    """A domain behind a real door, whose orders are carried out when a test says so."""

    def __init__(self, world: World, context: Context, base: str) -> None:
        self.world = world
        self.context = context
        self.domain = f"d-{uuid4().hex[:8]}"
        policy = {
            "thresholds": {"corrections": None},
            "recipe": ward.POLICY["recipe"],
            "keep": {"releases": 2, "refused": 0, "days": 0},
        }
        prompts = [asked for asked, _ in ward.GENERAL[:8]]
        body = {"domain": self.domain, "base_model": base, "replay_prompts": prompts, "policy": policy}
        assert world.as_operator.post("/v1/domains", json=body).status_code == 201
        self.work(BY_HAND, lambda: self.live() == 0)

    def live(self) -> int | None:
        found: int | None = self.world.as_data.get(f"/v1/domains/{self.domain}").json()["live_release"]
        return found

    def round(self, number: int) -> dict[str, Any]:
        listed = self.world.as_data.get("/v1/rounds", params={"domain": self.domain}).json()["data"]
        found: dict[str, Any] = next((row for row in listed if row["number"] == number), {})
        return found

    def begin(self, number: int) -> None:
        assert self.world.as_operator.post(f"/v1/domains/{self.domain}/rounds", json={}).status_code == 202
        wait_until(lambda: self.round(number), what="the round begins")

    def release(self, number: int, table: Table = BY_HAND) -> None:
        """A round that ends in the release of its number."""
        self.begin(number)
        self.work(table, lambda: self.round(number)["ended_at"])
        assert (self.round(number)["step"], self.live()) == ("released", number), self.round(number)

    def work(self, table: Table, done: Callable[[], object]) -> None:
        """Carry out what comes until `done`; the door's world follows the log meanwhile."""

        def step() -> object:
            work_once(self.context, table, threading.Event())
            return done()

        wait_until(step, "the work", patience_s=TRAINING_S)

    def remove(self) -> None:
        said = retention.retire(self.context, datetime.now(UTC))
        rounds = [event.round_id for event in said]
        query = "SELECT count(removed_at) FROM noria.rounds WHERE round_id = ANY(:rounds)"
        wait_until(
            lambda: rows(self.context.database, query, rounds=rounds) == [(len(rounds),)], what="the tables say so"
        )
        retention.remove(self.context)

    def rebuild(self, number: int) -> httpx.Response:
        return self.world.as_operator.post(f"/v1/rounds/{self.round(number)['round_id']}/rebuild", json={})

    def begin_rebuild(self, number: int) -> None:
        answer = self.rebuild(number)
        assert answer.status_code == 202, answer.text
        self.world.caught_up(answer.json()["position"])

    def outcome(self, number: int) -> str:
        return str(self.round(number)["rebuild"]["outcome"])

    def roll_back(self, to: int) -> httpx.Response:
        return self.world.as_operator.post(f"/v1/domains/{self.domain}/rollback", json={"to": to})


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


@pytest.fixture
def context(world: World) -> Iterator[Context]:
    services = world.services
    context = Context(world.settings, world.database, services.recorder.log, services.keyring, "worker-1")
    yield context
    context.dismiss()


@pytest.fixture
def base(context: Context) -> str:
    """The small model, among the artifacts."""
    kept = CACHE / "base-model"
    digest = prepare_base_digest(kept, str(ward.base(CACHE / "taught")))
    assert context.artifacts.put_dir(Artifacts(kept / "artifacts").path(digest)) == digest
    return digest


def teach(house: House, first: int) -> None:
    """Three facts, others in each test: the same words make the same model, which one domain may need while another does not."""
    for person, fact in zip(PEOPLE, ward.FACTS[first : first + 3], strict=True):
        items = [{"instruction": ward.question(fact), "output": fact[3]}]
        path = f"/v1/domains/{house.domain}/examples?user={person}"
        house.world.caught_up(house.world.as_operator.post(path, json=items).json()["position"])


def start_worker(world: World) -> subprocess.Popen[bytes]:
    environ = os.environ | {
        "NORIA_HOME": str(world.settings.home),
        **world.kafka.environ(),
        "NORIA_DATABASE_URL": url_of(WORKERS, world.settings.database_url, PASSWORDS),
        "NORIA_DOOR": world.door_url,
    }
    command = [sys.executable, "-m", "workers.loop", "--kinds", "train"]
    return subprocess.Popen(command, cwd=ROOT, env=environ, preexec_fn=end_with(os.getpid()))


class Echo:
    """Stands in for the training child: its model is the words that it was given."""

    def waits(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is held open."""

    def train(self, spec: TrainSpec, progress: Callable[[Progress], None]) -> Outcome:
        for name in ("model", "adapter"):
            folder = Path(spec.out_dir) / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / GOLDEN_FILE).write_text("\n".join(f"{row.prompt} {row.answer}" for row in spec.rows))
        return Outcome(
            steps=1,
            epoch_losses=(1.0,),
            final_loss=1.0,
            final_replay_divergence=None,
            tokens=1,
            rows=len(spec.rows),
            rows_left_out=0,
            seconds=1.0,
            cpu_seconds=1.0,
            resumed_at_step=0,
            precision="float32",
            model_dir=str(Path(spec.out_dir) / "model"),
            adapter_dir=str(Path(spec.out_dir) / "adapter"),
            export_difference=0.0,
        )


def test_a_removed_release_is_made_again_once_though_its_worker_is_killed_and_answers_again(
    world: World, context: Context, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "Trainer", Echo)
    house = House(world, context, base)
    teach(house, 0)
    real = steps(["select", "train"])
    house.release(1, {**BY_HAND, **real})
    house.begin_rebuild(1)  # it is there: whether it comes out the same
    house.work(real, lambda: house.outcome(1) != "under_way")
    made = house.round(1)
    assert (house.outcome(1), house.live(), made["rebuild"]["differences"]) == ("equal", 1, [])
    page = card_page(world.as_operator.get(f"/v1/rounds/{made['round_id']}/card").json())
    assert made["snapshot"] in page and made["model"] in page and f"| torch | {version('torch')} |" in page
    for number in (2, 3):
        house.release(number)
    # What was made again a moment ago is kept for a day.
    long_ago = "UPDATE noria.rounds SET rebuild = jsonb_set(rebuild, '{at}', '\"2000-01-01T00:00:00Z\"') WHERE rebuild IS NOT NULL"
    change(context.database, long_ago)
    house.remove()
    assert not context.artifacts.has(made["model"]) and not context.artifacts.has(made["adapter"])
    context.artifacts.remove(made["snapshot"])  # by no policy: a disk was lost
    status, code, words = refusal(house.roll_back(1))
    assert (status, code) == (409, "release_removed")
    assert f"`noria round rebuild 1 --domain {house.domain}` makes it again" in words

    house.begin_rebuild(1)
    worker = start_worker(world)
    try:
        # Its training child has been started by then, and dies with it.
        wait_until(lambda: rows(context.database, "SELECT place FROM work.places"), "the training begins")
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert house.outcome(1) == "under_way"
    assert refusal(house.rebuild(1))[:2] == (409, "rebuild_under_way")
    change(context.database, "UPDATE work.claims SET lease_until = now() WHERE state = 'open'")
    house.work(real, lambda: house.outcome(1) != "under_way")

    found = house.round(1)
    assert (found["rebuild"]["outcome"], found["rebuild"]["erased"], found["removed_at"]) == ("equal", 0, None)
    assert all(context.artifacts.verify(made[kind]) for kind in ("model", "adapter", "snapshot"))
    claims = "SELECT state, attempts FROM work.claims WHERE kind = 'rebuild_candidate' AND domain = :domain ORDER BY attempts"
    assert rows(context.database, claims, domain=house.domain) == [("done", 1), ("done", 2)]
    assert len(world.events(house.domain, "candidate_rebuilt")) == 2
    assert list((world.settings.home / "training").iterdir()) == []
    assert house.roll_back(1).status_code == 202
    house.work(BY_HAND, lambda: house.live() == 1)
    report = verify(context.database, context.log)
    assert report.equal, (report.differences, report.unsaid, report.unexplained)


def died(*_: object) -> None:
    raise SystemExit


def test_without_whoever_was_erased_since_it_comes_out_different_and_nothing_of_it_is_kept(
    world: World, context: Context, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "Trainer", Echo)
    house = House(world, context, base)
    teach(house, 3)
    real = steps(["select", "train"])
    for number in (1, 2, 3):
        house.release(number, {**BY_HAND, **real} if number == 1 else BY_HAND)
    house.remove()
    house.begin_rebuild(1)
    with monkeypatch.context() as dies:
        dies.setattr(Context, "publish", died)  # its files are there, and nobody was told
        with pytest.raises(SystemExit):
            house.work(real, lambda: False)
    change(context.database, "UPDATE work.claims SET lease_until = now() WHERE state = 'open'")
    house.work(real, lambda: house.outcome(1) != "under_way")
    assert house.outcome(1) == "equal" and len(world.events(house.domain, "candidate_rebuilt")) == 1

    change(context.database, "UPDATE noria.rounds SET rebuild = jsonb_set(rebuild, '{at}', '\"2000-01-01T00:00:00Z\"')")
    house.remove()
    assert not context.artifacts.has(house.round(1)["model"])
    erased = world.as_operator.post("/v1/people/ada/erase", json={})
    assert erased.status_code < 300, erased.text
    house.begin_rebuild(1)
    before = context.artifacts.all()
    house.work(real, lambda: house.outcome(1) != "under_way")
    found = house.round(1)
    assert (found["rebuild"]["outcome"], found["rebuild"]["erased"]) == ("differs", PEOPLE.count("ada"))
    assert found["removed_at"] is not None and found["rebuild"]["model"] != found["model"]
    assert context.artifacts.all() == before
    assert refusal(house.roll_back(1))[:2] == (409, "release_removed")
    (told,) = (e["data"] for e in world.events(house.domain, "candidate_rebuilt") if not e["data"]["equal"])
    assert (told["model"], told["erased"]) == (found["rebuild"]["model"], 2)


def test_what_cannot_be_made_again_or_need_not_be_is_refused_by_name(world: World, context: Context) -> None:
    house = House(world, context, MODEL)  # which is not on the disk
    for number in (1, 2, 3, 4):
        house.release(number)
    house.remove()
    assert world.as_operator.post("/v1/rounds/nowhere/rebuild", json={}).status_code == 404
    status, code, words = refusal(house.rebuild(2))
    assert (status, code) == (409, "base_removed") and f"from {house.domain}@1, whose model was removed, too" in words
    assert f"`noria round rebuild 1 --domain {house.domain}` makes it again" in words

    house.begin(5)
    assert refusal(house.rebuild(5)) == (409, "round_under_way", "round 5 is under way (select)")
    round_id = house.round(5)["round_id"]
    assert world.as_operator.post(f"/v1/rounds/{round_id}/cancel", json={}).status_code == 202
    wait_until(lambda: house.round(5)["ended_at"], what="the round ends")
    assert refusal(house.rebuild(5)) == (409, "no_candidate", "round 5 made no candidate (cancelled)")

    house.begin_rebuild(1)
    house.work({**BY_HAND, **steps(["train"])}, lambda: house.outcome(1) != "under_way")
    assert house.outcome(1) == "failed"
    assert (
        house.round(1)["rebuild"]["failure"]
        == f"the model {MODEL}, from which it was trained, is not on the disk any more"
    )
    assert house.round(1)["failure"] is None, "the round itself has not failed"

    retired = world.as_operator.post(f"/v1/domains/{house.domain}/retire", json={})
    world.caught_up(retired.json()["position"])
    assert refusal(house.rebuild(1))[:2] == (409, "domain_retired")
