"""What is fast selects what the plain way selects: k-center-greedy one pick at a time, and near pairs each with each."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.errors import Invalid
from workers.selector import dedupe, k_center

Source = Literal["correction", "annotation", "generated"]
Vectors = NDArray[np.float32]


def rows(seed: int, count: int, dims: int, clusters: int, equal: int) -> Vectors:
    """Unit vectors in clusters, some of them twice."""
    random = np.random.default_rng(seed)
    middles = random.standard_normal((clusters, dims))
    found = middles[random.integers(0, clusters, count)] + 0.5 * random.standard_normal((count, dims))
    if equal:
        found[random.integers(0, count, equal)] = found[random.integers(0, count, equal)]
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def plain_picks(
    vectors: Vectors,
    k: int,
    chosen: list[int],
    sources: list[Source],
    least: dict[Source, int],
    most: dict[Source, int],
    topics: list[int],
    least_of_topic: int,
    most_of_topic: int,
    radius: float,
) -> list[int]:
    """The loop of Sener & Savarese, in 64 bits: all distances anew at each step, and the first of the farthest. Raises Invalid
    where topics that are full leave a source less than its least."""
    exact = vectors.astype(np.float64)
    picks: list[int] = []

    def had(names: Sequence[Source] | Sequence[int], name: Source | int) -> int:
        return sum(names[place] == name for place in [*chosen, *picks])

    def lacking() -> dict[Source | int, int]:
        wanted: dict[Source | int, int] = {source: need - had(sources, source) for source, need in least.items()}
        for topic in set(topics):
            there = sum(topics[place] == topic for place in free())
            wanted[topic] = min(least_of_topic - had(topics, topic), there)
        return {name: need for name, need in wanted.items() if need > 0}

    def free() -> list[int]:
        return [
            place
            for place in range(len(vectors))
            if place not in chosen
            and place not in picks
            and had(sources, sources[place]) < most.get(sources[place], 10**9)
            and had(topics, topics[place]) < most_of_topic
        ]

    while len(picks) < k:
        wanted, may = lacking(), free()
        if wanted and sum(wanted.values()) >= k - len(picks):
            may = [place for place in may if sources[place] in wanted or topics[place] in wanted] or may
        if not may:
            break
        taken = [*chosen, *picks]
        if taken:
            near = (exact[may] @ exact[taken].T).max(axis=1)
            if not wanted and 1 - near.min() <= max(radius, k_center.SAME):
                break
        else:
            near = -(exact[may] @ exact.mean(axis=0))
        picks.append(may[int(np.flatnonzero(near <= near.min() + k_center.TIE)[0])])
    if any(had(sources, source) < need for source, need in least.items()):
        raise Invalid("a source has less than its least")
    return picks


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 90),
    dims=st.sampled_from((2, 3, 16)),
    clusters=st.integers(1, 12),
    equal=st.integers(0, 20),
    k=st.integers(1, 60),
    before=st.integers(0, 6),
    radius=st.sampled_from((0.0, 0.01, 0.2)),
    block=st.sampled_from((1, 2, 7, 32, 512)),
    looked_at=st.sampled_from((1, 5, 40, 16_384)),
    quotas=st.booleans(),
    topics=st.sampled_from((1, 2, 5)),
    least_of_topic=st.integers(0, 3),
    most_of_topic=st.sampled_from((2, 5, 1000)),
)
def test_the_blocked_picks_are_those_of_the_plain_loop(
    seed: int,
    count: int,
    dims: int,
    clusters: int,
    equal: int,
    k: int,
    before: int,
    radius: float,
    block: int,
    looked_at: int,
    quotas: bool,
    topics: int,
    least_of_topic: int,
    most_of_topic: int,
) -> None:
    vectors = rows(seed, count, dims, clusters, equal)
    random = np.random.default_rng(seed)
    sources: list[Source] = [("correction", "annotation", "generated")[at] for at in random.integers(0, 3, count)]  # type: ignore[misc]
    of_topic: list[int] = random.integers(0, topics, count).tolist()
    chosen = random.choice(count, min(before, count), replace=False).tolist()
    least: dict[Source, int] = {}
    most: dict[Source, int] = {}
    if quotas:
        least = {"annotation": min(3, sources.count("annotation"), k)}
        most = {"generated": 4}
    asked = k_center.Quotas(sources, least, most, of_topic, min(least_of_topic, most_of_topic), most_of_topic)
    usual = k_center.BLOCK, k_center.LOOKED_AT
    try:
        k_center.BLOCK, k_center.LOOKED_AT = block, looked_at
        picks = k_center.pick(vectors, k, chosen, asked, radius)
    except Invalid:
        picks = None
    finally:
        k_center.BLOCK, k_center.LOOKED_AT = usual
    try:
        plain = plain_picks(
            vectors,
            k,
            chosen,
            sources,
            least,
            most,
            of_topic,
            min(least_of_topic, most_of_topic),
            most_of_topic,
            radius,
        )
    except Invalid:
        plain = None
    assert picks == plain


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 300), equal=st.integers(0, 50), cosine=st.floats(0.5, 0.99))
def test_near_pairs_are_those_of_each_with_each(seed: int, count: int, equal: int, cosine: float) -> None:
    vectors = rows(seed, count, 8, 10, equal)
    left, right, near = dedupe.near_pairs(vectors, cosine)
    every = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    found = np.zeros_like(every, dtype=int)
    np.add.at(found, (left, right), 1)
    told_apart = np.abs(every - cosine) > 1e-6
    assert ((found == np.triu(every >= cosine, k=1)) | ~told_apart).all() and not np.tril(found).any()
    assert near == pytest.approx(every[left, right], abs=1e-5)


def test_many_rows_are_searched_by_cells_and_nearly_all_pairs_found(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    vectors = rows(3, 4000, 32, 60, 0)
    near = vectors[random.integers(0, 4000, 1500)] + 0.03 * random.standard_normal((1500, 32)).astype(np.float32)
    every = np.concatenate([vectors, near / np.linalg.norm(near, axis=1, keepdims=True)])
    exact = dedupe.near_pairs(every, 0.9)
    monkeypatch.setattr(dedupe, "EXACT_ROWS", 1000)
    cells = dedupe.near_pairs(every, 0.9)
    known, found = (set(zip(left.tolist(), right.tolist(), strict=True)) for left, right, _ in (exact, cells))
    assert found <= known and len(found) >= 0.99 * len(known) > 1000
