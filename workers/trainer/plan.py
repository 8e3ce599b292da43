"""Which rows each step holds: settled before the first step, from the seed alone, so that a restart needs no
memory of chance."""

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

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
        self, chance: random.Random, groups: Sequence[int], wanted: Callable[[int], bool] = lambda group: True
    ) -> None:
        rows: dict[int, list[int]] = {}
        for row, group in enumerate(groups):
            if wanted(group):
                rows.setdefault(group, []).append(row)
        self.facts = list(rows)
        self._rows = rows
        self._chance = chance
        self._left: dict[int, list[int]] = {}

    def next_of(self, fact: int) -> int:
        left = self._left.get(fact)
        if not left:
            left = self._left[fact] = _shuffled(self._chance, self._rows[fact])
        return left.pop()


def plan_steps(
    recipe: Recipe,
    fresh: Sequence[int],
    earlier: Sequence[int],
    replay_rows: int,
    beside: Collection[int] = frozenset(),
    preferred: int = 0,
) -> list[Step]:
    """`fresh` and `earlier` hold each row's group. An epoch shows every new fact once, in one of its
    wordings, in steps of nearly equal size; earlier facts and general rows are dealt like cards, as many as a
    step takes or as there are. The new facts `beside` are shown once an epoch too, in these same steps; and
    so is what people prefer, of which there are `preferred`."""
    more = _Wordings(random.Random(f"beside {recipe.seed}"), fresh, lambda group: group in beside)
    more_order = random.Random(f"beside order {recipe.seed}")
    new = _Wordings(random.Random(f"new {recipe.seed}"), fresh, lambda group: group not in beside)
    old = _Wordings(random.Random(f"old {recipe.seed}"), earlier)
    order = random.Random(f"order {recipe.seed}")
    old_deck = dealt(random.Random(f"old deck {recipe.seed}"), len(old.facts))
    replay_deck = dealt(random.Random(f"replay deck {recipe.seed}"), replay_rows)
    old_per_step = min(recipe.earlier_rows_per_step, len(old.facts))
    replay_per_step = min(recipe.replay_rows_per_step, replay_rows)
    preferred_order = random.Random(f"preferred order {recipe.seed}")
    per_epoch = max(1, -(-len(new.facts) // recipe.batch_rows))
    if isinstance(recipe, PreferenceRecipe):
        per_epoch = max(per_epoch, -(-preferred // recipe.batch_pairs))
    steps: list[Step] = []
    for epoch in range(recipe.epochs):
        decks = (
            _shuffled(order, new.facts),
            _shuffled(more_order, more.facts),
            _shuffled(preferred_order, range(preferred)),
        )
        for number in range(per_epoch):
            chosen, shown, said = (
                deck[number * len(deck) // per_epoch : (number + 1) * len(deck) // per_epoch] for deck in decks
            )
            steps.append(
                Step(
                    epoch=epoch,
                    fresh=(*(new.next_of(fact) for fact in chosen), *(more.next_of(fact) for fact in shown)),
                    earlier=tuple(old.next_of(old.facts[next(old_deck)]) for _ in range(old_per_step)),
                    replay=tuple(next(replay_deck) for _ in range(replay_per_step)),
                    preferred=tuple(said),
                )
            )
    return steps


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Rising over the warm-up, then falling linearly; `step` counts from 0 and the last one is still above
    zero."""
    warm = max(1, round(recipe.warmup_share * steps))
    return recipe.learning_rate * min((step + 1) / warm, (steps - step) / max(1, steps - warm + 1))
