"""Scores as probabilities: in bounds, monotone, the same whatever else there is to recall, and learned from pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.recall.calibration import (
    DEFAULT,
    Calibration,
    Candidates,
    Case,
    Kind,
    Weights,
    best_score,
    calibrate,
    fit,
    probabilities,
)

UNIT = st.floats(0, 1)
FOUND = st.lists(st.tuples(st.floats(-1, 1), UNIT, st.integers(0, 3)), min_size=1, max_size=8)
WEIGHTS = st.builds(Weights, st.floats(0, 60), st.floats(0, 60), st.floats(-3, 0), st.floats(-60, 60), UNIT)


def candidates(rows: list[tuple[float, float, int]]) -> Candidates:
    cosines, shares, same = (np.array(column) for column in zip(*rows, strict=True))
    texts = np.array([2 if row[2] == 3 else 1 for row in rows])
    return Candidates(tuple(f"m{n}" for n in range(len(rows))), cosines, shares, texts, same.astype(np.int64))


@given(WEIGHTS, FOUND)
def test_every_score_is_a_probability_and_those_of_texts_that_differ_sum_to_one_at_most(
    weights: Weights, rows: list[tuple[float, float, int]]
) -> None:
    scores = probabilities(weights, candidates(rows))
    assert np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()
    of_each_text = {text: score for (_, _, text), score in zip(rows, scores.tolist(), strict=True)}
    if len(of_each_text) == len(rows):
        assert sum(of_each_text.values()) <= 1 + 1e-9


@given(WEIGHTS, FOUND, UNIT, UNIT)
def test_a_memory_that_comes_nearer_never_scores_less_and_none_of_its_rivals_more(
    weights: Weights, rows: list[tuple[float, float, int]], nearer: float, more: float
) -> None:
    before = probabilities(weights, candidates(rows))
    cosine, share, text = rows[0]
    after = probabilities(weights, candidates([(cosine + nearer, share + more, text), *rows[1:]]))
    assert after[0] >= before[0] - 1e-9
    rivals = [n for n, row in enumerate(rows) if row[2] != text]
    assert (after[rivals] <= before[rivals] + 1e-9).all()


def test_of_equals_the_one_that_scores_higher_is_the_nearer_one_and_nothing_scores_without_candidates() -> None:
    scores = probabilities(DEFAULT.correction, candidates([(0.9, 0.5, 1), (0.6, 0.5, 2)]))
    assert scores[0] > 0.5 > scores[1]
    assert (
        len(
            probabilities(
                DEFAULT.passage, Candidates((), np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
            )
        )
        == 0
    )


def test_memories_that_say_the_same_do_not_take_each_others_chance() -> None:
    alone = probabilities(DEFAULT.correction, candidates([(0.9, 0.5, 1)]))
    twice = probabilities(DEFAULT.correction, candidates([(0.9, 0.5, 1), (0.9, 0.5, 1)]))
    rivals = probabilities(DEFAULT.correction, candidates([(0.9, 0.5, 1), (0.9, 0.5, 2)]))
    assert twice == pytest.approx([alone[0], alone[0]])
    assert rivals[0] < alone[0]


def drawn(truth: Weights, cases: int, kind: Kind = "correction") -> list[Case]:
    """Questions whose right memory is drawn by what the true weights say."""
    chance = np.random.default_rng(7)
    made = []
    for n in range(cases):
        found = Candidates(
            tuple(f"m{k}" for k in range(6)),
            chance.uniform(0, 1, 6),
            chance.uniform(0, 1, 6),
            chance.integers(1, 6, 6),
            np.arange(6),
        )
        odds = np.append(probabilities(truth, found), 0)
        odds[-1] = max(0.0, 1 - odds.sum())
        taken = int(chance.choice(7, p=odds / odds.sum()))
        made.append(Case(kind, found, None if taken == 6 else taken, taken == 6 and n % 2 == 0))
    return made


def test_the_weights_that_questions_were_drawn_by_are_found_again() -> None:
    truth = Weights(8.0, 4.0, -1.0, 8.5, 0.0)  # of which about half of the questions find nothing, as `fit` weighs them
    cases = drawn(truth, 4000)
    assert 0.4 < sum(case.right is None for case in cases) / len(cases) < 0.6
    found = fit(cases, DEFAULT)
    assert found.correction.cosine == pytest.approx(truth.cosine, rel=0.1)
    assert found.correction.words == pytest.approx(truth.words, rel=0.1)
    assert found.correction.none == pytest.approx(truth.none, abs=0.6)
    assert found.correction.texts == pytest.approx(truth.texts, abs=0.2)
    assert found.passage == DEFAULT.passage  # nothing was said about passages


def test_the_least_score_lets_through_one_outside_question_in_fifty() -> None:
    cases = drawn(Weights(8.0, 4.0, -1.0, 8.5, 0.0), 2000)
    found = fit(cases, DEFAULT)
    outside = [best_score(found.correction, case) for case in cases if case.outside]
    assert 0.01 < np.mean(np.array(outside) >= found.correction.least) < 0.03


def test_too_few_pairs_or_questions_outside_change_nothing() -> None:
    few = [case for case in drawn(Weights(8.0, 4.0, -1.0, 8.5, 0.0), 40) if not case.outside][:15]
    assert fit(few, DEFAULT) == DEFAULT
    assert fit([], DEFAULT) == DEFAULT


def test_where_words_mislead_they_are_not_followed() -> None:
    """A weight below nothing would let a memory score less for coming nearer."""
    found = fit(drawn(Weights(10.0, -6.0, 0.0, 6.0, 0.0), 1000), DEFAULT)
    assert found.correction.words == 0.0 and found.correction.cosine > 0


class OneFits:
    """An index that finds the memory of the question's number near and another far; what is left out is not found."""

    calibration: Calibration = DEFAULT

    def __init__(self) -> None:
        self.asked: list[tuple[str, frozenset[str], str | None]] = []

    def candidates(
        self,
        question: str,
        vector: object,
        kind: Kind,
        without: frozenset[str] = frozenset(),
        without_wording: str | None = None,
    ) -> Candidates:
        self.asked.append((question, without, without_wording))
        if kind == "passage":
            return Candidates((), np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
        number = int(question.split()[1])
        near = [("far", 0.3, 0.1, 1)] + ([(f"m{number}", 0.8, 0.6, 2)] if question.startswith("inside") else [])
        ids, cosines, shares, same = zip(*[row for row in near if row[0] not in without], strict=True)
        return Candidates(ids, np.array(cosines), np.array(shares), np.ones(len(ids)), np.array(same))


class Nothing:
    def embed(self, texts: object) -> np.ndarray:
        return np.zeros((len(list(texts)), 2), np.float32)  # type: ignore[call-overload]


def test_pairs_are_asked_with_their_own_wording_left_out_and_as_if_nobody_had_answered_yet() -> None:
    index = OneFits()
    pairs = [(f"inside {n}", f"m{n}") for n in range(30)]
    found = calibrate(index, Nothing(), [*pairs, ("inside 99", "of no such id")], [f"outside {n}" for n in range(30)])
    assert ("inside 3", frozenset(), "inside 3") in index.asked
    assert ("inside 3", frozenset({"m3"}), None) in index.asked
    assert ("outside 3", frozenset(), None) in index.asked
    near = probabilities(found.correction, candidates([(0.8, 0.6, 1), (0.3, 0.1, 2)]))
    assert near[0] > 0.9 and near[1] < 0.1 and found.correction.least < 0.1
