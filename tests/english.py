"""What codes and values say to an English reader, as the command line and the door put it."""

from collections.abc import Iterable

import msgspec

from api import reasons as words
from streams.gate import Verdict
from streams.reasons import Reason


def reasons(found: Iterable[Reason]) -> tuple[str, ...]:
    return tuple(words.reason_words("en", msgspec.to_builtins(one)) for one in found)


def verdict(found: Verdict) -> str:
    return words.verdict_words(msgspec.to_builtins(found))
