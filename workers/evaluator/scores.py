"""What a reward model finds of answers: a model judging a model. Done in a child (`workers.asked`)."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path

from msgspec import Struct

from streams.errors import Invalid
from workers.asked import answer, ask

Said = tuple[str, str]
"""A question and an answer to it."""


class Task(Struct, frozen=True, forbid_unknown_fields=True):
    """`model`: a folder that the method `reward` wrote."""

    model: str
    said: tuple[Said, ...]

    def __repr__(self) -> str:
        return f"Task({len(self.said)} answers)"


class Answer(Struct, frozen=True, tag="answer", tag_field="kind"):
    """Of each answer its score; None: it has no words, or is too long with its question. Nothing at all: a score was no number."""

    scores: tuple[float | None, ...] | None


def scores(model: Path, said: Sequence[Said], look: Callable[[], None]) -> tuple[float | None, ...] | None:
    """As `Answer` says; what is said twice is scored once. Raises as `ask` does (Invalid: it is no reward model that can be read),
    and what `look` raises."""
    distinct = list(dict.fromkeys(said))
    found = ask("workers.evaluator.scores", Task(str(model), tuple(distinct)), Answer, look).scores
    if found is None:
        return None
    of = dict(zip(distinct, found, strict=True))
    return tuple(of[one] for one in said)


def work(task: Task) -> Answer:
    """Raises Invalid if the model cannot be loaded."""
    from workers.trainer.reward_model import RewardModel

    reward = RewardModel(Path(task.model))
    rows = dict[int, tuple[tuple[int, ...], tuple[int, ...]]]()
    for number, (question, reply) in enumerate(task.said):
        with suppress(Invalid):
            rows[number] = reward.row(([{"role": "user", "content": question}], reply))
    raw = reward.raw([prompt + answer for prompt, answer in rows.values()])
    found = {
        number: reward.corrected(score, len(answer))
        for (number, (_, answer)), score in zip(rows.items(), raw, strict=True)
    }
    if not all(map(isfinite, found.values())):
        return Answer(None)
    return Answer(tuple(found.get(number) for number in range(len(task.said))))


if __name__ == "__main__":
    sys.exit(answer(Task, work))
