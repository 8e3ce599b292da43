"""What a domain would have recalled at a position of its log: what counted there, and nobody who was erased."""

import json
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from streams.events import Event
from streams.facts.documents import DocumentAdded, DocumentRemoved, PassageAdded
from streams.facts.exam import ExamItemAdded
from streams.facts.examples import ExampleAccepted, ExampleRetired
from streams.log import MemoryLog
from streams.recalled import Memory, Recall
from streams.sealing import Keyring, domain_subject, seal
from tests.integration.by_hand import AT, ByHand, created, empty, message
from tests.memories import Bags
from workers.recall import as_of
from workers.recall.as_of import AsOf, memory_as_of

DOMAIN = "roads"
ALL = Recall(of="both", most=10, least=0.0)


class Said:
    """A domain, and what is said in it, in order. Each thing said returns the position behind it: a pin."""

    def __init__(self, database: Engine, keyring: Keyring) -> None:
        empty(database)
        self.database, self.keyring = database, keyring
        self.world = ByHand(database, MemoryLog())
        self.at = AT
        self.say(created(DOMAIN))
        self.context: Any = SimpleNamespace(database=database, keyring=keyring, check=lambda: None)

    def say(self, event: Event, id: Any = None) -> int:
        (position,) = self.world.log.append([message(event, id=id, at=self.at)], 1)
        self.world.follow()
        self.at += timedelta(minutes=1)
        return position.offset + 1

    def corrects(self, person: str, id: str, question: str, answer: str) -> int:
        key, event_id = self.keyring.key_for(person), uuid4()
        asked = json.dumps([{"role": "user", "content": question}])
        event = ExampleAccepted(
            domain=DOMAIN,
            example_id=id,
            kind="annotation",
            person=person,
            prompt=seal(asked, key, f"{event_id}#prompt"),
            answer=seal(answer, key, f"{event_id}#answer"),
            said_at=self.at,
        )
        return self.say(event, event_id)

    def document(self, id: str, name: str, *passages: str) -> int:
        key = self.keyring.key_for(domain_subject(DOMAIN))
        for number, text in enumerate(passages):
            event_id, said = uuid4(), json.dumps({"place": f"article {number}", "text": text, "start": 0, "end": 1})
            self.say(
                PassageAdded(
                    domain=DOMAIN,
                    document_id=id,
                    passage_id=f"{id}-{number}",
                    number=number,
                    passage=seal(said, key, f"{event_id}#passage"),
                ),
                event_id,
            )
        event_id = uuid4()
        title = seal(json.dumps({"name": f"{name}.txt", "title": name}), key, f"{event_id}#title")
        return self.say(
            DocumentAdded(
                domain=DOMAIN,
                document_id=id,
                title=title,
                name_digest=name.encode().hex().ljust(64, "0"),
                content_digest=id.encode().hex().ljust(64, "0"),
                passages=len(passages),
                by="ops",
            ),
            event_id,
        )

    def exam(self, question: str) -> int:
        event_id = uuid4()
        words = json.dumps({"question": question, "answer": "yes", "keys": ["yes"]})
        item = seal(words, self.keyring.key_for(domain_subject(DOMAIN)), f"{event_id}#item")
        return self.say(
            ExamItemAdded(domain=DOMAIN, item_id=str(event_id), kind="held_out", item=item, by="ops"), event_id
        )

    def memory(self, pin: int) -> AsOf:
        return memory_as_of(DOMAIN, "round-1", pin, ALL.kinds, self.context)

    def known(self, pin: int) -> set[str]:
        (found,) = self.memory(pin).recall(["Who opens the gate at noon?"], ALL)
        return set(found)


@pytest.fixture
def said(database: Engine, keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> Iterator[Said]:
    monkeypatch.setattr(as_of, "sentence_encoder", Bags)
    monkeypatch.setattr(as_of, "line_of_round", lambda *_: ())
    yield Said(database, keyring)


def test_what_stood_at_the_pin_is_recalled_and_nothing_later(said: Said) -> None:
    first = said.corrects("ann", "e-1", "Who opens the gate?", "Ann opens it.")
    second = said.document("d-1", "Rules", "The gate is opened at noon.", "Nobody opens it at night.")
    third = said.say(ExampleRetired(domain=DOMAIN, example_id="e-1", reason="out of date", by="ops"))
    fourth = said.document("d-2", "Rules", "The gate is opened at one.")
    fifth = said.say(DocumentRemoved(domain=DOMAIN, document_id="d-2", reason="wrong", by="ops"))
    found = [said.known(pin) for pin in (first - 1, first, second - 1, second, third, fourth, fifth)]
    rules = {"d-1-0", "d-1-1"}
    assert found == [set(), {"e-1"}, {"e-1"}, {"e-1", *rules}, rules, {"d-2-0"}, set()]


def test_a_passage_is_put_before_a_model_with_its_title_and_place(said: Said) -> None:
    pin = said.document("d-1", "Rules", "The gate is opened at noon.")
    assert said.memory(pin).memory("d-1-0") == Memory("The gate is opened at noon.", source="Rules, article 0")


def test_of_a_question_the_newest_words_of_each_person_count_and_what_is_contradicted_is_not_recalled(
    said: Said,
) -> None:
    said.corrects("ann", "e-1", "Who opens the gate?", "Ann opens it.")
    pin = said.corrects("ann", "e-2", "Who opens the gate?", "Ben opens the gate now.")
    assert said.known(pin - 1) == {"e-1"} and said.known(pin) == {"e-2"}
    pin = said.corrects("eva", "e-3", "Who opens the gate?", "Eva has the key.")
    assert said.known(pin) == set(), "they contradict each other"


def test_what_stands_in_the_exam_is_not_in_the_memory(said: Said) -> None:
    said.corrects("ann", "e-1", "Who opens the gate?", "Ann opens it.")
    said.corrects("ann", "e-2", "When is the gate opened?", "At noon.")
    pin = said.exam("Who opens the gate?")
    assert said.known(pin) == {"e-2"}


def test_an_erased_persons_correction_is_in_no_memory_of_any_pin(said: Said) -> None:
    said.corrects("ann", "e-1", "Who opens the gate?", "Ann opens it.")
    pin = said.corrects("eva", "e-2", "When is the gate opened?", "At noon.")
    assert said.known(pin) == {"e-1", "e-2"}
    said.keyring.destroy("ann")
    assert said.known(pin) == {"e-2"}
