"""Somebody is erased while something of theirs is under way at the door: what they said before stays shut, whatever comes after."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import pytest
from msgspec import Struct

from api import conversations, datasets
from api.errors import ApiError
from api.formats.turns import messages_of
from streams import sealing
from streams.facts.examples import ExampleAccepted
from streams.sealing import PersonKey, seal
from tests.door_world import World, wait_until
from tests.integration.by_hand import change, rows
from tests.keyring import Ring


@pytest.fixture
def who() -> str:
    return f"p-{uuid4().hex[:8]}"


@pytest.fixture
def held(world: World) -> Iterator[threading.Event]:
    """While clear, the engine says nothing."""
    world.engine.hold.clear()
    yield world.engine.hold
    world.engine.hold.set()


def keys_of(world: World, person: str) -> tuple[object, ...]:
    """How many there are, and how many were destroyed."""
    query = "SELECT count(*), count(destroyed_at) FROM keyring.person_keys WHERE subject = :subject"
    return rows(world.database, query, subject=f"person:{person}")[0]


def erase(world: World, person: str) -> None:
    answer = world.as_operator.post(f"/v1/people/{person}/erase")
    assert answer.status_code == 200, answer.text
    world.caught_up(answer.json()["position"])


def held_keys(world: World) -> list[PersonKey]:
    """Every key that anybody holds yet."""
    kids = rows(world.database, "SELECT kid FROM keyring.person_keys WHERE destroyed_at IS NULL")
    return [world.services.keyring.find(str(kid)) for (kid,) in kids]


@pytest.mark.parametrize("stream", [True, False])
def test_what_answers_somebody_who_was_erased_meanwhile_is_recorded_under_no_key_made_anew(
    world: World, who: str, held: threading.Event, stream: bool
) -> None:
    domain = world.domain()
    body = {"model": domain, "messages": [{"role": "user", "content": "hello"}], "user": who, "stream": stream}
    said: list[tuple[int, str]] = []

    def ask() -> None:
        with world.as_chat.stream("POST", "/v1/chat/completions", json=body) as answer:
            said.append((answer.status_code, answer.read().decode()))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: world.events(domain, "prompt_asked"), what="the prompt")
    erase(world, who)
    held.set()
    asking.join()
    ((status, text),) = said
    assert status == (200 if stream else 410)
    assert '"code":"erased"' in text and "[DONE]" not in text
    assert keys_of(world, who) == (1, 1)
    assert not world.events(domain, "reply_drafted")

    again = world.chat(domain, "it is me again", user=who)
    assert keys_of(world, who) == (2, 1)
    world.caught_up(again["metadata"]["position"])
    assert len(world.events(domain, "reply_drafted")) == 1, "the loop goes on"


@pytest.mark.parametrize("said", [{"rating": "up"}, {"pick": True}, {"comment": "fine"}, {"correction": "no"}])
def test_feedback_of_any_kind_on_what_was_erased_makes_no_key(world: World, who: str, said: dict[str, object]) -> None:
    domain = world.domain()
    answer = world.chat(domain, user=who, n=2)
    world.caught_up(answer["metadata"]["position"])
    erase(world, who)
    body = {"reply_id": answer["metadata"]["reply_ids"][0], "user": who, **said}
    refused = world.as_chat.post("/v1/feedback", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (410, "erased")
    assert keys_of(world, who) == (1, 1)


def test_no_digest_of_what_somebody_said_can_be_confirmed_once_they_were_erased(world: World, who: str) -> None:
    domain = world.domain()
    asked = world.chat(domain, user=who)
    world.caught_up(asked["metadata"]["position"])
    body = {"reply_id": asked["metadata"]["reply_ids"][0], "user": who, "correction": "yes"}
    given = world.as_chat.post("/v1/feedback", json=body)
    assert given.status_code == 200, given.text
    item = {"instruction": "may I?", "output": "yes"}
    imported = world.as_data.post(f"/v1/domains/{domain}/examples", params={"user": who}, json=[item]).json()
    world.caught_up(given.json()["position"])
    world.caught_up(imported["position"])
    ((recorded,),) = rows(
        world.database,
        "SELECT request_digest FROM noria.feedback WHERE event_id = :id",
        id=given.json()["event_id"],
    )

    def confirmed() -> set[str]:
        """What a guess can be confirmed by, with every key that is held."""
        said = datasets.read_example(item).item
        prompt = msgspec.json.encode(messages_of(said)).decode()
        wanted, found = {str(recorded).rpartition(":")[2], imported["ids"][0]}, set[str]()
        canonical = msgspec.json.encode(dict.fromkeys(("rating", "pick", "comment")) | body, order="deterministic")
        kids = [str(kid) for (kid,) in rows(world.database, "SELECT kid FROM keyring.person_keys")]
        common = sealing.common_digest(canonical, world.services.keyring)
        found |= {common, *(sealing.digest(canonical, key) for key in held_keys(world))}
        for kid in kids:
            parts = ("example", domain, kid, prompt, said.output)
            for key in (None, *held_keys(world)):
                found.add(datasets.identified(world.services, *parts, key=key).hex)
        return wanted & found

    assert len(confirmed()) == 2, "by their own key"
    erase(world, who)
    assert not confirmed()


def test_the_same_request_again_is_told_from_another_before_and_after_the_erasure(world: World, who: str) -> None:
    domain = world.domain()
    answer = world.chat(domain, user=who)
    world.caught_up(answer["metadata"]["position"])
    headers = {"Idempotency-Key": "once", "Authorization": f"Bearer {world.chat_key}"}

    def give(rating: str) -> tuple[int, object]:
        body = {"reply_id": answer["metadata"]["reply_ids"][0], "user": who, "rating": rating}
        told = world.as_chat.post("/v1/feedback", json=body, headers=headers)
        return told.status_code, told.json().get("duplicate")

    assert [give("up"), give("up"), give("down")] == [(200, False), (200, True), (409, None)]
    erase(world, who)
    assert give("up") == (410, None)
    assert keys_of(world, who) == (1, 1)


def test_a_request_that_was_recorded_when_one_key_served_all_is_known_again() -> None:
    ring = Ring()
    before = conversations._Given(sealing.common_digest(b"up", ring), "", 1)
    since = conversations._Given(conversations._digest(b"up", ring.key_for("ann")), "", 1)
    for given in (before, since):
        assert conversations._says(given, b"up", ring) and not conversations._says(given, b"down", ring)
    ring.erase("ann")
    with pytest.raises(ApiError) as refused:
        conversations._says(since, b"up", ring)
    assert refused.value.status == 410


def test_an_example_that_was_imported_when_one_key_served_all_is_known_again(world: World, who: str) -> None:
    domain, item = world.domain(), {"instruction": "May I turn?", "output": "You may."}
    key = world.services.keyring.key_for(f"person:{who}")
    said = datasets.read_example(item).item
    prompt = msgspec.json.encode(messages_of(said)).decode()
    id_ = datasets.identified(world.services, "example", domain, key.kid, prompt, said.output)
    accepted = ExampleAccepted(
        domain=domain,
        example_id=id_.hex,
        kind="annotation",
        person=who,
        prompt=seal(prompt, key, f"{id_}#prompt"),
        answer=seal(said.output, key, f"{id_}#answer"),
        said_at=datetime.now(UTC),
    )
    world.caught_up(world.say(accepted, id_))
    again = world.as_data.post(f"/v1/domains/{domain}/examples", params={"user": who}, json=[item]).json()
    assert (again["added"], again["known"], again["ids"]) == (0, 1, [id_.hex])


def test_every_later_release_and_what_is_on_its_way_is_named_with_what_it_learned_before(
    world: World, who: str
) -> None:
    domain = world.domain()
    asked = world.chat(domain, user=who)
    world.caught_up(asked["metadata"]["position"])
    database, example = world.database, uuid4().hex
    change(
        database,
        "INSERT INTO noria.examples (example_id, domain, kind, person, own_words, edited, prompt, answer, said_at,"
        " accepted_offset) VALUES (:example, :domain, 'correction', :who, true, false, '{}', '{}', now(), 1)",
        example=example,
        domain=domain,
        who=who,
    )
    # Learned in the first; then two made from what came of it, one of which is rolled back to, and again from it.
    begin(world, domain, Began(1, 0, 1, "m1"), Began(2, 1, 2, "m2"), Began(3, 2, 3, "m3"), Began(4, 0, 4, "m4"))
    begin(world, domain, Began(5, 1, None, "m5"), Began(6, 3, None, None), Began(7, 3, None, None, over=False))
    change(
        database,
        "INSERT INTO noria.learned (round_id, example_id) VALUES (:id, :example)",
        id=f"{domain}-1",
        example=example,
    )
    erased = world.as_operator.post(f"/v1/people/{who}/erase").json()
    assert [(r["number"], r["release"]) for r in erased["learned_by"]] == [(1, 1), (2, 2), (3, 3), (5, None), (7, None)]
    shown = world.as_operator.get(f"/v1/people/{who}/erase", params={"after": erased["position"]}).json()
    assert shown["learned_by"] == erased["learned_by"]


def test_what_learned_what_somebody_prefers_is_named_and_so_is_the_reward_model_that_did(
    world: World, who: str
) -> None:
    domain = world.domain()
    asked = world.chat(domain, user=who)
    world.caught_up(asked["metadata"]["position"])
    theirs, with_more, anothers = {who: 2, "bob": 1}, {who: 5, "bob": 1}, {"bob": 1}
    begin(
        world,
        domain,
        Began(1, 0, 1, "m1", said_by=anothers),
        Began(2, 0, 2, "m2", said_by=theirs),
        Began(3, 2, 3, "m3", said_by=None),  # knows what the second learned
        Began(4, 2, 4, "m4", said_by=with_more),
        Began(5, 1, None, "reward", step="kept", said_by=with_more),
        Began(6, 1, None, "another", step="kept", said_by=anothers),
        Began(7, 1, None, None, over=False, said_by=theirs),
        Began(8, 1, 5, "m5", said_by=anothers, judge=5),
        Began(9, 1, 6, "m6", said_by=anothers, judge=6),
        Began(10, 5, 7, "m7", said_by=anothers),  # knows what the eighth drew
    )
    assert world.as_operator.get(f"/v1/people/{who}/erase").status_code == 404, "nobody is erased yet"
    erased = world.as_operator.post(f"/v1/people/{who}/erase").json()
    named = [(r["number"], r["release"], r["step"], r["examples"], r["preferences"]) for r in erased["learned_by"]]
    assert named == [
        (2, 2, "released", 0, 2),
        (3, 3, "released", 0, 2),
        (4, 4, "released", 0, 5),
        (5, None, "kept", 0, 5),
        (7, None, "train", 0, 2),
        (8, 5, "released", 0, 5),
        (10, 7, "released", 0, 5),
    ]
    world.caught_up(erased["position"])
    assert world.as_operator.get(f"/v1/people/{who}/erase").json()["learned_by"] == erased["learned_by"]


class Began(Struct, frozen=True):
    """A round that stands in the table. `said_by`: of whose preferences it learned how many. `judge`: the round that made
    the reward model which judged what it drew."""

    number: int
    base: int
    release: int | None
    model: str | None
    over: bool = True
    step: str = ""
    said_by: dict[str, int] | None = None
    judge: int | None = None


def begin(world: World, domain: str, *rounds: Began) -> None:
    for one in rounds:
        step = one.step or ("released" if one.release is not None else "train")
        change(
            world.database,
            "INSERT INTO noria.rounds (round_id, domain, number, step, reasons, opening, pin, base_model, base_release,"
            " requested_at, ended_at, release, model, said_by, reward_round) VALUES (:id, :domain, :number, :step, '[]', false,"
            " 1, 'm', :base, now(), CASE WHEN :over THEN now() END, :release, :model, CAST(:said_by AS jsonb), :judge)",
            id=f"{domain}-{one.number}",
            domain=domain,
            number=one.number,
            step=step,
            base=one.base,
            over=one.over,
            release=one.release,
            model=one.model,
            said_by=None if one.said_by is None else msgspec.json.encode(one.said_by).decode(),
            judge=None if one.judge is None else f"{domain}-{one.judge}",
        )
