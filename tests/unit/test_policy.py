"""The policy: when a round is due, and why not yet; schedule, quiet hours and budget on the clocks of time zones."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, get_type_hints

import pytest
from msgspec.structs import replace

from streams.errors import Invalid
from streams.gate import GateMargins
from streams.policy import (
    Gathered,
    Keep,
    NamedPeople,
    Outlook,
    Policy,
    QuietHours,
    Schedule,
    Thresholds,
    check_policy,
    local_day,
    next_time,
    outlook,
    quiet_until,
)
from streams.recipes import LoraRecipe
from streams.style import StyleRule
from tests import english

NOON = datetime(2026, 11, 4, 12, 0, tzinfo=UTC)  # a Wednesday


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Said(NamedTuple):
    """An outlook as it reads in English."""

    due: bool
    reason: str
    missing: tuple[str, ...]
    wake_at: datetime | None


def look(
    thresholds: Thresholds | None = None, now: datetime = NOON, policy: dict[str, Any] | None = None, **gathered: Any
) -> Said:
    """The outlook of a policy whose only trigger is, unless said otherwise, three corrections."""
    found = Policy(thresholds=thresholds or Thresholds(corrections=3), **policy or {})
    return said(outlook(found, Gathered(**{"people": 1} | gathered), now))


def said(found: Outlook) -> Said:
    return Said(found.due, "; ".join(english.reasons(found.reasons)), english.reasons(found.missing), found.wake_at)


# Thresholds


def test_a_round_is_due_with_the_last_correction_that_was_asked_for_and_the_reason_says_so() -> None:
    assert look(corrections=2) == Said(False, "", ("2 of 3 corrections; 1 more",), None)
    assert look(corrections=3) == Said(True, "3 corrections (the policy asks for 3)", (), None)


def test_preferences_alone_suffice() -> None:
    either = Thresholds(corrections=3, preferences=4)
    assert look(either, corrections=2, preferences=3).missing == (
        "2 of 3 corrections; 1 more",
        "3 of 4 preferences; 1 more",
    )
    assert look(either, preferences=4).reason == "4 preferences (the policy asks for 4)"
    assert look(either, corrections=3, preferences=4).reason == (
        "3 corrections (the policy asks for 3); 4 preferences (the policy asks for 4)"
    )


def test_a_threshold_that_is_off_is_neither_reached_nor_missed() -> None:
    off = Thresholds(corrections=None, preferences=4)
    assert look(off, corrections=1000).missing == ("0 of 4 preferences; 4 more",)
    assert look(Thresholds(corrections=None), corrections=1000) == Said(False, "", (), None)


def test_enough_corrections_of_too_few_people_wait_for_more_people() -> None:
    crowd = Thresholds(corrections=3, people=2)
    found = look(crowd, corrections=5, people=1)
    assert (found.due, found.missing) == (False, ("1 of 2 people; 1 more",))
    assert found.reason == "5 corrections (the policy asks for 3)", "what is there already is said too"
    assert look(crowd, corrections=1, people=1).missing == ("1 of 3 corrections; 2 more", "1 of 2 people; 1 more")
    assert look(crowd, corrections=5, people=2).due


@pytest.mark.parametrize(("rule", "counted"), [("one", "as one a key"), ("none", "not at all")])
def test_where_people_are_missing_it_is_said_how_those_count_whom_services_named(
    rule: NamedPeople, counted: str
) -> None:
    crowd = Thresholds(corrections=3, people=2, named_people=rule)
    said = f"the 17 whom services named count {counted} (thresholds.named_people)"
    assert look(crowd, corrections=5, people=1, named=17).missing == ("1 of 2 people; 1 more", said)
    assert look(crowd, corrections=5, people=1).missing == ("1 of 2 people; 1 more",)
    assert look(replace(crowd, named_people="each"), corrections=5, people=1, named=1).missing == (
        "1 of 2 people; 1 more",
    )


# Days


def test_a_release_that_has_grown_old_is_replaced_if_anything_is_new() -> None:
    weekly = Thresholds(corrections=50, days=7)
    released = NOON - timedelta(days=7)
    found = look(weekly, last_release_at=released, corrections=1)
    assert found.due and found.reason == "the release is more than 7 days old and 1 things are new"
    young = look(weekly, now=NOON - timedelta(seconds=1), last_release_at=released, corrections=1)
    assert not young.due and young.wake_at == NOON
    assert "the release is 7 days old at 2026-11-04 12:00 UTC" in young.missing


def test_an_old_release_without_anything_new_stays_and_the_words_say_so() -> None:
    found = look(Thresholds(corrections=None, days=0.5), last_release_at=NOON - timedelta(days=2))
    assert (found.due, found.wake_at) == (False, None)
    assert found.missing == ("the release is more than 0.5 days old, but nothing is new",)


# Schedule


def test_at_a_time_of_the_schedule_a_round_is_due_if_anything_is_new() -> None:
    nightly = {"schedule": Schedule("30 2 * * *")}
    last = utc("2026-11-04T02:30")
    early = look(now=utc("2026-11-05T02:29"), policy=nightly, corrections=1, last_asked_at=last)
    assert not early.due and early.wake_at == utc("2026-11-05T02:30")
    assert early.missing == ("1 of 3 corrections; 2 more", "or on Thursday 02:30")
    found = look(now=utc("2026-11-05T02:30"), policy=nightly, corrections=1, last_asked_at=last)
    assert found.due and found.reason == "the schedule (30 2 * * *) and 1 new things"


def test_a_time_of_the_schedule_that_passed_without_anything_new_is_made_up_for_by_what_comes_next() -> None:
    nightly = {"schedule": Schedule("30 2 * * *")}
    last = utc("2026-11-03T02:30")
    empty = look(now=utc("2026-11-04T02:30"), policy=nightly, last_asked_at=last)
    assert not empty.due and empty.wake_at == utc("2026-11-05T02:30")
    assert look(now=utc("2026-11-04T09:00"), policy=nightly, corrections=1, last_asked_at=last).due


def test_the_schedule_counts_from_the_last_round_asked_for_or_else_from_the_last_release() -> None:
    hourly = {"schedule": Schedule("0 * * * *")}
    before, after = NOON - timedelta(minutes=1), NOON + timedelta(minutes=1)
    assert look(now=after, policy=hourly, corrections=1, last_release_at=before).due
    assert not look(now=after, policy=hourly, corrections=1, last_release_at=before, last_asked_at=NOON).due


def test_the_schedule_is_read_on_the_clock_of_its_zone_in_winter_and_in_summer() -> None:
    madrid = Schedule("30 9 * * *", "Europe/Madrid")
    assert next_time(madrid, utc("2026-01-10T00:00")) == utc("2026-01-10T08:30")
    assert next_time(madrid, utc("2026-07-10T00:00")) == utc("2026-07-10T07:30")
    assert next_time(Schedule("0 8 * * *", "Asia/Shanghai"), utc("2026-01-10T00:00")) == utc("2026-01-11T00:00")


def test_a_schedule_whose_hour_the_clocks_leave_out_or_repeat_comes_once_that_day() -> None:
    """In Madrid 02:30 does not exist on 29 March 2026 and comes twice on 25 October 2026."""
    madrid = Schedule("30 2 * * *", "Europe/Madrid")
    for first, last in (("2026-03-28T12:00", "2026-03-30T12:00"), ("2026-10-24T12:00", "2026-10-26T12:00")):
        times, at = [], utc(first)
        while (at := next_time(madrid, at)) < utc(last):
            times.append(at)
        assert len(times) == 2, times


def test_the_words_name_the_day_and_hour_on_the_clock_of_the_schedule() -> None:
    found = look(now=utc("2026-11-03T20:00"), policy={"schedule": Schedule("15 6 * * 3", "Asia/Shanghai")})
    assert found.missing[-1] == "or on Wednesday 06:15" and found.wake_at == utc("2026-11-03T22:15")


def test_a_schedule_that_never_comes_is_never_due_and_the_words_say_so() -> None:
    """It may stand on an old log, from before such a line was refused."""
    never = Schedule("0 0 */31 * 1#2")
    assert next_time(never, NOON) is None
    found = look(policy={"schedule": never}, corrections=1, last_asked_at=NOON - timedelta(days=400))
    assert (found.due, found.wake_at) == (False, None)
    assert found.missing == ("1 of 3 corrections; 2 more", "the schedule (0 0 */31 * 1#2) has no time to come")


def test_from_the_second_of_two_equal_hours_the_next_time_is_not_in_the_first() -> None:
    """In Madrid the hour from 02:00 comes twice on 25 October 2026, from 00:00 and from 01:00 UTC."""
    madrid = Schedule("45 2 * * *", "Europe/Madrid")
    assert next_time(madrid, utc("2026-10-25T00:30")) == utc("2026-10-25T00:45")
    assert next_time(madrid, utc("2026-10-25T01:30")) == utc("2026-10-26T01:45")


# Quiet hours


def test_in_quiet_hours_a_round_that_is_due_waits_for_their_end() -> None:
    quiet = {"quiet_hours": QuietHours("11:00", "13:30")}
    found = look(policy=quiet, corrections=3)
    assert (found.due, found.wake_at) == (False, utc("2026-11-04T13:30"))
    assert found.missing == ("quiet hours last until 2026-11-04 13:30 UTC",)
    assert look(now=utc("2026-11-04T13:30"), policy=quiet, corrections=3).due
    assert look(now=utc("2026-11-04T10:59"), policy=quiet, corrections=3).due
    assert not look(now=utc("2026-11-04T11:00"), policy=quiet, corrections=3).due


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-11-04T21:59", None),
        ("2026-11-04T22:00", "2026-11-05T06:00"),
        ("2026-11-04T23:59", "2026-11-05T06:00"),
        ("2026-11-05T00:00", "2026-11-05T06:00"),
        ("2026-11-05T05:59", "2026-11-05T06:00"),
        ("2026-11-05T06:00", None),
    ],
)
def test_quiet_hours_may_pass_midnight(now: str, until: str | None) -> None:
    assert quiet_until(QuietHours("22:00", "06:00"), utc(now)) == (utc(until) if until else None)


def test_quiet_hours_are_read_on_the_clock_of_their_zone() -> None:
    shanghai = QuietHours("22:00", "06:00", "Asia/Shanghai")
    assert quiet_until(shanghai, utc("2026-11-04T14:00")) == utc("2026-11-04T22:00")
    assert quiet_until(shanghai, utc("2026-11-04T22:00")) is None


def test_a_night_of_quiet_hours_is_an_hour_shorter_or_longer_when_the_clocks_change() -> None:
    madrid = QuietHours("22:00", "06:00", "Europe/Madrid")
    assert quiet_until(madrid, utc("2026-03-28T21:00")) == utc("2026-03-29T04:00")
    assert quiet_until(madrid, utc("2026-10-24T20:00")) == utc("2026-10-25T05:00")


@pytest.mark.parametrize("minute", range(0, 240, 5))
def test_quiet_hours_that_end_in_the_repeated_hour_end_after_now_each_time(minute: int) -> None:
    """In Madrid the hour from 02:00 comes twice on 25 October 2026, from 00:00 and from 01:00 UTC."""
    now = utc("2026-10-24T23:00") + timedelta(minutes=minute)
    until = quiet_until(QuietHours("22:00", "02:30", "Europe/Madrid"), now)
    assert until is None or until > now
    assert (until is None) == (
        utc("2026-10-25T00:30") <= now < utc("2026-10-25T01:00") or now >= utc("2026-10-25T01:30")
    )


def test_quiet_hours_of_no_length_are_none() -> None:
    assert quiet_until(QuietHours("12:00", "12:00"), NOON) is None


# Budget


def test_a_spent_budget_waits_for_the_next_day_of_its_zone() -> None:
    found = look(policy={"rounds_per_day": 2}, corrections=3, asked_today=2)
    assert (found.due, found.wake_at) == (False, utc("2026-11-05T00:00"))
    assert found.missing == ("the budget of 2 rounds a day is used until 2026-11-05 00:00 UTC",)
    assert look(policy={"rounds_per_day": 2}, corrections=3, asked_today=1).due
    bogota = {"rounds_per_day": 1, "budget_timezone": "America/Bogota"}
    assert look(policy=bogota, corrections=3, asked_today=1).wake_at == utc("2026-11-05T05:00")


def test_the_day_of_the_budget_is_that_of_its_zone_also_when_it_has_25_hours() -> None:
    madrid = Policy(budget_timezone="Europe/Madrid")
    assert local_day(utc("2026-10-24T21:59"), madrid) != local_day(utc("2026-10-24T22:00"), madrid)
    assert local_day(utc("2026-10-24T22:00"), madrid) == local_day(utc("2026-10-25T22:59"), madrid)
    found = look(
        now=utc("2026-10-24T22:00"),
        policy={"rounds_per_day": 1, "budget_timezone": "Europe/Madrid"},
        corrections=3,
        asked_today=1,
    )
    assert found.wake_at == utc("2026-10-25T23:00")


# Bursts


def test_a_round_that_is_due_waits_until_nothing_new_has_come_for_a_while() -> None:
    settling = Thresholds(corrections=3, settle_s=60)
    found = look(settling, corrections=3, last_new_at=NOON - timedelta(seconds=59))
    assert (found.due, found.wake_at) == (False, NOON + timedelta(seconds=1))
    assert found.missing == ("due, and waiting until nothing new has come for 60 s",)
    assert look(settling, corrections=3, last_new_at=NOON - timedelta(seconds=60)).due


def test_a_round_waits_no_longer_once_twice_as_much_has_come_as_was_asked_for() -> None:
    settling = Thresholds(corrections=3, preferences=4, settle_s=60)
    assert not look(settling, corrections=5, preferences=7, last_new_at=NOON).due
    assert look(settling, corrections=6, last_new_at=NOON).due
    assert look(settling, corrections=3, preferences=8, last_new_at=NOON).due


def test_everything_that_stands_in_the_way_is_said_and_the_first_moment_that_may_change_it() -> None:
    found = look(
        Thresholds(corrections=3, people=2, settle_s=60),
        policy={"quiet_hours": QuietHours("11:00", "13:00"), "rounds_per_day": 1},
        corrections=3,
        asked_today=1,
        last_new_at=NOON,
    )
    assert [words.split()[0] for words in found.missing] == ["1", "the", "quiet", "due,"]
    assert not found.due and found.wake_at == NOON + timedelta(seconds=60)


# What is refused


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy(Thresholds(corrections=0)), r"thresholds\.corrections must be at least 1, or null"),
        (Policy(Thresholds(preferences=-1)), r"thresholds\.preferences"),
        (Policy(Thresholds(people=0)), r"thresholds\.people"),
        (Policy(Thresholds(days=0.0)), r"thresholds\.days must be above 0"),
        (Policy(Thresholds(days=1e9)), r"thresholds\.days must be above 0 and at most 3650"),
        (Policy(Thresholds(days=float("nan"))), r"thresholds\.days"),
        (Policy(Thresholds(settle_s=-1.0)), r"thresholds\.settle_s"),
        (Policy(Thresholds(settle_s=3601.0)), r"thresholds\.settle_s"),
        (Policy(rounds_per_day=0), "rounds_per_day must be at least 1"),
        (Policy(from_base_every=0), "from_base_every must be at least 1, or null for never; got 0"),
        (Policy(budget_timezone="Mars/Olympus"), "budget_timezone 'Mars/Olympus' is not a time zone"),
        (Policy(budget_timezone="../../etc/passwd"), "budget_timezone"),
        (Policy(schedule=Schedule("0 0 * *")), r"schedule\.cron"),
        (Policy(schedule=Schedule("61 0 * * *")), r"schedule\.cron"),
        (
            Policy(schedule=Schedule("0 0 */31 * 1#2")),
            r"schedule\.cron '0 0 \*/31 \* 1#2' has no time within the next ten",
        ),
        (Policy(schedule=Schedule(f"{'0' * 5000} 0 * * *")), r"schedule\.cron .* a number in it is too long"),
        (Policy(schedule=Schedule(f"{'0,' * 100}0 0 * * *")), r"schedule\.cron must be at most 200 characters"),
        (Policy(schedule=Schedule("0 0 * * *", "Nowhere")), r"schedule\.timezone"),
        (Policy(quiet_hours=QuietHours("24:00", "06:00")), r"quiet_hours\.start must be HH:MM"),
        (Policy(quiet_hours=QuietHours("22:00", "six")), r"quiet_hours\.end must be HH:MM"),
        (Policy(quiet_hours=QuietHours("22:00", "06:00", "")), r"quiet_hours\.timezone"),
        (Policy(recipe=LoraRecipe(rank=0)), r"recipe\.rank"),
        (Policy(gate=GateMargins(alpha=1.0)), r"gate\.alpha"),
        (Policy(keep=Keep(releases=1)), r"keep\.releases must be from 2 to 10000; got 1"),
        (Policy(keep=Keep(days=-1)), r"keep\.days must be from 0 to 3650; got -1"),
        (Policy(gate=GateMargins(alpha=1e-17)), r"gate\.alpha must be at least 0\.0001"),
        (
            Policy(style=(StyleRule(rule="no_opener"), StyleRule(rule="short"))),
            r"style\[1\]\.rule is one of at_most_words",
        ),
        (Policy(style=(StyleRule(rule="at_most_words", value="30"),)), r"style\[0\]\.value is how many"),
        (Policy(style=(StyleRule(rule="no_opener"),) * 2), r"style\[1\] stands there before"),
    ],
)
def test_a_policy_that_could_never_be_acted_upon_is_refused_by_name_of_the_field(policy: Policy, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        check_policy(policy, NOON)


def whole_numbers(of: Policy | Thresholds | LoraRecipe | Keep, within: str = "") -> list[str]:
    """The names of all whole numbers of a policy."""
    found = [f"{within}{name}" for name, hint in get_type_hints(type(of)).items() if hint in (int, int | None)]
    if isinstance(of, Policy):
        for name in ("thresholds", "recipe", "keep"):
            found += whole_numbers(getattr(of, name), f"{name}.")
    return found


@pytest.mark.parametrize("number", [10**9 + 1, 2**63, 2**64])
@pytest.mark.parametrize("name", whole_numbers(Policy()))
def test_every_number_of_a_new_policy_has_a_range(name: str, number: int) -> None:
    part, _, field = name.rpartition(".")
    changed = replace(getattr(Policy(), part) if part else Policy(), **{field: number})
    policy = replace(Policy(), **{part: changed}) if part else changed
    if name == "recipe.seed" and number < 2**63:
        return
    with pytest.raises(Invalid, match=rf"{name} must be (at most|from [02])"):
        check_policy(policy, NOON)


@pytest.mark.parametrize(
    ("name", "value"), [("rank", 10**9), ("epochs", 10**6), ("alpha", 1e9), ("replay_weight", 1e9)]
)
def test_a_recipe_that_costs_more_than_anybody_means_is_refused_with_what_it_would_cost(
    name: str, value: float
) -> None:
    recipe = replace(LoraRecipe(), **{name: value})
    with pytest.raises(Invalid, match=rf"recipe\.{name} must be at most \d+ \(.*\); got {value}"):
        check_policy(Policy(recipe=recipe), NOON)


def test_whether_a_schedule_comes_within_ten_years_is_asked_from_now_on() -> None:
    """29 February is a Sunday in 2032, and in 2060."""
    rare = Policy(schedule=Schedule("0 0 29 2 */7"))
    check_policy(rare, NOON)
    with pytest.raises(Invalid, match="ten years"):
        check_policy(rare, utc("2033-01-01"))


def test_a_policy_that_can_be_acted_upon_is_not_refused() -> None:
    check_policy(Policy(), NOON)
    check_policy(
        Policy(
            Thresholds(corrections=None, preferences=1, people=3, days=0.01, settle_s=3600),
            Schedule("*/5 8-18 * * mon-fri", "Asia/Shanghai"),
            QuietHours("23:30", "00:15", "America/Bogota"),
            rounds_per_day=1,
            budget_timezone="Europe/Madrid",
        ),
        NOON,
    )
