"""What happened stays as it was: logs that earlier code wrote come to the same rows under today's, and imply the same."""

from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from streams.events import CONVERSATIONS, DOMAINS
from streams.log import MemoryLog, Message
from streams.replay import rebuild
from streams.schema import SHADOW
from tests.replay.record import FOLDER, HISTORIES, read, rows_of


def replayed(name: str, engine: Engine) -> dict[str, Any]:
    """The rows that today's code makes of a history."""
    log = MemoryLog()
    for record in read(name):
        (position,) = log.append([Message(record.topic, (record.key or b"").decode(), record.value)], 1)
        assert (position.partition, position.offset) == (record.partition, record.offset)
    upto = {(topic, partition): end for topic in (CONVERSATIONS, DOMAINS) for partition, end in log.ends(topic).items()}
    assert rebuild(engine, log, upto).records == len(read(name)) > 30
    return rows_of(engine, SHADOW)


def test_every_history_has_been_recorded() -> None:
    assert {path.name.partition(".")[0] for path in FOLDER.glob("*.jsonl")} == set(HISTORIES)


@pytest.mark.parametrize("name", sorted(HISTORIES))
def test_a_history_comes_to_the_rows_that_it_came_to_when_it_happened(name: str, database: Engine) -> None:
    came_to = msgspec.json.decode((FOLDER / f"{name}.tables.json").read_bytes())
    now = replayed(name, database)
    for table, then in came_to.items():
        places = [now[table]["columns"].index(column) for column in then["columns"]]  # a table may have got new ones
        rows = sorted(([row[place] for place in places] for row in now[table]["rows"]), key=str)
        assert rows == then["rows"], table
