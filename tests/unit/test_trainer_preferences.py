"""Learning what people prefer: trl's losses to half a percent, beside what they corrected, and what is refused of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch.nn import functional
from transformers import AutoModelForCausalLM

from streams.errors import Invalid
from streams.recipes import PreferenceRecipe
from tests.unit import trainer_tiny as tiny
from tests.unit.test_methods import CPU, DPO, KTO, LORA, train
from workers.trainer import learning
from workers.trainer.loaded import load_tokenizer
from workers.trainer.lora import add_adapter
from workers.trainer.losses import log_probability
from workers.trainer.packed import PackedModel
from workers.trainer.plan import learning_rate
from workers.trainer.preference import Labels, Pairs, preference_of
from workers.trainer.rows import EncodedRow
from workers.trainer.spec import Outcome, Progress, TrainingLabel, TrainingPair

STEPS = 8
ALONE: dict[str, Any] = {"rows": (), "earlier": (), "replay_prompts": ()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


def losses(base: Path, work: Path, recipe: PreferenceRecipe, **changed: Any) -> tuple[list[float], Outcome]:
    told: list[Progress] = []
    outcome = train(base, work, recipe, progress=told.append, **changed)
    return [seen.loss for seen in told if seen.loss is not None], outcome


def trls(
    base: Path, work: Path, recipe: PreferenceRecipe, rows: Sequence[dict[str, Any]], **weights: float
) -> list[float]:
    """The loss of each step by trl's own trainer, all rows in every step, from the same start."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    kind: tuple[Any, Any] = (KTOConfig, KTOTrainer) if recipe.from_labels else (DPOConfig, DPOTrainer)
    packed = PackedModel(base, recipe.upper_layers, torch.float32, CPU)
    start = add_adapter(packed.model, packed.upper_layers(), recipe)
    config = LoraConfig(
        r=recipe.rank, lora_alpha=int(recipe.alpha), target_modules=sorted(start.layers), task_type="CAUSAL_LM"
    )
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, value in start.parameters().items():
        layer, _, which = name.rpartition(".")
        with torch.no_grad():
            learned[f"base_model.model.{layer}.lora_{which.upper()}.default.weight"].copy_(value)
    optimiser = torch.optim.AdamW(learned.values(), lr=recipe.learning_rate, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate(recipe, min(step, STEPS - 1), STEPS) / recipe.learning_rate
    )
    trainer = kind[1](
        model=model,
        args=kind[0](
            output_dir=str(work),
            max_steps=STEPS,
            beta=recipe.beta,
            per_device_train_batch_size=len(rows),
            max_grad_norm=recipe.gradient_norm,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            **weights,
        ),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=load_tokenizer(base),
        optimizers=(optimiser, rates),
    )
    trainer.train()
    return [logged["loss"] for logged in trainer.state.log_history if "loss" in logged]


def worded(base: Path, one: TrainingPair | TrainingLabel) -> dict[str, Any]:
    """As trl takes it."""
    asked = [{"role": "user", "content": one.prompt}]
    prompt = load_tokenizer(base).apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    if isinstance(one, TrainingPair):
        return {"prompt": prompt, "chosen": one.chosen, "rejected": one.rejected}
    return {"prompt": prompt, "completion": one.answer, "label": one.good}


def test_the_loss_of_each_step_of_dpo_is_trls_within_half_a_percent(base: Path, tmp_path: Path) -> None:
    recipe = replace(DPO, epochs=STEPS, batch_pairs=8, learning_rate=1e-2)
    ours, outcome = losses(base, tmp_path / "ours", recipe, **ALONE)
    theirs = trls(base, tmp_path / "theirs", recipe, [worded(base, pair) for pair in tiny.pairs()])
    assert len(ours) == STEPS and theirs[-1] < 0.5 < theirs[0], "it does learn"
    assert ours == [pytest.approx(loss, rel=0.005) for loss in theirs]
    assert outcome.fallback is None and outcome.rows == 0 and outcome.metrics["reward_margin"] > 0.3


def test_the_loss_of_each_step_of_kto_is_trls_within_half_a_percent(base: Path, tmp_path: Path) -> None:
    recipe = replace(KTO, epochs=STEPS, batch_pairs=8, learning_rate=1e-2)
    # Five are good: so the model comes to find all of them likelier, whatever they answer, and that is no gain.
    labels = tuple(
        TrainingLabel(prompt=prompt, answer=answer, good=number < 5)
        for number, (prompt, answer) in enumerate(tiny.FACTS[:6])
    )
    ours, outcome = losses(base, tmp_path / "ours", recipe, labels=labels, **ALONE)
    rows = [worded(base, label) for label in labels]
    theirs = trls(base, tmp_path / "theirs", recipe, rows, undesirable_weight=5.0)
    assert len(ours) == STEPS and theirs[-1] < theirs[0] * 0.9, "it does learn"
    assert ours == [pytest.approx(loss, rel=0.005) for loss in theirs]
    assert outcome.metrics["reward_of_good"] > outcome.metrics["reward_of_bad"]


@pytest.mark.parametrize("recipe", [DPO, KTO], ids=lambda recipe: str(recipe.method))
def test_what_packs_do_not_carry_comes_to_the_same_end(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: PreferenceRecipe
) -> None:
    packed, _ = losses(base, tmp_path / "packed", recipe)
    monkeypatch.setattr(learning, "LONGEST_PACKED", 2)
    plain, outcome = losses(base, tmp_path / "plain", recipe)
    assert outcome.fallback is not None and plain == pytest.approx(packed, abs=1e-4)


def test_pairs_are_learned_beside_corrections_and_neither_keeps_the_other_from_it(base: Path, tmp_path: Path) -> None:
    slow = {"epochs": 8, "learning_rate": 1e-2, "replay_weight": 0.1}
    alone = train(base, tmp_path / "alone", replace(LORA, **slow))
    both, outcome = losses(base, tmp_path / "both", replace(DPO, **slow), pairs=tiny.pairs(4, 10))
    told = outcome.metrics
    assert (told["pairs"], told["pairs_left_out"], outcome.rows) == (6, 0, alone.rows)
    assert told["preferred_before"] < told["preferred_after"] and told["reward_margin"] > 0.02
    assert both[-1] < both[0] - 0.5 and alone.metrics == {}


def test_a_pair_weighs_one_over_the_pairs_of_its_ranking() -> None:
    rows = [EncodedRow((1, 2, 3), 1, 0)] * 4
    found = Pairs(DPO, rows, (1.0, 1 / 3), 0)
    ratios = torch.tensor([3.0, 1.0, -1.0, 4.0])
    one, other = (-functional.logsigmoid(torch.tensor(DPO.beta * margin)) for margin in (2.0, -5.0))
    assert float(found.loss(range(4), ratios, 0.0)) == pytest.approx(float(1.5 * one + 0.5 * other))


def test_the_fewer_of_good_and_bad_answers_are_weighed_up() -> None:
    found = Labels(KTO, [EncodedRow((1, 2, 3), 1, 0)] * 8, (True, False, False, False), 0)
    assert found.weights == [3, 1, 1, 1] and found.ahead([0, 2]) == [4, 6]
    assert found.baseline(torch.tensor([-3.0, 1.0])) == 0.0 and found.baseline(torch.tensor([3.0, 1.0])) == 2.0


ONE, OTHER = tiny.pairs()[:2]
LONG = "long " * 600


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pairs": ()}, "there is nothing to learn: the snapshot holds no row"),
        ({"pairs": (ONE,)}, "dpo: of 1 pairs 1 can be learned from.*; it learns from 2 and more"),
        ({"pairs": (ONE, replace(OTHER, chosen=f" {OTHER.rejected}"))}, "of 2 pairs 1 can be .* or of equal sides"),
        ({"pairs": (ONE, replace(OTHER, prompt=LONG))}, "of 2 pairs 1 can be .* above 512 tokens"),
        ({"pairs": (replace(ONE, rejected=" "), OTHER)}, "of 2 pairs 1 can be"),
    ],
    ids=["none", "one", "equal", "long", "empty"],
)
def test_too_few_pairs_are_refused_by_name(base: Path, tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        train(base, tmp_path, DPO, **{**ALONE, "labels": (), **changed})
    assert not (tmp_path / "out" / "model").exists()


def test_answers_that_are_all_good_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    good = tuple(replace(label, good=True) for label in tiny.labels())
    with pytest.raises(Invalid, match="kto: all 6 labelled answers are good, and it learns from good ones and bad"):
        train(base, tmp_path, KTO, **{**ALONE, "pairs": (), "labels": good})


def test_where_too_little_is_preferred_corrections_are_learned_all_the_same_and_that_is_told(
    base: Path, tmp_path: Path
) -> None:
    outcome = train(base, tmp_path / "dpo", replace(DPO, epochs=1), pairs=(ONE,))
    assert outcome.metrics == {"pairs": 0, "pairs_left_out": 1} and outcome.rows == 8


def test_both_sides_of_a_pair_stand_behind_the_same_turns(base: Path) -> None:
    """Else the longer answer alone would lose the turns before it, and what is learned were the difference of these."""
    history = (("How far is the town, if one goes by the bridge?", "Nine miles, if nobody is on the bridge at night."),)
    pair = TrainingPair(prompt="And the moon?", chosen="Far.", rejected="Far. " * 30, history=history)
    job: Any = type("Job", (), {"recipe": DPO, "pairs": (pair, ONE), "labels": ()})
    whole = preference_of(job, load_tokenizer(base), 512)
    assert whole is not None
    found = preference_of(job, load_tokenizer(base), len(whole.rows[1].ids) - 1)
    assert found is not None and len(found.units) == 2
    one, other = found.rows[:2]
    assert one.ids[: one.answer_at] == other.ids[: other.answer_at]
    assert whole.rows[0].answer_at > one.answer_at, "they are longer where there is room"


def test_the_log_probability_of_a_token_is_torchs_and_so_is_its_gradient() -> None:
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(300, 8, requires_grad=True), torch.randn(20, 8), torch.randint(20, (300,))
    weights = torch.randn(300)
    found = log_probability(hidden, head, targets)
    (ours,) = torch.autograd.grad((found * weights).sum(), hidden)
    expected = functional.linear(hidden, head).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (theirs,) = torch.autograd.grad((expected * weights).sum(), hidden)
    assert torch.allclose(found, expected, atol=1e-5) and torch.allclose(ours, theirs, atol=1e-5)
