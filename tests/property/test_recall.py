"""Whatever is put and dropped, in whatever order, an index finds what a fresh one finds that is made of what stands."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.recall.calibration import KINDS
from workers.recall.index import Index, Memory, texts_of

DIMS = 16
WORDS = ("red", "light", "belt", "停车", "罚款", "speed")
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
MEMORY = st.builds(
    Memory, st.sampled_from("abcdefgh"), st.sampled_from(KINDS), st.lists(TEXT, max_size=3).map(tuple), TEXT
)
CHANGES = st.lists(
    st.one_of(
        MEMORY,
        st.lists(MEMORY, max_size=4),
        st.frozensets(st.sampled_from("abcdefgh"), max_size=4),
    ),
    max_size=12,
)


def meaning(text: str) -> NDArray[np.float32]:
    """Words add up, so texts that share some lie near each other."""
    vector = np.sum([np.random.default_rng(list(word.encode())).standard_normal(DIMS) for word in text.split()], axis=0)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def vectors(memory: Memory) -> NDArray[np.float32]:
    return np.array([meaning(text) for text in texts_of(memory)])


@settings(max_examples=25)
@given(CHANGES, st.lists(TEXT, min_size=1, max_size=3), st.frozensets(st.sampled_from("abcdefgh"), max_size=2))
def test_an_index_that_was_changed_finds_what_a_fresh_one_finds_in_the_same_order_with_the_same_scores(
    changes: list[Memory | list[Memory] | frozenset[str]], questions: list[str], without: frozenset[str]
) -> None:
    lived, standing = Index(DIMS), dict[str, Memory]()
    for change in changes:
        match change:
            case Memory():
                lived.put(change, vectors(change))
                standing[change.id] = change
            case list():
                lived.put_all(change, [vectors(memory) for memory in change])
                standing.update((memory.id, memory) for memory in change)
            case frozenset():
                lived.drop(change)
                for id in change:
                    standing.pop(id, None)
    fresh, memories = Index(DIMS), list(standing.values())[::-1]
    fresh.put_all(memories, [vectors(memory) for memory in memories])
    assert len(lived) == len(fresh) == len(standing)
    for question in questions:
        for without_wording in (None, question):
            one, other = (
                index.search(question, meaning(question), 20, frozenset(KINDS), without, without_wording)
                for index in (lived, fresh)
            )
            assert one == other
            assert {hit.id for hit in one} == set(standing) - without
