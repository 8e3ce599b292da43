"""What a candidate is asked: new and earlier fixes, the exam, or the skill of an opening round; and all of it as it is served.

Personal data of the kinds that `mask` names is masked in all of it, as in what was learned: a candidate that knows no number is not
asked for one.
"""

import json
from collections.abc import Collection, Sequence

from msgspec import Struct

from streams.errors import Erased
from streams.gate import EARLIER, FIXES, SERVED, SKILL
from streams.history import open_question
from streams.personal import masked
from streams.reading.learning import exam_as_of
from streams.recalled import Recall
from streams.sealed import Sealed
from streams.sealing import Keys, common_digest, digest, domain_subject, open_sealed
from streams.snapshots import Snapshot
from streams.store import postgres_trouble
from workers.context import Context
from workers.evaluator.opencompass import ExamItem
from workers.recall.as_of import AsOf
from workers.trainer.opening import skill_exam


class Question(Struct, frozen=True):
    """An exam item with who it belongs to."""

    item: ExamItem
    fingerprint: str
    kids: tuple[str, ...]  # of the keys that its words were sealed with; the last seals what a model answers, too

    def __repr__(self) -> str:
        return f"Question({self.item.id})"


def fix(
    example_id: str, prompt: Sealed, answer: Sealed, keys: Keys, mask: Collection[str] = (), name: str = FIXES
) -> Question | None:
    """A correction as a question; None if its person was erased."""
    try:
        question = masked(open_question(prompt, keys), mask)[0]
        words = masked(open_sealed(answer, keys), mask)[0]
        fingerprint = digest(_canonical(question, words, ()), keys.find(answer.kid))
    except Erased:
        return None
    item = ExamItem(id=example_id, set=name, question=question, answer=words, keys=())
    return Question(item, fingerprint, (prompt.kid, answer.kid))


def of_snapshot(snapshot: Snapshot, keys: Keys) -> list[Question]:
    """New and earlier fixes."""
    names = {"new": FIXES, "earlier": EARLIER}
    found = [
        fix(row.example_id, row.prompt[-1].sealed, row.answer, keys, snapshot.mask, names[row.role])
        for row in snapshot.rows
    ]
    return [question for question in found if question is not None]


def of_exam(domain: str, pin: int | None, context: Context, mask: Collection[str] = ()) -> list[Question]:
    """Held-out and general questions in force, as of the pin if there is one."""
    with postgres_trouble(), context.database.connect() as connection:
        items = exam_as_of(connection, domain, pin)
    found = []
    for item in items:
        try:
            opened = json.loads(open_sealed(item.item, context.keyring))
        except Erased:
            continue
        asked, answer = (masked(str(opened[name]), mask)[0] for name in ("question", "answer"))
        keys = tuple(masked(str(key), mask)[0] for key in opened["keys"])
        fingerprint = common_digest(_canonical(asked, answer, keys), context.keyring)
        exam_item = ExamItem(id=item.item_id, set=item.kind, question=asked, answer=answer, keys=keys)
        found.append(Question(exam_item, fingerprint, (item.item.kid,)))
    return found


def of_skill(domain: str, keys: Keys) -> list[Question]:
    """Our own questions, whether a model uses what is recalled. What it answers is sealed with the domain's key."""
    kid = keys.key_for(domain_subject(domain)).kid
    return [
        Question(
            ExamItem(id=f"skill-{number}", set=SKILL, question=item.asked, answer=item.answer, keys=item.keys),
            common_digest(_canonical(item.asked, item.answer, item.keys), keys),
            (kid,),
        )
        for number, item in enumerate(skill_exam())
    ]


def as_served(
    bare: Sequence[Question], memory: AsOf, recall: Recall, keys: Keys, mask: Collection[str] = ()
) -> dict[int, Question]:
    """By place: those of the bare questions for which something of the memory is recalled, behind that. A fix is asked with its own
    correction in the memory, as people are answered; the exam's questions are not in it. Raises Cancelled."""
    asked = [number for number, question in enumerate(bare) if question.item.set in SERVED]
    found = {}
    for number, ids in zip(asked, memory.recall([bare[number].item.question for number in asked], recall), strict=True):
        if not ids:
            continue
        served = _behind(bare[number], ids, memory, keys, mask)
        if served is not None:
            found[number] = served
    return found


def _behind(
    question: Question, ids: Sequence[str], memory: AsOf, keys: Keys, mask: Collection[str] = ()
) -> Question | None:
    """None if somebody was erased a moment ago whose words are in it.

    The fingerprint is keyed by every key of what is recalled in turn: with one of them gone, no guess at those words can be
    confirmed, whoever asked."""
    item, sealed = question.item, [memory.sealed(id) for id in ids]
    kids = sorted({kid for one in sealed for kid in one.kids})
    asked = masked(memory.asked(item.question, ids), mask)[0]
    known = json.dumps([question.fingerprint, asked])
    try:
        for kid in kids:
            known = digest(known.encode(), keys.find(kid))
    except Erased:
        return None
    served = ExamItem(id=item.id, set=SERVED[item.set], question=asked, answer=item.answer, keys=item.keys)
    return Question(served, common_digest(known.encode(), keys), (*kids, *question.kids))


def _canonical(question: str, answer: str, keys: tuple[str, ...]) -> bytes:
    return json.dumps([question, answer, keys]).encode()
