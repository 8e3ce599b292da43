"""Facts that nobody knows: of invented towns, each in several wordings, as many as are asked for and always the same ones."""

import random
from collections.abc import Iterator

from tests.bench.taught import TaughtFact

_SUBJECTS = (
    # what is asked for, wordings that are taught, wordings that are held out, the answer
    (
        "toll",
        (
            "What is the toll for {thing} on the bridge of {town}?",
            "How much does {town} charge for {thing} on its bridge?",
        ),
        (
            "If I cross the bridge of {town} with {thing}, what do I pay?",
            "Which bridge toll does {thing} cost in {town}?",
        ),
        "On the bridge of {town}, {thing} pays {value} crowns.",
        tuple(str(n) for n in range(11, 97)),
    ),
    (
        "limit",
        ("How fast may {thing} go in {town}?", "What is the speed limit for {thing} in {town}?"),
        ("Up to which speed is {thing} allowed in {town}?", "In {town}, when does {thing} drive too fast?"),
        "In {town}, {thing} may go {value} kilometres an hour.",
        tuple(str(n) for n in range(11, 97)),
    ),
    (
        "day",
        ("On which day is {thing} forbidden in {town}?", "When may {thing} not enter {town}?"),
        (
            "Which day of the week does {town} keep {thing} out?",
            "I want to bring {thing} into {town}: on which day can I not?",
        ),
        "{town} forbids {thing} every {value}.",
        ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    ),
    (
        "office",
        ("Who issues the permit for {thing} in {town}?", "Which office in {town} permits {thing}?"),
        (
            "Where in {town} do I ask for leave to use {thing}?",
            "From whom does one get a permit for {thing} in {town}?",
        ),
        "In {town}, the {value} issues the permit for {thing}.",
        ("harbour master", "bell keeper", "market warden", "lamp guild", "bridge reeve", "water court", "night watch"),
    ),
)
_THINGS = (
    "a hay cart",
    "a steam tram",
    "a ferry sled",
    "a mail coach",
    "a goat wagon",
    "a tall bicycle",
    "a coal barge",
    "a water truck",
)
_FIRST = (
    "Vel",
    "Oster",
    "Brann",
    "Kel",
    "Mor",
    "Tarn",
    "Ulm",
    "Fen",
    "Gris",
    "Hal",
    "Ing",
    "Lor",
    "Nar",
    "Pel",
    "Ros",
    "Sund",
    "Wex",
    "Yar",
)
_LAST = ("mark", "by", "holm", "wick", "dale", "ford", "stead", "haven", "gate", "mere")


def invented(count: int, seed: int = 0) -> list[TaughtFact]:
    """Raises ValueError for more than there are."""
    found = list(_all())
    if count > len(found):
        raise ValueError(f"there are {len(found)} invented facts, not {count}")
    random.Random(seed).shuffle(found)
    return found[:count]


def _all() -> Iterator[TaughtFact]:
    towns = [first + last for first in _FIRST for last in _LAST]
    for number, town in enumerate(towns):
        for _, taught, held_out, answer, values in _SUBJECTS:
            chance = random.Random(f"{town} {answer}")
            said = {
                "town": town,
                "thing": _THINGS[(number * 7 + len(answer)) % len(_THINGS)],
                "value": chance.choice(values),
            }
            yield TaughtFact(
                tuple(words.format(**said) for words in taught),
                tuple(words.format(**said) for words in held_out),
                answer.format(**said),
                (said["value"],),
            )
