"""What there is to train on: this machine, and the cards of `hardware.json`, a file of facts with their date."""

import os
from pathlib import Path
from typing import Any

import msgspec
import psutil
from msgspec import Struct
from msgspec.structs import replace

from streams.errors import Invalid
from streams.sizing import GB, HOST_FRAMEWORK, Hardware, Shape

FILE = Path(__file__).with_suffix(".json")
HERE = "here"
GPU_UTILISATION = 0.35
"""Of a card's speed, what trainings of billions of numbers reach (0.3 to 0.5: Korthikanti et al. 2022, arXiv 2205.05198)."""
GPU_FRAMEWORK_GB = 0.6  # of a card: CUDA's context and the libraries' own
CORE_TFLOPS = 0.029  # of one core of 2.5 GHz with AVX2, fp32, as measured: 58 GFLOP/s on two
CPU_UTILISATION = 0.6
MOST_CARDS = 1024


class _Card(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    memory_gb: float
    tflops: float
    price_per_hour: float


class Facts(Struct, frozen=True, forbid_unknown_fields=True):
    as_of: str
    currency: str
    note: str
    cards: tuple[_Card, ...]
    bases: dict[str, Shape]


def facts() -> Facts:
    return msgspec.json.decode(FILE.read_bytes(), type=Facts)


def memory_here(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes that processes of this machine, or of its container, may take together."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):  # no limit: "max"
        return total


def this_machine(threads: int = 2) -> Hardware:
    """A training takes two threads at most, and all the memory that there is."""
    cores = min(threads, os.cpu_count() or 1)
    return Hardware(
        name=HERE,
        memory_gb=memory_here() / GB,
        tflops=cores * CORE_TFLOPS,
        utilisation=CPU_UTILISATION,
        price_per_hour=0.0,
        framework_gb=HOST_FRAMEWORK / GB,
        on_host=True,
    )


def hardware_of(said: str, price_per_hour: float | None = None) -> Hardware:
    """`here`, a card by its name, or several of one (`4xa100-80gb`). Raises Invalid for what is not known."""
    count, _, rest = said.partition("x")
    cards, name = (int(count), rest) if count.isdigit() and rest else (1, said)
    known: dict[str, Any] = {card.name: card for card in facts().cards}
    if name == HERE and cards == 1:
        found = this_machine()
    elif name in known and 1 <= cards <= MOST_CARDS:
        card = known[name]
        found = Hardware(
            name=name,
            memory_gb=card.memory_gb,
            tflops=card.tflops,
            utilisation=GPU_UTILISATION,
            price_per_hour=card.price_per_hour,
            framework_gb=GPU_FRAMEWORK_GB,
            cards=cards,
        )
    else:
        raise Invalid(f"there is no hardware {said!r}; there are {HERE}, {', '.join(known)}, and Nx of these")
    return found if price_per_hour is None else replace(found, price_per_hour=price_per_hour)
