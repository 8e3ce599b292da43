"""Learning from rows in packs: the lower layers' states are there, a step runs the upper ones, its rows dealt to threads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch

from workers.trainer.loop import Done
from workers.trainer.losses import label_loss, log_probability, soft_loss
from workers.trainer.packed import LowerStates, PackedModel
from workers.trainer.plan import Step
from workers.trainer.preferring import Asked, PreferringRows, answers_log_p
from workers.trainer.rows import EncodedRow, pack
from workers.trainer.side_by_side import Result, SideBySide
from workers.trainer.sized import TOKENS_AT_ONCE


@dataclass(frozen=True, kw_only=True)
class PackedLearner(PreferringRows):
    """All that the steps need."""

    model: PackedModel
    named: Mapping[str, torch.nn.Parameter]
    prefix: int
    states: LowerStates
    wanted: list[torch.Tensor]  # of each general row (answer tokens, width): what the output layer saw before
    steps: list[Step]
    replay_weight: float
    parts: SideBySide

    def cost(self, number: int) -> float:
        """What a row takes in a step, in passes of one token through the upper layers and back: their matrices
        are gone through twice a token, the output layer's for each answer token twice, or three times if its
        target is a distribution."""
        head = 1.5 if number >= self.replay_from else 1.0
        return len(self.rows[number].inputs) - self.prefix + head * self.answer_tokens(number) * self.model.head_share

    def dealt(self, units: Iterable[tuple[int, ...]], count: int) -> list[list[tuple[int, ...]]]:
        """Units, each of rows that stay together, in `count` heaps that cost nearly the same: the dearest first, each to the
        cheapest heap."""
        heaps: list[list[tuple[int, ...]]] = [[] for _ in range(count)]
        costs = [0.0] * count
        dear = sorted((-sum(map(self.cost, unit)), unit) for unit in units)
        for cost, unit in dear:
            least = costs.index(min(costs))
            heaps[least].append(unit)
            costs[least] -= cost
        return heaps

    def packs(self, heap: Iterable[tuple[int, ...]]) -> list[list[int]]:
        """A heap's rows in packs of rows about as long as each other, which are laid out as a batch of few tokens, or are one
        unit: so that long rows need no more memory than many short ones."""
        found: list[list[int]] = []
        slots, longest = 0, 0
        for width, unit in sorted((-max(len(self.rows[number].inputs) for number in unit), unit) for unit in heap):
            slots += len(unit) * longest
            if not found or slots > TOKENS_AT_ONCE:
                found.append([])
                longest = -width
                slots = len(unit) * longest
            found[-1] += unit
        return found

    def log_p(self, numbers: Iterable[int]) -> torch.Tensor:
        """(rows,) fp32, on the CPU: how likely the model finds the answers of these rows, in nats."""
        wanted = list(numbers)
        few = self.heaps(wanted)
        done = torch.cat(self.parts.run([partial(_log_p, self, rows) for rows in few]))
        found = dict(zip(chain(*few), done, strict=True))
        return torch.stack([found[number] for number in wanted])

    def with_rows(self, rows: Sequence[EncodedRow]) -> "PackedLearner":
        """The same model for other rows, that begin as these do and stand for themselves."""
        states = LowerStates.computed(self.model, list(rows), self.prefix, self.parts)
        return replace(
            self, rows=list(rows), earlier_from=0, replay_from=len(rows), preference=None, states=states, steps=[]
        )

    def heaps(self, numbers: Iterable[int]) -> list[list[int]]:
        """These rows, as they are run at once."""
        heaps = self.dealt(((number,) for number in numbers), self.parts.count)
        return [rows for heap in heaps for rows in self.packs(heap)]

    def run(self, parts: Sequence[Callable[[], Result]]) -> list[Result]:
        """What each gives, in their order; side by side."""
        return self.parts.run(parts)

    def hidden(self, numbers: Sequence[int]) -> torch.Tensor:
        """(K, width): what the output layer sees of every token of these rows' answers, row by row."""
        rows = [self.rows[number] for number in numbers]
        return self.model.upper(self.states.of(numbers), pack(rows, self.prefix, self.model.device))

    def one_step(self, step: Step) -> Done:
        numbers, said, parameters = self.numbers(step), self.preferred(step), list(self.named.values())
        answers = [sum(map(self.answer_tokens, kind)) for kind in self.kinds(numbers)[:3]]
        asked = self.asked(step)
        heaps = self.dealt([*((number,) for number in numbers), *said], self.parts.count)
        done = self.parts.run(
            [partial(_one_part, self, self.packs(heap), answers, asked, parameters) for heap in heaps if heap]
        )
        for parameter, *gradients in zip(parameters, *(part.gradients for part in done), strict=True):
            parameter.grad = sum(gradients[1:], start=gradients[0])
        divergence = sum(part.divergence for part in done) if step.replay else None
        return Done(sum(part.loss for part in done), divergence, sum(part.tokens for part in done))


@dataclass(frozen=True)
class _Part:
    """A part's share of the step's losses, its gradients in the order of the parameters, and its tokens."""

    loss: float
    divergence: float
    gradients: Sequence[torch.Tensor]
    tokens: int


@torch.no_grad()
def _log_p(learner: PackedLearner, numbers: Sequence[int]) -> torch.Tensor:
    rows = [learner.rows[number] for number in numbers]
    packed = pack(rows, learner.prefix, learner.model.device)
    hidden = learner.model.upper(learner.states.of(numbers), packed)
    return answers_log_p(log_probability(hidden, learner.model.head, packed.targets), packed.answers).cpu()


def _one_part(
    learner: PackedLearner,
    packs: Sequence[Sequence[int]],
    answers: Sequence[int],
    asked: Asked,
    parameters: Sequence[torch.nn.Parameter],
) -> _Part:
    """One pack after another, so that only one is in memory."""
    loss, divergence, tokens = 0.0, 0.0, 0
    gradients: Sequence[torch.Tensor] = ()
    for numbers in packs:
        done = _one_pack(learner, numbers, answers, asked, parameters)
        loss, divergence, tokens = loss + done.loss, divergence + done.divergence, tokens + done.tokens
        for whole, own in zip(gradients, done.gradients, strict=False):
            whole += own
        gradients = gradients or done.gradients
    return _Part(loss, divergence, gradients, tokens)


def _one_pack(
    learner: PackedLearner,
    numbers: Sequence[int],
    answers: Sequence[int],
    asked: Asked,
    parameters: Sequence[torch.nn.Parameter],
) -> _Part:
    """`answers`: the answer tokens of each kind in the whole step, over which its losses are means. New rows and
    earlier ones have a mean each: what is new counts as much in a later round as in the first."""
    model = learner.model
    fresh, earlier, general, preferred = learner.kinds(numbers)
    numbers = [*fresh, *earlier, *general, *preferred]
    packed = pack([learner.rows[number] for number in numbers], learner.prefix, model.device)
    hidden = model.upper(learner.states.of(numbers), packed)
    own = [sum(map(learner.answer_tokens, kind)) for kind in (fresh, earlier, general, preferred)]
    states, targets = torch.split(hidden, own), torch.split(packed.targets, own)
    loss = kept = divergence = liking = torch.zeros((), device=model.device)
    if fresh:
        loss = label_loss(states[0], model.head, targets[0]) * (own[0] / answers[0])
    if earlier:
        kept = label_loss(states[1], model.head, targets[1]) * (own[1] / answers[1])
    if general:
        wanted = torch.cat([learner.wanted[number - learner.replay_from] for number in general])
        divergence = soft_loss(states[2], model.head, wanted) * (own[2] / answers[2])
    if preferred:
        liking = learner.liking(preferred, log_probability(states[3], model.head, targets[3]), asked)
    gradients = torch.autograd.grad(loss + liking + kept + learner.replay_weight * divergence, parameters)
    return _Part(float((loss + liking).detach()), float(divergence.detach()), gradients, len(packed.ids))
