"""The log read over HTTP: pages of one domain's events among many others."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from api import events
from streams.codec import encode
from streams.events import DOMAINS
from streams.log import MemoryLog, Message
from tests.samples import EVENTS, enveloped

AT = datetime(2026, 11, 24, tzinfo=UTC)


def test_a_page_of_one_domain_reads_so_far_and_no_further_and_the_next_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = MemoryLog()
    other = next(event for event in EVENTS if type(event).__name__ == "RoundAsked")
    for number in range(25):
        envelope = enveloped(other, f"said {number}", AT)
        log.append([Message(DOMAINS, envelope.key, encode(envelope))], 1)
    ((partition, end),) = [(p, e) for p, e in log.ends(DOMAINS).items() if e]
    services: Any = SimpleNamespace(recorder=SimpleNamespace(log=log, ends=log.ends))
    monkeypatch.setattr(events, "SCAN_RECORDS", 10)
    cursor, reached = {(DOMAINS, partition): 0}, []
    while not reached or reached[-1] < end:
        found, cursor = events.events_after(services, cursor, "somebody-elses", 100)
        assert found == []
        reached.append(cursor[DOMAINS, partition])
    assert reached == [10, 20, 25]
    found, _ = events.events_after(services, {(DOMAINS, partition): 0}, other.domain, 100)
    assert len(found) == 10
