"""Whatever policy is accepted, at whatever moment, in whatever zone: decisions are made by it, and none of them raises."""

from datetime import datetime, timedelta
from zoneinfo import available_timezones

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams import orders
from streams.domain import pack, prospect
from streams.errors import Invalid
from streams.events import DomainEvent
from streams.facts.domains import ClockTicked, PolicySet
from streams.facts.rounds import RoundAsked
from streams.gate import GateMargins, Paired
from streams.policy import Policy, QuietHours, Schedule, Thresholds, check_policy, check_readable, next_time
from streams.recipes import LoraRecipe
from tests.property.strategies import MOMENTS
from tests.samples import (
    DOMAIN,
    START,
    DomainLog,
    correction,
    created,
    evaluated,
    finished,
    preference,
    selected,
    trained,
)

ZONES = st.sampled_from(sorted(available_timezones()))
DAYS_OF_THE_MONTH = ("*", "*/31", "29", "30", "31", "1-7", "L", "LW", "*/2")
DAYS_OF_THE_WEEK = ("*", "*/7", "1#2", "1#5", "5L", "MON-FRI", "0", "7")
CRON = st.tuples(
    st.sampled_from(("*", "*/7", "0", "30", "59", "1,2,50-55")),
    st.sampled_from(("*", "*/5", "0", "2", "3", "23", "1-3")),
    st.sampled_from(DAYS_OF_THE_MONTH),
    st.sampled_from(("*", "2", "FEB", "4,6", "*/12", "10", "3")),
    st.sampled_from(DAYS_OF_THE_WEEK),
).map(" ".join) | st.text(alphabet="*/0123456789L#W-, ", max_size=20)
CLOCK = st.times().map(lambda time: f"{time:%H:%M}") | st.sampled_from(("00:00", "02:30", "24:00", "1:5", ""))
COUNTS = st.integers(-1, 5) | st.integers(2**62, 2**66)
POLICIES = st.builds(
    Policy,
    thresholds=st.builds(
        Thresholds,
        corrections=st.none() | COUNTS,
        preferences=st.none() | COUNTS,
        people=st.integers(1, 2),
        days=st.none() | st.floats(0, 4000),
        settle_s=st.floats(0, 3600),
    ),
    schedule=st.none() | st.builds(Schedule, cron=CRON, timezone=ZONES),
    quiet_hours=st.none() | st.builds(QuietHours, start=CLOCK, end=CLOCK, timezone=ZONES),
    rounds_per_day=st.integers(1, 2) | COUNTS,
    budget_timezone=ZONES,
    recipe=st.just(LoraRecipe()),
    gate=st.builds(
        GateMargins, alpha=st.floats(0, 0.5), earlier_margin=st.floats(0, 0.5), general_margin=st.floats(0, 0.5)
    ),
)
SETS = st.sampled_from(("fixes", "earlier", "held_out", "general"))
COUNTED = st.dictionaries(
    SETS,
    st.tuples(*[st.integers(0, 40)] * 4).map(lambda four: Paired(sum(four), *four)),
    max_size=4,
)
TINY = float.fromhex("0x1p-1074")


@settings(max_examples=40)
@given(
    POLICIES, st.lists(MOMENTS, min_size=1, max_size=2), st.lists(st.floats(0, 90_000), min_size=5, max_size=5), COUNTED
)
@example(Policy(schedule=Schedule("0 0 */31 * 1#2")), [START], [0.0] * 5, {})
@example(Policy(gate=GateMargins(alpha=TINY)), [START], [0.0] * 5, {"general": Paired(4, 1, 1, 1, 1)})
@example(
    Policy(schedule=Schedule("45 2 * * *", "Europe/Madrid")),
    [datetime.fromisoformat("2026-10-25T01:30+00:00")],
    [0.0] * 5,
    {},
)
def test_no_policy_that_a_reader_accepts_makes_a_decision_raise(
    policy: Policy, ticks: list[datetime], waits_s: list[float], paired: dict[str, Paired]
) -> None:
    try:
        check_readable(policy)
    except Invalid:
        return
    domain = created()
    for at in ticks:
        _tell(domain, PolicySet(domain=DOMAIN, policy=policy, by="ops"), at)
        for number, wait_s in enumerate(waits_s):
            at += timedelta(seconds=wait_s)
            said = (correction if number % 2 else preference)(f"{len(domain.told)}", f"person {number % 2}")
            _tell(domain, said, at)
        _tell(domain, ClockTicked(domain=DOMAIN, at=at), at)
        _tell(domain, RoundAsked(domain=DOMAIN, by="ops"), at)
        for _ in range(4):
            match domain.said[-1] if domain.said else None:
                case orders.SelectSnapshot() as order:
                    _tell(domain, selected(order), at)
                case orders.TrainCandidate() as order:
                    _tell(domain, trained(order), at)
                case orders.EvaluateCandidate() as order:
                    _tell(domain, evaluated(order, paired), at)
                case orders.SwapRelease() as order:
                    _tell(domain, finished(order), at)
                case _:
                    break


def _tell(domain: DomainLog, event: DomainEvent, at: datetime) -> None:
    domain.tell(event, at=at)
    pack(domain.state)
    found = prospect(domain.state, at)
    assert found.wake_at is None or found.wake_at > at


@given(CRON, ZONES, MOMENTS)
def test_a_schedule_that_is_accepted_has_a_time_to_come_within_ten_years(
    cron: str, timezone: str, now: datetime
) -> None:
    schedule = Schedule(cron, timezone)
    try:
        check_policy(Policy(schedule=schedule), now)
    except Invalid:
        return
    first = next_time(schedule, now)
    assert first is not None and now < first < now + timedelta(days=3653)


@pytest.mark.parametrize("timezone", ["Australia/Lord_Howe", "Pacific/Apia", "America/Havana", "Africa/Casablanca"])
@given(CRON, st.datetimes(datetime(2010, 1, 1), datetime(2027, 1, 1)))
def test_the_next_time_is_later_also_where_clocks_are_odd(timezone: str, cron: str, at: datetime) -> None:
    after = at.replace(tzinfo=START.tzinfo)
    try:
        check_readable(Policy(schedule=Schedule(cron, timezone)))
    except Invalid:
        return
    found = next_time(Schedule(cron, timezone), after)
    assert found is None or found > after
