"""What a file brings, item by item, checked before anything of it is sent: its format, what is wrong with it, what was cleaned."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from api.formats.shapes import columns_of, named, reader, renamed, shape_of
from api.formats.sources import Source, sources
from api.items import Example, ItemFault, LeftOut, Read
from streams.errors import Invalid

T = TypeVar("T")


class Taken(Struct, Generic[T], frozen=True):
    """One item. `fault`: what is wrong with it; `left_out`: the step of cleaning that left it out, or what it says of itself;
    `mended`: what was mended."""

    place: str
    item: T | None = None
    aside: tuple[str, ...] = ()
    fault: str = ""
    left_out: str = ""
    mended: Counter[str] = Counter()


class Brought(Struct, Generic[T], frozen=True):
    """A file or folder and how its rows are read. `formats`: of each source what it is, in words."""

    name: str
    formats: tuple[str, ...]
    items: Callable[[], Iterator[Taken[T]]]  # anew at each call


class Checked(Struct):
    good: int = 0
    faulty: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    aside: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)

    def add(self, taken: Taken[Any]) -> None:
        if taken.fault:
            self.faulty += 1
        elif taken.left_out:
            self.left_out[taken.left_out] += 1
        else:
            self.good += 1
            self.aside.update(taken.aside)
            self.mended.update(taken.mended)


def brought(path: Path, read: Callable[[Any], Read[T]]) -> Brought[T]:
    """Of items that have one format. Raises Invalid."""
    found = sources(path)
    return _brought(path, [(source, source.kind, _renaming(read, source.columns)) for source in found])


def examples(
    path: Path,
    format: str | None = None,
    columns: Mapping[str, str] = {},
    languages: Collection[str] | None = None,
) -> Brought[Example]:
    """Training examples. `columns`: the file's names of columns, and ours; `languages`: clean what is read, for a domain of these.
    Raises Invalid."""
    found = []
    for source in sources(path):
        known = columns_of(source, columns)
        try:
            shape = named(format) if format else shape_of(source.rows(), known)
        except Invalid as error:
            raise Invalid(f"{source.name}: {error}") from None
        found.append((source, f"{shape.name}, {source.kind}", reader(shape, known)))
    whole = _brought(path, found)
    if languages is None:
        return whole
    return replace(whole, items=lambda: (_cleaned(taken, languages) for taken in whole.items()))


def _renaming(read: Callable[[Any], Read[T]], columns: Mapping[str, str]) -> Callable[[Any], Read[T]]:
    return lambda raw: read(renamed(raw, columns))


def _brought(path: Path, read: Sequence[tuple[Source, str, Callable[[Any], Read[T]]]]) -> Brought[T]:
    alone = len(read) == 1 and read[0][0].name == path.name
    formats = tuple(f"{source.name}: {words}" for source, words, _ in read)

    def items() -> Iterator[Taken[T]]:
        for source, _, reads in read:
            for row in source.rows():
                place = row.place if alone else f"{source.name} {row.place}"
                if row.fault:
                    yield Taken(place, fault=row.fault)
                    continue
                try:
                    found = reads(row.value)
                except ItemFault as error:
                    where = "" if not error.field or error.message.startswith(error.field) else f"{error.field}: "
                    yield Taken(place, fault=f"{where}{error.message}")
                except LeftOut as error:
                    yield Taken(place, left_out=error.reason)
                else:
                    yield Taken(place, found.item, found.set_aside)

    return Brought(path.name, formats, items)


def _cleaned(taken: Taken[Example], languages: Collection[str]) -> Taken[Example]:
    from streams.cleaning import Words, clean  # what repairs Unicode takes a while to load

    item = taken.item
    if item is None:
        return taken
    # A prompt is one text, as it is learned: instruction and input, of which either may be empty.
    turns = [words for pair in item.history for words in pair]
    before = (item.system, *turns, item.instruction, item.input)
    found = clean(Words((*before, item.output)), languages)
    if found.left_out:
        return replace(taken, item=None, aside=(), left_out=found.left_out)
    system, *turns, instruction, input_, output = found.words.texts
    mended = replace(
        item,
        system=system,
        history=tuple(zip(turns[::2], turns[1::2], strict=True)),
        instruction=instruction,
        input=input_,
        output=output,
    )
    return replace(taken, item=mended, mended=found.mended)


def good(found: Brought[T], skip_faulty: bool = False) -> Iterator[tuple[str, T]]:
    """The items of a file that was checked, each with the words for its place."""
    for taken in found.items():
        if taken.item is not None:
            yield taken.place, taken.item
        elif taken.fault and not skip_faulty:
            raise Invalid(f"{found.name} {taken.place}: {taken.fault}; the file was changed while it was read")
