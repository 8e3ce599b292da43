"""What an answer is worth: what reinforcement learning is to make more of."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from streams.errors import Invalid
from streams.recipes import PpoRecipe
from streams.style import StyleRule, score
from workers.trainer.job import Job

Said = tuple[Sequence[Mapping[str, str]], str]
"""The messages that were asked, the last of them the person's, and an answer to them."""


class Reward(Protocol):
    def score(self, said: Sequence[Said]) -> list[float]:
        """Of each answer what it is worth; the more the better."""
        ...


class StyleReward:
    """How far an answer keeps the rules of a recipe, from 0 to 1."""

    def __init__(self, rules: Sequence[StyleRule]) -> None:
        self.rules = tuple(rules)

    def score(self, said: Sequence[Said]) -> list[float]:
        return [score(self.rules, messages[-1]["content"], answer) for messages, answer in said]


def reward_of(job: Job) -> Reward:
    """The recipe's rules, where it has some. Raises Invalid where nothing says what an answer is worth."""
    recipe = job.recipe
    assert isinstance(recipe, PpoRecipe)
    if recipe.rules:
        return StyleReward(recipe.rules)
    if job.reward_dir is not None:
        from workers.trainer.reward_model import RewardModel

        return RewardModel(job.reward_dir, job.device)
    raise Invalid(
        "ppo: nothing says what an answer is worth: the recipe has no rules (recipe.rules), and the domain no reward model"
    )
