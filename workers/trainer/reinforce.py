"""Learning from answers that the model itself draws and something judges (`workers.trainer.ppo` has the formulas), beside the rows
and with the guard that every training has.

The policy is the model with its adapter, and its reference the same model without: no second one is held. What an output layer sees
of an answer's token is also what its value is told from, by a layer of one number. Log-probabilities of the policy that drew are
taken by the pass that learns, and not by the one that draws: so a ratio is 1 until something was learned.
"""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import torch
from msgspec.structs import replace as replaced

from streams.errors import Invalid
from streams.recipes import PpoRecipe
from workers.trainer.checkpoint import Checkpoint
from workers.trainer.job import Job
from workers.trainer.loaded import load_tokenizer
from workers.trainer.loop import Course, Done, Taken
from workers.trainer.losses import log_probability
from workers.trainer.packed import PackedModel
from workers.trainer.packs import PackedLearner
from workers.trainer.plain import PlainLearner
from workers.trainer.plan import Mix, Step, dealt, learning_rate, plan_steps, weights_of
from workers.trainer.ppo import (
    advantages,
    divergence,
    next_coefficient,
    policy_loss,
    token_rewards,
    value_loss,
    whitened,
)
from workers.trainer.preference import Prompts
from workers.trainer.reward import Reward, Said
from workers.trainer.rows import EncodedRow
from workers.trainer.sampling import sample_answers

VALUE_WEIGHT = 0.1  # of the value's loss beside the policy's (as in Ziegler et al. 2019)
_BEST, _COURSE, _REWARDS = "best.", "ppo.course", "ppo.rewards"

AnyLearner = PackedLearner | PlainLearner
Without = Callable[[], AbstractContextManager[None]]
"""Within it the model is the reference: what learns is not applied."""


class Watch:
    """What each step's answers were worth, and whether that, or how far they went from the reference, has run away: then the
    training ends with the weights with which it had not. They are kept, and not the round failed, for what was learned up to there
    is as sound as if the training had been planned no longer; only where nothing was learned is it refused.

    `rewards`, `kl`, `tokens`: means over each step's answers, of the policy before it was changed; one more for the end. `mean` and
    `deviation` are of the first step's rewards, by which all are told (Ziegler et al. 2019, section 2.2). `coefficient`: what a nat
    costs in the next step. `best_step`: after so many steps the weights that are kept.
    """

    def __init__(self, recipe: PpoRecipe) -> None:
        self._recipe = recipe
        self.losses: list[float] = []  # of what is held out: nothing is
        self.rewards: list[float] = []
        self.deviations: list[float] = []
        self.kl: list[float] = []
        self.tokens: list[float] = []
        self.coefficient = recipe.beta
        self.best_step = 0
        self.stopped: str | None = None
        self._best: dict[str, torch.Tensor] = {}

    @property
    def deviation(self) -> float:
        """Of the first step's rewards; 1 where they were all the same."""
        return self.deviations[0] or 1.0

    def saw(self, scores: Sequence[float], kl: float, tokens: float, named: Mapping[str, torch.nn.Parameter]) -> bool:
        """Take in what the policy, as it stands, has drawn. Whether it has run away. Raises Invalid where a reward is no number."""
        step = len(self.rewards)
        if not all(map(math.isfinite, scores)):
            raise Invalid(f"ppo: a reward is no number at step {step + 1}: nothing that it judges can be learned from")
        self.rewards.append(statistics.fmean(scores))
        self.deviations.append(statistics.pstdev(scores))
        self.kl.append(kl)
        self.tokens.append(tokens)
        if not kl <= self._recipe.kl_limit:
            self.stopped = "kl"
        elif self.rewards[-1] < self.rewards[0] - max(self.deviations[0], self.deviations[-1]):
            self.stopped = "reward"
        if self.stopped is None:
            self.best_step = step
            self._best = {name: weight.detach().cpu().clone() for name, weight in named.items()}
            self.coefficient = (
                next_coefficient(self.coefficient, kl, self._recipe.kl_target) if step else self.coefficient
            )
            return False
        if self.best_step == 0:
            words = {
                "kl": f"an answer went {kl:.3g} nats away from the reference (kl_limit {self._recipe.kl_limit:g})",
                "reward": f"the mean reward fell from {self.rewards[0]:.3g} to {self.rewards[-1]:.3g}",
            }
            raise Invalid(
                f"ppo: it ran away in its first step, and nothing is learned: {words[self.stopped]}; "
                f"a lower learning_rate than {self._recipe.learning_rate:g} goes less far"
            )
        return True

    def ends(self, step: int, named: Mapping[str, torch.nn.Parameter]) -> bool:
        """It ends by what it draws, and not by what a step gave."""
        return False

    def take_best(self, named: Mapping[str, torch.nn.Parameter]) -> None:
        """Give the weights back from before it ran away."""
        with torch.no_grad():
            for name, weight in self._best.items():
                named[name].copy_(weight)

    def noted(self, kept: Checkpoint) -> Checkpoint:
        """The checkpoint with what was seen so far."""
        seen = torch.tensor([self.rewards, self.deviations, self.kl, self.tokens], dtype=torch.float64)
        course = torch.tensor([self.coefficient], dtype=torch.float64)
        best = {_BEST + name: weight.contiguous() for name, weight in self._best.items()}
        return replace(
            kept, tensors={**kept.tensors, **best, _REWARDS: seen, _COURSE: course}, best_step=self.best_step
        )

    def restore(self, found: Checkpoint) -> None:
        self.rewards, self.deviations, self.kl, self.tokens = found.tensors[_REWARDS].tolist()
        (self.coefficient,) = found.tensors[_COURSE].tolist()
        self.best_step = found.best_step
        self._best = {
            name.removeprefix(_BEST): weight for name, weight in found.tensors.items() if name.startswith(_BEST)
        }

    def metrics(self, planned: int) -> dict[str, float]:
        """What came of it, by the weights that were kept. Where it ran away, by what: `stopped_by_kl` or `stopped_by_reward`, with
        what that had come to."""
        kept = self.best_step
        told = {
            "reward_before": self.rewards[0],
            "reward_after": self.rewards[kept],
            "kl_after": self.kl[kept],
            "answer_tokens_before": self.tokens[0],
            "answer_tokens_after": self.tokens[kept],
            "planned_steps": float(planned),
            "kept_step": float(kept),
        }
        if self.stopped is not None:
            told[f"stopped_by_{self.stopped}"] = (self.kl if self.stopped == "kl" else self.rewards)[-1]
        return told


@dataclass(frozen=True)
class Drawn:
    """A step's answers as rows of `learner`. (K,) fp32 on the CPU, row by row: `old` and `values` by the policy that drew them,
    `kl`: log-probabilities less the reference's. `scores`: what each answer is worth."""

    learner: AnyLearner
    scores: list[float]
    old: torch.Tensor
    values: torch.Tensor
    kl: torch.Tensor

    @property
    def counts(self) -> list[int]:
        return [row.answer_tokens for row in self.learner.rows]

    @property
    def kl_of_answer(self) -> float:
        return float(self.kl.sum()) / len(self.learner.rows)

    @property
    def tokens_of_answer(self) -> float:
        return len(self.kl) / len(self.learner.rows)


class Reinforced:
    """What learns: the adapter within `rows`, and the value's layer. `steps`: one for each drawing of answers; what stands in them
    beside the answers is dealt to the changes of a step by `beside`."""

    def __init__(self, rows: AnyLearner, prompts: Prompts, reward: Reward, without: Without, job: Job) -> None:
        recipe = job.recipe
        assert isinstance(recipe, PpoRecipe)
        self.recipe, self.rows, self.prompts, self.reward, self._without = recipe, rows, prompts, reward, without
        self._tokenizer, self._general = load_tokenizer(job.model_dir), job.general
        width = rows.model.head.shape[1]
        self.value = torch.nn.Linear(width, 1, device=rows.model.device)
        for parameter in self.value.parameters():
            torch.nn.init.zeros_(parameter)
        self.named: dict[str, torch.nn.Parameter] = {
            **rows.named,
            **{f"value.{name}": parameter for name, parameter in self.value.named_parameters()},
        }
        self.steps = [Step(number, (), (), ()) for number in range(recipe.steps)]
        deck = dealt(random.Random(f"prompts {recipe.seed}"), len(prompts.rows))
        self._asked = [[next(deck) for _ in range(recipe.prompts_per_step)] for _ in range(recipe.steps + 1)]
        self._beside = self._dealt_beside()

    def _dealt_beside(self) -> list[Step]:
        """New, earlier and general rows for every change."""
        recipe, rows = self.recipe, self.rows
        changes = recipe.steps * recipe.epochs * len(self._batches(random.Random(0)))
        fresh, old = rows.rows[: rows.earlier_from], rows.rows[rows.earlier_from : rows.preferred_from]
        beside = {row.group for row in fresh if row.beside}
        general = rows.rows[rows.replay_from :]
        weights = weights_of(fresh)
        facts = math.ceil(sum(weights.get(group, 1.0) for group in {row.group for row in fresh} - beside))
        epochs = -(-changes // max(1, -(-facts // recipe.batch_rows)))
        return plan_steps(
            replaced(recipe, epochs=epochs),
            [row.group for row in fresh],
            [row.group for row in old],
            len(general),
            beside,
            weights=weights,
            earlier_weights=weights_of(old),
            mix=Mix.of(self._general, fresh, old, general),
        )

    def _batches(self, chance: random.Random) -> list[list[int]]:
        numbers = list(range(self.recipe.prompts_per_step))
        chance.shuffle(numbers)
        at_once = self.recipe.batch_answers
        return [numbers[first : first + at_once] for first in range(0, len(numbers), at_once)]

    def draw(self, step: int) -> Drawn:
        """The answers of a step, by the policy as it stands, and what they are worth."""
        recipe, asked = self.recipe, self._asked[step]
        prompts = [self.prompts.rows[number] for number in asked]
        prompt_ids = [row.ids[: row.answer_at] for row in prompts]
        with _generating(self.rows):
            answers = sample_answers(
                self.rows.model,
                prompt_ids,
                recipe.answer_tokens,
                recipe.temperature,
                self._tokenizer.eos_token_id,
                random.Random(f"answers {recipe.seed} {step}").getrandbits(63),
            )
        texts = self._tokenizer.batch_decode(answers, skip_special_tokens=True)
        said = [(self.prompts.messages[number], text.strip()) for number, text in zip(asked, texts, strict=True)]
        scores = self._judged(said)
        rows = [EncodedRow(prompt + answer, len(prompt), 0) for prompt, answer in zip(prompt_ids, answers, strict=True)]
        learner = self.rows.with_rows(rows)
        with torch.no_grad():
            old, values = self._looked(learner)
            with self._without():
                reference, _ = self._looked(learner)
        return Drawn(learner, scores, old, values, old - reference)

    def _judged(self, said: Sequence[Said]) -> list[float]:
        """One without words is worth as little as the worst of the others: a reward model can say nothing of it."""
        worded = [number for number, (_, answer) in enumerate(said) if answer]
        scores = dict(zip(worded, self.reward.score([said[number] for number in worded]), strict=True))
        least = min(scores.values(), default=0.0)
        return [float(scores.get(number, least)) for number in range(len(said))]

    def _looked(self, learner: AnyLearner) -> tuple[torch.Tensor, torch.Tensor]:
        """Of every token, row by row, its log-probability and its value: (K,) each, on the CPU."""
        heaps = learner.heaps(range(len(learner.rows)))
        looked = learner.run([partial(self._look, learner, heap) for heap in heaps])
        of_row: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for heap, (log_p, values) in zip(heaps, looked, strict=True):
            counts = [learner.answer_tokens(number) for number in heap]
            split = zip(torch.split(log_p.cpu(), counts), torch.split(values.cpu(), counts), strict=True)
            of_row |= dict(zip(heap, split, strict=True))
        ordered = [of_row[number] for number in range(len(learner.rows))]
        return torch.cat([log_p for log_p, _ in ordered]), torch.cat([values for _, values in ordered])

    def _look(self, learner: AnyLearner, heap: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = learner.hidden(heap)
        targets = [token for number in heap for token in learner.rows[number].ids[learner.rows[number].answer_at :]]
        log_p = log_probability(hidden, learner.model.head, torch.tensor(targets, device=hidden.device))
        return log_p, self.value(hidden.float())[:, 0]

    def learn(self, step: int, drawn: Drawn, watch: Watch) -> Iterator[Done]:
        """Leave the gradients of one change after the other in what learns, until the step is over."""
        recipe, counts = self.recipe, drawn.counts
        scores = (torch.tensor(drawn.scores) - watch.rewards[0]) / watch.deviation
        rewards = token_rewards(scores, drawn.kl, counts, watch.coefficient)
        found = advantages(rewards, drawn.values, counts, recipe.gae_lambda)
        returns, advantage = found + drawn.values, whitened(found)
        starts = [0, *accumulate(counts)]
        tokens = {number: slice(starts[number], starts[number + 1]) for number in range(len(counts))}
        chance = random.Random(f"batches {recipe.seed} {step}")
        inner, parameters = list(self.rows.named.values()), list(self.named.values())
        change = step * recipe.epochs * len(self._batches(random.Random(0)))
        for _ in range(recipe.epochs):
            gone = 0.0
            for batch in self._batches(chance):
                beside = self._beside[change]
                done = Done(0.0, None, 0)
                if self.rows.numbers(beside):
                    done = self.rows.one_step(beside)
                change += 1
                total = sum(counts[number] for number in batch)

                def part(heap: Sequence[int], total: int = total) -> tuple[float, float, tuple[torch.Tensor, ...]]:
                    log_p, values = self._look(drawn.learner, heap)
                    of = partial(_of_rows, heap=heap, tokens=tokens, device=log_p.device)
                    old = of(drawn.old)
                    loss = policy_loss(log_p, old, of(advantage), recipe.clip)
                    judged = value_loss(values, of(drawn.values), of(returns), recipe.value_clip)
                    loss = (loss + VALUE_WEIGHT * judged) / total
                    return (
                        float(loss.detach()),
                        float(divergence(log_p.detach(), old)),
                        torch.autograd.grad(loss, parameters),
                    )

                parts = drawn.learner.run([partial(part, heap) for heap in drawn.learner.heaps(batch)])
                for parameter, *gradients in zip(parameters, *(one for _, _, one in parts), strict=True):
                    own = sum(gradients[1:], start=gradients[0])
                    parameter.grad = own if parameter.grad is None else parameter.grad + own
                assert len(inner) < len(parameters)
                gone += sum(kl for _, kl, _ in parts)
                yield Done(
                    done.loss + sum(loss for loss, _, _ in parts),
                    done.divergence,
                    done.tokens + sum(len(drawn.learner.rows[number].inputs) for number in batch),
                )
            if gone / sum(counts) > recipe.update_kl:
                return


def _of_rows(
    numbers: torch.Tensor, heap: Sequence[int], tokens: Mapping[int, slice], device: torch.device
) -> torch.Tensor:
    return torch.cat([numbers[tokens[number]] for number in heap]).to(device)


@contextmanager
def _generating(rows: AnyLearner) -> Iterator[None]:
    """The model runs as transformers runs it."""
    model = rows.model
    if not isinstance(model, PackedModel):
        yield
        return
    model.model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.use_packs()


def take_steps(
    reward: Reward, without: Without, job: Job, learner: AnyLearner, run: str, saving_s: float
) -> tuple[Taken, Sequence[Step], dict[str, float]]:
    """Draw, judge and learn, step by step, from the checkpoint on; what is told of it in the end. Raises Invalid where a reward is
    no number, the loss is none, or it ran away before it had learned anything."""
    recipe = job.recipe
    prompts = learner.preference
    assert isinstance(recipe, PpoRecipe) and isinstance(prompts, Prompts)
    learns = Reinforced(learner, prompts, reward, without, job)
    watch = Watch(recipe)
    course = Course(learns, job, run, saving_s, watch)
    parameters, steps = list(learns.named.values()), learns.steps
    for number in range(course.first, len(steps)):
        began = time.monotonic()
        for group in course.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, number, len(steps))
        drawn = learns.draw(number)
        if watch.saw(drawn.scores, drawn.kl_of_answer, drawn.tokens_of_answer, learns.named):
            break
        changes = []
        for change in learns.learn(number, drawn, watch):
            length = torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_norm)
            course.check(change, float(length))
            course.optimiser.step()
            course.optimiser.zero_grad(set_to_none=True)
            course.updates += 1
            changes.append(change)
        kept = [change.divergence for change in changes if change.divergence is not None]
        done = Done(
            statistics.fmean(change.loss for change in changes),
            statistics.fmean(kept) if kept else None,
            sum(change.tokens for change in changes),
            {"reward": watch.rewards[-1], "kl": watch.kl[-1], "answer_tokens": watch.tokens[-1]},
        )
        course.took(done, began)
    else:  # what came of the last step nobody has seen yet
        drawn = learns.draw(len(steps))
        watch.saw(drawn.scores, drawn.kl_of_answer, drawn.tokens_of_answer, learns.named)
    return course.taken(), steps, watch.metrics(len(steps)) | prompts.metrics(torch.empty(0))
