"""A finished model directory as transformers loads it, with the adapter that it holds applied."""

from pathlib import Path
from typing import Any

from streams.errors import Invalid

ADAPTER_DIR = "adapter"  # in PEFT's format: adapter_config.json and adapter_model.safetensors


def has_adapter(model_dir: Path) -> bool:
    return (model_dir / ADAPTER_DIR).is_dir()


def load_model(model_dir: Path) -> Any:
    """The model in fp32 and in eval mode; PEFT's own class around it where there is an adapter.

    Raises Invalid if the adapter cannot be applied. Both are read from safetensors only.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    if has_adapter(model_dir):
        from peft import PeftModel

        folder = model_dir / ADAPTER_DIR
        if not (folder / "adapter_model.safetensors").is_file():  # PEFT would read a pickle in its place
            raise Invalid(f"{model_dir.name}/{ADAPTER_DIR} has no adapter_model.safetensors")
        try:
            model = PeftModel.from_pretrained(model, folder)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise Invalid(f"{model_dir.name}/{ADAPTER_DIR} fits no model here ({type(error).__name__})") from error
    return model.eval()
