"""Why a document is not taken."""

from streams.errors import Invalid


class Unreadable(Invalid):
    """A document that cannot become passages. The message begins with "it" and never repeats a word of the document, nor its name:
    whoever answers names it. `code` tells reasons apart: empty, encrypted, without_text, too_large, broken, kind_unknown, encoding,
    too_hard."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
