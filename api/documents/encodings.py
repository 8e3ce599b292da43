"""In which encoding the bytes of a text are, told and never guessed from afar."""

import codecs
import re

from api.documents.faults import Unreadable

# The longer marks first: that of UTF-16 is the beginning of that of UTF-32.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"<meta[^>]{1,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]{1,40})", re.IGNORECASE)
# What a page may say it is in; of what has no mark and says nothing only UTF-8 and GB18030 are recognised.
_OF_PAGES = {
    **dict.fromkeys(("utf-8", "utf8"), "utf-8"),
    **dict.fromkeys(("gb18030", "gbk", "gb2312", "x-gbk"), "gb18030"),
    **dict.fromkeys(("iso-8859-1", "latin1", "windows-1252", "us-ascii"), "cp1252"),
    **dict.fromkeys(("big5", "big5-hkscs"), "big5hkscs"),
}
ALL = (*(name for _, name in MARKS), *_OF_PAGES.values(), "gb2312", "cp437")
_SAMPLE = 20_000
# Every twentieth character of a Chinese text, whatever it is about, is one of these.
_COMMON = frozenset(
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年同工也能下过子方行所法民得经应当或者规定条第机本"
)
_COMMON_SHARE = 0.05
_KNOWN_SHARE = 0.8
_ENOUGH = 20  # characters to tell by


def decoded(body: bytes, is_html: bool = False) -> str:
    """The words of a text file, without its byte order mark. Raises Unreadable where its encoding is none of UTF-8, UTF-16 and
    UTF-32 with a mark, GB18030, and what an HTML page says that it is in."""
    mark, encoding = next((found for found in MARKS if body.startswith(found[0])), (b"", ""))
    if not encoding and is_html and (declared := _DECLARED.search(body, 0, 4096)):
        encoding = _OF_PAGES.get(declared[1].decode("ascii").lower(), "")
    try:
        text = body[len(mark) :].decode(encoding or "utf-8")
    except UnicodeDecodeError:
        if encoding:
            raise Unreadable("encoding", f"it says that it is {encoding.upper()}, and is not") from None
        text = _chinese(body)
    if "\0" in text:
        raise Unreadable("encoding", "it holds the character NUL: it is no text, or UTF-16 without a byte order mark")
    return text


def _chinese(body: bytes) -> str:
    try:
        text = body.decode("gb18030")
    except UnicodeDecodeError:
        text = ""
    if not reads_as_chinese(text[:_SAMPLE]):
        raise Unreadable("encoding", "its encoding is neither UTF-8 nor GB18030; save it as UTF-8")
    return text


def reads_as_chinese(text: str) -> bool:
    """Nearly any bytes are GB18030: what they were meant as shows in which characters come out."""
    beyond = [character for character in text if character > "\x7f"]
    ideographs = [character for character in beyond if "\u4e00" <= character <= "\u9fff"]
    known = sum(len(character.encode("gb2312", "ignore")) == 2 for character in beyond)
    if not beyond or known < _KNOWN_SHARE * len(beyond) or 2 * len(ideographs) < len(beyond):
        return False
    common = sum(character in _COMMON for character in ideographs)
    return len(ideographs) < _ENOUGH or common >= _COMMON_SHARE * len(ideographs)
