"""The recipe of a selection: by which steps, and in which order, a round's training set is chosen. Each step is data in the policy;
the selector's table says which function carries it out. Pure."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType

from streams.errors import InvalidField
from streams.recipes import BroughtRecipe, Recipe, RewardRecipe

STEP = "step"  # the field that tells the kinds of steps apart
Source = Literal["correction", "annotation", "generated"]
"""Where an example comes from: somebody corrected a reply; somebody brought it (an import, an annotator); a builder proposed it,
and somebody accepted that."""

MOST_STEPS = 20
_MOST = 10_000_000
_MOST_TOPICS = 1000


class _Step(Struct, frozen=True, kw_only=True, tag_field=STEP):
    """What every step can be asked. `stage`: steps stand in the order of theirs; those of one stage in any. `needed`: no set is
    chosen without it. `again`: it may stand more than once."""

    stage: ClassVar[int]
    needed: ClassVar[bool] = False
    again: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """By which a step is told apart on the wire, in snapshots and in its place in the selector's table."""
        return str(self.__struct_config__.tag)

    def check(self, where: str) -> None:
        """Raise Invalid naming the field, if nothing could be selected by it."""


class Leakage(_Step, frozen=True, kw_only=True, tag="leakage"):
    """Nothing that the exam asks is learned: no question that is one of the exam's up to case, width and punctuation; none in which
    the share `overlap` of an exam question's trigrams of words stands; none that is as near as `cosine` to one in meaning. None: it
    is not looked for. (An exam that asks what was corrected in other words is meant to be near to it: there both stay None.)"""

    stage: ClassVar[int] = 0
    needed: ClassVar[bool] = True

    overlap: float | None = None
    cosine: float | None = None

    def check(self, where: str) -> None:
        """As of every step."""
        _share(self.overlap, f"{where}.overlap")
        _share(self.cosine, f"{where}.cosine")


class Agreement(_Step, frozen=True, kw_only=True, tag="agreement"):
    """One question, one answer: who says it again is not counted, and contradictions are settled."""

    stage: ClassVar[int] = 1
    needed: ClassVar[bool] = True


class Length(_Step, frozen=True, kw_only=True, tag="length"):
    """What is longer than the recipe of the training reads (`row_tokens`) is not learned. After the agreement: it still says that
    what it replaced is not to be learned."""

    stage: ClassVar[int] = 2
    needed: ClassVar[bool] = True


class Dedupe(_Step, frozen=True, kw_only=True, tag="dedupe"):
    """Of examples that say the same up to case, width and punctuation, or are as near as `cosine` in meaning (None: that is not
    looked for) and name the same numbers, the best is kept: one that was learned already, then what people said before what was
    generated, then the newest."""

    stage: ClassVar[int] = 3
    again: ClassVar[bool] = True

    cosine: float | None = 0.95

    def check(self, where: str) -> None:
        """As of every step."""
        _share(self.cosine, f"{where}.cosine")


class Topics(Struct, frozen=True, kw_only=True):
    """Quotas by topic. No example names one: so many are told apart, `count`, by k-means over the examples' vectors. Of each at
    `least` so many are chosen, or as many as there are and the quotas of their sources allow, and at `most` so many (None: any)."""

    count: int
    least: int = 0
    most: int | None = None

    def check(self, where: str) -> None:
        """Raise Invalid naming the field, if nothing could be chosen by it."""
        if not 2 <= self.count <= _MOST_TOPICS:
            raise InvalidField(f"{where}.count", f"must be from 2 to {_MOST_TOPICS}; got {self.count}")
        if self.most is not None:
            _count(self.most, f"{where}.most")
        if not 0 <= self.least <= _MOST:
            raise InvalidField(f"{where}.least", f"must be from 0 to {_MOST}; got {self.least}")
        if self.most is not None and self.least > self.most:
            message = f"and most cannot both be kept: {self.least} at least, {self.most} at most"
            raise InvalidField(f"{where}.least", message)


class KCenter(_Step, frozen=True, kw_only=True, tag="k_center"):
    """K-center-greedy (Sener & Savarese 2018, arXiv 1708.00489): at most `k` new examples, each the one that is farthest from all
    chosen before it, so that no other is far from every chosen one. What was learned already, and what comes of the sources
    `keep`, is chosen first, whatever it is like; the latter counts among the `k`, and is kept also beyond them.

    `radius`: it ends when nobody is farther than that (1 - cosine) from a chosen one. Of each source `least` so many are chosen,
    and at `most` so many, and of topics as `topics` says, or as it was before there were any: none is told apart. What was learned
    already counts for no source and no topic."""

    stage: ClassVar[int] = 3

    k: int
    radius: float = 0.0
    keep: tuple[Source, ...] = ("correction",)
    least: dict[Source, int] = {}
    most: dict[Source, int] = {}
    topics: Topics | UnsetType = UNSET

    def check(self, where: str) -> None:
        """As of every step."""
        _count(self.k, f"{where}.k")
        if not 0 <= self.radius < 2:
            raise InvalidField(f"{where}.radius", f"is 1 - cosine, from 0 to below 2; got {self.radius}")
        for name, quotas in (("least", self.least), ("most", self.most)):
            for source, quota in quotas.items():
                if not 0 <= quota <= _MOST:
                    raise InvalidField(f"{where}.{name}.{source}", f"must be from 0 to {_MOST}; got {quota}")
        for source, quota in self.least.items():
            if quota > self.most.get(source, quota):
                message = f"and most cannot both be kept: {quota} at least, {self.most[source]} at most"
                raise InvalidField(f"{where}.least.{source}", message)
        if sum(self.least.values()) > self.k:
            raise InvalidField(f"{where}.least", f"asks for {sum(self.least.values())} in all, and k is {self.k}")
        if self.topics is not UNSET:
            self.topics.check(f"{where}.topics")
            if (asked := self.topics.count * self.topics.least + sum(self.least.values())) > self.k:
                raise InvalidField(f"{where}.topics.least", f"asks with least for {asked} in all, and k is {self.k}")


class Nuggets(_Step, frozen=True, kw_only=True, tag="nuggets"):
    """The golden score of Nuggets (Li et al. 2023, arXiv 2312.10302): of what was generated or brought, what helps the model that
    the round starts from with more than the share `least` of `tasks`, the people's own corrections. At `most` so many are ranked,
    the preferred first, and what comes after them is not kept: each costs a pass through the model for every task. (A number and
    not minutes, so that a round that is carried on by another worker chooses the same.)"""

    stage: ClassVar[int] = 3

    tasks: int = 50
    least: float = 0.5
    most: int = 500

    def check(self, where: str) -> None:
        """As of every step."""
        if not 1 <= self.tasks <= 1000:
            raise InvalidField(f"{where}.tasks", f"must be from 1 to 1000; got {self.tasks}")
        if not 0 <= self.least < 1:
            raise InvalidField(f"{where}.least", f"is a share, from 0 to below 1; got {self.least}")
        if not 1 <= self.most <= 100_000:
            raise InvalidField(f"{where}.most", f"must be from 1 to 100000; got {self.most}")


class Hard(_Step, frozen=True, kw_only=True, tag="hard"):
    """What the model that the round starts from finds hard is shown `weight` times as often as the rest: of what that model was
    trained on, the share `share` whose perplexity stayed highest; of what is new to it, the share whose question helps least with
    the answer (`workers.selector.hard`). What is still harder than these, the share `tail`, is mostly broken: it is not shown more
    often, and what a builder proposed of it is kept back until an annotator has looked at it."""

    stage: ClassVar[int] = 4

    weight: float = 2.0
    share: float = 0.25
    tail: float = 0.02

    def check(self, where: str) -> None:
        """As of every step."""
        if not 1 < self.weight <= 10:
            raise InvalidField(f"{where}.weight", f"must be above 1 and at most 10; got {self.weight}")
        _share(self.share, f"{where}.share")
        if not 0 <= self.tail <= 0.5:
            raise InvalidField(f"{where}.tail", f"is a share, from 0 to 0.5; got {self.tail}")
        if self.share + self.tail > 1:
            raise InvalidField(f"{where}.share", f"and tail are more than all: {self.share} and {self.tail}")


class Budget(_Step, frozen=True, kw_only=True, tag="budget"):
    """So many `tokens` of new examples, as the recipe of the training counts them, in the order in which the steps before it prefer
    them, each as often as it is shown; the first that is too much ends it, and is told as what would have been next."""

    stage: ClassVar[int] = 5

    tokens: int

    def check(self, where: str) -> None:
        """As of every step."""
        if not 1 <= self.tokens <= 10**12:
            raise InvalidField(f"{where}.tokens", f"must be from 1 to 10**12; got {self.tokens}")


class Mixing(_Step, frozen=True, kw_only=True, tag="mixing"):
    """So many `general` tokens beside each token of the domain's, in every step of the training, and `pretraining` so many where it
    reads passages. They are those of the guard against forgetting: the domain's general prompts, or ours, with what its base
    answers; only how many of them a step takes is said here, by tokens, and no longer by the recipe's `replay_rows_per_step`. After
    the budget, which is of the domain's tokens."""

    stage: ClassVar[int] = 6

    general: float = 0.3
    pretraining: float = 5.0

    def check(self, where: str) -> None:
        """As of every step."""
        for name, ratio in (("general", self.general), ("pretraining", self.pretraining)):
            if not 0 <= ratio <= 100:
                raise InvalidField(
                    f"{where}.{name}", f"is general tokens to one of the domain, from 0 to 100; got {ratio}"
                )


SelectionStep = Leakage | Agreement | Length | Dedupe | KCenter | Nuggets | Hard | Budget | Mixing
Selection = tuple[SelectionStep, ...]
USUAL: Selection = (Leakage(), Agreement(), Length())
"""What a policy means that names no selection, as every one did before there was one."""
_NEEDED = tuple(type(step) for step in USUAL)


def mixed(selection: Sequence[SelectionStep], recipe: Recipe | None) -> float | None:
    """How many general tokens a training by `recipe` takes to one of the domain; None: as many rows as the recipe says. What
    answers nobody, or is trained elsewhere, has none mixed in."""
    if recipe is None or isinstance(recipe, RewardRecipe | BroughtRecipe):
        return None
    found = (step for step in selection if isinstance(step, Mixing))
    return next((step.pretraining if recipe.reads_passages else step.general for step in found), None)


def check(selection: Sequence[SelectionStep], where: str = "selection") -> None:
    """Raise Invalid naming the step, if nothing could be selected by these, or not in this order."""
    if len(selection) > MOST_STEPS:
        raise InvalidField(where, f"must have at most {MOST_STEPS} steps; got {len(selection)}")
    for number, step in enumerate(selection):
        here = f"{where}[{number}]"
        before = selection[:number]
        if not step.again and any(type(one) is type(step) for one in before):
            raise InvalidField(here, f"is {step.name}, which stands there twice")
        late = next((one for one in before if one.stage > step.stage), None)
        if late is not None:
            raise InvalidField(here, f"is {step.name}, which must stand before {late.name}")
        step.check(here)
    for kind in _NEEDED:
        if not any(type(step) is kind for step in selection):
            raise InvalidField(
                where, f"lacks the step {kind.__struct_config__.tag}, without which no training set is chosen"
            )


def _share(value: float | None, where: str) -> None:
    if value is not None and not 0 < value <= 1:
        raise InvalidField(where, f"must be above 0 and at most 1, or null: it is not looked for; got {value}")


def _count(value: int, where: str) -> None:
    if not 1 <= value <= _MOST:
        raise InvalidField(where, f"must be from 1 to {_MOST}; got {value}")
