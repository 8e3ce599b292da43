"""Recipes: how a round trains. A recipe is data in the policy, of one kind for each method; the trainer's table says which
function carries it out. Pure."""

import re
from typing import Any, ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType

from streams.errors import InvalidField
from streams.rankings import PERSON_SHARE
from streams.style import StyleRule, check

Needs = Literal["merged", "adapter"]
"""What a trained model needs of the engine that serves it: its weights read, or an adapter applied to them as well."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
METHOD = "method"  # the field that tells the kinds of recipes apart
USUAL = "lora"  # what a recipe that names no method means

# What each field may be, whatever recipe has it. Of those that are no share: the least, and whether that itself is allowed.
_LEAST: dict[str, tuple[float, bool]] = {
    **dict.fromkeys(
        (
            "rank",
            "epochs",
            "batch_rows",
            "replay_rows",
            "replay_answer_tokens",
            "virtual_tokens",
            "projection_width",
            "prefix_epochs",
            "batch_pairs",
            "steps",
            "prompts_per_step",
            "answer_tokens",
            "batch_answers",
            "batch_rankings",
            "dpo_epochs",
            "sft_epochs",
            "reward_epochs",
        ),
        (1, True),
    ),
    **dict.fromkeys(("earlier_rows_per_step", "replay_rows_per_step", "replay_weight", "stop_after"), (0, True)),
    **dict.fromkeys(
        ("alpha", "gradient_norm", "beta", "temperature", "clip", "value_clip", "kl_target", "kl_limit", "update_kl"),
        (0, False),
    ),
    "row_tokens": (16, True),
}
_RATES = (
    "learning_rate",
    "prefix_learning_rate",
    "dpo_learning_rate",
    "sft_learning_rate",
    "reward_learning_rate",
)
# Shares: whether 0 is one, and whether 1 is.
_SHARES = {
    "upper_layers": (False, True),
    "warmup_share": (True, False),
    "recalled_share": (True, True),
    "held_out_share": (True, False),
    "person_share": (False, True),
    "gae_lambda": (True, True),
}
_SHARE_WORDS = {
    (False, True): "above 0 and at most 1",
    (True, False): "from 0 to below 1",
    (True, True): "from 0 to 1",
}

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
    "batch_pairs": (1024, _AT_ONCE),
    "batch_rankings": (1024, _AT_ONCE),
    "dpo_epochs": (1000, "each goes through every pair once more"),
    "sft_epochs": (1000, "each goes through every correction once more"),
    "reward_epochs": (1000, "each goes through every pair once more"),
    "beta": (100, "nothing that anybody prefers could be learned"),
    "row_tokens": (131_072, "the memory of a step grows with it"),
    "alpha": (10_000, "the first step would destroy the model"),
    "gradient_norm": (10_000, "the first step would destroy the model"),
    "replay_weight": (10_000, "nothing new would be learned"),
    "virtual_tokens": (1024, "every request pays for them"),
    "projection_width": (65_536, "it is larger than what it stands for"),
    "prefix_epochs": (1000, "each goes through every correction once more"),
    "stop_after": (1000, "it would never end a training"),
    "steps": (10_000, "each draws answers anew"),
    "prompts_per_step": (4096, "each is answered in every step"),
    "answer_tokens": (4096, "each is a pass through the model"),
    "batch_answers": (1024, _AT_ONCE),
    "temperature": (4, "what is drawn would be noise"),
    "clip": (1, "nothing would be clipped"),
    "kl_limit": (1000, "it would never end a training"),
}


class _Checked(Struct, frozen=True, kw_only=True, tag_field=METHOD):
    """What every recipe can be asked. `reads_passages`: whether it learns from the passages of the domain's documents as well."""

    reads_passages: ClassVar[bool] = False

    @property
    def method(self) -> str:
        """The method's name, by which a recipe is told apart on the wire too."""
        return str(self.__struct_config__.tag)

    def check(self) -> None:
        """Raise Invalid naming the field, if nothing could be trained by this recipe."""
        for name, value in self._numbers():
            if name in _LEAST:
                least, itself = _LEAST[name]
                if not (value >= least if itself else value > least):
                    must = "must not be negative" if (least, itself) == (0, True) else None
                    must = must or f"must be {'at least' if itself else 'above'} {least}"
                    raise InvalidField(f"recipe.{name}", f"{must}; got {value}")
            if name in _RATES and not 0 < value <= 1:
                raise InvalidField(f"recipe.{name}", f"must be above 0 and at most 1; got {value}")
            if name in _SHARES:
                none, all_ = _SHARES[name]
                if not ((value >= 0 if none else value > 0) and (value <= 1 if all_ else value < 1)):
                    words = _SHARE_WORDS[none, all_]
                    raise InvalidField(f"recipe.{name}", f"is a share, {words}; got {value}")
            if name == "seed" and not 0 <= value < 2**63:
                raise InvalidField("recipe.seed", f"must be from 0 to 2**63 - 1; got {value}")

    def check_new(self) -> None:
        """Raise Invalid naming the field, if a training by this recipe would cost more than anybody means."""
        for name, value in self._numbers():
            if name in _MOST and not value <= _MOST[name][0]:
                most, cost = _MOST[name]
                raise InvalidField(f"recipe.{name}", f"must be at most {most} ({cost}); got {value}")

    def _numbers(self) -> list[tuple[str, float]]:
        said = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return [(name, value) for name, value in said if isinstance(value, int | float)]


class LoraRecipe(_Checked, frozen=True, kw_only=True, tag="lora"):
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

    `stop_after`: the training ends when the loss on held-out wordings has risen in so many epochs in a row, and the weights from
    before that are kept (`workers.trainer.stopping`); 0, or unsaid, as it was before there was an early stop: it takes all steps.
    """

    # In this order, and not after what all recipes have: as recipes stood on the wire before there were others.
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
    stop_after: int | UnsetType = UNSET


class _Shared(_Checked, frozen=True, kw_only=True):
    """What every recipe has; each field is what it is in `LoraRecipe`."""

    learning_rate: float = 1.5e-3
    warmup_share: float = 0.05
    gradient_norm: float = 1.0
    epochs: int = 14
    batch_rows: int = 8
    earlier_rows_per_step: int = 8
    replay_rows_per_step: int = 12
    replay_rows: int = 600
    replay_answer_tokens: int = 16
    replay_weight: float = 3.0
    row_tokens: int = 1024
    recalled_share: float = 1.0
    seed: int = 0
    stop_after: int | UnsetType = UNSET


class PreferringRecipe(LoraRecipe, frozen=True, kw_only=True):
    """LoRA, and what every recipe has that learns what people prefer, beside what they corrected: its snapshot holds pairs as well.

    `beta`: how dearly the model pays for going away from what it was before the training, its reference; the less, the further it
    goes. `person_share`: how many of the pairs may rest on one person alone. `from_labels`: it learns from answers that are good or
    bad by themselves, and not from pairs.
    """

    from_labels: ClassVar[bool] = False

    beta: float = 0.1
    person_share: float = PERSON_SHARE


class PreferenceRecipe(PreferringRecipe, frozen=True, kw_only=True):
    """From what people said itself: a step holds `batch_pairs` of what they said of two answers, or of one."""

    least: ClassVar[int] = 2  # of a single pair, or answer, nothing is learned but itself

    batch_pairs: int = 8


class DpoRecipe(PreferenceRecipe, frozen=True, kw_only=True, tag="dpo"):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): of two answers to a prompt the better one comes to
    be likelier, against the other and against what the model said before."""


class KtoRecipe(PreferenceRecipe, frozen=True, kw_only=True, tag="kto"):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): good answers come to be likelier and bad ones less
    likely, each by itself. The fewer of the two are weighed up until both count alike (section 4.2)."""

    from_labels: ClassVar[bool] = True


class PpoRecipe(PreferringRecipe, frozen=True, kw_only=True, tag="ppo"):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347; of language models, Ziegler et al. 2019, arXiv
    1909.08593): the model answers, its answers are judged, and what is judged better comes to be likelier.

    Each of `steps` draws answers to `prompts_per_step` prompts of the snapshot, of at most `answer_tokens` at `temperature`, and
    goes through them `epochs` times, `batch_answers` at once, beside new, earlier and general rows as any training does. `rules`
    say what an answer is worth (`streams.style`); where there are none the domain's reward model does.

    `beta`: what a nat of going away from the reference costs at first, in standard deviations of the first step's rewards; it is
    raised and lowered so that an answer goes `kl_target` nats away. `clip`, `value_clip`, `gae_lambda` as in the papers.
    `update_kl`: a step ends early when its tokens are so many nats away from the policy that drew them. `kl_limit`: the training
    ends when an answer is more nats away from the reference, with the weights from before that.
    """

    learning_rate: float = 3e-4
    epochs: int = 2
    beta: float = 0.05
    steps: int = 12
    prompts_per_step: int = 32
    answer_tokens: int = 48
    batch_answers: int = 16
    temperature: float = 1.0
    clip: float = 0.2
    value_clip: float = 0.2
    gae_lambda: float = 0.95
    kl_target: float = 6.0
    kl_limit: float = 20.0
    update_kl: float = 0.1
    rules: tuple[StyleRule, ...] = ()

    def check(self) -> None:
        """As of every recipe."""
        super().check()
        check(self.rules, "recipe.rules")
        if self.stop_after:
            raise InvalidField("recipe.stop_after", "is of what is held out; ppo ends by kl_limit and by its reward")


class SftRewardPpoRecipe(PpoRecipe, frozen=True, kw_only=True, tag="sft_reward_ppo"):
    """What people corrected first, by LoRA, merged; then a reward model of what they prefer; then `ppo` by what that says, on the
    model that came of the first (Ouyang et al. 2022, arXiv 2203.02155). The corrections come again beside the answers, as those of
    earlier rounds do."""

    sft_learning_rate: float = 1.5e-3
    sft_epochs: int = 14
    reward_learning_rate: float = 1e-3
    reward_epochs: int = 3

    def check(self) -> None:
        """As of every recipe."""
        super().check()
        if self.rules:
            raise InvalidField("recipe.rules", "are of ppo alone: here what people prefer says what an answer is worth")


class RewardRecipe(_Checked, frozen=True, kw_only=True, tag="reward"):
    """A reward model: what people would say of an answer, as a number. It answers nobody, and no release comes of it.

    LoRA and a head of one number, on the pairs of each ranking (Ouyang et al. 2022, arXiv 2203.02155, equation 1): a step holds
    `batch_rankings` rankings, each with all of its pairs, whose losses count one ranking together. `held_out_share`: of so many
    rankings nothing is learned; on them it is told how often it is right.
    """

    # What every recipe is asked for: no general row guards what answers nobody, and no correction is learned but as a pair.
    batch_rows: ClassVar[int] = 1
    earlier_rows_per_step: ClassVar[int] = 0
    replay_rows: ClassVar[int] = 600
    replay_rows_per_step: ClassVar[int] = 0
    replay_weight: ClassVar[float] = 0.0
    replay_answer_tokens: ClassVar[int] = 16
    recalled_share: ClassVar[float] = 0.0
    stop_after: ClassVar[int] = 0
    least: ClassVar[int] = 2
    from_labels: ClassVar[bool] = False

    rank: int = 16
    alpha: float = 32.0
    upper_layers: float = 0.5
    learning_rate: float = 1e-3
    warmup_share: float = 0.05
    gradient_norm: float = 1.0
    epochs: int = 3
    batch_rankings: int = 8
    row_tokens: int = 1024
    person_share: float = PERSON_SHARE
    held_out_share: float = 0.2
    seed: int = 0


class SftDpoRecipe(PreferenceRecipe, frozen=True, kw_only=True, tag="sft_dpo"):
    """What people corrected first, by LoRA, merged; then what they prefer, by `dpo` on the model that came of it, which is its
    reference (Rafailov et al. 2023, section 4). The corrections are gone through again beside the pairs, as those of earlier
    rounds are."""

    dpo_learning_rate: float = 5e-4
    dpo_epochs: int = 4


class FullRecipe(_Shared, frozen=True, kw_only=True, tag="full"):
    """The weights themselves, with the same guard against forgetting. `upper_layers`: below 1 only so many of the layers, and the
    norm behind them, learn; at 1 all weights do, the embeddings among them.

    A learning rate of a tenth of LoRA's: here every weight moves by it.
    """

    upper_layers: float = 1.0
    learning_rate: float = 1e-4
    epochs: int = 10


class PTuningRecipe(_Shared, frozen=True, kw_only=True, tag="p_tuning_v2"):
    """Keys and values before those of every layer's tokens, and nothing of the model (P-Tuning v2, Liu et al. 2021, arXiv
    2110.07602; prefix tuning with a projection, Li & Liang 2021, arXiv 2101.00190). What is learned cannot be merged.

    Without the projection the first, random prefix wrecks the model (loss 7.8 against 1.6, measured): there is always one.
    """

    # The general answers are kept by the share of the layers that learn. Here none do: those of the usual recipe serve, which
    # are there already.
    upper_layers: ClassVar[float] = 0.5

    virtual_tokens: int = 16
    projection_width: int = 256  # of the hidden layer, through which the prefix is learned
    learning_rate: float = 3e-3
    epochs: int = 20


class LoraPTuningRecipe(LoraRecipe, frozen=True, kw_only=True, tag="lora_p_tuning_v2"):
    """LoRA first, merged; then a prefix before the model that came of it (the way DoctorGLM took, Xiong et al. 2023, arXiv
    2304.01097)."""

    virtual_tokens: int = 16
    projection_width: int = 256
    prefix_learning_rate: float = 3e-3
    prefix_epochs: int = 8


class PretrainingRecipe(LoraRecipe, frozen=True, kw_only=True, tag="continued_pretraining"):
    """The passages of the domain's documents, read as text, beside what people corrected; with six general rows to each passage, so
    that the model does not come to speak of nothing else. LoRA of a large rank in all layers, merged.

    `held_out_share`: so many of the passages are not read; on them it is told what reading the others was worth.
    """

    reads_passages: ClassVar[bool] = True

    rank: int = 64
    alpha: float = 128.0
    upper_layers: float = 1.0
    learning_rate: float = 5e-4
    epochs: int = 3
    batch_rows: int = 4
    replay_rows_per_step: int = 24
    replay_answer_tokens: int = 64
    held_out_share: float = 0.1


class BroughtRecipe(_Checked, frozen=True, kw_only=True, tag="brought"):
    """An adapter that was trained elsewhere (by LLaMA-Factory, by PEFT), merged as it is: nothing is trained here. `adapter`: the
    digest of its folder among the artifacts (`noria round start --adapter`)."""

    # What every recipe is asked for: no step is taken, and nothing is taught behind what is recalled.
    upper_layers: ClassVar[float] = 0.5
    learning_rate: ClassVar[float] = 0.0
    warmup_share: ClassVar[float] = 0.0
    gradient_norm: ClassVar[float] = 1.0
    batch_rows: ClassVar[int] = 8
    earlier_rows_per_step: ClassVar[int] = 0
    replay_rows: ClassVar[int] = 600
    replay_rows_per_step: ClassVar[int] = 0
    replay_weight: ClassVar[float] = 0.0
    replay_answer_tokens: ClassVar[int] = 16
    row_tokens: ClassVar[int] = 1024
    recalled_share: ClassVar[float] = 0.0
    stop_after: ClassVar[int] = 0
    epochs: ClassVar[int] = 1
    seed: ClassVar[int] = 0

    adapter: str

    def check(self) -> None:
        """As of every recipe."""
        if not _DIGEST.fullmatch(self.adapter):
            raise InvalidField("recipe.adapter", "must be a digest, sha256:…")


Recipe = (
    LoraRecipe
    | FullRecipe
    | PTuningRecipe
    | LoraPTuningRecipe
    | PretrainingRecipe
    | DpoRecipe
    | KtoRecipe
    | PpoRecipe
    | SftRewardPpoRecipe
    | RewardRecipe
    | SftDpoRecipe
    | BroughtRecipe
)


def asks_reward_model(recipe: Recipe) -> bool:
    """Whether the domain's reward model says what an answer is worth."""
    return type(recipe) is PpoRecipe and not recipe.rules


def rules_of(recipe: Recipe) -> tuple[StyleRule, ...]:
    """By which the answers are judged that a training draws."""
    return recipe.rules if isinstance(recipe, PpoRecipe) else ()


def stops_after(recipe: Recipe) -> int:
    """In how many epochs in a row the loss on what is held out must have risen, so that the training ends; 0: it never does so."""
    return recipe.stop_after if isinstance(recipe.stop_after, int) else 0


def with_method(recipe: Any) -> Any:
    """A recipe in plain data, which says its method: those that were written before there were others need not."""
    return {METHOD: USUAL} | recipe if isinstance(recipe, dict) else recipe
