"""What grows is kept within bounds: old models go when the log says so and never one that is in use; rows that were sent and orders
that were carried out go, and nothing runs again; the verification needs neither."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine, text

from streams.artifacts import IN_USE_LOCK
from streams.cluster import Cluster
from streams.facts.domains import PolicySet
from streams.facts.releases import CandidateRebuilt, RebuildAsked, RollbackAsked
from streams.facts.rounds import CandidateEvaluated, CandidateTrained, RoundAsked
from streams.gate import FIXES, Paired
from streams.log import MemoryLog, Message
from streams.policy import Keep, Policy, Thresholds
from streams.recipes import LoraRecipe
from streams.relay import Relay
from streams.replay import verify
from streams.sealing import Keyring
from tests.door_world import make_settings
from tests.integration.by_hand import AT, ByHand, answer, change, created, empty, results, rows, talk
from workers import orders, retention
from workers.context import Context

NOW = datetime.now(UTC)


class Kept(ByHand):
    """A domain whose rounds make models that lie on a disk."""

    def __init__(self, database: Engine, context: Context) -> None:
        super().__init__(database, context.log)
        self.context = context
        self.made: list[tuple[str, str]] = []  # model and adapter, by round
        self.done: set[UUID] = set()
        self.at = AT

    def begin(self, keep: Keep, base: str) -> None:
        policy = Policy(thresholds=Thresholds(corrections=None), keep=keep)
        self.say(replace(created("roads"), base_model=base), PolicySet(domain="roads", policy=policy, by="ops"))
        self.settle(self.at)
        self.answer_all()

    def round(self, ship: bool = True) -> None:
        self.say(*talk("roads", "ann"), RoundAsked(domain="roads", by="ops"), at=self.at)
        self.settle(self.at)
        self.answer_all(ship)

    def go_to(self, release: int) -> None:
        self.say(RollbackAsked(domain="roads", to=release, by="ops"), at=self.at)
        self.settle(self.at)
        self.answer_all()

    def make_again(self, number: int, equal: bool = True) -> None:
        """As the door asks for it, and a worker does it."""
        query = "SELECT round_id, pin, snapshot, base_release, release FROM noria.rounds WHERE number = :number"
        ((round_id, pin, snapshot, base, release),) = rows(self.database, query, number=number)
        model, adapter = self.made[number - 1]
        asked = {"pin": pin, "snapshot": snapshot, "base_release": base, "release": release, "recipe": LoraRecipe()}
        event = RebuildAsked(
            domain="roads",
            round_id=str(round_id),
            model=model,
            adapter=adapter,
            by="ops",
            **asked,  # type: ignore[arg-type]
        )
        self.say(event, at=self.at)
        self.settle(self.at)
        self.answer_all(equal=equal)

    def answer_all(self, ship: bool = True, equal: bool = True) -> None:
        while fresh := [order for order in self.orders() if order.order_id not in self.done]:
            for order in fresh:
                for name, event in results(order):
                    if isinstance(event, CandidateTrained):
                        number = str(len(self.made)).encode()
                        pair = tuple(self.context.artifacts.put_bytes(kind + number) for kind in (b"m", b"a"))
                        self.made.append((pair[0], pair[1]))
                        event = replace(event, model=pair[0], adapter=pair[1])
                    if isinstance(event, CandidateEvaluated) and not ship:
                        event = replace(event, paired={FIXES: Paired(10, 0, 0, 0, 10)})
                    if isinstance(event, CandidateRebuilt) and equal:
                        number = str(self.made.index((event.model, event.adapter))).encode()
                        for kind in (b"m", b"a"):
                            self.context.artifacts.put_bytes(kind + number)
                    elif isinstance(event, CandidateRebuilt):
                        event = replace(event, equal=False, model="sha256:" + "d" * 64)
                    self.log.append([answer(order, name, event, self.at)], 10)
                self.done.add(order.order_id)
            self.settle(self.at)

    def look(self, now: datetime = NOW) -> None:
        retention.retire(self.context, now)
        self.settle(self.at)
        retention.remove(self.context)

    def there(self) -> list[bool]:
        """Of each round, whether model and adapter are on the disk; never one without the other."""
        found = [[self.context.artifacts.has(digest) for digest in pair] for pair in self.made]
        assert all(model == adapter for model, adapter in found)
        return [model for model, _ in found]


@pytest.fixture
def world(database: Engine, keyring: Keyring, tmp_path: Path) -> Kept:
    empty(database)
    settings = make_settings(tmp_path, Cluster(servers="unused"), "unused")
    return Kept(database, Context(settings, database, MemoryLog(), keyring, "worker-1"))


def begun(world: Kept, releases: int, refused: int, rounds: Sequence[bool], days: int = 0) -> str:
    base = world.context.artifacts.put_bytes(b"base")
    world.begin(Keep(releases=releases, refused=refused, days=days), base)
    for ship in rounds:
        world.round(ship)
    return base


def test_the_newest_releases_and_refused_candidates_stay_and_the_others_are_told_and_removed(world: Kept) -> None:
    base = begun(world, 2, 1, [True, False, True, False, True])
    assert world.there() == [True] * 5
    world.look()
    assert world.there() == [False, False, True, True, True] and world.context.artifacts.has(base)
    query = "SELECT release, state FROM noria.releases ORDER BY release"
    assert rows(world.database, query) == [(0, "retired"), (1, "removed"), (2, "retired"), (3, "live")]
    query = "SELECT number, model FROM noria.rounds WHERE removed_at IS NOT NULL ORDER BY number"
    assert rows(world.database, query) == [(number, world.made[number - 1][0]) for number in (1, 2)]
    assert retention.retire(world.context, NOW) == [] and retention.remove(world.context) == []
    assert verify(world.database, world.log).equal
    world.say(RollbackAsked(domain="roads", to=1, by="ops"))
    world.settle()
    world.answer_all()
    assert rows(world.database, "SELECT live_release FROM noria.domains") == [(3,)], "there is nothing to go back to"


def test_what_answers_what_is_warm_and_what_a_rollback_is_on_its_way_to_stays(world: Kept) -> None:
    begun(world, 2, 0, [True, True, True, True])
    change(
        world.database,
        "INSERT INTO work.engines (engine_id, domain, release, kind, model, wanted, state, changed_at)"
        " VALUES ('roads@2', 'roads', 2, 'llamacpp', :model, true, 'ready', now())",
        model=world.made[1][0],
    )
    said = retention.retire(world.context, NOW)
    assert [event.release for event in said] == [1]
    change(world.database, "DELETE FROM work.engines")
    # It came to stand on the log behind a rollback to what it is about.
    world.log = world.context.log = MemoryLog()
    world.relay = Relay(world.database, world.log)
    empty(world.database)
    world.made.clear()
    world.done.clear()
    begun(world, 2, 0, [True, True, True, True])
    world.say(RollbackAsked(domain="roads", to=1, by="ops"))
    retention.retire(world.context, NOW)
    world.settle()
    retention.remove(world.context)
    assert world.there() == [True, False, True, True]
    world.answer_all()
    assert rows(world.database, "SELECT live_release FROM noria.domains") == [(1,)]
    world.look()
    assert world.there() == [True, False, True, True]
    world.round()  # from release 1, which becomes the one before
    world.look()
    assert world.there() == [True, False, False, True, True]
    world.round()
    world.look()
    assert world.there() == [False, False, False, False, True, True]


def test_every_release_that_answered_within_the_last_days_stays_and_no_refused_candidate(world: Kept) -> None:
    begun(world, 2, 0, [], days=3)
    for _ in range(5):  # release 1 on the first day, 5 on the fifth
        world.at += timedelta(days=1)
        world.round()
    world.round(ship=False)
    world.look(world.at + timedelta(hours=12))
    assert world.there() == [False, True, True, True, True, False]
    world.at += timedelta(days=1)
    world.go_to(2)
    world.at += timedelta(days=1)
    world.go_to(5)
    world.look(world.at + timedelta(days=2, hours=12))
    assert world.there() == [False, True, False, True, True, False], (
        "2 answered once more, until two and a half days ago"
    )
    world.look(world.at + timedelta(days=3, hours=1))
    assert world.there() == [False, False, False, True, True, False]
    assert verify(world.database, world.log).equal


def test_what_was_made_again_is_there_and_can_be_gone_back_to_and_is_removed_again_in_its_time(world: Kept) -> None:
    begun(world, 2, 0, [True, False, True, True])
    world.look()
    assert world.there() == [False, False, True, True]
    world.at = NOW
    world.make_again(1)
    world.make_again(2)
    query = "SELECT number, removed_at IS NULL, rebuild ->> 'outcome' FROM noria.rounds ORDER BY number"
    assert rows(world.database, query)[:2] == [(1, True, "equal"), (2, True, "equal")]
    assert rows(world.database, "SELECT state FROM noria.releases WHERE release = 1") == [("retired",)]
    world.look(NOW + timedelta(hours=23))
    assert world.there() == [True] * 4
    world.go_to(1)
    assert rows(world.database, "SELECT live_release FROM noria.domains") == [(1,)]
    world.go_to(3)
    world.look(NOW + timedelta(hours=25))
    assert world.there() == [False, False, True, True], "although it was told before, when 3 answered as it does now"
    assert verify(world.database, world.log).equal


def test_what_came_out_different_is_told_and_not_taken_for_what_was_removed(world: Kept) -> None:
    begun(world, 2, 0, [True, True, True])
    world.look()
    world.make_again(1, equal=False)
    query = "SELECT removed_at IS NULL, model, rebuild ->> 'outcome', rebuild ->> 'model' FROM noria.rounds WHERE number = 1"
    assert rows(world.database, query) == [(False, world.made[0][0], "differs", "sha256:" + "d" * 64)]
    assert rows(world.database, "SELECT state FROM noria.releases WHERE release = 1") == [("removed",)]
    world.go_to(1)
    assert rows(world.database, "SELECT live_release FROM noria.domains") == [(3,)]
    assert verify(world.database, world.log).equal


def test_a_model_that_another_round_made_too_stays_while_one_of_them_is_kept(world: Kept) -> None:
    begun(world, 2, 0, [True, True, True])
    change(world.database, "UPDATE noria.rounds SET model = :model WHERE number = 3", model=world.made[0][0])
    world.look()
    assert [world.context.artifacts.has(digest) for digest in world.made[0]] == [True, False]


def test_who_dies_between_word_and_deed_leaves_what_the_next_look_removes(world: Kept) -> None:
    begun(world, 2, 0, [True, True, True])
    retention.retire(world.context, NOW)
    assert retention.remove(world.context) == [], "the tables do not say so yet"
    world.settle()
    assert world.there() == [True, True, True]
    world.context.artifacts.remove(world.made[0][0])  # killed after the first of two
    assert retention.remove(world.context) == [world.made[0][1]]
    assert world.there() == [False, True, True]


def test_nothing_is_removed_while_a_backup_is_made_or_something_new_is_not_yet_told(world: Kept) -> None:
    begun(world, 2, 0, [True, True, True])
    retention.retire(world.context, NOW)
    world.settle()
    with world.database.connect() as backup:
        backup.execute(text(f"SELECT pg_advisory_lock_shared({IN_USE_LOCK})"))
        assert retention.remove(world.context) == []
        backup.invalidate()
    with world.context.keeping():
        assert retention.remove(world.context) == []
    world.say(RoundAsked(domain="roads", by="ops"))
    assert retention.remove(world.context) == []
    world.settle()
    assert len(retention.remove(world.context)) == 2


def test_orders_carried_out_long_ago_are_forgotten_and_run_no_more_though_the_intake_is_lost(world: Kept) -> None:
    begun(world, 4, 4, [True, True])
    world.say(RoundAsked(domain="roads", by="ops"))
    world.settle()
    taken = orders.Intake(world.database, world.log).take_in()
    assert taken == 10
    assert retention.forget_orders(world.context) == 0
    change(world.database, "UPDATE work.claims SET received_at = received_at - interval '31 days'")
    assert retention.forget_orders(world.context) == 7
    query = "SELECT kind, state FROM work.claims ORDER BY received_at"
    assert rows(world.database, query) == [
        *[("swap_release", "done")] * 2,  # by which the release went live that answers, and the one before
        ("select_snapshot", "open"),
    ]
    change(world.database, "TRUNCATE work.intake")
    orders.Intake(world.database, world.log).take_in()
    assert rows(world.database, "SELECT kind FROM work.claims WHERE state = 'open'") == [("select_snapshot",)]
    assert rows(world.database, "SELECT count(*) FROM work.claims") == [(10,)]


def test_rows_that_were_sent_long_ago_are_removed_and_the_tables_still_equal_the_log(world: Kept) -> None:
    begun(world, 4, 4, [True, True])
    before = rows(world.database, "SELECT count(*) FROM noria.outbox WHERE sent_at IS NOT NULL")
    assert world.relay.forget_sent() == 0
    change(world.database, "UPDATE noria.outbox SET sent_at = sent_at - interval '25 hours'")
    world.say(RoundAsked(domain="roads", by="ops"))
    world.follow()
    assert [(world.relay.forget_sent(),)] == before
    report = verify(world.database, world.log)
    assert report.equal and rows(world.database, "SELECT count(*) FROM noria.outbox WHERE sent_at IS NULL") == [(1,)]
    world.settle()
    # What was to be said and stands nowhere, and what was said and follows from nothing.
    lost = "DELETE FROM noria.outbox WHERE topic = 'noria.orders' RETURNING message_id"
    with world.database.begin() as connection:
        (order_id,) = connection.execute(text(lost)).scalars()
        connection.execute(
            text("INSERT INTO noria.outbox (message_id, topic, key, value) VALUES ('made up', 'noria.orders', '', '')")
        )
    assert verify(world.database, world.log).unsaid == ()
    kept = world.log
    world.log = MemoryLog()
    world.log.append(
        [m for m in _messages(kept) if m.key != order_id],
        10,
    )
    report = verify(world.database, world.log)
    assert report.unsaid == (order_id,) and report.unexplained == ("made up",)


def _messages(log: MemoryLog) -> list[Message]:
    return [
        Message(record.topic, (record.key or b"").decode(), record.value)
        for records in log._records.values()
        for record in records
    ]
