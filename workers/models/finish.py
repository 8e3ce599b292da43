"""Make a trained folder a finished model directory: golden prompts, the file for llama.cpp, and the check of both."""

from pathlib import Path

from workers.models.check import check_export
from workers.models.gguf import export_gguf
from workers.models.golden import write_golden

GGUF_FILE = "model-f16.gguf"


def finish(folder: Path) -> float:
    """Finish the model directory at `folder`; the largest difference in log-probability between the exported file and
    transformers. Raises Invalid if that is more than rounding, Unavailable if the engine that compares does not come up."""
    write_golden(folder)
    export_gguf(folder, folder / GGUF_FILE)
    return check_export(folder, folder / GGUF_FILE).golden.max_difference
