"""A reward model as it lies among the artifacts, loaded: what people would say of an answer, as a number."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct

from streams.errors import Invalid
from streams.turns import pairs_of
from workers.trainer.loaded import load_tokenizer
from workers.trainer.preference import Answers
from workers.trainer.rows import common_start
from workers.trainer.spec import TrainingLabel

NOTE = "reward.json"
TOKENS_AT_ONCE = 2048

Asked = tuple[Sequence[Mapping[str, str]], str]
"""Messages (role and content, the last one the person's), and an answer to them."""


class Note(Struct, frozen=True, kw_only=True):
    """What a reward model's folder says beside its weights. `length_slope`: so much of each token of an answer is taken off its
    score, counted from `mean_tokens`; see `workers.trainer.ranked`. `row_tokens`: a longer row loses its oldest turns."""

    length_slope: float
    mean_tokens: float
    row_tokens: int


class RewardModel:
    """Loads a folder that the method `reward` wrote, and scores with it, in fp32, so that a score does not depend on what else is
    scored with it. The difference of two scores is the log of the odds with which people would prefer the one (Bradley & Terry
    1952, Biometrika 39, 324). Raises Invalid for any other folder."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoModelForSequenceClassification

        loader: Any = AutoModelForSequenceClassification
        try:
            self.note = msgspec.json.decode((folder / NOTE).read_bytes(), type=Note)
            self._model: Any = loader.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, msgspec.MsgspecError) as error:
            raise Invalid(f"{folder.name}: not a reward model ({type(error).__name__})") from error
        self._model.to(device).eval()
        self._device = torch.device(device)
        self._answers = Answers(load_tokenizer(folder), self.note.row_tokens)

    def score(self, asked: Sequence[Asked]) -> list[float]:
        """One number an answer, in their order, corrected for its length. Raises Invalid naming which cannot be scored: without
        words, not asked by anybody, or too long."""
        rows, tokens = list[tuple[int, ...]](), list[int]()
        for number, one in enumerate(asked):
            try:
                prompt, answer = self.row(one)
            except Invalid as error:
                raise Invalid(f"answer {number} cannot be scored: {error}") from None
            rows.append(prompt + answer)
            tokens.append(len(answer))
        return [self.corrected(score, count) for score, count in zip(self.raw(rows), tokens, strict=True)]

    def row(self, asked: Asked) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens of its prompt, and of the answer. Raises Invalid saying why it cannot be scored."""
        messages, words = asked
        system = "\n".join(one["content"] for one in messages if one["role"] == "system")
        turns = [(one["role"], one["content"]) for one in messages if one["role"] != "system"]
        if not turns or turns[-1][0] != "user":
            raise Invalid("the last message is not the person's")
        answer = self._answers.ids(words)
        of = TrainingLabel(
            prompt=turns[-1][1], answer="", good=True, system=system or None, history=pairs_of(turns[:-1])
        )
        prompt = self._answers.prompt(of, answer)
        if prompt is None:
            raise Invalid(
                f"it is above {self.note.row_tokens} tokens with its prompt" if answer else "it is without words"
            )
        return prompt, answer

    def corrected(self, score: float, tokens: int) -> float:
        """A raw score without what is too much of the length of its answer of so many tokens."""
        return score - self.note.length_slope * (tokens - self.note.mean_tokens)

    @torch.no_grad()
    def raw(self, rows: Sequence[tuple[int, ...]]) -> list[float]:
        """The model's own scores of whole rows, the longest together. What all of them begin with is run once: most of a short row
        is its template."""
        if not rows:
            return []
        prefix = min(common_start(rows), min(map(len, rows)) - 1)
        shared = self._keys_of(rows[0][:prefix])
        found: dict[int, float] = {}
        waiting = sorted(range(len(rows)), key=lambda number: (-len(rows[number]), number))
        while waiting:
            width = len(rows[waiting[0]]) - prefix
            few, waiting = waiting[: max(1, TOKENS_AT_ONCE // width)], waiting[max(1, TOKENS_AT_ONCE // width) :]
            ids = torch.full((len(few), width), self._model.config.pad_token_id)
            seen = torch.ones(len(few), prefix + width, dtype=torch.long)
            for place, number in enumerate(few):
                own = rows[number][prefix:]
                ids[place, : len(own)] = torch.tensor(own)
                seen[place, prefix + len(own) :] = 0
            before = deepcopy(shared)
            if before is not None:
                before.batch_repeat_interleave(len(few))
            states = self._model.base_model(
                input_ids=ids.to(self._device),
                attention_mask=seen.to(self._device),
                past_key_values=before,
                use_cache=before is not None,
            ).last_hidden_state
            last = torch.tensor([len(rows[number]) - prefix - 1 for number in few], device=self._device)
            scores = self._model.score(states[torch.arange(len(few), device=self._device), last])[:, 0]
            found |= dict(zip(few, scores.tolist(), strict=True))
        return [found[number] for number in range(len(rows))]

    def _keys_of(self, prefix: tuple[int, ...]) -> Any:
        """The keys and values of what stands before every row; None if nothing does."""
        if not prefix:
            return None
        ids = torch.tensor([prefix], device=self._device)
        return self._model.base_model(input_ids=ids, use_cache=True).past_key_values
