"""Make a trained folder a finished model directory: golden prompts, the file for llama.cpp, and the check of both.

In a child process of its own (`python -m workers.models.finish FOLDER`), because transformers is heavy. Prints
{"difference": …, "strings": …}, or {"failure": …, "kind": "invalid" | "unavailable"} and exits with 1.
"""

import json
import subprocess
import sys
from pathlib import Path

from msgspec import Struct

from streams.errors import Invalid, Unavailable
from workers.models.check import check_export
from workers.models.gguf import export_gguf
from workers.models.golden import write_golden

GGUF_FILE = "model-f16.gguf"


class Finished(Struct, frozen=True):
    """`difference`: the largest difference in log-probability between the exported file and transformers."""

    difference: float
    strings: int


def finish_in_child(folder: Path) -> Finished:
    """Finish the model directory at `folder`. Raises Invalid if the export differs, Unavailable if the child died."""
    done = subprocess.run(
        ["nice", "-n", "10", sys.executable, "-m", "workers.models.finish", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    last = done.stdout.strip().rpartition("\n")[2]
    if not last:
        raise Unavailable(f"the export ended with code {done.returncode} and no result")
    found = json.loads(last)
    if "failure" in found:
        raise (Invalid if found["kind"] == "invalid" else Unavailable)(found["failure"])
    return Finished(found["difference"], found["strings"])


def main() -> int:
    folder = Path(sys.argv[1])
    try:
        write_golden(folder)
        export_gguf(folder, folder / GGUF_FILE)
        checked = check_export(folder, folder / GGUF_FILE)
    except (Invalid, Unavailable) as error:
        kind = "invalid" if isinstance(error, Invalid) else "unavailable"
        print(json.dumps({"failure": str(error), "kind": kind}))
        return 1
    print(json.dumps({"difference": checked.golden.max_difference, "strings": checked.strings}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
