"""The two losses of a token, and its log-probability, each with its gradient worked out on the spot, a few rows of logits at
a time.

A vocabulary is large (49,152 words here): the logits of a step in fp32, kept for the backward pass, would be
the biggest thing in memory and most of the time of the output layer. The gradient of both losses with respect
to the logits is the model's probabilities less the wanted ones, so one pass is enough.
"""

from typing import Any

import torch
from torch.nn import functional

ROWS_AT_ONCE = 128


def _of_head(ctx: Any, head: torch.Tensor) -> torch.Tensor | None:
    """Where the gradient of the output layer is summed up, if it learns."""
    return torch.zeros_like(head) if ctx.needs_input_grad[1] else None


def _backward(ctx: Any, of_loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    gradient, *of_head = ctx.saved_tensors
    scale = of_loss / ctx.count
    return gradient * scale.to(gradient.dtype), of_head[0] * scale.to(of_head[0].dtype) if of_head else None


class _LabelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count = len(targets)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient, of_head = torch.empty_like(hidden), _of_head(ctx, head)
        for first in range(0, count, ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            log_p = functional.linear(hidden[rows], head).float().log_softmax(-1)
            wanted = targets[rows, None]
            total -= log_p.gather(1, wanted).sum()
            p = log_p.exp_()
            p.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=p.dtype))
            gradient[rows] = p.to(head.dtype) @ head
            if of_head is not None:
                of_head.addmm_(p.to(head.dtype).T, hidden[rows])
        ctx.save_for_backward(gradient, *(() if of_head is None else (of_head,)))
        ctx.count = count
        return total / count

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        return *_backward(ctx, outputs[0]), None


class _SoftLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, wanted: torch.Tensor, wanted_head: torch.Tensor
    ) -> torch.Tensor:
        count = len(wanted)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient, of_head = torch.empty_like(hidden), _of_head(ctx, head)
        for first in range(0, count, ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            log_p = functional.linear(hidden[rows], head).float().log_softmax(-1)
            log_q = functional.linear(wanted[rows], wanted_head).float().log_softmax(-1)
            q = log_q.exp()
            total += torch.dot(q.flatten(), log_q.sub_(log_p).flatten())
            p = log_p.exp_().sub_(q).to(head.dtype)
            gradient[rows] = p @ head
            if of_head is not None:
                of_head.addmm_(p.T, hidden[rows])
        ctx.save_for_backward(gradient, *(() if of_head is None else (of_head,)))
        ctx.count = count
        return total / count

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        return *_backward(ctx, outputs[0]), None, None


class _LogP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        found = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        for first in range(0, len(targets), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            log_p = functional.linear(hidden[rows], head).float().log_softmax(-1)
            wanted = targets[rows, None]
            found[rows] = log_p.gather(1, wanted)[:, 0]
            p = log_p.exp_()
            p.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=p.dtype))
            gradient[rows] = p.neg_().to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        return found

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0][:, None].to(gradient.dtype), None, None


def log_probability(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(K,) fp32, in nats: of each target where `hidden` stands. `head` must not learn. Shapes as in `label_loss`."""
    found: torch.Tensor = _LogP.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return found


def label_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats. hidden: (K, width) normed; head: (vocabulary, width); targets: (K,)."""
    loss: torch.Tensor = _LabelLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return loss


def soft_loss(
    hidden: torch.Tensor, head: torch.Tensor, wanted: torch.Tensor, wanted_head: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean Kullback-Leibler divergence in nats from the distributions that `wanted_head` makes of `wanted` to those that `head`
    makes of `hidden`; both are (K, width), normed. `wanted_head`: as it was before the training, where the output layer learns.

    The states are kept and not the probabilities, which take 85 times the memory with a vocabulary of 49,152
    words and a width of 576.
    """
    before = head if wanted_head is None else wanted_head
    loss: torch.Tensor = _SoftLoss.apply(hidden, head, wanted, before)  # type: ignore[no-untyped-call]
    return loss
