"""The demo's road traffic domain as typed data: facts and the general quiz."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar, assert_never

import msgspec
from msgspec import Struct

ROAD_TRAFFIC = Path(__file__).parent / "road_traffic"

Language = Literal["en", "zh"]

TRAINED_REWORDINGS = 3
HELD_OUT_REWORDINGS = 2


class DemoDataError(ValueError):
    """A line of a demo file is not what it should be; the message names file and line."""


class Wording(Struct, frozen=True, forbid_unknown_fields=True):
    """One fact in one language."""

    question: str
    answer: str
    keys: tuple[str, ...]
    rewordings: tuple[str, ...]  # how other people ask the same; these may be trained on
    held_out: tuple[str, ...]  # nobody trains on these

    @property
    def trained(self) -> tuple[str, ...]:
        return (self.question, *self.rewordings)

    @property
    def all_questions(self) -> tuple[str, ...]:
        return (*self.trained, *self.held_out)


class Fact(Struct, frozen=True, forbid_unknown_fields=True):
    """One point of law, with the article it rests on and the words there that the answer turns on."""

    id: str
    law: str
    article: str
    term: str
    en: Wording
    zh: Wording

    def wording(self, language: Language) -> Wording:
        match language:
            case "en":
                return self.en
            case "zh":
                return self.zh
        assert_never(language)


class GeneralQuestion(Struct, frozen=True, forbid_unknown_fields=True):
    """One question of the general quiz; it is asked, never trained on."""

    id: str
    question: str
    answer: str
    keys: tuple[str, ...]


def load_facts(path: Path = ROAD_TRAFFIC / "facts.jsonl") -> tuple[Fact, ...]:
    return _load(path, Fact, _fact_fault, lambda fact: fact.id)


def load_general(path: Path = ROAD_TRAFFIC / "general.jsonl") -> tuple[GeneralQuestion, ...]:
    return _load(path, GeneralQuestion, _general_fault, lambda question: question.id)


_Row = TypeVar("_Row", Fact, GeneralQuestion)


def _load(
    path: Path, kind: type[_Row], fault: Callable[[_Row], str | None], identity: Callable[[_Row], str]
) -> tuple[_Row, ...]:
    decoder = msgspec.json.Decoder(kind)
    rows: list[_Row] = []
    first_seen: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        where = f"{path.name}, line {number}"
        if not line.strip():
            raise DemoDataError(f"{where}: the line is empty")
        try:
            row = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DemoDataError(f"{where}: {error}") from error
        if (problem := fault(row)) is not None:
            raise DemoDataError(f"{where}: {problem}")
        name = identity(row)
        if name in first_seen:
            raise DemoDataError(f"{where}: {name!r} stands already on line {first_seen[name]}")
        first_seen[name] = number
        rows.append(row)
    if not rows:
        raise DemoDataError(f"{path.name}: the file holds no line")
    return tuple(rows)


def _fact_fault(fact: Fact) -> str | None:
    blank = _blank(("id", fact.id), ("law", fact.law), ("article", fact.article), ("term", fact.term))
    if blank is not None:
        return blank
    return _wording_fault("en", fact.en) or _wording_fault("zh", fact.zh)


def _wording_fault(language: Language, wording: Wording) -> str | None:
    if len(wording.rewordings) != TRAINED_REWORDINGS:
        return f"{language}.rewordings must have {TRAINED_REWORDINGS} entries, not {len(wording.rewordings)}"
    if len(wording.held_out) != HELD_OUT_REWORDINGS:
        return f"{language}.held_out must have {HELD_OUT_REWORDINGS} entries, not {len(wording.held_out)}"
    texts = [(f"{language}.question", text) for text in wording.all_questions]
    return _blank(*texts) or _answer_fault(wording.answer, wording.keys, f"{language}.")


def _general_fault(question: GeneralQuestion) -> str | None:
    blank = _blank(("id", question.id), ("question", question.question))
    return blank or _answer_fault(question.answer, question.keys, "")


def _answer_fault(answer: str, keys: tuple[str, ...], prefix: str) -> str | None:
    if not keys:
        return f"{prefix}keys must name at least one accepted key"
    blank = _blank((f"{prefix}answer", answer), *((f"{prefix}keys", key) for key in keys))
    if blank is not None:
        return blank
    if not any(key.casefold() in answer.casefold() for key in keys):
        return f"{prefix}answer holds none of its keys"
    return None


def _blank(*fields: tuple[str, str]) -> str | None:
    for name, text in fields:
        if not text.strip():
            return f"{name} is blank"
        if text != text.strip():
            return f"{name} begins or ends with a space"
    return None
