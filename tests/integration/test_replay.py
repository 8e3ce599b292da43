"""A replay comes to the same tables as the live reader, and names what differs when somebody changed them by hand."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from msgspec import json
from sqlalchemy import Engine

from api.cli import main
from streams.cluster import Cluster
from streams.errors import Invalid
from streams.events import CONVERSATIONS, DomainEvent
from streams.facts.bases import BASES, BaseAdded
from streams.facts.comparisons import ComparisonAsked
from streams.facts.documents import DocumentAdded, PassageAdded
from streams.facts.judgements import ConcernRaised, ProposalJudged
from streams.facts.material import (
    BuildAsked,
    ExampleProposed,
    ExampleRejected,
    SeedAdded,
    Source,
    TripleAdded,
)
from streams.facts.people import PersonErased
from streams.facts.releases import RollbackAsked
from streams.log import KafkaLog, Message
from streams.replay import Difference, VerifyReport, rebuild, rebuild_live, verify
from streams.store import Store
from tests.integration.by_hand import AT, ByHand, change, ranking, rows, sealed, story, talk


@pytest.fixture(scope="module")
def log(empty_log: Cluster) -> Iterator[KafkaLog]:
    log = KafkaLog(empty_log, "test-replay")
    yield log
    log.close()


@pytest.fixture
def world(database: Engine, log: KafkaLog) -> ByHand:
    """Two domains with their rounds, a rollback and an erasure; told once, and looked at by every test."""
    world = ByHand(database, log)
    if not world.store.positions():
        story(world, "roads", ["ann", "bob", "cem"], talks=24)
        story(world, "fields", ["ann", "dan"], talks=12)
        world.say(ranking("roads", "ann"), ranking("roads", "cem"))
        erased = PersonErased(domain="roads", person="cem", kids=("kid-of-cem",), by="operator")
        world.say(erased, RollbackAsked(domain="roads", to=0, by="operator"), *talk("roads", "ann"))
        world.say(base("sha256:" + "a1" * 32), base("sha256:" + "a2" * 32))
        world.say(*document("roads"), *material("roads"), ComparisonAsked(domain="fields", by="curator"))
        world.settle()
        world.work(done=frozenset())
    return world


def document(domain: str) -> tuple[PassageAdded, DocumentAdded]:
    words = sealed(f"domain:{domain}")
    about = {"domain": domain, "document_id": "document-1"}
    passage = PassageAdded(**about, passage_id="passage-1", number=0, passage=words)
    digests = {"name_digest": "4a" * 32, "content_digest": "4b" * 32}
    return passage, DocumentAdded(**about, **digests, title=words, passages=1, by="curator")


def material(domain: str) -> tuple[DomainEvent, ...]:
    words, one = sealed(f"domain:{domain}"), {"domain": domain, "proposal_id": "proposal-1"}
    sources = (Source("triple", "triple-1"),)
    return (
        TripleAdded(domain=domain, triple_id="triple-1", triple=words, by="curator"),
        SeedAdded(domain=domain, seed_id="seed-1", kind="syllogism", seed=words, by="curator"),
        BuildAsked(domain=domain, builder="self-kg", most=None, by="curator"),
        ExampleProposed(**one, build_id=UUID(int=1), builder="self-kg", kind="fact", sources=sources, proposal=words),
        ConcernRaised(**one, concern="uncertain", reason="few_words"),
        ProposalJudged(**one, person="ann", verdict="reject"),
        ExampleRejected(**one, reason="wrong", by="curator"),
    )


def base(model: str) -> BaseAdded:
    sizes = {"parameters": 5_000_000_000, "context_tokens": 4096, "vocabulary": 32_000}
    about = {"base": "heron", "family": "Llama", "licence": None, "engines": ("llamacpp",), "by": "operator"}
    return BaseAdded(domain=BASES, model=model, **about, **sizes)


def differences(report: VerifyReport, table: str) -> Difference:
    (found,) = [difference for difference in report.differences if difference.table == table]
    assert [digest.table for digest in report.tables if not digest.equal] == [table]
    return found


def test_the_story_has_everything_in_it(world: ByHand) -> None:
    ((events, kinds),) = rows(world.database, "SELECT count(*), count(DISTINCT type) FROM noria.events")
    assert isinstance(events, int) and events > 300
    assert isinstance(kinds, int) and kinds >= 19
    released = "SELECT domain, step, count(*) FROM noria.rounds GROUP BY domain, step ORDER BY domain"
    assert rows(world.database, released) == [("fields", "released", 2), ("roads", "released", 2)]
    assert rows(world.database, "SELECT live_release FROM noria.domains ORDER BY domain") == [(2,), (0,)]
    retired = "SELECT count(*) FROM noria.examples WHERE retired_reason = 'erased'"
    assert rows(world.database, retired) == [(8,)]
    brought = "SELECT person, retired_reason FROM noria.rankings ORDER BY person"
    assert rows(world.database, brought) == [("ann", None), ("cem", "erased")]


def test_a_replay_comes_to_the_same_tables(world: ByHand, log: KafkaLog) -> None:
    progress: list[tuple[int, int]] = []
    report = verify(world.database, log, lambda done, total: progress.append((done, total)))
    assert report.equal
    assert all(table.equal for table in report.tables) and not report.differences
    assert report.unsaid == report.unexplained == ()
    filled = {table.table for table in report.tables if table.rows}
    assert filled == {table.table for table in report.tables} - {"exam_items", "parked"}
    total = sum(log.ends("noria.conversations").values()) + sum(log.ends("noria.domains").values())
    assert report.records == total and progress[-1] == (total, total)


def test_a_replay_does_not_depend_on_how_the_log_was_cut_into_batches(
    world: ByHand, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.loading.BATCH_RECORDS", 7)
    monkeypatch.setattr("streams.loading.REMEMBERED_BYTES", 5)  # so that states are forgotten, and asked for again
    assert verify(world.database, log).equal


def test_a_replay_that_is_shared_out_among_processes_comes_to_the_same_tables(
    world: ByHand, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.loading.SHARED_FROM", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    report = verify(world.database, log)
    assert report.equal, report.differences
    assert report.records == sum(world.store.positions().values())


def test_a_replay_sends_nothing(world: ByHand, log: KafkaLog) -> None:
    before = {topic: log.ends(topic) for topic in ("noria.conversations", "noria.domains", "noria.orders")}
    verify(world.database, log)
    assert {topic: log.ends(topic) for topic in before} == before
    assert rows(world.database, "SELECT count(*) FROM noria_shadow.outbox WHERE sent_at IS NOT NULL") == [(0,)]


def test_one_changed_row_is_named_by_table_key_and_columns(world: ByHand, log: KafkaLog) -> None:
    ((reply_id,),) = rows(world.database, "SELECT reply_id FROM noria.replies ORDER BY reply_id OFFSET 5 LIMIT 1")
    update = "UPDATE noria.replies SET prompt_tokens = :tokens, finish_reason = :why WHERE reply_id = :id"
    change(world.database, update, tokens=8, why="length", id=reply_id)
    try:
        report = verify(world.database, log)
        assert not report.equal
        found = differences(report, "replies")
        assert found == Difference("replies", {"reply_id": str(reply_id)}, ("finish_reason", "prompt_tokens"), "both")
    finally:
        change(world.database, update, tokens=7, why="stop", id=reply_id)
    assert verify(world.database, log).equal


def test_a_sealed_text_that_was_changed_is_named_and_not_shown(world: ByHand, log: KafkaLog) -> None:
    ((event_id, text),) = rows(
        world.database, "SELECT event_id, text::text FROM noria.feedback WHERE kind = 'correction' LIMIT 1"
    )
    update = "UPDATE noria.feedback SET text = CAST(:text AS jsonb) WHERE event_id = :id"
    change(world.database, update, text='{"kid": "k", "ref": "r", "jwe": "forged-words"}', id=event_id)
    try:
        report = verify(world.database, log)
        assert differences(report, "feedback") == Difference("feedback", {"event_id": str(event_id)}, ("text",), "both")
        assert b"forged" not in json.encode(report)
    finally:
        change(world.database, update, text=text, id=event_id)


def test_a_row_too_many_and_a_row_too_few_are_told_apart(world: ByHand, log: KafkaLog) -> None:
    change(world.database, "INSERT INTO noria.learned (round_id, example_id) VALUES ('!', 'forged')")
    try:
        found = differences(verify(world.database, log), "learned")
        assert found == Difference("learned", {"round_id": "!", "example_id": "forged"}, (), "only live")
    finally:
        change(world.database, "DELETE FROM noria.learned WHERE round_id = '!'")
    change(world.database, "CREATE TABLE public.kept AS SELECT * FROM noria.erasures")
    change(world.database, "DELETE FROM noria.erasures")
    try:
        found = differences(verify(world.database, log), "erasures")
        assert found == Difference("erasures", {"domain": "roads", "person": "cem"}, (), "only replay")
    finally:
        change(world.database, "INSERT INTO noria.erasures SELECT * FROM public.kept")
        change(world.database, "DROP TABLE public.kept")


def test_what_was_said_without_a_cause_is_named_and_what_stands_on_the_log_needs_no_row_of_the_outbox(
    world: ByHand, log: KafkaLog
) -> None:
    ((message_id,),) = rows(world.database, "SELECT message_id FROM noria.outbox ORDER BY id LIMIT 1")
    rename = "UPDATE noria.outbox SET message_id = :new WHERE message_id = :old"
    change(world.database, rename, old=message_id, new="out-of-thin-air")
    try:
        report = verify(world.database, log)
        assert not report.equal and not report.differences
        assert (report.unsaid, report.unexplained) == ((), ("out-of-thin-air",))
    finally:
        change(world.database, rename, new=message_id, old="out-of-thin-air")


def test_a_state_that_decisions_use_is_compared_too(world: ByHand, log: KafkaLog) -> None:
    ((body,),) = rows(world.database, "SELECT body FROM noria.states WHERE key = 'roads'")
    update = "UPDATE noria.states SET body = :body WHERE key = 'roads'"
    change(world.database, update, body=b"\x80")
    try:
        found = differences(verify(world.database, log), "states")
        assert found == Difference("states", {"kind": "domain", "key": "roads"}, ("body",), "both")
    finally:
        change(world.database, update, body=bytes(body))  # type: ignore[call-overload]


def test_the_live_reader_goes_on_while_a_replay_runs(
    world: ByHand, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.loading.BATCH_RECORDS", 50)
    before = world.store.positions()

    def meanwhile(done: int, total: int) -> None:
        world.say(*talk("roads", "bob"), at=AT)
        world.settle()

    report = verify(world.database, log, meanwhile)
    assert report.equal, report
    assert report.records == sum(before.values())
    assert sum(world.store.positions().values()) > sum(before.values()) + 7 * 5
    assert verify(world.database, log).equal


def test_two_replays_at_once_do_not_meet_the_second_is_refused(world: ByHand, log: KafkaLog) -> None:
    refused: list[str] = []

    def again(done: int, total: int) -> None:
        for replay in (verify, rebuild_live):
            with pytest.raises(Invalid, match="another replay is under way"):
                replay(world.database, log)
            refused.append(replay.__name__)

    assert verify(world.database, log, again).equal
    assert refused[:2] == ["verify", "rebuild_live"]
    assert verify(world.database, log).equal


def test_a_replay_that_was_broken_off_leaves_nothing_for_the_next(world: ByHand, log: KafkaLog) -> None:
    class Tired(Exception):
        pass

    def give_up(done: int, total: int) -> None:
        raise Tired

    with pytest.raises(Tired):
        verify(world.database, log, give_up)
    assert verify(world.database, log).equal


def test_a_replay_up_to_the_middle_stands_where_the_log_stood(world: ByHand, log: KafkaLog) -> None:
    upto = {place: end // 2 for place, end in world.store.positions().items()}
    rebuilt = rebuild(world.database, log, upto, schema="noria_middle")
    assert rebuilt.records == sum(upto.values())
    there = {place: end for place, end in upto.items() if end}
    assert Store(world.database, "noria_middle").positions() == there
    change(world.database, "DROP SCHEMA noria_middle CASCADE")


def test_quarantined_records_are_met_again_by_a_replay_without_limit(world: ByHand, log: KafkaLog) -> None:
    for number in range(60):
        log.append([Message(CONVERSATIONS, "junk", f"{number}".encode())], 10)
        if number % 20 == 19:
            world.follow()
            change(world.database, "UPDATE noria.outbox SET made_at = made_at - interval '1 hour'")
    assert verify(world.database, log).equal


def run_verify(kafka: Cluster, database_url: str, home: Path, *more: str) -> Result:
    environment = {
        "NORIA_HOME": str(home),
        **kafka.environ(),
        "NORIA_DATABASE_URL": database_url,
        "NORIA_DOOR": "http://127.0.0.1:1",
    }
    return CliRunner().invoke(main, ["verify", *more], env=environment)


def test_the_command_ends_with_0_when_equal_and_with_1_naming_the_row_when_not(
    world: ByHand, empty_log: Cluster, database_url: str, tmp_path: Path
) -> None:
    done = run_verify(empty_log, database_url, tmp_path)
    assert done.exit_code == 0, done.stderr
    assert "equal: the tables are what the log says" in done.stdout
    change(world.database, "UPDATE noria.domains SET title = 'Another' WHERE domain = 'roads'")
    try:
        done = run_verify(empty_log, database_url, tmp_path)
        assert done.exit_code == 1
        assert "domains differs at domain=roads (both; columns title)" in done.stderr
        done = run_verify(empty_log, database_url, tmp_path, "--json")
        assert done.exit_code == 1
        told = json.decode(done.stdout)
        assert told["equal"] is False and told["differences"][0]["columns"] == ["title"]
    finally:
        change(world.database, "UPDATE noria.domains SET title = 'Road traffic' WHERE domain = 'roads'")


def test_the_command_ends_with_3_when_the_log_does_not_answer(database_url: str, tmp_path: Path) -> None:
    done = run_verify(Cluster(servers="127.0.0.1:1"), database_url, tmp_path)
    assert done.exit_code == 3
    assert "Traceback" not in done.stderr


def test_two_replays_of_one_log_are_the_same_in_every_byte(world: ByHand, log: KafkaLog) -> None:
    found = []
    for _ in range(2):
        rebuild(world.database, log, world.store.positions())
        query = "SELECT kind, key, body FROM noria_shadow.states ORDER BY kind, key"
        found.append(hashlib.sha256(repr([(k, n, bytes(b)) for k, n, b in rows(world.database, query)]).encode()))  # type: ignore[call-overload]
    assert found[0].hexdigest() == found[1].hexdigest()
