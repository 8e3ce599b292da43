"""How much a shot helps, the plain way and as the paper's own code computes it: what the fast way is compared with, by tests and by
the bench."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from workers.models.loaded import load_model
from workers.selector.golden import Turn
from workers.trainer.loaded import load_tokenizer

PADDED_TO = 200  # tokens of a task, whatever it has


def plain_gains(folder: Path, shots: Sequence[Turn], tasks: Sequence[Turn]) -> list[list[float]]:
    """By transformers itself: all logits, one text at a time, each task without a shot once."""
    tokenizer, model = load_tokenizer(folder), load_model(folder)

    def likely(turns: list[Turn]) -> float:
        prompt, answer = _ids(tokenizer, turns)
        with torch.inference_mode():
            log_p = model(torch.tensor([prompt + answer])).logits[0].float().log_softmax(-1)
        return float(log_p[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).mean())

    without = [likely([task]) for task in tasks]
    return [[likely([shot, task]) - before for task, before in zip(tasks, without, strict=True)] for shot in shots]


def official_gains(folder: Path, shots: Sequence[Turn], tasks: Sequence[Turn]) -> list[list[float]]:
    """The scheme of the paper's own code (pldlgb/nuggets): keys and values of a shot computed once and expanded over the tasks,
    each task padded to PADDED_TO tokens, log-probabilities of the whole vocabulary at every one. With our template, so that the
    gains can be compared."""
    tokenizer, model = load_tokenizer(folder), load_model(folder)

    def likely(shot: Turn | None) -> list[float]:
        rows = [_ids(tokenizer, [task] if shot is None else [shot, task]) for task in tasks]
        same = 0
        while shot is not None and len({tuple(prompt[: same + 1]) for prompt, _ in rows}) == 1:
            same += 1
        rest = [(prompt[same:], answer) for prompt, answer in rows]
        if max(len(prompt) + len(answer) for prompt, answer in rest) > PADDED_TO:
            raise ValueError(f"a task is longer than {PADDED_TO} tokens")
        ids = torch.zeros((len(rest), PADDED_TO), dtype=torch.long)
        for row, (prompt, answer) in zip(ids, rest, strict=True):
            row[: len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        known = None
        with torch.inference_mode():
            if same:
                known = model(torch.tensor([rows[0][0][:same]]), use_cache=True).past_key_values
                known.batch_repeat_interleave(len(rest))
            log_p = model(ids, past_key_values=known).logits.float().log_softmax(-1)
        return [
            float(of[len(prompt) - 1 : len(prompt) + len(answer) - 1].gather(1, torch.tensor(answer)[:, None]).mean())
            for of, (prompt, answer) in zip(log_p, rest, strict=True)
        ]

    without = likely(None)
    return [[after - before for after, before in zip(likely(shot), without, strict=True)] for shot in shots]


def _ids(tokenizer: Any, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
    """Of the prompt, and of its answer with its end."""
    messages = [
        message
        for turn in turns
        for message in ({"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer})
    ]
    text = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    prompt: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return prompt, [*tokenizer(turns[-1].answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
