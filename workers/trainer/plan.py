"""Which rows each step holds: settled before the first step, from the seed alone, so that a restart needs no
memory of chance."""

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from streams.recipes import PreferenceRecipe, Recipe
from workers.trainer.preference import Preference
from workers.trainer.rows import EncodedRow


@dataclass(frozen=True, slots=True)
class Step:
    """Numbers of rows, each counted within its own kind; `preferred`: of what people said of two answers, or of one."""

    epoch: int
    fresh: tuple[int, ...]
    earlier: tuple[int, ...]
    replay: tuple[int, ...]
    preferred: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CountedRows:
    """The rows of a training, counted through: new ones, earlier ones, those of what is preferred, general ones."""

    rows: list[EncodedRow]
    earlier_from: int
    replay_from: int
    preference: Preference | None = None

    @property
    def preferred_from(self) -> int:
        return self.replay_from - (0 if self.preference is None else len(self.preference.rows))

    @property
    def preferred_rows(self) -> range:
        """All rows of what is preferred."""
        return range(self.preferred_from, self.replay_from)

    def preferred(self, step: Step) -> list[tuple[int, ...]]:
        """The rows of what people said, as they are learned together."""
        if self.preference is None:
            return []
        first = self.preferred_from
        return [tuple(first + row for row in self.preference.units[number]) for number in step.preferred]

    def numbers(self, step: Step) -> list[int]:
        """The other rows of a step: new, earlier, general."""
        earlier = (self.earlier_from + number for number in step.earlier)
        return [*step.fresh, *earlier, *(self.replay_from + number for number in step.replay)]

    def kinds(self, numbers: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
        """New, earlier and general ones among `numbers`, and those of what is preferred."""
        return (
            [number for number in numbers if number < self.earlier_from],
            [number for number in numbers if self.earlier_from <= number < self.preferred_from],
            [number for number in numbers if number >= self.replay_from],
            [number for number in numbers if self.preferred_from <= number < self.replay_from],
        )

    def answer_tokens(self, number: int) -> int:
        return self.rows[number].answer_tokens


def _shuffled(chance: random.Random, items: Sequence[int]) -> list[int]:
    mixed = list(items)
    chance.shuffle(mixed)
    return mixed


def dealt(chance: random.Random, count: int) -> Iterator[int]:
    """Numbers below `count` without end; each comes once before any comes again."""
    while True:
        yield from _shuffled(chance, range(count))


class _Wordings:
    """The facts of some rows; each time a fact is asked for, another of its wordings comes, until all have
    come."""

    def __init__(
        self,
        chance: random.Random,
        groups: Sequence[int],
        weights: Mapping[int, float],
        wanted: Callable[[int], bool] = lambda group: True,
    ) -> None:
        rows: dict[int, list[int]] = {}
        for row, group in enumerate(groups):
            if wanted(group):
                rows.setdefault(group, []).append(row)
        self.facts = list(rows)
        self._weights = [weights.get(group, 1.0) for group in rows]
        self.weight = sum(self._weights)
        self._rows = rows
        self._chance = chance
        self._left: dict[int, list[int]] = {}

    def shown(self, time: int) -> list[int]:
        """The facts of the deck of that time, from 0, each as often as it weighs: of half a weight, every other time."""
        return [
            fact
            for fact, weight in zip(self.facts, self._weights, strict=True)
            for _ in range(int((time + 1) * weight) - int(time * weight))
        ]

    def deal(self, chance: random.Random) -> Iterator[int]:
        """Its facts without end, deck by deck."""
        for time in count():
            yield from _shuffled(chance, self.shown(time))

    def next_of(self, fact: int) -> int:
        left = self._left.get(fact)
        if not left:
            left = self._left[fact] = _shuffled(self._chance, self._rows[fact])
        return left.pop()


@dataclass(frozen=True)
class Mix:
    """`ratio` general tokens to one of all else. Tokens by row, of each kind as `plan_steps` counts it; `preferred`: by what people
    said of two answers, or of one."""

    ratio: float
    fresh: Sequence[int]
    earlier: Sequence[int]
    general: Sequence[int]
    preferred: Sequence[int] = ()

    @classmethod
    def of(
        cls,
        ratio: float | None,
        fresh: Sequence[EncodedRow],
        earlier: Sequence[EncodedRow],
        general: Sequence[EncodedRow],
        preferred: Sequence[int] = (),
    ) -> "Mix | None":
        """Of such rows; None where nobody says a ratio."""
        if ratio is None:
            return None
        of_fresh, of_earlier, of_general = ([len(row.ids) for row in rows] for rows in (fresh, earlier, general))
        return cls(ratio, of_fresh, of_earlier, of_general, preferred)

    def tokens(self, step: Step) -> int:
        """Of all but the general rows."""
        kinds = ((self.fresh, step.fresh), (self.earlier, step.earlier), (self.preferred, step.preferred))
        return sum(of[number] for of, numbers in kinds for number in numbers)


def weights_of(rows: Sequence[EncodedRow]) -> dict[int, float]:
    """By group, of those that are shown more often than others."""
    return {row.group: row.weight for row in rows if row.weight != 1}


def plan_steps(
    recipe: Recipe,
    fresh: Sequence[int],
    earlier: Sequence[int],
    replay_rows: int,
    beside: Collection[int] = frozenset(),
    preferred: int = 0,
    weights: Mapping[int, float] = {},
    earlier_weights: Mapping[int, float] = {},
    mix: Mix | None = None,
) -> list[Step]:
    """`fresh` and `earlier` hold each row's group. An epoch shows every new fact once, in one of its
    wordings, in steps of nearly equal size; earlier facts and general rows are dealt like cards, as many as a
    step takes or as there are. The new facts `beside` are shown once an epoch too, in these same steps; and
    so is what people prefer, of which there are `preferred`. A fact that has one of the `weights` (by group) is shown as often
    while others are shown once. `mix`: how many general rows a step takes, if not as many as the recipe says."""
    more = _Wordings(random.Random(f"beside {recipe.seed}"), fresh, weights, lambda group: group in beside)
    more_order = random.Random(f"beside order {recipe.seed}")
    new = _Wordings(random.Random(f"new {recipe.seed}"), fresh, weights, lambda group: group not in beside)
    old = _Wordings(random.Random(f"old {recipe.seed}"), earlier, earlier_weights)
    order = random.Random(f"order {recipe.seed}")
    old_deck = old.deal(random.Random(f"old deck {recipe.seed}"))
    replay_deck = dealt(random.Random(f"replay deck {recipe.seed}"), replay_rows)
    old_per_step = min(recipe.earlier_rows_per_step, len(old.facts))
    replay_per_step = min(recipe.replay_rows_per_step, replay_rows)
    preferred_order = random.Random(f"preferred order {recipe.seed}")
    per_epoch = max(1, -(-math.ceil(new.weight) // recipe.batch_rows))
    if isinstance(recipe, PreferenceRecipe):
        per_epoch = max(per_epoch, -(-preferred // recipe.batch_pairs))
    steps: list[Step] = []
    owed = 0.0
    for epoch in range(recipe.epochs):
        decks = (
            _shuffled(order, new.shown(epoch)),
            _shuffled(more_order, more.shown(epoch)),
            _shuffled(preferred_order, range(preferred)),
        )
        for number in range(per_epoch):
            chosen, shown, said = (
                deck[number * len(deck) // per_epoch : (number + 1) * len(deck) // per_epoch] for deck in decks
            )
            step = Step(
                epoch=epoch,
                fresh=(*(new.next_of(fact) for fact in chosen), *(more.next_of(fact) for fact in shown)),
                earlier=tuple(old.next_of(next(old_deck)) for _ in range(old_per_step)),
                replay=(),
                preferred=tuple(said),
            )
            replay = [next(replay_deck) for _ in range(replay_per_step if mix is None else 0)]
            if mix is not None:
                owed += mix.ratio * mix.tokens(step)
                # What a step takes too much of, the next one takes less of.
                while len(replay) < replay_rows and owed > 0:
                    replay.append(next(replay_deck))
                    owed -= mix.general[replay[-1]]
            steps.append(replace(step, replay=tuple(replay)))
    return steps


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Rising over the warm-up, then falling linearly; `step` counts from 0 and the last one is still above
    zero."""
    warm = max(1, round(recipe.warmup_share * steps))
    return recipe.learning_rate * min((step + 1) / warm, (steps - step) / max(1, steps - warm + 1))
