"""Text files that a person gives to a command."""

import codecs
from pathlib import Path

from streams.errors import Invalid

# The longer marks first: that of UTF-16 is the beginning of that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What files without a mark are written in where they are not UTF-8. Guessed to be named, never to be read by: a wrong guess
# would be taken for people's words.
_ELSEWHERE = ("gb18030",)


def read_text(path: Path) -> str:
    """What the file says: UTF-8, or UTF-16 or UTF-32 by its byte order mark, which is no part of the text.

    Raises Invalid naming the file, the line and, if it can be told, the encoding that the file seems to be in.
    """
    raw = path.read_bytes()
    mark, encoding = next((found for found in _MARKS if raw.startswith(found[0])), (b"", "utf-8"))
    body = raw[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].decode(encoding).count("\n") + 1
        raise Invalid(f"{path.name} line {line}: not {encoding.upper()}{_seems(path, raw)}") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise Invalid(f"{path.name} line {line}: it holds the character NUL, which no text holds{_seems(path, raw)}")
    return text


def _seems(path: Path, raw: bytes) -> str:
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
        return "\0" not in raw.decode(encoding)
    except UnicodeDecodeError:
        return False
