"""The step `k_center`: of many examples those few next to which each other one has a near neighbour.

K-center-greedy (Sener & Savarese 2018, arXiv 1708.00489, algorithm 1): again and again the row is taken that is farthest from all
taken before it; the radius that is left is at most twice the least possible (Gonzalez 1985). Taken one by one, each pick goes
through all rows. Here a block of the farthest rows is looked at by itself: since rows only come nearer, a pick among them is the
true one as long as it is farther than every row outside of the block was, and one look serves many picks. What is nearer already
than the farthest is not looked at until these come as near. Where numbers of 32 bits do not tell two rows apart, numbers of 64 bits
do: the picks are those of the plain loop.
"""

from collections.abc import Callable, Mapping, Sequence

import faiss
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from streams.errors import Invalid
from streams.selection import KCenter, Source
from workers.cores import HEAVY_THREADS
from workers.selector.candidates import Decision, Instruments, OpenExample, Vectors

COVERED = "as near to a chosen one as the radius asks"
TOO_MANY = "farther from the chosen ones are k others"
QUOTA = "as many of its source as may be are chosen"
QUOTA_OF_TOPIC = "as many of its topic as may be are chosen"
BLOCK = 512
LOOKED_AT = 16_384  # rows, of which a block is taken
SAME = 1e-6  # 1 - cosine: what is no farther is the same text, as far as its vector tells
TIE = 1e-12  # of two that are equally far, the first
_PASS = 16_384  # rows that are compared at once
_ANY = 2**62


def judge(step: KCenter, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]:
    """`number`: how far it was (1 - cosine) from the nearest chosen one, when it was chosen or at the end; `neighbour`: from which.
    Preferred is what was learned already, then what is kept whatever it is like, then the picks in their order."""
    vectors = instruments.vectors(candidates)
    learned = [place for place, one in enumerate(candidates) if one.learned]
    by_right = [place for place, one in enumerate(candidates) if not one.learned and one.source in step.keep]
    quotas = Quotas(
        [None if one.learned else one.source for one in candidates],
        step.least,
        step.most,
        None if step.topics is UNSET else topics_of(vectors, step.topics.count),
        0 if step.topics is UNSET else step.topics.least,
        None if step.topics is UNSET else step.topics.most,
    )
    picks = pick(vectors, step.k - len(by_right), [*learned, *by_right], quotas, step.radius, instruments.check)
    order = [*learned, *by_right, *picks]
    stands = set(order)
    others = [place for place in range(len(candidates)) if place not in stands]
    decisions = [Decision(candidates[place].example_id, True) for place in order[: len(learned) + len(by_right)]]
    for place, far, near in _told(vectors, picks, order, len(order) - len(picks)):
        decisions.append(Decision(candidates[place].example_id, True, "", far, _id(candidates, near)))
    for place, far, near in _told(vectors, others, order, len(order)):
        reason = COVERED if far is not None and far <= max(step.radius, SAME) else quotas.full(place) or TOO_MANY
        decisions.append(Decision(candidates[place].example_id, False, reason, far, _id(candidates, near)))
    return decisions


def topics_of(vectors: Vectors, count: int) -> NDArray[np.int64]:
    """Of each row its topic, from 0: the nearest of `count` middles that k-means finds from one seed; as many as there are rows, if
    these are fewer."""
    faiss.omp_set_num_threads(HEAVY_THREADS)
    count = min(count, len(vectors))
    means = faiss.Kmeans(vectors.shape[1], count, niter=20, seed=1, spherical=True, min_points_per_centroid=1)
    means.train(np.ascontiguousarray(vectors, np.float32))
    assert means.centroids is not None
    found = [
        (vectors[start : start + _PASS] @ means.centroids.T).argmax(axis=1) for start in range(0, len(vectors), _PASS)
    ]
    return np.concatenate(found).astype(np.int64)


def _id(candidates: Sequence[OpenExample], place: int | None) -> str | None:
    return None if place is None else candidates[place].example_id


def _told(
    vectors: Vectors, rows: Sequence[int], order: Sequence[int], before: int
) -> list[tuple[int, float | None, int | None]]:
    """Of each of `rows` how far it is from the nearest of the first `before` in `order`, and which that is (None: there is none).
    Rows that are themselves those that follow in `order` are each compared with one more than the one before it."""
    found: list[tuple[int, float | None, int | None]] = []
    follow = list(rows) == list(order[before:])
    for start in range(0, len(rows), BLOCK):
        some = list(rows[start : start + BLOCK])
        centres = list(order[: before + start + len(some)]) if follow else list(order[:before])
        if not centres:
            found += [(place, None, None) for place in some]
            continue
        near = vectors[some] @ vectors[centres].T
        if follow:
            near[np.arange(len(centres))[None, :] >= before + start + np.arange(len(some))[:, None]] = -np.inf
        for place, similarities in zip(some, near, strict=True):
            nearest = int(similarities.argmax())
            known = bool(np.isfinite(similarities[nearest]))
            far = round(max(0.0, 1 - float(similarities[nearest])), 6) if known else None
            found.append((place, far, centres[nearest] if known else None))
    return found


def pick(
    vectors: Vectors,
    k: int,
    chosen: Sequence[int] = (),
    quotas: "Quotas | None" = None,
    radius: float = 0.0,
    check: Callable[[], None] = lambda: None,
) -> list[int]:
    """At most `k` rows of `vectors` (unit length, shape (rows, dims)) in the order in which they are picked, beside those that are
    `chosen` already; where none is, the first is the one that is nearest to the middle of all. It ends when none is farther from a
    chosen one than `radius`, and nothing lacks of the `quotas`.

    Raises Invalid where a source can have less than its least."""
    quotas = quotas or Quotas([None] * len(vectors))
    quotas.begin(chosen, k)
    state = _State(vectors, check)
    state.take(list(chosen))
    picks: list[int] = []
    while len(picks) < k:
        may = quotas.may(k - len(picks))
        may[list(chosen)] = may[picks] = False
        if not may.any():
            break
        found = state.farthest(may, k - len(picks), -np.inf if quotas.lack() else radius, quotas)
        if not found:
            break
        state.take(found)
        picks += found
    quotas.check()
    return picks


class Quotas:
    """How many of each source, and of each topic, must and may be picked. `sources`: of each row; None: it counts for none, and
    not for its topic either. `topics`: of each row, from 0; of each at least `least_of_topic` (or as many as may be picked) and
    at most `most_of_topic`. What counts for the same of both lies in one cell, and cells are what is told apart here."""

    def __init__(
        self,
        sources: Sequence[Source | None],
        least: Mapping[Source, int] = {},
        most: Mapping[Source, int] = {},
        topics: Sequence[int] | NDArray[np.int64] | None = None,
        least_of_topic: int = 0,
        most_of_topic: int | None = None,
    ) -> None:
        self._names: list[Source | None] = [*sorted({source for source in sources if source is not None}), None]
        code = {name: number for number, name in enumerate(self._names)}
        self._source = np.array([code[source] for source in sources], np.int64)
        self._topic = np.zeros(len(sources), np.int64) if topics is None else np.asarray(topics, np.int64)
        self._shape = len(self._names), int(self._topic.max(initial=0)) + 1
        self._least = np.array([0 if name is None else least.get(name, 0) for name in self._names])
        self._most = np.array([_ANY if name is None else most.get(name, _ANY) for name in self._names])
        self._least_of_topic = least_of_topic
        self._most_of_topic = _ANY if most_of_topic is None else most_of_topic
        self._asks = bool(least or most or least_of_topic or most_of_topic is not None)
        for source, need in least.items():
            if (there := int((self._source == code.get(source, -1)).sum())) < need:
                raise Invalid(f"the step k_center asks for at least {need} examples of {source}, and there are {there}")

    def begin(self, chosen: Sequence[int], k: int) -> None:
        """Before the first pick: these are `chosen` already, and there is room for `k` others. Raises Invalid if that is less than
        sources lack."""
        self._has = np.zeros(self._shape, np.int64)
        self._left = np.zeros(self._shape, np.int64)
        np.add.at(self._left, (self._source, self._topic), 1)
        for place in chosen:
            self._count(place)
        if self._lacking()[0].sum() > max(k, 0):
            raise Invalid(
                "the step k_center asks for more of some sources than there is room for beside what is chosen already"
            )

    def check(self) -> None:
        """Behind the last pick: raise Invalid if a source has less than its least, which the quotas of topics can bring about."""
        for name, lacks, least in zip(self._names, self._lacking()[0], self._least, strict=True):
            if lacks:
                raise Invalid(
                    f"the step k_center asks for at least {least} examples of {name}, and could choose {least - lacks}"
                    f" where of each topic at most {self._most_of_topic} may be chosen"
                )

    def lack(self) -> bool:
        """Whether a source or a topic lacks some yet, so that no radius ends the picking."""
        return any(lacking.any() for lacking in self._lacking())

    def may(self, room: int) -> NDArray[np.bool_]:
        """Which rows may be picked, with `room` for so many."""
        return self._open(room)[self._source, self._topic]

    def picked(self, place: int, room: int) -> bool:
        """Count a pick, which leaves `room` for so many; whether others may be picked now, or by another radius, than before it."""
        if not self._asks:
            return False
        before = self._open(room + 1), self.lack()
        self._count(place)
        return before[1] != self.lack() or not np.array_equal(before[0], self._open(room))

    def full(self, place: int) -> str:
        """Why no more like this row may be picked; empty: they may."""
        source, topic = self._source[place], self._topic[place]
        if self._has[source].sum() >= self._most[source]:
            return QUOTA
        return QUOTA_OF_TOPIC if self._has[:, topic].sum() >= self._most_of_topic else ""

    def _count(self, place: int) -> None:
        cell = self._source[place], self._topic[place]
        self._left[cell] -= 1
        if self._names[cell[0]] is not None:
            self._has[cell] += 1

    def _allowed(self) -> NDArray[np.bool_]:
        """By cell: whether neither its source nor its topic is full."""
        of_source, of_topic = self._has.sum(axis=1), self._has.sum(axis=0)
        allowed: NDArray[np.bool_] = (of_source < self._most)[:, None] & (of_topic < self._most_of_topic)[None, :]
        return allowed

    def _lacking(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many each source lacks, and how many of each topic lack that may be picked yet."""
        of_source = np.maximum(self._least - self._has.sum(axis=1), 0)
        if not self._least_of_topic:
            return of_source, np.zeros(self._shape[1], np.int64)
        there = np.where(self._allowed(), self._left, 0)[:-1].sum(axis=0)
        return of_source, np.minimum(np.maximum(self._least_of_topic - self._has.sum(axis=0), 0), there)

    def _open(self, room: int) -> NDArray[np.bool_]:
        """By cell: whether its rows may be picked. Where no more is left than what lacks takes, nothing else is."""
        allowed = self._allowed()
        of_source, of_topic = self._lacking()
        lacks = int(of_source.sum() + of_topic.sum())
        if lacks and lacks >= room:
            needed = allowed & ((of_source > 0)[:, None] | (of_topic > 0)[None, :])
            if self._left[needed].any():
                return needed
        return allowed


class _State:
    """How near each row is to what is taken: in 32 bits, by at most `margin` otherwise than in truth, and of what was taken only to
    the first `seen`: since rows only come nearer, that is the least that it can be. Most rows are soon so near to something that
    they need not be looked at again for many picks (lazy evaluation, as of Minoux 1978)."""

    def __init__(self, vectors: Vectors, check: Callable[[], None]) -> None:
        self._vectors, self._check = vectors, check
        self._near = np.full(len(vectors), -np.inf, np.float32)
        self._seen = np.zeros(len(vectors), np.int64)
        self._taken: list[int] = []
        self._margin = 4 * vectors.shape[1] * 2.0**-24 if vectors.size else 0.0

    def take(self, places: Sequence[int]) -> None:
        self._taken += places

    def farthest(self, may: NDArray[np.bool_], room: int, radius: float, quotas: Quotas) -> list[int]:
        """The next picks, as many as one pass tells for sure; none: no row is farther than `radius`."""
        if not self._taken:
            first = self._middle(may)
            quotas.picked(first, room - 1)
            return [first]
        few = _least(self._least(may), LOOKED_AT)
        self._look(few[may[few]])
        near = self._least(may)
        block = np.sort(_least(near, min(BLOCK, int(may.sum()))))
        rest = near.copy()
        rest[block] = np.inf
        cut = float(rest.min()) - self._margin  # whoever is outside is no farther than that
        exact = self._exact(block)
        farthest = float(exact.min())
        rows = self._vectors[block].astype(np.float64)
        between = rows @ rows.T
        found: list[int] = []
        while len(found) < room:
            place = _first_least(exact)
            if exact[place] + TIE >= cut:
                break
            if 1 - exact[place] <= max(radius, SAME if np.isfinite(radius) else -np.inf):
                return found
            found.append(int(block[place]))
            np.maximum(exact, between[place], out=exact)
            exact[place] = np.inf
            if quotas.picked(found[-1], room - len(found)) or not np.isfinite(exact).any():
                break
        return found or self._single(may, farthest, radius, room, quotas)

    def _single(self, may: NDArray[np.bool_], farthest: float, radius: float, room: int, quotas: Quotas) -> list[int]:
        """The one pick among all rows that may be as far as one that is that far (`farthest`: how near it is)."""
        like = np.flatnonzero(self._least(may) <= farthest + 2 * self._margin)
        self._look(like)
        like = like[self._near[like] <= farthest + 2 * self._margin]
        exact = self._exact(like)
        place = _first_least(exact)
        if 1 - exact[place] <= max(radius, SAME if np.isfinite(radius) else -np.inf):
            return []
        quotas.picked(int(like[place]), room - 1)
        return [int(like[place])]

    def _least(self, may: NDArray[np.bool_]) -> NDArray[np.float32]:
        """How near each row is at least, of those that may be picked."""
        return np.where(may, self._near, np.float32(np.inf))

    def _look(self, rows: NDArray[np.int64]) -> None:
        """At how near these rows are to all that is taken."""
        rows = rows[self._seen[rows] < len(self._taken)]
        rows = rows[np.argsort(self._seen[rows], kind="stable")]
        taken = self._vectors[self._taken]
        for start in range(0, len(rows), _PASS):
            self._check()
            some = rows[start : start + _PASS]
            given = self._vectors[some]
            for centre in range(int(self._seen[some[0]]), len(taken), BLOCK):
                near = (taken[centre : centre + BLOCK] @ given.T).max(axis=0)
                self._near[some] = np.maximum(self._near[some], near)
        self._seen[rows] = len(taken)

    def _exact(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """How near these rows are to what is taken, in 64 bits."""
        found = np.full(len(rows), -np.inf)
        taken = np.array(self._taken)
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            near = self._vectors[some] @ self._vectors[taken].T
            which, centre = np.nonzero(near >= near.max(axis=1, keepdims=True) - 2 * self._margin)
            for at in range(0, len(which), _PASS):
                left, right = which[at : at + _PASS], centre[at : at + _PASS]
                dots = np.einsum(
                    "ij,ij->i",
                    self._vectors[some[left]].astype(np.float64),
                    self._vectors[taken[right]].astype(np.float64),
                )
                np.maximum.at(found, left + start, dots)
        return found

    def _middle(self, may: NDArray[np.bool_]) -> int:
        middle = self._vectors.mean(axis=0, dtype=np.float64)
        far = np.where(may, -(self._vectors @ middle.astype(np.float32)), np.float32(np.inf))
        like = np.flatnonzero(far <= far.min() + 2 * self._margin)
        return int(like[_first_least(-(self._vectors[like].astype(np.float64) @ middle))])


def _first_least(values: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(values <= values.min() + TIE)[0])


def _least(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The places of the `count` least, in no order."""
    return np.argpartition(values, count - 1)[:count] if count < len(values) else np.arange(len(values))
