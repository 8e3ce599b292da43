"""When a training ends before its last step: on wordings that are held out.

Prechelt 1998, "Early Stopping - But When?" (Neural Networks: Tricks of the Trade, LNCS 1524, 55-69), criterion UP_s with strips of
one epoch: it ends when the loss on what is held out has risen in `stop_after` epochs in a row, and what comes of it are the weights
with which that loss was the least. No chance is in it, and what it has seen stands in the checkpoint: whoever takes the training up
again ends where it would have ended.

What is held out are other wordings of facts that are learned: a fact that is held out whole is one that nobody could know.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from streams.errors import Invalid
from workers.trainer.checkpoint import Checkpoint
from workers.trainer.rows import EncodedRow
from workers.trainer.sharded import like, whole

HELD_OUT_SHARE = 0.2  # of the facts that were asked in other words, too
_BEST = "best."  # before the name of a weight in a checkpoint


def held_out(rows: Sequence[EncodedRow], seed: int) -> tuple[list[EncodedRow], list[EncodedRow]]:
    """What is learned from, and what is held out: one wording of a fifth of the facts that have one, by lot. A correction as it was
    given is always learned, and nothing is held out where nobody asked in other words."""

    def lot(row: EncodedRow) -> bytes:
        return hashlib.sha256(json.dumps([seed, row.ids]).encode()).digest()

    facts: dict[int, list[EncodedRow]] = {}
    for row in rows:
        facts.setdefault(row.group, []).append(row)
    others = [[row for row in fact if row.reworded and not row.beside] for fact in facts.values() if len(fact) > 1]
    drawn = sorted((min(fact, key=lot) for fact in others if fact), key=lot)
    out = set(drawn[: math.ceil(HELD_OUT_SHARE * len(drawn))])
    return [row for row in rows if row not in out], [row for row in rows if row in out]


class Stopping:
    """`losses`: on what is held out, after each epoch; `best_step`: after which it was the least, with the weights that it had."""

    def __init__(self, stop_after: int, loss: Callable[[], float]) -> None:
        """`loss`: of what is held out, by the model as it stands."""
        self.losses: list[float] = []
        self.best_step = 0
        self._stop_after = stop_after
        self._loss = loss
        self._best: dict[str, torch.Tensor] = {}

    def ends(self, step: int, named: Mapping[str, torch.nn.Parameter]) -> bool:
        """Whether the training is to end with the epoch that `step` was the last of. Raises Invalid if the loss is no number."""
        loss = self._loss()
        if not math.isfinite(loss):
            raise Invalid(f"the loss on held-out wordings is no number any more after step {step}")
        if loss < min(self.losses, default=math.inf):
            self.best_step = step
            self._best = {name: whole(weight) for name, weight in named.items()}
        self.losses.append(loss)
        last = self.losses[-self._stop_after - 1 :]
        return len(last) > self._stop_after and all(after > before for before, after in pairwise(last))

    def take_best(self, named: Mapping[str, torch.nn.Parameter]) -> None:
        """Give the weights back that were the best."""
        with torch.no_grad():
            for name, weight in self._best.items():
                named[name].copy_(like(named[name], weight))

    def noted(self, kept: Checkpoint) -> Checkpoint:
        """The checkpoint with what was seen so far."""
        best = {_BEST + name: weight.contiguous() for name, weight in self._best.items()}
        return replace(kept, tensors={**kept.tensors, **best}, held_out=tuple(self.losses), best_step=self.best_step)

    def restore(self, found: Checkpoint) -> None:
        self.losses, self.best_step = list(found.held_out), found.best_step
        self._best = {
            name.removeprefix(_BEST): weight for name, weight in found.tensors.items() if name.startswith(_BEST)
        }
