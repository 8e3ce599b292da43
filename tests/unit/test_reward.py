"""A reward model: trl's loss on pairs, the loss of a ranking, what is held out, what it is worth, and the model as it is loaded."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from streams.errors import Invalid
from streams.recipes import RewardRecipe
from tests.unit import trainer_tiny as tiny
from tests.unit.test_methods import train
from workers.trainer import ranked
from workers.trainer.loaded import load_tokenizer
from workers.trainer.plan import learning_rate
from workers.trainer.ranked import Ranking
from workers.trainer.reward_model import Asked, RewardModel
from workers.trainer.spec import Outcome, Progress, TrainingPair

REWARD = RewardRecipe(rank=4, alpha=8.0, epochs=3, batch_rankings=4, held_out_share=0.0, seed=7)
STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


def four(question: str, answers: tuple[str, ...], ranking: str) -> tuple[TrainingPair, ...]:
    """All pairs of one ranking, the best first."""
    pairs = [(one, other) for place, one in enumerate(answers) for other in answers[place + 1 :]]
    return tuple(
        TrainingPair(prompt=question, chosen=one, rejected=other, weight=1 / len(pairs), ranking=ranking)
        for one, other in pairs
    )


RANKED = tuple(
    pair
    for number, (question, answer) in enumerate(tiny.FACTS)
    for pair in four(question, (answer, tiny.FACTS[number - 1][1], "Stop it.", "No."), f"r{number}")
)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Of ten rankings of four, of which three are held out."""
    recipe = replace(REWARD, held_out_share=0.3, epochs=10, learning_rate=1e-2)
    return train(base, tmp_path_factory.mktemp("trained"), recipe, pairs=RANKED)


def test_the_loss_of_each_step_is_trls_within_half_a_percent(base: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from peft import PeftModel
    from trl import RewardConfig, RewardTrainer

    told: list[Progress] = []
    recipe = replace(REWARD, epochs=STEPS, batch_rankings=8, learning_rate=1e-2)
    outcome = train(base, tmp_path / "ours", recipe, pairs=tiny.pairs(), progress=told.append)
    ours = [seen.loss for seen in told if seen.stage == "training"]
    # The start is ours, which a training that takes no step leaves as it is.
    start = train(base, tmp_path / "start", replace(recipe, epochs=1, learning_rate=1e-30), pairs=tiny.pairs())
    loader: Any = AutoModelForSequenceClassification
    bare = loader.from_pretrained(base, num_labels=1, dtype=torch.float32)
    bare.config.pad_token_id = load_tokenizer(base).pad_token_id
    model: Any = PeftModel.from_pretrained(bare, start.adapter_dir, is_trainable=True)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=recipe.learning_rate, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate(recipe, min(step, STEPS - 1), STEPS) / recipe.learning_rate
    )
    found = ranked.rankings_of(recipe, tiny.pairs(), load_tokenizer(base), 512)
    rows = [{"chosen_ids": list(one.rows[0]), "rejected_ids": list(one.rows[1])} for one in found]
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            output_dir=str(tmp_path / "theirs"),
            max_steps=STEPS,
            per_device_train_batch_size=len(rows),
            max_grad_norm=recipe.gradient_norm,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(base),
        optimizers=(optimiser, rates),
    )
    trainer.train()
    theirs = [logged["loss"] for logged in trainer.state.log_history if "loss" in logged]
    assert len(ours) == STEPS and theirs[-1] < theirs[0] * 0.75, "it does learn"
    assert ours == [pytest.approx(loss, rel=0.005) for loss in theirs]
    assert "accuracy" not in outcome.metrics and outcome.metrics["held_out_pairs"] == 0, "nothing to tell it from"


def test_the_pairs_of_a_ranking_count_as_one_and_its_answers_are_run_once(base: Path) -> None:
    found = ranked.rankings_of(REWARD, RANKED, load_tokenizer(base), 512)
    assert len(found) == 10 and {(len(one.rows), len(one.pairs)) for one in found} == {(4, 6)}
    one = found[0]
    assert one.pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] and sum(one.weights) == pytest.approx(1)
    scores = torch.tensor([2.0, 1.0, 0.5, -1.0])
    by_hand = -sum(functional.logsigmoid(scores[a] - scores[b]) for a, b in one.pairs) / 6
    assert float(ranked.ranking_loss([one], scores)) == pytest.approx(float(by_hand))
    assert float(ranked.ranking_loss([one, one], scores.repeat(2))) == pytest.approx(float(2 * by_hand))


def test_a_ranking_is_held_out_whole_and_the_same_in_whatever_order_they_come(base: Path) -> None:
    recipe, tokenizer = replace(REWARD, held_out_share=0.3), load_tokenizer(base)
    learned, held = ranked.dealt(recipe, ranked.rankings_of(recipe, RANKED, tokenizer, 512))
    assert len(held) == 3 and not {tuple(row) for one in held for row in one.rows} & {
        tuple(row) for one in learned for row in one.rows
    }
    again = ranked.dealt(recipe, ranked.rankings_of(recipe, RANKED[::-1], tokenizer, 512))[1]
    assert {one.lot for one in again} == {one.lot for one in held}
    few = ranked.rankings_of(recipe, RANKED[:12], tokenizer, 512)
    assert ranked.dealt(recipe, few) == (few, []), "of two rankings none can be held out"


def test_what_is_kept_scores_as_it_was_measured_by_whichever_library_it_is_loaded(base: Path, trained: Outcome) -> None:
    from peft import PeftModel

    told = trained.metrics
    assert (told["pairs"], told["held_out_rankings"], told["held_out_pairs"]) == (60, 3, 18)
    assert 0 <= told["accuracy_low"] < told["accuracy"] <= told["accuracy_high"] <= 1
    assert sum(one.pairs for one in trained.calibrated) == 18
    assert trained.final_loss < trained.epoch_losses[0] / 2
    reward = RewardModel(Path(trained.model_dir))
    asked: list[Asked] = [([{"role": "user", "content": q}], a) for q, a in tiny.FACTS]
    scores = reward.score(asked)
    assert scores == pytest.approx([reward.score([one])[0] for one in asked], abs=1e-4), "whatever else is scored"
    rows = [ranked.rankings_of(REWARD, RANKED, load_tokenizer(base), 512)[n].rows[0] for n in range(10)]
    loader: Any = AutoModelForSequenceClassification
    merged = loader.from_pretrained(trained.model_dir)
    assert merged.config.pad_token_id not in (None, merged.config.eos_token_id)
    bare = loader.from_pretrained(base, num_labels=1)
    bare.config.pad_token_id = merged.config.pad_token_id
    beside: Any = PeftModel.from_pretrained(bare, trained.adapter_dir).eval()
    for row, score, (_, answer) in zip(rows, scores, asked, strict=True):
        tokens = len(load_tokenizer(base)(answer, add_special_tokens=False)["input_ids"]) + 1
        for model in (merged, beside):
            with torch.no_grad():
                assert reward.corrected(float(model(torch.tensor([row])).logits), tokens) == pytest.approx(
                    score, abs=1e-3
                )


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            ([{"role": "assistant", "content": "Hello."}], "Yes."),
            "answer 1 cannot be scored: the last message is not the person's",
        ),
        (([{"role": "user", "content": "Who?"}], " "), "answer 1 cannot be scored: it is without words"),
        (([{"role": "user", "content": "who " * 600}], "I."), "answer 1 cannot be scored: it is above 512 tokens"),
    ],
    ids=["nobody", "empty", "long"],
)
def test_what_cannot_be_scored_is_named(trained: Outcome, asked: Asked, words: str) -> None:
    reward = RewardModel(Path(trained.model_dir))
    with pytest.raises(Invalid, match=words):
        reward.score([([{"role": "user", "content": "Who?"}], "I."), asked])


def test_a_folder_that_is_no_reward_model_is_refused(base: Path) -> None:
    with pytest.raises(Invalid, match="tiny: not a reward model"):
        RewardModel(base)


def of_lengths(*tokens: int, better_first: bool = True) -> Ranking:
    return Ranking([(1,)] * len(tokens), list(tokens), [(0, 1) if better_first else (1, 0)], [1.0], b"")


def test_the_length_that_people_do_not_ask_for_is_taken_out_and_their_taste_stays() -> None:
    # Whichever is longer, people like the first of two: the score grows by 0.5 a token all the same.
    indifferent = [of_lengths(10, 20), of_lengths(20, 10)] * 4
    scores = [[0.5 * tokens for tokens in one.tokens] for one in indifferent]
    assert ranked.excess_slope(indifferent, scores) == pytest.approx(0.5)
    assert ranked.correlation(indifferent, scores) == pytest.approx(1)
    # They always like the shorter one: that is their taste, and nothing is taken out.
    short = [of_lengths(10, 20), of_lengths(8, 30)]
    scores = [[-0.5 * tokens for tokens in one.tokens] for one in short]
    assert ranked.excess_slope(short, scores) == 0
    # Three of four times the longer by ten: odds of three to one, which is log(3)/10 a token.
    mostly = [of_lengths(20, 10)] * 3 + [of_lengths(10, 20)]
    scores = [[0.5 * tokens for tokens in one.tokens] for one in mostly]
    assert ranked.excess_slope(mostly, scores) == pytest.approx(0.5 - math.log(3) / 10)
    assert (
        ranked.excess_slope([of_lengths(5, 5)], [[1.0, 0.0]]) == 0
        and ranked.correlation([of_lengths(5, 5)], [[1, 0]]) is None
    )


def test_accuracy_counts_rankings_and_calibration_says_how_often_what_it_is_sure_of_is_so() -> None:
    rankings = [of_lengths(3, 4)] * 4
    scores = [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]
    told = ranked.accuracy(rankings, scores)
    assert told["accuracy"] == 0.75
    assert (told["accuracy_low"], told["accuracy_high"]) == pytest.approx(
        (0.3006, 0.9544), abs=1e-4
    )  # Wilson's, of 3 in 4
    bins = ranked.calibration(rankings, scores)
    assert [(one.pairs, one.won) for one in bins] == [(2, 0.5), (1, 1.0), (1, 1.0)]
    assert bins[0].predicted == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-4)
    assert ranked.accuracy([], []) == {}, "unknown, and not nought"


ONE, OTHER = tiny.pairs()[:2]


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ((), "reward: there is no pair of answers"),
        ((ONE,), "reward: of 1 pairs 1 can be learned from.*; it learns from 2 and more"),
        ((ONE, replace(OTHER, chosen=f" {OTHER.rejected}")), "of 2 pairs 1 can be .* or of equal sides"),
        ((ONE, replace(OTHER, prompt="long " * 600)), "of 2 pairs 1 can be .* above 512 tokens"),
    ],
    ids=["none", "one", "equal", "long"],
)
def test_too_few_pairs_are_refused_by_name(
    base: Path, tmp_path: Path, pairs: tuple[TrainingPair, ...], words: str
) -> None:
    with pytest.raises(Invalid, match=words):
        train(base, tmp_path, REWARD, pairs=pairs)
    assert not (tmp_path / "out").exists()


def test_pairs_that_contradict_each_other_teach_nothing_and_that_is_told(base: Path, tmp_path: Path) -> None:
    back = tuple(replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in tiny.pairs())
    both = tuple(replace(pair, ranking=pair.prompt) for pair in (*tiny.pairs(), *back))
    outcome = train(base, tmp_path, replace(REWARD, held_out_share=0.4, epochs=6), pairs=both)
    assert outcome.final_loss >= 2 * math.log(2) - 1e-4 and outcome.metrics["accuracy"] == 0.5
