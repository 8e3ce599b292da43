"""Fit the calibration that recall begins with to the demo's wordings, and say how it does on those held out.

`python -m tests.bench.recall_fit` prints JSON: the fit, and for every kind, language and number of memories and wordings what part
of the held-out wordings finds its memory first and within three, and keeps it above `least`; and what part recalls something of the
questions outside, and of those whose own memory is left out.
"""

import sys
from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from deploy.demo.domain import Language
from tests.bench.recall_memory import FACTS, OUTSIDE, correction, passage_of, passages
from workers.recall.calibration import DEFAULT, Calibration, Case, Kind, best_score, cases_of, fit, probabilities
from workers.recall.encoder import sentence_encoder
from workers.recall.index import Index, Memory, texts_of

LANGUAGES: tuple[Language, ...] = ("en", "zh")
CORRECTIONS = (12, 48, 129)
WORDINGS = (1, 2, 4)
PASSAGES = (200, 2_000)  # those that facts rest on first
LAWFUL = 6  # so many of the last Chinese questions outside are of law: some statute answers them


class Rates(Struct, frozen=True):
    kind: Kind
    language: Language
    memories: int
    wordings: int
    first: float
    within_three: float
    within_three_and_least: float
    outside_recalled: float
    neighbours_recalled: float  # of questions whose own memory is left out


class Fit(Struct, frozen=True):
    calibration: Calibration
    rates: tuple[Rates, ...]


class Once:
    """An encoder that embeds no text twice."""

    def __init__(self) -> None:
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, sentence_encoder().embed(new), strict=True))
        return np.array([self._known[text] for text in texts])


class Setting(Struct, frozen=True):
    """A memory, and what is asked of it: questions with the id of their right memory."""

    kind: Kind
    language: Language
    wordings: int
    memories: tuple[Memory, ...]
    trained: tuple[tuple[str, str], ...]
    held_out: tuple[tuple[str, str], ...]
    outside: tuple[str, ...]

    def index(self, encoder: Once) -> Index:
        index = Index(sentence_encoder().dims)
        index.put_all(self.memories, [encoder.embed(texts_of(memory)) for memory in self.memories])
        return index


def settings() -> list[Setting]:
    made = []
    for language in LANGUAGES:
        for number in CORRECTIONS:
            for wordings in WORDINGS:
                facts = FACTS[:number]
                memories = tuple(correction(fact, language, wordings) for fact in facts)
                pairs = list(zip(facts, memories, strict=True))
                # Of a memory in one wording the next one is asked too.
                trained = [(q, m.id) for f, m in pairs for q in f.wording(language).trained[: max(wordings, 2)]]
                held_out = [(q, m.id) for f, m in pairs for q in f.wording(language).held_out]
                made.append(
                    Setting(
                        "correction", language, wordings, memories, tuple(trained), tuple(held_out), OUTSIDE[language]
                    )
                )
        outside = OUTSIDE["en"][::8] if language == "en" else OUTSIDE["zh"][:-LAWFUL]
        for number in PASSAGES:
            memories = tuple(statutes()[:number])
            ids = {memory.id for memory in memories}
            facts = tuple(fact for fact in FACTS if passage_of(fact) in ids)
            trained = [(q, passage_of(f)) for f in facts for q in f.wording(language).trained]
            held_out = [(q, passage_of(f)) for f in facts for q in f.wording(language).held_out]
            made.append(Setting("passage", language, 0, memories, tuple(trained), tuple(held_out), outside))
    return made


@cache
def statutes() -> list[Memory]:
    return passages()


def main() -> int:
    encoder, cases = Once(), list[Case]()
    asked = [(setting, setting.index(encoder)) for setting in settings()]
    for setting, index in asked:
        cases += cases_of(index, encoder, setting.trained, setting.outside)
    calibration = fit(cases, DEFAULT)
    rates = tuple(_rates(setting, index, encoder, calibration) for setting, index in asked)
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(Fit(calibration, rates)), indent=1) + b"\n")
    return 0


def _rates(setting: Setting, index: Index, encoder: Once, calibration: Calibration) -> Rates:
    weights, kind = calibration.of(setting.kind), setting.kind
    places, kept, neighbours, outside = [], [], [], []
    for question, right in setting.held_out:
        vector = encoder.embed([question])[0]
        found = index.candidates(question, vector, kind)
        scores = dict(zip(found.ids, probabilities(weights, found).tolist(), strict=True))
        mine = scores.get(right, -1.0)
        places.append(sum(score > mine for score in scores.values()))
        kept.append(places[-1] < 3 and mine >= weights.least)
        others = index.candidates(question, vector, kind, without=frozenset({right}))
        neighbours.append(best_score(weights, Case(kind, others, None, False)) >= weights.least)
    for question in setting.outside:
        found = index.candidates(question, encoder.embed([question])[0], kind)
        outside.append(best_score(weights, Case(kind, found, None, True)) >= weights.least)
    place = np.array(places)
    shares = [place == 0, place < 3, kept, outside, neighbours]
    first, within, least, away, near = (round(float(np.mean(share)), 3) for share in shares)
    return Rates(kind, setting.language, len(setting.memories), setting.wordings, first, within, least, away, near)


if __name__ == "__main__":
    raise SystemExit(main())
