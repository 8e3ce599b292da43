"""The queue of proposed examples and its annotators, from the door to what may be learned: real Kafka and PostgreSQL."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import httpx
import pytest
from click.testing import CliRunner

from api.cli import main
from api.keys import create_key
from streams.annotation import is_doubled
from streams.facts.material import ExampleProposed, Source
from streams.log import KafkaLog
from streams.reading.learning import examples_as_of
from streams.replay import verify
from streams.sealing import Keyring, MasterKey, domain_subject, seal
from tests.door_world import World, wait_until
from tests.integration.by_hand import change, rows

SHARE = 0.5
Annotators = Callable[..., httpx.Client]


@pytest.fixture
def annotator(world: World) -> Iterator[Annotators]:
    made: dict[tuple[str, str], httpx.Client] = {}

    def of(domain: str, person: str) -> httpx.Client:
        if (domain, person) not in made:
            key = create_key(world.database, f"{person}-{domain}", "annotator", person=person, domains=[domain])
            made[domain, person] = world.client(key)
        return made[domain, person]

    yield of
    for client in made.values():
        client.close()


def proposed(world: World, domain: str, doubled: list[bool]) -> list[str]:
    """Proposals of a triple, each of which falls in the doubled share or not, as it is asked for."""
    keyring = Keyring(world.database, MasterKey.made(world.settings.master_key))
    key, found, number, position = keyring.key_for(domain_subject(domain)), list[str](), 0, ""
    triple = [{"subject": "the ferry", "predicate": "home port", "object": "Skagen"}]
    (triple_id,) = world.as_data.post(f"/v1/domains/{domain}/triples", json=triple).json()["ids"]
    for wanted in doubled:
        while is_doubled((id_ := uuid5(UUID(int=number), domain)).hex, SHARE) is not wanted:
            number += 1
        number += 1
        words = {
            "instruction": f"Where is ferry {len(found) + 1} at home?",
            "input": "",
            "output": f"In berth {len(found) + 1}.",
            "system": "",
        }
        position = world.say(
            ExampleProposed(
                domain=domain,
                proposal_id=id_.hex,
                build_id=UUID(int=1),
                builder="self-kg",
                kind="fact",
                sources=(Source("triple", triple_id),),
                proposal=seal(json.dumps(words), key, f"{id_}#proposal"),
            ),
            id_,
        )
        found.append(id_.hex)
    world.caught_up(position)
    return found


def with_queue(world: World, doubled: list[bool]) -> tuple[str, list[str]]:
    domain = world.domain(policy={"annotation": {"double_share": SHARE}})
    return domain, proposed(world, domain, doubled)


def next_of(client: httpx.Client, domain: str) -> dict[str, Any] | None:
    answer = client.post(f"/v1/domains/{domain}/queue/next", json={})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] | None = answer.json()["item"]
    return found


def judge(world: World, client: httpx.Client, domain: str, id_: str, **said: Any) -> None:
    answer = client.post(f"/v1/domains/{domain}/queue/{id_}/judge", json=said)
    assert answer.status_code == 200, answer.text
    world.caught_up(answer.json()["position"])


def learned(world: World, domain: str) -> int:
    with world.database.connect() as connection:
        return len(examples_as_of(connection, domain, None, ()))


def state(world: World, id_: str) -> str:
    (found,) = rows(world.database, "SELECT state FROM noria.proposals WHERE proposal_id = :p", p=id_)
    return str(found[0])


def test_two_annotators_disagree_without_seeing_each_other_and_a_third_settles_it(
    world: World, annotator: Annotators
) -> None:
    domain, (both, alone) = with_queue(world, [True, False])
    ann, ben, cleo = (annotator(domain, name) for name in ("ann", "ben", "cleo"))
    shown = next_of(ann, domain)
    assert shown is not None and shown["proposal_id"] == both and shown["verdicts"] == []
    assert shown["proposal"]["output"] == "In berth 1."
    assert shown["sources"][0]["triple"] == {"subject": "the ferry", "predicate": "home port", "object": "Skagen"}
    mended = {"instruction": "Where is it?", "output": "In berth 7."}
    judge(world, ann, domain, both, verdict="edit", edited=mended)
    assert learned(world, domain) == 0
    shown = next_of(ben, domain)
    assert shown is not None and (shown["proposal_id"], shown["verdicts"]) == (both, []), "the second sees no verdict"
    judge(world, ben, domain, both, verdict="accept")
    assert learned(world, domain) == 0, "until it is settled nothing is learned of it"

    for one in (ann, ben):
        refused = one.post(f"/v1/domains/{domain}/queue/{both}/judge", json={"verdict": "accept"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "judged")
    bulk = world.as_data.post(f"/v1/domains/{domain}/proposals/accept", json={"proposals": [both]})
    assert (bulk.status_code, bulk.json()["error"]["code"]) == (409, "being_judged")
    for verb in ("accept", "reject"):
        bulk = world.as_data.post(f"/v1/domains/{domain}/examples/decide", json={"verb": verb, "ids": [both]})
        assert (bulk.json()["held"], bulk.json()["position"]) == (1, None)
    shown = next_of(cleo, domain)
    assert shown is not None and (shown["proposal_id"], shown["waits"]) == (both, "disputed"), (
        "it waits before all others"
    )
    first, second = shown["verdicts"]
    assert (first["verdict"], first["edited"]["output"], second["verdict"]) == ("edit", "In berth 7.", "accept")
    assert "ann" not in json.dumps(shown)
    judge(world, cleo, domain, both, takes=first["judgement_id"])
    wait_until(lambda: state(world, both) == "edited", what="the outcome")
    assert learned(world, domain) == 1
    with world.database.connect() as connection:
        (example,) = examples_as_of(connection, domain, None, ())
    assert example.person == "ann", "the words are hers who wrote them"

    said = cleo.get(f"/v1/domains/{domain}/queue").json()
    assert said["waiting"] == {"disputed": 0, "uncertain": 0, "hard": 0, "proposed": 1, "second": 0}
    assert said["agreement"] == {"alpha": pytest.approx(0.0), "items": 1, "agreed": 0}
    stored = rows(world.database, "SELECT answer::text FROM noria.judgements WHERE proposal_id = :p", p=both)
    assert not any("berth" in str(words) for words in stored), "sealed at rest"
    assert state(world, alone) == "proposed"


def test_what_one_holds_is_handed_to_nobody_else_until_the_lease_has_run_out(
    world: World, annotator: Annotators
) -> None:
    domain, (first, second) = with_queue(world, [False, False])
    ann, ben = annotator(domain, "ann"), annotator(domain, "ben")
    held = next_of(ann, domain)
    assert held is not None and held["proposal_id"] == first
    other = next_of(ben, domain)
    assert other is not None and other["proposal_id"] == second
    again = next_of(ann, domain)
    assert again is not None and again["proposal_id"] == first, "a browser that comes back has what it had"
    refused = ben.post(f"/v1/domains/{domain}/queue/{first}/judge", json={"verdict": "reject"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "held_by_another")
    assert ben.post(f"/v1/domains/{domain}/queue/{second}/skip", json={}).json() == {"skipped": True}
    assert next_of(ben, domain) is None, "what is skipped is left to others, what is held is theirs"

    change(world.database, "UPDATE work.leases SET until = now() WHERE person = 'ann' AND domain = :d", d=domain)
    taken = next_of(ben, domain)
    assert taken is not None and taken["proposal_id"] == first, "nothing is lost when a browser closes"
    judge(world, ben, domain, first, verdict="reject")
    wait_until(lambda: state(world, first) == "rejected", what="the outcome")
    late = ann.post(f"/v1/domains/{domain}/queue/{first}/judge", json={"verdict": "accept"})
    assert (late.status_code, late.json()["error"]["code"]) == (409, "decided")
    given = next_of(ann, domain)
    assert given is not None and given["proposal_id"] == second


def test_what_was_accepted_is_put_forward_looked_at_again_and_kept_or_written_anew(
    world: World, annotator: Annotators
) -> None:
    domain, ids = with_queue(world, [False, False])
    ann = annotator(domain, "ann")
    for id_ in ids:
        next_of(ann, domain)
        judge(world, ann, domain, id_, verdict="accept")
        wait_until(lambda id_=id_: state(world, id_) == "accepted", what="the outcome")
    assert learned(world, domain) == 2 and next_of(ann, domain) is None
    origins = world.as_data.get(f"/v1/domains/{domain}/examples", params={"origin": "true"}).json()["data"]
    body = {
        "proposals": [ids[0], origins[1]["example_id"]],  # or by what it became
        "concern": "hard",
        "reason": "its perplexity stays high",
    }
    assert ann.post(f"/v1/domains/{domain}/queue/raise", json=body).status_code == 403
    world.caught_up(world.as_data.post(f"/v1/domains/{domain}/queue/raise", json=body).json()["position"])
    shown = next_of(ann, domain)
    assert shown is not None and (shown["waits"], shown["reason"]) == ("hard", "its perplexity stays high")
    judge(world, ann, domain, ids[0], verdict="accept")
    judge(world, ann, domain, ids[1], verdict="edit", edited={"instruction": "Where?", "output": "In berth 9."})
    wait_until(lambda: state(world, ids[1]) == "edited", what="the outcome")
    exported = world.as_data.get(f"/v1/domains/{domain}/examples").json()["data"]
    assert sorted(one["output"] for one in exported) == ["In berth 1.", "In berth 9."]
    assert next_of(ann, domain) is None


def test_who_is_erased_takes_their_words_and_open_verdicts_and_what_they_accepted_as_it_was_stays(
    world: World, annotator: Annotators
) -> None:
    domain, (kept, edited, open_) = with_queue(world, [False, False, True])
    gus, ben = annotator(domain, "gus"), annotator(domain, "ben")
    judge(world, gus, domain, kept, verdict="accept")
    judge(world, gus, domain, edited, verdict="edit", edited={"instruction": "Where?", "output": "In berth 9."})
    judge(world, gus, domain, open_, verdict="reject")
    wait_until(lambda: state(world, edited) == "edited", what="the outcome")
    erased = world.as_operator.post("/v1/people/gus/erase", json={}).json()
    assert erased["examples"] == 1
    world.caught_up(erased["position"])
    exported = world.as_data.get(f"/v1/domains/{domain}/examples").json()["data"]
    assert [one["output"] for one in exported] == ["In berth 1."], "it holds no word of theirs"
    for table, column in (("examples", "person"), ("proposals", "decided_by"), ("judgements", "person")):
        query = f"SELECT count(*) FROM noria.{table} WHERE domain = :d AND {column} = 'gus' AND {column} IS NOT NULL"
        left = rows(world.database, query, d=domain)[0][0]
        assert left == (1 if table == "examples" else 0), table  # what is retired as erased says whose it was
    for verdicts in (0, 1):
        (found,) = rows(world.database, "SELECT verdicts FROM noria.proposals WHERE proposal_id = :p", p=open_)
        assert found[0] == verdicts, "what they said of what is not settled does not count"
        judge(world, ben if not verdicts else annotator(domain, "cleo"), domain, open_, verdict="accept")
    wait_until(lambda: state(world, open_) == "accepted", what="the outcome")


def test_the_command_line_shows_hands_out_and_judges(world: World, tmp_path: Path) -> None:
    domain, (both, alone) = with_queue(world, [True, False])
    key = create_key(world.database, "cli-queue", "operator", person=None)
    environ = {"NORIA_DOOR": world.door_url, "NORIA_KEY": key, "NORIA_HOME": str(tmp_path)}

    def run(*arguments: str, status: int = 0) -> Any:
        result = CliRunner().invoke(main, [*arguments, "--domain", domain, "--json"], env=environ)
        assert result.exit_code == status, (result.output, result.stderr, result.exception)
        said = json.loads(result.stdout) if status == 0 else {}
        if said.get("position"):
            world.caught_up(said["position"])
        return said

    assert run("queue", "next", "--person", "ann")["item"]["proposal_id"] == both
    run("queue", "accept", both, "--person", "ann")
    run("queue", "reject", both, "--person", "ben")
    run("queue", "take", both, "2", "--person", "ben", status=1)
    run("queue", "take", both, "2", "--person", "cleo")
    assert run("queue", "next", "--person", "ben")["item"]["proposal_id"] == alone
    run("queue", "skip", alone, "--person", "ben")
    assert run("queue", "next", "--person", "ben")["item"] is None
    assert run("queue", "next", "--person", "ann")["item"]["proposal_id"] == alone
    wait_until(lambda: state(world, both) == "rejected", what="the outcome")
    plain = CliRunner().invoke(main, ["queue", "show", "--domain", domain], env=environ)
    assert "over 1 that two judged; on 0 they agreed" in plain.output


def test_a_replay_of_all_verdicts_comes_to_the_same(world: World) -> None:
    log = KafkaLog(world.kafka, "test-queue-replay")
    try:
        found = verify(world.database, log)
    finally:
        log.close()
    assert found.equal, found


def test_a_slip_is_taken_back_by_whoever_made_it_as_long_as_nobody_has_said_more(
    world: World, annotator: Annotators
) -> None:
    domain, (both, alone) = with_queue(world, [True, False])
    ann, ben = (annotator(domain, name) for name in ("ann", "ben"))

    def take_back(client: httpx.Client, id_: str) -> httpx.Response:
        answer = client.post(f"/v1/domains/{domain}/queue/{id_}/take-back", json={})
        if answer.status_code == 200:
            world.caught_up(answer.json()["position"])
        return answer

    for verdict, outcome in (("accept", "accepted"), ("reject", "rejected"), ("accept", "accepted")):
        judge(world, ann, domain, alone, verdict=verdict)
        wait_until(lambda: state(world, alone) == outcome, what="the outcome")  # noqa: B023
        assert take_back(ben, alone).json()["error"]["code"] == "not_the_last"
        assert take_back(ann, alone).json()["taken_back"] == verdict
        assert (state(world, alone), learned(world, domain)) == ("proposed", 0)
    assert take_back(ann, alone).json()["error"]["code"] == "not_the_last", "once"

    judge(world, ann, domain, both, verdict="reject")
    assert take_back(ann, both).status_code == 200
    judge(world, ann, domain, both, verdict="accept")
    judge(world, ben, domain, both, verdict="accept")
    wait_until(lambda: state(world, both) == "accepted", what="the outcome")
    assert take_back(ann, both).json()["error"]["code"] == "not_the_last"
    assert learned(world, domain) == 1
    said = ann.get(f"/v1/domains/{domain}/queue").json()
    assert (said["agreement"]["items"], said["waiting"]["proposed"]) == (1, 1), "a slip is no disagreement"
