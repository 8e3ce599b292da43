"""The index of what is remembered, on vectors that a test makes: what is found, what is left out, and in what order."""

import random
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.recall.calibration import KINDS, Calibration, Weights
from workers.recall.index import Hit, Index, Memory, texts_of

BOTH = frozenset(KINDS)
DIMS = 64
EVEN = Weights(cosine=10.0, words=20.0, texts=0.0, none=10.0, least=0.1)


def meaning(text: str) -> NDArray[np.float32]:
    """A vector that only this text has."""
    vector = np.random.default_rng(list(text.encode())).standard_normal(DIMS).astype(np.float32)
    return vector / np.linalg.norm(vector)


def vectors(memory: Memory) -> NDArray[np.float32]:
    return np.array([meaning(text) for text in texts_of(memory)])


def index_of(memories: Sequence[Memory]) -> Index:
    index = Index(DIMS, Calibration(EVEN, EVEN))
    index.put_all(memories, [vectors(memory) for memory in memories])
    return index


def found(index: Index, question: str, like: str | None = None, most: int = 10, **how: object) -> list[str]:
    kinds = how.pop("kinds", BOTH)
    hits: list[Hit] = index.search(question, meaning(like or question), most, kinds, **how)  # type: ignore[arg-type]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(0 <= hit.score <= 1 for hit in hits)
    return [hit.id for hit in hits]


LIGHT = Memory(
    "light", "correction", ("May I turn right on red?", "Is a right turn at a red light legal?"), "Yes, after a stop."
)
BELT = Memory("belt", "correction", ("Who must wear a belt?",), "Everybody in the car.")
LAW = Memory("law", "passage", (), "第九十一条 饮酒后驾驶机动车的，处暂扣六个月机动车驾驶证。")


def test_what_was_put_is_found_by_the_next_search_by_meaning_and_by_words() -> None:
    index = index_of([LIGHT, LAW])
    assert "belt" not in found(index, "Who must wear a belt?")
    index.put(BELT, vectors(BELT))
    assert len(index) == 3
    assert found(index, "xyz", like="Who must wear a belt?")[0] == "belt"
    assert found(index, "wear the belt", like="of another meaning")[0] == "belt"
    assert found(index, "饮酒驾驶暂扣多久", like="of another meaning")[0] == "law"


def test_a_memory_put_again_stands_once_with_its_new_text_and_kind() -> None:
    index = index_of([LIGHT, BELT])
    newer = Memory("belt", "passage", (), "A helmet is worn on motorcycles.")
    index.put(newer, vectors(newer))
    assert len(index) == 2
    assert found(index, "belt", kinds=frozenset({"correction"})) == ["light"]
    assert found(index, "a helmet", like=newer.text, kinds=frozenset({"passage"})) == ["belt"]


def test_what_was_dropped_is_found_by_no_search() -> None:
    index = index_of([LIGHT, BELT, LAW])
    index.drop(["belt", "nobody"])
    assert len(index) == 2
    assert "belt" not in found(index, "Who must wear a belt?")
    index.drop(["light", "law"])
    assert found(index, "Who must wear a belt?") == [] and len(index) == 0


def test_only_the_kinds_that_are_asked_for_are_found_and_what_is_to_be_left_out_is_not() -> None:
    index = index_of([LIGHT, BELT, LAW])
    assert found(index, "belt", kinds=frozenset({"passage"})) == ["law"]
    assert found(index, "belt", kinds=frozenset()) == []
    assert set(found(index, "belt", without=frozenset({"belt", "nobody"}))) == {"light", "law"}
    assert len(found(index, "belt", most=2)) == 2


def test_a_wording_left_out_counts_no_more_than_if_it_had_never_been_there() -> None:
    own = "MAY i turn right on red"
    index = index_of([LIGHT, BELT, LAW])
    fresh = index_of([Memory("light", "correction", LIGHT.wordings[1:], LIGHT.text), BELT, LAW])
    for like in (LIGHT.wordings[0], "of another meaning"):
        whole, left = (
            index.candidates(own, meaning(like), "correction", without_wording=wording) for wording in (None, own)
        )
        other = fresh.candidates(own, meaning(like), "correction")
        assert left.ids == other.ids == ("belt", "light")
        assert left.cosines == pytest.approx(other.cosines, abs=1e-3)
        assert left.shares[1] < whole.shares[1]


def test_nothing_that_an_index_shows_of_a_memory_holds_its_words() -> None:
    assert repr(LIGHT) == "Memory(light)"
    with pytest.raises(ValueError, match=r"memory light has vectors of shape \(1, 64\)") as trouble:
        index_of([]).put(LIGHT, vectors(BELT)[:1])
    assert "red" not in str(trouble.value)


def test_the_room_of_dropped_memories_is_taken_back_and_the_others_are_found_as_before() -> None:
    many = [Memory(f"{n:04}", "passage", (), f"passage number {n}") for n in range(3000)]
    index = index_of(many)
    index.drop([memory.id for memory in many if int(memory.id) % 10])
    shelf = index._shelves["passage"]
    assert shelf._dense.rows == 300
    for memory in many[::500]:
        assert found(index, "of no such word", like=memory.text)[0] == memory.id
        by_words = index.candidates(memory.text, meaning("of another meaning"), "passage")
        assert by_words.ids[int(by_words.shares.argmax())] == memory.id


def test_searches_from_many_threads_never_miss_what_stands_nor_find_what_was_dropped() -> None:
    standing = [Memory(f"stays-{n}", "correction", (f"question {n}",), f"answer {n}") for n in range(40)]
    index = index_of(standing)
    stop, troubles, searched = threading.Event(), [], [0] * 4

    def search(worker: int) -> None:
        chance = random.Random(worker)
        try:
            while not stop.is_set():
                wanted = chance.choice(standing)
                assert found(index, wanted.wordings[0])[0] == wanted.id
                searched[worker] += 1
        except BaseException as trouble:
            troubles.append(trouble)

    threads = [threading.Thread(target=search, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for n in range(20):
        guest = Memory(f"guest-{n}", "correction", (f"guest asks {n}",), f"guest answer {n}")
        index.put(guest, vectors(guest))
        assert found(index, guest.wordings[0])[0] == guest.id
        index.drop([guest.id])
        assert guest.id not in found(index, guest.wordings[0])
    stop.set()
    for thread in threads:
        thread.join()
    assert troubles == [] and min(searched) > 0
