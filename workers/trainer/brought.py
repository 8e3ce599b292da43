"""An adapter that was trained elsewhere, taken among the artifacts. Only numbers are read of it: no pickle, no code.

`python -m workers.trainer.brought --home H --adapter FOLDER` prints {"adapter": digest}.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from streams.artifacts import Artifacts, open_artifacts
from streams.errors import Invalid, Unavailable
from streams.settings import shared_artifacts

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)
# What merging into linear weights does not carry.
_BEYOND = ("modules_to_save", "use_dora", "trainable_token_indices", "target_parameters", "layer_replication")


def take_in(folder: Path, artifacts: Artifacts) -> str:
    """The digest of the adapter in `folder`, whose two files are kept and nothing else. Raises Invalid saying what is wrong."""
    check_adapter(folder)
    with tempfile.TemporaryDirectory(prefix="adapter-") as scratch:
        for name in ADAPTER_FILES:
            shutil.copyfile(folder / name, Path(scratch) / name)
        return artifacts.put_dir(Path(scratch))


def check_adapter(folder: Path) -> None:
    """Raise Invalid if the folder holds no LoRA adapter in PEFT's format that can be merged."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid(f"{folder.name}: no {CONFIG_FILE} that can be read ({type(error).__name__})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise Invalid(f"{folder.name}: only a LoRA adapter can be brought")
    if config.get("bias", "none") != "none":
        raise Invalid(f"{folder.name}: it changes biases, which is not merged")
    if beyond := next((name for name in _BEYOND if config.get(name)), None):
        raise Invalid(f"{folder.name}: it has {beyond}, which is not merged")
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="np") as file:
            names = list(file.keys())
    except FileNotFoundError:
        raise Invalid(f"{folder.name}: no {WEIGHTS_FILE} (a .bin is a pickle, and is not read)") from None
    except (OSError, SafetensorError) as error:
        raise Invalid(f"{folder.name}: {WEIGHTS_FILE} cannot be read ({type(error).__name__})") from error
    if not names or not all(".lora_" in name for name in names):
        raise Invalid(f"{folder.name}: {WEIGHTS_FILE} holds other tensors than LoRA's")


def lora_layers(folder: Path) -> set[str]:
    """The full names of the layers that a checked adapter changes."""
    with safe_open(folder / WEIGHTS_FILE, framework="np") as file:
        return {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in file.keys()}  # noqa: SIM118


def main() -> int:
    """Take an adapter that was trained elsewhere among the artifacts, and print its digest."""
    parser = argparse.ArgumentParser(prog="python -m workers.trainer.brought", description=main.__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    given = parser.parse_args()
    try:
        digest = take_in(given.adapter, open_artifacts(given.home / "artifacts", shared_artifacts(os.environ)))
    except (Invalid, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"adapter": digest}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
