"""Every test, in two lanes side by side, which keeps two cores busy: `make test`.

One lane starts whole Norias and waits much, the other needs a processor. What the first one
says is shown when the other has ended.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
SHOWN = ("unit", "property", "integration")
BESIDE = ("faults", "e2e")


def lane(folders: tuple[str, ...], output: int | None = None) -> "subprocess.Popen[bytes]":
    paths = [str(TESTS / folder) for folder in folders]
    return subprocess.Popen([sys.executable, "-m", "pytest", *paths], cwd=TESTS.parent, stdout=output, stderr=output)


def main() -> int:
    """The exit code of pytest in the first lane that did not end well, 0 if both did."""
    with tempfile.TemporaryFile() as said:
        beside = lane(BESIDE, said.fileno())
        shown = lane(SHOWN)
        try:
            codes = [shown.wait()]
            print(f"\nbeside it, {' and '.join(BESIDE)}:", flush=True)
            codes.append(beside.wait())
        except KeyboardInterrupt:  # both were interrupted, too, and stop what they have started
            codes = [shown.wait(), beside.wait(), 2]
        said.seek(0)
        sys.stdout.buffer.write(said.read())
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
