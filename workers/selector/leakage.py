"""The step `leakage`: nothing that the exam asks is learned."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from streams.alike import Words, words_of
from streams.personal import masked
from streams.selection import Leakage
from workers.selector.candidates import Decision, Instruments, OpenExample, Vectors

IN_THE_EXAM = "its question stands in the exam"
NEAR_THE_EXAM = "its question is nearly one of the exam's"
GRAM = 3  # words; of a script without spaces, letters
_WITHOUT_SPACES = "\u2e80", "\uffff"  # Chinese, Japanese: \w+ takes a whole sentence there for one word


def judge(step: Leakage, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]:
    """`number`: the share of trigrams or the cosine by which it was found, 1 for the same; `neighbour`: the exam's question."""
    guard = Guard(step, instruments)
    vectors = instruments.question_vectors(candidates) if step.cosine is not None else None
    found = guard.leaks([candidate.question for candidate in candidates], vectors)
    return [
        Decision(candidate.example_id, True) if leak is None else Decision(candidate.example_id, False, *leak)
        for candidate, leak in zip(candidates, found, strict=True)
    ]


Leak = tuple[str, float, str]
"""The reason, by which number, and next to which question of the exam."""


class Guard:
    """Knows the exam, and what of it stands in a question."""

    def __init__(self, step: Leakage, instruments: Instruments) -> None:
        self._step, self._instruments = step, instruments
        # Two that differ in nothing but what is masked are asked, and learned, as one.
        exam = {item: masked(question, instruments.mask)[0] for item, question in instruments.exam.items()}
        self._items = list(exam)
        self._same: dict[Words, str] = {}
        for item, question in exam.items():
            self._same.setdefault(words_of(question), item)
        self._grams = _Grams(exam) if step.overlap is not None else None
        self._vectors: Vectors | None = None
        if step.cosine is not None and self._items:
            self._vectors = instruments.embed(list(exam.values()))

    def leaks(self, questions: Sequence[str], vectors: Vectors | None = None) -> list[Leak | None]:
        """Of each question what of the exam stands in it, None: nothing. `vectors`: of the questions, where they are known."""
        found = [self._by_words(masked(question, self._instruments.mask)[0]) for question in questions]
        if self._vectors is None or not len(questions):
            return found
        assert self._step.cosine is not None
        vectors = self._instruments.embed(questions) if vectors is None else vectors
        for start in range(0, len(questions), 4096):
            near = vectors[start : start + 4096] @ self._vectors.T
            for place, (item, cosine) in enumerate(zip(near.argmax(axis=1), near.max(axis=1), strict=True), start):
                if found[place] is None and cosine >= self._step.cosine:
                    found[place] = (NEAR_THE_EXAM, round(float(cosine), 4), self._items[item])
        return found

    def _by_words(self, question: str) -> Leak | None:
        same = self._same.get(words_of(question))
        if same is not None:
            return IN_THE_EXAM, 1.0, same
        if self._grams is None:
            return None
        assert self._step.overlap is not None
        share, item = self._grams.largest(question)
        return (NEAR_THE_EXAM, round(share, 4), item) if share >= self._step.overlap else None


class _Grams:
    """By trigram: in which questions of the exam it stands, so that a question is compared with those alone that share one."""

    def __init__(self, exam: Mapping[str, str]) -> None:
        self._items: dict[Words, list[str]] = {}
        self._of: dict[str, int] = {}
        for item, question in exam.items():
            grams = set(grams_of(question))
            self._of[item] = len(grams)
            for gram in grams:
                self._items.setdefault(gram, []).append(item)

    def largest(self, question: str) -> tuple[float, str]:
        """The largest share of an exam question's trigrams that stand in this one, and which that is."""
        shared = Counter(item for gram in set(grams_of(question)) for item in self._items.get(gram, ()))
        return max(((count / self._of[item], item) for item, count in shared.items()), default=(0.0, ""))


def grams_of(text: str) -> Iterator[Words]:
    """Of a text with fewer words than a trigram has: all of them, as one."""
    first, last = _WITHOUT_SPACES
    units = [unit for word in words_of(text) for unit in (word if first <= word[0] <= last else (word,))]
    if not units:
        return iter(())
    return (tuple(units[at : at + GRAM]) for at in range(max(1, len(units) - GRAM + 1)))
