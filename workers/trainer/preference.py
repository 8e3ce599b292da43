"""What people prefer, as a loss: of two answers to a prompt the better one is to be likelier, or of one whether it is good.

Both losses are of how much likelier the model has come to find an answer than its reference does: itself before the training, whose
log-probabilities are taken once, before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from streams.control_tokens import escape_control_tokens
from streams.errors import Invalid
from streams.recipes import PpoRecipe, PreferenceRecipe, PreferringRecipe, RewardRecipe
from streams.turns import turns_of
from workers.trainer.rows import EncodedRow, control_texts, prompt_ids, row_limit
from workers.trainer.spec import TrainingLabel, TrainingPair, TrainingRow

if TYPE_CHECKING:
    import torch  # the plan of a training is made without it

    from workers.trainer.job import Job


class TooFew(Invalid):
    """Of what people prefer nothing can be learned."""


class Preference:
    """`rows`: all answers; `units`: of each thing that people said the rows that are learned together, by their place in `rows`;
    `left_out`: so many said nothing that could be learned. `reference`: (rows,) fp32, of each row how likely the reference finds
    its answer; there before the first step."""

    def __init__(self, recipe: PreferringRecipe, rows: list[EncodedRow], units: list[tuple[int, ...]], left_out: int):
        self.rows, self.units, self.left_out = rows, units, left_out
        self.beta = recipe.beta
        self.reference: torch.Tensor

    def ahead(self, units: Sequence[int]) -> list[int]:
        """The rows that a step with these `units` must have run, without learning from them, before its loss is known."""
        return []

    def baseline(self, ratios: torch.Tensor) -> float:
        """What the rows `ahead` say, by their log-ratios to the reference."""
        return 0.0

    def loss(self, rows: Sequence[int], ratios: torch.Tensor, baseline: float) -> torch.Tensor:
        """Summed over the units that `rows` are of, unit by unit. `ratios`: their log-ratios to the reference, (rows,)."""
        raise NotImplementedError

    def metrics(self, log_p: torch.Tensor) -> dict[str, float]:
        """What came of it, by how likely all rows are in the end."""
        raise NotImplementedError


class Pairs(Preference):
    """Rafailov et al. 2023 (arXiv 2305.18290), equation 7: -log sigmoid(beta (ratio of the better - ratio of the worse)). A pair
    weighs one over the pairs of its ranking, as in Ouyang et al. 2022 (arXiv 2203.02155), equation 1; all weigh one on average."""

    def __init__(
        self,
        recipe: PreferenceRecipe,
        rows: list[EncodedRow],
        weights: Sequence[float],
        left_out: int,
    ) -> None:
        super().__init__(recipe, rows, [(at, at + 1) for at in range(0, len(rows), 2)], left_out)
        mean = sum(weights) / len(weights)
        self.weights = [weight / mean for weight in weights]

    def loss(self, rows: Sequence[int], ratios: torch.Tensor, baseline: float) -> torch.Tensor:
        from torch.nn import functional

        weights = ratios.new_tensor([self.weights[row // 2] for row in rows[::2]])
        return -(weights * functional.logsigmoid(self.beta * (ratios[::2] - ratios[1::2]))).sum()

    def metrics(self, log_p: torch.Tensor) -> dict[str, float]:
        """The share of the pairs whose better side was likelier, before and after, and by how much more that was rewarded."""
        before, after = self.reference[::2] - self.reference[1::2], log_p[::2] - log_p[1::2]
        return {
            "pairs": float(len(self.units)),
            "pairs_left_out": float(self.left_out),
            "preferred_before": float((before > 0).float().mean()),
            "preferred_after": float((after > 0).float().mean()),
            "reward_margin": self.beta * float((after - before).mean()),
        }


class Labels(Preference):
    """Ethayarajh et al. 2024 (arXiv 2402.01306), equation 8. Behind the answers stands, for each, its prompt with the answer to
    another: what these rows have come to is how far the model has gone from its reference, against which a gain is one."""

    def __init__(self, recipe: PreferenceRecipe, rows: list[EncodedRow], good: Sequence[bool], left_out: int) -> None:
        super().__init__(recipe, rows, [(at,) for at in range(len(good))], left_out)
        counts = {True: sum(good), False: len(good) - sum(good)}
        self.good = good
        self.weights = [max(counts.values()) / counts[one] for one in good]

    def ahead(self, units: Sequence[int]) -> list[int]:
        return [len(self.units) + unit for unit in units]

    def baseline(self, ratios: torch.Tensor) -> float:
        return max(0.0, float(ratios.mean()))

    def loss(self, rows: Sequence[int], ratios: torch.Tensor, baseline: float) -> torch.Tensor:
        signs = ratios.new_tensor([1.0 if self.good[row] else -1.0 for row in rows])
        weights = ratios.new_tensor([self.weights[row] for row in rows])
        return (weights * (1 - (self.beta * signs * (ratios - baseline)).sigmoid())).sum()

    def metrics(self, log_p: torch.Tensor) -> dict[str, float]:
        """How good and bad answers are rewarded in the end, against before."""
        rewards = (self.beta * (log_p - self.reference))[: len(self.good)]
        good = [float(reward) for reward, one in zip(rewards, self.good, strict=True) if one]
        bad = [float(reward) for reward, one in zip(rewards, self.good, strict=True) if not one]
        return {
            "labels": float(len(self.good)),
            "labels_left_out": float(self.left_out),
            "reward_of_good": sum(good) / len(good),
            "reward_of_bad": sum(bad) / len(bad),
        }


class Prompts(Preference):
    """What answers are drawn to, where the model learns from its own (`workers.trainer.reinforce`): every prompt that somebody
    corrected, or preferred an answer to. `rows`: each with the end mark alone behind it; `messages`: as it is asked."""

    def __init__(
        self, recipe: PpoRecipe, rows: list[EncodedRow], messages: list[list[dict[str, str]]], left_out: int
    ) -> None:
        super().__init__(recipe, rows, [], left_out)
        self.messages = messages

    def metrics(self, log_p: torch.Tensor) -> dict[str, float]:
        """How many there are."""
        return {"prompts": float(len(self.rows)), "prompts_left_out": float(self.left_out)}


def nothing_preferred(job: Job) -> dict[str, float]:
    """What is told where too little is preferred, and the rows alone are learned."""
    recipe = job.recipe
    if not isinstance(recipe, PreferenceRecipe):
        return {}
    what, count = ("labels", len(job.labels)) if recipe.from_labels else ("pairs", len(job.pairs))
    return {what: 0.0, f"{what}_left_out": float(count)}


def check_preferred(job: Job) -> None:
    """Raise TooFew where the job's recipe would learn nothing of what people prefer, before anything is trained."""
    from workers.trainer.loaded import load_tokenizer

    preference_of(job, load_tokenizer(job.model_dir), row_limit(job.model_dir, job.recipe))


def preference_of(job: Job, tokenizer: Any, limit: int) -> Preference | None:
    """What the job's recipe learns of what people prefer; None where it learns nothing of that. Raises TooFew where that is too
    little, or where what is good cannot be told from what is bad."""
    recipe = job.recipe
    if isinstance(recipe, PpoRecipe):
        return _prompts(recipe, job, tokenizer, limit)
    if not isinstance(recipe, PreferenceRecipe):
        return None
    return _labels(recipe, job, tokenizer, limit) if recipe.from_labels else _pairs(recipe, job, tokenizer, limit)


def _prompts(recipe: PpoRecipe, job: Job, tokenizer: Any, limit: int) -> Prompts:
    """Each once, in the order of the rows. Raises Invalid where none leaves room for an answer."""
    controls = control_texts(tokenizer)
    found: dict[tuple[int, ...], list[dict[str, str]]] = {}
    asked = [row for row in (*job.rows, *job.earlier) if not row.text]
    asked += [TrainingRow(prompt=one.prompt, answer="", system=one.system, history=one.history) for one in job.pairs]
    left_out = 0
    for row in asked:
        ids = prompt_ids(tokenizer, row, controls, limit - recipe.answer_tokens)
        if ids is None:
            left_out += 1
            continue
        system = [{"role": "system", "content": row.system}] if row.system is not None else []
        turns = [{"role": role, "content": words} for role, words in turns_of(row.history)]
        found.setdefault(ids, [*system, *turns, {"role": "user", "content": row.prompt}])
    if not found:
        raise Invalid(
            f"ppo: none of the {len(asked)} prompts can be answered: with an answer of {recipe.answer_tokens} tokens"
            f" (recipe.answer_tokens) they are above {limit}"
        )
    rows = [EncodedRow((*ids, tokenizer.eos_token_id), len(ids), 0) for ids in found]
    return Prompts(recipe, rows, list(found.values()), left_out)


def _pairs(recipe: PreferenceRecipe, job: Job, tokenizer: Any, limit: int) -> Pairs:
    answers = Answers(tokenizer, limit)
    rows: list[EncodedRow] = []
    weights: list[float] = []
    for pair in job.pairs:
        sides = answers.ids(pair.chosen), answers.ids(pair.rejected)
        prompt = answers.prompt(pair, *sides) if sides[0] != sides[1] else None
        if prompt is not None:
            rows += [answers.row(prompt, side) for side in sides]
            weights.append(pair.weight)
    what = f"of {len(job.pairs)} pairs {len(weights)} can be learned from: the others are above {limit} tokens, or of equal sides"
    enough(recipe, len(weights), what if job.pairs else "there is no pair of answers")
    return Pairs(recipe, rows, weights, len(job.pairs) - len(weights))


def _labels(recipe: PreferenceRecipe, job: Job, tokenizer: Any, limit: int) -> Labels:
    answers = Answers(tokenizer, limit)
    rows: list[EncodedRow] = []
    beside: list[EncodedRow] = []
    good: list[bool] = []
    for place, label in enumerate(job.labels):
        own = answers.ids(label.answer)
        for other in _others(job.labels, place):
            prompt = answers.prompt(label, own, ids := answers.ids(other.answer))
            if prompt is not None:
                rows.append(answers.row(prompt, own))
                beside.append(answers.row(prompt, ids))
                good.append(label.good)
                break
    what = f"of {len(job.labels)} labelled answers {len(good)} can be learned from: the others are above {limit} tokens"
    enough(recipe, len(good), what if job.labels else "there is no labelled answer")
    if len(set(good)) == 1:
        side = "good" if good[0] else "bad"
        raise TooFew(
            f"{recipe.method}: all {len(good)} labelled answers are {side}, and it learns from good ones and bad ones"
        )
    return Labels(recipe, [*rows, *beside], good, len(job.labels) - len(good))


def _others(labels: Sequence[TrainingLabel], place: int) -> Iterator[TrainingLabel]:
    """The one before it, and so on; of answers to the very same prompt only where there is no other."""
    asked = _asked(labels[place])
    for same in (False, True):
        around = (labels[place - by] for by in range(1, len(labels)))
        yield from (other for other in around if (_asked(other) == asked) is same)


def enough(recipe: PreferenceRecipe | RewardRecipe, count: int, what: str) -> None:
    """Raise TooFew where nothing comes of so many."""
    if count < recipe.least:
        raise TooFew(f"{recipe.method}: {what}; it learns from {recipe.least} and more")


def _asked(label: TrainingLabel) -> tuple[str | None, tuple[tuple[str, str], ...], str]:
    return label.system, label.history, label.prompt


class Answers:
    """Prompts and answers as tokens, as `workers.trainer.rows.encode_rows` makes them."""

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self._tokenizer, self._limit = tokenizer, limit
        self._controls = control_texts(tokenizer)

    def ids(self, answer: str) -> tuple[int, ...]:
        """Empty if there are no words in it."""
        words = escape_control_tokens(answer.strip(), self._controls)
        if not words:
            return ()
        return (*self._tokenizer(words, add_special_tokens=False)["input_ids"], self._tokenizer.eos_token_id)

    def prompt(self, asked: TrainingPair | TrainingLabel, *answers: tuple[int, ...]) -> tuple[int, ...] | None:
        """The same for all its answers, whatever turns must be dropped for the longest; None if one is empty or too long."""
        if not all(answers):
            return None
        row = TrainingRow(prompt=asked.prompt, answer="", system=asked.system, history=asked.history)
        return prompt_ids(self._tokenizer, row, self._controls, self._limit - max(map(len, answers)))

    @staticmethod
    def row(prompt: tuple[int, ...], answer: tuple[int, ...]) -> EncodedRow:
        return EncodedRow(prompt + answer, len(prompt), 0)
