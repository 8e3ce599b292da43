"""Learning from rows as transformers itself runs them, side by side behind padding: for what packs do not carry (families whose
attention is another, rows too long to be laid side by side), and for what all layers see (a prefix) or all weights learn by."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from streams.errors import Invalid
from workers.trainer.loaded import LoadedModel
from workers.trainer.loop import Done
from workers.trainer.losses import label_loss, log_probability, soft_loss
from workers.trainer.plan import Step
from workers.trainer.preferring import PreferringRows, answers_log_p
from workers.trainer.rows import EncodedRow
from workers.trainer.sharded import Sharded, summed
from workers.trainer.side_by_side import Result
from workers.trainer.sized import TOKENS_AT_ONCE

CHECKPOINTED = 1024  # tokens of a row, above which a layer's inner states are computed again and not kept
HEAD_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.02}  # mean divergence in nats that rounding may explain


class PlainModel(LoadedModel):
    """One that is run as it is. `before`: gives the keys and values that stand before every row, for so many rows; None: nothing
    does. `run`: what runs it, where that is not its body (`workers.trainer.sharded`)."""

    before: Callable[[int], Any] | None = None
    run: Callable[..., Any] | None = None
    before_tokens = 0
    keeps_little = False

    def states(self, rows: Sequence[EncodedRow]) -> torch.Tensor:
        width = max(len(row.inputs) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        seen = torch.zeros(len(rows), self.before_tokens + width, dtype=torch.long)
        seen[:, : self.before_tokens] = 1
        for number, row in enumerate(rows):
            ids[number, : len(row.inputs)] = torch.tensor(row.inputs)
            seen[number, self.before_tokens : self.before_tokens + len(row.inputs)] = 1
        out = (self.run or self.body)(
            input_ids=ids.to(self.device),
            attention_mask=seen.to(self.device),
            past_key_values=self.before(len(rows)) if self.before is not None else None,
            use_cache=False,
        ).last_hidden_state
        return torch.cat([out[number, row.answer_at - 1 : len(row.inputs)] for number, row in enumerate(rows)])

    def final_states(self, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
        """Of each row (answer tokens, width), as the model stands."""
        found: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            for numbers in batches(rows, range(len(rows))):
                few = [rows[number] for number in numbers]
                states = torch.split(self.states(few), [row.answer_tokens for row in few])
                found |= dict(zip(numbers, states, strict=True))
        return [found[number] for number in range(len(rows))]

    def keep_little(self) -> None:
        """Compute a layer's inner states again in the backward pass and do not keep them: for long rows."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.keeps_little = True
        self.stand()

    def stand(self) -> None:
        """Nothing drops out, however a library asked for a training."""
        self.model.eval()
        for layer in self.body.layers:
            layer.training = self.keeps_little  # of itself alone: what drops out in training is further in

    @torch.no_grad()
    def check_head(self, rows: Sequence[EncodedRow]) -> None:
        """Raise Invalid if this family does more behind the last layer than to multiply by the output layer, or if it gives
        what is no number."""
        few = rows[:1]
        found = functional.linear(self.states(few), self.head).float().log_softmax(-1)
        logits = self.model(torch.tensor([few[0].ids], device=self.device), use_cache=False).logits
        if not bool(logits.isfinite().all()):
            raise Invalid(f"{type(self.model).__name__}: the model gives no numbers: its weights are broken")
        log_q = logits[0, few[0].answer_at - 1 : -1].float().log_softmax(-1)
        divergence = float((log_q.exp() * (log_q - found)).sum(-1).mean())
        if not divergence <= HEAD_ROUNDING[self.dtype]:
            raise Invalid(f"{type(self.model).__name__}: models of this family cannot be trained (output layer)")


def batches(rows: Sequence[EncodedRow], numbers: Sequence[int]) -> list[list[int]]:
    """`numbers` by the length of their rows, so many at once that they are few tokens with the padding."""
    found: list[list[int]] = []
    for number in sorted(numbers, key=lambda number: (-len(rows[number].ids), number)):
        if found and (len(found[-1]) + 1) * len(rows[found[-1][0]].ids) <= TOKENS_AT_ONCE:
            found[-1].append(number)
        else:
            found.append([number])
    return found


@torch.no_grad()
def mean_loss(model: LoadedModel, rows: Sequence[EncodedRow]) -> float:
    """Of an answer token of these rows, in nats, as the model stands."""
    total, count = 0.0, 0
    for numbers in batches(rows, range(len(rows))):
        few = [rows[number] for number in numbers]
        targets = torch.tensor([token for row in few for token in row.ids[row.answer_at :]], device=model.device)
        total += float(label_loss(model.states(few), model.head, targets)) * len(targets)
        count += len(targets)
    return total / count


@dataclass(frozen=True, kw_only=True)
class PlainLearner(PreferringRows):
    """All that the steps need. `wanted_head`: the output layer as it was, where it learns. `sharded`: of the model, where it
    is one of `processes`, that share the rows of a step; `process`: which."""

    model: PlainModel
    named: Mapping[str, torch.nn.Parameter]
    wanted: list[torch.Tensor]
    wanted_head: torch.Tensor | None
    steps: list[Step]
    replay_weight: float
    sharded: Sharded | None = None
    process: int = 0
    processes: int = 1

    @torch.no_grad()
    def log_p(self, numbers: Iterable[int]) -> torch.Tensor:
        """(rows,) fp32, on the CPU: how likely the model finds the answers of these rows, in nats."""
        wanted, found = list(numbers), dict[int, torch.Tensor]()
        for few in batches(self.rows, wanted):
            log_p = self._log_p([self.rows[number] for number in few])
            sums = answers_log_p(log_p, [self.answer_tokens(number) for number in few])
            found |= dict(zip(few, sums.cpu(), strict=True))
        return torch.stack([found[number] for number in wanted])

    def _log_p(self, rows: Sequence[EncodedRow]) -> torch.Tensor:
        targets = [token for row in rows for token in row.ids[row.answer_at :]]
        return log_probability(
            self.model.states(rows), self.model.head, torch.tensor(targets, device=self.model.device)
        )

    def with_rows(self, rows: Sequence[EncodedRow]) -> "PlainLearner":
        """The same model for other rows, that stand for themselves."""
        return replace(self, rows=list(rows), earlier_from=0, replay_from=len(rows), preference=None, steps=[])

    def heaps(self, numbers: Iterable[int]) -> list[list[int]]:
        """These rows, as they are run at once."""
        return batches(self.rows, list(numbers))

    def run(self, parts: Sequence[Callable[[], Result]]) -> list[Result]:
        """What each gives, in their order; one after the other."""
        return [part() for part in parts]

    def hidden(self, numbers: Sequence[int]) -> torch.Tensor:
        """(K, width): what the output layer sees of every token of these rows' answers, row by row."""
        return self.model.states([self.rows[number] for number in numbers])

    def one_step(self, step: Step) -> Done:
        losses, tokens = [0.0, 0.0, 0.0], 0
        kinds = self.kinds(self.numbers(step))[:3]
        for kind, numbers in enumerate(kinds):
            answers = sum(map(self.answer_tokens, numbers))
            for few, counts in self._shares(numbers):
                rows = [self.rows[number] for number in few]
                share = sum(row.answer_tokens for row in rows) / answers if counts else 0.0
                states = self.model.states(rows)
                if kind == 2:
                    wanted = torch.cat([self.wanted[number - self.replay_from] for number in few])
                    loss = soft_loss(states, self.model.head, wanted, self.wanted_head) * share
                else:
                    targets = [token for row in rows for token in row.ids[row.answer_at :]]
                    loss = label_loss(states, self.model.head, torch.tensor(targets, device=self.model.device)) * share
                torch.autograd.backward(loss * (self.replay_weight if kind == 2 else 1.0))
                losses[kind] += float(loss.detach())
                tokens += sum(len(row.inputs) for row in rows) if counts else 0
        said, asked = self.preferred(step), self.asked(step)
        for unit in said:
            rows = [self.rows[number] for number in unit]
            liking = self.liking(unit, self._log_p(rows), asked)
            torch.autograd.backward(liking)
            losses[0] += float(liking.detach())
            tokens += sum(len(row.inputs) for row in rows)
        for parameter in self.named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.sharded is not None:
            *losses, of_all = summed([*losses, tokens], self.model.device)
            tokens = round(of_all)
        return Done(losses[0], losses[2] if step.replay else None, tokens)

    def _shares(self, numbers: Sequence[int]) -> Iterator[tuple[list[int], bool]]:
        """This process's heaps of these rows, and whether each counts: every process runs as many, and whoever has fewer runs a
        row that counts for nothing."""
        if not numbers:
            return
        heaps = [batches(self.rows, numbers[first :: self.processes]) for first in range(self.processes)]
        own = heaps[self.process]
        for place in range(max(map(len, heaps))):
            yield (own[place], True) if place < len(own) else ([numbers[-1]], False)
