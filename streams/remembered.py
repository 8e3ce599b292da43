"""Memories opened: what the door, the trainer and the evaluator put before a model, read from where it stands sealed."""

import msgspec
from msgspec import Struct

from streams.errors import Invalid
from streams.history import open_question
from streams.recalled import Memory
from streams.sealed import Sealed
from streams.sealing import Keys, open_sealed


class Passage(Struct, frozen=True):
    """What a passage opens to: its words, and the article or heading of the document that they stand under."""

    text: str
    place: str = ""

    def __repr__(self) -> str:
        return "Passage(sealed)"


class _Title(Struct, frozen=True):
    title: str


def of_correction(prompt: Sealed, answer: Sealed, keys: Keys) -> Memory:
    """Raises Erased, or Invalid if it is not a person's question."""
    return Memory(text=open_sealed(answer, keys), question=open_question(prompt, keys))


def title_of(document: Sealed, keys: Keys) -> str:
    """Raises Erased, or Invalid if it does not open to the title of a document."""
    try:
        return msgspec.json.decode(open_sealed(document, keys), type=_Title).title
    except msgspec.MsgspecError:
        raise Invalid(f"{document.ref} does not open to the title of a document") from None


def of_passage(passage: Sealed, title: str, keys: Keys) -> Memory:
    """`title`: of its document. Raises Erased, or Invalid if it does not open to a passage."""
    try:
        opened = msgspec.json.decode(open_sealed(passage, keys), type=Passage)
    except msgspec.MsgspecError:
        raise Invalid(f"{passage.ref} does not open to a passage of a document") from None
    return Memory(text=opened.text, source=", ".join(part for part in (title, opened.place) if part))
