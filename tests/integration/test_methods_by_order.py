"""Every method, by order: a round that trains so, by the real trainer, makes a candidate that an engine serves as it is; and so
does one that moves the domain to a base of another family."""

import io
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sqlalchemy import text
from torch.nn import init

from streams.facts.bases import BASES, BaseAdded
from streams.facts.orders import Step
from streams.orders import EvaluateCandidate, Order
from streams.rankings import is_held_out
from streams.snapshots import load
from tests import tiny_families, tiny_llama
from tests.door_world import World, wait_until
from tests.integration.by_hand import results
from tests.integration.test_adapter_served import host, said_surely_by
from tests.waiting import TRAINING_S
from workers import swapper
from workers.context import Context
from workers.evaluator import step as evaluation
from workers.evaluator.installation import Installation
from workers.evaluator.opencompass import ExamRow
from workers.loop import StepFunction, steps, work_once
from workers.models.base import build_base
from workers.models.loaded import load_model
from workers.trainer import step as training
from workers.trainer.brought import take_in
from workers.trainer.child import carry_out
from workers.trainer.reward_model import RewardModel
from workers.trainer.spec import Outcome, Progress, StageDone, TrainSpec

__all__ = ["host"]
ASKED = ("the wheel turns", "What lifts the water?", "in 1999", "Name a river.", "Who?")  # what is answered most surely
SMALL = {"epochs": 2, "batch_rows": 4, "replay_rows_per_step": 2, "replay_rows": 4, "replay_answer_tokens": 4}
DRAWN = {"steps": 2, "prompts_per_step": 8, "batch_answers": 8, "answer_tokens": 8, "kl_limit": 1000.0}
PREFIX = {"virtual_tokens": 4, "projection_width": 8}
RECIPES: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "learning_rate": 0.02},
    "full": {"learning_rate": 0.003},
    "p_tuning_v2": {**PREFIX, "learning_rate": 0.05},
    "lora_p_tuning_v2": {"rank": 4, **PREFIX, "prefix_epochs": 2},
    "continued_pretraining": {"rank": 4},
    "dpo": {"rank": 4, "learning_rate": 0.02},
    "kto": {"rank": 4, "learning_rate": 0.005},
    "sft_dpo": {"rank": 4, "learning_rate": 0.002, "dpo_epochs": 2},
    "ppo": {"rank": 4, **DRAWN},
    "sft_reward_ppo": {"rank": 4, **DRAWN, "sft_learning_rate": 0.002, "sft_epochs": 2, "reward_epochs": 2},
}
# What dpo comes to at that rate is too far from any model for F16 to hold what is learned on it.
AGAIN = {method: {"from_base": True} for method in ("kto", "sft_dpo", "ppo", "sft_reward_ppo")}
PAIRS = 8
FEED = {"dpo": "preferences", "kto": "preferences"}  # they need nothing else that is new


class Here:
    """What the training child does, done in this process, which has loaded torch: that takes longer than any of these trainings."""

    def waits(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is held open."""

    def train(self, spec: TrainSpec, progress: Callable[[Progress | StageDone], None]) -> Outcome:
        with tempfile.TemporaryFile() as lines:
            code = carry_out(io.BytesIO(msgspec.json.encode(spec)), lines.fileno())
            lines.seek(0)
            *told, last = lines.read().splitlines()
        assert code == 0, (spec.recipe.method, last)
        for line in told:
            progress(msgspec.json.decode(line, type=Progress | StageDone))
        return msgspec.json.decode(last, type=Outcome)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "tiny"
    build_base(folder, str(tiny_llama.write(tmp_path_factory.mktemp("user") / "tiny", seed=3)))
    return folder


@pytest.fixture
def context(world: World) -> Iterator[Context]:
    services = world.services
    context = Context(world.settings, world.database, services.recorder.log, services.keyring, "worker-1")
    yield context
    context.dismiss()


def by_hand(order: Order, context: Context) -> None:
    for name, event in results(order):
        context.publish(order, event, name)


def test_what_every_method_makes_is_served_as_transformers_says_it_and_what_a_move_to_another_base_makes(
    world: World, context: Context, host: None, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = [{"method": method, **SMALL, **own} for method, own in RECIPES.items()]
    recipes.insert(5, {"method": "brought", "adapter": take_in(trained_elsewhere(base, tmp_path), context.artifacts)})
    monkeypatch.setattr(evaluation, "examine", all_right)
    monkeypatch.setattr(Installation, "missing", lambda self: None)

    def evaluate(order: Order, context: Context) -> None:
        """For real where nothing was learned but pairs."""
        assert isinstance(order, EvaluateCandidate)
        snapshot = load(order.snapshot, context.artifacts)
        corrected = any(row.role == "new" for row in snapshot.rows)
        (by_hand if corrected or snapshot.labels or not snapshot.pairs else evaluation.run)(order, context)

    table: dict[str, tuple[Step, StepFunction]] = {
        "evaluate_candidate": ("evaluate", evaluate),
        "swap_release": ("swap", swapper.run),
        **steps(["select", "train"]),
    }
    domain = f"d-{uuid4().hex[:8]}"

    def until_live(release: int) -> None:
        def is_live() -> bool:
            work_once(context, table, threading.Event())
            row = world.as_data.get("/v1/rounds", params={"domain": domain}).json()["data"]
            assert not row or row[0]["failure"] is None, row[0]["failure"]
            assert not row or row[0]["step"] not in ("refused", "empty"), row[0]
            return bool(world.as_data.get(f"/v1/domains/{domain}").json()["live_release"] == release)

        wait_until(is_live, f"release {release}", patience_s=TRAINING_S)

    body = {
        "domain": domain,
        "base_model": context.artifacts.put_dir(base),
        "replay_prompts": ["What is a wheel?", "Name a river."],
        "policy": {
            "thresholds": {"corrections": None},
            "gate": {"earlier_margin": 0.49, "least_pairs": PAIRS},  # of few questions
            "style": [{"rule": "at_most_words", "value": 2}],
        },
    }
    assert world.as_operator.post("/v1/domains", json=body).status_code == 201
    until_live(0)
    page = b"# Rivers\n\nThe river turns the wheel.\n\n# Wheels\n\nThe wheel lifts the water in the year 1999.\n"
    added = world.as_data.post(f"/v1/domains/{domain}/documents?name=rivers.md", content=page)
    assert added.status_code == 200, added.text
    exam = [{"kind": "held_out", "question": "What makes the wheel turn?", "answer": "The river."}]
    world.caught_up(world.as_data.post(f"/v1/domains/{domain}/exam", json=exam).json()["position"])

    def served(release: int) -> Path:
        """The model of the release, which answers as transformers does."""
        (row,) = (
            r
            for r in world.as_data.get("/v1/releases", params={"domain": domain}).json()["data"]
            if r["release"] == release
        )
        model_dir = context.artifacts.path(row["model"])
        said_alone = [(*said_surely_by(model_dir, words, 8), words) for words in ASKED]
        _, expected, words = max((surely, whole(said), words) for said, surely, words in said_alone if whole(said))
        answer = world.chat(domain, words, temperature=0, max_tokens=8)
        assert whole(answer["choices"][0]["message"]["content"]) == expected, release
        assert answer["model"] == f"{domain}@{release}"
        assert row["needs"] == ("adapter" if "p_tuning_v2" in recipes[release - 1]["method"] else "merged")
        return model_dir

    def reward_model() -> dict[str, Any]:
        """The round that made one, which no release came of."""
        reward = {"method": "reward", "rank": 4, "epochs": 2}
        started = world.as_operator.post(f"/v1/domains/{domain}/rounds", json={"recipe": reward})
        assert started.status_code == 202, started.text

        def is_kept() -> bool:
            work_once(context, table, threading.Event())
            row = world.as_data.get("/v1/rounds", params={"domain": domain}).json()["data"][0]
            assert row["failure"] is None, row["failure"]
            return bool(row["step"] == "kept")

        wait_until(is_kept, "a reward model", patience_s=TRAINING_S)
        row: dict[str, Any] = world.as_data.get("/v1/rounds", params={"domain": domain}).json()["data"][0]
        assert (row["release"], row["kept"], row["said_by"]) == (None, 0, {"ann": PAIRS})
        card = world.as_data.get(f"/v1/rounds/{row['round_id']}/card").json()
        assert card["outcome"] == "kept" and card["training"]["metrics"]["pairs"] == PAIRS
        return row

    made = set()
    for release, recipe in enumerate(recipes, start=1):
        asked, learned = f"What turns wheel {release}?", f"River {release} turns it."
        items = {
            "examples": [{"instruction": asked, "output": learned}],
            "preferences": [
                {"prompt": words, "chosen": learned, "rejected": "Nobody."}
                for words in [*asked_of(domain, release, False), *asked_of(domain, release, True)]
            ],
        }
        what = FEED.get(recipe["method"], "examples")
        given = world.as_operator.post(f"/v1/domains/{domain}/{what}?user=ann", json=items[what]).json()
        world.caught_up(given["position"])
        if recipe["method"] == "dpo":
            scores = reward_model()
        started = world.as_operator.post(
            f"/v1/domains/{domain}/rounds", json={"recipe": recipe} | AGAIN.get(recipe["method"], {})
        )
        assert started.status_code == 202, started.text
        until_live(release)
        made.add(served(release).name)
        if recipe["method"] == "dpo":
            (round_, *_) = world.as_data.get("/v1/rounds", params={"domain": domain}).json()["data"]
            assert (round_["kept"], round_["pairs"], round_["pairs_held_out"], round_["labels"]) == (0, PAIRS, PAIRS, 0)
            checks = {check["name"]: check for check in round_["verdict"]["checks"]}
            assert checks["preference"]["verdict"] == "pass", checks["preference"]
            assert (checks["fixes"]["n"], checks["earlier"]["verdict"]) == (0, "pass")
            scored, kept = checks["reward_model"], checks["style at_most_words 2"]
            assert (scored["n"], scored["of"], scored["verdict"]) == (1, "mean", "reported")
            asked = [{"role": "user", "content": exam[0]["question"]}]
            by_itself = RewardModel(context.artifacts.path(scores["model"])).score([(asked, "It turns.")])
            assert [scored["before"], scored["after"]] == pytest.approx(by_itself * 2), "both said the same"
            assert (kept["before"], kept["after"], kept["verdict"]) == (1, 1, "reported")
            assert "what people prefer is learned" in round_["verdict"]["words"]
        monkeypatch.setattr(training, "Trainer", Here)  # the first was trained by a child
        if recipe["method"] == "ppo":
            (round_, *_) = world.as_data.get("/v1/rounds", params={"domain": domain}).json()["data"]
            assert round_["reward_model"] == scores["model"], "it has no rules of its own"
            assert round_["training"]["metrics"]["prompts"] > 2 * PAIRS
    assert len(made) == len(recipes)
    with world.database.connect() as connection:
        told = text("SELECT count(*) FROM noria.events WHERE domain = :domain AND type = 'stage_finished'")
        # Of lora_p_tuning_v2 two, two of sft_dpo, which learns what was preferred before, and three of sft_reward_ppo.
        assert connection.execute(told, {"domain": domain}).scalar_one() == 7

    other = heron(tmp_path)
    model, known = context.artifacts.put_dir(other), msgspec.json.decode((other / "noria.json").read_bytes())["about"]
    entered = BaseAdded(
        domain=BASES, base="heron", model=model, by="ops", **known | {"engines": tuple(known["engines"])}
    )
    world.caught_up(world.say(entered))
    recipes.append(recipes[0] | {"learning_rate": 0.002})  # at the other's rate so many rows lead beyond what F16 holds
    move = {"base": "heron", "recipe": recipes[-1]}  # with nothing new: all that was learned is learned again
    assert world.as_operator.post(f"/v1/domains/{domain}/rounds", json=move).status_code == 202
    until_live(len(recipes))
    taught = sum(recipe["method"] not in FEED for recipe in recipes[:-1])
    (round_, *_) = world.as_data.get("/v1/rounds", params={"domain": domain}).json()["data"]
    assert (round_["kept"], round_["earlier"], round_["base_model"]) == (0, taught, model)
    assert round_["training"]["rows"] == taught
    moved = served(len(recipes))
    assert (moved / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()
    assert world.as_data.get(f"/v1/domains/{domain}").json()["base_model"] == model
    card = world.as_data.get(f"/v1/rounds/{round_['round_id']}/card").json()
    assert card["base"] == {"release": None, "model": model, "first": model, "licence": known["licence"]}
    assert world.as_operator.post(f"/v1/domains/{domain}/rollback", json={"to": 0}).status_code == 202
    until_live(0)
    assert world.as_data.get(f"/v1/domains/{domain}").json()["base_model"] == body["base_model"]


def all_right(
    wanted: Sequence[evaluation.Examined], context: Context, tell: Callable[[int, int], None]
) -> list[list[ExamRow]]:
    """In the place of engine and OpenCompass."""
    return [[ExamRow(q.item.id, q.item.set, True, "It turns.") for q in one.questions] for one in wanted]


def whole(said: str) -> str:
    """Up to the half of a character that an answer of a random model may end with: transformers shows it, some engines do not."""
    return said.rstrip("\ufffd")


def asked_of(domain: str, release: int, held_out: bool) -> list[str]:
    """Questions of which what people prefer is learned, or held out."""
    asked = (f"Who turns wheel {release} at mill {number}?" for number in count())
    return list(islice((one for one in asked if is_held_out(one, domain) is held_out), PAIRS))


def heron(tmp_path: Path) -> Path:
    """A base of another family, which cuts words otherwise."""
    folder = tmp_path / "heron"
    build_base(folder, str(tiny_families.write(tmp_path / "qwen2", "qwen2")))
    return folder


def trained_elsewhere(base: Path, tmp_path: Path) -> Path:
    torch.manual_seed(1)  # of some random models two tokens are nearly as likely, and an engine says the other one
    adapted: Any = get_peft_model(load_model(base), LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            init.normal_(weight, std=0.2)
    adapted.save_pretrained(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"
