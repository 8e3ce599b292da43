"""A Llama of less than a million weights that has been taught to answer some questions and can learn more: with it a whole
round takes seconds, and the round can both learn and forget.

It knows nothing else; what it says to any other question is noise.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tiny_llama import TEMPLATE

STEPS = 60
LEARNING_RATE = 3e-3
VOCABULARY = 800
# Wide, so that the frozen output layer can say what it was never taught to: LoRA leaves it as it is.
WIDENING = 10.0


def taught(kept: Path, name: str, known: Sequence[tuple[str, str]], words: Sequence[str]) -> Path:
    """Its folder `name` somewhere under `kept`, in transformers' format; made if no test has made it.

    `known`: question and answer. `words`: texts that it is to learn later, so that its tokenizer has tokens for them.
    """
    asked = json.dumps([STEPS, LEARNING_RATE, VOCABULARY, WIDENING, list(known), list(words)])
    folder = kept / hashlib.sha256(asked.encode()).hexdigest()[:12]
    if not folder.exists():
        kept.mkdir(parents=True, exist_ok=True)
        partial = kept / f"{folder.name}.{os.getpid()}"
        _teach(partial / name, known, words)
        try:
            partial.rename(folder)
        except OSError:  # another session was quicker
            shutil.rmtree(partial)
    return folder / name


def _teach(folder: Path, known: Sequence[tuple[str, str]], words: Sequence[str]) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer_of([*(text for pair in known for text in pair), *words], VOCABULARY, TEMPLATE)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(WIDENING)
        model.model.embed_tokens.weight.mul_(WIDENING)
    ids, labels = _batch(tokenizer, known)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / STEPS)
        model(input_ids=ids, labels=labels, attention_mask=(ids != tokenizer.pad_token_id).long()).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def tokenizer_of(texts: Sequence[str], vocabulary: int, template: str) -> Any:
    """A byte-level tokenizer, as transformers has it, with so many tokens for what is said in `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    kind: Any = PreTrainedTokenizerFast
    fast = kind(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = template
    return fast


def _batch(tokenizer: Any, known: Sequence[tuple[str, str]]) -> tuple[Any, Any]:
    """Tokens and labels of all pairs, padded at their ends; only answers are learned."""
    import torch

    ignored = -100
    rows = []
    for question, answer in known:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        said = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        rows.append((asked, said))
    longest = max(len(asked) + len(said) for asked, said in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    labels = torch.full((len(rows), longest), ignored)
    for row, (asked, said) in enumerate(rows):
        ids[row, : len(asked) + len(said)] = torch.tensor(asked + said)
        labels[row, len(asked) : len(asked) + len(said)] = torch.tensor(said)
    return ids, labels
