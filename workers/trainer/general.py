"""The general prompts that guard against forgetting, and where a base's own answers to them are kept."""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

from streams.recipes import Recipe

LAYOUT = 2  # of the kept file; one of another layout is not found
REPLAY_FILE = Path(__file__).parent / "replay.jsonl"


def general_prompts() -> tuple[str, ...]:
    """The prompts for a domain that names none of its own."""
    return tuple(json.loads(line)["prompt"] for line in REPLAY_FILE.read_text(encoding="utf-8").splitlines())


def chosen_prompts(prompts: Sequence[str], recipe: Recipe) -> list[str]:
    """The general prompts of a recipe, drawn by its seed."""
    asked = [prompt for prompt in prompts if prompt.strip()]
    return random.Random(f"general {recipe.seed}").sample(asked, min(recipe.replay_rows, len(asked)))


def kept_place(folder: Path, base_name: str, prompts: Sequence[str], recipe: Recipe, precision: str) -> Path:
    """The file of what a base makes of the recipe's prompts, computed in `precision` (as torch names it)."""
    asked = [
        LAYOUT,
        base_name,
        chosen_prompts(prompts, recipe),
        recipe.replay_answer_tokens,
        recipe.row_tokens,
        recipe.upper_layers,
        precision,
    ]
    return folder / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()}.safetensors"


def lock_of(place: Path) -> Path:
    """Held by whoever computes what is kept at `place`."""
    return place.with_suffix(".lock")


def answers_folder(home: Path) -> Path:
    return home / "models" / "answers"
