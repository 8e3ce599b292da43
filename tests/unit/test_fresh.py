"""What has come to a domain since the last round: counted right, and as cheap for the ten-thousandth as for the first."""

import psutil
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from streams import rounds
from streams.domain import Domain, pack
from streams.envelope import Recorded
from streams.events import DOMAINS
from streams.facts.people import PersonErased
from streams.fresh import Fresh, Given
from streams.policy import Thresholds
from streams.projections import of_domain
from tests.samples import DOMAIN, correction, created, enveloped

IDS = st.sampled_from(["a", "b", "c", "d", "e"])
PEOPLE = st.sampled_from(["ann", "ben", "cem"])
GIVERS = st.builds(Given, PEOPLE, st.sampled_from([None, "desk", "kiosk"]), st.integers(0, 99), st.booleans())
ACTS = st.lists(st.tuples(st.sampled_from(["correct", "prefer", "retire", "erase"]), IDS, GIVERS), max_size=40)


@given(ACTS)
def test_it_counts_what_is_there_and_who_gave_it(acts: list[tuple[str, str, Given]]) -> None:
    fresh, corrections, preferences = Fresh(), dict[str, Given](), dict[str, Given]()
    for act, id_, giver in acts:
        before, was = fresh, repr(fresh)
        match act:
            case "correct":
                fresh = fresh.with_correction(id_, giver)
                corrections[id_] = giver
            case "prefer":
                fresh = fresh.with_preference(id_, giver)
                preferences[id_] = giver
            case "retire":
                fresh = fresh.without_correction(id_)
                corrections.pop(id_, None)
            case _:
                fresh = fresh.without_person(giver.person)
                for given_ in (corrections, preferences):
                    for one, by in [*given_.items()]:
                        if by.person == giver.person and by.own:
                            del given_[one]
                        elif by.person == giver.person:
                            given_[one] = by._replace(person="")
        assert repr(before) == was, "what was before stays as it was"
        assert (dict(fresh.corrections), dict(fresh.preferences)) == (corrections, preferences)
        givers = {*corrections.values(), *preferences.values()}
        own = {by.person for by in givers if by.service is None}
        assert fresh.people("each") == len({by.person for by in givers})
        assert fresh.people("one") == len(own) + len({by.service for by in givers} - {None})
        assert fresh.people("none") == len(own)
        assert fresh.named == len({by.person for by in givers if by.service is not None})
        kept = [("correction", id_, *by) for id_, by in corrections.items()]
        kept += [("preference", id_, *by) for id_, by in preferences.items()]
        assert fresh == Fresh.of(reversed(kept)), "in whatever order the rows are read"
        left = Fresh.of(row for row in kept if row[4] >= 50)
        assert fresh.since(50) == left and fresh.since(50).people("one") == left.people("one")


def test_what_an_erased_person_accepted_as_it_was_proposed_still_counts_and_their_own_words_do_not() -> None:
    log = created(thresholds=Thresholds(corrections=None))
    log.tell(replace(correction("accepted", "ann", kid="key-of-the-domain"), kind="annotation", proposal_id="proposed"))
    log.tell(correction("corrected", "ann"))
    log.tell(PersonErased(domain=DOMAIN, person="ann", kids=("key-of-ann",), by="ops"))
    assert dict(log.state.fresh.corrections) == {"accepted": Given("", None, 3, own=False)}
    assert log.state.fresh.people("each") == 1


def taken_in(corrections: int, people: int) -> list[Domain]:
    """The states of a domain to which so many corrections come, one by one, while no round is due."""
    states = [created(thresholds=Thresholds(corrections=None)).state]
    for number in range(corrections):
        event = correction(f"e-{number}", f"p-{number % people}")
        recorded = Recorded(enveloped(event, f"told {number}"), DOMAINS, 0, number)
        after = rounds.fold(states[-1], recorded, event)
        of_domain(states[-1], after, recorded, event)
        states.append(after)
    return states


def test_the_states_of_an_import_share_what_did_not_change() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    states = taken_in(2000, 2000)
    more = process.memory_info().rss - before
    # 2,000 copies would hold two million entries, and have some 300 megabytes.
    assert len(states[-1].fresh.corrections) == 2000 and more < 60 * 2**20, f"{more / 2**20:.0f} MiB"
    assert len(pack(states[-1])) < 100 + len(pack(states[0])), "and what is written of each is small"


class Name(str):
    """A person's name that counts how often it is looked up."""

    looked_up = 0

    def __hash__(self) -> int:
        Name.looked_up += 1
        return super().__hash__()


def test_who_gave_what_is_not_counted_anew_for_each_that_comes() -> None:
    fresh = Fresh()
    for number in range(1000):
        fresh = fresh.with_correction(f"e-{number}", Given(Name(f"p-{number}"), None, number))
        assert fresh.people("one") == number + 1
    assert Name.looked_up < 20 * 1000
