"""A prefix of learned keys and values before every layer's own (P-Tuning v2), by PEFT's classes, and its form on disk."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from streams.errors import Invalid
from streams.recipes import PTuningRecipe
from workers.trainer.plain import PlainModel

_PATHS = ("base_model_name_or_path", "revision", "auto_mapping")  # where it was made says nothing of what it is


class Prefix:
    """What PEFT put around a model."""

    def __init__(self, model: PlainModel, recipe: PTuningRecipe) -> None:
        """Freeze `model` and put a prefix before it; the start values depend on `recipe.seed` alone. Raises Invalid if PEFT knows
        no prefix for models of this family."""
        from peft import PrefixTuningConfig, get_peft_model

        config: Any = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=recipe.virtual_tokens,
            prefix_projection=True,
            encoder_hidden_size=recipe.projection_width,
        )
        for parameter in model.model.parameters():
            parameter.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            try:
                self._peft: Any = get_peft_model(model.model, config)
            except (ValueError, KeyError, AttributeError) as error:
                family = type(model.model).__name__
                raise Invalid(f"{family}: no prefix can stand before models of this family") from error
        self._encoder: torch.nn.Module = self._peft.prompt_encoder["default"].float()
        model.before, model.before_tokens = self._peft.get_prompt, recipe.virtual_tokens

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that learn, by a name that stays the same over restarts."""
        return dict(self._encoder.named_parameters())

    def save(self, folder: Path, base_name: str) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors` as `PeftModel.from_pretrained` reads them: the keys and
        values alone, without what they were learned through."""
        folder.mkdir(exist_ok=True)
        with torch.no_grad():
            learned = self._peft.get_prompt_embedding_to_save("default")
        save_file(
            {"prompt_embeddings": learned.float().cpu().contiguous()},
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        config = self._peft.peft_config["default"].to_dict()
        config |= dict.fromkeys(_PATHS) | {"base_model_name_or_path": base_name, "inference_mode": True}
        text = json.dumps(config, indent=2, sort_keys=True, default=str)
        (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
