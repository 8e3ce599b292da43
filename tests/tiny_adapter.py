"""Untrained adapters of a small model, as PEFT saves them: far enough from nothing that most answers are others."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from workers.models.loaded import ADAPTER_DIR

VIRTUAL_TOKENS = 6


def add_prefix(model_dir: Path) -> None:
    settings = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS, prefix_projection=True, encoder_hidden_size=32
    )
    _add(model_dir, settings)


def add_lora(model_dir: Path) -> None:
    _add(
        model_dir,
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
    )


def add_prompt(model_dir: Path) -> None:
    """Of a kind that no engine serves."""
    _add(model_dir, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS))


def _add(model_dir: Path, settings: PeftConfig) -> None:
    """Put `adapter/` into a model directory that holds none."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    get_peft_model(model, settings).save_pretrained(model_dir / ADAPTER_DIR)
