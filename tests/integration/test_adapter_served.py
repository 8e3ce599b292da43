"""A release that cannot be merged: prepared for the engine that carries it, proved, swapped in, asked through the door, rolled back
to one that another engine serves."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from streams.facts.orders import Step
from streams.orders import Order
from tests import tiny_llama
from tests.door_world import World, wait_until
from tests.integration.by_hand import results, rows
from tests.tiny_adapter import add_prefix
from tests.waiting import TRAINING_S
from workers import swapper
from workers.context import Context
from workers.engines.host import Host
from workers.loop import StepFunction, work_once
from workers.models.base import build_base
from workers.models.finish import finish
from workers.models.golden import read_golden
from workers.models.loaded import load_model


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as `prepare_base` makes it for the default engine."""
    source = tiny_llama.write(tmp_path_factory.mktemp("user") / "tiny", seed=3)
    folder = tmp_path_factory.mktemp("finished") / "merged"
    build_base(folder, str(source))
    return folder


@pytest.fixture(scope="module")
def adapted(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base's weights and a prefix, finished for the engine that carries both."""
    folder = tmp_path_factory.mktemp("finished") / "adapted"
    shutil.copytree(merged, folder, ignore=shutil.ignore_patterns("*.gguf", "golden.jsonl"))
    add_prefix(folder)
    assert finish(folder, "transformers", merged) is None
    return folder


@pytest.fixture
def context(world: World) -> Context:
    services = world.services
    return Context(world.settings, world.database, services.recorder.log, services.keyring, "swapper-1")


@pytest.fixture
def host(world: World) -> Iterator[None]:
    """What keeps the engines, in a thread of its own."""
    made, stopping = Host(replace(world.settings, engine_slots=2), world.database), threading.Event()

    def keep() -> None:
        while not stopping.wait(0.1):
            made.step()

    thread = threading.Thread(target=keep)
    thread.start()
    yield
    stopping.set()
    thread.join()
    made.stop()


def said_by(model_dir: Path, words: str, tokens: int) -> str:
    """What transformers itself answers, greedily."""
    return said_surely_by(model_dir, words, tokens)[0]


def said_surely_by(model_dir: Path, words: str, tokens: int) -> tuple[str, float]:
    """And by how much, in logits, each token of it was at least before the next best one: of random models two may be nearly as
    likely, and another engine says the other one."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": words}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    made = load_model(model_dir).generate(
        **asked, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    best = [logits[0].topk(2).values.tolist() for logits in made.logits]
    said = str(tokenizer.decode(made.sequences[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
    return said, min(first - second for first, second in best)


def test_the_golden_prompts_are_asked_with_the_adapter_applied(merged: Path, adapted: Path) -> None:
    bare, behind = (read_golden(folder / "golden.jsonl") for folder in (merged, adapted))
    assert [line.prompt_ids for line in bare] == [line.prompt_ids for line in behind]
    assert sum(one.token_ids != other.token_ids for one, other in zip(bare, behind, strict=True)) >= 4
    assert not list(adapted.glob("*.gguf"))


def test_a_release_with_an_adapter_is_swapped_in_beside_a_merged_one_answers_and_is_rolled_back(
    world: World, context: Context, host: None, merged: Path, adapted: Path
) -> None:
    base, candidate = context.artifacts.put_dir(merged), context.artifacts.put_dir(adapted)

    def by_hand(order: Order, context: Context) -> None:
        for name, event in results(order):
            if name == "candidate_trained":
                event = replace(event, model=candidate, needs="adapter", export_difference=None)
            context.publish(order, event, name)

    table: dict[str, tuple[Step, StepFunction]] = {
        "select_snapshot": ("select", by_hand),
        "train_candidate": ("train", by_hand),
        "evaluate_candidate": ("evaluate", by_hand),
        "swap_release": ("swap", swapper.run),
    }
    domain = f"d-{uuid4().hex[:8]}"

    def until_live(release: int) -> None:
        def is_live() -> bool:
            work_once(context, table, threading.Event())
            return bool(world.as_data.get(f"/v1/domains/{domain}").json()["live_release"] == release)

        wait_until(is_live, f"release {release}", patience_s=TRAINING_S)

    def answer(words: str) -> tuple[str, str]:
        said = world.chat(domain, words, temperature=0, max_tokens=8)
        return said["model"], said["choices"][0]["message"]["content"]

    body = {"domain": domain, "base_model": base, "replay_prompts": ["What is a wheel?"]}
    assert world.as_operator.post("/v1/domains", json=body).status_code == 201
    until_live(0)
    words = ["the wheel turns", "in 1999 the river"]
    assert [answer(one) for one in words] == [(f"{domain}@0", said_by(merged, one, 8)) for one in words]

    assert world.as_operator.post(f"/v1/domains/{domain}/rounds", json={}).status_code == 202
    until_live(1)
    assert [answer(one) for one in words] == [(f"{domain}@1", said_by(adapted, one, 8)) for one in words]
    assert said_by(merged, words[0], 8) != said_by(adapted, words[0], 8)
    query = "SELECT release, kind, state FROM work.engines WHERE domain = :domain AND wanted ORDER BY release"
    assert rows(world.database, query, domain=domain) == [(0, "llamacpp", "ready"), (1, "transformers", "ready")]
    (finished,) = [event["data"] for event in world.events(domain, "release_finished") if event["data"]["release"] == 1]
    assert finished["golden_difference"] < 0.001

    assert world.as_operator.post(f"/v1/domains/{domain}/rollback", json={"to": 0}).status_code == 202
    until_live(0)
    assert answer(words[0]) == (f"{domain}@0", said_by(merged, words[0], 8))
    listed = world.as_data.get("/v1/releases", params={"domain": domain}).json()["data"]
    assert {row["release"]: row["needs"] for row in listed} == {0: "merged", 1: "adapter"}
