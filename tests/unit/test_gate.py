"""The gate: McNemar's exact test and Tango's bound against published numbers and against brute force; what ships, what is
refused, and what is neither."""

from itertools import product
from math import log, sqrt
from statistics import NormalDist
from typing import get_args

import pytest

from streams.errors import Invalid
from streams.gate import (
    EARLIER,
    FIXES,
    GENERAL,
    GENERAL_FIRST,
    HELD_OUT,
    PREFERENCE,
    REWARD_MODEL,
    SERVED,
    SKILL,
    Absent,
    Check,
    GateMargins,
    Means,
    Paired,
    judge,
    mcnemar,
    tango_lower,
)
from streams.hacking import FLATTERY, LANGUAGE, SIGNS, Sign
from streams.style import StyleRule, name_of
from tests import english

MARGINS = GateMargins()


def paired(n: int, only_before: int = 0, only_after: int = 0, both: int | None = None) -> Paired:
    both = n - only_before - only_after if both is None else both
    return Paired(n, both, only_before, only_after, n - both - only_before - only_after)


LEARNED = paired(10, only_after=10)
KEPT = paired(100)


def check(found: dict[str, Paired], name: str, margins: GateMargins = MARGINS) -> Check:
    return next(check for check in judge(found, margins).checks if check.name == name)


# McNemar


@pytest.mark.parametrize(
    ("only_before", "only_after", "expected"),
    [
        (0, 0, 1.0),
        (0, 5, 0.0625),
        (0, 6, 0.03125),
        (1, 7, 0.0703125),  # Bentur et al. 2009 (airway hyper-responsiveness), in Fagerland et al. 2013: 0.0703
        (9, 3, 0.14599609375),
        (10, 10, 1.0),
        (1, 1, 1.0),
        (0, 2000, 0.0),
    ],
)
def test_mcnemars_exact_p_value_is_the_published_one(only_before: int, only_after: int, expected: float) -> None:
    assert mcnemar(only_before, only_after) == pytest.approx(expected, abs=1e-12)


def test_mcnemars_exact_p_value_is_there_at_once_for_the_largest_exam() -> None:
    assert mcnemar(50_000, 50_000) == 1.0 and mcnemar(0, 100_000) == 0.0


@pytest.mark.parametrize("changed", range(11))
def test_mcnemars_exact_p_value_is_what_counting_every_outcome_gives(changed: int) -> None:
    outcomes = [sum(coins) for coins in product((0, 1), repeat=changed)]
    for only_before in range(changed + 1):
        distance = abs(2 * only_before - changed)
        as_far = sum(abs(2 * outcome - changed) >= distance for outcome in outcomes)
        assert mcnemar(only_before, changed - only_before) == pytest.approx(as_far / len(outcomes))


# Tango


def two_sided(found: Paired, alpha: float = 0.05) -> tuple[float, float]:
    swapped = Paired(found.n, found.both, found.only_after, found.only_before, found.neither)
    return tango_lower(found, alpha / 2), -tango_lower(swapped, alpha / 2)


def test_tangos_interval_is_the_published_one() -> None:
    """Fagerland, Lydersen and Laake (2013), table of intervals for Bentur et al. 2009: (-0.517, -0.026)."""
    lower, upper = two_sided(Paired(n=21, both=1, only_before=7, only_after=1, neither=12))
    assert (round(lower, 3), round(upper, 3)) == (-0.517, -0.026)


def likelihood(before: int, after: int, rest: int, share: float, change: float) -> float:
    """Of a share of "only before", when the share of "only after" is `change` more."""
    parts = ((before, share), (after, share + change), (rest, 1 - 2 * share - change))
    return sum(count * log(p) if count else 0.0 for count, p in parts)


def brute_score(found: Paired, change: float) -> float:
    """The score statistic with the likelihood maximised by search, not by the closed form."""
    low, high = max(0.0, -change) + 1e-12, (1 - change) / 2 - 1e-12
    rest = found.both + found.neither
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if likelihood(found.only_before, found.only_after, rest, left, change) < likelihood(
            found.only_before, found.only_after, rest, right, change
        ):
            low = left
        else:
            high = right
    share = (low + high) / 2
    variance = found.n * (2 * share + change - change * change)
    return (found.only_after - found.only_before - found.n * change) / sqrt(variance)


@pytest.mark.parametrize(
    "found",
    [
        paired(21, 7, 1),
        paired(44, 1, 0),
        paired(160, 20, 40),
        paired(30),
        paired(30, 0, 12),
        paired(12, 5, 5),
        paired(9, 4, 4),
        paired(400, 11, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_tangos_bound_is_where_the_score_test_found_by_search_turns(found: Paired, alpha: float) -> None:
    lower, wanted = tango_lower(found, alpha), NormalDist().inv_cdf(1 - alpha)
    assert brute_score(found, lower) == pytest.approx(wanted, abs=1e-3)
    assert brute_score(found, lower - 0.005) > wanted > brute_score(found, lower + 0.005)


def test_with_nothing_changed_the_bound_has_a_closed_form() -> None:
    """All kept of n: the bound is -z²/(n + z²), so that 25 questions can show a fall of less than ten in a hundred."""
    z2 = NormalDist().inv_cdf(0.95) ** 2
    for n in (1, 10, 24, 25, 300):
        assert tango_lower(paired(n), 0.05) == pytest.approx(-z2 / (n + z2), abs=1e-9)
    assert check({EARLIER: paired(24)}, EARLIER).verdict == "inconclusive"
    assert check({EARLIER: paired(25)}, EARLIER).verdict == "pass"


@pytest.mark.parametrize("found", [paired(0), paired(5, only_before=5), paired(1, only_before=1)], ids=str)
def test_where_everything_is_lost_or_nothing_was_asked_the_bound_is_the_whole_loss(found: Paired) -> None:
    assert tango_lower(found, 0.05) == pytest.approx(-1.0)


def test_what_was_right_neither_time_counts_as_unchanged_like_what_was_right_both_times() -> None:
    assert tango_lower(paired(40, 3, 2, both=0), 0.05) == tango_lower(paired(40, 3, 2), 0.05)


# Verdicts


def test_a_candidate_that_learned_the_fixes_and_kept_the_rest_ships() -> None:
    verdict = judge({FIXES: LEARNED, EARLIER: KEPT, HELD_OUT: paired(20, 1, 6), GENERAL: KEPT}, MARGINS)
    assert verdict.outcome == "ship" and english.verdict(verdict).startswith("shipped")
    assert [(c.name, c.verdict) for c in verdict.checks] == [
        (FIXES, "pass"),
        (EARLIER, "pass"),
        (HELD_OUT, "reported"),
        (GENERAL, "pass"),
    ]


def test_fixes_that_could_be_chance_are_inconclusive_and_do_not_ship() -> None:
    verdict = judge({FIXES: paired(5, only_after=5), EARLIER: KEPT, GENERAL: KEPT}, MARGINS)
    assert verdict.outcome == "inconclusive" and english.verdict(verdict).startswith("not shipped")
    assert "0 of 5 before, 5 of 5 after; p = 0.0625: could be chance" in english.verdict(verdict)


def test_fixes_that_got_worse_are_refused_however_significant() -> None:
    verdict = judge({FIXES: paired(10, only_before=10), EARLIER: KEPT, GENERAL: KEPT}, MARGINS)
    assert verdict.outcome == "refuse" and "fixes learned: 10 of 10 before, 0 of 10 after" in english.verdict(verdict)
    assert "worse than before" in english.verdict(verdict)


@pytest.mark.parametrize("name", [EARLIER, GENERAL])
def test_what_must_be_kept_and_is_certainly_lost_is_refused(name: str) -> None:
    found = {FIXES: LEARNED, EARLIER: KEPT, GENERAL: KEPT} | {name: paired(100, only_before=40)}
    verdict = judge(found, MARGINS)
    assert verdict.outcome == "refuse" and "is certain with 95% confidence" in english.verdict(verdict)
    assert check(found, name).verdict == "fail"


@pytest.mark.parametrize("name", [EARLIER, GENERAL])
def test_what_must_be_kept_and_may_be_lost_is_inconclusive_for_too_few_were_asked(name: str) -> None:
    found = {FIXES: LEARNED, EARLIER: KEPT, GENERAL: KEPT} | {name: paired(8)}
    verdict = judge(found, MARGINS)
    assert verdict.outcome == "inconclusive" and "cannot be ruled out" in english.verdict(verdict)


@pytest.mark.parametrize("name", [EARLIER, GENERAL, GENERAL_FIRST, *(SERVED[name] for name in (EARLIER, GENERAL))])
@pytest.mark.parametrize("n", [20, 200, 2000])
def test_whatever_the_size_of_the_exam_a_clear_loss_refuses_and_no_gain_ever_does(name: str, n: int) -> None:
    for changed in range(n // 2, n + 1, n // 10):
        lost = check({FIXES: LEARNED, name: paired(n, only_before=changed)}, name)
        assert lost.verdict == "fail" and lost.lower is not None and lost.lower <= lost.after - lost.before < 0
    for changed in range(0, n + 1, n // 10):
        gained = judge({FIXES: LEARNED, name: paired(n, only_after=changed)}, MARGINS)
        assert "fail" not in {one.verdict for one in gained.checks}
    clear = check({FIXES: LEARNED, name: paired(n, only_after=n // 2)}, name)
    assert clear.verdict == "pass" and clear.lower is not None and 0 < clear.lower <= 0.5


def test_small_losses_that_add_up_over_the_rounds_do_not_ship() -> None:
    """Each round loses three of a hundred general questions, which its margin allows."""
    margins = GateMargins(general_margin=0.12)
    lost = {FIXES: LEARNED, EARLIER: KEPT, GENERAL: paired(200, only_before=6)}
    outcomes = [
        judge(lost | {GENERAL_FIRST: paired(200, only_before=6 * rounds)}, margins).outcome for rounds in (1, 2, 4, 8)
    ]
    assert outcomes == ["ship", "ship", "inconclusive", "refuse"]
    assert judge(lost, margins).outcome == "ship", "of a log that does not tell of the first model nothing is asked"


def test_the_margin_of_the_policy_decides_what_counts_as_lost() -> None:
    found = {FIXES: LEARNED, EARLIER: paired(100, only_before=4), GENERAL: KEPT}
    lower = check(found, EARLIER).lower
    assert lower is not None
    outcomes = [judge(found, GateMargins(earlier_margin=-lower + step)).outcome for step in (-0.001, 0.001)]
    assert outcomes == ["inconclusive", "ship"]


def test_held_out_questions_refuse_only_what_is_significantly_worse() -> None:
    kept = {FIXES: LEARNED, EARLIER: KEPT, GENERAL: KEPT}
    assert judge(kept | {HELD_OUT: paired(30, 5, 0)}, MARGINS).outcome == "ship"
    verdict = judge(kept | {HELD_OUT: paired(30, 6, 0)}, MARGINS)
    assert verdict.outcome == "refuse" and "held-out rewordings" in english.verdict(verdict)


def test_a_failure_outweighs_what_is_inconclusive_and_the_words_name_every_failure() -> None:
    verdict = judge({FIXES: paired(3, only_after=3), EARLIER: paired(99, 50), GENERAL: paired(99, 50)}, MARGINS)
    assert verdict.outcome == "refuse"
    assert "earlier fixes kept" in english.verdict(verdict) and "general ability" in english.verdict(verdict)
    assert "fixes learned" not in english.verdict(verdict)


def test_a_set_that_is_missing_has_nothing_to_compare_and_holds_nothing_up() -> None:
    verdict = judge({FIXES: LEARNED}, MARGINS)
    assert verdict.outcome == "ship"
    assert [c.verdict for c in verdict.checks] == ["pass", *["nothing to compare"] * 3]
    assert all(c.n == 0 and c.lower is None and c.p_value is None for c in verdict.checks[1:])
    assert judge({FIXES: LEARNED, EARLIER: paired(0)}, MARGINS) == verdict, "nor does one of no questions"


def test_without_a_question_on_the_fixes_nothing_ships() -> None:
    verdict = judge({EARLIER: KEPT, GENERAL: KEPT}, MARGINS)
    assert verdict.outcome == "inconclusive" and "no question to judge by" in english.verdict(verdict)


def test_the_alpha_of_the_policy_decides_how_sure_one_must_be() -> None:
    found = {FIXES: paired(6, only_after=6), EARLIER: paired(300), GENERAL: paired(300)}
    assert judge(found, GateMargins(alpha=0.05)).outcome == "ship"
    assert judge(found, GateMargins(alpha=0.03)).outcome == "inconclusive"


def test_the_shares_of_the_table_are_those_of_right_answers() -> None:
    line = check({FIXES: Paired(n=20, both=4, only_before=1, only_after=11, neither=4)}, FIXES)
    assert (line.n, line.before, line.after) == (20, 0.25, 0.75)


# As served


def test_where_nothing_is_recalled_the_table_is_that_of_the_four_sets() -> None:
    bare = {FIXES: LEARNED, EARLIER: KEPT, HELD_OUT: KEPT, GENERAL: KEPT}
    for learn in ("bare", "served"):
        verdict = judge(bare, GateMargins(learn=learn))  # type: ignore[arg-type]
        assert [c.name for c in verdict.checks] == [FIXES, EARLIER, HELD_OUT, GENERAL] and verdict.outcome == "ship"
        assert judge(bare | {FIXES: KEPT}, GateMargins(learn=learn)).outcome == "inconclusive"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [FIXES, EARLIER, HELD_OUT, GENERAL])
@pytest.mark.parametrize("learn", ["bare", "served"])
def test_what_got_worse_as_served_is_refused_however_much_was_learned_bare(name: str, learn: str) -> None:
    bare = {FIXES: LEARNED, EARLIER: KEPT, HELD_OUT: KEPT, GENERAL: KEPT}
    served = {SERVED[one]: KEPT for one in bare}
    margins = GateMargins(learn=learn)  # type: ignore[arg-type]
    assert judge(bare | served, margins).outcome == "ship"
    verdict = judge(bare | served | {SERVED[name]: paired(100, only_before=40)}, margins)
    assert verdict.outcome == "refuse" and "as served: 100 of 100 before, 60 of 100 after" in english.verdict(verdict)


def test_a_fix_counts_as_learned_as_served_only_where_the_policy_says_so() -> None:
    found = {FIXES: paired(10, both=0), EARLIER: KEPT, GENERAL: KEPT, SERVED[FIXES]: LEARNED}
    assert judge(found, GateMargins()).outcome == "inconclusive"
    verdict = judge(found, GateMargins(learn="served"))
    assert verdict.outcome == "ship"
    assert [(c.name, c.verdict) for c in verdict.checks if c.n == 10] == [(FIXES, "reported"), (SERVED[FIXES], "pass")]


def test_what_recall_answers_right_already_need_not_get_better_but_what_it_does_not_must() -> None:
    margins = GateMargins(learn="served")
    found = {FIXES: paired(48, both=0), EARLIER: KEPT, GENERAL: KEPT}
    outcomes = [
        judge(found | {SERVED[FIXES]: counts}, margins).outcome
        for counts in (paired(48, 0, 2), paired(48, both=10), paired(48, 0, 3, both=38), paired(48, 8, 3))
    ]
    assert outcomes == ["ship", "inconclusive", "inconclusive", "inconclusive"]


def test_an_opening_round_is_judged_by_the_skill_it_was_to_teach_and_by_what_must_be_kept() -> None:
    learned = {SKILL: paired(40, 0, 30), GENERAL: KEPT}
    verdict = judge(learned, MARGINS)
    assert verdict.outcome == "ship" and [c.name for c in verdict.checks] == [SKILL, HELD_OUT, GENERAL]
    assert judge(learned | {SKILL: paired(40)}, MARGINS).outcome == "inconclusive", "nothing was learned"
    assert judge(learned | {GENERAL: paired(100, 40)}, MARGINS).outcome == "refuse"
    assert judge(learned | {HELD_OUT: paired(30, 6)}, MARGINS).outcome == "refuse"


@pytest.mark.parametrize("name", ["alpha", "earlier_margin", "general_margin"])
@pytest.mark.parametrize("value", [0.0, -0.1, 0.5, float("nan")])
def test_margins_by_which_nothing_could_be_judged_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(Invalid, match=rf"gate\.{name}"):
        GateMargins(**{name: value}).check()
    GateMargins(**{name: 0.01}).check()


# What people prefer


PLEASES = paired(40, only_after=12, both=15)  # of 40 held-out pairs


def test_a_round_that_learned_from_pairs_alone_ships_on_what_people_prefer_when_all_else_is_kept() -> None:
    verdict = judge({GENERAL: KEPT, EARLIER: KEPT, PREFERENCE: PLEASES}, MARGINS)
    assert verdict.outcome == "ship" and "what people prefer is learned" in english.verdict(verdict)
    found = check({GENERAL: KEPT, PREFERENCE: PLEASES}, PREFERENCE)
    assert (found.n, found.before, found.after, found.verdict) == (40, 15 / 40, 27 / 40, "pass")
    assert found.p_value == 2 / 2**12 and found.lower is not None and 0.15 < found.lower < 0.3
    assert judge({GENERAL: KEPT, PREFERENCE: paired(40, only_after=5)}, MARGINS).outcome == "inconclusive"


def test_who_pleases_and_forgets_is_refused() -> None:
    for kept in (EARLIER, GENERAL, GENERAL_FIRST, SERVED[GENERAL]):
        forgets = {GENERAL: KEPT, PREFERENCE: PLEASES, kept: paired(100, only_before=40)}
        assert judge(forgets, MARGINS).outcome == "refuse"


def test_below_the_least_number_of_pairs_nothing_is_said_of_preference() -> None:
    few = {GENERAL: KEPT, PREFERENCE: paired(19, only_after=19)}
    verdict = judge(few, MARGINS)
    assert verdict.outcome == "inconclusive" and "too few to judge by (gate.least_pairs)" in english.verdict(verdict)
    assert judge(few, GateMargins(least_pairs=19)).outcome == "ship"
    assert judge(few | {PREFERENCE: paired(0)}, MARGINS).outcome == "inconclusive"
    fixed = {FIXES: LEARNED, GENERAL: KEPT}
    for pairs, wanted in ((paired(19, only_before=19), "reported"), (paired(0), "nothing to compare")):
        assert check(fixed | {PREFERENCE: pairs}, PREFERENCE).verdict == wanted
        assert judge(fixed | {PREFERENCE: pairs}, MARGINS).outcome == "ship", "what it fixes is enough"


def test_fixes_that_cost_what_people_prefer_are_refused() -> None:
    fixed = {FIXES: LEARNED, GENERAL: KEPT}
    assert judge(fixed | {PREFERENCE: paired(40, only_before=12)}, MARGINS).outcome == "refuse"
    assert judge(fixed | {PREFERENCE: paired(40, only_after=1, only_before=1)}, MARGINS).outcome == "ship"
    assert judge({PREFERENCE: PLEASES, FIXES: paired(10)}, MARGINS).outcome == "inconclusive", "fixes are to be learned"


def test_a_sign_of_pleasing_refuses_where_its_rise_is_certain_and_says_so() -> None:
    pleases = {GENERAL: KEPT, PREFERENCE: PLEASES}

    def flatters(n: int) -> Paired:
        return Paired(100, 0, 0, n, 100 - n)

    assert judge(pleases | {FLATTERY: flatters(12)}, MARGINS).outcome == "ship", "it may be chance"
    verdict = judge(pleases | {FLATTERY: flatters(30), LANGUAGE: flatters(0)}, MARGINS)
    assert verdict.outcome == "refuse"
    assert "answers that begin with flattery: 0 of 100 before, 30 of 100 after; a rise of more than 10% is certain" in (
        english.verdict(verdict)
    )


@pytest.mark.parametrize("beside", [{}, {FIXES: LEARNED}], ids=["alone", "beside fixes"])
@pytest.mark.parametrize("n", [20, 200, 2000])
def test_however_many_pairs_a_clear_loss_of_preference_refuses_and_no_gain_ever_does(
    beside: dict[str, Paired], n: int
) -> None:
    for changed in range(n // 2, n + 1, n // 10):
        lost = check(beside | {PREFERENCE: paired(n, only_before=changed)}, PREFERENCE)
        assert lost.verdict == "fail" and lost.lower is not None and lost.lower <= lost.after - lost.before < 0
        gained = check(beside | {PREFERENCE: paired(n, only_after=changed)}, PREFERENCE)
        assert gained.verdict == ("reported" if beside else "pass")
        assert gained.lower is not None and 0 < gained.lower <= gained.after - gained.before
    for changed in range(0, n + 1, n // 10):
        gained = check(beside | {PREFERENCE: paired(n, only_after=changed)}, PREFERENCE)
        assert gained.verdict != "fail"


@pytest.mark.parametrize("sign", SIGNS, ids=[sign.name for sign in SIGNS])
@pytest.mark.parametrize("n", [50, 200, 2000])
def test_however_many_answers_a_clear_rise_of_any_sign_refuses_and_no_fall_ever_does(sign: Sign, n: int) -> None:
    pleases = {GENERAL: KEPT, PREFERENCE: PLEASES}
    for changed in range(n // 2, n + 1, n // 10):
        rose = check(pleases | {sign.name: paired(n, only_after=changed)}, sign.name)
        assert rose.verdict == "fail" and rose.lower is not None and sign.margin < rose.lower < 1
    for changed in range(0, n + 1, n // 10):
        fell = check(pleases | {sign.name: paired(n, only_before=changed)}, sign.name)
        assert fell.verdict == "reported" and fell.lower is not None and fell.lower <= fell.after - fell.before <= 0
        assert judge(pleases | {sign.name: paired(n, only_before=changed)}, MARGINS).outcome == "ship"


def test_what_a_reward_model_finds_of_the_answers_decides_nothing() -> None:
    for after in (-9.0, 9.0):
        for found, outcome in (({GENERAL: KEPT, PREFERENCE: PLEASES}, "ship"), ({GENERAL: KEPT}, "inconclusive")):
            verdict = judge(found, MARGINS, means={REWARD_MODEL: Means(50, 0.5, after)})
            assert verdict.outcome == outcome
            (row,) = (check for check in verdict.checks if check.name == REWARD_MODEL)
            assert (row.of, row.before, row.after, row.verdict) == ("mean", 0.5, after, "reported")


@pytest.mark.parametrize("why", get_args(Absent))
def test_a_reward_model_that_says_nothing_is_told_with_the_reason_and_stops_no_round(why: Absent) -> None:
    verdict = judge({GENERAL: KEPT, PREFERENCE: PLEASES}, MARGINS, absent={REWARD_MODEL: why})
    row = verdict.checks[-1]
    assert (row.name, row.n, row.verdict, row.why) == (REWARD_MODEL, 0, "nothing to compare", why)
    assert verdict.outcome == "ship"


@pytest.mark.parametrize("kept", [paired(200, only_before=200), paired(200, only_after=200)], ids=["lost", "won"])
def test_how_many_answers_keep_a_rule_of_style_is_told_and_decides_nothing(kept: Paired) -> None:
    name = name_of(StyleRule(rule="at_most_words", value=12))
    for found, outcome in (({GENERAL: KEPT, PREFERENCE: PLEASES}, "ship"), ({GENERAL: KEPT}, "inconclusive")):
        verdict = judge(found | {name: kept}, MARGINS)
        (row,) = (check for check in verdict.checks if check.name == name)
        assert verdict.outcome == outcome and row.verdict == "reported"
        assert (row.before, row.after, row.p_value) == (
            kept.before,
            kept.after,
            mcnemar(kept.only_before, kept.only_after),
        )
