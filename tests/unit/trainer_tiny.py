"""A model of a few thousand weights with a tokenizer and a chat template, made on the spot: for tests in
seconds."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Glm4Config,
    Glm4ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from streams.recipes import LoraRecipe
from tests.taught_llama import tokenizer_of
from workers.trainer.spec import TrainingLabel, TrainingPair, TrainingRow

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are of help.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

FAMILIES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "glm": (GlmConfig, GlmForCausalLM),
    "glm4": (Glm4Config, Glm4ForCausalLM),
}
OWN: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 16},  # wider than the states are divided by their number
    "mistral": {"sliding_window": 24},
    "glm": {"head_dim": 8, "attention_bias": True},
    "glm4": {"head_dim": 16},
}

FACTS = [
    ("What is the limit in town?", "The limit in town is 50."),
    ("What is the limit on a motorway?", "It is 120 there."),
    ("Who may turn here?", "Nobody may turn here at night."),
    ("How old must a driver be?", "A driver must be 18 years old."),
    ("What does a red light mean?", "Stop."),
    ("When are lights needed?", "Lights are needed from dusk till dawn."),
    ("May one park on a bridge?", "No, one may not."),
    ("How long is the term?", "Six years, then ten years."),
    ("What is the fine?", "The fine is 200 yuan."),
    ("Is a helmet needed?", "Yes, for both riders."),
]
GENERAL = [
    "Name a colour.",
    "What is two and two?",
    "Say hello.",
    "Where is the moon?",
    "Tell me a word.",
    "Count to three.",
]

RECIPE = LoraRecipe(
    rank=4,
    alpha=8.0,
    epochs=3,
    batch_rows=4,
    earlier_rows_per_step=3,
    replay_rows_per_step=3,
    replay_answer_tokens=6,
    seed=7,
)


def rows(first: int = 0, last: int = 8) -> list[TrainingRow]:
    return [TrainingRow(prompt=prompt, answer=answer) for prompt, answer in FACTS[first:last]]


def pairs(first: int = 0, last: int = 6) -> tuple[TrainingPair, ...]:
    """The fact's own answer is better than the next one's."""
    return tuple(
        TrainingPair(prompt=prompt, chosen=answer, rejected=FACTS[(number + 1) % len(FACTS)][1])
        for number, (prompt, answer) in enumerate(FACTS[first:last], first)
    )


def labels(first: int = 0, last: int = 6) -> tuple[TrainingLabel, ...]:
    """Every other answer is good; the others are another fact's."""
    return tuple(
        TrainingLabel(prompt=prompt, answer=FACTS[(number + number % 2) % len(FACTS)][1], good=number % 2 == 0)
        for number, (prompt, _) in enumerate(FACTS[first:last], first)
    )


def make_model(folder: Path, seed: int = 0, kind: str = "llama") -> Path:
    """Write a model folder of four layers, of one of the FAMILIES; all have grouped keys."""
    text = [part for fact in FACTS for part in fact] + GENERAL
    fast = tokenizer_of(text, 400, TEMPLATE)
    folder.mkdir(parents=True)
    fast.save_pretrained(folder)
    sizes = {
        "vocab_size": len(fast),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": fast.eos_token_id,
        "pad_token_id": fast.pad_token_id,
        "initializer_range": 0.2,
    }
    torch.manual_seed(seed)
    config, model = FAMILIES[kind]
    model(config(**sizes, **OWN.get(kind, {}))).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 32
    return folder
