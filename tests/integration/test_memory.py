"""The memory of a domain: what people corrected and what its documents say is found at once, and what stands no more is not."""

import json
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from streams.events import Event
from streams.facts.conversations import PromptAsked, ReplyCorrected, ReplyDrafted, ReplyRated
from streams.facts.documents import DocumentAdded, DocumentRemoved, PassageAdded
from streams.facts.domains import DomainRetired, PolicySet
from streams.facts.examples import ExampleRetired
from streams.facts.people import PersonErased
from streams.log import MemoryLog
from streams.policy import Policy
from streams.recalled import Recall, RecallOf
from streams.replay import verify
from streams.sealing import Keyring, seal
from tests.integration.by_hand import AT, ByHand, change, created, empty, message, rows
from tests.memories import Bags
from workers.recall.follower import Follower
from workers.register import purge

DOMAIN = "trams"
LAST = "When does the last tram leave the depot?"
FARE = "What does a ticket for a dog cost?"


class World(ByHand):
    """People who correct, a curator with documents, and a memory that follows them by hand."""

    def __init__(self, database: Engine, keyring: Keyring) -> None:
        super().__init__(database, MemoryLog())
        self.keyring = keyring
        self.encoder = Bags()
        self.memory = self.restarted()
        self.now = AT
        self.tell(created(DOMAIN))
        self.recalls("both")

    def restarted(self) -> Follower:
        return Follower(self.database, self.keyring, lambda recall: self.encoder)

    def tell(self, event: Event, id: UUID | None = None) -> None:
        self.now += timedelta(seconds=1)
        self.log.append([message(event, id=id, at=self.now)], 1)

    def recalls(self, of: RecallOf) -> None:
        self.tell(PolicySet(domain=DOMAIN, policy=Policy(recall=Recall(of=of)), by="curator"))
        self.follow_all()

    def asks(self, person: str, question: str, conversation: str | None = None) -> dict[str, str]:
        """Somebody asks and is answered; what names that reply."""
        name, id = conversation or uuid4().hex, uuid4()
        key = self.keyring.key_for(f"person:{person}")
        place = {"domain": DOMAIN, "conversation_id": name, "prompt_id": f"prompt-{id}", "person": person}
        asked = seal(json.dumps([{"role": "user", "content": question}]), key, f"{id}#messages")
        self.tell(PromptAsked(**place, messages=asked, release=0), id)
        place["reply_id"], id = f"reply-{id}", uuid4()
        self.tell(
            ReplyDrafted(
                **place,
                index=0,
                release=0,
                text=seal("I do not know.", key, f"{id}#text"),
                finish_reason="stop",
                prompt_tokens=1,
                completion_tokens=1,
                duration_s=0.1,
            ),
            id,
        )
        return place

    def corrects(self, person: str, question: str, answer: str, conversation: str | None = None) -> dict[str, str]:
        place, id = self.asks(person, question, conversation), uuid4()
        said = seal(answer, self.keyring.key_for(f"person:{person}"), f"{id}#text")
        self.tell(ReplyCorrected(**place, text=said, request_digest="d"), id)
        self.follow_all()
        return place

    def adds(self, name: str, *passages: tuple[str, str], whole: bool = True) -> str:
        """A document; `whole`: all of it went in."""
        document_id, key = uuid4().hex, self.keyring.key_for(f"domain:{DOMAIN}")
        for number, (place, words) in enumerate(passages):
            id, passage_id = uuid4(), f"{document_id}-{number}"
            opened = json.dumps({"place": place, "text": words, "start": 0, "end": len(words)})
            passage = seal(opened, key, f"{id}#passage")
            about = {"domain": DOMAIN, "document_id": document_id}
            self.tell(PassageAdded(**about, passage_id=passage_id, number=number, passage=passage), id)
        if whole:
            id = uuid4()
            title = seal(json.dumps({"name": name, "title": name}), key, f"{id}#title")
            self.tell(
                DocumentAdded(
                    domain=DOMAIN,
                    document_id=document_id,
                    title=title,
                    name_digest=name.encode().hex().ljust(64, "0")[:64],
                    content_digest=uuid4().hex * 2,
                    passages=len(passages),
                    by="curator",
                ),
                id,
            )
        self.follow_all()
        return document_id

    def follow_all(self) -> None:
        self.settle(self.now)
        while self.memory.step():
            pass

    def examples(self) -> list[str]:
        return [
            str(row[0]) for row in rows(self.database, "SELECT example_id FROM noria.examples ORDER BY accepted_offset")
        ]

    def found(self, question: str, most: int = 3, memory: Follower | None = None) -> list[tuple[str, float]]:
        """Ids and scores of what is recalled at all."""
        held = (memory or self.memory).held[DOMAIN]
        assert held.ready
        return [(hit.id, hit.score) for hit in held.search(question, held.recall.kinds, most)]

    def ids(self, question: str) -> list[str]:
        return [id for id, _ in self.found(question)]


@pytest.fixture
def world(database: Engine, keyring: Keyring) -> World:
    empty(database)
    return World(database, keyring)


def test_a_correction_is_found_by_another_wording_and_another_question_finds_another(world: World) -> None:
    world.corrects("ann", LAST, "The last tram leaves at 23:40.")
    world.corrects("ben", FARE, "A dog rides for nothing.")
    last, fare = world.examples()
    assert world.ids("the last tram: when does it leave")[0] == last
    assert world.ids("what does a dog cost")[0] == fare


def test_a_newer_correction_of_the_same_person_takes_the_place_of_the_older(world: World) -> None:
    world.corrects("ann", LAST, "At 23:40.")
    world.corrects("ann", LAST.upper(), "At 23:50.")
    assert world.ids(LAST) == world.examples()[1:]


def test_where_people_contradict_each_other_nothing_is_recalled_until_most_agree(world: World) -> None:
    world.corrects("ann", LAST, "At 23:40.")
    world.corrects("ben", LAST, "At midnight.")
    assert world.ids(LAST) == []
    world.corrects("cem", LAST, "At midnight!")
    (found,) = world.ids(LAST)
    assert found in world.examples()[1:]


def test_what_was_retired_is_found_no_more_and_what_it_had_replaced_is_again(world: World) -> None:
    world.corrects("ann", LAST, "At 23:40.")
    world.corrects("ben", LAST, "At midnight.")
    first, second = world.examples()
    world.tell(ExampleRetired(domain=DOMAIN, example_id=second, reason="wrong", by="curator"))
    world.follow_all()
    assert world.ids(LAST) == [first]


def test_what_was_asked_in_vain_before_is_another_wording_of_a_correction_even_if_it_is_rated_later(
    world: World,
) -> None:
    before = world.asks("ann", "last tram from the depot when", "c-1")
    world.corrects("ann", LAST, "At 23:40.", "c-1")
    ((_, alone),) = world.found("last tram from the depot when")
    world.tell(ReplyRated(**before, rating=-1, scale="thumb", request_digest="d"))
    world.follow_all()
    ((_, known),) = world.found("last tram from the depot when")
    assert known > alone


def test_who_was_erased_is_recalled_no_more_and_their_vectors_are_gone(world: World) -> None:
    world.corrects("ann", LAST, "At 23:40.")
    world.corrects("ben", FARE, "Nothing.")
    kids = world.keyring.destroy("person:ann")
    world.tell(PersonErased(domain=DOMAIN, person="ann", kids=kids, by="curator"))
    world.follow_all()
    assert world.examples()[0] not in world.ids(LAST)
    assert purge(world.database, "here", kids) == {"vectors": 1}
    assert [row[0] for row in rows(world.database, "SELECT memory_id FROM work.vectors")] == world.examples()[1:]


def test_a_document_is_recalled_passage_by_passage_once_it_is_whole(world: World) -> None:
    half = world.adds("rules", ("Article 1", "Dogs ride in the last car."), whole=False)
    assert world.ids("dogs in the last car") == []
    whole = world.adds("rules", ("Article 1", "Dogs ride in the last car."), ("Article 2", "Bicycles do not ride."))
    assert world.ids("dogs in the last car")[0] == f"{whole}-0" and half != whole


def test_a_new_version_of_a_document_takes_the_place_of_the_old_and_a_removed_one_has_none(world: World) -> None:
    world.adds("rules", ("Article 1", "Dogs ride in the last car."))
    newer = world.adds("rules", ("Article 1", "Dogs ride in the first car."))
    assert world.ids("where do dogs ride") == [f"{newer}-0"]
    world.tell(DocumentRemoved(domain=DOMAIN, document_id=newer, reason="out of date", by="curator"))
    world.follow_all()
    assert world.ids("where do dogs ride") == []


def test_a_long_document_goes_in_little_by_little_and_corrections_do_not_wait_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.recall.held.AT_ONCE", 2)
    passages = [(f"Article {number}", f"Rule {number} of the line") for number in range(9)]
    monkeypatch.setattr(world, "follow_all", lambda: world.settle(world.now))
    world.adds("rules", *passages)
    assert world.memory.step(), "the first two, and more is left"
    world.corrects("ann", LAST, "At 23:40.")
    assert world.memory.step() and world.examples() == world.ids(LAST)[:1]
    while world.memory.step():
        pass
    assert len(world.memory.held[DOMAIN].index) == 10


def test_a_policy_says_what_is_held_and_a_retired_domain_has_no_memory(world: World) -> None:
    world.corrects("ann", LAST, "At 23:40.")
    document = world.adds("rules", ("Article 1", "The last tram leaves at noon."))
    assert set(world.ids(LAST)) == {*world.examples(), f"{document}-0"}
    world.recalls("corrections")
    assert world.ids(LAST) == world.examples()
    world.recalls("documents")
    assert world.ids(LAST) == [f"{document}-0"]
    world.recalls("off")
    assert world.memory.held == {}
    world.recalls("both")
    world.tell(DomainRetired(domain=DOMAIN, by="curator"))
    world.follow_all()
    assert world.memory.held == {}


def test_a_restart_computes_no_vector_again_and_finds_the_same(world: World) -> None:
    fill(world)
    before, computed = asked(world), world.encoder.texts
    again = world.restarted()
    while again.step():
        pass
    assert world.encoder.texts == computed
    assert asked(world, again) == before


def test_what_was_embedded_before_is_taken_in_by_larger_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.recall.held.AT_ONCE", 1)
    monkeypatch.setattr("workers.recall.held.KEPT_AT_ONCE", 4)
    world.adds("long.md", *((f"{n}", f"On line {n} no horse may graze.") for n in range(9)))

    def steps() -> int:
        again, count = world.restarted(), 1
        while again.step():
            count += 1
        assert len(again.held[DOMAIN].index) == 9
        return count

    assert steps() == 3
    change(world.database, "DELETE FROM work.vectors")
    assert steps() > 6


def test_vectors_that_were_lost_or_are_of_other_words_are_computed_again(world: World) -> None:
    fill(world)
    before, computed = asked(world), world.encoder.texts
    change(
        world.database, "UPDATE work.vectors SET words = repeat('0', 64) WHERE memory_id = :id", id=world.examples()[0]
    )
    again = world.restarted()
    while again.step():
        pass
    assert world.encoder.texts == computed + 2, "a question and its answer"
    assert asked(world, again) == before


def test_tables_that_were_made_anew_are_read_anew_and_come_to_the_same(world: World) -> None:
    fill(world)
    before = asked(world)
    assert verify(world.database, world.log).equal
    change(world.database, "UPDATE noria.positions SET next_offset = next_offset - 1")
    change(world.database, "DELETE FROM noria.examples WHERE example_id = :id", id=world.examples()[0])
    world.memory.step()
    while world.memory.step():
        pass
    assert asked(world) != before, "as the tables say"


def test_what_changed_behind_its_back_is_found_by_comparing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world)
    gone = world.examples()[0]
    change(
        world.database,
        "UPDATE noria.examples SET retired_offset = 1, retired_reason = 'x' WHERE example_id = :id",
        id=gone,
    )
    assert gone in world.ids(LAST)
    monkeypatch.setattr("workers.recall.follower.COMPARE_EVERY_S", 0.0)
    world.follow_all()
    assert gone not in world.ids(LAST)


def fill(world: World) -> None:
    world.corrects("ann", LAST, "At 23:40.")
    world.corrects("ben", FARE, "Nothing.")
    world.adds("rules", ("Article 1", "Dogs ride in the last car."), ("Article 2", "Bicycles do not ride."))


def asked(world: World, memory: Follower | None = None) -> Sequence[object]:
    return [world.found(question, memory=memory) for question in (LAST, FARE, "where do dogs ride", "bicycles")]
