"""The policy of a domain: when a round is due, what it may cost, how it trains and what its gate asks. Pure."""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Struct, field

from streams.annotation import Annotation
from streams.endpoints import Teacher
from streams.errors import Invalid, InvalidField
from streams.gate import GateMargins
from streams.personal import KINDS, PersonalKind
from streams.reasons import Reason, reason
from streams.recalled import Recall
from streams.recipes import BroughtRecipe, LoraRecipe, Recipe, RewardRecipe
from streams.selection import USUAL, Selection
from streams.selection import check as check_selection
from streams.style import StyleRule
from streams.style import check as check_style
from streams.style import check_new as check_new_style

MOST_GATHERED = 1_000_000
MINUTES_OF_A_DAY = 1440
LEAST_RELEASES = 2  # what answers, and what a rollback goes back to
MOST_KEPT = 10_000
MOST_BETWEEN = 10_000
MOST_DAYS_KEPT = 3650
SCHEDULE_WITHIN = timedelta(days=3652)  # ten years
_CRON_CHARACTERS = 200
_ANY_MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


NamedPeople = Literal["each", "one", "none"]


class Thresholds(Struct, frozen=True):
    """A round is due when enough corrections *or* enough preferences *or* enough days have gathered,
    and, whichever it was, from enough distinct people. None switches a threshold off.

    `named_people`: how people count whom a service's key named, and who may be invented: each for one, all of one key as one, or
    not at all. Who has a key of their own always counts.

    `settle_s`: a round that is due waits until nothing new has come for so long, so that a burst is taken whole; it waits
    no longer once twice as much has gathered as was asked for."""

    corrections: int | None = 40
    preferences: int | None = None
    people: int = 1
    named_people: NamedPeople = "one"
    days: float | None = None
    settle_s: float = 0.0


class Schedule(Struct, frozen=True):
    """A cron line read on the clock of a time zone; at each of its times a round is due if anything is new."""

    cron: str
    timezone: str = "UTC"


class QuietHours(Struct, frozen=True):
    """From `start` to `end` ("HH:MM", may pass midnight) no round starts; what became due waits."""

    start: str
    end: str
    timezone: str = "UTC"


class Keep(Struct, frozen=True):
    """How many models stay on the disk: of the newest `releases`, and of the newest `refused` candidates (refused, failed or
    cancelled); and, however many they are, all releases that answered within the last `days`. What answers, what a rollback goes
    back to at once, what is in use and the base stay whatever is said here."""

    releases: int = 4
    refused: int = 2
    days: int = 7


class Policy(Struct, frozen=True):
    """When and how a domain learns. A reader passes over a field that a later version brought; the door names one that it does not
    know (`api.shapes`).

    `from_base_every`: every round whose number it divides starts from the domain's base and learns all that counts anew, so that
    what rounds lose does not add up; None: each starts from the release in force. `teacher`: who words training material for the
    builders that need one. `selection`: by which steps a round's training set is chosen. `style`: the domain's guide, how its
    answers are to be worded. `mask`: the kinds of personal data that are masked in what is learned and examined; a policy of a time
    before there were any names none."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    schedule: Schedule | None = None
    quiet_hours: QuietHours | None = None
    rounds_per_day: int = 24
    budget_timezone: str = "UTC"
    recipe: Recipe = field(default_factory=LoraRecipe)
    gate: GateMargins = field(default_factory=GateMargins)
    keep: Keep = field(default_factory=Keep)
    recall: Recall = field(default_factory=Recall)
    from_base_every: int | None = None
    teacher: Teacher | None = None
    selection: Selection = USUAL
    style: tuple[StyleRule, ...] = ()
    mask: tuple[PersonalKind, ...] = KINDS
    annotation: Annotation = field(default_factory=Annotation)


class Gathered(Struct, frozen=True):
    """What has come in since a round was last asked for, and what the decision needs to know of the past. `people`: as the policy
    counts them."""

    corrections: int = 0
    preferences: int = 0
    people: int = 0
    named: int = 0  # persons, however they count, whom a service's key named
    last_new_at: datetime | None = None
    last_release_at: datetime | None = None
    last_asked_at: datetime | None = None
    asked_today: int = 0


class Outlook(Struct, frozen=True):
    """Whether a round is due (`reasons` say why), or what is still missing; `wake_at`: when time alone may change it."""

    due: bool
    reasons: tuple[Reason, ...] = ()
    missing: tuple[Reason, ...] = ()
    wake_at: datetime | None = None


def check_policy(policy: Policy, now: datetime) -> None:
    """Raise Invalid naming the field, if the policy could never be acted upon. What the door asks of a new one."""
    t = policy.thresholds
    for name, value in (("corrections", t.corrections), ("preferences", t.preferences), ("people", t.people)):
        if value is not None and value > MOST_GATHERED:
            raise InvalidField(
                f"thresholds.{name}", f"must be at most {MOST_GATHERED}, or it is never reached; got {value}"
            )
    every = policy.from_base_every
    if every is not None and every > MOST_BETWEEN:
        raise InvalidField("from_base_every", f"must be at most {MOST_BETWEEN}, or null for never; got {every}")
    if policy.rounds_per_day > MINUTES_OF_A_DAY:
        raise InvalidField("rounds_per_day", f"must be at most {MINUTES_OF_A_DAY}; got {policy.rounds_per_day}")
    for name, kept, least, most in (
        ("releases", policy.keep.releases, LEAST_RELEASES, MOST_KEPT),
        ("refused", policy.keep.refused, 0, MOST_KEPT),
        ("days", policy.keep.days, 0, MOST_DAYS_KEPT),
    ):
        if not least <= kept <= most:
            raise InvalidField(f"keep.{name}", f"must be from {least} to {most}; got {kept}")
    if isinstance(policy.recipe, BroughtRecipe):
        raise InvalidField("recipe.method", "brought is for one round, which is asked for with its adapter")
    if isinstance(policy.recipe, RewardRecipe):
        raise InvalidField("recipe.method", "reward is for one round, which is asked for: no release comes of it")
    policy.recipe.check_new()
    policy.recall.check_new()
    if policy.teacher is not None:
        policy.teacher.check_new("teacher")
    check_new_style(policy.style)
    check_readable(policy)
    policy.gate.check_new()
    if policy.schedule is not None:
        cron = policy.schedule.cron
        if len(cron) > _CRON_CHARACTERS:
            raise InvalidField("schedule.cron", f"must be at most {_CRON_CHARACTERS} characters; got {len(cron)}")
        first = next_time(policy.schedule, now)
        if first is None or first > now + SCHEDULE_WITHIN:
            raise InvalidField("schedule.cron", f"{cron!r} has no time within the next ten years")


def check_readable(policy: Policy) -> None:
    """Raise Invalid naming the field, if no decision could be made by the policy. What a reader of the log asks, and so it must
    never refuse what it has let pass before: a narrower rule for new policies belongs in `check_policy`."""
    t = policy.thresholds
    for name, value in (("corrections", t.corrections), ("preferences", t.preferences), ("people", t.people)):
        if value is not None and value < 1:
            raise InvalidField(f"thresholds.{name}", f"must be at least 1, or null to switch it off; got {value}")
    if t.days is not None and not 0 < t.days <= 3650:
        raise InvalidField("thresholds.days", f"must be above 0 and at most 3650; got {t.days}")
    if not 0 <= t.settle_s <= 3600:
        raise InvalidField("thresholds.settle_s", f"must be from 0 to 3600; got {t.settle_s}")
    if policy.rounds_per_day < 1:
        raise InvalidField("rounds_per_day", f"must be at least 1; got {policy.rounds_per_day}")
    if policy.from_base_every is not None and policy.from_base_every < 1:
        raise InvalidField("from_base_every", f"must be at least 1, or null for never; got {policy.from_base_every}")
    zone(policy.budget_timezone, "budget_timezone")
    if policy.schedule is not None:
        zone(policy.schedule.timezone, "schedule.timezone")
        try:
            CronSim(policy.schedule.cron, _ANY_MONDAY)
        except (CronSimError, ValueError) as error:  # ValueError: a number of thousands of digits
            said = str(error) if isinstance(error, CronSimError) else "a number in it is too long"
            cron = policy.schedule.cron[:_CRON_CHARACTERS]
            raise InvalidField("schedule.cron", f"{cron!r} is not a cron line: {said}") from None
    if policy.quiet_hours is not None:
        zone(policy.quiet_hours.timezone, "quiet_hours.timezone")
        _clock(policy.quiet_hours.start, "quiet_hours.start")
        _clock(policy.quiet_hours.end, "quiet_hours.end")
    policy.recipe.check()
    policy.recall.check()
    if policy.teacher is not None:
        policy.teacher.check("teacher")
    check_style(policy.style, "style")
    policy.annotation.check()
    policy.gate.check()
    check_selection(policy.selection)
    try:
        msgspec.msgpack.encode(policy)
    except OverflowError:
        raise Invalid("a number of it is larger than any state can hold") from None


def zone(name: str, where: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidField(where, f"{name!r} is not a time zone") from error


def local_day(now: datetime, policy: Policy) -> date:
    """The day that the budget counts `now` in."""
    return now.astimezone(zone(policy.budget_timezone, "budget_timezone")).date()


def outlook(policy: Policy, gathered: Gathered, now: datetime) -> Outlook:
    """Decide whether a round is due at `now`; otherwise say what is still missing."""
    t = policy.thresholds
    fresh = gathered.corrections + gathered.preferences
    reasons: list[Reason] = []
    missing: list[Reason] = []
    wakes: list[datetime] = []

    if t.corrections is not None:
        if gathered.corrections >= t.corrections:
            reasons.append(reason("corrections_enough", have=gathered.corrections, need=t.corrections))
        else:
            missing.append(reason("corrections", have=gathered.corrections, need=t.corrections))
    if t.preferences is not None:
        if gathered.preferences >= t.preferences:
            reasons.append(reason("preferences_enough", have=gathered.preferences, need=t.preferences))
        else:
            missing.append(reason("preferences", have=gathered.preferences, need=t.preferences))
    if t.days is not None and gathered.last_release_at is not None:
        old_at = gathered.last_release_at + timedelta(days=t.days)
        if old_at > now:
            wakes.append(old_at)
            missing.append(reason("release_old_at", days=t.days, at=old_at))
        elif fresh:
            reasons.append(reason("release_old", days=t.days, fresh=fresh))
        else:
            missing.append(reason("release_old_nothing_new", days=t.days))
    if policy.schedule is not None:
        since = gathered.last_asked_at or gathered.last_release_at
        passed = next_time(policy.schedule, since) if since is not None and fresh else None
        if passed is not None and passed <= now:
            reasons.append(reason("schedule_due", cron=policy.schedule.cron, fresh=fresh))
        elif (at := next_time(policy.schedule, now)) is None:
            missing.append(reason("schedule_never", cron=policy.schedule.cron))
        else:
            wakes.append(at)
            missing.append(reason("schedule_at", at=at.astimezone(zone(policy.schedule.timezone, "schedule"))))
    if not reasons:
        missing += _people_missing(gathered, t)
        return Outlook(due=False, missing=tuple(missing), wake_at=min(wakes, default=None))

    blocked = _people_missing(gathered, t)
    if gathered.asked_today >= policy.rounds_per_day:
        here = zone(policy.budget_timezone, "budget_timezone")
        tomorrow = datetime.combine(local_day(now, policy) + timedelta(days=1), time(), here).astimezone(UTC)
        wakes.append(tomorrow)
        blocked.append(reason("budget_used", rounds=policy.rounds_per_day, until=tomorrow))
    until = quiet_until(policy.quiet_hours, now) if policy.quiet_hours is not None else None
    if until is not None:
        wakes.append(until)
        blocked.append(reason("quiet_hours", until=until))
    settled_at = gathered.last_new_at + timedelta(seconds=t.settle_s) if gathered.last_new_at is not None else now
    if settled_at > now and not _plenty(gathered, t):
        wakes.append(settled_at)
        blocked.append(reason("settling", settle_s=t.settle_s))
    if blocked:
        return Outlook(False, tuple(reasons), tuple(blocked), min(wakes, default=None))
    return Outlook(True, tuple(reasons))


def next_time(schedule: Schedule, after: datetime) -> datetime | None:
    """The schedule's first time strictly after `after`, in UTC; None for a day that no calendar has."""
    if not _ever(schedule.cron):
        return None
    for moment in CronSim(schedule.cron, after.astimezone(zone(schedule.timezone, "schedule.timezone"))):
        at = moment.astimezone(UTC)
        if at > after:  # in an hour that comes twice, the first of two is found, even from the second
            return at
    return None


@lru_cache(maxsize=1024)
def _ever(cron: str) -> bool:
    """Whether the line has any time. Looking for one that never comes goes through fifty years: not at every event."""
    return next(CronSim(cron, _ANY_MONDAY), None) is not None


def quiet_until(hours: QuietHours, now: datetime) -> datetime | None:
    """When the quiet hours that `now` lies in end, in UTC; None outside of them."""
    here = now.astimezone(zone(hours.timezone, "quiet_hours.timezone"))
    start, end = _clock(hours.start, "quiet_hours.start"), _clock(hours.end, "quiet_hours.end")
    clock = here.time().replace(tzinfo=None)
    if start <= end:
        inside, day = start <= clock < end, here.date()
    else:
        inside, day = clock >= start or clock < end, here.date() + timedelta(days=int(clock >= start))
    if not inside:
        return None
    until = datetime.combine(day, end, here.tzinfo)
    # When clocks go back, an end within the repeated hour comes twice.
    return max(until.astimezone(UTC), until.replace(fold=here.fold).astimezone(UTC))


def _people_missing(gathered: Gathered, thresholds: Thresholds) -> list[Reason]:
    if gathered.people >= thresholds.people:
        return []
    missing = [reason("people", have=gathered.people, need=thresholds.people)]
    if gathered.named and thresholds.named_people != "each":
        missing.append(reason("named_people", named=gathered.named, count=thresholds.named_people))
    return missing


def _plenty(gathered: Gathered, thresholds: Thresholds) -> bool:
    asked = ((gathered.corrections, thresholds.corrections), (gathered.preferences, thresholds.preferences))
    return any(need is not None and have >= 2 * need for have, need in asked)


def _clock(text: str, where: str) -> time:
    try:
        return datetime.strptime(text, "%H:%M").time()
    except ValueError as error:
        raise InvalidField(where, f"must be HH:MM; got {text!r}") from error
