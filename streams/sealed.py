"""What a person's words look like wherever they are kept: sealed, and naming where they were first said."""

from msgspec import Struct


class Sealed(Struct, frozen=True):
    """Text under a person's own key (JWE compact, `dir` + `A256GCM`).

    `ref` is "<event id>#<field>", where the text was first said; the token's protected header repeats it, so that a
    token moved under another event does not open.
    """

    kid: str
    ref: str
    jwe: str
