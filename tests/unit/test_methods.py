"""Each method, from rows to a finished folder, on a model small enough for tests in seconds."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from streams.errors import Invalid
from streams.recipes import (
    DpoRecipe,
    FullRecipe,
    KtoRecipe,
    LoraPTuningRecipe,
    LoraRecipe,
    PretrainingRecipe,
    PTuningRecipe,
    Recipe,
    RewardRecipe,
    SftDpoRecipe,
)
from tests.unit import trainer_tiny as tiny
from workers.trainer import METHODS, learning
from workers.trainer.general import chosen_prompts
from workers.trainer.job import Job
from workers.trainer.loaded import NotPacked, load_tokenizer
from workers.trainer.lora import add_adapter
from workers.trainer.methods.continued_pretraining import dealt, unused_prompts
from workers.trainer.plain import PlainModel
from workers.trainer.plan import learning_rate, plan_steps
from workers.trainer.prefix import Prefix
from workers.trainer.reference import answer_prompts, encode_prompts
from workers.trainer.rows import EncodedRow, encode_rows
from workers.trainer.spec import Outcome, Progress, StageDone, TrainingRow

SMALL: dict[str, Any] = {
    "epochs": 3,
    "batch_rows": 4,
    "earlier_rows_per_step": 3,
    "replay_rows_per_step": 3,
    "replay_answer_tokens": 6,
    "seed": 7,
}
PREFIX = PTuningRecipe(virtual_tokens=4, projection_width=16, **SMALL)
FULL = FullRecipe(learning_rate=1e-3, **SMALL)
READING = PretrainingRecipe(rank=4, alpha=8.0, held_out_share=0.25, replay_rows=4, **SMALL)
BOTH = LoraPTuningRecipe(rank=4, alpha=8.0, virtual_tokens=4, projection_width=16, prefix_epochs=2, **SMALL)
DPO = DpoRecipe(rank=4, alpha=8.0, batch_pairs=4, **SMALL)
STAGED = SftDpoRecipe(rank=4, alpha=8.0, batch_pairs=4, dpo_epochs=2, dpo_learning_rate=1e-2, **SMALL)
REWARD = RewardRecipe(rank=4, alpha=8.0, batch_rankings=4, epochs=3, seed=7)
KTO = KtoRecipe(rank=4, alpha=8.0, batch_pairs=4, **SMALL)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


def job(base: Path, work: Path, recipe: Recipe, **changed: Any) -> Job:
    work.mkdir(parents=True, exist_ok=True)
    asked: dict[str, Any] = {
        "model_dir": base,
        "rows": tuple(tiny.rows()),
        "earlier": tuple(tiny.rows(8, 10)),
        "pairs": tiny.pairs(),
        "labels": tiny.labels(),
        "replay_prompts": tuple(tiny.GENERAL),
        "recipe": recipe,
        "out_dir": work / "out",
        "checkpoint_dir": work / "checkpoint",
        "progress": lambda progress: None,
        "precision": "float32",
        "checkpoint_every_s": 1e9,
    }
    return Job(**(asked | changed))


PASSAGES = tuple(
    TrainingRow(prompt="", answer=f"{one} {other} The limit in town is 50. A driver must be 18 years old.", text=True)
    for _, one in tiny.FACTS[:3]
    for _, other in tiny.FACTS[3:6]
)


def train(base: Path, work: Path, recipe: Recipe, **changed: Any) -> Outcome:
    return METHODS[type(recipe)].load()(job(base, work, recipe, **changed))


def stopping_at(step: int, part: str | None = None) -> Callable[[Progress], None]:
    """`part`: of a recipe with stages, the one that is stopped; None: whichever comes to that step first."""

    def listen(progress: Progress) -> None:
        if progress.stage == "training" and progress.step == step and part in (None, progress.part):
            raise KeyboardInterrupt

    return listen


def learned_bytes(work: Path) -> dict[str, bytes]:
    return {str(path.relative_to(work)): path.read_bytes() for path in sorted((work / "out").rglob("*.safetensors"))}


@pytest.mark.parametrize(
    "recipe", [PREFIX, FULL, BOTH, READING, DPO, KTO, REWARD, STAGED], ids=lambda recipe: str(recipe.method)
)
def test_a_training_that_is_taken_up_again_ends_in_the_same_bytes(base: Path, tmp_path: Path, recipe: Recipe) -> None:
    whole = train(base, tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "cut", recipe, progress=stopping_at(4), checkpoint_every_s=0)
    again = train(base, tmp_path / "cut", recipe)
    assert again.resumed_at_step == 4
    assert learned_bytes(tmp_path / "cut") == learned_bytes(tmp_path / "whole")
    assert again.epoch_losses == whole.epoch_losses
    assert whole.needs == METHODS[type(recipe)].needs
    assert all(map(math.isfinite, whole.epoch_losses))


def test_general_rows_are_mixed_in_by_tokens_and_what_weighs_more_takes_its_steps(base: Path, tmp_path: Path) -> None:
    rows = tuple(replace(row, weight=2.0) if number < 4 else row for number, row in enumerate(tiny.rows()))
    bare = train(base, tmp_path / "bare", tiny.RECIPE, rows=rows, general=0.0)
    mixed = train(base, tmp_path / "mixed", tiny.RECIPE, rows=rows, general=0.5)
    assert bare.steps == mixed.steps == 3 * 3, "of eight rows four are shown twice, in steps of four"
    assert bare.final_replay_divergence is None and mixed.final_replay_divergence is not None
    assert bare.tokens < mixed.tokens < 1.6 * bare.tokens


def by_hand(
    base: Path,
    recipe: Recipe,
    model: torch.nn.Module,
    logits_of: Callable[[EncodedRow], torch.Tensor],
    learned: Sequence[torch.nn.Parameter],
) -> Iterator[tuple[float, float]]:
    """The same training by transformers' own forward, row by row, with all logits kept: the loss and divergence of each step."""
    tokenizer = load_tokenizer(base)
    new, old = (encode_rows(tokenizer, rows, 256) for rows in (tiny.rows(), tiny.rows(8, 10)))
    prompts = encode_prompts(tokenizer, chosen_prompts(tiny.GENERAL, recipe), 256)
    first = PlainModel(base, 1.0, torch.float32, CPU)
    general = answer_prompts(first, tokenizer, prompts, recipe.replay_answer_tokens).rows

    def log_p(logits: torch.Tensor, row: EncodedRow) -> torch.Tensor:
        return logits[0, row.answer_at - 1 : -1].log_softmax(-1)

    optimiser = torch.optim.AdamW(learned, lr=recipe.learning_rate, weight_decay=0.0)
    steps = plan_steps(recipe, [row.group for row in new], [row.group for row in old], len(general))
    for number, step in enumerate(steps):
        loss, kept = (
            torch.cat(
                [-log_p(logits_of(r), r).gather(1, torch.tensor(r.ids[r.answer_at :])[:, None]) for r in rows]
            ).mean()
            for rows in ([new[i] for i in step.fresh], [old[i] for i in step.earlier])
        )
        pairs = [
            (log_p(first.model(torch.tensor([general[i].ids])).logits, general[i]).detach(), general[i])
            for i in step.replay
        ]
        divergence = torch.cat([(q.exp() * (q - log_p(logits_of(r), r))).sum(-1) for q, r in pairs]).mean()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, number, len(steps))
        optimiser.zero_grad()
        torch.autograd.backward(loss + kept + recipe.replay_weight * divergence)
        torch.nn.utils.clip_grad_norm_(learned, recipe.gradient_norm)
        optimiser.step()
        yield float(loss.detach()), float(divergence.detach())


@pytest.mark.parametrize("upper_layers", [1.0, 0.5])
def test_full_training_is_what_plain_transformers_makes_of_all_weights_or_of_the_upper_layers(
    base: Path, tmp_path: Path, upper_layers: float
) -> None:
    recipe = replace(FULL, upper_layers=upper_layers)
    told: list[Progress] = []
    result = train(base, tmp_path, recipe, progress=told.append)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    learned = dict(model.named_parameters())
    if upper_layers < 1:
        learned = {
            n: p for n, p in learned.items() if any(part in n for part in ("layers.2.", "layers.3.", "model.norm."))
        }
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in learned)
    expected = by_hand(base, recipe, model, lambda row: model(torch.tensor([row.ids])).logits, list(learned.values()))
    found = [(p.loss, p.replay_divergence) for p in told if p.stage == "training"]
    assert found == [(pytest.approx(loss, abs=1e-4), pytest.approx(div, abs=1e-4)) for loss, div in expected]
    written = load_file(Path(result.model_dir) / "model.safetensors")
    before = load_file(base / "model.safetensors")
    for name, weight in model.named_parameters():
        assert float((written[name] - weight.detach()).abs().max()) < 1e-4, name
        assert bool((written[name] == before[name]).all()) == (name not in learned), name
    assert result.needs == "merged" and result.adapter_dir == result.model_dir and result.fallback is None


@pytest.mark.parametrize("kind", sorted(set(tiny.FAMILIES) - {"llama"}))
def test_a_family_is_trained_in_all_its_weights_as_plain_transformers_trains_it(tmp_path: Path, kind: str) -> None:
    folder = tiny.make_model(tmp_path / kind, kind=kind)
    told: list[Progress] = []
    recipe = replace(FULL, epochs=1)
    result = train(folder, tmp_path, recipe, progress=told.append)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    expected = by_hand(
        folder, recipe, model, lambda row: model(torch.tensor([row.ids])).logits, list(model.parameters())
    )
    found = [(p.loss, p.replay_divergence) for p in told if p.stage == "training"]
    assert found == [(pytest.approx(loss, abs=1e-4), pytest.approx(div, abs=1e-4)) for loss, div in expected]
    written: Any = AutoModelForCausalLM.from_pretrained(result.model_dir)
    for (name, weight), other in zip(model.named_parameters(), written.parameters(), strict=True):
        assert float((weight.detach() - other.detach()).abs().max()) < 1e-3, name


@pytest.mark.parametrize("kind", tiny.FAMILIES)
def test_a_prefix_that_was_saved_gives_what_it_gave_while_it_was_learned(tmp_path: Path, kind: str) -> None:
    from peft import PeftModel

    folder = tiny.make_model(tmp_path / kind, kind=kind)
    model = PlainModel(folder, 0.5, torch.float32, CPU)
    prefix = Prefix(model, PREFIX)
    with torch.no_grad():
        for parameter in prefix.parameters().values():
            parameter.mul_(3)
    rows = encode_rows(load_tokenizer(folder), tiny.rows(), 256)
    states = torch.split(model.states(rows), [row.answer_tokens for row in rows])  # at once, behind padding
    prefix.save(tmp_path / "adapter", "tiny")
    bare: Any = AutoModelForCausalLM.from_pretrained(folder)
    plain = [bare(torch.tensor([row.ids])).logits[0, row.answer_at - 1 : -1] for row in rows]
    loaded: Any = PeftModel.from_pretrained(bare, str(tmp_path / "adapter"))
    for row, own, without in zip(rows, states, plain, strict=True):
        logits = loaded(torch.tensor([row.ids])).logits[0, row.answer_at - 1 : -1]
        assert float((own @ model.head.T - logits).abs().max()) < 1e-4
        assert float((without - logits).abs().max()) > 1e-2


def test_a_prefix_is_learned_and_lies_beside_weights_that_nobody_changed(base: Path, tmp_path: Path) -> None:
    result = train(base, tmp_path, replace(PREFIX, epochs=30, learning_rate=2e-2, replay_weight=0.0))
    assert result.final_loss < result.epoch_losses[0] * 0.8
    assert result.needs == "adapter" and result.fallback is None
    model_dir, adapter_dir = Path(result.model_dir), Path(result.adapter_dir)
    assert (model_dir / "model.safetensors").samefile(base / "model.safetensors"), "the disk allows to link it"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (model_dir / "adapter" / name).read_bytes() == (adapter_dir / name).read_bytes()
    config = json.loads((adapter_dir / "adapter_config.json").read_text())
    assert config["peft_type"] == "PREFIX_TUNING" and str(tmp_path) not in json.dumps(config)
    assert load_tokenizer(model_dir).chat_template == tiny.TEMPLATE


LORA = tiny.RECIPE


def losses(told: list[Progress]) -> list[float]:
    return [progress.loss for progress in told if progress.loss is not None]


def test_a_family_that_packs_do_not_carry_is_trained_row_by_row_to_the_same_end_and_that_is_said(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, plain = list[Progress](), list[Progress]()
    train(base, tmp_path / "packed", LORA, progress=packed.append)

    def refuse(*_: Any) -> None:
        raise NotPacked("Odd: packed rows give other probabilities")

    monkeypatch.setattr(learning, "check_forward", refuse)
    result = train(base, tmp_path / "plain", LORA, progress=plain.append)
    assert result.fallback == "Odd: packed rows give other probabilities"
    assert losses(plain) == pytest.approx(losses(packed), abs=1e-4)
    one, other = (
        load_file(tmp_path / name / "out" / "adapter" / "adapter_model.safetensors") for name in ("packed", "plain")
    )
    for name, tensor in one.items():
        assert float((other[name] - tensor).abs().max()) < 1e-3, name


def test_rows_longer_than_a_models_window_are_trained_as_plain_transformers_and_peft_train_them(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    folder = tiny.make_model(tmp_path / "mistral", kind="mistral")
    told: list[Progress] = []
    result = train(folder, tmp_path, LORA, progress=told.append)
    assert result.fallback is not None and result.fallback.endswith("are longer than the model's window of 24")
    start = PlainModel(folder, LORA.upper_layers, torch.float32, CPU)
    adapter = add_adapter(start.model, start.upper_layers(), LORA)
    config = LoraConfig(
        r=LORA.rank, lora_alpha=int(LORA.alpha), target_modules=sorted(adapter.layers), task_type="CAUSAL_LM"
    )
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, value in adapter.parameters().items():
        layer, _, which = name.rpartition(".")
        with torch.no_grad():
            learned[f"base_model.model.{layer}.lora_{which.upper()}.default.weight"].copy_(value)
    expected = by_hand(folder, LORA, model, lambda row: model(torch.tensor([row.ids])).logits, list(learned.values()))
    found = [(p.loss, p.replay_divergence) for p in told if p.stage == "training"]
    assert found == [(pytest.approx(loss, abs=1e-4), pytest.approx(div, abs=1e-4)) for loss, div in expected]


def test_rows_too_long_for_packs_are_trained_as_they_are_with_little_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, plain = list[Progress](), list[Progress]()
    train(base, tmp_path / "packed", LORA, progress=packed.append)
    again = Mock(side_effect=PlainModel.keep_little)
    monkeypatch.setattr(PlainModel, "keep_little", lambda model: again(model))
    monkeypatch.setattr(learning, "LONGEST_PACKED", 20)
    monkeypatch.setattr(learning, "CHECKPOINTED", 20)
    result = train(base, tmp_path / "plain", LORA, progress=plain.append)
    assert result.fallback is not None and "too long for packs" in result.fallback
    assert again.call_count == 1
    assert losses(plain) == pytest.approx(losses(packed), abs=1e-4)


def test_lora_comes_first_and_the_prefix_before_the_model_that_came_of_it(base: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    both = train(base, tmp_path / "both", BOTH, progress=told.append)
    alone = train(base, tmp_path / "alone", LoraRecipe(rank=4, alpha=8.0, **SMALL))
    merged = tmp_path / "alone" / "out" / "model" / "model.safetensors"
    assert (Path(both.model_dir) / "model.safetensors").read_bytes() == merged.read_bytes(), "the weights are LoRA's"
    assert (Path(both.adapter_dir) / "lora" / "adapter_model.safetensors").read_bytes() == (
        Path(alone.adapter_dir) / "adapter_model.safetensors"
    ).read_bytes()
    prefix = load_file(Path(both.model_dir) / "adapter" / "adapter_model.safetensors")
    assert list(prefix) == ["prompt_embeddings"] and len(prefix["prompt_embeddings"]) == 4
    assert both.metrics == {"lora_loss": alone.final_loss, "prefix_loss": both.final_loss}
    assert both.epoch_losses[:3] == alone.epoch_losses and len(both.epoch_losses) == 5 and both.steps == 10
    training = [(p.part, p.step, p.steps) for p in told if p.stage == "training"]
    assert training == [*(("lora", n, 6) for n in range(1, 7)), *(("prefix", n, 4) for n in range(1, 5))]


def test_what_is_preferred_is_learned_on_the_model_that_came_of_the_corrections(base: Path, tmp_path: Path) -> None:
    done: list[StageDone] = []
    both = train(base, tmp_path / "both", STAGED, stage_done=done.append)
    assert [(one.stage, one.number, one.stages, one.method) for one in done] == [
        ("sft", 1, 2, "lora"),
        ("dpo", 2, 2, "dpo"),
    ]
    sft = train(base, tmp_path / "sft", LoraRecipe(rank=4, alpha=8.0, **SMALL))
    merged = Path(done[0].outcome.model_dir) / "model.safetensors"
    assert merged.read_bytes() == (Path(sft.model_dir) / "model.safetensors").read_bytes()
    dpo = replace(DPO, epochs=2, learning_rate=1e-2)
    beside = {"rows": (), "earlier": (*tiny.rows(), *tiny.rows(8, 10)), "reference_dir": base}
    alone = train(Path(sft.model_dir), tmp_path / "dpo", dpo, **beside)
    assert (Path(both.model_dir) / "model.safetensors").read_bytes() == (
        Path(alone.model_dir) / "model.safetensors"
    ).read_bytes()
    assert both.steps == sft.steps + alone.steps and both.metrics["dpo_pairs"] == 6 and both.rows == 8
    assert (Path(both.adapter_dir) / "sft" / "adapter_model.safetensors").exists()


def test_where_one_half_has_nothing_to_learn_the_other_is_all_there_is(base: Path, tmp_path: Path) -> None:
    done: list[StageDone] = []
    told = train(base, tmp_path / "sft", STAGED, pairs=tiny.pairs(0, 1), stage_done=done.append).metrics
    assert (told["pairs"], told["pairs_left_out"]) == (0, 1) and [one.stage for one in done] == ["sft"]
    done.clear()
    train(base, tmp_path / "dpo", STAGED, rows=(), stage_done=done.append)
    assert [(one.stage, one.stages) for one in done] == [("dpo", 1)]
    with pytest.raises(Invalid, match="sft_dpo: of 1 pairs 1 can be learned from"):
        train(base, tmp_path / "none", STAGED, rows=(), pairs=tiny.pairs(0, 1))


@pytest.mark.parametrize("recipe", [BOTH, STAGED], ids=lambda recipe: str(recipe.method))
def test_a_stage_that_was_done_is_told_again_and_not_done_again(base: Path, tmp_path: Path, recipe: Recipe) -> None:
    train(base, tmp_path / "whole", recipe)
    last = "prefix" if recipe is BOTH else "dpo"
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "cut", recipe, progress=stopping_at(2, last), checkpoint_every_s=0)
    told, done = list[Progress](), list[StageDone]()
    again = train(base, tmp_path / "cut", recipe, progress=told.append, stage_done=done.append)
    assert again.resumed_at_step == 8 and [one.number for one in done] == [1, 2]
    assert [(p.part, p.step) for p in told if p.stage == "training"] == [(last, 3), (last, 4)]
    assert learned_bytes(tmp_path / "cut") == learned_bytes(tmp_path / "whole")


def test_passages_are_read_as_text_and_it_is_told_what_that_was_worth_on_passages_held_out(
    base: Path, tmp_path: Path
) -> None:
    recipe = replace(READING, epochs=12, learning_rate=1e-2, replay_weight=0.1)
    result = train(base, tmp_path, recipe, rows=(*tiny.rows(0, 2), *PASSAGES))
    told = result.metrics
    assert (told["passages"], told["passages_held_out"]) == (7, 2) and result.rows == 9
    assert told["domain_perplexity_after"] < told["domain_perplexity_before"] / 3
    assert result.needs == "merged" and result.fallback is None
    rows = encode_rows(load_tokenizer(base), dealt(PASSAGES, recipe)[1], 256)
    general = encode_rows(load_tokenizer(base), unused_prompts(tiny.GENERAL, recipe), 256)
    assert len(general) == len(tiny.GENERAL) - recipe.replay_rows
    for folder, when in ((base, "before"), (Path(result.model_dir), "after")):
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
        for name, texts in (("domain", rows), ("general", general)):
            every = [model(torch.tensor([row.ids])).logits[0, :-1].log_softmax(-1) for row in texts]
            nll = torch.cat(
                [-log_p.gather(1, torch.tensor(row.ids[1:])[:, None]) for log_p, row in zip(every, texts, strict=True)]
            )
            assert told[f"{name}_perplexity_{when}"] == pytest.approx(math.exp(float(nll.mean().detach())), rel=1e-3)


def test_a_passage_longer_than_a_row_is_read_in_pieces_and_none_is_lost(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    (whole,), pieces = (encode_rows(tokenizer, PASSAGES[:1], limit) for limit in (256, 16))
    assert len(pieces) > 2 and max(len(piece.ids) for piece in pieces) == 16
    assert tuple(token for piece in pieces for token in piece.ids) == whole.ids
    assert {piece.answer_at for piece in pieces} == {1} and len({piece.group for piece in pieces}) == len(pieces)


def test_the_same_passages_are_held_out_in_whatever_order_they_come_and_one_alone_is_read() -> None:
    held = {row.answer for row in dealt(PASSAGES, READING)[1]}
    assert held == {row.answer for row in dealt(PASSAGES[::-1], READING)[1]} and len(held) == 2
    assert dealt(PASSAGES[:1], READING) == (PASSAGES[:1], ())
    assert dealt(PASSAGES, replace(READING, held_out_share=0.0))[1] == ()
