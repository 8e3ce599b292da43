"""Histories as today's code makes them, told once and kept as files: what later code must come to as well.

`python -m tests.replay.record NAME` tells one and writes NAME.jsonl (the records of the log) and NAME.tables.json (the rows that
they came to). One that has landed is never recorded again: that the past stays as it was is what it is there to show.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import msgspec
from sqlalchemy import Engine, select

from streams.errors import Invalid
from streams.events import Event
from streams.facts.conversations import DraftPicked
from streams.facts.domains import ClockTicked, DomainRetired, PolicySet
from streams.facts.exam import ExamItemAdded, ExamItemRetired
from streams.facts.examples import ExampleRetired
from streams.facts.orders import OrderFailed
from streams.facts.people import PersonErased
from streams.facts.releases import RollbackAsked
from streams.facts.rounds import CandidateEvaluated, RoundAsked, RoundCancelled
from streams.gate import FIXES, GENERAL, Paired
from streams.log import MemoryLog, Record
from streams.orders import EvaluateCandidate, Order, SelectSnapshot, TrainCandidate
from streams.policy import Policy, QuietHours, Schedule, Thresholds
from streams.schema import projections
from streams.store import open_database
from streams.tables import LIVE
from tests.integration.by_hand import AT, ByHand, answer, created, live_domain, results, sealed, talk
from tests.local_noria import log_and_database

FOLDER = Path(__file__).parent
# Internals: how states are kept, how far was read, and bytes that are compared by their ids.
LEFT_OUT = {"positions", "states"}
OUTBOX = ("message_id", "topic", "key")


class Told(ByHand):
    """A log on which a history is told step by step, by a clock of its own."""

    def __init__(self, database: Engine, log: MemoryLog) -> None:
        super().__init__(database, log)
        self.now = AT
        self.done: set[UUID] = set()

    def tell(self, *events: Event, minutes: int = 1) -> None:
        self.now += timedelta(minutes=minutes)
        self.say(*events, at=self.now)
        self.settle(self.now)

    def open(self) -> list[Order]:
        return [order for order in self.orders() if order.order_id not in self.done]

    def carry_out(
        self, until: type | None = None, found: Callable[[Order], Iterable[tuple[str, Event]]] = results
    ) -> None:
        """Answer orders as workers would, one by one, until one of the kind `until` is open, or none."""
        while fresh := [order for order in self.open() if until is None or not isinstance(order, until)]:
            order = fresh[0]
            self.now += timedelta(seconds=30)
            self.log.append([answer(order, name, event, self.now) for name, event in found(order)], 10)
            self.done.add(order.order_id)
            self.settle(self.now)

    def one(self, kind: type) -> Any:
        (order,) = [order for order in self.open() if isinstance(order, kind)]
        return order


def begun(world: Told, domain: str = "roads", **thresholds: Any) -> None:
    live_domain(world, domain, **({"corrections": 2} | thresholds))
    world.done |= {order.order_id for order in world.orders()}


def released(world: Told) -> None:
    begun(world)
    world.tell(*talk("roads", "ann"))
    world.tell(*talk("roads", "bob"))
    world.tell(*talk("roads", "ann"))  # comes while the round is under way
    world.carry_out()
    world.tell(*talk("roads", "cem"))
    world.carry_out()


def refused(world: Told) -> None:
    def worse(order: Order) -> Iterable[tuple[str, Event]]:
        for name, event in results(order):
            if isinstance(event, CandidateEvaluated):
                paired = {FIXES: Paired(12, 10, 0, 1, 1), GENERAL: Paired(40, 20, 15, 1, 4)}
                event = msgspec.structs.replace(event, paired=paired)
            yield name, event

    begun(world)
    world.tell(*talk("roads", "ann"), *talk("roads", "bob"))
    world.carry_out(found=worse)
    world.tell(*talk("roads", "ann"), *talk("roads", "bob"))
    world.carry_out()


def rolled_back(world: Told) -> None:
    released(world)
    world.tell(RollbackAsked(domain="roads", to=0, by="operator"))
    world.carry_out()
    world.tell(RollbackAsked(domain="roads", to=1, by="operator"))
    world.carry_out()
    world.tell(RollbackAsked(domain="roads", to=7, by="operator"))


def erased(world: Told) -> None:
    begun(world)
    world.tell(*talk("roads", "ann"), *talk("roads", "bob"))
    world.carry_out(until=EvaluateCandidate)
    world.tell(*talk("roads", "bob"))
    world.tell(PersonErased(domain="roads", person="bob", kids=(sealed("bob").kid,), by="operator"))
    world.tell(*talk("roads", "bob"))  # under a key that is gone
    world.carry_out()


def cancelled(world: Told) -> None:
    begun(world)
    world.tell(*talk("roads", "ann"), *talk("roads", "bob"))
    world.carry_out(until=TrainCandidate)
    late = world.one(TrainCandidate)
    world.tell(RoundCancelled(domain="roads", round_id=late.round_id, by="operator"))
    world.carry_out()  # what was trained comes late
    world.tell(RoundAsked(domain="roads", by="operator"))
    select_ = world.one(SelectSnapshot)
    for attempt, will_retry in ((1, True), (2, False)):
        reason = "the disk is full"
        failed = OrderFailed(
            domain="roads",
            round_id=select_.round_id,
            order_id=select_.order_id,
            step="select",
            reason=reason,
            will_retry=will_retry,
            attempt=attempt,
        )
        world.tell(failed)
    world.tell(RoundAsked(domain="roads", by="operator"))
    world.carry_out()


def two_domains(world: Told) -> None:
    begun(world, "roads", corrections=3, people=2)
    begun(world, "fields", corrections=None, preferences=2)
    item = uuid5(UUID(int=0), "item").hex
    question = ExamItemAdded(domain="fields", item_id=item, kind="held_out", item=sealed("fields"), by="curator")
    world.tell(question, *talk("fields", "ann"), *talk("roads", "ann"))
    world.tell(*talk("roads", "ann"), *talk("fields", "dan", "f2"))
    world.carry_out()
    world.tell(*talk("roads", "ann"))  # three of one person do
    world.tell(*talk("roads", "eva"))
    world.carry_out()
    accepted = [row for row in rows_of(world.database)["examples"]["rows"] if row[1] == "fields"]
    world.tell(
        ExampleRetired(domain="fields", example_id=accepted[0][0], reason="out of date", by="curator"),
        ExamItemRetired(domain="fields", item_id=item, reason="asked twice", by="curator"),
    )
    nightly = Policy(
        thresholds=Thresholds(corrections=None),
        schedule=Schedule("30 2 * * *", "Europe/Madrid"),
        quiet_hours=QuietHours("01:00", "02:45", "Europe/Madrid"),
        rounds_per_day=1,
        budget_timezone="Asia/Shanghai",
    )
    world.tell(PolicySet(domain="fields", policy=nightly, by="operator"), *talk("fields", "fay"))
    for hours in range(8, 20):
        world.tell(ClockTicked(domain="fields", at=AT + timedelta(hours=hours)), minutes=60)
        world.carry_out()
    world.tell(
        DraftPicked(
            domain="fields", conversation_id="f2", prompt_id="f2-p", reply_id="f2-r2", person="dan", request_digest="e"
        )
    )
    world.tell(DomainRetired(domain="roads", by="operator"))
    world.tell(created("roads"), *talk("roads", "ann"))


HISTORIES: dict[str, Callable[[Told], None]] = {
    story.__name__: story for story in (released, refused, rolled_back, erased, cancelled, two_domains)
}


def rows_of(database: Engine, schema: str = LIVE) -> dict[str, Any]:
    """Every table's columns and rows, as JSON can hold them, in an order that is always the same."""
    found = {}
    with database.connect().execution_options(schema_translate_map={LIVE: schema}) as connection:
        for table in projections.sorted_tables:
            name = str(table.name)
            if name in LEFT_OUT:
                continue
            columns = [c for c in table.columns if name != "outbox" or c.name in OUTBOX]
            rows = connection.execute(select(*columns)).all()
            found[name] = {
                "columns": [str(c.name) for c in columns],
                "rows": sorted(msgspec.to_builtins([list(row) for row in rows]), key=str),
            }
    return found


def read(name: str) -> list[Record]:
    """The records of a history, partition by partition."""
    found = []
    for line in (FOLDER / f"{name}.jsonl").read_bytes().splitlines():
        topic, partition, offset, key, value = msgspec.json.decode(line)
        found.append(Record(topic, partition, offset, key.encode(), msgspec.json.encode(value)))
    return found


def record(name: str, database: Engine) -> None:
    """Tell the history and write what it left."""
    if (FOLDER / f"{name}.jsonl").exists():
        raise Invalid(f"{name} has been recorded, and stays as it is")
    world = Told(database, MemoryLog())
    HISTORIES[name](world)
    lines = [
        msgspec.json.encode([r.topic, r.partition, r.offset, (r.key or b"").decode(), msgspec.json.decode(r.value)])
        for r in world.records()
    ]
    (FOLDER / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    tables = msgspec.json.format(msgspec.json.encode(rows_of(database)), indent=1)
    (FOLDER / f"{name}.tables.json").write_bytes(tables + b"\n")


def main(names: list[str]) -> int:
    for name in names:
        with tempfile.TemporaryDirectory(prefix="noria-record-") as home, log_and_database(Path(home)) as settings:
            database = open_database(settings.database_url)
            record(name, database)
            database.dispose()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
