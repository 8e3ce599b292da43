"""Of each kind of document its text, as Markdown or plain: bytes in, words out. It runs in `api.documents.child`.

Markdown of Word and of HTML comes through mammoth and markdownify, which `markitdown` is made of too, and the text of a PDF
through PDFium. `markitdown` itself brings along a runtime for neural networks, to guess what the name of a file says.
"""

import re
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any
from zlib import error as ZlibError

from api.documents.encodings import decoded
from api.documents.faults import Unreadable

UNPACKED_BYTES = 64 * 1024 * 1024
PAGES = 20_000
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_LINE_ENDS = re.compile(r"\r\n?|[\x85\u2028\u2029]")
_HYPHEN = re.compile(r"[\x02\ufffe](?:\r?\n)?")  # PDFium's, for the hyphen of a word that goes on in the next line
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # also what holds an encrypted document of today's Office
_PARTS = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_SMALLEST = {
    "[Content_Types].xml": f'<Types xmlns="{_PARTS}/content-types"/>',
    "_rels/.rels": f'<Relationships xmlns="{_PARTS}/relationships">'
    f'<Relationship Id="a" Type="{_OFFICE}" Target="word/document.xml"/></Relationships>',
    "word/document.xml": f'<w:document xmlns:w="{_WORD}"><w:body><w:p><w:r><w:t>a</w:t></w:r></w:p></w:body></w:document>',
}
_UNSEEN = ("script", "style", "head", "template", "noscript")


def plain_text(body: bytes, most: int) -> str:
    return decoded(body)


def html_text(body: bytes, most: int) -> str:
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    soup = BeautifulSoup(decoded(body, is_html=True), "html.parser")
    for tag in soup(list(_UNSEEN)):
        tag.decompose()
    converter = MarkdownConverter(
        heading_style="ATX",
        bullets="-",
        strip=["a", "img"],
        escape_asterisks=False,
        escape_underscores=False,
        table_infer_header=True,
    )
    return str(converter.convert_soup(soup))


def docx_text(body: bytes, most: int) -> str:
    import mammoth

    if body.startswith(_OLD_OFFICE):
        raise Unreadable(
            "encrypted", "it is encrypted, or of an Office before 2007; save it as .docx without a password"
        )
    try:
        with zipfile.ZipFile(BytesIO(body)) as archive:
            parts = archive.infolist()
            names = {part.filename for part in parts}
            unpacked = sum(part.file_size for part in parts if not part.filename.startswith("word/media/"))
            if any(part.flag_bits & 1 for part in parts):
                raise Unreadable("encrypted", "it is encrypted")
        if "word/document.xml" not in names:
            raise Unreadable("kind_unknown", "it is an archive, and no Word document")
        if unpacked > UNPACKED_BYTES:
            raise Unreadable(
                "too_large", f"it would unpack to {unpacked:,} bytes; at most {UNPACKED_BYTES:,} are unpacked"
            )
        html = mammoth.convert_to_html(BytesIO(body), convert_image=_no_image).value
    except (zipfile.BadZipFile, ZlibError, EOFError) as error:
        raise Unreadable("broken", "its archive is broken") from error
    return html_text(html.encode(), most)


def pdf_text(body: bytes, most: int) -> str:
    """Pages end with a form feed."""
    from pypdfium2 import PdfDocument, PdfiumError

    try:
        document = PdfDocument(body)
    except PdfiumError as error:
        if getattr(error, "err_code", None) == 4:  # FPDF_ERR_PASSWORD
            raise Unreadable("encrypted", "it is encrypted; save it without a password") from error
        raise Unreadable("broken", "it is broken, or no PDF") from error
    if len(document) > PAGES:
        raise Unreadable("too_large", f"it has {len(document):,} pages; at most {PAGES:,} are read")
    pages: list[str] = []
    length, broken = 0, 0
    for number in range(len(document)):
        try:
            page = document[number]
            words = _HYPHEN.sub("", page.get_textpage().get_text_range())
        except PdfiumError:
            broken, words = broken + 1, ""
        else:
            page.close()
        length += len(words)
        if length > most:
            break  # said by whoever asked for at most so much
        pages.append(words)
    if broken:
        raise Unreadable("broken", f"{broken} of its {len(document)} pages cannot be read")
    if not any(page.strip() for page in pages):
        raise Unreadable(
            "without_text", "its pages hold no text: it was scanned, and needs a recognition of characters first"
        )
    return "\n\f".join(pages)


def _no_image(image: Any) -> list[Any]:
    return []


READERS: dict[str, Callable[[bytes, int], str]] = {
    "text": plain_text,
    "markdown": plain_text,
    "html": html_text,
    "docx": docx_text,
    "pdf": pdf_text,
}


def text_of(kind: str, body: bytes, most: int) -> str:
    """The words of a document: lines end with \\n, and no other control character but tab and form feed is left. Raises Unreadable,
    also where there are more than `most` characters."""
    text = _FORBIDDEN.sub("", _LINE_ENDS.sub("\n", READERS[kind](body, most)))
    if len(text) > most:
        raise Unreadable("too_large", f"it holds more than {most:,} characters")
    if not text.strip():
        raise Unreadable("empty", "there is no word in it")
    return text


def warm_up(kind: str) -> None:
    """Have everything loaded that a document of this kind may ask for: afterwards no file can be opened."""
    if kind == "docx":
        small = BytesIO()
        with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, words in _SMALLEST.items():
                archive.writestr(name, words)
        docx_text(small.getvalue(), len(small.getvalue()))
    elif kind == "html":
        html_text(b"<table><tr><td>a</td></tr></table>", 100)
    elif kind == "pdf":
        import pypdfium2  # noqa: F401
