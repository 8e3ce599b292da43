"""Learning from rows in packs: the lower layers' states are there, a step runs the upper ones, its rows dealt to threads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from workers.trainer.loop import Done
from workers.trainer.losses import label_loss, soft_loss
from workers.trainer.packed import LowerStates, PackedModel
from workers.trainer.plan import CountedRows, Step
from workers.trainer.rows import pack
from workers.trainer.side_by_side import SideBySide


@dataclass(frozen=True, kw_only=True)
class PackedLearner(CountedRows):
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

    def dealt(self, numbers: Sequence[int], count: int) -> list[list[int]]:
        """`numbers` in `count` heaps that cost nearly the same: the dearest first, each to the cheapest heap."""
        heaps: list[list[int]] = [[] for _ in range(count)]
        costs = [0.0] * count
        for number in sorted(numbers, key=lambda number: (-self.cost(number), number)):
            least = costs.index(min(costs))
            heaps[least].append(number)
            costs[least] += self.cost(number)
        return heaps

    def one_step(self, step: Step) -> Done:
        numbers, parameters = self.numbers(step), list(self.named.values())
        answers = [sum(map(self.answer_tokens, kind)) for kind in self.kinds(numbers)]
        done = self.parts.run(
            [
                partial(_one_part, self, heap, answers, parameters)
                for heap in self.dealt(numbers, self.parts.count)
                if heap
            ]
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


def _one_part(
    learner: PackedLearner,
    numbers: Sequence[int],
    answers: Sequence[int],
    parameters: Sequence[torch.nn.Parameter],
) -> _Part:
    """`answers`: the answer tokens of each kind in the whole step, over which its losses are means. New rows and
    earlier ones have a mean each: what is new counts as much in a later round as in the first."""
    model = learner.model
    fresh, earlier, general = learner.kinds(numbers)
    numbers = [*fresh, *earlier, *general]
    packed = pack([learner.rows[number] for number in numbers], learner.prefix, model.device)
    hidden = model.upper(learner.states.of(numbers), packed)
    own = [sum(map(learner.answer_tokens, kind)) for kind in (fresh, earlier, general)]
    states, targets = torch.split(hidden, own), torch.split(packed.targets, own)
    loss = kept = divergence = torch.zeros((), device=model.device)
    if fresh:
        loss = label_loss(states[0], model.head, targets[0]) * (own[0] / answers[0])
    if earlier:
        kept = label_loss(states[1], model.head, targets[1]) * (own[1] / answers[1])
    if general:
        wanted = torch.cat([learner.wanted[number - learner.replay_from] for number in general])
        divergence = soft_loss(states[2], model.head, wanted) * (own[2] / answers[2])
    gradients = torch.autograd.grad(loss + kept + learner.replay_weight * divergence, parameters)
    return _Part(float(loss.detach()), float(divergence.detach()), gradients, len(packed.ids))
