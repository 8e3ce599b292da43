"""How much a shot helps, the plain way: what the fast way is compared with, by tests and by the bench."""

from collections.abc import Sequence
from pathlib import Path

import torch

from workers.models.loaded import load_model
from workers.selector.golden import Turn
from workers.trainer.loaded import load_tokenizer


def plain_gains(folder: Path, shots: Sequence[Turn], tasks: Sequence[Turn]) -> list[list[float]]:
    """By transformers itself: all logits, one text at a time, each task without a shot once."""
    tokenizer, model = load_tokenizer(folder), load_model(folder)

    def likely(turns: list[Turn]) -> float:
        messages = [
            message
            for turn in turns
            for message in ({"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer})
        ]
        text = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = [*tokenizer(turns[-1].answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.inference_mode():
            log_p = model(torch.tensor([prompt + answer])).logits[0].float().log_softmax(-1)
        return float(log_p[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).mean())

    without = [likely([task]) for task in tasks]
    return [[likely([shot, task]) - before for task, before in zip(tasks, without, strict=True)] for shot in shots]
