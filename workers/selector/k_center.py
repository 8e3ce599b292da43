"""The step `k_center`: of many examples those few next to which each other one has a near neighbour.

K-center-greedy (Sener & Savarese 2018, arXiv 1708.00489, algorithm 1): again and again the row is taken that is farthest from all
taken before it; the radius that is left is at most twice the least possible (Gonzalez 1985). Taken one by one, each pick goes
through all rows. Here a block of the farthest rows is looked at by itself: since rows only come nearer, a pick among them is the
true one as long as it is farther than every row outside of the block was, and one pass through all rows serves many picks. Where
numbers of 32 bits do not tell two rows apart, numbers of 64 bits do: the picks are those of the plain loop.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streams.errors import Invalid
from streams.selection import KCenter, Source
from workers.selector.candidates import Decision, Instruments, OpenExample, Vectors

COVERED = "as near to a chosen one as the radius asks"
TOO_MANY = "farther from the chosen ones are k others"
QUOTA = "as many of its source as may be are chosen"
BLOCK = 512
SAME = 1e-6  # 1 - cosine: what is no farther is the same text, as far as its vector tells
TIE = 1e-12  # of two that are equally far, the first
_PASS = 16_384  # rows that are compared at once


def judge(step: KCenter, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]:
    """`number`: how far it was (1 - cosine) from the nearest chosen one, when it was chosen or at the end; `neighbour`: from which.
    Preferred is what was learned already, then what is kept whatever it is like, then the picks in their order."""
    vectors = instruments.vectors(candidates)
    learned = [place for place, one in enumerate(candidates) if one.learned]
    by_right = [place for place, one in enumerate(candidates) if not one.learned and one.source in step.keep]
    picks = pick(
        vectors,
        step.k - len(by_right),
        [*learned, *by_right],
        [None if one.learned else one.source for one in candidates],
        step.least,
        step.most,
        step.radius,
        instruments.check,
    )
    order = [*learned, *by_right, *picks]
    stands = set(order)
    others = [place for place in range(len(candidates)) if place not in stands]
    decisions = [Decision(candidates[place].example_id, True) for place in order[: len(learned) + len(by_right)]]
    for place, far, near in _told(vectors, picks, order, len(order) - len(picks)):
        decisions.append(Decision(candidates[place].example_id, True, "", far, _id(candidates, near)))
    chosen = Counter(candidates[place].source for place in [*by_right, *picks])
    for place, far, near in _told(vectors, others, order, len(order)):
        source = candidates[place].source
        reason = QUOTA if source in step.most and chosen[source] >= step.most[source] else TOO_MANY
        reason = COVERED if far is not None and far <= max(step.radius, SAME) else reason
        decisions.append(Decision(candidates[place].example_id, False, reason, far, _id(candidates, near)))
    return decisions


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
    sources: Sequence[Source | None] | None = None,
    least: Mapping[Source, int] = {},
    most: Mapping[Source, int] = {},
    radius: float = 0.0,
    check: Callable[[], None] = lambda: None,
) -> list[int]:
    """At most `k` rows of `vectors` (unit length, shape (rows, dims)) in the order in which they are picked, beside those that are
    `chosen` already; where none is, the first is the one that is nearest to the middle of all. It ends when none is farther from a
    chosen one than `radius`, and `least` of each source is met. `sources`: of each row; None: it counts for none.

    Raises Invalid where `least` asks for more than there is room, or rows, for."""
    quotas = _Quotas(sources or [None] * len(vectors), chosen, least, most, k)
    state = _State(vectors, check)
    state.take(list(chosen))
    picks: list[int] = []
    while len(picks) < k:
        may = quotas.may(k - len(picks))
        may[list(chosen)] = may[picks] = False
        if not may.any():
            break
        found = state.farthest(may, k - len(picks), -np.inf if quotas.bound(k - len(picks)) else radius, quotas)
        if not found:
            break
        state.take(found)
        picks += found
    return picks


class _Quotas:
    """How many of each source may and must be picked yet."""

    def __init__(
        self,
        sources: Sequence[Source | None],
        chosen: Sequence[int],
        least: Mapping[Source, int],
        most: Mapping[Source, int],
        k: int,
    ) -> None:
        self._sources = np.array([source or "" for source in sources], dtype=object)
        self._has = Counter(source for place in chosen if (source := sources[place]) is not None)
        self._least, self._most = least, most
        there = Counter(source for source in sources if source is not None)
        for source, need in least.items():
            if there[source] < need:
                raise Invalid(
                    f"the step k_center asks for at least {need} examples of {source}, and there are {there[source]}"
                )
        if sum(self._lacking().values()) > max(k, 0):
            raise Invalid(
                "the step k_center asks for more of some sources than there is room for beside what is chosen already"
            )

    def _lacking(self) -> dict[Source, int]:
        return {source: need - self._has[source] for source, need in self._least.items() if need > self._has[source]}

    def bound(self, room: int) -> bool:
        """Whether a source lacks some yet, so that no radius ends the picking."""
        return bool(self._lacking())

    def may(self, room: int) -> NDArray[np.bool_]:
        """Which rows may be picked, with `room` for so many."""
        lacking = self._lacking()
        if lacking and sum(lacking.values()) >= room:
            return np.isin(self._sources, list(lacking))
        full = [source for source, most in self._most.items() if self._has[source] >= most]
        return ~np.isin(self._sources, full)

    def picked(self, place: int, room: int) -> bool:
        """Count a pick; whether others may be picked now than before it."""
        before = self._open(room + 1)
        source = self._sources[place]
        if source:
            self._has[source] += 1
        return before != self._open(room)

    def _open(self, room: int) -> tuple[frozenset[Source], bool, bool]:
        lacking = self._lacking()
        full = frozenset(source for source, most in self._most.items() if self._has[source] >= most)
        only = bool(lacking) and sum(lacking.values()) >= room
        return (frozenset(lacking) if only else full), only, bool(lacking)


class _State:
    """How near each row is to what is taken: in 32 bits, and by at most `margin` otherwise than in truth."""

    def __init__(self, vectors: Vectors, check: Callable[[], None]) -> None:
        self._vectors, self._check = vectors, check
        self._near = np.full(len(vectors), -np.inf, np.float32)
        self._taken: list[int] = []
        self._margin = 4 * vectors.shape[1] * 2.0**-24 if vectors.size else 0.0

    def take(self, places: Sequence[int]) -> None:
        for start in range(0, len(places), BLOCK):
            centres = self._vectors[list(places[start : start + BLOCK])].T
            for row in range(0, len(self._vectors), _PASS):
                self._check()
                near = self._near[row : row + _PASS]
                np.maximum(near, (self._vectors[row : row + _PASS] @ centres).max(axis=1), out=near)
        self._taken += places

    def farthest(self, may: NDArray[np.bool_], room: int, radius: float, quotas: _Quotas) -> list[int]:
        """The next picks, as many as one pass tells for sure; none: no row is farther than `radius`."""
        if not self._taken:
            first = self._middle(may)
            quotas.picked(first, room - 1)
            return [first]
        near = np.where(may, self._near, np.inf)
        size = min(BLOCK, int(may.sum()))
        block = np.sort(np.argpartition(near, size - 1)[:size])
        rest = near.copy()
        rest[block] = np.inf
        cut = float(rest.min()) - self._margin  # whoever is outside is no farther than that
        exact = self._exact(block)
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
        return found or self._single(near, radius, room, quotas)

    def _single(self, near: NDArray[np.float32], radius: float, room: int, quotas: _Quotas) -> list[int]:
        """The one pick among all rows that 32 bits do not tell from the farthest."""
        like = np.flatnonzero(near <= near.min() + 2 * self._margin)
        exact = self._exact(like)
        place = _first_least(exact)
        if 1 - exact[place] <= max(radius, SAME if np.isfinite(radius) else -np.inf):
            return []
        quotas.picked(int(like[place]), room - 1)
        return [int(like[place])]

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
        near = np.full(len(self._vectors), np.inf)
        for row in range(0, len(self._vectors), _PASS):
            near[row : row + _PASS] = -(self._vectors[row : row + _PASS].astype(np.float64) @ middle)
        return _first_least(np.where(may, near, np.inf))


def _first_least(values: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(values <= values.min() + TIE)[0])
