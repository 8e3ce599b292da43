"""The builder `rewordings`: accepted examples as others ask them, from people's prompts on the log and from the teacher.

Whether a prompt asks what an example asks is told by the search that recall has, and by its calibration: a score is the
probability that this example is the right one, among all that are accepted and none. Measured on the demo's wordings (129
facts known by one wording each, asked for in five others, and 200 English and 60 Chinese questions that none of them answers): of
those above `SURE` 98 of 100 ask what they were taken for, in either language; of those above `UNSURE` 91 and 94. Between the two
a proposal is marked as unsure. People say yes or no to both.

A wording of a person's stays sealed with that person's key, and the answer with that of whoever gave it: when one of the two
is erased, the proposal and what was accepted of it open no more. People's words go to no teacher: it words the domain's own
examples only.
"""

import re
from collections.abc import Iterator, Sequence

from streams.alike import words_of
from streams.facts.material import ProposalKind, Source
from streams.syllogisms import is_chinese
from workers.builder.grounded import ungrounded
from workers.builder.material import Accepted, Asked, Dropped, Made, Material, Proposed, Step
from workers.builder.teacher import Desk, Sampling

SURE, UNSURE = 0.7, 0.3
ELSE = "it asks for nothing that is accepted"
ANOTHER = "it asks for something else than its example"
ADDS = "it holds what its example does not"
SAME = "its words are those of an example"
NO_WORDINGS = "no wordings could be read from the teacher's answer"
_WORD = {
    False: (
        "Question:\n{question}\n\nAsk the same in three other ways, as different people would. Keep every number and name. One a"
        " line, numbered; write nothing else."
    ),
    True: "问题：\n{question}\n\n请像不同的人那样，用三种别的说法问同一个问题。保留所有数字和名称。每行一个，编号；不写别的。",
}
_LISTED = re.compile(r"^\s*\d+\s*[.、)）．]\s*(\S.*?)\s*$", re.M)
_DRAWN = Sampling(temperature=0.7)


def build(material: Material, desk: Desk) -> Iterator[Made]:
    examples = material.accepted()
    if not examples:
        return
    search = _Search(examples)
    known = {words_of(one.question) for one in examples}
    prompts = material.prompts()
    own = [one for one in examples if one.own] if desk.teacher else []
    total = len(prompts) + len(own)
    for done, prompt in enumerate(prompts, 1):
        words = words_of(prompt.question)
        if words not in known:
            made = _of_a_person(prompt, search)
            if isinstance(made, Proposed):
                known.add(words)
            yield made
        yield Step(done, total)
    asked = ((one, _WORD[is_chinese(one.question)].format(question=one.question)) for one in own)
    for done, (one, said) in enumerate(desk.ask_all(asked, _DRAWN), len(prompts) + 1):
        wordings = _LISTED.findall(said.text)
        if not wordings:
            yield Dropped(said.fault or NO_WORDINGS)
        for wording in wordings:
            yield _of_the_teacher(one, wording, words_of(wording) in known, search)
            known.add(words_of(wording))
        yield Step(done, total)


class _Search:
    def __init__(self, examples: Sequence[Accepted]) -> None:
        # Not before: what it stands on takes a second and 60 MB.
        from workers.recall.encoder import sentence_encoder
        from workers.recall.index import Index, Memory, texts_of

        self._examples = {one.id: one for one in examples}
        self._encoder = sentence_encoder()
        self._index = Index(self._encoder.dims)
        memories = [Memory(one.id, "correction", (one.question,), one.answer) for one in examples]
        vectors = [self._encoder.embed(texts_of(memory)) for memory in memories]
        self._index.put_all(memories, vectors)

    def nearest(self, question: str) -> tuple[Accepted, float] | None:
        (vector,) = self._encoder.embed([question])
        hits = self._index.search(question, vector, 1, frozenset({"correction"}))
        return (self._examples[hits[0].id], hits[0].score) if hits and hits[0].score >= UNSURE else None


def _kind(score: float) -> ProposalKind:
    return "rewording" if score >= SURE else "unsure_rewording"


def _of_a_person(prompt: Asked, search: _Search) -> Made:
    found = search.nearest(prompt.question)
    if found is None or found[0].person == prompt.person:
        return Dropped(ELSE)
    one, score = found
    sources = (Source("example", one.id), Source("prompt", prompt.id))
    return Proposed(_kind(score), sources, prompt.question, one.answer, kids=(prompt.kid, one.answer_kid))


def _of_the_teacher(one: Accepted, wording: str, known: bool, search: _Search) -> Made:
    if known:
        return Dropped(SAME)
    if ungrounded(wording, f"{one.question}\n{one.answer}") is not None:
        return Dropped(ADDS)
    found = search.nearest(wording)
    if found is None or found[0] is not one:
        return Dropped(ANOTHER)
    return Proposed(_kind(found[1]), (Source("example", one.id),), wording, one.answer)
