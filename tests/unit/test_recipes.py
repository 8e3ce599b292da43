"""Recipes: one kind for each method, told apart on the wire by the method's name."""

import json
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from msgspec.structs import replace

from api.shapes import unknown
from streams.codec import decode, decode_order
from streams.errors import Invalid, InvalidField
from streams.facts.domains import PolicySet
from streams.orders import RebuildCandidate, SelectSnapshot, TrainCandidate
from streams.policy import Policy
from streams.recipes import (
    BroughtRecipe,
    FullRecipe,
    LoraPTuningRecipe,
    LoraRecipe,
    PretrainingRecipe,
    PTuningRecipe,
    Recipe,
    RewardRecipe,
    stops_after,
    with_method,
)
from tests.unit.test_event_examples import FILES

# One that was trained elsewhere is of nothing but its adapter (test_brought.py).
KINDS: tuple[type[Recipe], ...] = tuple(kind for kind in get_args(Recipe) if kind is not BroughtRecipe)
SINCE_EVER = (
    b'{"method":"lora","rank":16,"alpha":32.0,"upper_layers":0.5,"learning_rate":0.0015,"warmup_share":0.05,'
    b'"gradient_norm":1.0,"epochs":14,"batch_rows":8,"earlier_rows_per_step":8,"replay_rows_per_step":12,'
    b'"replay_rows":600,"replay_answer_tokens":16,"replay_weight":3.0,"row_tokens":1024,"recalled_share":1.0,"seed":0}'
)


def test_a_recipe_of_lora_is_written_byte_for_byte_as_before_there_were_others() -> None:
    assert msgspec.json.encode(LoraRecipe()) == SINCE_EVER
    assert msgspec.json.decode(SINCE_EVER, type=Recipe) == LoraRecipe()
    assert (
        stops_after(LoraRecipe()) == stops_after(LoraRecipe(stop_after=0)) == 0 != stops_after(LoraRecipe(stop_after=2))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_comes_back_as_it_was_and_can_be_trained_by(kind: type[Recipe]) -> None:
    recipe = kind()
    recipe.check()
    recipe.check_new()
    assert msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe) == recipe
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(recipe), type=Recipe) == recipe
    assert json.loads(msgspec.json.encode(recipe))["method"] == recipe.method


def test_what_all_have_is_called_alike_and_of_one_type_everywhere() -> None:
    kinds = [kind for kind in KINDS if kind is not RewardRecipe]  # which makes no model that answers
    hints = [get_type_hints(kind) for kind in kinds]
    shared = set.intersection(*(set(kind.__struct_fields__) for kind in kinds))
    assert shared == {
        "learning_rate", "warmup_share", "gradient_norm", "epochs", "batch_rows", "earlier_rows_per_step",
        "replay_rows_per_step", "replay_rows", "replay_answer_tokens", "replay_weight", "row_tokens", "recalled_share",
        "seed", "stop_after",
    }  # fmt: skip
    for name in shared:
        assert len({hint[name] for hint in hints}) == 1, name


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (LoraRecipe(learning_rate=1e3), "recipe.learning_rate must be above 0 and at most 1; got 1000.0"),
        (LoraRecipe(stop_after=-1), "recipe.stop_after must not be negative; got -1"),
        (FullRecipe(learning_rate=1e3), "recipe.learning_rate must be above 0 and at most 1; got 1000.0"),
        (FullRecipe(learning_rate=float("nan")), "recipe.learning_rate must be above 0 and at most 1; got nan"),
        (FullRecipe(upper_layers=0.0), "recipe.upper_layers is a share, above 0 and at most 1; got 0.0"),
        (PTuningRecipe(virtual_tokens=0), "recipe.virtual_tokens must be at least 1; got 0"),
        (PTuningRecipe(projection_width=0), "recipe.projection_width must be at least 1; got 0"),
        (
            LoraPTuningRecipe(prefix_learning_rate=2.0),
            "recipe.prefix_learning_rate must be above 0 and at most 1; got 2.0",
        ),
        (LoraPTuningRecipe(prefix_epochs=0), "recipe.prefix_epochs must be at least 1; got 0"),
        (PretrainingRecipe(held_out_share=1.0), "recipe.held_out_share is a share, from 0 to below 1; got 1.0"),
        (PretrainingRecipe(rank=0), "recipe.rank must be at least 1; got 0"),
    ],
)
def test_what_trains_nothing_is_refused_by_the_name_of_its_field(recipe: Recipe, words: str) -> None:
    with pytest.raises(InvalidField) as raised:
        recipe.check()
    assert str(raised.value) == words


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_a_new_recipe_has_a_range(kind: type[Recipe]) -> None:
    for name, hint in get_type_hints(kind).items():
        if hint is int and name in kind.__struct_fields__ and name != "seed":
            with pytest.raises(Invalid, match=rf"recipe\.{name} must be at most"):
                replace(kind(), **{name: 10**9}).check_new()


def test_a_recipe_of_a_method_that_nobody_knows_is_refused_where_it_stands() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"Invalid value 'alchemy' - at `\$\.recipe\.method`"):
        msgspec.convert({"recipe": {"method": "alchemy"}}, Policy)


def test_the_door_takes_the_method_for_a_field_and_names_one_that_the_method_has_not() -> None:
    body: dict[str, Any] = {"recipe": {"method": "p_tuning_v2", "virtual_tokens": 4}}
    assert unknown(body, msgspec.convert(body, Policy)) is None
    body["recipe"]["rank"] = 8
    assert unknown(body, msgspec.convert(body, Policy)) == "recipe.rank"


def test_a_recipe_that_names_no_method_is_the_usual_one() -> None:
    assert msgspec.convert(with_method({"rank": 4}), Recipe) == LoraRecipe(rank=4)
    assert with_method({"method": "full"}) == {"method": "full"} and with_method(None) is None


OLD = {
    "policy_set.v5", "round_requested.v6", "rebuild_asked.v2", "rebuild_candidate.v2", "select_snapshot.v3",
    "train_candidate.v2",
}  # fmt: skip


@pytest.mark.parametrize("path", [path for path in FILES if path.stem in OLD], ids=lambda path: str(path.stem))
def test_an_old_record_whose_recipe_names_no_method_means_lora(path: Any) -> None:
    found = json.loads(path.read_text())
    holder = found["data"].get("policy", found["data"])
    del holder["recipe"]["method"]
    value = json.dumps(found).encode()
    if "kind" in found["data"]:
        order = decode_order(value)
        assert isinstance(order, SelectSnapshot | TrainCandidate | RebuildCandidate)
        assert type(order.recipe) is LoraRecipe
    else:
        event: Any = decode(value).event
        recipe = event.policy.recipe if "policy" in found["data"] else event.recipe
        assert type(recipe) is LoraRecipe


def test_an_old_policy_without_any_recipe_still_reads() -> None:
    (path,) = (path for path in FILES if path.stem == "policy_set.v5")
    found = json.loads(path.read_text())
    del found["data"]["policy"]["recipe"]
    event = decode(json.dumps(found).encode()).event
    assert isinstance(event, PolicySet) and event.policy.recipe == LoraRecipe()
