"""Personal data in a text: found by rule, and masked by its kind in brackets. Pure.

Where words are opened to be learned or asked in an exam, what the domain's policy names is masked (`Policy.mask`); what lies sealed
stays as it was said. A name or an address of a person is not found, nor is a number that follows no rule (a landline, a passport).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection
from datetime import date
from typing import Literal, get_args

PersonalKind = Literal["e-mail", "identity number", "bank card", "phone", "plate"]
KINDS: tuple[PersonalKind, ...] = get_args(PersonalKind)


def masked(text: str, kinds: Collection[str] = KINDS) -> tuple[str, Counter[str]]:
    """Personal data of these kinds replaced by its kind in brackets, and how often."""
    found_kinds: Counter[str] = Counter()
    for kind, pattern, holds in _PERSONAL:
        if kind not in kinds:
            continue

        def mask(found: re.Match[str], kind: str = kind, holds: Callable[[str], bool] = holds) -> str:
            if not holds(found[0]):
                return found[0]
            found_kinds[kind] += 1
            return f"[{kind}]"

        text = pattern.sub(mask, text)
    return text, found_kinds


def is_identity_number(said: str) -> bool:
    """A Chinese resident identity number: GB 11643-1999, its last character by ISO 7064 MOD 11-2."""
    digits = [_digit(character) for character in said[:17]]
    year, month, day = (int("".join(map(str, digits[a:b]))) for a, b in ((6, 10), (10, 12), (12, 14)))
    try:
        born = date(year, month, day)
    except ValueError:
        return False
    total = sum(digit * pow(2, 17 - place, 11) for place, digit in enumerate(digits))
    check = "10X98765432"[total % 11]
    last = said[17].upper()
    return born.year >= 1850 and (last == check or (last != "X" and check != "X" and _digit(last) == int(check)))


def is_card_number(said: str) -> bool:
    """A payment card's number, its last digit by Luhn (ISO/IEC 7812-1, annex B). One in ten numbers passes that by chance."""
    digits = [_digit(character) for character in said if character.isdigit()]
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return 15 <= len(digits) <= 19 and sum(doubled) % 10 == 0


def _digit(character: str) -> int:
    return unicodedata.digit(character)


def _always(said: str) -> bool:
    return True


_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
# Digits of full width are digits, too. What is longer comes first: an identity number holds what looks like a phone's.
_PERSONAL: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    (
        "e-mail",
        re.compile(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}(?![A-Za-z])"
        ),
        _always,
    ),
    ("identity number", re.compile(r"(?<![\dA-Za-z])\d{17}[\dXx](?![\dA-Za-z])"), is_identity_number),
    (
        "bank card",
        re.compile(r"(?<![\d.])[3-6３-６]\d{3}(?:[ -]?\d{4}){2}(?:[ -]?\d{1,4}){1,2}(?![\d])"),
        is_card_number,
    ),
    ("phone", re.compile(r"(?<!\d)(?:(?:\+|00)?86[ -]?)?[1１][3-9３-９]\d[ -]?\d{4}[ -]?\d{4}(?!\d)"), _always),
    ("phone", re.compile(r"(?<![\d+])\+\d{1,3}(?:[ -]?\(?\d{2,4}\)?){2,4}(?!\d)"), _always),
    (
        "plate",
        re.compile(
            rf"[{_PROVINCES}][A-HJ-NP-Z][ ·•-]?(?:[A-HJ-NP-Z\d]{{4}}[A-HJ-NP-Z\d挂学警港澳]|[DF][A-HJ-NP-Z\d]\d{{4}}|\d{{5}}[DF])"
            r"(?![A-Za-z\d])"
        ),
        _always,
    ),
)


def kinds_in(texts: Collection[str], kinds: Collection[str] = KINDS) -> set[str]:
    """The kinds that stand in any of the texts."""
    return {kind for text in texts for kind in masked(text, kinds)[1]}
