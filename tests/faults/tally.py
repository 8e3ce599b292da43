"""What stands on the log and in the tables of a Noria, to be held against what was acknowledged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine

from streams.codec import decode, decode_order
from streams.events import CONVERSATIONS, DOMAINS, ORDERS, QUARANTINE
from streams.log import KafkaLog
from streams.orders import Order
from streams.replay import VerifyReport, verify
from streams.store import Store, open_database
from tests.local_noria import LocalNoria, until
from tests.waiting import TRAINING_S


class Tally:
    """Reads only. What is asked by SQL is asked of the live projections."""

    def __init__(self, log: KafkaLog, database: Engine) -> None:
        self._log = log
        self._database = database

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._database.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def column(self, query: str) -> list[Any]:
        return [row[0] for row in self.rows(query)]

    def number(self, query: str) -> int:
        return int(self.column(query)[0])

    def settle(self) -> None:
        """Wait until nothing is left to be done: all read, all said, every round and every order ended."""
        until(self._settled, "everything settles by itself", patience_s=TRAINING_S)

    def events_on_log(self) -> list[tuple[str, str]]:
        """Place and event id of every record of both event topics, in order; an id may stand there twice."""
        found = []
        for topic in (CONVERSATIONS, DOMAINS):
            for partition, end in self._log.ends(topic).items():
                for record in self._log.read(topic, partition, 0, end):
                    found.append((f"{topic}-{partition}@{record.offset}", str(decode(record.value).id)))
        return found

    def orders_on_log(self) -> list[Order]:
        ends = self._log.ends(ORDERS).items()
        return [decode_order(record.value) for part, end in ends for record in self._log.read(ORDERS, part, 0, end)]

    def quarantined(self) -> int:
        return sum(self._log.ends(QUARANTINE).values())

    def replayed(self) -> VerifyReport:
        return verify(self._database, self._log)

    def _settled(self) -> bool:
        ends = {(t, p): end for t in (CONVERSATIONS, DOMAINS) for p, end in self._log.ends(t).items() if end}
        return (
            Store(self._database).positions() == ends
            and self.number("SELECT count(*) FROM noria.outbox WHERE sent_at IS NULL") == 0
            and self.number("SELECT count(*) FROM noria.rounds WHERE ended_at IS NULL") == 0
            and self.number("SELECT count(*) FROM work.claims WHERE state = 'open'") == 0
            and self.number("SELECT count(*) FROM noria.domains WHERE due") == 0
            and set(self.column("SELECT message_id FROM noria.outbox WHERE topic = 'noria.orders'"))
            == set(self.column("SELECT order_id FROM work.claims"))
        )


@contextmanager
def tally_of(noria: LocalNoria) -> Iterator[Tally]:
    log, database = KafkaLog(noria.kafka, "test-tally"), open_database(noria.database_url)
    try:
        yield Tally(log, database)
    finally:
        log.close()
        database.dispose()
