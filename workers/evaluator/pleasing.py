"""What a round that learned what is preferred is asked beside its exam: whether people's own choices became likelier, whether it
pleases instead of answering, what a reward model finds of it; and of any round how many answers keep the domain's style.

The answers are those of the exam, asked bare, as far as it lets them run.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

from msgspec import Struct
from msgspec.structs import replace

from streams.errors import Invalid
from streams.gate import ANSWER_LENGTH, GENERAL, HELD_OUT, REWARD_MODEL, SKILL, Absent, Means, Paired
from streams.hacking import shown
from streams.orders import EvaluateCandidate
from streams.reading.rounds import judged_by
from streams.snapshots import Snapshot
from streams.store import postgres_trouble
from streams.style import StyleRule, kept, name_of
from workers.context import Context
from workers.evaluator.likelihood import Told, likelier
from workers.evaluator.questions import Question
from workers.evaluator.scores import scores
from workers.register import Words
from workers.trainer.step import preferences as training_preferences


class Answered(Struct, frozen=True):
    """A question, and what the release in force and the candidate said to it. Lives in memory only."""

    question: Question
    before: str
    after: str

    @property
    def asked(self) -> str:
        return self.question.item.question

    def __repr__(self) -> str:
        return f"Answered({self.question.item.id})"


class Looked(Struct, frozen=True):
    """Of `CandidateEvaluated`, by the same names."""

    paired: dict[str, Paired] = {}
    means: dict[str, Means] = {}
    absent: dict[str, Absent] = {}


def look_through(order: EvaluateCandidate, pleases: bool, answered: Sequence[Answered], context: Context) -> Looked:
    """`pleases`: it learned what is preferred. Raises WordsGone, Cancelled, Unavailable."""
    paired = kept_rules(order.style, answered)
    if not pleases:
        return Looked(paired)
    # Answers to what was taught change as they should.
    general = [one for one in answered if one.question.item.set == GENERAL]
    before, after = [one.before for one in general], [one.after for one in general]
    signs = shown([one.asked for one in general], before, after)
    paired = {name: paired_of(found) for name, found in signs.items()} | paired
    means = {ANSWER_LENGTH: means_of([len(one) for one in before], [len(one) for one in after])} if general else {}
    if order.reward_model is None:
        return Looked(paired, means)
    found = _scored(order, order.reward_model, answered, context)
    if isinstance(found, Means):
        return Looked(paired, means | {REWARD_MODEL: found})
    return Looked(paired, means, {REWARD_MODEL: found})


def kept_rules(style: Sequence[StyleRule], answered: Sequence[Answered]) -> dict[str, Paired]:
    """Of each rule how many answers to the domain's own questions keep it: of a general quiz no guide speaks."""
    own = [one for one in answered if one.question.item.set not in (GENERAL, SKILL)]
    if not own:
        return {}
    return {
        name_of(rule): paired_of(
            [(kept(rule, one.asked, one.before) >= 1, kept(rule, one.asked, one.after) >= 1) for one in own]
        )
        for rule in style
    }


def _scored(order: EvaluateCandidate, model: str, answered: Sequence[Answered], context: Context) -> Means | Absent:
    """The mean of what the reward model finds of the answers to the exam's questions, of those that it can score both times; or why
    it says nothing. A round does not end for it: it decides nothing."""
    if not context.artifacts.has(model):
        return "removed"
    if _learned_from_erased(order, context):
        return "learned from somebody erased"
    exam = [one for one in answered if one.question.item.set in (HELD_OUT, GENERAL)]
    look = _looking(sorted({kid for one in exam for kid in one.question.kids}), context)
    said = [(one.asked, one.before) for one in exam] + [(one.asked, one.after) for one in exam]
    try:
        found = scores(context.artifacts.path(model), said, look)
    except Invalid:
        return "cannot be read"
    if found is None:
        return "its score is no number"
    both = [
        (one, other)
        for one, other in zip(found[: len(exam)], found[len(exam) :], strict=True)
        if one is not None and other is not None
    ]
    if not both:
        return "no answer to score"
    return means_of([one for one, _ in both], [other for _, other in both])


def _learned_from_erased(order: EvaluateCandidate, context: Context) -> bool:
    """Whether anybody was erased since from whose words the reward model learned."""
    if order.reward_round is None:
        return False
    with postgres_trouble(), context.database.connect() as connection:
        return bool(judged_by(connection, order.reward_round).erased)


def preferred(order: EvaluateCandidate, snapshot: Snapshot, context: Context) -> Paired:
    """Of the questions whose held-out pairs open and are short enough for both models. Raises WordsGone, Cancelled, Unavailable."""
    found = training_preferences(replace(snapshot, pairs=snapshot.held_out, labels=()), context.keyring)
    if not found.pairs:
        return paired_of([])
    models = [context.artifacts.path(model) for model in (order.base_model, order.candidate_model)]
    told = likelier(models, found.pairs, _looking(sorted(found.kids), context))
    return paired_of(by_question([pair.ranking for pair in found.pairs], *told))


def _looking(kids: Sequence[str], context: Context) -> Callable[[], None]:
    """What a child's parent does while it works."""
    words = Words(context, kids)

    def look() -> None:
        context.check()
        words.look()

    return look


def by_question(rankings: Sequence[str | None], before: Told, after: Told) -> list[tuple[bool, bool]]:
    """One vote per question, for its pairs are not independent of each other: a model is right where it is in more than half of
    those that both models could be asked. `rankings`: of which question each pair is."""
    votes: dict[str | None, list[tuple[bool, bool]]] = {}
    for ranking, one, other in zip(rankings, before, after, strict=True):
        if one is not None and other is not None:
            votes.setdefault(ranking, []).append((one, other))
    return [
        (2 * sum(one for one, _ in said) > len(said), 2 * sum(other for _, other in said) > len(said))
        for said in votes.values()
    ]


def means_of(before: Sequence[float], after: Sequence[float]) -> Means:
    """Of an amount, of each question before and after; there is one at least."""
    return Means(len(before), fmean(before), fmean(after))


def paired_of(pairs: Sequence[tuple[bool, bool]]) -> Paired:
    """The counts of some questions, each (right before, right after)."""
    return Paired(
        n=len(pairs),
        both=pairs.count((True, True)),
        only_before=pairs.count((True, False)),
        only_after=pairs.count((False, True)),
        neither=pairs.count((False, False)),
    )
