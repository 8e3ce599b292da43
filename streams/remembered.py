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


def of_passage(passage: Sealed, title: Sealed, keys: Keys) -> Memory:
    """Raises Erased, or Invalid if it does not open to a passage and the title of its document."""
    words, document = open_sealed(passage, keys), open_sealed(title, keys)
    try:
        opened = msgspec.json.decode(words, type=Passage)
        name = msgspec.json.decode(document, type=_Title).title
    except msgspec.MsgspecError:
        raise Invalid(f"{passage.ref} does not open to a passage of a document") from None
    return Memory(text=opened.text, source=", ".join(part for part in (name, opened.place) if part))
