"""What happened stays as it was: logs that earlier code wrote come to the same rows under today's, and imply the same."""

import re
from typing import Any

import msgspec
import pytest
from alembic import command
from sqlalchemy import Engine, MetaData, insert

from api.reasons import reason_words, reasons_words, verdict_words
from migrations.__main__ import config_for
from streams import domain, rounds
from streams.codec import RENAMED, decode
from streams.events import CONVERSATIONS, DOMAINS
from streams.facts.rounds import GatePassed, GateRefused, RoundRequested
from streams.gate import GateMargins, Paired, Verdict, judge
from streams.log import MemoryLog, Message
from streams.policy import Outlook
from streams.reasons import Reason
from streams.replay import Otherwise, VerifyReport, verify
from streams.store import open_database
from streams.tables import LIVE
from streams.upgrade import upgrade
from tests.integration.by_hand import ByHand, empty, rows
from tests.replay.record import FOLDER, HISTORIES, read, rows_of

NAMES = sorted(HISTORIES)


def log_of(name: str) -> MemoryLog:
    """A history as it stood."""
    log = MemoryLog()
    for record in read(name):
        (position,) = log.append([Message(record.topic, (record.key or b"").decode(), record.value)], 1)
        assert (position.partition, position.offset) == (record.partition, record.offset)
    return log


def recorded(name: str) -> dict[str, Any]:
    """Every table as it stood."""
    found: dict[str, Any] = msgspec.json.decode((FOLDER / f"{name}.tables.json").read_bytes())
    return found


def replayed(name: str, database: Engine) -> tuple[dict[str, Any], VerifyReport]:
    """The rows that today's code makes of a history, and what it says of a replay of it."""
    log = log_of(name)
    empty(database)
    assert ByHand(database, log).follow() == len(read(name)) > 30
    return rows_of(database), verify(database, log)


def decisions(database: Engine) -> set[str]:
    """The ids of what today's code proposes."""
    found = set()
    for id_, value in rows(database, f"SELECT message_id, value FROM {LIVE}.outbox WHERE topic = '{DOMAINS}'"):
        assert isinstance(id_, str) and isinstance(value, memoryview)
        if isinstance(decode(bytes(value)).event, RoundRequested | GatePassed | GateRefused):
            found.add(id_)
    return found


def test_every_history_has_been_recorded() -> None:
    assert {path.name.partition(".")[0] for path in FOLDER.glob("*.jsonl")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_history_comes_to_the_rows_that_it_came_to_when_it_happened(name: str, database: Engine) -> None:
    now, report = replayed(name, database)
    assert report.equal and report.otherwise == ()
    assert_equal(now, recorded(name), decisions(database))


@pytest.mark.parametrize("name", ["cancelled", "released"])
def test_tables_of_the_code_of_then_come_to_what_the_log_says_now(name: str, bare_database_url: str) -> None:
    command.upgrade(config_for(bare_database_url), "20261201_decisions")
    database, log, then = open_database(bare_database_url), log_of(name), recorded(name)
    fill(database, log, then)
    command.upgrade(config_for(bare_database_url), "head")
    upgraded = upgrade(database, lambda: log)
    assert upgraded is not None and upgraded.records == len(read(name))
    assert verify(database, log).equal
    assert_equal(rows_of(database), then, set())
    assert upgrade(database, lambda: log) is None, "and once"
    database.dispose()


def fill(database: Engine, log: MemoryLog, then: dict[str, Any]) -> None:
    """The tables as the code of then made them. Of the outbox its ids were recorded, and of the fresh not yet where they stood."""
    tables = MetaData()
    with database.begin() as connection:
        tables.reflect(connection, schema=LIVE)
        kinds = dict(zip(*(column(then, "events", name) for name in ("event_id", "type")), strict=True))
        for table, found in then.items():
            listed = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
            if table == "outbox":
                listed = [row | {"value": said(kinds.get(row["message_id"]))} for row in listed]
            if table == "fresh":
                listed = [row | {"offset": 0} for row in listed]
            if listed:
                connection.execute(insert(tables.tables[f"{LIVE}.{table}"]), listed)
        ends = [
            {"topic": topic, "partition": partition, "next_offset": end}
            for topic in (CONVERSATIONS, DOMAINS)
            for partition, end in log.ends(topic).items()
            if end
        ]
        connection.execute(insert(tables.tables[f"{LIVE}.positions"]), ends)


def column(found: dict[str, Any], table: str, name: str) -> list[Any]:
    place = found[table]["columns"].index(name)
    return [row[place] for row in found[table]["rows"]]


def said(kind: str | None) -> bytes:
    return msgspec.json.encode({"type": f"noria.{kind}"})


def assert_equal(now: dict[str, Any], then: dict[str, Any], decided: set[str]) -> None:
    """The tables of today and those of then hold the same, but for how it is said. Decisions were proposed under other ids than
    today (those of `decided`), and are compared by what they are about."""
    kinds = zip(*(column(then, "events", name) for name in ("event_id", "type")), strict=True)
    decided = decided | {event_id for event_id, kind in kinds if kind in DECISIONS}
    for table, came_to in then.items():
        in_the_words_of_then(table, now[table])
        if table == "rounds":
            for row in came_to["rows"]:
                without_sentences(row[came_to["columns"].index("verdict")])
        places = [now[table]["columns"].index(name) for name in came_to["columns"]]  # a table may have got new ones
        found = sorted(([row[place] for place in places] for row in now[table]["rows"]), key=str)
        if table == "outbox":
            found, came_to["rows"] = (
                [row for row in listed if row[0] not in decided] for listed in (found, came_to["rows"])
            )
        assert found == came_to["rows"], table


def in_the_words_of_then(table: str, found: dict[str, Any]) -> None:
    """Turn the rows of today, which hold codes and values, into those of a time when they held sentences: the same ones. Of a
    verdict's numbers each had one too, which said nothing more and is written nowhere now."""
    for row in found["rows"]:
        shown = dict(zip(found["columns"], row, strict=True))
        if table == "domains":
            shown["missing"] = [reason_words("en", one) for one in shown["missing"]]
            of_then(shown["policy"])
        elif table == "rounds":
            shown["reasons"] = reasons_words("en", shown["reasons"])
            if shown["failure"] is not None:
                shown["failure"] = f"{shown['last_step']}: {shown['failure']}"
            if (verdict := shown["verdict"]) is not None:
                assert verdict.pop("alpha") is None
                verdict["words"] = verdict_words(verdict)
        elif table == "events":
            shown["type"] = ONCE.get(shown["type"], shown["type"])
        row[:] = shown.values()
    if table == "rounds":
        found["columns"][found["columns"].index("reasons")] = "reason"


def of_then(policy: dict[str, Any]) -> None:
    """A policy of a time when nothing was recalled, no round began at the base anew, nobody had a teacher or a guide of style and
    every set was chosen by the same steps, still means that."""
    assert policy.pop("recall")["of"] == "off" and policy["gate"].pop("learn") == "bare"
    assert policy["gate"].pop("least_pairs") == 20
    assert policy.pop("from_base_every") is None and policy.pop("teacher") is None
    usual = [{"step": "leakage", "overlap": None, "cosine": None}, {"step": "agreement"}, {"step": "length"}]
    assert policy.pop("selection") == usual and policy.pop("style") == []
    assert policy.pop("mask") == [] and policy.pop("annotation") == {"double_share": 0.1}
    del policy["recipe"]["recalled_share"]


def without_sentences(verdict: dict[str, Any] | None) -> None:
    if verdict is not None:
        verdict["words"] = CONFIDENCE.sub("", verdict["words"])
        for check in verdict["checks"]:
            del check["words"]


ONCE = {since: older for older, since in RENAMED.items()}
CONFIDENCE = re.compile(r" with \d+% confidence")
DECISIONS = ("round_requested", "gate_passed", "gate_refused")


def test_another_gate_changes_nothing_of_what_happened_and_is_told(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stricter(paired: dict[str, Paired], margins: GateMargins, *_: object) -> Verdict:
        return msgspec.structs.replace(judge(paired, margins), outcome="refuse")

    before, _ = replayed("released", database)
    monkeypatch.setattr(rounds, "judge", stricter)
    after, report = replayed("released", database)
    assert {t: rows for t, rows in after.items() if t != "outbox"} == {
        t: rows for t, rows in before.items() if t != "outbox"
    }
    assert report.equal
    assert report.otherwise == tuple(Otherwise("roads", number, "gate", "ship", "refuse") for number in (1, 2))


def test_another_reckoning_of_when_a_round_is_due_changes_nothing_of_what_happened_and_is_told(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = replayed("released", database)
    never = Outlook(due=False, missing=(Reason("a_better_moment"),))
    monkeypatch.setattr(domain, "outlook", lambda *_: never)
    after, report = replayed("released", database)
    assert after["rounds"] == before["rounds"] and after["releases"] == before["releases"] and report.equal
    pins = [8, 19]
    assert report.otherwise == tuple(
        Otherwise("roads", number, "round", f"pinned at {pin}", None) for number, pin in zip((1, 2), pins, strict=True)
    )
