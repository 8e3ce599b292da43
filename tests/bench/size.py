"""How large a benchmark is: as it says itself, unless the environment says otherwise."""

import os


def size(name: str, usual: int) -> int:
    """NORIA_BENCH_<NAME>, a whole number above 0, or `usual`."""
    said = os.environ.get(f"NORIA_BENCH_{name}", str(usual))
    if not said.isdigit() or int(said) < 1:
        raise SystemExit(f"NORIA_BENCH_{name} must be a whole number above 0; got {said!r}")
    return int(said)
