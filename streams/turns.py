"""The turns before a prompt as pairs (asked, answered), which is how Alpaca's `history` and the trainer hold them. Pure.

No turn is lost on the way: one without its counterpart (a greeting first, two answers in a row) stands in a pair whose other
side is empty.
"""

from collections.abc import Iterable

Pair = tuple[str, str]


def pairs_of(turns: Iterable[tuple[str, str]]) -> tuple[Pair, ...]:
    """`turns`: (role, words), the role being `user` or the model's."""
    found: list[Pair] = []
    waiting = False  # whether the last pair's question has no answer yet
    for role, words in turns:
        if role == "user":
            found.append((words, ""))
        elif waiting:
            found[-1] = (found[-1][0], words)
        else:
            found.append(("", words))
        waiting = role == "user"
    return tuple(found)


def turns_of(pairs: Iterable[Pair]) -> list[tuple[str, str]]:
    """The way back: (role, words), without the empty sides."""
    return [(role, words) for pair in pairs for role, words in zip(("user", "assistant"), pair, strict=True) if words]
