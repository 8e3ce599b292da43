"""Text files as they stand on the disk, read piece by piece: one of a gigabyte takes no more memory than a small one."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from msgspec import Struct

from api.documents.encodings import MARKS, reads_as_chinese
from streams.errors import Invalid

PIECE_BYTES = 256 * 1024
# What files without a mark are written in where they are not UTF-8.
_ELSEWHERE = ("gb18030",)


class Text(Struct, frozen=True):
    """`mark`: how many bytes the byte order mark has."""

    path: Path
    encoding: str
    mark: int = 0

    @contextmanager
    def opened(self, newline: str | None = None) -> Iterator[TextIO]:
        with self.path.open("rb") as file:
            file.seek(self.mark)
            yield io.TextIOWrapper(file, encoding=self.encoding, newline=newline)

    def lines(self, longest: int) -> Iterator[tuple[int, str | None]]:
        """(number, line) of each that is not blank. None: it has more than `longest` characters; it is passed over, and is never in
        memory as a whole."""
        number = 0
        with self.opened() as file:
            while line := file.readline(longest + 1):
                number += 1
                if len(line) <= longest or line.endswith("\n"):
                    if line.strip():
                        yield number, line
                    continue
                while line and not line.endswith("\n"):
                    line = file.readline(longest)
                yield number, None


def text_of(path: Path) -> Text:
    """In what encoding a file is, read to its end: UTF-8, UTF-16 or UTF-32 by its mark, or GB18030 where it is no UTF-8 and reads
    as Chinese. Raises Invalid naming the line that fits none of them."""
    with path.open("rb") as file:
        head = file.read(PIECE_BYTES)
    mark, encoding = next((found for found in MARKS if head.startswith(found[0])), (b"", "utf-8"))
    fault = _fault(path, len(mark), encoding)
    if fault is None:
        return Text(path, encoding, len(mark))
    line, words, sample = fault
    if not mark and sample and reads_as_chinese(sample.decode("gb18030", "ignore")) and not _fault(path, 0, "gb18030"):
        return Text(path, "gb18030")
    raise Invalid(f"{path.name} line {line}: {words}{seems(path, head)}")


def _fault(path: Path, mark: int, encoding: str) -> tuple[int, str, bytes] | None:
    """The line that is not in that encoding, what is wrong with it, and what stands there."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    with path.open("rb") as file:
        file.seek(mark)
        ended = False
        while not ended:
            raw = file.read(PIECE_BYTES)
            ended = not raw
            try:
                words = decoder.decode(raw, final=ended)
            except UnicodeDecodeError as error:
                good = error.object[: error.start]
                line += good.decode(encoding).count("\n")
                return line, f"not {encoding.upper()}", error.object[good.rfind(b"\n") + 1 :]
            if "\0" in words:
                line += words[: words.index("\0")].count("\n")
                return line, "it holds the character NUL, which no text holds", b""
            line += words.count("\n")
    return None


def seems(path: Path, raw: bytes) -> str:
    """What a file that cannot be read seems to be, and how to write it anew: guessed to be named, never to be read by, for a wrong
    guess would be taken for people's words. `raw`: how it begins."""
    encoding = _utf16_without_mark(raw) or next((name for name in _ELSEWHERE if _decodes(raw, name)), None)
    if encoding is None:
        return ""
    name = encoding.upper()
    return f"; it seems to be {name}: write it anew with `iconv -f {name} -t UTF-8 {path.name}`"


def _utf16_without_mark(raw: bytes) -> str | None:
    """JSON and most lists begin with a letter of ASCII, which has a zero byte beside it in UTF-16."""
    found = {(True, False): "utf-16be", (False, True): "utf-16le"}.get((raw[:1] == b"\0", raw[1:2] == b"\0"))
    return found if found is not None and _decodes(raw, found) else None


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        return "\0" not in codecs.getincrementaldecoder(encoding)().decode(raw)
    except UnicodeDecodeError:
        return False
