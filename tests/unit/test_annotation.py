"""The rules by which people judge proposed examples: the lot, when enough was said, what it comes to, and how far they agree."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from api.agreement import agreement
from streams import projections, rounds
from streams.annotation import Annotation, Judging, Verdict, VerdictKind, is_doubled, lot
from streams.domain import Domain
from streams.envelope import Recorded
from streams.errors import InvalidField
from streams.events import DOMAINS, DomainEvent
from streams.facts.examples import ExampleAccepted, ExampleRetired
from streams.facts.judgements import ConcernRaised, ExampleKept, ProposalJudged, VerdictTakenBack
from streams.facts.material import ExampleProposed, ExampleRejected
from streams.facts.people import PersonErased
from streams.policy import Policy
from streams.sealed import Sealed
from streams.writes import Update
from tests.samples import DOMAIN, START, enveloped, id_of

BOTH = Policy(annotation=Annotation(double_share=1.0))
ALONE = Policy(annotation=Annotation(double_share=0.0))


def judging(doubled: bool, *said: tuple[str, VerdictKind]) -> Judging:
    found = Judging(doubled)
    for person, kind in said:
        found = found.with_verdict(Verdict(person, kind))
    return found


def test_the_lot_is_the_same_whenever_it_is_drawn_and_falls_on_its_share() -> None:
    ids = [id_of(f"proposal {number}").hex for number in range(2000)]
    assert [lot(id_) for id_ in ids] == [lot(id_) for id_ in ids] and all(0 <= lot(id_) < 1 for id_ in ids)
    assert 150 < sum(is_doubled(id_, 0.1) for id_ in ids) < 250
    assert {id_ for id_ in ids if is_doubled(id_, 0.1)} < {id_ for id_ in ids if is_doubled(id_, 0.2)}
    assert not any(is_doubled(id_, 0.0) for id_ in ids) and all(is_doubled(id_, 1.0) for id_ in ids)


def test_one_verdict_is_enough_where_two_are_not_asked_for() -> None:
    for kind in ("accept", "edit", "reject"):
        assert judging(False, ("ann", kind)).outcome == kind
    assert judging(False).outcome is None


@pytest.mark.parametrize("kind", ["accept", "reject"])
def test_two_who_say_the_same_are_enough(kind: VerdictKind) -> None:
    assert judging(True, ("ann", kind)).outcome is None
    assert judging(True, ("ann", kind), ("ben", kind)).outcome == kind


@pytest.mark.parametrize(("first", "second"), [("accept", "reject"), ("edit", "accept"), ("edit", "edit")])
def test_where_two_differ_or_both_write_it_anew_a_third_settles_it(first: VerdictKind, second: VerdictKind) -> None:
    found = judging(True, ("ann", first), ("ben", second))
    assert found.outcome is None and found.disputed
    assert judging(True, ("ann", first), ("ben", second), ("cleo", "reject")).outcome == "reject"


@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["accept", "edit", "reject"])), max_size=8),
)
def test_nobody_is_heard_twice_nor_after_it_is_settled(doubled: bool, said: list[Any]) -> None:
    found = judging(doubled, *said)
    people = [verdict.person for verdict in found.verdicts]
    assert len(people) == len(set(people)) <= 3
    assert all(judging(doubled, *said[:cut]).outcome in (None, found.outcome) for cut in range(len(said)))


def test_a_share_beyond_all_is_refused() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidField, match="from 0 to 1"):
            Annotation(double_share=share).check()


# What follows on the log


class Told:
    """A domain whose log grows by what is told, and by what follows from that."""

    def __init__(self, policy: Policy) -> None:
        self.state = Domain(base_model="m", policy=policy)
        self.log: list[DomainEvent] = []
        self.rows: dict[str, dict[str, Any]] = {}

    def tell(self, event: DomainEvent) -> list[str]:
        """The names of what follows."""
        number = len(self.log)
        envelope = enveloped(event, f"told {number}", at=START + timedelta(seconds=number))
        recorded = Recorded(envelope, DOMAINS, 0, number)
        before, after = self.state, rounds.fold(self.state, recorded, event)
        for write in projections.of_domain(before, after, recorded, event):
            if isinstance(write, Update) and write.table == "proposals":
                self.rows.setdefault(write.key["proposal_id"], {}).update(write.row)
        self.log.append(event)
        self.state = after
        follows = [one.event for one in rounds.react(before, after, recorded, event) if hasattr(one, "event")]
        for one in follows:
            self.tell(one)  # type: ignore[arg-type]
        return [type(one).__name__ for one in follows]


def judged(person: str, verdict: VerdictKind, **more: Any) -> ProposalJudged:
    words: dict[str, Any] = {}
    if verdict != "reject" and not (verdict == "accept" and "stands" in more):
        sealed = Sealed("kid-of-" + (person if verdict == "edit" else "all"), f"{id_of('said')}#prompt", "a..b.c.d")
        words = {"example_id": id_of(f"example of {person}").hex, "prompt": sealed, "answer": sealed}
    return ProposalJudged(domain=DOMAIN, proposal_id="p", person=person, verdict=verdict, **words, **more)


def test_a_verdict_alone_becomes_its_outcome_and_of_two_only_the_second_that_agrees() -> None:
    told = Told(ALONE)
    assert told.tell(judged("ann", "accept")) == ["ExampleAccepted"] and told.state.judging == {}
    told = Told(BOTH)
    assert told.tell(judged("ann", "accept")) == []
    assert told.tell(judged("ann", "accept")) == [], "the same person again is nobody else"
    assert told.rows["p"] == {"verdicts": 1}
    assert told.tell(judged("ben", "accept")) == ["ExampleAccepted"]
    assert told.state.judging == {} and told.rows["p"]["waits"] is None and told.rows["p"]["state"] == "accepted"


def test_what_is_settled_by_a_third_is_theirs_or_whose_words_they_took() -> None:
    told = Told(BOTH)
    assert told.tell(judged("ann", "edit")) + told.tell(judged("ben", "reject")) == []
    assert told.rows["p"] == {"verdicts": 2, "waits": 0}
    assert told.tell(judged("ann", "reject")) + told.tell(judged("ben", "accept")) == [], "never one of the two"
    assert told.tell(replace(judged("cleo", "edit"), author="ann")) == ["ExampleAccepted"]
    accepted = told.log[-1]
    assert isinstance(accepted, ExampleAccepted) and (accepted.person, accepted.edited) == ("ann", True)


def test_another_look_at_what_was_accepted_keeps_it_or_takes_it_out() -> None:
    concern = ConcernRaised(domain=DOMAIN, proposal_id="p", concern="hard", reason="high perplexity")
    for verdict, follows in (
        ("accept", [ExampleKept]),
        ("reject", [ExampleRetired, ExampleRejected]),
        ("edit", [ExampleRetired, ExampleAccepted]),
    ):
        told = Told(ALONE)
        told.tell(concern)
        assert told.rows["p"]["waits"] == 2
        assert told.tell(judged("ann", verdict, stands="e")) == [one.__name__ for one in follows]  # type: ignore[arg-type]
        assert told.rows["p"]["waits"] is None and told.state.judging == {}


def test_a_verdict_that_was_taken_back_was_never_said() -> None:
    told = Told(BOTH)
    told.tell(judged("ann", "accept"))
    told.tell(judged("ben", "reject"))
    assert told.tell(VerdictTakenBack(domain=DOMAIN, proposal_id="p", judgement_id="j", person="ben")) == []
    assert told.rows["p"] == {"verdicts": 1, "waits": 3}, "nobody disagrees any more"
    assert told.tell(judged("ben", "accept")) == ["ExampleAccepted"]


def test_a_concern_does_not_move_what_two_disagree_on() -> None:
    told = Told(BOTH)
    told.tell(judged("ann", "accept"))
    told.tell(judged("ben", "reject"))
    told.tell(ConcernRaised(domain=DOMAIN, proposal_id="p", concern="hard", reason="x"))
    assert told.rows["p"]["waits"] == 0


def test_a_share_that_changes_in_between_leaves_what_has_begun_as_it_began() -> None:
    told = Told(BOTH)
    told.tell(judged("ann", "accept"))
    told.state = replace(told.state, policy=ALONE)
    assert told.tell(judged("ben", "accept")) == ["ExampleAccepted"]


def test_who_is_erased_has_said_nothing_of_what_is_not_settled() -> None:
    told = Told(BOTH)
    told.tell(judged("ann", "accept"))
    told.tell(PersonErased(domain=DOMAIN, person="ann", kids=("kid-of-ann",), by="ops"))
    assert told.state.judging == {} and told.rows["p"]["verdicts"] == 0
    assert told.tell(judged("ben", "accept")) == [] and told.tell(judged("cleo", "accept")) == ["ExampleAccepted"]
    late = Told(ALONE)
    late.tell(PersonErased(domain=DOMAIN, person="ann", kids=("kid-of-ann",), by="ops"))
    assert late.tell(judged("ann", "edit")) == [], "words that nobody can open any more become no example"


def test_a_decision_of_the_data_team_ends_what_annotators_had_begun() -> None:
    told = Told(BOTH)
    told.tell(judged("ann", "accept"))
    told.tell(ExampleRejected(domain=DOMAIN, proposal_id="p", reason="its build was undone", by="ops"))
    assert told.state.judging == {} and told.rows["p"]["waits"] is None


def test_what_is_proposed_waits_in_the_order_in_which_it_came() -> None:
    told = Told(BOTH)
    sealed = Sealed("k", f"{id_of('told 0')}#proposal", "a..b.c.d")
    event = ExampleProposed(
        domain=DOMAIN, proposal_id="p", build_id=id_of("b"), builder="self-kg", kind="fact", sources=(), proposal=sealed
    )
    recorded = Recorded(enveloped(event), DOMAINS, 0, 0)
    (insert,) = [
        one for one in projections.of_domain(told.state, told.state, recorded, event) if one.table == "proposals"
    ]
    row = insert.row  # type: ignore[union-attr]
    assert (row["waits"], row["verdicts"], row["lot"], row["concern"]) == (3, 0, lot("p"), None)


# Krippendorff's alpha


def pairs(first: str, second: str) -> list[tuple[dict[str, int], int]]:
    found = []
    for one, other in zip(first, second, strict=True):
        said: dict[str, int] = {}
        for value in (one, other):
            said[value] = said.get(value, 0) + 1
        found.append((said, 1))
    return found


def test_alpha_is_that_of_the_worked_tables() -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011): A, binary (0.095), and B, nominal (0.692)."""
    binary = agreement(pairs("0100000000", "1110010010"))
    assert binary.alpha == pytest.approx(0.095, abs=5e-4) and (binary.items, binary.agreed) == (10, 6)
    nominal = agreement(pairs("aabbdcccedda", "babbbccceddd"))
    assert nominal.alpha == pytest.approx(310 / 448) and (nominal.items, nominal.agreed) == (12, 9)


def test_items_that_one_judged_do_not_count_and_equal_ones_may_be_given_together() -> None:
    counted = [*pairs("aabb", "abbb"), ({"a": 1}, 7)]
    together = [({"a": 2}, 1), ({"a": 1, "b": 1}, 1), ({"b": 2}, 2)]
    assert agreement(counted) == agreement(together)


def test_where_everybody_always_said_the_same_there_is_no_alpha() -> None:
    assert agreement(pairs("aaaa", "aaaa")).alpha is None and agreement(pairs("aaaa", "aaaa")).agreed == 4
    assert agreement([]).items == 0
