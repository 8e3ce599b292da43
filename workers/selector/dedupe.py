"""The step `dedupe`: of examples that say the same one is kept, the best.

What is written the same is found by its words; what means the same, by the cosine of its vectors: exactly up to EXACT_ROWS, above
that within the nearest cells of an inverted file (FAISS finds their middles; Douze et al. 2024, arXiv 2401.08281), all that lies in
the range and not so many neighbours, so that a cluster of any size is found whole. Two that name different numbers never mean the
same here: a number is often the whole fact.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from streams.alike import words_of
from streams.selection import Dedupe
from workers.cores import HEAVY_THREADS
from workers.selector.candidates import Decision, Instruments, OpenExample, Vectors

REPEATED = "says the same as another"
EXACT_ROWS = 20_000  # 2 seconds of two cores
PROBES = 4  # cells that are searched: of pairs above 0.9 that finds 999 in 1,000
_BLOCK = 2048
_NUMBER = re.compile(r"\d+")

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Rows `left` < `right`, and their cosine."""


def judge(step: Dedupe, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]:
    """`number`: the cosine, 1 for the same words; `neighbour`: the example that stands in its place. What was learned already
    stays."""
    near: dict[int, list[tuple[int, float]]] = {}
    same: dict[tuple[str, ...], int] = {}
    for place, one in enumerate(candidates):
        words = (*words_of(one.context), "\n", *words_of(one.question), "\n", *words_of(one.answer))
        first = same.setdefault(words, place)
        if first != place:
            _join(near, first, place, 1.0)
    if step.cosine is not None and len(candidates) > 1:
        numbers = [numbers_of(f"{one.context} {one.question} {one.answer}") for one in candidates]
        for left, right, cosine in zip(
            *near_pairs(instruments.vectors(candidates), step.cosine, check=instruments.check), strict=True
        ):
            if numbers[left] == numbers[right] and candidates[left].context == candidates[right].context:
                _join(near, int(left), int(right), float(cosine))
    stands, lost = set[int](), dict[int, tuple[int, float]]()
    for place in sorted(range(len(candidates)), key=lambda place: _worth(candidates[place])):
        instead = max(
            ((other, cosine) for other, cosine in near.get(place, ()) if other in stands),
            key=lambda found: (found[1], -found[0]),
            default=None,
        )
        if instead is None or candidates[place].learned:
            stands.add(place)
        else:
            lost[place] = instead
    return [
        Decision(one.example_id, True)
        if place not in lost
        else Decision(one.example_id, False, REPEATED, round(lost[place][1], 4), candidates[lost[place][0]].example_id)
        for place, one in enumerate(candidates)
    ]


def _worth(one: OpenExample) -> tuple[bool, bool, float, str]:
    """The best first."""
    return not one.learned, one.source == "generated", -one.said_at.timestamp(), one.example_id


def _join(near: dict[int, list[tuple[int, float]]], left: int, right: int, cosine: float) -> None:
    near.setdefault(left, []).append((right, cosine))
    near.setdefault(right, []).append((left, cosine))


def numbers_of(text: str) -> Counter[str]:
    """Every run of digits, of any script, as often as it stands there."""
    return Counter(_NUMBER.findall(unicodedata.normalize("NFKC", text)))


def near_pairs(vectors: Vectors, cosine: float, check: Callable[[], None] = lambda: None) -> Pairs:
    """All pairs of rows of unit length that are at least so near; above EXACT_ROWS nearly all."""
    return exact_pairs(vectors, cosine, check) if len(vectors) <= EXACT_ROWS else _by_cells(vectors, cosine, check)


def exact_pairs(vectors: Vectors, cosine: float, check: Callable[[], None] = lambda: None) -> Pairs:
    """Each with each."""
    found: list[Pairs] = []
    for start in range(0, len(vectors), _BLOCK):
        check()
        near = vectors[start : start + _BLOCK] @ vectors[start:].T
        left, right = np.nonzero(near >= cosine)
        later = right > left
        found.append((left[later] + start, right[later] + start, near[left[later], right[later]]))
    return _together(found)


def _by_cells(vectors: Vectors, cosine: float, check: Callable[[], None]) -> Pairs:
    """Rows lie in the cell of the nearest of many middles. Each is compared with those in its PROBES nearest cells, cell by cell:
    as products of matrices, which take a third of the time of an index that answers row by row (measured)."""
    faiss.omp_set_num_threads(HEAVY_THREADS)
    rows, dims = vectors.shape
    cells = int(2 ** round(np.log2(1.6 * np.sqrt(rows))))  # 512 of 100,000 rows
    means = faiss.Kmeans(dims, cells, niter=8, seed=1, spherical=True, max_points_per_centroid=80)
    means.train(np.ascontiguousarray(vectors[:: max(1, rows // (80 * cells))]))
    assert means.centroids is not None
    nearest = np.empty((rows, PROBES), np.int64)  # the cells of each row, its own first
    for start in range(0, rows, _BLOCK):
        check()
        near = vectors[start : start + _BLOCK] @ means.centroids.T
        few = np.argpartition(-near, PROBES - 1, axis=1)[:, :PROBES]
        by_nearness = np.argsort(-np.take_along_axis(near, few, axis=1), axis=1)
        nearest[start : start + _BLOCK] = np.take_along_axis(few, by_nearness, axis=1)
    inside, around = _by_cell(nearest[:, 0], cells), _by_cell(nearest.ravel(), cells)
    found: list[Pairs] = []
    for members, askers in zip(inside, around, strict=True):
        check()
        known = vectors[members].T
        for start in range(0, len(askers), _BLOCK):
            asking = askers[start : start + _BLOCK] // PROBES
            near = vectors[asking] @ known
            one, other = np.nonzero(near >= cosine)
            left, right = asking[one], members[other]
            apart = left != right
            left, right, near = left[apart], right[apart], near[one, other][apart]
            found.append((np.minimum(left, right), np.maximum(left, right), near))
    left, right, near = _together(found)
    _, once = np.unique(left * rows + right, return_index=True)  # most are found from both of the two
    return left[once], right[once], near[once]


def _by_cell(cell_of: NDArray[np.int64], cells: int) -> list[NDArray[np.int64]]:
    """By cell, what lies in it."""
    order = np.argsort(cell_of, kind="stable")
    return np.split(order, np.searchsorted(cell_of[order], np.arange(1, cells)))


def _together(found: Iterable[Pairs]) -> Pairs:
    parts = list(found)
    return (
        np.concatenate([left for left, _, _ in parts]).astype(np.int64),
        np.concatenate([right for _, right, _ in parts]).astype(np.int64),
        np.concatenate([near for _, _, near in parts]).astype(np.float32),
    )
