"""Every test, in two lanes side by side, which keeps two cores busy: `make test`.

One lane starts whole Norias and waits much, the other needs a processor; engines, which do both, are tried in the first. What that
says is shown when the other has ended.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
SHOWN = ("unit", "property", "integration")
ENGINES = tuple(
    f"integration/test_{name}.py"
    for name in ("engine_adapters", "engines", "engines_export", "engines_sleep", "families")
)
BESIDE = ("faults", "e2e", *ENGINES)


def lane(
    places: tuple[str, ...], without: tuple[str, ...] = (), output: int | None = None
) -> "subprocess.Popen[bytes]":
    paths = [str(TESTS / place) for place in places] + [f"--ignore={TESTS / place}" for place in without]
    return subprocess.Popen([sys.executable, "-m", "pytest", *paths], cwd=TESTS.parent, stdout=output, stderr=output)


def main() -> int:
    """The exit code of pytest in the first lane that did not end well, 0 if both did."""
    with tempfile.TemporaryFile() as said:
        beside = lane(BESIDE, output=said.fileno())
        shown = lane(SHOWN, without=ENGINES)
        try:
            codes = [shown.wait()]
            print(f"\nbeside it, {', '.join(BESIDE)}:", flush=True)
            codes.append(beside.wait())
        except KeyboardInterrupt:  # both were interrupted, too, and stop what they have started
            codes = [shown.wait(), beside.wait(), 2]
        said.seek(0)
        sys.stdout.buffer.write(said.read())
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
