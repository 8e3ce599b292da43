"""What the base makes of the general prompts, computed before the first round needs it: `python -m workers.trainer.answers`

It depends on the base model and the recipe alone, and takes about a minute on two cores.
"""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

from streams.errors import Invalid
from streams.recipes import LoraRecipe
from streams.settings import home_of
from workers.cores import HEAVY_THREADS, fast_precision
from workers.trainer.general import answers_folder, general_prompts, kept_place


def prepare(home: Path, model_dir: Path) -> bool:
    """Write the answers of the model under the default recipe; False if they are there. Raises Invalid."""
    recipe, prompts, folder = LoraRecipe(), general_prompts(), answers_folder(home)
    precision = fast_precision()
    if kept_place(folder, model_dir.name, prompts, recipe, precision).exists():
        return False
    # Not before: it takes some seconds, at every start of Noria.
    import torch

    from workers.trainer.loaded import LoadedModel, load_tokenizer, training_dtype
    from workers.trainer.reference import general_rows

    device = torch.device("cpu")
    dtype = training_dtype(precision, device)
    torch.set_num_threads(HEAVY_THREADS)
    load = partial(LoadedModel, model_dir, recipe.upper_layers, dtype, device)
    general_rows(load, load_tokenizer(model_dir), model_dir.name, prompts, recipe, dtype, folder)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.trainer.answers", description=__doc__)
    parser.add_argument("--home", type=Path, default=home_of(os.environ))
    home: Path = parser.parse_args().home
    try:
        index: dict[str, str] = json.loads((home / "models" / "index.json").read_text())
        for digest in index.values():
            written = prepare(home, home / "artifacts" / "sha256" / digest.removeprefix("sha256:"))
            print(f"{digest[:19]}: {'written' if written else 'there already'}")
    except (Invalid, OSError) as error:
        print(f"general answers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
