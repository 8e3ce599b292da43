"""Whatever happens to a domain, in whatever order: one round at a time, each asked for once, told the same by every reader."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streams import orders, rounds
from streams.codec import decode, encode
from streams.domain import Domain, base_of, pack, prospect, unpack
from streams.envelope import Consequence, Recorded
from streams.facts.conversations import ConversationEvent
from streams.facts.people import PersonErased
from streams.facts.rounds import CandidateEvaluated, GatePassed, GateRefused, RoundRequested
from streams.orders import Order
from streams.policy import check_policy
from tests.property.strategies import COURSES, Course, Happening

Said = list[Consequence | Order]


def id_of(one: Consequence | Order) -> object:
    return one.id if isinstance(one, Consequence) else one.order_id


def is_round(one: Consequence | Order) -> bool:
    """Whether it proposes a round, which may be done by many events until it stands on the log."""
    return isinstance(one, Consequence) and isinstance(one.event, RoundRequested)


def happened(course: Course) -> Happening:
    domain = Happening()
    for what, pick, policy in course:
        domain.act(what, pick, policy)
    return domain


def follow(log: list[Recorded], batch: int) -> tuple[Domain, Said]:
    """Read a log as the store does: bytes decoded, repeated ids dropped, states kept as bytes from batch to batch."""
    state, said, seen = Domain(), Said(), set()
    for number, recorded in enumerate(log):
        envelope = decode(encode(recorded.envelope))
        if envelope.id in seen:
            continue
        seen.add(envelope.id)
        event = envelope.event
        read = Recorded(envelope, recorded.topic, recorded.partition, recorded.offset)
        assert not isinstance(event, ConversationEvent)
        before, state = state, rounds.fold(state, read, event)
        said.extend(rounds.react(before, state, read, event))
        if number % batch == 0:
            state = unpack(pack(state), state.fresh)
    return state, said


@given(COURSES)
def test_at_most_one_round_is_under_way_and_each_is_asked_for_once(course: Course) -> None:
    domain = Happening()
    asked: list[RoundRequested] = []
    for what, pick, policy in course:
        before = domain.state
        said = domain.act(what, pick, policy)
        after = domain.state
        selects = [one for one in said if isinstance(one, orders.SelectSnapshot)]
        begun = after.round is not None and (before.round is None or before.round.id != after.round.id)
        assert len(selects) == int(begun)
        if begun:
            event = domain.told[-1].envelope.event
            assert isinstance(event, RoundRequested), "nothing but what was decided begins one"
            assert before.round is None and after.round is not None
            assert (event.round_id, event.pin) == (after.round.id, selects[0].pin)
            assert all(given.offset >= event.pin for given in after.fresh.corrections.values())
            asked.append(event)
        for one in said:
            if isinstance(one, Consequence) and isinstance(one.event, RoundRequested):
                assert one.event.pin == len(domain.told), "what stood on the log up to the cause is in, the rest is not"
                assert after.round is None and one.event.number == after.rounds + 1
    numbers = [event.number for event in asked]
    assert numbers == sorted(set(numbers)) and all(number <= domain.state.rounds for number in numbers)
    assert len({event.round_id for event in asked}) == len(asked)


@given(COURSES)
def test_no_two_orders_and_no_two_consequences_have_the_same_id(course: Course) -> None:
    said = happened(course).said
    ids = Counter(id_of(one) for one in said if not is_round(one))
    assert not [one for one, times in ids.items() if times > 1]
    by_id: dict[object, set[int]] = {}
    for one in said:
        if isinstance(one, Consequence) and isinstance(one.event, RoundRequested):
            by_id.setdefault(one.id, set()).add(one.event.number)
    assert all(len(numbers) == 1 for numbers in by_id.values()), "what is proposed again is about the same round"


@given(COURSES)
def test_each_round_is_asked_for_each_step_once_and_in_order(course: Course) -> None:
    steps = [orders.SelectSnapshot, orders.TrainCandidate, orders.EvaluateCandidate, orders.SwapRelease]
    by_round: dict[str, list[type]] = {}
    for one in happened(course).said:
        if not isinstance(one, Consequence | orders.RebuildCandidate) and one.round_id is not None:
            by_round.setdefault(one.round_id, []).append(type(one))
    for found in by_round.values():
        assert found == steps[: len(found)]


@given(COURSES)
def test_the_gates_word_is_said_of_every_candidate_that_it_judged_and_only_what_passed_is_released(
    course: Course,
) -> None:
    domain = Happening()
    for what, pick, policy in course:
        before, told = domain.state.round, len(domain.told)
        said = domain.act(what, pick, policy)
        event = domain.told[-1].envelope.event if len(domain.told) > told else None
        judged = isinstance(event, CandidateEvaluated) and before is not None and before.order_id == event.order_id
        verdicts = [
            one.event
            for one in said
            if isinstance(one, Consequence) and isinstance(one.event, GatePassed | GateRefused)
        ]
        assert len(verdicts) == int(judged)
        assert all(isinstance(one, GatePassed) == (one.verdict.outcome == "ship") for one in verdicts)
        swaps = [one for one in said if isinstance(one, orders.SwapRelease) and not one.rollback]
        if swaps:
            assert isinstance(event, GatePassed) and [swap.release for swap in swaps] == [event.release]
            assert before is not None and before.id == event.round_id


@given(COURSES)
def test_whoever_answers_is_a_release_and_no_number_is_given_twice(course: Course) -> None:
    domain = happened(course)
    assert domain.state.live in domain.state.releases and 0 in domain.state.releases
    new = [one for one in domain.said if isinstance(one, orders.SwapRelease) and not one.rollback]
    numbers = [swap.release for swap in new]
    assert numbers == sorted(set(numbers)) == list(range(len(numbers)))


@given(COURSES)
def test_the_base_of_what_answers_is_the_one_to_which_its_line_moved_last(course: Course) -> None:
    domain = happened(course)
    begun = [recorded.envelope.event for recorded in domain.told]
    asked = {event.round_id: event for event in begun if isinstance(event, RoundRequested)}
    swaps = [one for one in domain.said if isinstance(one, orders.SwapRelease) and one.round_id is not None]
    made = {swap.release: asked[str(swap.round_id)] for swap in swaps}
    release = domain.state.live
    while release and made[release].base_model is None:
        release = made[release].base_release
    assert base_of(domain.state, domain.state.live) == (made[release].base_model if release else "model-0")


@given(COURSES)
def test_reacting_is_deterministic_and_changes_nothing(course: Course) -> None:
    domain = happened(course)
    state = Domain()
    for recorded in domain.told:
        event = recorded.envelope.event
        assert not isinstance(event, ConversationEvent)
        kept = pack(state)
        after = rounds.fold(state, recorded, event)
        assert rounds.fold(state, recorded, event) == after
        assert rounds.react(state, after, recorded, event) == rounds.react(state, after, recorded, event)
        assert pack(state) == kept
        state = after
    assert state == domain.state


@given(COURSES, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=12), st.integers(1, 5))
def test_a_log_on_which_events_stand_twice_comes_to_the_same_as_one_on_which_they_stand_once(
    course: Course, repeats: list[tuple[int, int]], batch: int
) -> None:
    log = list(happened(course).told)
    for which, later in repeats:
        at = which % len(log)
        log.insert(at + 1 + later % (len(log) - at), log[at])
    log = [Recorded(found.envelope, found.topic, found.partition, place) for place, found in enumerate(log)]
    firsts = {found.envelope.id: found for found in reversed(log)}
    once = sorted(firsts.values(), key=lambda found: found.offset)
    state, said = follow(log, batch)
    assert (state, said) == follow(once, 1), "and so does a reader with batches of another size"
    assert pack(state) == pack(follow(log, 1)[0]), "to the byte"


@given(COURSES)
def test_while_no_round_is_due_the_words_say_why_not_yet(course: Course) -> None:
    domain = Happening()
    for what, pick, policy in course:
        check_policy(policy, domain.now)
        domain.act(what, pick, policy)
        found = prospect(domain.state, domain.now)
        t = domain.state.policy.thresholds
        off = t.corrections is None and t.preferences is None and t.days is None and not domain.state.policy.schedule
        assert not found.due or not found.missing
        assert found.due or found.missing or off
        assert found.wake_at is None or found.wake_at > domain.now


@given(COURSES)
def test_nobody_who_was_erased_is_counted(course: Course) -> None:
    domain = Happening()
    gone: set[str] = set()
    for what, pick, policy in course:
        domain.act(what, pick, policy)
        event = domain.told[-1].envelope.event
        if isinstance(event, PersonErased):
            gone.add(event.person)
        givers = [*domain.state.fresh.corrections.values(), *domain.state.fresh.preferences.values()]
        assert gone.isdisjoint(giver.person for giver in givers)
