"""Bases beside each other, from the door to the table: real Kafka and PostgreSQL, an examiner that is a stand-in; one engine is
real."""

import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from streams.errors import Invalid
from streams.facts.comparisons import BaseComparisonMade
from streams.orders import CompareBases, Order
from streams.recipes import LoraRecipe
from tests import door_world, tiny_llama
from tests.door_world import World
from tests.integration.test_compare import Examined, context, examined  # noqa: F401
from tests.integration.test_door_bases import card
from tests.integration.test_exam_ahead import add_exam, correct
from workers import engines, loop
from workers.context import Context
from workers.evaluator import bases
from workers.evaluator.bases import Measured

WORDS = ("Who opens the red gate?", "When does the mill stop?")


def base(world: World, name: str, **about: Any) -> str:
    """A small one, as `noria base add` leaves it, but for its weights."""
    model = card(world, name, **about)
    folder = world.settings.artifacts / "sha256" / model.removeprefix("sha256:")
    tiny_llama.write(folder, num_hidden_layers=len(name))
    return model


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of engine that were timed."""
    found: list[str] = []

    def stand_in(kind: str, folder: Path, context: Context) -> Measured:  # noqa: F811
        found.append(kind)
        return Measured(12.5, 0.75)

    monkeypatch.setattr(bases, "measured", stand_in)
    return found


@pytest.fixture
def told(context: Context, monkeypatch: pytest.MonkeyPatch) -> list[BaseComparisonMade]:  # noqa: F811
    found: list[BaseComparisonMade] = []

    def publish(order: Order, event: BaseComparisonMade, name: str) -> None:
        assert name == "base_comparison_made"
        found.append(event)

    monkeypatch.setattr(context, "publish", publish)
    return found


@pytest.fixture
def order(world: World) -> CompareBases:
    domain = world.domain()
    correct(world, domain, *WORDS)
    add_exam(world, domain, "Is it raining?")
    return CompareBases(
        order_id=uuid4(),
        domain=domain,
        bases={"heron": base(world, "heron"), "owl": base(world, "owl", engines=["transformers"])},
        pin=10**9,
        engine="llamacpp",
        recipe=LoraRecipe(),
    )


def test_each_base_answers_bare_is_timed_by_an_engine_that_can_serve_it_and_its_round_is_sized(
    context: Context,  # noqa: F811
    examined: Examined,  # noqa: F811
    measured: list[str],
    told: list[BaseComparisonMade],
    order: CompareBases,
) -> None:
    bases.run(order, context)
    (event,) = told
    assert event.order_id == order.order_id and list(event.bases) == ["heron", "owl"]
    heron, owl = event.bases.values()
    assert {name: one.n for name, one in heron.sets.items()} == {"untaught": 2, "general": 1}
    assert (heron.engine, owl.engine) == ("llamacpp", "transformers") and measured == ["llamacpp", "transformers"]
    assert (heron.tokens_per_s, heron.memory_gb, heron.family) == (12.5, 0.75, "GLM")
    assert 0.2 < heron.tokens_per_character < 1.5
    assert heron.training is not None and owl.training is not None
    assert heron.training.fits and heron.training.seconds > owl.training.seconds, "it has more layers"
    assert [model for model, _ in examined.asked] == list(order.bases.values()), "one after the other"
    assert all("Known facts" not in question for _, asked in examined.asked for question in asked)


def test_whoever_takes_the_order_up_asks_no_base_again_that_has_answered(
    context: Context,  # noqa: F811
    examined: Examined,  # noqa: F811
    measured: list[str],
    told: list[BaseComparisonMade],
    order: CompareBases,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(bases, "measured", lambda kind, folder, context: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bases.run(order, context)
    assert [model for model, _ in examined.asked] == [order.bases["heron"]] and not told
    bases.run(order, context)
    assert [model for model, _ in examined.asked] == list(order.bases.values()) and told


def test_a_base_that_is_gone_one_without_a_card_and_a_domain_without_a_question_are_named(
    world: World,
    context: Context,  # noqa: F811
    examined: Examined,  # noqa: F811
    measured: list[str],
    order: CompareBases,
) -> None:
    with pytest.raises(Invalid, match="the base kite is not on the disk any more"):
        bases.run(replace(order, bases={"kite": "sha256:" + "7" * 64}), context)
    (context.artifacts.path(order.bases["owl"]) / "noria.json").unlink()
    with pytest.raises(Invalid, match="was not made by `noria base add`"):
        bases.run(order, context)
    with pytest.raises(Invalid, match="nothing to compare bases by"):
        bases.run(replace(order, domain=world.domain()), context)


def test_the_door_compares_entered_bases_with_the_domains_own_one_comparison_at_a_time(
    world: World,
    context: Context,  # noqa: F811
    examined: Examined,  # noqa: F811
    measured: list[str],
) -> None:
    own, domain, name = base(world, "own"), f"d-{uuid4().hex[:8]}", f"heron-{uuid4().hex[:6]}"
    created = world.as_operator.post("/v1/domains", json={"domain": domain, "base_model": own})
    world.caught_up(created.json()["position"])
    add_exam(world, domain, "Is it raining?")
    path = f"/v1/domains/{domain}/base-comparisons"
    for wanted, words in ((["kite"], "there is no base 'kite'"), ([], "nothing to compare")):
        refused = world.as_operator.post(path, json={"bases": wanted})
        assert refused.status_code == 422 and words in refused.json()["error"]["message"]
    model, another = base(world, name), f"{name}-2"
    for entered in (model, base(world, another)):
        world.caught_up(world.as_operator.post("/v1/bases", json={"model": entered}).json()["position"])
    asked = world.as_operator.post(path, json={"bases": [name]}).json()
    world.caught_up(asked["position"])
    assert world.as_operator.post(path, json={"bases": [name]}).json()["known"] is True
    other = world.as_operator.post(path, json={"bases": [name, another]})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "comparison_under_way")

    def worked() -> dict[str, Any] | None:
        loop.work_once(context, {"compare_bases": ("evaluate", bases.run)}, threading.Event())
        return next((row for row in world.as_data.get(path).json()["data"] if row["outcome"] != "under_way"), None)

    made = door_world.wait_until(worked, what="the comparison")
    assert made["outcome"] == "made", made["failure"]
    assert made["compared"] == {own: own, name: model}, "its own, which nobody entered, by its digest"
    general: dict[str, Any] = made["bases"][name]["sets"]["general"]
    assert (general["n"], general["share"]) == (1, 0.0) and general["high"] > 0.7
    assert world.as_data.get(f"/v1/domains/{domain}/comparisons").json()["data"] == []


def test_an_engine_is_timed_and_weighed(context: Context, tmp_path: Path) -> None:  # noqa: F811
    folder = tiny_llama.write(tmp_path / "tiny")
    engines.export("llamacpp", folder)
    found = bases.measured("llamacpp", folder, context)
    assert found.tokens_per_s > 1 and 0.02 < found.memory_gb < 2
