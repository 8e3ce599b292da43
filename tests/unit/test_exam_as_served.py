"""A candidate is asked bare and as it is served; what is not recalled for is not asked twice, and counts in both."""

from streams.gate import EARLIER, FIXES, GENERAL, HELD_OUT, SERVED, Paired
from streams.recalled import Recall
from streams.sealing import common_digest
from streams.snapshots import SnapshotMemory
from tests.keyring import Ring
from tests.memories import memory_of, sealed_correction
from workers.evaluator import questions
from workers.evaluator.opencompass import ExamItem
from workers.evaluator.questions import Question, as_served, fix
from workers.evaluator.step import paired_by_set

RECALL = Recall(of="corrections", most=1, least=0.1)
FAR = "What is seven times eight?"


def asked(name: str, number: int, words: str, ring: Ring) -> Question:
    item = ExamItem(id=f"{name}-{number}", set=name, question=words, answer="yes", keys=("yes",))
    return Question(item, common_digest(f"{name} {words}".encode(), ring), ("key-of-domain",))


def served(ring: Ring, bare: list[Question], *memories: SnapshotMemory, recall: Recall = RECALL) -> dict[int, Question]:
    return as_served(bare, memory_of(ring, *memories), recall, ring)


def own(ring: Ring, memory: SnapshotMemory) -> Question:
    assert memory.question is not None
    found = fix(memory.id, memory.question, memory.text, ring)
    assert found is not None
    return found


def test_a_fix_is_asked_as_served_behind_its_own_correction_and_what_recalls_nothing_is_not_asked_twice() -> None:
    ring = Ring()
    memory = sealed_correction(ring, "e-1", "Who opens the gate?", "Ann.", "ben")
    bare = [own(ring, memory), asked(HELD_OUT, 1, "Who opens the gate now?", ring), asked(GENERAL, 1, FAR, ring)]
    found = served(ring, bare, memory)
    assert {number: question.item.set for number, question in found.items()} == {0: SERVED[FIXES], 1: SERVED[HELD_OUT]}
    assert found[0].item.question == "Known facts:\n- Ann.\n\nQuestion: Who opens the gate?"
    assert (found[0].item.id, found[0].item.answer) == ("e-1", "Ann.")
    assert found[1].kids == ("ben", "key-of-domain"), "the last seals what a model answers"


def test_without_recall_nothing_is_asked_as_served() -> None:
    ring = Ring()
    memory = sealed_correction(ring, "e-1", "Who opens the gate?", "Ann.")
    assert served(ring, [own(ring, memory)], memory, recall=Recall()) == {}


def test_the_same_question_behind_something_else_is_another_question() -> None:
    ring = Ring()
    question = asked(HELD_OUT, 1, "Who opens the gate?", ring)
    found = {
        served(
            ring,
            [question],
            sealed_correction(ring, "e-1", "Who opens the gate?", answer, person),
        )[0].fingerprint
        for answer, person in (("Ann.", "ann"), ("Ben.", "ann"), ("Ben.", "eva"), ("Ben.", "eva"))
    }
    assert len(found) == 3 and question.fingerprint not in found


def test_who_was_erased_since_the_memory_was_read_is_not_recalled() -> None:
    ring = Ring()
    memory = sealed_correction(ring, "e-1", "Who opens the gate?", "Ann.", "ann")
    question = asked(HELD_OUT, 1, "Who opens the gate?", ring)
    found = served(ring, [question], memory)
    assert list(found) == [0]
    gone = memory_of(ring, memory)
    ring.erase("ann")
    assert questions._behind(question, ["e-1"], gone, ring) is None


def test_a_set_is_counted_as_served_with_bare_answers_where_nothing_is_recalled() -> None:
    ring = Ring()
    bare = [
        asked(FIXES, 1, "a", ring),
        asked(FIXES, 2, "b", ring),
        asked(EARLIER, 3, "c", ring),
        asked(GENERAL, 4, "d", ring),
        asked(GENERAL, 5, "e", ring),
        asked(GENERAL, 6, "f", ring),
    ]
    again = {0: asked(SERVED[FIXES], 1, "+a", ring), 4: asked(SERVED[GENERAL], 5, "+e", ring)}
    results = [
        (False, True),
        (False, False),
        (True, True),
        (True, True),
        (True, True),
        (False, True),
        (True, True),
        (True, False),
    ]
    assert paired_by_set(bare, again, results) == {
        EARLIER: Paired(1, 1, 0, 0, 0),
        FIXES: Paired(2, 0, 0, 1, 1),
        SERVED[FIXES]: Paired(2, 1, 0, 0, 1),
        GENERAL: Paired(3, 2, 0, 1, 0),
        SERVED[GENERAL]: Paired(3, 1, 1, 1, 0),
    }
