"""With what a candidate was trained: all that its bytes depend on beside its rows, its base and its recipe. Pure.

Recorded with what a training made, so that of two that should be equal and are not anybody can say what was another.
"""

from msgspec import Struct


class MadeWith(Struct, frozen=True, kw_only=True):
    """`libraries`: by package its version. `abilities`: the processor's instructions that libraries choose their code by.
    `device`: `cpu`, `cuda`, or of how many processes each had one: `2 x cpu`, or
    `2 x cpu in shards`."""

    noria: str
    python: str
    libraries: dict[str, str]
    system: str
    processor: str
    abilities: tuple[str, ...]
    threads: int
    precision: str
    device: str


class Difference(Struct, frozen=True):
    """`what`: the name of a field, or of a library; the values as they were and as they are, empty where there is none."""

    what: str
    before: str
    after: str


def differences(before: MadeWith, after: MadeWith) -> tuple[Difference, ...]:
    """What is another in `after`, in the order of the fields."""
    one, other = _flat(before), _flat(after)
    return tuple(
        Difference(what, one.get(what, ""), other.get(what, ""))
        for what in dict.fromkeys((*one, *other))
        if one.get(what) != other.get(what)
    )


def _flat(made: MadeWith) -> dict[str, str]:
    return {
        "noria": made.noria,
        "python": made.python,
        **dict(sorted(made.libraries.items())),
        "system": made.system,
        "processor": made.processor,
        "abilities": " ".join(made.abilities),
        "threads": str(made.threads),
        "precision": made.precision,
        "device": made.device,
    }
