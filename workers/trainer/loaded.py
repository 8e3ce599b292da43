"""A transformers model as the trainer takes it in, whichever way its rows are run."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from streams.errors import Invalid
from workers.cores import fast_precision
from workers.trainer.rows import EncodedRow


class NotPacked(Invalid):
    """Its rows cannot be run in packs; row by row they can be."""


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`precision`: "float32", "bfloat16", or "auto" for whichever is faster on the device."""
    if precision == "auto" and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    named = fast_precision() if precision == "auto" else precision
    if named not in ("float32", "bfloat16"):
        raise Invalid(f"precision must be auto, float32 or bfloat16; got {precision!r}")
    return torch.bfloat16 if named == "bfloat16" else torch.float32


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises Invalid if it has no chat template or no end mark."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise Invalid(f"{folder.name}: no tokenizer that can be read ({type(error).__name__})") from error
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise Invalid(f"{folder.name}: the tokenizer has no chat template or no end mark")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class LoadedModel:
    """A causal language model of transformers. `lower` layers never change; `upper` ones, and what stands behind them, may.

    Raises Invalid if the folder holds no model that can be trained.
    """

    def __init__(self, folder: Path, upper_share: float, dtype: torch.dtype, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM

        loader: Any = AutoModelForCausalLM
        try:
            self.model: Any = loader.from_pretrained(
                folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise Invalid(f"{folder.name}: not a model that can be trained ({type(error).__name__})") from error
        self.model.to(device).eval()
        self.device = device
        self.dtype = dtype
        body = self.model.get_decoder()
        head = self.model.get_output_embeddings()
        if not hasattr(body, "layers") or head is None or getattr(head, "bias", None) is not None:
            raise Invalid(f"{type(self.model).__name__}: models of this family cannot be trained")
        self.body: Any = body
        count = len(body.layers)
        self.first_upper = count - max(1, round(count * upper_share))
        upper = sum(weight.numel() for layer in body.layers[self.first_upper :] for weight in layer.parameters())
        self.head_share: float = self.head.numel() / upper  # of the work on a token in the upper layers
        self.base_name = next((name for name, module in self.model.named_modules() if module is body), "model")

    @property
    def head(self) -> torch.Tensor:
        """The output layer: (words, width)."""
        weight: torch.Tensor = self.model.get_output_embeddings().weight
        return weight

    def states(self, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """(K, width): what the output layer sees for every next token that counts, row by row."""
        raise NotImplementedError

    def upper_layers(self) -> dict[str, torch.nn.Module]:
        """The layers that may learn, by their full names."""
        layers = list(self.body.layers)
        return {f"{self.base_name}.layers.{i}": layers[i] for i in range(self.first_upper, len(layers))}

    def frozen_digest(self) -> str:
        """Of all weights that a training leaves as they are: two models that agree in it differ in the upper
        layers alone."""
        learning = tuple(f"{name}." for name in self.upper_layers())
        digest = hashlib.sha256(str(self.dtype).encode())
        for name, weight in self.model.named_parameters():
            if not name.startswith(learning):
                digest.update(name.encode())
                digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()


def deterministic(device: torch.device) -> Callable[[], None]:
    """Ask torch for the same bits at every run; gives back what undoes it. (On CUDA some operations only
    warn.)"""
    before, warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    return partial(torch.use_deterministic_algorithms, before, warn_only=warned)
