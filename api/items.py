"""What data teams bring, item by item: exam questions, and training examples in the Alpaca shape.

The door and the command line read items by these same rules, so that the one refuses nothing that the other has let through.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct

from api.shapes import Misshapen, shaped
from streams.errors import Invalid, InvalidField
from streams.rankings import same_text
from streams.seed_tasks import Aside, SeedTask
from streams.syllogisms import Syllogism

ITEM_BYTES = 32 * 1024

T = TypeVar("T", covariant=True)
Seed = Syllogism | SeedTask | Aside


class ItemFault(Invalid):
    """An item that cannot be taken. `field` says where (empty: the whole item); the item's words are not repeated."""

    def __init__(self, message: str, field: str = "", too_large: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.too_large = too_large


class LeftOut(Exception):
    """An item that is right, and that says of itself that it is not to be learned: the `reason` is no fault of its file."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


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


class Triple(Struct, frozen=True, kw_only=True):
    """A fact of a knowledge graph. The predicate is a noun phrase: `speed limit`, 最高时速."""

    subject: str
    predicate: str
    object: str

    def __repr__(self) -> str:
        return "Triple(…)"


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


def read_triple(raw: Any) -> Read[Triple]:
    """Raises ItemFault."""
    read = _read(raw, Triple)
    for name in Triple.__struct_fields__:
        words = getattr(read.item, name)
        _require(words, name)
        if "\n" in words.strip():
            raise ItemFault(f"{name} must be one line", name)
    item = Triple(**{name: getattr(read.item, name).strip() for name in Triple.__struct_fields__})
    _check_size(item.subject, item.predicate, item.object)
    return Read(item, read.set_aside)


def read_syllogism(raw: Any) -> Read[Syllogism]:
    """Raises ItemFault."""
    read = _read(raw, Syllogism)
    item = read.item
    try:
        item.check()
    except InvalidField as error:
        raise ItemFault(str(error), error.field) from None
    _check_size(item.major.rule, item.minor, item.conclusion.result)
    return read


def read_task(raw: Any) -> Read[SeedTask]:
    """A seed task in Self-Instruct's fields. Raises ItemFault."""
    read = _read(raw, SeedTask)
    item = read.item
    try:
        item.check()
    except InvalidField as error:
        raise ItemFault(str(error), error.field) from None
    _check_size(item.instruction, *(words for one in item.instances for words in (one.input, one.output)))
    return read


def read_aside(raw: Any) -> Read[Aside]:
    """A question that the domain does not answer. Raises ItemFault."""
    read = _read(raw, Aside)
    _require(read.item.question, "question")
    _check_size(read.item.question)
    return read


def read_seed(raw: Any) -> Read[Seed]:
    """Which kind it is, is told by its fields. Raises ItemFault."""
    if isinstance(raw, dict) and "instruction" in raw:
        return read_task(raw)
    if isinstance(raw, dict) and "question" in raw and "major" not in raw:
        return read_aside(raw)
    return read_syllogism(raw)


class Said(Struct, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: str


class _Preference(Struct, frozen=True, kw_only=True):
    """The columns of trl's preference and unpaired sets, and of LLaMA-Factory's ranking and KTO files in Alpaca's fields; or of
    answers that are `ranked`, the best first."""

    prompt: list[Said] | str | None = None
    chosen: list[Said] | str | None = None
    rejected: list[Said] | str | None = None
    completion: list[Said] | str | None = None
    label: bool | None = None
    instruction: str = ""
    input: str = ""
    output: str | None = None
    kto_tag: bool | None = None
    ranked: list[str] | None = None
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()


class Preference(Struct, frozen=True, kw_only=True):
    """`answers` to a prompt, the best first; of one alone, whether it is `good`. `messages`: up to and with the prompt."""

    messages: tuple[Said, ...]
    answers: tuple[str, ...]
    good: bool | None = None

    def __repr__(self) -> str:
        return "Preference(…)"


def read_preference(raw: Any) -> Read[Preference]:
    """A row of either kind of file. Raises ItemFault."""
    read = _read(raw, _Preference)
    item = read.item
    if item.prompt is not None:
        messages = [Said("user", item.prompt)] if isinstance(item.prompt, str) else item.prompt
    else:
        _require(item.instruction + item.input, "prompt")
        turns = [Said("system", item.system)] if item.system.strip() else []
        for asked, answered in item.history:
            turns += [Said("user", asked)] if asked else []
            turns += [Said("assistant", answered)] if answered else []
        words = "\n".join(words for words in (item.instruction, item.input) if words.strip())
        messages = [*turns, Said("user", words)]
    if not messages or messages[-1].role != "user":
        raise ItemFault("its last message must be the person's", "prompt")
    _require(messages[-1].content, "prompt")
    good = item.label if item.label is not None else item.kto_tag
    if item.ranked is not None:
        answers = {f"ranked[{place}]": _answer(words, f"ranked[{place}]") for place, words in enumerate(item.ranked)}
        if len({same_text(words) for words in answers.values()}) < max(2, len(answers)):
            raise ItemFault("it must be two or more answers, and no two the same", "ranked")
    elif good is None:
        answers = {"chosen": _answer(item.chosen, "chosen"), "rejected": _answer(item.rejected, "rejected")}
        if same_text(answers["chosen"]) == same_text(answers["rejected"]):
            raise ItemFault("it is the same as chosen", "rejected")
    else:
        name = "output" if item.completion is None else "completion"
        answers = {name: _answer(getattr(item, name), name)}
    _check_size(*(message.content for message in messages), *answers.values())
    return Read(Preference(messages=tuple(messages), answers=tuple(answers.values()), good=good), read.set_aside)


def _answer(said: list[Said] | str | None, name: str) -> str:
    if isinstance(said, list):
        if len(said) != 1 or said[0].role != "assistant":
            raise ItemFault("it must be one message of the assistant", name)
        said = said[0].content
    if said is None:
        raise ItemFault("it is missing", name)
    _require(said, name)
    return said


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
