"""Reads with what this machine trains (`streams.made_with`), without loading any of it."""

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from streams.made_with import MadeWith
from workers.cores import CPUINFO

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
TOGETHER = ("accelerate", "trl")  # by which several processes train, each with the whole model
ABILITIES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def made_with(
    threads: int, precision: str, device: str, processes: int = 1, sharded: bool = False, cpuinfo: Path = CPUINFO
) -> MadeWith:
    """With what a training here is made by so many processes that take so many threads each, `sharded` with the model in shards."""
    packages = LIBRARIES if processes == 1 or sharded else (*LIBRARIES, *TOGETHER)
    try:
        said = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        said = ""
    name = re.search(r"^model name\s*:\s*(.*)$", said, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", said, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return MadeWith(
        noria=_version("noria"),
        python=platform.python_version(),
        libraries={package: found for package in packages if (found := _version(package))},
        system=f"{platform.system()} {platform.machine()}",
        processor=name[1].strip() if name else platform.processor(),
        abilities=tuple(one for one in ABILITIES if one in known),
        threads=threads,
        precision=precision,
        device=device if processes == 1 else f"{processes} x {device}{' in shards' if sharded else ''}",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
