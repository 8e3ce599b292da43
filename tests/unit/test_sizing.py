"""What a training would cost: against what ChatGLM3's authors published and shapes that are known; and what is said where it does
not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from tokenizers import Tokenizer

from api.cli import main
from streams.errors import Invalid
from streams.hardware import facts, hardware_of, memory_here
from streams.recipes import DpoRecipe, FullRecipe, KtoRecipe, LoraRecipe, PTuningRecipe, Recipe
from streams.sizing import (
    FUSED_FROM,
    GB,
    HOST_FRAMEWORK,
    PARTS,
    USUAL,
    Hardware,
    Work,
    kept_bytes,
    learned,
    plan,
    refusal,
    serving_memory,
    shape_of,
    training_flops,
    training_memory,
)
from tests import tiny_llama
from workers.trainer import sized
from workers.trainer.spec import TrainingLabel, TrainingPair, TrainingRow, TrainSpec

GLM = facts().bases["chatglm3-6b"]
SMALL = facts().bases["smollm2-135m"]
MIB = 2**20 / 1e9
# Of the script in the authors' finetune_demo: batches of 4, all scores of a step at once. It keeps only what enters each layer, but
# for the prefix, whose keys and values stand in the cache that such recomputation turns off. Rows are taken to have 256 tokens.
THEIRS = Work(
    upper_layers=1.0, batch_rows=4, rows_at_once=4, row_tokens=256, answer_tokens=256, kept_rows=0, scored_at_once=None
)
PUBLISHED = {
    "lora": (14082 * MIB, replace(THEIRS, method="lora", rank=8, checkpointed=True), "a100-80gb"),
    "p_tuning_v2": (
        18426 * MIB,
        replace(THEIRS, method="p_tuning_v2", virtual_tokens=128, projection_width=0),
        "a100-80gb",
    ),
    # In fp32, and ZeRO's two buffers of 5e8 numbers each.
    "full": (
        48346 * MIB,
        replace(THEIRS, method="full", weight_bytes=4, checkpointed=True, buffers=10**9),
        "4xa100-80gb",
    ),
}
HERE = Hardware(
    name="here",
    memory_gb=4.0,
    tflops=0.058,
    utilisation=0.6,
    price_per_hour=0.0,
    framework_gb=0.9,
    on_host=True,
)


def test_the_known_shapes_have_as_many_numbers_as_the_models_have() -> None:
    """As their checkpoints hold; biases and norms within heads, which the formula leaves out, are less than a thousandth."""
    assert SMALL.parameters == 134_515_008
    counted = {"chatglm3-6b": 6_243_584_000, "qwen2.5-7b": 7_615_616_512, "llama-3.1-8b": 8_030_261_248}
    for name, count in counted.items():
        assert facts().bases[name].parameters == pytest.approx(count, rel=1e-3)


@pytest.mark.parametrize("method", PUBLISHED)
def test_what_the_authors_of_chatglm3_measured_is_within_a_fifth(method: str) -> None:
    measured, work, hardware = PUBLISHED[method]
    found = plan("chatglm3-6b", GLM, work, hardware_of(hardware))
    assert found.fits and found.peak_gb == pytest.approx(measured, rel=0.2)


COUNTED = {
    "examples": 24,
    "epochs": 1,
    "row_tokens": 39,
    "answer_tokens": 17,
    "rows_at_once": 20,
    "tokens_together": 780,
}
COUNTED |= {"kept_rows": 48, "parts": 2, "longest_tokens": 57, "padding": 1.46}
PAIRS = COUNTED | {"row_tokens": 40, "rows_at_once": 36, "tokens_together": 1440, "kept_rows": 96}
PASSAGES = {"examples": 36, "row_tokens": 89, "rows_at_once": 28, "tokens_together": 2492, "longest_tokens": 217}
DRAWN = {"row_tokens": 55, "rows_at_once": 36, "tokens_together": 1980, "longest_tokens": 80, "answers": 64}


@pytest.mark.parametrize(
    ("method", "measured_gb", "counted"),
    [
        ("lora", 2.04, COUNTED),
        ("dpo", 2.38, PAIRS),
        ("continued_pretraining", 6.70, COUNTED | PASSAGES | {"padding": 1.64}),
        ("ppo", 3.50, COUNTED | DRAWN),
    ],
)
def test_what_the_bench_measured_here_is_within_its_bound(
    method: str, measured_gb: float, counted: dict[str, Any]
) -> None:
    here = replace(HERE, framework_gb=HOST_FRAMEWORK / GB)
    assert plan("smollm2-135m", SMALL, replace(USUAL[method], **counted), here).peak_gb == pytest.approx(
        measured_gb, rel=0.15
    )


def test_the_methods_learn_as_many_numbers_as_peft_says() -> None:
    assert learned(SMALL, Work(rank=16, upper_layers=1.0)) == 4_884_480
    assert learned(SMALL, Work(method="p_tuning_v2", projection_width=0, virtual_tokens=16)) == 16 * 30 * 2 * 192
    assert learned(SMALL, USUAL["full"]) == SMALL.parameters


def test_more_at_once_takes_more_and_recomputation_takes_less_but_longer() -> None:
    less, more = (training_memory(GLM, Work(row_tokens=tokens), 0.0) for tokens in (64, 128))
    assert more["activations"] > 2 * less["activations"] and more["weights"] == less["weights"]
    kept, again = (Work(upper_layers=1.0, checkpointed=checkpointed) for checkpointed in (False, True))
    assert training_memory(GLM, again, 0.0)["activations"] < training_memory(GLM, kept, 0.0)["activations"] / 4
    assert training_flops(GLM, again) > training_flops(GLM, kept)
    assert kept_bytes(GLM, Work(weight_bytes=4)) > kept_bytes(GLM, Work())
    assert kept_bytes(GLM, Work(row_tokens=FUSED_FROM)) < kept_bytes(GLM, Work(row_tokens=FUSED_FROM - 1))


def test_full_training_in_fp32_takes_four_numbers_for_each_weight_and_several_cards_share_them() -> None:
    work = replace(USUAL["full"], weight_bytes=4)
    memory = training_memory(GLM, work, 0.0)
    assert memory["weights"] + memory["gradients"] + memory["optimizer"] == 16 * GLM.parameters
    shared = training_memory(GLM, replace(work, cards=4), 0.0)
    assert shared["weights"] == memory["weights"] and shared["optimizer"] == memory["optimizer"] / 4


def test_in_shards_each_card_has_its_share_of_the_weights_and_what_it_computes_with_whole() -> None:
    whole, shards = (replace(USUAL["full"], weight_bytes=4, cards=4, sharded=sharded) for sharded in (False, True))
    before, after = (training_memory(GLM, work, 0.0) for work in (whole, shards))
    outside = 2 * GLM.vocabulary * GLM.hidden + GLM.hidden
    assert after["weights"] == 4 * (GLM.parameters / 4 + 2 * GLM.of_layer + outside)
    assert after["gradients"] == before["gradients"] + 4 * (GLM.of_layer + outside)
    assert after["optimizer"] == before["optimizer"] and after["activations"] == before["activations"]
    assert sum(after.values()) < sum(before.values())


def test_an_engines_keys_and_values_grow_with_places_and_context() -> None:
    assert serving_memory(GLM, 2, 4, 2048)["kv"] == 4 * 2048 * 28 * 2 * 256 * 2


@pytest.mark.parametrize(
    ("memory_gb", "breaks", "says"),
    [
        (10.0, "weights", "nothing near to it fits"),
        (13.5, "activations", "checkpointed True"),
        (16.0, "activations", "checkpointed True"),
    ],
)
def test_what_does_not_fit_is_told_by_the_part_that_breaks_it_and_the_nearest_that_fits(
    memory_gb: float, breaks: str, says: str
) -> None:
    card = replace(hardware_of("a100-40gb"), memory_gb=memory_gb)
    found = plan("chatglm3-6b", GLM, replace(THEIRS, rank=8, scored_at_once=128), card)
    assert not found.fits and found.breaks == breaks
    assert says in refusal(found, card) and f"no room for its {breaks}" in refusal(found, card)


def test_the_nearest_plan_fits_indeed_and_a_full_training_ends_as_lora() -> None:
    card = hardware_of("rtx-4090")
    found = plan("chatglm3-6b", GLM, replace(USUAL["full"], row_tokens=256), card)
    assert found.breaks == "gradients" and found.nearest is not None and "method lora" in found.nearest


def test_the_parts_add_up_and_the_price_is_the_time() -> None:
    found = plan("chatglm3-6b", GLM, Work(), hardware_of("2xh100", price_per_hour=3.0))
    assert set(found.memory_gb) == set(PARTS)
    assert found.peak_gb == pytest.approx(sum(found.memory_gb.values()), abs=0.01)
    assert found.price == pytest.approx(found.seconds / 3600 * 3.0 * 2, abs=1e-3) and found.hardware == "2 x h100"


def test_hardware_is_known_by_name_and_prices_have_a_date() -> None:
    assert facts().as_of and all(card.price_per_hour > 0 for card in facts().cards)
    for said in ("abacus", "0xh100", "xh100", "2xhere", "h100x2"):
        with pytest.raises(Invalid, match="there is no hardware"):
            hardware_of(said)


def test_a_container_has_no_more_memory_than_it_may_take(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1000000\n")
    assert memory_here(limit) == 1_000_000
    limit.write_text("max\n")
    assert memory_here(limit) == memory_here(tmp_path / "none") > 1_000_000


def test_a_configuration_without_its_sizes_is_refused_by_name() -> None:
    with pytest.raises(Invalid, match="hidden_size"):
        shape_of({"num_attention_heads": 4})


def test_the_command_prints_parts_time_and_price_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "tiny")
    runner = CliRunner(env={"NORIA_HOME": str(tmp_path / "home")})
    said = runner.invoke(main, ["plan", "--base", str(folder), "--json"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.output)
    assert found["fits"] and found["memory_gb"]["weights"] < 0.01 and found["prices_as_of"] == facts().as_of
    told = runner.invoke(main, ["plan", "--base", "llama-3.1-8b", "--hardware", "h100", "--tokens", "128"])
    assert told.exit_code == 0 and "most at once" in told.output and "USD" in told.output
    refused = runner.invoke(main, ["plan", "--base", "qwen2.5-7b", "--method", "full", "--hardware", "a100-80gb"])
    assert refused.exit_code == 1 and "no room for its" in refused.output and "method lora" in refused.output
    unknown = runner.invoke(main, ["plan", "--base", "nowhere"])
    assert unknown.exit_code == 1 and "there is no base 'nowhere'" in unknown.output


def spec_for(base: Path, rows: int = 16, recipe: Recipe | None = None) -> TrainSpec:
    facts_ = [
        TrainingRow(prompt=f"the wheel {n}", answer="turns with the stream", group=f"fact {n}") for n in range(rows)
    ]
    behind = [
        replace(row, prompt="in 1999 the river was high\n" + row.prompt, group=f"{row.group} recalled", beside=True)
        for row in facts_
    ]
    return TrainSpec(
        model_dir=str(base),
        rows=(*facts_, *behind),
        replay_prompts=("What is a river?",) * 20,
        earlier=(TrainingRow(prompt="the wheel", answer="lifts water"),) * 4,
        recipe=recipe or LoraRecipe(batch_rows=8, earlier_rows_per_step=8, replay_rows_per_step=12, epochs=3),
        out_dir="out",
        checkpoint_dir="checkpoint",
        precision="float32",
    )


def test_a_trainings_steps_are_counted_from_its_rows_and_its_recipe(tmp_path: Path) -> None:
    base = tiny_llama.write(tmp_path / "tiny")
    work = sized.work_of(spec_for(base), Tokenizer.from_file(str(base / "tokenizer.json")))
    assert (work.examples, work.steps, work.rows_at_once) == (16, 6, 8 + 8 + 4 + 12)
    assert 20 < work.row_tokens < 60 and work.answer_tokens < work.row_tokens


def test_both_sides_of_a_pair_and_one_answer_of_a_label_are_counted(tmp_path: Path) -> None:
    base = tiny_llama.write(tmp_path / "tiny")
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    pair = TrainingPair(prompt="the wheel", chosen="turns with the stream", rejected="stands")
    label = TrainingLabel(prompt="the wheel", answer="turns with the stream", good=True)
    asked = replace(spec_for(base), pairs=(pair,) * 24, labels=(label,) * 24)
    bare, pairs, labels = (
        sized.work_of(replace(asked, recipe=recipe), tokenizer) for recipe in (LoraRecipe(), DpoRecipe(), KtoRecipe())
    )
    per_step = 24 // 3
    assert (bare.steps // 14, pairs.steps // 14, labels.steps // 14) == (2, 3, 3), "as many as the pairs take"
    rows = 2 * round(16 / 3) + 4 + 12
    assert abs(pairs.rows_at_once - rows - 2 * per_step) <= 1 and abs(labels.rows_at_once - rows - per_step) <= 1
    assert sized.planned(replace(asked, rows=(), recipe=DpoRecipe())) is not None, "pairs alone"


def test_a_training_that_cannot_fit_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_llama.write(tmp_path / "tiny")
    fits = sized.planned(spec_for(base))
    assert fits is not None and fits.fits
    monkeypatch.setattr(sized, "this_machine", lambda threads: replace(HERE, memory_gb=0.905))
    with pytest.raises(Invalid, match=r"no room for its activations .* it would fit with"):
        sized.planned(spec_for(base))


def test_a_base_that_does_not_say_its_size_is_left_to_the_training_itself(tmp_path: Path) -> None:
    assert sized.planned(spec_for(tmp_path / "nothing")) is None


def test_what_is_not_packed_is_counted_as_transformers_runs_it_one_kind_of_rows_at_a_time(tmp_path: Path) -> None:
    base = tiny_llama.write(tmp_path / "tiny")
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    packed, prefix, whole = (
        sized.work_of(spec_for(base, recipe=recipe), tokenizer)
        for recipe in (LoraRecipe(), PTuningRecipe(), FullRecipe())
    )
    assert packed.tokens_together == packed.tokens_at_once, "short rows are all in memory"
    assert prefix.tokens_together is not None and prefix.tokens_together < packed.tokens_at_once / 2
    assert kept_bytes(GLM, prefix) < kept_bytes(GLM, whole)
    small = training_memory(GLM, replace(whole, parts=2), 0.0)
    assert small["gradients"] == 4 * GLM.parameters and small["rows"] == 0


def test_a_long_row_takes_the_scores_of_all_that_are_filled_up_to_it_beside_it(tmp_path: Path) -> None:
    base = tiny_llama.write(tmp_path / "tiny")
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    spec = spec_for(base)
    long = (*spec.rows, TrainingRow(prompt="a b " * 50, answer="c"), TrainingRow(prompt="a b " * 500, answer="c"))
    even, uneven = (sized.work_of(replace(spec, rows=rows), tokenizer) for rows in (spec.rows, long))
    assert even.longest_tokens is not None and uneven.longest_tokens is not None
    assert even.longest_tokens < uneven.longest_tokens < FUSED_FROM, "of the longest of all attention keeps no scores"
    assert 1 <= even.padding < uneven.padding
    kept = [kept_bytes(GLM, replace(uneven, padding=padding)) for padding in (0.0, 1.0, 2.0)]
    assert kept[2] - kept[1] == kept[1] - kept[0] == GLM.heads * uneven.longest_tokens * 4


def test_several_processes_hold_the_model_each_and_share_the_rows(tmp_path: Path) -> None:
    base = tiny_llama.write(tmp_path / "tiny")
    one, two = (sized.planned(replace(spec_for(base), processes=count)) for count in (1, 2))
    assert one is not None and two is not None
    assert two.memory_gb["framework"] == 2 * one.memory_gb["framework"]
    assert two.memory_gb["activations"] < 1.5 * one.memory_gb["activations"]
    assert sized.planned(replace(spec_for(base), device="cuda")) is None
    shards = sized.planned(replace(spec_for(base), processes=2, sharded=True))
    assert shards is not None and shards.memory_gb["optimizer"] == one.memory_gb["optimizer"]
    with pytest.raises(Invalid, match="p_tuning_v2 cannot be trained in shards; lora, full"):
        sized.planned(replace(spec_for(base, recipe=PTuningRecipe()), processes=2, sharded=True))
