"""What rows stand in a file or a folder, whatever they mean: JSON lists and lines, CSV, Parquet, and what `datasets` saved.

The first kind of `KINDS` that knows a path opens it. Rows come one after the other and are never all in memory.
"""

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from api.formats.text import PIECE_BYTES, Text, text_of
from streams.errors import Invalid

# Of a line, or of one item of a list, with what stands beside the item in it.
MOST_CHARACTERS = 4 * 1024 * 1024
BATCH_ROWS = 500
_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_SPACE = re.compile(r"[ \t\n\r]*")
# LLaMA-Factory's names of columns in `dataset_info.json`, and ours.
_FACTORY = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    **{name: name for name in ("system", "history", "messages", "chosen", "rejected", "kto_tag", "tools")},
}


class Row(Struct, frozen=True):
    """`place`: where it stands (`line 3`). `fault`: why it has no value."""

    place: str
    value: Any = None
    fault: str = ""


class Source(Struct, frozen=True):
    """`kind`: what it is in words. `rows` reads it anew at each call. `columns`: its names of columns and ours, where it says."""

    name: str
    kind: str
    rows: Callable[[], Iterator[Row]]
    columns: Mapping[str, str] = {}


def sources(path: Path) -> list[Source]:
    """The files that are read of it, in their order. Raises Invalid where it is nothing that is known."""
    if not path.exists():
        raise Invalid(f"{path.name} is not there")
    try:
        if not (path.is_file() or path.is_dir()):
            return _piped(path)
        opens = next(opens for knows, opens in KINDS if knows(path))
        return opens(path)
    except OSError as error:
        raise Invalid(f"{path.name} cannot be read: {error.strerror or type(error).__name__}") from None


def _piped(path: Path) -> list[Source]:
    """What comes once only is held in a file of our own as long as it is read."""
    held = TemporaryDirectory(prefix="noria-")
    copy = Path(held.name, path.name)
    with path.open("rb") as pipe, copy.open("wb") as file:
        shutil.copyfileobj(pipe, file)
    return [replace(source, rows=partial(_rows_held, held, source)) for source in sources(copy)]


def _rows_held(held: TemporaryDirectory[str], source: Source) -> Iterator[Row]:
    yield from source.rows()


def _json(path: Path) -> list[Source]:
    text = text_of(path)
    words = text.encoding.upper()
    with text.opened() as file:
        head = file.read(PIECE_BYTES).lstrip()
    if head.startswith("["):
        return [Source(path.name, f"a JSON list in {words}", lambda: _list_rows(text))]
    if head.startswith("{") and path.stat().st_size <= MOST_CHARACTERS:
        with text.opened() as file:
            whole = _decoded("item 1", file.read())
        if not whole.fault:
            return [Source(path.name, f"a JSON object in {words}", lambda: iter((whole,)))]
    return [Source(path.name, f"JSON lines in {words}", lambda: _line_rows(text))]


def _line_rows(text: Text) -> Iterator[Row]:
    for number, line in text.lines(MOST_CHARACTERS):
        place = f"line {number}"
        yield Row(place, fault=_too_long()) if line is None else _decoded(place, line)


def _list_rows(text: Text) -> Iterator[Row]:
    """Each item is found by the standard library's decoder, which says where it ends, and then read as all JSON is read here."""
    with text.opened() as file:
        yield from _list_items(file)


def _list_items(file: TextIO) -> Iterator[Row]:
    scan = json.JSONDecoder().raw_decode
    buffer, at, ended = file.read(PIECE_BYTES).lstrip()[1:], 0, False
    for number in count(1):
        place = f"item {number}"
        while True:
            at = _end_of_space(buffer, at)
            fault, end = "it ends before its list does", len(buffer)
            if number == 1 and buffer[at : at + 1] == "]":
                return
            try:
                if at < len(buffer):
                    end = scan(buffer, at)[1]
            except ValueError as error:
                fault = getattr(error, "msg", "it is no JSON")
            except RecursionError:
                yield Row(place, fault="nested too deeply; nothing after it can be read")
                return
            after = _end_of_space(buffer, end)
            if after < len(buffer):
                break
            if ended or len(buffer) - at > MOST_CHARACTERS:
                yield Row(place, fault=f"{fault if ended else _too_long()}; nothing after it can be read")
                return
            piece = file.read(
                max(PIECE_BYTES, len(buffer) - at)
            )  # twice as much: what is long is not scanned again and again
            buffer, at, ended = buffer[at:] + piece, 0, not piece
        yield _decoded(place, buffer[at:end])
        if buffer[after] not in ",]":
            yield Row(
                f"after {place}", fault="there is neither a comma nor the list's end; nothing after it can be read"
            )
        if buffer[after] != ",":
            return
        at = after + 1


def _end_of_space(buffer: str, at: int) -> int:
    found = _SPACE.match(buffer, at)
    return found.end() if found else at


def _decoded(place: str, words: str) -> Row:
    try:
        return Row(place, msgspec.json.decode(words))
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        return Row(place, fault=str(error))
    except RecursionError:
        return Row(place, fault="nested too deeply")


def _too_long() -> str:
    return f"it has more than {MOST_CHARACTERS:,} characters"


def _csv(path: Path) -> list[Source]:
    text = text_of(path)
    with text.opened(newline="") as file:
        head = file.readline(PIECE_BYTES)
    delimiter = max(",;\t", key=head.count)

    def rows() -> Iterator[Row]:
        with text.opened(newline="") as file:
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            header: list[str] = []
            while True:
                place = f"line {lines.line_num + 1}"
                try:
                    cells = next(lines, None)
                except csv.Error as error:
                    yield Row(place, fault=f"{error}; nothing after it can be read")
                    return
                if cells is None:
                    return
                if not header:
                    header = [cell.strip() for cell in cells]
                elif cells and len(cells) != len(header):
                    yield Row(place, fault=f"it has {len(cells)} cells, and the first line {len(header)}")
                elif cells:
                    yield Row(place, dict(zip(header, cells, strict=True)))

    return [Source(path.name, f"CSV in {text.encoding.upper()}", rows)]


def _parquet(path: Path) -> list[Source]:
    try:
        import pyarrow.parquet
        from pyarrow import ArrowException
    except ImportError:
        raise Invalid(f"{path.name} is Parquet, which needs pyarrow: it is installed with noria[workers]") from None

    def rows() -> Iterator[Row]:
        numbers = count(1)
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    yield from (Row(f"row {next(numbers)}", value) for value in batch.to_pylist())
        except ArrowException as error:
            yield Row(f"row {next(numbers)}", fault=f"{str(error).splitlines()[0]}; nothing after it can be read")

    return [Source(path.name, "Parquet", rows)]


def _saved(path: Path) -> list[Source]:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError:
        raise Invalid(f"{path.name} was saved by datasets, which is installed with noria[workers]") from None
    try:
        found = load_from_disk(str(path))
    except Exception as error:  # whatever it, pyarrow and fsspec raise: the folder is broken
        raise Invalid(f"{path.name} cannot be loaded: {type(error).__name__}") from None
    splits = found if isinstance(found, DatasetDict) else {"": found}
    return [
        Source(f"{path.name}/{split}".rstrip("/"), "a folder that datasets saved", partial(_saved_rows, part))
        for split, part in splits.items()
    ]


def _saved_rows(part: Any) -> Iterator[Row]:
    for start in range(0, len(part), BATCH_ROWS):
        for number, value in enumerate(part.select(range(start, min(start + BATCH_ROWS, len(part)))), start + 1):
            yield Row(f"row {number}", value)


def _factory(path: Path) -> list[Source]:
    """LLaMA-Factory's folder of data sets, of which `dataset_info.json` says which column is which."""
    found = []
    for name, about in _told(path).items():
        file = about.get("file_name") if isinstance(about, dict) else None
        if not isinstance(file, str) or Path(file).name != file or not (path / file).exists():
            raise Invalid(f"{path.name}/dataset_info.json: {name} names no file of the folder")
        said = about.get("columns")
        columns = {theirs: _FACTORY[ours] for ours, theirs in said.items() if ours in _FACTORY} if said else {}
        found += [
            Source(f"{path.name}/{source.name}", f"{source.kind}, of LLaMA-Factory", source.rows, columns)
            for source in sources(path / file)
        ]
    return found


def _told(path: Path) -> dict[str, Any]:
    try:
        said = json.loads((path / "dataset_info.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    is_factorys = isinstance(said, dict) and any(isinstance(one, dict) and "file_name" in one for one in said.values())
    return said if is_factorys else {}


def _folder(path: Path) -> list[Source]:
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file.suffix.lower() in _SUFFIXES and not _hidden(file.relative_to(path))
    )
    if not files:
        raise Invalid(f"{path.name} has no file that is read: {', '.join(_SUFFIXES)}")
    return [
        Source(str(Path(path.name, file.relative_to(path))), source.kind, source.rows)
        for file in files
        for source in sources(file)
    ]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _begins(path: Path, mark: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path], list[Source]]], ...] = (
    (lambda path: (path / "state.json").is_file() or (path / "dataset_dict.json").is_file(), _saved),
    (lambda path: path.is_dir() and bool(_told(path)), _factory),
    (lambda path: path.is_dir(), _folder),
    (lambda path: _begins(path, b"PAR1"), _parquet),
    (lambda path: path.suffix.lower() in (".csv", ".tsv"), _csv),
    (lambda path: True, _json),
)
