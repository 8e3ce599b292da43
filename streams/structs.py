"""The kinds of structs, and that msgspec knows them before threads do."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct


def learn_structs() -> None:
    """Have msgspec read every kind of struct that is defined by now.

    It reads a kind when it decodes the first of it, and two threads that do so at once crash their process (msgspec 0.22). So
    whatever decodes in threads calls this before it starts them.
    """
    for kind in _below(Struct):
        with suppress(TypeError, NameError):  # not a kind that anything is decoded as
            msgspec.json.Decoder(kind)


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
