"""What the door and the process that reads a document say to each other."""

from msgspec import Struct

FILE_BYTES = 32 * 1024 * 1024  # of one document


class Asked(Struct, frozen=True):
    """One line of JSON; the document's bytes follow, to the end of the input. `cpu_s` and `memory_bytes` (of address space) are
    what the process may use."""

    kind: str
    cpu_s: int
    memory_bytes: int
    most_characters: int
    most_passages: int


class Found(Struct, frozen=True, tag="found"):
    """The text, and of each passage its place and the offsets between which it stands in the text."""

    text: str
    passages: list[tuple[str, int, int]]


class Fault(Struct, frozen=True, tag="fault"):
    """As an `Unreadable`."""

    code: str
    message: str
