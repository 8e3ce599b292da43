"""Learning from answers that the model draws itself: the formulas, against others written from the papers; and what comes of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from streams.errors import Invalid
from streams.recipes import PpoRecipe, SftRewardPpoRecipe
from streams.style import StyleRule
from tests.unit import trainer_tiny as tiny
from tests.unit.test_methods import CPU, learned_bytes, stopping_at, train
from workers.trainer import learning, ppo, sampling
from workers.trainer.loaded import load_tokenizer
from workers.trainer.lora import Adapter, add_adapter
from workers.trainer.methods import ppo as method
from workers.trainer.packed import PackedModel
from workers.trainer.plain import PlainModel
from workers.trainer.reinforce import Watch
from workers.trainer.reward import Said
from workers.trainer.sampling import sample_answers
from workers.trainer.spec import Outcome, Progress, StageDone, TrainingRow

RECIPE = PpoRecipe(
    rank=16,
    alpha=64.0,
    upper_layers=1.0,
    learning_rate=2e-2,
    steps=8,
    epochs=3,
    prompts_per_step=48,
    batch_answers=24,
    answer_tokens=8,
    update_kl=1.0,
    batch_rows=4,
    earlier_rows_per_step=3,
    replay_rows_per_step=3,
    replay_answer_tokens=6,
    replay_weight=0.3,
    seed=7,
    rules=(StyleRule(rule="says", value="t"),),
)
SHORT = replace(RECIPE, steps=4, prompts_per_step=12, batch_answers=8, epochs=2, learning_rate=1e-2, replay_weight=3.0)
ALONE: dict[str, Any] = {"rows": (), "earlier": ()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


def trained(base: Path, work: Path, recipe: PpoRecipe, **changed: Any) -> tuple[list[Progress], Outcome]:
    told: list[Progress] = []
    outcome = train(base, work, recipe, **({"progress": told.append} | changed))
    return [seen for seen in told if seen.stage == "training"], outcome


class Judge:
    """Of so many drawings the first are worth something, and those after them are not."""

    def __init__(self, *means: float) -> None:
        self.means = list(means)

    def score(self, said: Sequence[Said]) -> list[float]:
        mean = self.means.pop(0) if len(self.means) > 1 else self.means[0]
        return [mean + (number % 2) / 10 for number in range(len(said))]


# The formulas


def drawn(seed: int) -> tuple[list[int], dict[str, np.ndarray[Any, Any]]]:
    chance = np.random.default_rng(seed)
    counts = [int(count) for count in chance.integers(1, 9, size=chance.integers(1, 6))]
    names = ("rewards", "values", "old", "new", "advantage")
    return counts, {name: chance.normal(size=sum(counts)) for name in names}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("decay", [0.0, 0.95, 1.0])
def test_an_advantage_is_the_decaying_sum_of_what_each_later_token_was_better_than_expected(
    seed: int, decay: float
) -> None:
    """Schulman et al. 2015, equation 16, with a discount of 1, summed out."""
    counts, of = drawn(seed)
    expected: list[float] = []
    start = 0
    for count in counts:
        rewards, values = of["rewards"][start : start + count], [*of["values"][start : start + count], 0.0]
        better = [rewards[t] + values[t + 1] - values[t] for t in range(count)]
        expected += [sum(decay ** (later - t) * better[later] for later in range(t, count)) for t in range(count)]
        start += count
    found = ppo.advantages(torch.tensor(of["rewards"]), torch.tensor(of["values"]), counts, decay)
    assert found.numpy() == pytest.approx(np.array(expected))
    if decay == 1.0:  # all that is to come, less what was expected
        returns = (found + torch.tensor(of["values"])).numpy()
        assert returns[0] == pytest.approx(of["rewards"][: counts[0]].sum())


@pytest.mark.parametrize("seed", range(8))
def test_the_losses_are_those_of_the_papers(seed: int) -> None:
    _, of = drawn(seed)
    new, old, gain, values = (of[name] for name in ("new", "old", "advantage", "values"))
    clip, near = 0.2, 0.3
    surrogate = value = 0.0
    for token in range(len(new)):
        ratio = np.exp(new[token] - old[token])
        surrogate += min(ratio * gain[token], min(max(ratio, 1 - clip), 1 + clip) * gain[token])
        held = min(max(values[token], old[token] - near), old[token] + near)
        value += 0.5 * max((values[token] - gain[token]) ** 2, (held - gain[token]) ** 2)
    asked = {name: torch.tensor(of[name], requires_grad=name in ("new", "values")) for name in of}
    loss = ppo.policy_loss(asked["new"], asked["old"], asked["advantage"], clip)
    assert float(loss.detach()) == pytest.approx(-surrogate)
    assert float(ppo.value_loss(asked["values"].detach(), asked["old"], asked["advantage"], near)) == pytest.approx(
        value
    )
    # Where the ratio is past the clip on the side of its advantage, nothing more is to be had.
    (gradient,) = torch.autograd.grad(loss, asked["new"])
    ratio = np.exp(new - old)
    spent = ((gain > 0) & (ratio > 1 + clip)) | ((gain < 0) & (ratio < 1 - clip))
    assert ((gradient == 0).numpy() == spent).all()


@pytest.mark.parametrize("seed", range(4))
def test_what_an_answer_is_worth_comes_with_its_last_token_and_every_token_pays_for_going_away(seed: int) -> None:
    counts, of = drawn(seed)
    scores = torch.arange(1.0, len(counts) + 1, dtype=torch.float64)
    found = ppo.token_rewards(scores, torch.tensor(of["new"]), counts, 0.5)
    paid = -0.5 * of["new"]
    for number, end in enumerate(np.cumsum(counts) - 1):
        paid[end] += number + 1
    assert found.numpy() == pytest.approx(paid)


def test_whitened_numbers_have_a_mean_of_0_and_a_deviation_of_1_and_equal_ones_are_0() -> None:
    found = ppo.whitened(torch.tensor([3.0, 5.0, 10.0, 2.0]))
    assert float(found.mean()) == pytest.approx(0, abs=1e-6) and float(found.std(unbiased=False)) == pytest.approx(1)
    assert ppo.whitened(torch.full((4,), 3.0)).tolist() == [0.0] * 4


def test_going_away_costs_more_where_it_went_too_far_and_never_changes_fast() -> None:
    assert ppo.next_coefficient(0.5, 6.0, 6.0) == 0.5
    assert ppo.next_coefficient(0.5, 6.6, 6.0) == pytest.approx(0.5 * 1.01)
    assert ppo.next_coefficient(0.5, 600.0, 6.0) == pytest.approx(0.5 * 1.02)
    assert ppo.next_coefficient(0.5, -1.0, 6.0) == pytest.approx(0.5 * 0.98)
    new, old = torch.randn(50), torch.randn(50)
    assert float(ppo.divergence(new, old)) > 0 == float(ppo.divergence(old, old))


# What is drawn


def test_what_is_drawn_is_as_likely_as_the_model_says_and_depends_on_nothing_beside_it(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(base)
    model = PlainModel(base, 1.0, torch.float32, CPU)
    texts = [
        "<|im_start|>user\nWhat is the fine?",
        "<|im_start|>user\nName a colour, or two.",
        "<|im_start|>user\nStop",
    ]
    prompts = [tuple(tokenizer(text)["input_ids"]) for text in texts]
    (same,) = prompts[:1]
    many = sample_answers(model, [same] * 4000, 1, 0.7, tokenizer.eos_token_id, seed=3)
    logits = model.model(torch.tensor([same])).logits[0, -1]
    expected = (logits / 0.7).softmax(-1).detach()
    share = torch.bincount(torch.tensor([token for (token,) in many]), minlength=len(expected)) / len(many)
    deviation = (expected * (1 - expected) / len(many)).sqrt()
    assert bool(((share - expected).abs() <= 5 * deviation + 1 / len(many)).all())

    free = sample_answers(model, prompts * 4, 12, 1.0, -1, seed=5)
    ((end, _),) = Counter(token for answer in free for token in answer).most_common(1)
    answers = sample_answers(model, prompts * 4, 12, 1.0, end, seed=5)
    cut = [answer[: answer.index(end) + 1] if end in answer else answer for answer in free]
    assert answers == cut and len({len(answer) for answer in answers}) > 2, "others go on when one has ended"
    monkeypatch.setattr(sampling, "ROWS_AT_ONCE", 5)
    monkeypatch.setattr(sampling, "STILL_SAID", 0.0)
    assert sample_answers(model, prompts * 4, 12, 1.0, end, seed=5) == answers
    assert sample_answers(model, prompts * 4, 12, 1.0, end, seed=6) != answers


# What comes of it


def test_what_is_judged_better_comes_to_be_said_and_the_model_stays_near_to_what_it_was(
    base: Path, tmp_path: Path
) -> None:
    told, outcome = trained(base, tmp_path, replace(RECIPE, steps=12, replay_weight=0.1), **ALONE)
    metrics, rewards = outcome.metrics, [seen.values["reward"] for seen in told]
    # Of 192 answers each. With a rate at which nothing is learned four seeds gave -0.08 to 0.03.
    assert mean(rewards[-4:]) > mean(rewards[:4]) + 0.1 and 0 < metrics["kl_after"] < 10
    assert (metrics["kept_step"], metrics["planned_steps"], metrics["prompts"]) == (12, 12, 6)
    assert told[0].values["kl"] == 0 and [seen.step for seen in told] == list(range(1, 13))
    assert all(seen.replay_divergence is not None for seen in told) and outcome.fallback is None
    assert len(outcome.epoch_losses) == outcome.steps == 12


def test_packs_and_rows_one_by_one_learn_the_same(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, one = trained(base, tmp_path / "packed", replace(SHORT, steps=2))
    monkeypatch.setattr(learning, "LONGEST_PACKED", 2)
    plain, other = trained(base, tmp_path / "plain", replace(SHORT, steps=2))
    assert one.fallback is None and other.fallback is not None
    for ours, theirs in zip(packed, plain, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-3)
        assert ours.values == pytest.approx(theirs.values, abs=1e-3)
    assert one.metrics == pytest.approx(other.metrics, abs=1e-2)


def test_a_training_that_is_taken_up_again_after_any_step_ends_in_the_same_bytes(base: Path, tmp_path: Path) -> None:
    told, whole = trained(base, tmp_path / "whole", SHORT)
    for step in (1, 2, 3):
        work = tmp_path / f"cut {step}"
        with pytest.raises(KeyboardInterrupt):
            train(base, work, SHORT, progress=stopping_at(step), checkpoint_every_s=0)
        kept = load_file(work / "checkpoint" / "training.safetensors")
        assert bool(kept["value.weight"].any()) and "value.weight.exp_avg" in kept, "what tells values is kept"
        again = train(base, work, SHORT)
        assert again.resumed_at_step == step
        assert learned_bytes(work) == learned_bytes(tmp_path / "whole")
        assert (again.metrics, again.epoch_losses) == (whole.metrics, whole.epoch_losses)
    assert [seen.loss for seen in told] == list(whole.epoch_losses)


def test_one_that_runs_away_ends_there_with_the_weights_from_before(base: Path, tmp_path: Path) -> None:
    checkpoints: dict[int, dict[str, torch.Tensor]] = {}

    def keep(seen: Progress) -> None:
        if seen.stage == "training":
            path = tmp_path / "checkpoint" / "training.safetensors"
            checkpoints[seen.step] = load_file(path)

    fast = replace(RECIPE, steps=6, learning_rate=1e-2, kl_limit=4.0, replay_rows_per_step=0, beta=1e-6)
    _, outcome = trained(base, tmp_path, fast, progress=keep, checkpoint_every_s=0, **ALONE)
    kept = int(outcome.metrics["kept_step"])
    assert 0 < kept < 6 and outcome.steps == kept + 1
    assert outcome.metrics["stopped_by_kl"] > 4.0 >= outcome.metrics["kl_after"]
    learned = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    for name, weight in checkpoints[kept].items():
        if name.endswith((".a", ".b")) and not name.startswith("best."):
            layer, _, which = name.rpartition(".")
            assert torch.equal(weight, learned[f"base_model.model.{layer}.lora_{which.upper()}.weight"])


def watching(**changed: Any) -> tuple[Watch, dict[str, torch.nn.Parameter]]:
    return Watch(replace(RECIPE, **changed)), {"w": torch.nn.Parameter(torch.zeros(1))}


def test_a_reward_that_falls_by_more_than_its_spread_has_run_away() -> None:
    watch, named = watching()
    assert not watch.saw([0.4, 0.6], 0.0, 5, named)
    with torch.no_grad():
        named["w"].fill_(1.0)
    assert not watch.saw([0.35, 0.5], 1.0, 5, named), "within its spread it may fall"
    with torch.no_grad():
        named["w"].fill_(2.0)
    assert watch.saw([0.3, 0.4], 2.0, 5, named)
    watch.take_best(named)
    assert float(named["w"]) == 1.0
    told = watch.metrics(9)
    assert (told["kept_step"], told["stopped_by_reward"], told["reward_after"]) == (1, pytest.approx(0.35), 0.425)


@pytest.mark.parametrize(
    ("judge", "changed", "words"),
    [
        (Judge(float("nan")), {}, "ppo: a reward is no number at step 1: nothing that it judges can be learned from"),
        (Judge(0.5, float("inf")), {}, "ppo: a reward is no number at step 2"),
        (Judge(0.5, -3.0), {}, r"ppo: it ran away in its first step.* the mean reward fell from 0.5\d* to -2.9"),
        (
            Judge(0.5),
            {"kl_limit": 1e-6, "learning_rate": 0.1},
            r"nats away from the reference \(kl_limit 1e-06\); a lower",
        ),
    ],
    ids=["no number", "infinite", "fallen", "far"],
)
def test_a_round_of_which_nothing_can_come_fails_with_the_reason(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Judge, changed: dict[str, Any], words: str
) -> None:
    judge = Judge(*judge.means)
    monkeypatch.setattr(method, "reward_of", lambda job: judge)
    with pytest.raises(Invalid, match=words):
        train(base, tmp_path, replace(SHORT, **changed), **ALONE)
    assert not (tmp_path / "out" / "model").exists()


def test_without_rules_and_without_a_reward_model_nothing_says_what_an_answer_is_worth(
    base: Path, tmp_path: Path
) -> None:
    with pytest.raises(Invalid, match=r"nothing says what an answer is worth: the recipe has no rules"):
        train(base, tmp_path, replace(SHORT, rules=()))


def test_prompts_that_leave_no_room_for_an_answer_are_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    long = TrainingRow(prompt="long " * 600, answer="Far.")
    _, outcome = trained(
        base, tmp_path / "some", replace(SHORT, steps=1), rows=(*tiny.rows(0, 2), long), earlier=(), pairs=()
    )
    assert (outcome.metrics["prompts"], outcome.metrics["prompts_left_out"], outcome.rows_left_out) == (2, 1, 1)
    with pytest.raises(
        Invalid, match=r"none of the 1 prompts can be answered: with an answer of 8 tokens .* above 512"
    ):
        train(base, tmp_path / "none", SHORT, rows=(long,), earlier=(), pairs=())


def test_the_reference_is_the_model_without_what_learns(base: Path) -> None:
    model = PackedModel(base, 1.0, torch.float32, CPU)
    asked = torch.tensor([[1, 2, 3, 4]])
    before = model.model(asked).logits
    adapter = moved_adapter(model)
    assert not torch.equal(model.model(asked).logits, before)
    with adapter.off():
        assert torch.equal(model.model(asked).logits, before)


def moved_adapter(model: PackedModel) -> Adapter:
    adapter = add_adapter(model.model, model.upper_layers(), RECIPE)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    return adapter


STAGED = SftRewardPpoRecipe(
    **{name: getattr(SHORT, name) for name in PpoRecipe.__struct_fields__ if name not in ("rules", "steps")},
    steps=2,
    sft_learning_rate=1e-2,
    sft_epochs=2,
    reward_epochs=2,
)


def test_corrections_a_reward_model_and_answers_of_its_own_in_one_round_that_is_taken_up_in_each_of_them(
    base: Path, tmp_path: Path
) -> None:
    begun: dict[str, int] = {}
    stages: list[StageDone] = []

    def listen(seen: Progress) -> None:
        if seen.stage == "training":
            begun.setdefault(str(seen.part), seen.step)

    whole = train(base, tmp_path / "whole", STAGED, progress=listen, stage_done=stages.append)
    assert list(begun) == [one.stage for one in stages] == ["sft", "reward", "ppo"]
    assert whole.metrics["ppo_prompts"] == 10 and "ppo_reward_after" in whole.metrics

    def dying(part: str) -> Callable[[Progress], None]:
        def die(seen: Progress) -> None:
            if (seen.stage, seen.part, seen.step) == ("training", part, begun[part]):
                raise KeyboardInterrupt

        return die

    for part in begun:
        with pytest.raises(KeyboardInterrupt):
            train(base, tmp_path / "cut", STAGED, progress=dying(part), checkpoint_every_s=0)
    again = train(base, tmp_path / "cut", STAGED)
    assert learned_bytes(tmp_path / "cut") == learned_bytes(tmp_path / "whole")
    assert again.metrics == whole.metrics and again.resumed_at_step > begun["ppo"]
