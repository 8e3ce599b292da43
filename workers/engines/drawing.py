"""How the transformers engine draws a token: what people may ask for, in llama.cpp's order (bias and penalties, then the likeliest
few, then the temperature), so that an answer is drawn alike by either engine."""

from typing import Any

import torch
from msgspec import Struct
from torch import Tensor


class Asked(Struct, frozen=True, kw_only=True):
    """A request for an answer: what `streams.engine_client` sends, or any client of OpenAI's protocol."""

    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None


class Drawer:
    """Draws the tokens of one answer, from scores of shape (vocabulary,), fp32, on the CPU."""

    def __init__(self, asked: Asked, prompt: list[int], vocabulary: int) -> None:
        from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        self._asked = asked
        self._chance = torch.Generator()
        if asked.seed is None:
            self._chance.seed()
        else:
            self._chance.manual_seed(asked.seed)
        self._counts = torch.bincount(torch.tensor(prompt, dtype=torch.long), minlength=vocabulary).float()
        self._bias = {token: bias for token, bias in asked.logit_bias.items() if 0 <= token < vocabulary}
        self._narrow: list[Any] = []
        if asked.temperature > 0:
            if asked.top_k > 0:
                self._narrow.append(TopKLogitsWarper(asked.top_k))
            if asked.top_p < 1:
                self._narrow.append(TopPLogitsWarper(max(asked.top_p, 0.0)))
            if asked.min_p > 0:
                self._narrow.append(MinPLogitsWarper(min(asked.min_p, 1.0)))
            self._narrow.append(TemperatureLogitsWarper(float(asked.temperature)))

    def draw(self, scores: Tensor) -> int:
        """The next token, which counts as said from here on."""
        token = self._draw(self._changed(scores))
        self._counts[token] += 1
        return token

    def _draw(self, scores: Tensor) -> int:
        if not self._narrow:
            return int(scores.argmax())
        scores = scores.unsqueeze(0)
        for warper in self._narrow:
            scores = warper(None, scores)
        return int(torch.multinomial(scores[0].softmax(-1), 1, generator=self._chance))

    def _changed(self, scores: Tensor) -> Tensor:
        asked, seen = self._asked, self._counts > 0
        scores = scores.clone()
        for token, bias in self._bias.items():
            scores[token] += bias
        if asked.repetition_penalty != 1:
            less = torch.where(scores > 0, scores / asked.repetition_penalty, scores * asked.repetition_penalty)
            scores = torch.where(seen, less, scores)
        if asked.frequency_penalty or asked.presence_penalty:
            scores -= asked.frequency_penalty * self._counts + asked.presence_penalty * seen
        return scores
