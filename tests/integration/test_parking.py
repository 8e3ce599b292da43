"""A bug parks the key that met it, with its reason; the others go on, and a mended version takes it up where it stood."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from streams import following, projections, replay, rounds, upgrade, versions
from streams.codec import decode
from streams.envelope import Envelope, Recorded
from streams.erased import keep_erased
from streams.erasures import Journal
from streams.errors import Invalid
from streams.events import CONVERSATIONS, DOMAINS, Event
from streams.facts import conversations
from streams.facts.conversations import PromptAsked, ReplyCorrected, ReplyDrafted
from streams.facts.domains import ClockTicked
from streams.facts.people import PersonErased
from streams.facts.rounds import RoundAsked
from streams.following import take_up_parked
from streams.loading import NotSoFast
from streams.log import MemoryLog, Message
from streams.orders import SelectSnapshot
from streams.parking import TooManyParked
from streams.replay import rebuild, rebuild_live, verify
from streams.store import Store
from tests.integration.by_hand import AT, ByHand, change, created, empty, live_domain, rows, talk
from workers.orders import Intake, claim
from workers.reconciler import _standings

WORDS = "somebody's own words"
STEPS = [
    (conversations, "fold"),
    (conversations, "rows"),
    (conversations, "react"),
    (projections, "of_domain"),
    (rounds, "react"),
]


@pytest.fixture
def world(database: Engine) -> Iterator[ByHand]:
    empty(database)
    upgrade.upgrade(database, MemoryLog)
    yield ByHand(database, MemoryLog())


@contextmanager
def bug(module: ModuleType, step: str, meets: Callable[[Event], bool]) -> Iterator[None]:
    """One step of ours fails at the events that `meets` says."""
    works = getattr(module, step)

    def fails(*given: Any) -> Any:
        for one in given:
            one = one.envelope if isinstance(one, Recorded) else one
            if isinstance(one, Envelope) and meets(one.event):
                raise KeyError(WORDS)
        if meets(given[-1]):
            raise KeyError(WORDS)
        return works(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, step, fails)
        yield


def of_poor(event: Event) -> bool:
    """A tick of the domain `poor`, or the third event of the conversation `halting`."""
    if isinstance(event, ReplyDrafted):
        return event.conversation_id == "halting" and event.index == 1
    return isinstance(event, ClockTicked) and event.domain == "poor"


def parked(world: ByHand) -> list[tuple[object, ...]]:
    return rows(world.database, 'SELECT kind, domain, topic, "offset", reason FROM noria.parked ORDER BY kind, key')


def effects(world: ByHand, key: str) -> int:
    ((number,),) = rows(world.database, "SELECT count(*) FROM noria.events WHERE key = :key", key=key)
    return int(str(number))


def said(world: ByHand) -> list[dict[str, Any]]:
    return [msgspec.json.decode(record.value) for record in world.quarantined()]


def at_the_end(world: ByHand) -> bool:
    ends = {(topic, p): end for topic in (CONVERSATIONS, DOMAINS) for p, end in world.log.ends(topic).items() if end}
    return {place: end for place, end in world.store.positions().items() if end} == ends


def equal(world: ByHand) -> bool:
    report = verify(world.database, world.log)
    assert report.equal, report
    return report.equal


def take_up(world: ByHand) -> None:
    """As the stream does when it starts."""
    take_up_parked(Store(world.database), world.log)


def two_of_each(world: ByHand) -> None:
    """A domain that goes well and one that is poor; a conversation that goes well, and one that is halting."""
    for domain in ("rich", "poor"):
        world.say(*(ClockTicked(domain=domain, at=AT) for _ in range(3)), RoundAsked(domain=domain, by="op"))
    world.say(*talk("rich", "ann", "halting"), *talk("rich", "bob", "well"))


@pytest.mark.parametrize(("module", "step"), STEPS, ids=[f"{m.__name__}.{step}" for m, step in STEPS])
def test_one_key_that_meets_a_bug_is_parked_and_taken_up_in_order_once_it_is_mended(
    world: ByHand, module: ModuleType, step: str
) -> None:
    live_domain(world, "rich")
    live_domain(world, "poor")
    before = effects(world, "poor")
    with bug(module, step, of_poor):
        two_of_each(world)
        world.settle()
        ((kind, domain, topic, offset, reason),) = was = parked(world)
        of_domains = module is not conversations
        assert (kind, domain, topic) == (
            ("domain", "poor", DOMAINS) if of_domains else ("exchange", "rich", CONVERSATIONS)
        )
        assert str(reason).startswith("KeyError at streams/store.py:") and WORDS not in str(reason)
        assert effects(world, "well") == 7 and effects(world, "halting") == (7 if of_domains else 2)
        assert effects(world, "poor") - before == (0 if of_domains else 5)  # with the round that follows
        assert at_the_end(world)

        change(world.database, "DELETE FROM noria.outbox WHERE sent_at IS NOT NULL")  # as the relay does after a day
        world.store.apply(world.records())
        take_up(world)
        world.settle()
        assert len(said(world)) == 1
        rebuild_live(world.database, world.log)
        world.settle()
        (told,) = said(world)
        assert told["parked"] == kind and told["place"].endswith(f"@{offset}") and WORDS not in str(told)
        assert [row[:4] for row in parked(world)] == [row[:4] for row in was]
        assert equal(world)

    take_up(world)
    assert parked(world) == []
    world.settle()
    assert effects(world, "halting") == 7 and effects(world, "poor") - before == 5
    assert sorted(order.domain for order in world.orders() if isinstance(order, SelectSnapshot)) == ["poor", "rich"]
    assert len(said(world)) == 1
    assert equal(world)  # with what a log comes to of which nothing was ever parked


def test_of_a_batch_of_500_only_the_key_of_the_one_poisonous_event_is_left_out(world: ByHand) -> None:
    with bug(
        conversations, "fold", lambda event: isinstance(event, ReplyCorrected) and event.conversation_id == "c-35"
    ):
        for number in range(72):
            world.say(*talk("rich", "ann", f"c-{number}"))
        batch = world.records()[:500]
        assert world.store.apply(batch).events == 498 - sum(
            decode(r.value).event.conversation_id == "c-35" for r in batch[498:]
        )
        assert len(parked(world)) == 1


def test_broken_off_in_the_middle_of_taking_up_it_stands_parked_where_it_had_come(
    world: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BATCH_RECORDS", 2)
    with bug(conversations, "react", of_poor):
        two_of_each(world)
        world.follow()
        ((_, _, _, first, _),) = parked(world)
    put, calls = Store._put_said, 0

    def killed(*given: Any) -> None:
        nonlocal calls
        calls += 1
        put(*given)
        if calls == 2:
            raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "_put_said", killed)
        with pytest.raises(SystemExit):
            take_up(world)
    ((_, _, _, now, _),) = parked(world)
    assert now == int(str(first)) + 2 and effects(world, "halting") == 4
    take_up(world)
    world.settle()
    assert parked(world) == [] and effects(world, "halting") == 7 and equal(world)


def test_what_is_parked_counts_towards_no_flood_of_what_cannot_be_read(world: ByHand) -> None:
    with bug(conversations, "fold", of_poor):
        two_of_each(world)
        world.settle()
        world.log.append([Message(CONVERSATIONS, "c", b"not an event")] * 50, 10)
        assert world.follow() == 50
        world.settle()
    assert [one.get("parked") for one in said(world)].count("exchange") == 1 and len(said(world)) == 51


def test_a_second_bug_further_on_parks_it_there(world: ByHand) -> None:
    with bug(conversations, "fold", of_poor):
        two_of_each(world)
        world.settle()
        ((_, _, _, first, _),) = parked(world)
    with bug(
        conversations, "fold", lambda event: isinstance(event, ReplyCorrected) and event.conversation_id == "halting"
    ):
        take_up(world)
        world.settle()
        ((_, _, _, now, _),) = parked(world)
        assert now == int(str(first)) + 3 and effects(world, "halting") == 5
        assert len(said(world)) == 2
        assert equal(world)


def test_a_bug_for_everybody_stops_the_reader_and_parks_nobody_more(
    world: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.say(*(talk("rich", "ann", f"c-{number}")[0] for number in range(51)))
    with bug(conversations, "fold", lambda event: isinstance(event, PromptAsked)):
        with pytest.raises(TooManyParked, match="51 keys met a bug"):
            world.follow()
        assert parked(world) == [] and world.store.positions() == {}
        with pytest.raises(TooManyParked):
            rebuild(
                world.database, world.log, {(CONVERSATIONS, p): e for p, e in world.log.ends(CONVERSATIONS).items()}
            )
        world.store.apply(world.records()[:50])  # and as few as that do not come by themselves, one by one, to more
        with pytest.raises(TooManyParked):
            world.follow()
    world.follow()
    take_up(world)
    assert parked(world) == [] and effects(world, "c-50") == 1 and equal(world)


@pytest.mark.parametrize("fast", [True, False])
def test_an_update_leaves_parked_what_is_so_that_what_follows_from_it_is_said(
    world: ByHand, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    live_domain(world, "rich")
    live_domain(world, "poor")
    with bug(rounds, "react", of_poor):
        two_of_each(world)
        world.settle()
        was = parked(world)
    if not fast:
        monkeypatch.setattr(replay, "load", not_so_fast)
    monkeypatch.setitem(versions.STATES, "domain", versions.STATES["domain"] + 1)
    assert upgrade.upgrade(world.database, lambda: world.log) is not None
    assert parked(world) == was
    newer = ByHand(world.database, world.log)
    take_up(newer)
    newer.settle()
    assert sorted(order.domain for order in world.orders() if isinstance(order, SelectSnapshot)) == ["poor", "rich"]
    assert parked(newer) == [] and equal(newer)


def test_an_update_to_code_that_meets_a_bug_leaves_the_tables_as_they_are(
    world: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_domain(world, "rich")
    live_domain(world, "poor")
    two_of_each(world)
    world.settle()
    monkeypatch.setitem(versions.STATES, "domain", versions.STATES["domain"] + 1)
    with bug(rounds, "fold", of_poor), pytest.raises(Invalid, match=r"meets a bug at noria\.domains-.*KeyError"):
        upgrade.upgrade(world.database, lambda: world.log)
    assert parked(world) == [] and effects(world, "poor") > 0 and upgrade.wanted(world.database)


def test_a_person_is_erased_although_their_domain_stands_parked(world: ByHand, tmp_path: Path) -> None:
    live_domain(world, "poor")
    change(world.database, "INSERT INTO keyring.person_keys VALUES ('kid', 'person:ann', 'wrapped', now(), NULL)")
    with bug(rounds, "fold", of_poor):
        world.say(ClockTicked(domain="poor", at=AT), PersonErased(domain="poor", person="ann", kids=("kid",), by="op"))
        world.follow()
    gone = "SELECT wrapped::text, destroyed_at IS NOT NULL FROM keyring.person_keys"
    assert rows(world.database, gone)[0][1] is True
    change(world.database, "UPDATE keyring.person_keys SET wrapped = 'wrapped', destroyed_at = NULL")  # an older backup
    assert keep_erased(world.database, world.log, Journal(tmp_path / "erasures")) == ["kid"]


def test_of_a_parked_domain_no_order_is_carried_out_and_nothing_is_put_level(world: ByHand) -> None:
    for domain in ("rich", "poor"):
        world.say(created(domain))
    world.settle()
    Intake(world.database, world.log).take_in()
    with bug(rounds, "fold", of_poor):
        world.say(ClockTicked(domain="poor", at=AT))
        world.follow()
    claimed = claim(world.database, ["swap_release"], "w", "here")
    assert claimed is not None and claimed.order.domain == "rich"
    assert claim(world.database, ["swap_release"], "w", "here") is None
    with world.database.connect() as connection:
        assert [standing.domain for standing in _standings(connection)] == ["rich"]


def not_so_fast(*given: object, **named: object) -> int:
    raise NotSoFast
