"""No request reads a growing table from end to end: every statement of every route is explained on tables that have grown."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, event, text

from api.app import create_app
from api.keys import ApiKeys, create_key
from api.metrics import Metrics
from api.recall import Recaller
from api.recording import Recorder
from api.routing import Routes
from api.services import Services
from api.turns import Turns
from streams.cluster import Cluster
from streams.codec import encode, envelope_for
from streams.events import DOMAINS
from streams.facts.rounds import RoundAsked
from streams.log import MemoryLog, Message
from streams.schema import projections
from streams.sealing import Keyring, MasterKey
from streams.store import open_database
from streams.topics import TOPICS
from tests.door_world import make_settings
from tests.integration.by_hand import change, empty

EVENTS = 200_000
OTHERS = 10_000
DOMAINS_MADE = 400  # so that what belongs to one domain or person is a small part of each table
# These stay small whatever happens: one row a partition, a base, a domain, a kind of feedback, a key of the door; and what is
# parked, of which more than a few stop the stream.
SMALL = {"positions", "bases", "domains", "feedback_counts", "parked"}
GROWING = {t.name for t in projections.sorted_tables} - SMALL | {
    "person_keys",
    "places",
    "examined",
    "claims",
    "leases",
}
HEX = "md5('{0}' || n)"
DOMAIN, PERSON = f"'d-' || n % {DOMAINS_MADE}", "'p-' || n % 4000"
SEALED = """'{"kid": "k", "ref": "r#t", "jwe": "a..b.c.d"}'::jsonb"""
RECALLED = (
    """'[{"kind": "correction", "id": "e", "score": 0.5}, {"kind": "passage", "id": "p", "score": 0.5}]'::jsonb"""
)
WHEN = "now() - make_interval(secs => n)"


class Answering(MemoryLog):
    def answers(self, timeout_s: float = 0.5) -> bool:
        return True


def fill(database: Engine) -> None:
    empty(database)
    tables = {
        "noria.domains": (
            DOMAINS_MADE,
            "domain, title, languages, system_prompt, base_model, engine, policy, live_release, corrections, preferences,"
            " people, due, missing, created_at",
            f"{DOMAIN}, 'Title', '{{en}}', 's', 'm', 'llamacpp', '{{}}', 0, 0, 0, 0, false, '[]', now()",
        ),
        "noria.events": (
            EVENTS,
            'event_id, topic, "partition", "offset", type, time, source, key, domain, person, correlation_id',
            f"md5('v' || n)::uuid::text, 'noria.conversations', n % 4, n, 'reply_rated', {WHEN}, '/noria/api',"
            f" {HEX.format('c')}, {DOMAIN}, {PERSON}, {HEX.format('c')}",
        ),
        "noria.prompts": (
            OTHERS,
            'prompt_id, conversation_id, domain, person, messages, release, asked_at, "partition", "offset"',
            f"{HEX.format('p')}, {HEX.format('c')}, {DOMAIN}, {PERSON}, {SEALED}, 0, {WHEN}, 0, n",
        ),
        "noria.replies": (
            OTHERS,
            "reply_id, prompt_id, conversation_id, domain, person, index, release, text, finish_reason, prompt_tokens,"
            " completion_tokens, duration_s, recall, recalled, drafted_at",
            f"{HEX.format('r')}, {HEX.format('p')}, {HEX.format('c')}, {DOMAIN}, {PERSON}, 0, 0, {SEALED}, 'stop',"
            f" 1, 1, 0.1, 'recalled', {RECALLED}, {WHEN}",
        ),
        "noria.feedback": (
            OTHERS,
            "event_id, kind, reply_id, prompt_id, conversation_id, domain, person, text, request_digest, given_at",
            f"md5('f' || n)::uuid::text, 'correction', {HEX.format('r')}, {HEX.format('p')}, {HEX.format('c')}, {DOMAIN},"
            f" {PERSON}, {SEALED}, 'd', {WHEN}",
        ),
        "noria.examples": (
            OTHERS,
            "example_id, domain, kind, person, own_words, prompt, answer, said_at, accepted_offset, edited, proposal_id,"
            " accepted_in",
            f"{HEX.format('e')}, {DOMAIN}, 'correction', {PERSON}, true, {SEALED}, {SEALED}, {WHEN}, n, false,"
            f" {HEX.format('y')}, 'import-' || n % 500",
        ),
        "noria.rankings": (
            OTHERS,
            "ranking_id, domain, person, prompt, answers, tiers, source, said_at, accepted_offset",
            f"{HEX.format('k')}, {DOMAIN}, {PERSON}, {SEALED}, '[]', '[]', 'person', {WHEN}, n",
        ),
        "noria.bases": (
            40,
            "base, model, family, parameters, context_tokens, vocabulary, engines, by, added_at",
            f"'base-' || n, {HEX.format('b')}, 'Llama', 1, 1, 1, '{{}}', 'ops', {WHEN}",
        ),
        "noria.comparisons": (
            OTHERS,
            "comparison_id, domain, release, by, outcome, asked_offset, asked_at",
            f"{HEX.format('o')}, {DOMAIN}, 1, 'ops', 'made', n, {WHEN}",
        ),
        "noria.documents": (
            OTHERS,
            "document_id, domain, title, name_digest, content_digest, passages, by, added_at, added_offset",
            f"{HEX.format('d')}, {DOMAIN}, {SEALED}, {HEX.format('n')}, {HEX.format('c')}, 1, {PERSON}, {WHEN}, n",
        ),
        "noria.passages": (
            OTHERS,
            "passage_id, document_id, domain, number, passage, added_offset",
            f"{HEX.format('s')}, {HEX.format('d')}, {DOMAIN}, 0, {SEALED}, n",
        ),
        "noria.triples": (
            OTHERS,
            "triple_id, domain, triple, added_offset",
            f"{HEX.format('t')}, {DOMAIN}, {SEALED}, n",
        ),
        "noria.seeds": (
            OTHERS,
            "seed_id, domain, kind, seed, added_offset",
            f"{HEX.format('w')}, {DOMAIN}, 'syllogism', {SEALED}, n",
        ),
        "noria.builds": (
            OTHERS,
            "build_id, domain, builder, by, outcome, asked_offset, asked_at",
            f"{HEX.format('u')}, {DOMAIN}, 'self-kg', 'ops', 'made', n, {WHEN}",
        ),
        "noria.proposals": (
            OTHERS,
            "proposal_id, domain, build_id, builder, kind, sources, proposal, state, waits, verdicts, lot, proposed_offset",
            f"{HEX.format('y')}, {DOMAIN}, md5('u' || n % 100), 'self-kg', 'fact', '[]', {SEALED}, 'proposed',"
            f" CASE WHEN n % 10 < 5 THEN n % 4 END, n % 3, 0.5, n",
        ),
        "noria.judgements": (
            OTHERS,
            "judgement_id, domain, proposal_id, person, verdict, settles, judged_offset, judged_at",
            f"md5('j' || n)::uuid::text, {DOMAIN}, md5('y' || n / 2), {PERSON}, 'accept', false, n, {WHEN}",
        ),
        "work.leases": (
            OTHERS,
            "proposal_id, person, domain, skipped, until",
            f"{HEX.format('y')}, {PERSON}, {DOMAIN}, false, now() + make_interval(secs => n)",
        ),
        "noria.exam_items": (
            OTHERS,
            "item_id, domain, kind, item, added_offset",
            f"{HEX.format('i')}, {DOMAIN}, 'general', {SEALED}, n",
        ),
        "noria.rounds": (
            OTHERS,
            "round_id, domain, number, step, reasons, opening, pin, base_release, base_model, requested_at, ended_at,"
            " removed_at, snapshot, model, adapter",
            f"{HEX.format('o')}, {DOMAIN}, n, 'released', '[]', false, n, n, 'b', {WHEN}, {WHEN}, {WHEN}, 's', 'm', 'a'",
        ),
        "noria.learned": (OTHERS, "round_id, example_id", f"{HEX.format('o')}, {HEX.format('e')}"),
        "noria.releases": (
            OTHERS,
            "domain, release, model, needs, state, started_at, finished_at",
            f"{DOMAIN}, n, 'm', 'merged', 'retired', {WHEN}, {WHEN}",
        ),
        "noria.erasures": (OTHERS, "domain, person, kids, erased_at", f"{DOMAIN}, 'gone-' || n, '{{}}', {WHEN}"),
        "keyring.person_keys": (
            OTHERS,
            "kid, subject, wrapped, created_at",
            f"{HEX.format('k')}, 'person:q-' || n, '', {WHEN}",
        ),
        "work.places": (
            OTHERS,
            "host, place, kind, owner, kids, made_at",
            f"'h', {HEX.format('x')}, 'k', 'o', ARRAY['k-' || n], now()",
        ),
        "work.examined": (
            OTHERS,
            "evaluation, domain, model, exam_items, form, made_at",
            f"{HEX.format('v')}, {DOMAIN}, 'm' || n, 1, 'f', now()",
        ),
    }  # fmt: skip
    for table, (number, columns, values) in tables.items():
        change(database, f"INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, {number}) n")
    change(
        database,
        "INSERT INTO noria.positions SELECT topic, p, 1000000000 FROM unnest(:topics) topic, generate_series(0, 9) p",
        topics=[topic.name for topic in TOPICS],
    )
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


class Explained:
    """Every statement that was carried out, and those whose plan reads a growing table from end to end."""

    def __init__(self, database: Engine) -> None:
        self.database = database
        self.statements: set[str] = set()
        self.scans: dict[str, set[str]] = {}
        event.listen(database, "before_cursor_execute", self._explain)

    def _explain(self, connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.split(None, 1)[0] not in ("SELECT", "UPDATE", "DELETE") or "pg_" in statement:
            return
        self.statements.add(statement)
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        ((plan,),) = cursor.fetchall()
        found = {name for name in scanned(plan[0]["Plan"]) if name in GROWING}
        if found:
            self.scans[statement] = found


def named(what: str) -> str:
    """The id of the first row of its kind, as `fill` has made it."""
    return hashlib.md5(f"{what}1".encode()).hexdigest()


def scanned(plan: dict[str, Any]) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan":
        yield plan["Relation Name"]
    for inner in plan.get("Plans", []):
        yield from scanned(inner)


@pytest.fixture(scope="module")
def grown(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FlaskClient, Explained]]:
    home = tmp_path_factory.mktemp("plans")
    database, master, log = open_database(database_url), MasterKey.made(home / "master.key"), Answering()
    fill(database)
    settings = make_settings(home, Cluster(servers="nowhere:9"), database_url)
    metrics, keyring = Metrics(), Keyring(database, master)
    services = Services(
        settings=settings,
        database=database,
        recorder=Recorder(log, database),
        keyring=keyring,
        keys=ApiKeys(database),
        routes=Routes(database_url, 4),
        metrics=metrics,
        turns=Turns(database),
        recaller=Recaller("", keyring, database, metrics),
    )
    client = create_app(services).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {create_key(database, 'operator', 'operator', person=None)}"
    said = envelope_for(
        RoundAsked(domain="d-1", by="x"), id=uuid4(), source="/t", time=datetime.now(UTC), correlation_id="d-1"
    )
    log.append([Message(DOMAINS, "d-1", encode(said))], 1)
    yield client, Explained(database)
    database.dispose()


def test_no_request_reads_a_growing_table_from_end_to_end(grown: tuple[FlaskClient, Explained]) -> None:
    client, explained = grown
    place = {
        "base": "base-1",
        "domain": "d-1",
        "round_id": named("o"),
        "reply_id": named("r"),
        "document_id": named("d"),
        "build_id": named("u"),
        "example_id": named("e"),
        "proposal_id": named("y"),
        "event_id": str(UUID(named("v"))),
        "person": "p-1",
        "name": "d-1",
        "place": "noria.orders-0@1",
        "named": "nobody",
    }
    example = {"instruction": "a", "output": "b"}
    question = {"question": "a", "answer": "b", "kind": "general"}
    chat = {"model": "d-1", "messages": [{"role": "user", "content": "a"}], "user": "q-1"}
    bodies: dict[str, list[Any]] = {
        "door.chat_completions": [chat, chat | {"metadata": {"conversation_id": named("c")}}],
        "conversations.give_feedback": [
            {"reply_id": named("r"), "user": "p-1", "rating": "up"},
            {"reply_id": named("r"), "user": "p-1", "misfit": "e"},
            {"reply_id": named("r"), "user": "p-1", "ranking": [named("r"), "another"]},
        ],
        "bases.add_base": [{"model": "sha256:" + "1" * 64}],
        "domains.create_domain": [{"domain": "new", "base_model": "sha256:" + "1" * 64}],
        "domains.set_policy": [{}],
        "datasets.add_exam": [[question]],
        "datasets.import_examples": [[example]],
        "datasets.import_preferences": [[{"prompt": "a", "chosen": "b", "rejected": "c"}]],
        "datasets.retire_preferences": [{"import": "x"}, {"items": [named("k")]}],
        "datasets.retire_exam": [{"import": "x"}, {"items": [named("i")]}],
        "datasets.retire_examples": [{"import": "x"}, {"items": [named("e")]}],
        "examples.decide": [
            {"verb": "retire", "ids": [named("e")]},
            {"verb": "reject", "filter": {"source": "self-kg", "brought": "import-1"}, "count": 0},
        ],
        "examples.undo": [{"decision": "import-1"}, {"decision": "decision-1"}],
        "material.add_triples": [[{"subject": "a", "predicate": "b", "object": "c"}]],
        "material.add_seeds": [
            [
                {
                    "major": {"law": "a", "article": "Article 1", "rule": "b"},
                    "minor": "c",
                    "conclusion": {"article": "Article 1", "result": "d"},
                }
            ]
        ],
        "material.retire_triples": [{"import": "x"}, {"items": [named("t")]}],
        "material.retire_seeds": [{"import": "x"}, {"items": [named("w")]}],
        "material.ask_build": [{"builder": "self-kg"}],
        "material.accept": [{"build": named("u")}, {"proposals": [named("y")]}],
        "material.reject": [{"build": named("u")}, {"proposals": [named("y")]}],
        "queue.judge": [{"verdict": "accept"}, {"verdict": "reject", "user": "p-5"}, {"takes": "none"}],
        "queue.raise_concern": [{"proposals": [named("y")], "concern": "hard"}],
        "rounds.roll_back": [{"to": 1}],
        "grants.make_key": [{"name": "made", "domains": ["d-1"]}],
    }
    queries = {"domains.list_domains": "", "rounds.list_rounds": "?domain=d-1", "rounds.list_releases": "?domain=d-1"}
    queries["examples.list_examples"] = "?source=self-kg&state=accepted&person=p-1&brought=import-1&text=a&before=9000"
    queries["material.show_proposals"] = f"?build={named('u')}&state=all"
    domains = [f"d-{number}" for number in range(1, 4)]
    few = create_key(explained.database, "few", "data", person="p-2", domains=domains)
    unasked = []
    for rule in client.application.url_map.iter_rules():
        path = rule.rule
        for name, value in place.items():
            path = path.replace(f"<{name}>", value)
        assert "<" not in path, "a new kind of name in a path needs a row that it names"
        for method in sorted((rule.methods or set()) & {"GET", "POST", "PUT"}):
            for query in {"", queries.get(rule.endpoint, "")}:
                for body in bodies.get(rule.endpoint, [{}]):
                    headers = {"Idempotency-Key": "k"} if rule.endpoint == "conversations.give_feedback" else {}
                    sent = {} if method == "GET" else {"json": body}
                    answer = client.open(path + query, method=method, headers=headers, **sent)  # type: ignore[arg-type]
                    if method == "GET":  # what a key of some domains is shown is found in another way
                        client.get(path + query, headers={"Authorization": f"Bearer {few}"})
                    if answer.status_code >= 500 and rule.endpoint not in ("readyz", "door.chat_completions"):
                        unasked.append((method, path, answer.status_code, answer.get_data(as_text=True)))
    assert unasked == []
    assert len(explained.statements) > 30
    assert explained.scans == {}
