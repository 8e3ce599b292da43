"""What data teams bring, item by item: exam questions, and training examples in the Alpaca shape.

The door and the command line read items by these same rules, so that the one refuses nothing that the other has let through.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct

from api.shapes import Misshapen, shaped
from streams.errors import Invalid

ITEM_BYTES = 32 * 1024

T = TypeVar("T")


class ItemFault(Invalid):
    """An item that cannot be taken. `field` says where (empty: the whole item); the item's words are not repeated."""

    def __init__(self, message: str, field: str = "", too_large: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.too_large = too_large


class Question(Struct, frozen=True, kw_only=True):
    """An exam question. `keys`: what an answer must hold to be right (none: the answer itself)."""

    question: str
    answer: str
    keys: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "Question(…)"  # people's words must not reach a log through a traceback


class Example(Struct, frozen=True, kw_only=True):
    """One training item in Alpaca's fields. `history`: the turns before it as (asked, answered), the oldest first."""

    output: str
    instruction: str = ""
    input: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return "Example(…)"


class Read(Struct, Generic[T], frozen=True):
    """An item, and the names of the columns that stood beside it and are no part of it."""

    item: T
    set_aside: tuple[str, ...]


def read_question(raw: Any) -> Read[Question]:
    """Raises ItemFault."""
    read = _read(raw, Question)
    item = read.item
    _require(item.question, "question")
    _require(item.answer, "answer")
    for place, key in enumerate(item.keys):
        _require(key, f"keys[{place}]")
    _check_size(item.question, item.answer, *item.keys)
    return read


def read_example(raw: Any) -> Read[Example]:
    """Raises ItemFault."""
    read = _read(raw, Example)
    item = read.item
    _require(item.instruction + item.input, "instruction")
    _require(item.output, "output")
    turns = [words for pair in item.history for words in pair]
    _check_size(item.instruction, item.input, item.output, item.system, *turns)
    return read


def counted(reads: Sequence[Read[T]]) -> dict[str, int]:
    """How many items had each column that was set aside."""
    return dict(sorted(Counter(column for read in reads for column in read.set_aside).items()))


def _read(raw: Any, kind: type[T]) -> Read[T]:
    if not isinstance(raw, dict):
        raise ItemFault("it must be a JSON object")
    # What other tools write for "nothing here": a column that is absent.
    given = {name: value for name, value in raw.items() if value is not None}
    try:
        item = shaped(given, kind)
    except Misshapen as error:
        raise ItemFault(error.message, error.path) from None
    known: tuple[str, ...] = kind.__struct_fields__  # type: ignore[attr-defined]
    return Read(item, tuple(name for name in given if name not in known))


def _require(words: str, name: str) -> None:
    if not words.strip():
        raise ItemFault(f"{name} must not be empty", name)


def _check_size(*words: str) -> None:
    if sum(len(text.encode()) for text in words) > ITEM_BYTES:
        raise ItemFault(f"it is longer than {ITEM_BYTES} bytes", too_large=True)
