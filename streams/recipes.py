"""Recipes: how a round trains. A recipe is data in the policy; the trainer's table says which function
carries it out. Pure."""

from typing import Literal

from msgspec import Struct

from streams.errors import InvalidField

# The most that a new recipe may ask for, and what more would cost.
_AT_ONCE = "the rows of a step are in memory at once"
_MOST = {
    "rank": (1024, "an adapter of more is larger than what it adapts"),
    "epochs": (1000, "each goes through every correction once more"),
    "batch_rows": (1024, _AT_ONCE),
    "earlier_rows_per_step": (1024, _AT_ONCE),
    "replay_rows_per_step": (1024, _AT_ONCE),
    "replay_rows": (100_000, "each is answered by the first base and kept"),
    "replay_answer_tokens": (4096, "each is a pass through the first base"),
    "row_tokens": (131_072, "the memory of a step grows with it"),
    "alpha": (10_000, "the first step would destroy the model"),
    "gradient_norm": (10_000, "the first step would destroy the model"),
    "replay_weight": (10_000, "nothing new would be learned"),
}


class LoraRecipe(Struct, frozen=True, kw_only=True):
    """LoRA on the upper layers, with the distributions that the model had on general prompts as the guard against
    forgetting.

    Every step holds `batch_rows` new rows and `earlier_rows_per_step` rows of earlier rounds (their words as
    labels; the mean loss of either counts alike), and `replay_rows_per_step` general rows, whose loss is the
    divergence from the model that the round starts from, times `replay_weight`. Many general prompts guard better
    than a few that come often: these are learned by heart.

    Rows that are wordings of one fact share its place: each epoch draws one of them, so that more wordings cost
    no more steps.

    `recalled_share`: of the facts, how many are taught a second time behind what would be recalled for their question, so that the
    model learns to use it (RAFT, Zhang et al. 2024, arXiv 2403.10131). Where the policy recalls nothing, none are.
    """

    method: Literal["lora"] = "lora"
    rank: int = 16
    alpha: float = 32.0
    upper_layers: float = 0.5  # share of the layers, counted from the top, that learns
    learning_rate: float = 1.5e-3  # reached after the warm-up, then falling linearly to zero
    warmup_share: float = 0.05  # of all steps
    gradient_norm: float = 1.0  # the gradient is scaled down to this length
    epochs: int = 14
    batch_rows: int = 8
    earlier_rows_per_step: int = 8
    replay_rows_per_step: int = 12
    replay_rows: int = 600  # how many of the given general prompts are used at most
    replay_answer_tokens: int = 16  # length of the first base's answers, on which the divergence is taken
    replay_weight: float = 3.0
    row_tokens: int = 1024  # a longer row loses its oldest turns; if that is not enough, it is left out
    recalled_share: float = 1.0
    seed: int = 0

    def check(self) -> None:
        """Raise Invalid naming the field, if nothing could be trained by this recipe."""
        for name in ("rank", "epochs", "batch_rows", "replay_rows", "replay_answer_tokens"):
            if getattr(self, name) < 1:
                raise InvalidField(f"recipe.{name}", f"must be at least 1; got {getattr(self, name)}")
        for name in ("earlier_rows_per_step", "replay_rows_per_step", "replay_weight"):
            if not getattr(self, name) >= 0:
                raise InvalidField(f"recipe.{name}", f"must not be negative; got {getattr(self, name)}")
        for name in ("alpha", "gradient_norm"):
            if not getattr(self, name) > 0:
                raise InvalidField(f"recipe.{name}", f"must be above 0; got {getattr(self, name)}")
        if not 0 < self.learning_rate <= 1:
            raise InvalidField("recipe.learning_rate", f"must be above 0 and at most 1; got {self.learning_rate}")
        if not 0 < self.upper_layers <= 1:
            raise InvalidField("recipe.upper_layers", f"is a share, above 0 and at most 1; got {self.upper_layers}")
        if not 0 <= self.warmup_share < 1:
            raise InvalidField("recipe.warmup_share", f"is a share, from 0 to below 1; got {self.warmup_share}")
        if not 0 <= self.recalled_share <= 1:
            raise InvalidField("recipe.recalled_share", f"is a share, from 0 to 1; got {self.recalled_share}")
        if self.row_tokens < 16:
            raise InvalidField("recipe.row_tokens", f"must be at least 16; got {self.row_tokens}")
        if not 0 <= self.seed < 2**63:
            raise InvalidField("recipe.seed", f"must be from 0 to 2**63 - 1; got {self.seed}")

    def check_new(self) -> None:
        """Raise Invalid naming the field, if a training by this recipe would cost more than anybody means."""
        for name, (most, cost) in _MOST.items():
            if not getattr(self, name) <= most:
                raise InvalidField(f"recipe.{name}", f"must be at most {most} ({cost}); got {getattr(self, name)}")
