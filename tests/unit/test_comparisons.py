"""What answers beside its base model: asked for, ordered once, told, and shown."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from api.comparing import base_table, comparison_table, markdown, with_shares
from api.ui.board import draw_board
from api.ui.words import LANGUAGES, event_kinds, known, say
from streams import orders
from streams.facts.comparisons import SETS, VARIANTS, BaseComparisonAsked, ComparisonAsked, order_of, wilson
from streams.facts.domains import DomainRetired, PolicySet
from streams.facts.releases import CandidateRetired
from streams.projections import of_domain
from streams.recalled import Recall
from streams.rounds import fold
from streams.writes import Update
from tests.door_server import BASES_MADE, MADE, new_comparison
from tests.samples import DOMAIN, DomainLog, bases_compared, compared, created, failed, finished
from tests.unit.round_steps import begun, upto_swap

ASKED = ComparisonAsked(domain=DOMAIN, by="ops")
BASES = BaseComparisonAsked(domain=DOMAIN, bases={"heron": "model-0", "ibis": "model-7"}, by="ops")


def asked(log: DomainLog) -> orders.CompareReleases:
    (order,) = log.tell(ASKED)
    assert isinstance(order, orders.CompareReleases)
    return order


def outcome(log: DomainLog) -> dict[str, Any] | None:
    """What the last event wrote of a comparison that was under way."""
    before = DomainLog().state
    for recorded in log.told[:-1]:
        before = fold(before, recorded, recorded.envelope.event)  # type: ignore[arg-type]
    last = log.told[-1]
    writes = of_domain(before, log.state, last, last.envelope.event)  # type: ignore[arg-type]
    found = [one.row for one in writes if isinstance(one, Update) and one.table == "comparisons"]
    return found[0] if found else None


def test_the_order_names_both_models_and_what_stood_before_it_as_the_policy_recalls() -> None:
    log = created()
    log.tell(finished(upto_swap(log)))
    recall = Recall(of="both", most=2)
    log.tell(PolicySet(domain=DOMAIN, policy=replace(log.state.policy, recall=recall), by="ops"))
    order = asked(log)
    assert order == orders.CompareReleases(
        order_id=order_of(log.told[-1].envelope.id),
        domain=DOMAIN,
        release=1,
        base_model="model-0",
        model=log.state.releases[1],
        pin=len(log.told),
        engine="llamacpp",
        recall=recall,
    )


def test_one_that_is_asked_for_twice_is_one_until_it_is_told() -> None:
    log = created()
    order = asked(log)
    assert log.tell(ASKED) == () and log.state.comparing is not None
    assert log.state.comparing.order_id == order.order_id
    log.tell(compared(order))
    assert log.state.comparing is None
    told = outcome(log)
    assert told is not None and told["outcome"] == "made" and told["sets"]["fixes"]["trained"]["right"] == 3
    assert asked(log).order_id != order.order_id


def test_one_that_failed_is_over_and_may_be_asked_for_again() -> None:
    log = created()
    order = asked(log)
    log.tell(failed(order, will_retry=True))
    assert log.state.comparing is not None, "it is tried again"
    log.tell(failed(order))
    told = outcome(log)
    assert log.state.comparing is None and told is not None
    assert (told["outcome"], told["failure"]) == ("failed", "out of memory")
    log.tell(compared(order))
    assert outcome(log) is None, "nobody waits for it any more"
    assert asked(log)


def test_it_goes_on_beside_a_round_and_a_round_beside_it() -> None:
    log = created()
    order = asked(log)
    select = begun(log)
    log.tell(compared(order))
    assert log.state.round is not None and log.state.round.id == select.round_id
    assert asked(log)


def test_the_release_that_is_compared_is_not_removed_meanwhile() -> None:
    log = created()
    swap = upto_swap(log)
    log.tell(finished(swap))
    order = asked(log)
    log.tell(finished(upto_swap(log)))
    assert swap.round_id is not None and log.state.live == 2
    gone = CandidateRetired(
        domain=DOMAIN, round_id=swap.round_id, release=1, model=swap.model, adapter="adapter", reason="enough"
    )
    log.tell(gone)
    assert 1 in log.state.releases
    log.tell(compared(order))
    log.tell(gone)
    assert 1 not in log.state.releases


def test_bases_are_compared_by_the_policys_recipe_one_comparison_at_a_time_and_without_a_release_too() -> None:
    log = created()
    (order,) = log.tell(BASES)
    assert order == orders.CompareBases(
        order_id=order_of(log.told[-1].envelope.id),
        domain=DOMAIN,
        bases=BASES.bases,
        pin=len(log.told),
        engine="llamacpp",
        recipe=log.state.policy.recipe,
    )
    assert log.tell(ASKED) == () and log.tell(BASES) == (), "one is under way"
    assert isinstance(order, orders.CompareBases)
    log.tell(bases_compared(order))
    told = outcome(log)
    assert log.state.comparing is None and told is not None and told["outcome"] == "made"
    assert told["bases"]["heron"]["tokens_per_s"] == 40.0 and "sets" not in told
    assert asked(log), "and then the release"


def test_bases_that_failed_to_be_compared_are_over() -> None:
    log = created()
    (order,) = log.tell(BASES)
    log.tell(failed(order))  # type: ignore[arg-type]
    told = outcome(log)
    assert log.state.comparing is None and told is not None and told["failure"] == "out of memory"


def test_a_domain_without_a_release_or_that_is_retired_compares_nothing() -> None:
    assert DomainLog().tell(ASKED) == ()
    log = created()
    order = asked(log)
    log.tell(DomainRetired(domain=DOMAIN, by="ops"))
    told = outcome(log)
    assert log.state.comparing is None and told is not None and told["outcome"] == "cancelled"
    log.tell(compared(order))
    assert log.tell(ASKED) == ()


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(10, 12, 0.552, 0.953), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (120, 200, 0.531, 0.665), (0, 0, 0.0, 1.0)],
)
def test_the_interval_is_wilsons(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == (pytest.approx(low, abs=0.001), pytest.approx(high, abs=0.001))


@given(st.integers(1, 100_000), st.data())
def test_an_interval_holds_the_share_lies_between_none_and_all_and_is_the_mirror_of_the_wrong_ones(
    n: int, data: st.DataObject
) -> None:
    right = data.draw(st.integers(0, n))
    low, high = wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1 and low < high
    assert wilson(n - right, n) == (pytest.approx(1 - high), pytest.approx(1 - low))
    widths = [high - low for low, high in (wilson(right * times, n * times) for times in (1, 2, 4))]
    assert all(wide > narrow for wide, narrow in pairwise(widths)), "more questions say more"


def shown(**more: Any) -> dict[str, Any]:
    return with_shares(new_comparison("road-traffic", **(MADE | more)))


def test_what_an_answer_costs_is_of_each_question_alike_whatever_its_set() -> None:
    costs = shown()["costs"]
    assert costs["base_recalled"]["prompt_tokens"] == pytest.approx((200 * 20 + 12 * 80) / 212)
    assert costs["trained"] == {
        "prompt_tokens": 20.0,
        "completion_tokens": pytest.approx((200 * 9 + 12 * 7) / 212),
        "seconds": pytest.approx((200 * 0.25 + 12 * 0.5) / 212),
    }
    untold = {
        "fixes": {"base": {"n": 4, "right": 1, "prompt_tokens": None, "completion_tokens": None, "seconds": None}}
    }
    assert shown(sets=untold)["costs"] == {}
    assert with_shares(new_comparison("road-traffic"))["sets"] is None, "one that is under way has none"


def test_the_table_has_a_line_a_set_a_column_a_variant_and_what_they_cost() -> None:
    heads, lines = comparison_table(shown(), "en")
    assert heads == ["set", "n", "base", "base, recall", "trained", "trained, recall"]
    assert lines == [
        ["fixes of its round", "12", "0% (0–24)", "33% (14–61)", "83% (55–95)", "100% (76–100)"],
        ["general quiz", "200", "60% (53–67)", "59% (52–66)", "60% (54–67)", "60% (53–66)"],
        ["tokens, prompt + answer", "", "20 + 9", "23 + 9", "20 + 9", "23 + 9"],
        ["seconds an answer", "", "0.26", "0.26", "0.26", "0.26"],
    ]


def test_a_base_model_that_nobody_trained_and_a_policy_that_recalls_nothing_leave_their_columns_out() -> None:
    sets = {
        "held_out": {"base": {"n": 0, "right": 0, "prompt_tokens": None, "completion_tokens": None, "seconds": None}}
    }
    heads, lines = comparison_table(shown(sets=sets), "zh")
    assert heads == ["题集", "题数", "基础"]
    assert lines == [["留出的问法", "0", "–"]]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_has_words_for_each_set_variant_and_event_of_a_comparison(lang: Any) -> None:
    assert all(known(f"set_{name}") for name in SETS) and all(say(lang, f"variant_{name}") for name in VARIANTS)
    kinds = {"comparison_asked", "comparison_made", "base_comparison_asked", "base_comparison_made"}
    assert kinds <= event_kinds()


def board(rows: list[dict[str, Any]], lang: Any = "en") -> str:
    return draw_board({}, [], [], rows, [], [], lang, False)


def test_the_page_draws_the_newest_that_was_made_and_says_what_became_of_one_asked_for_since() -> None:
    assert "n-compared" not in board([])
    drawn = board([shown()])
    assert "Base model and release 1" in drawn and "83% (55–95)" in drawn and 'data-name="trained, recall"' in drawn
    under_way = with_shares(new_comparison("road-traffic"))
    drawn = board([under_way, shown()])
    assert "under way since" in drawn and "83% (55–95)" in drawn
    drawn = board([with_shares(new_comparison("road-traffic", outcome="failed", failure="<b>no disk</b>"))])
    assert "&lt;b&gt;no disk" in drawn and "n-compared" not in drawn
    assert "训练后 + 召回" in board([shown()], "zh")


def bases_shown(**more: Any) -> dict[str, Any]:
    return with_shares(new_comparison("road-traffic", release=None, compared={}, **(BASES_MADE | more)))


def test_the_table_of_bases_has_a_line_a_base_with_what_it_knows_costs_and_may() -> None:
    heads, lines = base_table(bases_shown(), "en")
    assert heads[:4] == ["base", "domain", "general quiz", "tokens a character"]
    assert lines[0] == [
        *("heron-2b", "25% (11–47)", "60% (53–67)", "0.25", "42", "2.12", "9.5 GB, 10.0 min", "32,768", "apache-2.0"),
        "Qwen3, 2.03B, llamacpp",
    ]
    assert lines[1][4] == "3.5" and lines[1][6] == "99.0 GB, 1.0 min; no room here" and lines[1][8] == "–"
    printed = markdown(heads, lines).splitlines()
    assert len(printed) == 4 and printed[0].startswith("| base | domain |") and set(printed[1]) <= set("| -")
    assert {line.count("|") for line in printed} == {len(heads) + 1}
    assert "a / b" in markdown(["x"], [["a | b"]]), "a licence may be called anything"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_draws_bases_beside_each_other(lang: Any) -> None:
    drawn = draw_board({}, [], [], [], [bases_shown()], [], lang, False)
    assert "25% (11–47)" in drawn and say(lang, "bases_compared") in drawn and say(lang, "bases_no_room") in drawn
    under_way = with_shares(new_comparison("road-traffic", release=None, compared={"heron-2b": "sha256:"}))
    assert "n-compared" not in draw_board({}, [], [], [], [under_way], [], lang, False)
