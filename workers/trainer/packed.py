"""A transformers model run on packs of rows: the lower layers once per row, the upper ones at every step.

The maths of a layer is the model's own (its modules are called as they are); only attention is replaced, by
one that knows packs, and the output layer is applied where a next token counts. Whether a model family can be
run like this is not believed but measured, on a row of the data, before the training (`check_forward`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from streams.sizing import FUSED_FROM
from workers.trainer.loaded import LoadedModel, NotPacked
from workers.trainer.rows import EncodedRow, Pack, pack
from workers.trainer.side_by_side import SideBySide

ATTENTION = "noria_packed"
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 0.01}
"""Mean divergence in nats that rounding may explain: at most 4e-8 and 0.003 were measured, on a base and on two
models trained from it."""


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Plain attention, the weights in fp32. Written out where rows are short: there the fused one of torch takes three to five
    times as long on a CPU in bf16 (measured, 64 tokens); with 1,024 tokens it takes a quarter, and keeps no score of a pair of
    tokens, which were most of the memory."""
    if key.shape[2] >= FUSED_FROM:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), scale=scaling)
    scores = torch.add(bias, torch.matmul(query, key.transpose(2, 3)), alpha=scaling)
    return torch.matmul(scores.softmax(-1).to(value.dtype), value)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    pack: Pack,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a pack: query (1, heads, T, d), key and value (1, key heads, T, d) -> (1, T, heads, d).

    Rows are laid out as a batch, so that no score between two rows is computed; the query heads that share a
    key head are laid one after the other along the query's length, so that keys need not be copied.
    """
    heads, key_heads, width = query.shape[1], key.shape[1], query.shape[3]
    share, rows, longest, prefix = heads // key_heads, pack.rows, pack.longest, pack.prefix
    scale = scaling if scaling is not None else width**-0.5

    def by_row(x: torch.Tensor) -> torch.Tensor:
        return x[0].index_select(1, pack.spread).view(x.shape[1], rows, longest, x.shape[3]).transpose(0, 1)

    def biased(seen: torch.Tensor) -> torch.Tensor:
        bias = torch.zeros(seen.shape, device=query.device).masked_fill_(~seen, -torch.inf)
        return bias.repeat(share, 1)

    keys, values = by_row(key), by_row(value)
    parts: list[torch.Tensor] = []
    if prefix:
        key_0, value_0 = key[:, :, :prefix], value[:, :, :prefix]
        q = query[:, :, :prefix].reshape(1, key_heads, share * prefix, width)
        out = _attend(q, key_0, value_0, biased(pack.prefix_mask), scale)
        parts.append(out.reshape(heads, prefix, width))
        keys = torch.cat([key_0.expand(rows, -1, -1, -1), keys], dim=2)
        values = torch.cat([value_0.expand(rows, -1, -1, -1), values], dim=2)
    q = by_row(query).reshape(rows, key_heads, share * longest, width)
    out = _attend(q, keys, values, biased(pack.mask), scale)
    flat = out.reshape(rows, heads, longest, width).transpose(0, 1).reshape(heads, rows * longest, width)
    parts.append(flat.index_select(1, pack.gather))
    return torch.cat(parts, dim=1).transpose(0, 1).unsqueeze(0), None


class PackedModel(LoadedModel):
    """One that is loaded for packs. Raises NotPacked if its family cannot be run so."""

    def __init__(self, folder: Path, upper_share: float, dtype: torch.dtype, device: torch.device) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, packed_attention)
        super().__init__(folder, upper_share, dtype, device)
        if any(not hasattr(self.body, part) for part in ("embed_tokens", "norm", "rotary_emb")):
            raise NotPacked(f"{type(self.model).__name__}: this family of models cannot be trained with packed rows")
        window = getattr(self.model.config, "sliding_window", None)
        self.window: int | None = window if getattr(self.model.config, "use_sliding_window", True) else None

    def use_packs(self) -> None:
        """From here on only packs can be run (until now the model generated text in transformers' own
        way)."""
        self.model.set_attn_implementation(ATTENTION)

    def states(self, rows: Sequence[EncodedRow]) -> torch.Tensor:
        packed = pack(rows, 0, self.device)
        return self.upper(self.lower(packed), packed)

    def _run(self, hidden: torch.Tensor, rows: Pack, first: int, last: int) -> torch.Tensor:
        places = self.body.rotary_emb(hidden[None], position_ids=rows.positions)
        x = hidden[None]
        for layer in self.body.layers[first:last]:
            out = layer(x, position_embeddings=places, position_ids=rows.positions, use_cache=False, pack=rows)
            x = out[0] if isinstance(out, tuple) else out
        return x[0]

    @torch.no_grad()
    def lower(self, rows: Pack) -> torch.Tensor:
        """(T, width): what enters the upper layers."""
        return self._run(self.body.embed_tokens(rows.ids), rows, 0, self.first_upper)

    def upper(self, hidden: torch.Tensor, rows: Pack) -> torch.Tensor:
        """(K, width): what the output layer sees for every next token that counts."""
        x = self._run(hidden, rows, self.first_upper, len(self.body.layers))
        normed: torch.Tensor = self.body.norm(x.index_select(0, rows.predicts))
        return normed


@dataclass(frozen=True, slots=True)
class LowerStates:
    """The lower layers' result for some rows, which the steps need over and over. prefix: (P, width), the
    same for all rows; own: for each row (its inputs after the prefix, width)."""

    prefix: torch.Tensor
    own: list[torch.Tensor]

    @classmethod
    def computed(
        cls, model: PackedModel, rows: list[EncodedRow], prefix: int, parts: SideBySide, tokens_per_pack: int = 1024
    ) -> "LowerStates":
        """In packs of at most `tokens_per_pack`."""
        packs: list[list[EncodedRow]] = []
        tokens = tokens_per_pack
        for row in rows:
            own = len(row.inputs) - prefix
            if tokens + own > tokens_per_pack:
                packs.append([])
                tokens = prefix
            packs[-1].append(row)
            tokens += own
        states = parts.run([partial(_lower, model, few, prefix) for few in packs])
        split: list[torch.Tensor] = []
        for few, hidden in zip(packs, states, strict=True):
            split += torch.split(hidden[prefix:], [len(row.inputs) - prefix for row in few])
        return cls(states[0][:prefix].clone(), split)

    def joined(self, other: "LowerStates") -> "LowerStates":
        """With the rows of `other` behind these; their prefix begins with this one."""
        between = other.prefix[len(self.prefix) :]
        return LowerStates(self.prefix, [*self.own, *(torch.cat([between, own]) for own in other.own)])

    def to(self, device: torch.device) -> "LowerStates":
        return LowerStates(self.prefix.to(device), [own.to(device) for own in self.own])

    def of(self, numbers: Sequence[int]) -> torch.Tensor:
        """(T, width) for the pack of these rows, in this order."""
        return torch.cat([self.prefix, *(self.own[number] for number in numbers)])


def _lower(model: PackedModel, rows: list[EncodedRow], prefix: int) -> torch.Tensor:
    return model.lower(pack(rows, prefix, model.device))


@torch.no_grad()
def check_forward(model: PackedModel, rows: list[EncodedRow], prefix: int) -> float:
    """Mean Kullback-Leibler divergence in nats from transformers' own forward to the packed one, over two rows.
    Raises NotPacked if it is more than rounding explains.

    Probabilities are compared, not log-probabilities: those of tokens that nobody would choose differ by a tenth
    in bf16, whichever way they are computed (either way is as far from fp32, measured).
    """
    few = rows[:2]
    model.model.set_attn_implementation("sdpa")
    expected = []
    for row in few:
        logits = model.model(torch.tensor([row.ids], device=model.device), use_cache=False).logits
        expected.append(logits[0, row.answer_at - 1 : -1].float().log_softmax(-1))
    model.use_packs()
    packed = pack(few, prefix, model.device)
    try:
        states = model.upper(model.lower(packed), packed)
    except (TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
        raise NotPacked(f"{type(model.model).__name__}: packed rows cannot be run ({type(error).__name__})") from error
    found = functional.linear(states, model.head).float().log_softmax(-1)
    log_q = torch.cat(expected)
    divergence = float((log_q.exp() * (log_q - found)).sum(-1).mean())
    if not divergence <= ROUNDING[model.dtype]:
        raise NotPacked(
            f"{type(model.model).__name__}: packed rows give other probabilities (divergence {divergence:.3g} nats)"
        )
    return divergence
