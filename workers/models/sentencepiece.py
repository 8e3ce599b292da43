"""SentencePiece's BPE models (`tokenizer.model`), read without its library: the pieces, and how they cut a text.

The file is a protobuf message (sentencepiece_model.proto: field 1 pieces, 2 trainer, 3 normaliser). The cut is that of Kudo and
Richardson 2018 (arXiv 1808.06226) for BPE: of all neighbours whose union is a piece, the pair of the highest score is joined, the
leftmost of equals, until none is left; what is no piece falls to its bytes.
"""

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from streams.errors import Invalid

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's types are the same
BLANK = "▁"
_BPE = 2


class Piece(Struct, frozen=True):
    text: str
    score: float
    kind: int


class Pieces(Struct, frozen=True):
    """A model of which nothing is left out that matters to a cut: see `read_pieces`."""

    all: tuple[Piece, ...]

    def cut(self, text: str) -> list[int]:
        """The ids of `text`, which begins with a blank of its own. Control pieces are never found in a text. Plain and slow: for
        checks."""
        if not text:
            return []
        ids = {piece.text: index for index, piece in enumerate(self.all) if piece.kind in (NORMAL, USER_DEFINED)}
        bytes_ = {piece.text: index for index, piece in enumerate(self.all) if piece.kind == BYTE}
        symbols = list(BLANK + text.replace(" ", BLANK))
        while True:
            pairs = [
                (-self.all[ids[left + right]].score, at)
                for at, (left, right) in enumerate(pairwise(symbols))
                if left + right in ids
            ]
            if not pairs:
                break
            _, at = min(pairs)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        found: list[int] = []
        for symbol in symbols:
            found += [ids[symbol]] if symbol in ids else [bytes_[f"<0x{byte:02X}>"] for byte in symbol.encode()]
        return found


def read_pieces(path: Path) -> Pieces:
    """Read a BPE model that falls back to bytes, puts a blank before each text and changes nothing else of it. Raises Invalid for
    any other, which would be cut otherwise."""
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = tuple(_piece(content) for number, content in fields if number == 1 and isinstance(content, bytes))
        trainer = dict(_fields(next(c for n, c in fields if n == 2 and isinstance(c, bytes))))
        normaliser = dict(_fields(next(c for n, c in fields if n == 3 and isinstance(c, bytes))))
    except (OSError, ValueError, IndexError, StopIteration, struct.error) as error:
        raise Invalid(f"{path.name} is no SentencePiece model ({type(error).__name__})") from error
    if trainer.get(3) != _BPE:
        raise Invalid(f"{path.name} is no BPE model of SentencePiece's")
    if sum(piece.kind == BYTE for piece in pieces) != 256:
        raise Invalid(f"{path.name} does not fall back to bytes")
    if any(piece.kind == USER_DEFINED for piece in pieces):
        raise Invalid(f"{path.name} has pieces that users defined, which cut a text before all others")
    if normaliser.get(2) or normaliser.get(4, 1) or not normaliser.get(3, 1) or not normaliser.get(5, 1):
        raise Invalid(f"{path.name} changes a text before it is cut; only a blank before it is known here")
    return Pieces(pieces)


def merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The joins that lead to each piece, as lists of merges have them: those of the highest score first, then in the order of
    `scores`, which is that of the ids."""
    order = {text: index for index, text in enumerate(scores)}
    found = []
    for text, score in scores.items():
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in order and right in order:
                found.append((-score, order[left], order[right], left, right))
    return [(left, right) for _, _, _, left, right in sorted(found)]


def _piece(content: bytes) -> Piece:
    fields = dict(_fields(content))
    text, score, kind = fields[1], fields.get(2, b"\0\0\0\0"), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a piece of another shape")
    return Piece(text.decode(), struct.unpack("<f", score)[0], kind)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message, in order: whole numbers as such, all else as bytes. Raises ValueError or IndexError."""
    at = 0

    def whole() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value
            if shift > 63:
                raise ValueError("a number that does not end")

    while at < len(message):
        tag = whole()
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            yield number, whole()
            continue
        if kind not in (1, 2, 5):
            raise ValueError("a field of an unknown kind")
        size = whole() if kind == 2 else 8 if kind == 1 else 4
        if at + size > len(message):
            raise ValueError("a field that is cut short")
        yield number, message[at : at + size]
        at += size
