"""What a person's words look like wherever they are kept: sealed, and naming where they were first said."""

from msgspec import Struct


class Sealed(Struct, frozen=True):
    """Text under a person's own key (JWE compact, `dir` + `A256GCM`).

    `ref` is "<event id>#<field>", where the text was first said. The token's protected header repeats it, so that a token under
    another `ref` does not open; and where a text is first said no reader takes an event whose texts name another place
    (`streams.codec.read_event`). Copies keep the `ref` of what they are copies of.
    """

    kid: str
    ref: str
    jwe: str
