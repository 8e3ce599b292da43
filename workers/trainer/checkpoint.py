"""A checkpoint: the adapter, the optimiser's moments and the number of steps done, in one safetensors file.

No text and no token stands in it. What is learnt from people's words does, so whoever names the folder
registers it as a place that holds something computed from them, and removes it when the order is done.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FORMAT = 1
NAME = "training.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`losses`: the loss of every step done, `tokens` what they held. `run` tells runs apart (recipe and
    sizes). `held_out`, `best_step`: see `workers.trainer.stopping`. `updates`: how often the optimiser changed what learns, where
    that is not once a step; else 0."""

    run: str
    step: int
    losses: tuple[float, ...]
    divergences: tuple[float, ...]
    tokens: int
    tensors: Mapping[str, torch.Tensor]
    held_out: tuple[float, ...] = ()
    best_step: int = 0
    updates: int = 0


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint in one move; a crash leaves the one before. What `folder` lies in must be there: it is
    removed when somebody is erased whose words are trained on, and must not come again."""
    folder.mkdir(exist_ok=True, mode=0o700)
    note = {
        "format": FORMAT,
        "run": checkpoint.run,
        "step": checkpoint.step,
        "losses": checkpoint.losses,
        "divergences": checkpoint.divergences,
        "tokens": checkpoint.tokens,
        "held_out": checkpoint.held_out,
        "best_step": checkpoint.best_step,
        "updates": checkpoint.updates,
    }
    fresh = folder / f"{NAME}.new"
    save_file(dict(checkpoint.tensors), fresh, metadata={"noria": json.dumps(note)})
    fresh.chmod(0o600)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(folder / NAME)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_checkpoint(folder: Path, run: str) -> Checkpoint | None:
    """The folder's checkpoint if it belongs to `run`; None if there is none, or one of another run or
    format."""
    try:
        with safe_open(folder / NAME, framework="pt", device="cpu") as file:
            note = json.loads((file.metadata() or {}).get("noria", "{}"))
            if note.get("format") != FORMAT or note.get("run") != run:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (FileNotFoundError, SafetensorError, json.JSONDecodeError):
        return None
    return Checkpoint(
        run=run,
        step=int(note["step"]),
        losses=tuple(note["losses"]),
        divergences=tuple(note["divergences"]),
        tokens=int(note["tokens"]),
        tensors=tensors,
        held_out=tuple(note.get("held_out", ())),
        best_step=int(note.get("best_step", 0)),
        updates=int(note.get("updates", 0)),
    )
