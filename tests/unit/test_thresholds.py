"""From which score on a memory is good enough, told from what an exam's questions recalled."""

import pytest

from api.thresholds import THRESHOLDS, Asked, lowest, row, share, table


def asked(*pairs: tuple[float, bool], held: bool = True) -> Asked:
    return Asked(tuple(score for score, _ in pairs), tuple(right for _, right in pairs), held)


HELD_OUT = [
    asked((0.9, True), (0.1, False)),
    asked((0.8, False), (0.3, True)),
    asked((0.2, True)),
    asked((0.7, False)),
    asked(),
    asked((0.95, False), held=False),
]


@pytest.mark.parametrize(
    ("least", "first", "within"), [(0.0, 2, 3), (0.2, 2, 3), (0.25, 1, 2), (0.35, 1, 1), (0.9, 1, 1), (0.95, 0, 0)]
)
def test_a_right_memory_counts_from_its_own_score_on_and_first_only_where_nothing_is_before_it(
    least: float, first: int, within: int
) -> None:
    found = row(least, HELD_OUT, [])
    assert (found.first.k, found.within.k) == (first, within)


def test_a_question_that_no_memory_answers_is_in_no_share() -> None:
    assert row(0.0, HELD_OUT, []).first.n == row(0.0, HELD_OUT, []).within.n == 5
    found = table(HELD_OUT, [], HELD_OUT, [])
    assert (found.held_out, found.unanswerable) == (6, 1)


def test_a_general_question_counts_where_its_best_memory_reaches_the_threshold() -> None:
    general = [Asked((0.4, 0.2), (False, False)), Asked((0.1,), (False,)), Asked(())]
    assert [row(least, [], general).general.k for least in (0.0, 0.1, 0.11, 0.4, 0.41)] == [2, 2, 1, 1, 0]


@pytest.mark.parametrize(
    ("questions", "recalling", "least"),
    [
        (49, [0.5, 0.3], 0.5001),  # not even one of fewer than fifty is within 2 %
        (50, [0.5, 0.3], 0.3001),
        (100, [0.5, 0.3, 0.2, 0.1], 0.2001),
        (100, [0.5, 0.3], 0.0),  # so few recall anything that no threshold is needed
        (50, [0.5, 0.5, 0.5], 0.5001),  # equals go together
        (50, [1.0, 1.0], None),  # one that is certain is above every threshold
    ],
)
def test_the_least_is_the_lowest_at_which_at_most_two_in_a_hundred_recall_something(
    questions: int, recalling: list[float], least: float | None
) -> None:
    general = [Asked((score,), (False,)) for score in recalling] + [Asked(())] * (questions - len(recalling))
    assert lowest(general) == least
    if least:
        assert row(least, [], general).general.k <= 0.02 * questions < row(least - 0.0001, [], general).general.k


def test_what_a_proposal_costs_are_the_questions_that_had_recalled_what_is_right() -> None:
    general = [Asked((0.25,), (False,))] + [Asked(())] * 9
    found = table(HELD_OUT, general, HELD_OUT[:1], general)
    assert found.proposal is not None and found.proposal.row.least == 0.2501
    assert (found.proposal.row.within.k, found.proposal.lost) == (2, 1)
    assert (found.now.within.k, found.now.within.n) == (1, 1)
    assert [one.least for one in found.rows] == list(THRESHOLDS) and THRESHOLDS[0] == 0.05 and THRESHOLDS[-1] == 0.95


def test_without_a_general_question_nothing_is_proposed() -> None:
    found = table(HELD_OUT, [], HELD_OUT, [])
    assert found.proposal is None and not found.enough


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    for k, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = share(k, n)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert (share(0, 0).low, share(0, 0).high, share(7, 7).high) == (0.0, 1.0, 1.0)


def test_so_few_general_questions_that_none_of_them_would_show_it_are_too_few() -> None:
    found = table([], [Asked(())] * 188, [], [])
    assert (found.enough, found.wanted) == (False, 189)
    assert share(0, 188).high > 0.02 >= share(0, 189).high
    assert table([], [Asked(())] * 189, [], []).enough
