"""The two losses, each with its gradient worked out on the spot, a few rows of logits at a time.

A vocabulary is large (49,152 words here): the logits of a step in fp32, kept for the backward pass, would be
the biggest thing in memory and most of the time of the output layer. The gradient of both losses with respect
to the logits is the model's probabilities less the wanted ones, so one pass is enough.
"""

from typing import Any

import torch
from torch.nn import functional

ROWS_AT_ONCE = 128


class _LabelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count = len(targets)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        for first in range(0, count, ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            log_p = functional.linear(hidden[rows], head).float().log_softmax(-1)
            wanted = targets[rows, None]
            total -= log_p.gather(1, wanted).sum()
            p = log_p.exp_()
            p.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=p.dtype))
            gradient[rows] = p.to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        ctx.count = count
        return total / count

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (outputs[0] / ctx.count).to(gradient.dtype), None, None


class _SoftLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        count = len(wanted)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        for first in range(0, count, ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            log_p = functional.linear(hidden[rows], head).float().log_softmax(-1)
            log_q = functional.linear(wanted[rows], head).float().log_softmax(-1)
            q = log_q.exp()
            total += torch.dot(q.flatten(), log_q.sub_(log_p).flatten())
            gradient[rows] = log_p.exp_().sub_(q).to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        ctx.count = count
        return total / count

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (outputs[0] / ctx.count).to(gradient.dtype), None, None


def label_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats. hidden: (K, width) normed; head: (vocabulary, width), frozen; targets:
    (K,)."""
    loss: torch.Tensor = _LabelLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return loss


def soft_loss(hidden: torch.Tensor, head: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean Kullback-Leibler divergence in nats from the distributions that `head` makes of `wanted` to those that
    it makes of `hidden`; both are (K, width), normed.

    The states are kept and not the probabilities, which take 85 times the memory with a vocabulary of 49,152
    words and a width of 576.
    """
    loss: torch.Tensor = _SoftLoss.apply(hidden, head, wanted)  # type: ignore[no-untyped-call]
    return loss
