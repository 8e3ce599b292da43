"""The builder `self-kg`: questions and answers from the facts of a knowledge graph, by templates in both languages; no model.

One hop asks a fact for its object. Two hops join facts on the entity that they share, as GraphGen does (arXiv 2505.20416): the
object of the first is the subject of the second. Where several facts have one subject and one predicate, the answer names all their
objects, so that no two answers to one question disagree. A predicate is a noun phrase (`speed limit`, 最高时速); `maxSpeed` and
`max_speed` are read as words.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from streams.alike import words_of
from streams.facts.material import Source
from streams.syllogisms import is_chinese
from workers.builder.material import Made, Material, Proposed, Step, Triple
from workers.builder.teacher import Desk

MOST_JOINED = 20  # second facts of one first: an entity that everything leads to would join everything with everything
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class _Fact(Struct, frozen=True):
    """All objects of one subject and predicate."""

    subject: str
    predicate: str
    objects: tuple[str, ...]
    sources: tuple[Source, ...]


def build(material: Material, desk: Desk) -> Iterator[Made]:
    facts = _facts(material.triples())
    of_subject: dict[tuple[str, ...], list[_Fact]] = {}
    for fact in facts:
        of_subject.setdefault(words_of(fact.subject), []).append(fact)
    for done, fact in enumerate(facts, 1):
        yield _one_hop(fact)
        # Of several objects it would not be said which one is meant.
        if len(fact.objects) == 1:
            for second in of_subject.get(words_of(fact.objects[0]), ())[:MOST_JOINED]:
                if words_of(fact.subject) not in {words_of(second.subject), *map(words_of, second.objects)}:
                    yield _two_hops(fact, second)
        yield Step(done, len(facts))


def _facts(triples: Sequence[Triple]) -> list[_Fact]:
    grouped: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Triple]] = {}
    for triple in triples:
        grouped.setdefault((words_of(triple.subject), words_of(_phrase(triple.predicate))), []).append(triple)
    return [
        _Fact(
            subject=group[0].subject,
            predicate=_phrase(group[0].predicate),
            objects=_different(one.object for one in group),
            sources=tuple(Source("triple", one.id) for one in group),
        )
        for group in grouped.values()
    ]


def _different(objects: Iterable[str]) -> tuple[str, ...]:
    """Each as it was written first."""
    found: dict[tuple[str, ...], str] = {}
    for one in objects:
        found.setdefault(words_of(one), one)
    return tuple(found.values())


def _one_hop(fact: _Fact) -> Proposed:
    s, p = fact.subject, fact.predicate
    if is_chinese(s + p):
        asked, answered = f"{s}的{p}是什么？", f"{s}的{p}是{_and(fact.objects, zh=True)}。"
    else:
        asked, answered = f"What is the {p} of {s}?", f"The {p} of {s} is {_and(fact.objects)}."
    return Proposed("fact", fact.sources, asked, answered)


def _two_hops(first: _Fact, second: _Fact) -> Proposed:
    s, p, between, q = first.subject, first.predicate, first.objects[0], second.predicate
    if is_chinese(s + p + q):
        asked = f"{s}的{p}的{q}是什么？"
        answered = f"{s}的{p}是{between}，{between}的{q}是{_and(second.objects, zh=True)}。"
    else:
        asked = f"What is the {q} of the {p} of {s}?"
        answered = f"The {p} of {s} is {between}, and the {q} of {between} is {_and(second.objects)}."
    return Proposed("two_hops", (*first.sources, *second.sources), asked, answered)


def _and(objects: Sequence[str], zh: bool = False) -> str:
    if len(objects) == 1:
        return objects[0]
    comma, last = ("、", "和") if zh else (", ", " and ")
    return f"{comma.join(objects[:-1])}{last}{objects[-1]}"


def _phrase(predicate: str) -> str:
    """`maxSpeed`, `max_speed` and `max speed` alike."""
    return " ".join(_CAMEL.sub(" ", predicate).replace("_", " ").split()) if predicate.isascii() else predicate
