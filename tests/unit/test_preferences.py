"""What people said of answers, opened: the pairs of a snapshot, and a reason for whatever makes none."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from streams.alike import words_of
from streams.artifacts import Artifacts
from streams.facts.rounds import SnapshotSelected
from streams.history import Before, open_whole
from streams.orders import SelectSnapshot
from streams.preferred import (
    ERASED,
    IN_THE_EXAM,
    REPLACED,
    RETIRED,
    TAUGHT,
    TOO_LONG,
    UNREADABLE,
    Preferred,
    counted,
    preferred,
)
from streams.rankings import CONTRADICTED, EQUAL, is_held_out
from streams.reading.preferences import Draft, Feedback, Prompt, SaidOfAnswers
from streams.recipes import DpoRecipe, KtoRecipe, PreferenceRecipe
from streams.sealed import Sealed
from streams.sealing import open_sealed, seal
from streams.snapshots import Snapshot, load
from tests.keyring import Ring
from workers.selector import preferences, step
from workers.trainer.step import preferences as taught

AT = datetime(2026, 11, 24, tzinfo=UTC)
DOMAIN = "rivers"  # of which none of the questions here is held out, but for one
HELD_OUT = "How high is it?"


class Talk:
    """Prompts with their drafts, and what was said of them, sealed as on the log."""

    def __init__(self) -> None:
        self.ring = Ring()
        self.prompts: dict[str, Prompt] = {}
        self.drafts: dict[str, list[Draft]] = {}
        self.feedback: dict[str, list[Feedback]] = {}
        self.retired: set[str] = set()

    def asked(self, person: str, question: str, *drafts: str) -> list[str]:
        """The drafts' ids."""
        name = f"p{len(self.prompts)}"
        messages = json.dumps([{"role": "user", "content": question}])
        self.prompts[name] = Prompt(name, self.sealed(person, messages, f"{name}#messages"), None)
        ids = [f"{name}r{index}" for index in range(len(drafts))]
        self.drafts[name] = [
            Draft(id_, name, 0, self.sealed(person, words, f"{id_}#text"))
            for id_, words in zip(ids, drafts, strict=True)
        ]
        return ids

    def said(self, person: str, reply_id: str, kind: str, **more: Any) -> str:
        """The event's id."""
        number = sum(map(len, self.feedback.values()))
        event_id = str(uuid4())
        words = more.pop("words", None)
        empty: dict[str, Any] = dict.fromkeys(("rating", "scale", "ranking"))
        one = Feedback(
            event_id=event_id,
            kind=kind,
            reply_id=reply_id,
            prompt_id=reply_id.partition("r")[0],
            person=person,
            text=None if words is None else self.sealed(person, words, f"{event_id}#text"),
            given_at=AT + timedelta(minutes=number),
            **empty | more,
        )
        self.feedback.setdefault(one.prompt_id, []).append(one)
        return event_id

    def sealed(self, person: str, words: str, ref: str) -> Sealed:
        return seal(words, self.ring.key_for(person), ref)

    def told(self) -> SaidOfAnswers:
        return SaidOfAnswers(self.prompts, self.drafts, self.feedback, frozenset(self.retired))

    def preferred(self, *exam: str) -> Preferred:
        return preferred(
            self.told(), Before({}, {}), self.ring, DOMAIN, frozenset(tuple(words.split()) for words in exam)
        )


@pytest.fixture
def talk() -> Talk:
    return Talk()


def texts(found: Preferred) -> set[tuple[str, str]]:
    return {(found.texts[pair.better.answer_id], found.texts[pair.worse.answer_id]) for pair in found.pairs}


def test_every_kind_of_feedback_says_which_answer_is_better(talk: Talk) -> None:
    picked = talk.asked("ann", "How far?", "Far.", "Not far.", "Seven miles.")
    talk.said("ann", picked[2], "pick")
    ranked = talk.asked("ben", "How deep?", "Deep.", "Nine feet.")
    talk.said("ben", ranked[0], "ranking", ranking=((ranked[1],), (ranked[0],)))
    (corrected,) = talk.asked("cleo", "How old?", "Old.")
    correction = talk.said("cleo", corrected, "correction", words="A hundred years.")
    rated = talk.asked("dora", "How hot?", "Hot.", "Forty degrees.")
    talk.said("dora", rated[0], "rating", rating=2, scale="stars")
    talk.said("dora", rated[1], "rating", rating=5, scale="stars")
    found = talk.preferred()
    assert texts(found) == {
        ("Seven miles.", "Far."),
        ("Seven miles.", "Not far."),
        ("Nine feet.", "Deep."),
        ("A hundred years.", "Old."),
        ("Forty degrees.", "Hot."),
    }
    assert found.held == ()
    assert [pair.events for pair in found.pairs if pair.people == ("cleo",)] == [(correction,)]


def test_whatever_makes_no_pair_is_held_back_with_its_reason(talk: Talk) -> None:
    (in_exam,) = talk.asked("ann", "Which exam?", "That.")
    talk.said("ann", in_exam, "correction", words="This.")
    (old,) = talk.asked("ann", "How old?", "Old.")
    talk.said("ann", old, "correction", words="Ten years.")
    talk.said("ann", old, "correction", words="A hundred years.")
    (gone,) = talk.asked("ann", "How far?", "Far.")
    talk.retired.add(talk.said("ann", gone, "correction", words="Wrong."))
    same = talk.asked("ann", "How deep?", "Deep.", "Deep.")
    talk.said("ann", same[0], "pick")
    two = talk.asked("ann", "How hot?", "Hot.", "Warm.")
    talk.said("ann", two[0], "pick")
    talk.said("ben", two[1], "pick")
    (foreign,) = talk.asked("ann", "Who?", "I.")
    talk.said("ann", foreign, "rating", rating=1, scale="thumb")
    del talk.prompts[foreign.partition("r")[0]]
    found = talk.preferred("which exam")
    assert texts(found) == {("A hundred years.", "Old.")}
    assert counted(found.held) == dict.fromkeys(
        sorted([IN_THE_EXAM, REPLACED, RETIRED, EQUAL, CONTRADICTED, UNREADABLE]), 1
    )


def test_an_erased_persons_pairs_are_gone_and_others_of_the_same_question_stay(talk: Talk) -> None:
    for person in ("ann", "ben"):
        (reply,) = talk.asked(person, "How far?", "Far.")
        talk.said(person, reply, "correction", words="Seven miles.")
    assert [pair.people for pair in talk.preferred().pairs] == [("ann", "ben")]
    talk.ring.erase("ann")
    found = talk.preferred()
    assert [pair.people for pair in found.pairs] == [("ben",)] and counted(found.held) == {ERASED: 1}
    assert found.wholes.keys() == {"p1"}, "and nothing of hers is handed on"


def selected(
    talk: Talk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fits: Sequence[str] | None = None,
    recipe: PreferenceRecipe | None = None,
) -> tuple[Snapshot, SnapshotSelected, str]:
    """By a recipe that learns from pairs. `fits`: the answers that are short enough; None: all."""
    artifacts, said = Artifacts(tmp_path / "artifacts"), []
    context: Any = SimpleNamespace(
        keyring=talk.ring,
        artifacts=artifacts,
        database=SimpleNamespace(connect=lambda: nullcontext()),
        progress=lambda *_: None,
        check=lambda: None,
        publish=lambda order, event, name: said.append(event),
    )
    monkeypatch.setattr(step, "_read", lambda order, context: ([], {}, [], Before({}, {})))
    monkeypatch.setattr(
        step, "length_of", lambda *_: lambda asked, answer: 1 if fits is None or answer in fits else None
    )
    monkeypatch.setattr(preferences, "cut_of_round", lambda *_: None)
    monkeypatch.setattr(preferences, "cut_now", lambda *_: {"0": 12, "2": 7})
    monkeypatch.setattr(preferences, "said_of_answers", lambda *_: talk.told())
    monkeypatch.setattr(preferences, "before", lambda *_: Before({}, {}))
    order = SelectSnapshot(order_id=uuid4(), domain=DOMAIN, round_id="round-1", pin=9)
    step.run(replace(order, recipe=recipe or DpoRecipe()), context)
    (event,) = said
    return load(event.snapshot, artifacts), event, event.snapshot


def test_a_snapshot_holds_a_line_a_pair_with_where_it_came_from_and_stays_what_it_was(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts = talk.asked("ann", "How far?", "Far.", "Seven miles.", "Eight miles.")
    order = talk.said("ann", drafts[0], "ranking", ranking=((drafts[1],), (drafts[2],), (drafts[0],)))
    snapshot, event, digest = selected(talk, tmp_path, monkeypatch)
    assert (event.pairs, event.held, event.read) == (3, {}, {"0": 12, "2": 7}) and event.kept == ()
    assert {pair.ranking for pair in snapshot.pairs} == {"p0"} and snapshot.read == event.read
    first = snapshot.pairs[0]
    assert (first.events, first.people, first.chosen_id) == ((order,), ("ann",), drafts[1])
    assert open_whole(first.prompt, talk.ring)[-1]["content"] == "How far?" and first.kids == {"ann"}
    assert open_sealed(first.chosen, talk.ring) == "Seven miles."
    assert selected(talk, tmp_path, monkeypatch)[2] == digest, "the same again is the same snapshot"
    talk.ring.erase("ann")
    later, after, _ = selected(talk, tmp_path, monkeypatch)
    assert (
        later.pairs == () and after.held == {ERASED: 1} and load(digest, Artifacts(tmp_path / "artifacts")) == snapshot
    )


def test_what_is_too_long_to_be_learned_is_held_back_pair_by_pair(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts = talk.asked("ann", "How far?", "Far.", "Seven miles.", "Eight hundred thousand miles.")
    talk.said("ann", drafts[0], "ranking", ranking=((drafts[1],), (drafts[2],), (drafts[0],)))
    snapshot, event, _ = selected(talk, tmp_path, monkeypatch, fits=["Far.", "Seven miles."])
    assert (len(snapshot.pairs), event.held) == (1, {TOO_LONG: 2})


def test_the_trainer_is_given_pairs_that_weigh_one_a_question_and_none_of_an_erased_persons(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts = talk.asked("ann", "How far?", "Far.", "Seven miles.", "Eight miles.")
    talk.said("ann", drafts[0], "ranking", ranking=((drafts[1],), (drafts[2],), (drafts[0],)))
    for person, question in (("ben", "How deep?"), ("cleo", "How old?"), ("dora", "How hot?")):
        picked = talk.asked(person, question, "Nobody knows.", f"{question} Nine.")
        talk.said(person, picked[1], "pick")
    snapshot, _, _ = selected(talk, tmp_path, monkeypatch)
    found = taught(snapshot, talk.ring)
    far = [pair for pair in found.pairs if pair.prompt == "How far?"]
    assert [(pair.chosen, pair.rejected) for pair in far] == [
        ("Eight miles.", "Far."), ("Seven miles.", "Eight miles."), ("Seven miles.", "Far.")
    ]  # fmt: skip
    assert {pair.weight for pair in far} == {1 / 3} and {pair.weight for pair in found.pairs} == {1 / 3, 1}
    assert found.kids == {"ann", "ben", "cleo", "dora"} and found.labels == () and found.erased == 0
    talk.ring.erase("ben")
    after = taught(snapshot, talk.ring)
    assert len(after.pairs) == len(found.pairs) - 1 and (after.erased, after.kids) == (1, {"ann", "cleo", "dora"})
    assert "miles" not in repr(found) + repr(found.pairs)


def test_labels_stand_in_the_snapshot_of_a_recipe_that_learns_from_them_and_in_no_other(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for person, rating in (("ann", 1), ("ben", -1)):
        (reply,) = talk.asked(person, f"How far, {person}?", f"{person}'s miles.")
        talk.said(person, reply, "rating", rating=rating, scale="thumb")
    snapshot, event, _ = selected(talk, tmp_path, monkeypatch, recipe=KtoRecipe())
    assert (event.pairs, event.labels, len(snapshot.labels)) == (0, 2, 2)
    found = taught(snapshot, talk.ring)
    assert [(label.prompt, label.answer, label.good) for label in found.labels] == [
        ("How far, ann?", "ann's miles.", True), ("How far, ben?", "ben's miles.", False)
    ]  # fmt: skip
    assert selected(talk, tmp_path, monkeypatch, recipe=KtoRecipe(), fits=["ann's miles."])[1].labels == 1
    assert selected(talk, tmp_path, monkeypatch)[1].labels == 0
    talk.ring.erase("ann")
    assert (len(taught(snapshot, talk.ring).labels), taught(snapshot, talk.ring).erased) == (1, 1)


def test_of_a_question_that_is_held_out_nothing_is_learned_and_its_pairs_examine_the_candidate(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_held_out(HELD_OUT, DOMAIN)
    for person, question in (("ann", "How far?"), ("ben", HELD_OUT), ("cleo", HELD_OUT.upper())):
        drafts = talk.asked(person, question, f"{person} does not know.", f"{person} says nine feet.")
        talk.said(person, drafts[1], "pick")
    snapshot, event, _ = selected(talk, tmp_path, monkeypatch, recipe=KtoRecipe())
    assert (event.pairs, event.pairs_held_out, event.labels) == (1, 2, 2) and event.held == {}
    assert {open_whole(pair.prompt, talk.ring)[-1]["content"] for pair in snapshot.held_out} == {
        HELD_OUT,
        HELD_OUT.upper(),
    }
    found = taught(snapshot, talk.ring)
    assert {one.prompt for one in (*found.pairs, *found.labels)} == {"How far?"} and found.kids == {"ann"}
    # An answer that is taught as a correction is preferred by a model for that alone.
    context: Any = SimpleNamespace(
        keyring=talk.ring, database=SimpleNamespace(connect=lambda: nullcontext()), progress=lambda *_: None
    )
    again = preferences.select_pairs(
        SelectSnapshot(order_id=uuid4(), domain=DOMAIN, round_id="round-1", pin=9),
        DpoRecipe(),
        frozenset(),
        lambda question: False,
        frozenset({words_of(HELD_OUT)}),
        lambda *_: True,
        context,
    )
    assert (len(again.pairs), again.held_out, counted(again.held)) == (1, (), {TAUGHT: 2})
