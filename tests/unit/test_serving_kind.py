"""Which engine serves a release: the domain's, if it carries what the release needs; from the training to the way back."""

from msgspec.structs import replace

from streams import orders
from streams.engines import ENGINES, serving_kind
from streams.facts.comparisons import ComparisonAsked
from streams.facts.releases import RollbackAsked
from tests.samples import DOMAIN, DomainLog, created, evaluated, finished, rolled_back, trained
from tests.unit.round_steps import upto_evaluate, upto_swap, upto_train
from workers.reconciler import Release, Standing, Want, amends


def released_with_an_adapter(log: DomainLog) -> orders.SwapRelease:
    train = upto_train(log)
    (evaluate,) = log.tell(replace(trained(train), needs="adapter"))
    assert isinstance(evaluate, orders.EvaluateCandidate)
    assert (evaluate.engine, evaluate.needs, evaluate.base_needs) == ("llamacpp", "adapter", "merged")
    _, swap = log.tell(evaluated(evaluate))
    assert isinstance(swap, orders.SwapRelease)
    log.tell(finished(swap))
    return swap


def test_a_merged_model_is_served_by_the_domains_own_engine_and_an_adapter_by_one_that_carries_it() -> None:
    for kind in ENGINES:
        assert serving_kind(kind, "merged") == kind
        assert serving_kind(kind, "adapter") == "transformers"
    assert all("merged" in kind.carries for kind in ENGINES.values())


def test_the_training_is_told_the_domains_engine_for_which_it_makes_the_candidate_ready() -> None:
    log = created()
    assert upto_train(log).engine == log.state.engine == "llamacpp"


def test_what_a_candidate_needs_goes_with_it_into_its_exam_its_release_and_the_way_back_and_forth() -> None:
    log = created()
    swap = released_with_an_adapter(log)
    assert (swap.engine, swap.needs) == ("llamacpp", "adapter") and log.state.needs == {1: "adapter"}
    (back,) = log.tell(RollbackAsked(domain=DOMAIN, to=0, by="ops"))
    assert isinstance(back, orders.SwapRelease) and back.needs == "merged"
    log.tell(rolled_back(back))
    (forth,) = log.tell(RollbackAsked(domain=DOMAIN, to=1, by="ops"))
    assert isinstance(forth, orders.SwapRelease) and forth.needs == "adapter"


def test_the_next_rounds_exam_and_a_comparison_know_what_the_release_in_force_needs() -> None:
    log = created()
    released_with_an_adapter(log)
    (compare,) = log.tell(ComparisonAsked(domain=DOMAIN, by="ops"))
    assert isinstance(compare, orders.CompareReleases) and compare.needs == "adapter"
    evaluate = upto_evaluate(log)
    assert (evaluate.needs, evaluate.base_needs) == ("merged", "adapter")


def test_a_merged_release_after_one_with_an_adapter_needs_no_more_than_to_be_read() -> None:
    log = created()
    released_with_an_adapter(log)
    assert upto_swap(log).needs == "merged"


def test_the_reconciler_wants_each_release_by_the_engine_that_carries_it() -> None:
    standing = Standing(
        domain="roads", kind="llamacpp", live=Release(2, "model 2", "adapter"), before=Release(1, "model 1")
    )
    assert amends(standing, []) == (
        Want("roads", 2, "transformers", "model 2"),
        Want("roads", 1, "llamacpp", "model 1"),
    )
