"""The step `nuggets`: of what nobody has corrected, what helps the model most with what people have.

Nuggets (Li et al. 2023, arXiv 2312.10302): the golden score of an example is the share of predefined tasks whose answer becomes
likelier when the example stands before it as the one shot (by the mean log-probability of its tokens). The tasks are the people's
own corrections, those nearest to the middles of so many clusters. Of equal scores the larger mean gain comes first. What people
corrected is in by right and is not ranked.
"""

from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from streams.selection import Nuggets
from workers.cores import HEAVY_THREADS
from workers.selector.candidates import Decision, Instruments, OpenExample, Vectors

HELPS_LITTLE = "helps with too few of the tasks"
UNRANKED = "beyond the number that is ranked"


def judge(step: Nuggets, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]:
    """`number`: the golden score. Preferred is what is in by right, then the highest score."""
    by_right = [one for one in candidates if one.learned or one.source == "correction"]
    others = [one for one in candidates if not (one.learned or one.source == "correction")]
    ranked, rest = others[: step.most], others[step.most :]
    tasks = tasks_of(candidates, step.tasks, instruments)
    decisions = [Decision(one.example_id, True) for one in by_right]
    if ranked:
        gains = instruments.gains(ranked, tasks)
        # Nobody is a task of their own.
        counts = np.array([[one.example_id != task.example_id for task in tasks] for one in ranked])
        scores = golden_scores(gains, counts)
        mean = np.where(counts, gains, 0).sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
        for place in sorted(range(len(ranked)), key=lambda place: (-scores[place], -mean[place], place)):
            kept = bool(scores[place] > step.least) or not counts[place].any()
            reason = "" if kept else HELPS_LITTLE
            decisions.append(Decision(ranked[place].example_id, kept, reason, round(float(scores[place]), 4)))
    return [*decisions, *(Decision(one.example_id, False, UNRANKED) for one in rest)]


def golden_scores(gains: NDArray[np.float64], counts: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each example the share of its tasks (those that count) with a gain; 0 where it has none."""
    return np.asarray(((gains > 0) & counts).sum(axis=1) / np.maximum(counts.sum(axis=1), 1), np.float64)


def tasks_of(candidates: Sequence[OpenExample], most: int, instruments: Instruments) -> list[OpenExample]:
    """What people corrected; where nobody did, what people brought, and else all. Of more than `most` those nearest to the middles
    of so many clusters."""
    pool = [one for one in candidates if one.source == "correction"]
    pool = pool or [one for one in candidates if one.source == "annotation"] or list(candidates)
    if len(pool) <= most:
        return pool
    return [pool[place] for place in medoids(instruments.vectors(pool), most)]


def medoids(vectors: Vectors, count: int) -> list[int]:
    """The rows nearest to the middles that k-means finds from one seed, in their order; each once, so they may be fewer."""
    faiss.omp_set_num_threads(HEAVY_THREADS)
    means = faiss.Kmeans(vectors.shape[1], count, niter=20, seed=1, spherical=True, min_points_per_centroid=1)
    means.train(np.ascontiguousarray(vectors, np.float32))
    assert means.centroids is not None
    return sorted(set((vectors @ means.centroids.T).argmax(axis=0).tolist()))
