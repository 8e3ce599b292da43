"""Make a folder of weights and tokenizer a finished model directory: golden prompts, and what its engine reads besides."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from workers import engines
from workers.models.golden import write_golden


def finish(folder: Path, engine: str, source: Path | None = None) -> float | None:
    """Finish the model directory at `folder` for engines of that kind; how far, in log-probability, what was exported is from
    transformers, or None where nothing was. `source`: the folder that it was made from.

    Raises Invalid if the export is off by more than rounding, Unavailable if the engine that compares does not come up.
    """
    with ThreadPoolExecutor(1) as beside:  # there are two cores, mostly
        exported = beside.submit(engines.export, engine, folder, source)
        write_golden(folder)
        exported.result()
    return engines.check(engine, folder)
