"""What the things that grow cost when there is a hundred times as much of them: waiting corrections.

NORIA_BENCH_EVENTS: how many wait.
"""

from pathlib import Path
from time import monotonic
from uuid import UUID, uuid5

from streams.codec import encode, envelope_for
from streams.events import DOMAINS, Event
from streams.facts.examples import ExampleAccepted
from streams.log import Record
from streams.sealing import PersonKey, seal
from streams.store import Store, open_database
from tests.bench.generate import BEGAN, Generator
from tests.bench.report import Row, row
from tests.bench.size import size
from tests.local_noria import log_and_database

WAITING = 50_000
PEOPLE = 500
BATCH_RECORDS = 500
RUNS = 40
DOMAIN = "domain-0"


def measure(home: Path) -> list[Row]:
    waiting = size("EVENTS", WAITING)
    with log_and_database(home) as settings:
        database = open_database(settings.database_url, pool_size=4)
        try:
            store = Store(database)
            told = Told(store)
            told.events(list(Generator().domain(DOMAIN)))
            found = [_one_by_one(told, 0)]
            filled_s = told.examples(waiting)
            found.append(_one_by_one(told, waiting))
            with database.connect() as connection:
                state = connection.exec_driver_sql("SELECT max(length(body)) FROM noria.states").scalar_one()
        finally:
            database.dispose()
    return [
        *found,
        row(f"{waiting:,} corrections come", "rate", "events/s", [waiting / filled_s]),
        row(f"{waiting:,} corrections wait", "the domain's state", "bytes", [state]),
    ]


class Told:
    """What a domain's partition holds, applied as it is told."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = PersonKey("k", bytes(32))
        self._offset = 0

    def events(self, events: list[Event]) -> float:
        """Tell them in one batch; the seconds that it took to apply."""
        records = []
        for event in events:
            envelope = envelope_for(event, id=_id(self._offset), source="/bench", time=BEGAN, correlation_id="bench")
            records.append(Record(DOMAINS, 0, self._offset, envelope.key.encode(), encode(envelope)))
            self._offset += 1
        began = monotonic()
        assert self._store.apply(records).events == len(records)
        return monotonic() - began

    def examples(self, number: int) -> float:
        """So many examples of PEOPLE that nobody trains on yet, in batches; the seconds that it took to apply them."""
        spent_s = 0.0
        while number:
            batch = min(number, BATCH_RECORDS)
            spent_s += self.events([self._example(self._offset + more) for more in range(batch)])
            number -= batch
        return spent_s

    def _example(self, offset: int) -> Event:
        id_ = _id(offset)
        return ExampleAccepted(
            domain=DOMAIN,
            example_id=str(id_),
            kind="annotation",
            person=f"person-{offset % PEOPLE}",
            prompt=seal("asked", self._key, f"{id_}#prompt"),
            answer=seal("answered", self._key, f"{id_}#answer"),
            said_at=BEGAN,
        )


def _id(offset: int) -> UUID:
    return uuid5(UUID(int=0), f"{offset}")


def _one_by_one(told: Told, waiting: int) -> Row:
    runs = [told.examples(1) * 1000 for _ in range(RUNS)]
    return row(f"one correction comes while {waiting:,} wait", "a batch of one", "ms", runs)
