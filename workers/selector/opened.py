"""The examples and exam of a domain, opened: what a round may learn from, and what it recalls, begins with the same."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from streams.alike import words_of
from streams.errors import Erased, Invalid
from streams.history import Before, Whole
from streams.reading.learning import AskedInVain, ExamItem, Example
from streams.sealing import Keys, open_sealed
from streams.snapshots import Line, Opened, open_prompt
from workers.recall.encoder import sentence_encoder
from workers.selector.candidates import OpenExample
from workers.selector.leakage import IN_THE_EXAM
from workers.selector.wordings import Asked, same_question

OPENED = "opened"  # what comes before every step
ERASED = "erased"
UNREADABLE = "no conversation that can be read"
Words = tuple[str, ...]


class OpenedExamples(Struct, frozen=True):
    """By example, and in their order. Lives in memory only. `dropped`: those that cannot be learned from, whatever others say."""

    wholes: Mapping[str, Whole]
    prompts: Mapping[str, Opened]
    candidates: Sequence[OpenExample]
    dropped: Sequence[Line]

    def __repr__(self) -> str:
        return "OpenedExamples(sealed)"


def open_exam(items: Iterable[ExamItem], keys: Keys) -> dict[str, str]:
    """The questions of the exam, by item. One of an erased domain key cannot be asked any more either."""
    questions = {}
    for item in items:
        try:
            questions[item.item_id] = str(json.loads(open_sealed(item.item, keys))["question"])
        except Erased:
            continue
    return questions


def open_examples(
    examples: Sequence[Example],
    earlier: Before,
    forbidden: frozenset[Words],
    keys: Keys,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> OpenedExamples:
    """`forbidden`: the words of questions that nothing is learned from. `tell(done, all)` reports."""
    wholes: dict[str, Whole] = {}
    prompts: dict[str, Opened] = {}
    candidates, dropped = [], []
    for done, row in enumerate(examples):
        tell(done, len(examples))
        try:
            whole = earlier.whole(row.prompt, row.follows)
            found = open_prompt(whole, keys)
            words = open_sealed(row.answer, keys)
        except Erased:
            dropped.append(Line(row.example_id, "example", False, OPENED, reason=ERASED))
            continue
        except Invalid:
            dropped.append(Line(row.example_id, "example", False, OPENED, reason=UNREADABLE))
            continue
        if words_of(found.question) in forbidden:
            dropped.append(Line(row.example_id, "example", False, OPENED, reason=IN_THE_EXAM))
            continue
        prompts[row.example_id], wholes[row.example_id] = found, whole
        candidates.append(
            OpenExample(
                example_id=row.example_id,
                person=row.person,
                question=found.question,
                context=found.context,
                answer=words,
                said_at=row.said_at,
                learned=row.learned,
                source="generated" if row.generated else row.kind,
                confirmed=row.confirmed,
            )
        )
    return OpenedExamples(wholes, prompts, candidates, dropped)


class Wording(Struct, frozen=True):
    whole: Whole
    prompt: Opened


def other_wordings(
    kept: Mapping[str, Opened],
    in_vain: Iterable[AskedInVain],
    earlier: Before,
    keys: Keys,
    usable: Callable[[str, Opened], bool],
) -> dict[str, tuple[Wording, ...]]:
    """By example: the prompts that asked the same in other words, of those that are `usable` for it."""
    others: dict[str, list[Asked]] = {}
    found: dict[str, Wording] = {}
    for row in in_vain:
        if row.example_id not in kept:
            continue
        try:
            whole = earlier.whole(row.messages, row.follows)
            prompt = open_prompt(whole, keys)
        except (Erased, Invalid):
            continue
        if usable(row.example_id, prompt):
            found[row.prompt_id] = Wording(whole, prompt)
            others.setdefault(row.example_id, []).append(Asked(row.prompt_id, prompt.question))
    asked = [*(prompt for prompts in others.values() for prompt in prompts)]
    asked += [Asked(example_id, kept[example_id].question) for example_id in others]
    if not asked:
        return {}
    vectors = dict(zip((a.id for a in asked), sentence_encoder().embed([a.question for a in asked]), strict=True))
    return {
        example_id: tuple(
            found[prompt_id]
            for prompt_id in same_question(Asked(example_id, kept[example_id].question), prompts, vectors)
        )
        for example_id, prompts in others.items()
    }
