"""Text files that a person gives to a command."""

from pathlib import Path

from api.documents.encodings import MARKS
from api.formats.text import seems
from streams.errors import Invalid


def read_text(path: Path) -> str:
    """What the file says: UTF-8, or UTF-16 or UTF-32 by its byte order mark, which is no part of the text.

    Raises Invalid naming the file, the line and, if it can be told, the encoding that the file seems to be in.
    """
    raw = path.read_bytes()
    mark, encoding = next((found for found in MARKS if raw.startswith(found[0])), (b"", "utf-8"))
    body = raw[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].decode(encoding).count("\n") + 1
        raise Invalid(f"{path.name} line {line}: not {encoding.upper()}{seems(path, raw)}") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise Invalid(f"{path.name} line {line}: it holds the character NUL, which no text holds{seems(path, raw)}")
    return text
