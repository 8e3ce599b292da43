"""At every start, before anything opens a word: what was erased stays erased, whatever keyring was put back.

python -m streams.erased        destroys every key that the journal of erasures, the tables or the log name; completes the journal

A keyring that comes from before an erasure (an older backup of PostgreSQL, one row that somebody put back) holds keys that were
destroyed since. That they were is said in three places, and one is enough.
"""

import os
import sys
from collections.abc import Iterator

from sqlalchemy import Engine, text

from streams.codec import read_event
from streams.erasures import PERSON, Journal, destroy_named, recorded, vacuum_keyring
from streams.errors import Invalid, Unavailable
from streams.events import DOMAINS
from streams.facts.people import PersonErased
from streams.log import KafkaLog, Log, LostHistory
from streams.parking import first_places
from streams.settings import from_env
from streams.store import open_database, positions, postgres_trouble
from streams.tables import LIVE

_NAME = b"person_erased"
_DESTROYED = text("SELECT kid FROM keyring.person_keys WHERE destroyed_at IS NOT NULL")


def keep_erased(database: Engine, log: Log, journal: Journal) -> list[str]:
    """Destroy what was erased and is held still; the ids of those keys. Raises Invalid (the journal cannot be read), Unavailable,
    LostHistory."""
    named: set[tuple[str, str | None]] = {(kid, None) for kid in journal.kids()}
    with postgres_trouble(), database.connect() as connection:
        named.update(recorded(connection))
        reached = positions(connection, LIVE)
        reached |= first_places(connection)  # what is parked has not told the tables
    for event in _not_applied(log, reached):
        named.update((kid, PERSON + event.person) for kid in event.kids)
    with postgres_trouble(), database.begin() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        with raw.cursor() as cursor:
            destroyed = destroy_named(cursor, named)
        journal.add(
            connection.execute(_DESTROYED).scalars()
        )  # of those, too, that were destroyed where there was no journal
    with postgres_trouble():
        vacuum_keyring(database)
    return destroyed


def _not_applied(log: Log, reached: dict[tuple[str, int], int]) -> Iterator[PersonErased]:
    """The erasures that the tables do not know of yet."""
    for partition, end in log.ends(DOMAINS).items():
        start = reached.get((DOMAINS, partition), 0)
        for record in log.read(DOMAINS, partition, start if start <= end else 0, end):  # else they are of another log
            if _NAME not in record.value:
                continue
            try:
                event = read_event(record.topic, record.key, record.value).event
            except Invalid:
                continue  # the stream puts it into quarantine
            if isinstance(event, PersonErased):
                yield event


def main() -> int:
    try:
        settings = from_env(os.environ)
        database, log = open_database(settings.database_url), KafkaLog(settings.kafka, "noria-erased")
        destroyed = keep_erased(database, log, Journal(settings.erasures))
        log.close()
    except (Invalid, Unavailable, LostHistory) as error:
        print(error, file=sys.stderr)
        return 1
    if destroyed:
        print(f"{len(destroyed)} keys that were erased stood in the keyring again, and are destroyed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
