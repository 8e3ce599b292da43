"""Proximal policy optimisation, as formulas on tensors: what a step of it learns from the answers that it drew.

Answers lie one behind the other: (K,) is every token of all of them, `counts` how many each has. Nothing is discounted: an
answer is judged whole, at its end (Ziegler et al. 2019, arXiv 1909.08593, section 2.1).
"""

from collections.abc import Sequence

import torch

KL_STEP = 0.1  # of the coefficient, at most a fifth of it at once (Ziegler et al. 2019, section 2.2: K_beta)
KL_ERROR = 0.2


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, counts: Sequence[int], coefficient: float) -> torch.Tensor:
    """(K,): of each token what going away from the reference costs, and at the last one of an answer what that was given
    (Ziegler et al. 2019, equation 2). `scores`: (rows,); `kl`: (K,) log-probability less the reference's."""
    rewards = -coefficient * kl
    ends = torch.tensor(list(counts)).cumsum(0) - 1
    return rewards.index_add(0, ends, scores.to(rewards.dtype))


def advantages(rewards: torch.Tensor, values: torch.Tensor, counts: Sequence[int], decay: float) -> torch.Tensor:
    """(K,): generalised advantage estimates (Schulman et al. 2015, arXiv 1506.02438, equations 11 to 16) with a discount of 1 and
    lambda = `decay`. After the last token of an answer nothing is to come."""
    found = torch.empty_like(rewards)
    end = 0
    for count in counts:
        start, end = end, end + count
        ahead = after = 0.0
        for token in range(end - 1, start - 1, -1):
            ahead = float(rewards[token]) + after - float(values[token]) + decay * ahead
            found[token] = ahead
            after = float(values[token])
    return found


def whitened(numbers: torch.Tensor) -> torch.Tensor:
    """With a mean of 0 and a standard deviation of 1; zeros where all are the same."""
    centred = numbers - numbers.mean()
    deviation = centred.square().mean().sqrt()
    return centred / (deviation + 1e-8)


def policy_loss(log_p: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """Summed over the tokens: the clipped surrogate objective (Schulman et al. 2017, arXiv 1707.06347, equation 7), negative.
    `old`: log-probabilities by the policy that drew the tokens."""
    ratio = (log_p - old).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)).sum()


def value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Summed over the tokens: half the squared error, of the value or of that no further than `clip` from what it was, whichever is
    more (Ziegler et al. 2019, as their code has it)."""
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square()).sum()


def divergence(log_p: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Summed over the tokens, in nats: from the policy that drew them to the one that finds them as likely as `log_p` says. An
    estimate that is never negative: (r - 1) - log r, r their ratio."""
    log_ratio = log_p - old
    return (log_ratio.exp() - 1 - log_ratio).sum()


def next_coefficient(coefficient: float, kl: float, target: float) -> float:
    """What going away costs in the next step, when an answer has gone `kl` nats away and `target` are wanted (Ziegler et al. 2019,
    section 2.2)."""
    error = max(-KL_ERROR, min(KL_ERROR, kl / target - 1))
    return coefficient * (1 + KL_STEP * error)
