"""Learning what is preferred beside the rows, however these are run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from workers.trainer.plan import CountedRows, Step


@dataclass(frozen=True)
class Asked:
    """What every part of a step must know of all of it: over how many units its loss is a mean, and its baseline."""

    units: int
    baseline: float


def answers_log_p(log_p: torch.Tensor, answers: Sequence[int]) -> torch.Tensor:
    """(rows,): of each answer, from those of its tokens, of which it has so many."""
    return torch.stack([own.sum() for own in torch.split(log_p, list(answers))])


@dataclass(frozen=True, kw_only=True)
class PreferringRows(CountedRows):
    def log_p(self, numbers: Iterable[int]) -> torch.Tensor:
        """(rows,) fp32, on the CPU: how likely the model finds the answers of these rows, in nats."""
        raise NotImplementedError

    def asked(self, step: Step) -> Asked:
        if self.preference is None:
            return Asked(0, 0.0)
        ahead = self.preference.ahead(step.preferred)
        if not ahead:
            return Asked(len(step.preferred), 0.0)
        log_p = self.log_p(self.preferred_from + row for row in ahead)
        return Asked(len(step.preferred), self.preference.baseline(log_p - self.preference.reference[ahead]))

    def liking(self, numbers: Sequence[int], log_p: torch.Tensor, asked: Asked) -> torch.Tensor:
        """The loss of the rows `numbers`, unit by unit, whose answers' tokens are as likely as `log_p` says: their share of the
        step's mean."""
        assert self.preference is not None
        rows = [number - self.preferred_from for number in numbers]
        sums = answers_log_p(log_p, [self.answer_tokens(number) for number in numbers])
        reference = self.preference.reference[rows].to(sums.device)
        return self.preference.loss(rows, sums - reference, asked.baseline) / asked.units
