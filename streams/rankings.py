"""From what people said of answers to which of them are better: rankings of the answers to one question, and their pairs. Pure.

A pick beats its rivals, a correction beats the draft that it corrects, a ranking says the order of all that it names; of two
answers that one person rated, the better rated beats the other. Each person has one voice on two answers, their newest; the answer
that more people prefer is the better one. Where nobody compared two answers, one that more people found good than bad beats one
that more found bad than good: stars of two people are not of one measure, so 4 and 5 are good, 1 and 2 bad, and 3 is neither.

People contradict each other where as many say the one as the other, and where what most say of each two goes round in a circle:
nothing of that is kept. What is left implies more (a beats b, b beats c), as a person's own ranking does. Ouyang et al. 2022
(arXiv 2203.02155, section 3.5) rank 4 to 9 answers of a prompt and train on all of its pairs with the weight 1/C(K, 2): so every
pair names the ranking that it is of, and one question has no more than `MOST_ANSWERS`.

A domain's style guide may compare answers, too (`streams.style`). It has a voice only where nobody says anything of two answers,
and where what people say does not imply the contrary; it is nobody, and has no share.

A share of all questions is held out: a model is examined by what people prefer there, and nothing of it is ever learned
(`is_held_out`).
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from math import floor
from typing import Literal

from msgspec import Struct, field

from streams.alike import by_question, words_of

MOST_ANSWERS = 9
PERSON_SHARE = 0.5
"""No one person's taste outweighs that of all others together."""
HELD_OUT_SHARE = 0.2
"""Of all questions. No setting: of a share that rose, later rounds would be examined by what earlier ones have learned."""

CONTRADICTED = "held back: people contradict each other"
EQUAL = "both sides are the same"
CROWDED = f"more than {MOST_ANSWERS} answers to one question"
OVER_SHARE = "more than one person's share"

Scale = Literal["thumb", "stars"]


class Answer(Struct, frozen=True):
    """An answer that people said something of, opened: a draft, or what somebody wrote in its place."""

    answer_id: str
    text: str

    def __repr__(self) -> str:
        return f"Answer({self.answer_id})"  # people's words must not reach a log through a traceback


class Comparison(Struct, frozen=True, kw_only=True):
    """`tiers`: ids of answers, the best first; those of one tier are equally good. `by_guide`: the style guide compares the answers
    that the person was given."""

    event_id: str
    person: str
    said_at: datetime
    tiers: tuple[tuple[str, ...], ...]
    by_guide: bool = False


class Rating(Struct, frozen=True, kw_only=True):
    """A thumb (-1 or 1) or stars (1 to 5)."""

    event_id: str
    person: str
    said_at: datetime
    answer_id: str
    rating: int
    scale: Scale

    @property
    def side(self) -> int:
        """1: good; -1: bad; 0: neither."""
        return self.rating if self.scale == "thumb" else (self.rating > 3) - (self.rating < 3)


class Asked(Struct, frozen=True, kw_only=True):
    """One prompt with its answers, opened, and what was said of them. `context`: what stood before the question."""

    prompt_id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    comparisons: tuple[Comparison, ...] = ()
    ratings: tuple[Rating, ...] = ()

    def __repr__(self) -> str:
        return f"Asked({self.prompt_id})"


class Side(Struct, frozen=True, order=True):
    prompt_id: str
    answer_id: str


class Pair(Struct, frozen=True):
    """`better` beats `worse`, both answers to the question of `ranking`, as `people` said in `events`; or as the style guide does,
    of answers that these were given (`by_guide`)."""

    ranking: str
    better: Side
    worse: Side
    events: tuple[str, ...]
    people: tuple[str, ...]
    said_at: datetime
    held_out: bool
    by_guide: bool = False


class Ranking(Struct, frozen=True):
    """Of the answers to one question. `ranking`: the first id of its prompts. `tiers`: the best first; only what `pairs` say is
    said of two answers."""

    ranking: str
    tiers: tuple[tuple[Side, ...], ...]
    pairs: tuple[Pair, ...]


class Label(Struct, frozen=True):
    """Whether an answer is good by itself, as Kahneman-Tversky optimisation learns it (Ethayarajh et al. 2024, arXiv
    2402.01306)."""

    answer: Side
    good: bool
    events: tuple[str, ...]
    people: tuple[str, ...]
    held_out: bool


class Held(Struct, frozen=True):
    """Two answers, or one, of which the events said something, and why it made no pair."""

    reason: str
    events: tuple[str, ...]


class Ranked(Struct, frozen=True):
    """`labels`: of every answer that more people found good than bad, or bad than good; and of those that nobody rated, of the ones
    that only ever win, or only ever lose."""

    rankings: tuple[Ranking, ...]
    held: tuple[Held, ...]
    labels: tuple[Label, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(pair for ranking in self.rankings for pair in ranking.pairs)


def rank(asked: Iterable[Asked], person_share: float = PERSON_SHARE, domain: str = "") -> Ranked:
    """The rankings of all questions of which two answers can be told apart; the order of `asked` makes no difference.

    `person_share`: how much of all pairs may rest on one person alone (of few people: an equal share each); of more than that, the
    newest are kept. `domain`: whose answers they are; each holds out questions of its own.
    """
    held: list[Held] = []
    groups = by_question(sorted(asked, key=lambda one: one.prompt_id), lambda one: (one.question, one.context))
    questions = [_Question(group, held, domain) for group in groups]
    found = [ranking for question in questions if (ranking := question.ranking()) is not None]
    over = _over_share([pair for ranking in found for pair in ranking.pairs if not pair.by_guide], person_share)
    held += [Held(OVER_SHARE, pair.events) for pair in over]
    taken = set(over)
    left = (Ranking(one.ranking, one.tiers, tuple(pair for pair in one.pairs if pair not in taken)) for one in found)
    rankings = tuple(one for one in left if one.pairs)
    pairs = {one.ranking: one.pairs for one in rankings}
    labels = tuple(label for question in questions for label in question.labels(pairs.get(question.name, ())))
    return Ranked(rankings, tuple(held), labels)


def is_held_out(question: str, domain: str) -> bool:
    """Whether nothing that people prefer of its answers is learned, in any round. By its words, as if by lot: ids of prompts would
    not do, for who asks the same later, or is erased, changes by which of these a ranking is known."""
    lot = hashlib.sha256(json.dumps([domain, words_of(question)]).encode()).digest()
    return int.from_bytes(lot[:8]) < HELD_OUT_SHARE * 2**64


def same_text(text: str) -> str:
    """What is equal of two answers that are the same: an answer may be better by a comma or by its form, not by a blank."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


class _Voice(Struct, order=True):
    """What one person says of two answers, of which the first is the better if `sign` is 1, the second if -1."""

    said_at: datetime
    events: tuple[str, ...]
    sign: int
    person: str


class _Edge(Struct):
    """Why one answer beats another."""

    events: set[str] = field(default_factory=set)
    people: set[str] = field(default_factory=set)
    said_at: datetime | None = None
    by_guide: bool = False

    def add(self, person: str, events: Iterable[str], said_at: datetime) -> None:
        self.people.add(person)
        self.events.update(events)
        self.said_at = said_at if self.said_at is None else max(self.said_at, said_at)


class _Question:
    """Answers are numbers here: those with the same text are one, whichever release gave them."""

    def __init__(self, group: Sequence[Asked], held: list[Held], domain: str) -> None:
        self._held = held
        self.name = min(one.prompt_id for one in group)
        # Spelled otherwise it may have been learned before somebody spelled it so.
        self._held_out = all(is_held_out(one.question, domain) for one in group)
        numbers: dict[str, int] = {}
        self._of: dict[str, int] = {}
        self._sides: dict[int, list[Side]] = {}
        for one in group:
            for answer in sorted(one.answers, key=lambda found: found.answer_id):
                number = numbers.setdefault(same_text(answer.text), len(numbers))
                self._of[answer.answer_id] = number
                self._sides.setdefault(number, []).append(Side(one.prompt_id, answer.answer_id))
        comparisons = [said for one in group for said in one.comparisons]
        # The newest of a person on an answer.
        self._rated: dict[tuple[int, str], Rating] = {}
        for said in sorted((said for one in group for said in one.ratings), key=lambda r: (r.said_at, r.event_id)):
            if said.answer_id in self._of:
                self._rated[self._of[said.answer_id], said.person] = said
        self._voices: dict[tuple[int, int], dict[str, _Voice]] = {}
        self._guide: dict[tuple[int, int], _Voice] = {}
        for comparison in comparisons:
            self._compared(comparison)
        self._rated_by_one()
        self._kept = self._not_crowded()

    def ranking(self) -> Ranking | None:
        edges = self._edges()
        reach = _reach(self._kept, edges)
        in_a_circle = [(a, b) for a, b in edges if a in reach[b]]
        for pair in in_a_circle:
            self._held.append(Held(CONTRADICTED, tuple(sorted(edges[pair].events))))
            del edges[pair]
        # No path of what is left leads back, and none leads between two that stood in one circle.
        said, implied = dict(edges), _reach(self._kept, edges)  # by people alone
        self._by_guide(edges)
        reach = _reach(self._kept, edges)
        pairs = [
            self._pair(a, b, _way(a, b, said if b in implied[a] else edges))
            for a in self._kept
            for b in sorted(reach[a])
            if (a, b) in edges or (min(a, b), max(a, b)) not in self._voices
        ]
        if not pairs:
            return None
        named = {number for number in self._kept if reach[number] or any(number in below for below in reach.values())}
        tiers: list[tuple[Side, ...]] = []
        while named:
            best = sorted(number for number in named if not any(number in reach[other] for other in named))
            tiers.append(tuple(self._sides[number][0] for number in best))
            named -= set(best)
        return Ranking(self.name, tuple(tiers), tuple(pairs))

    def labels(self, pairs: Sequence[Pair]) -> Iterator[Label]:
        """`pairs`: what is kept of this question."""
        rated = {number for number, _ in self._rated}
        for number in self._kept:
            if standing := self._standing(number):
                said = [r for (of, _), r in self._rated.items() if of == number and r.side == standing]
                events = tuple(sorted(rating.event_id for rating in said))
                people = tuple(sorted({rating.person for rating in said}))
                yield Label(self._sides[number][0], standing > 0, events, people, self._held_out)
            elif number not in rated:
                own = [pair for pair in pairs if number in self._numbers(pair)]
                wins = {self._numbers(pair)[0] == number for pair in own}
                if len(wins) == 1:
                    events = tuple(sorted({event for pair in own for event in pair.events}))
                    people = tuple(sorted({person for pair in own for person in pair.people}))
                    yield Label(self._sides[number][0], wins == {True}, events, people, self._held_out)

    def _numbers(self, pair: Pair) -> tuple[int, int]:
        return self._of[pair.better.answer_id], self._of[pair.worse.answer_id]

    def _compared(self, said: Comparison) -> None:
        places: dict[int, list[int]] = {}
        for place, tier in enumerate(said.tiers):
            for answer_id in tier:
                if answer_id in self._of:
                    places.setdefault(self._of[answer_id], []).append(place)
        for at in places.values():
            if len(set(at)) > 1:
                self._held.append(Held(EQUAL, (said.event_id,)))
        for a, b in _two_of(places):
            # Where the same text stands at several places, it beats what none of them is below.
            one, other = (min(places[a]), max(places[a])), (min(places[b]), max(places[b]))
            above = one != other and one[0] <= other[0] and one[1] <= other[1]
            below = one != other and other[0] <= one[0] and other[1] <= one[1]
            voice = _Voice(said.said_at, (said.event_id,), above - below, said.person)
            if not said.by_guide:
                self._voice(a, b, voice)
            elif voice.sign:
                self._guide[a, b] = max(voice, self._guide.get((a, b), voice))

    def _rated_by_one(self) -> None:
        for person in {person for _, person in self._rated}:
            own = {number: rating for (number, who), rating in self._rated.items() if who == person}
            for a, b in _two_of(own):
                one, other = own[a], own[b]
                same = one.scale == other.scale
                more = one.rating - other.rating if same else one.side - other.side
                if more:  # two good answers need not be equally good
                    events = tuple(sorted((one.event_id, other.event_id)))
                    sign = 1 if more > 0 else -1
                    self._voice(a, b, _Voice(max(one.said_at, other.said_at), events, sign, person))

    def _voice(self, a: int, b: int, said: _Voice) -> None:
        voices = self._voices.setdefault((a, b), {})
        voices[said.person] = max(said, voices.get(said.person, said))

    def _not_crowded(self) -> list[int]:
        """Those of which most people said something; of as many, the newest."""
        people: dict[int, set[str]] = {}
        newest: dict[int, tuple[datetime, str]] = {}
        events: dict[int, set[str]] = {}

        def note(number: int, person: str, said_at: datetime, of: Iterable[str]) -> None:
            people.setdefault(number, set()).add(person)
            events.setdefault(number, set()).update(of)
            last = (said_at, max(of))
            newest[number] = max(last, newest.get(number, last))

        said = [(two, voice) for two, voices in self._voices.items() for voice in voices.values()]
        for two, voice in (*said, *self._guide.items()):
            for number in two:
                note(number, voice.person, voice.said_at, voice.events)
        for (number, person), rating in self._rated.items():
            note(number, person, rating.said_at, (rating.event_id,))
        most = sorted(people, key=lambda number: (len(people[number]), *newest[number], -number), reverse=True)
        for number in most[MOST_ANSWERS:]:
            self._held.append(Held(CROWDED, tuple(sorted(events[number]))))
        return sorted(most[:MOST_ANSWERS])

    def _edges(self) -> dict[tuple[int, int], _Edge]:
        """By (better, worse): what most say of each two, and of what nobody compared, what people found of each."""
        standing = {number: self._standing(number) for number in self._kept}
        found: dict[tuple[int, int], _Edge] = {}
        for a, b in _two_of(self._kept):
            voices = self._voices.get((a, b))
            if voices is not None:
                said = Counter(voice.sign for voice in voices.values())
                if said[1] == said[-1]:
                    if said[1]:
                        events = {event for voice in voices.values() if voice.sign for event in voice.events}
                        self._held.append(Held(CONTRADICTED, tuple(sorted(events))))
                    continue
                sign = 1 if said[1] > said[-1] else -1
                edge = found.setdefault((a, b) if sign > 0 else (b, a), _Edge())
                for person, voice in voices.items():
                    if voice.sign == sign:
                        edge.add(person, voice.events, voice.said_at)
            elif standing[a] * standing[b] < 0:
                better, worse = (a, b) if standing[a] > 0 else (b, a)
                edge = found.setdefault((better, worse), _Edge())
                for (number, person), rating in self._rated.items():
                    if (number, rating.side) in ((better, 1), (worse, -1)):
                        edge.add(person, (rating.event_id,), rating.said_at)
        return found

    def _by_guide(self, edges: dict[tuple[int, int], _Edge]) -> None:
        """Add what the guide says of two answers of which people say nothing, one after the other: none leads back."""
        for (a, b), voice in sorted(self._guide.items()):
            if not {a, b} <= set(self._kept) or (a, b) in self._voices:
                continue
            better, worse = (a, b) if voice.sign > 0 else (b, a)
            reach = _reach(self._kept, edges)
            if better not in reach[worse] and worse not in reach[better]:
                edges[better, worse] = _Edge(by_guide=True)
                edges[better, worse].add(voice.person, voice.events, voice.said_at)

    def _standing(self, number: int) -> int:
        total = sum(rating.side for (of, _), rating in self._rated.items() if of == number)
        return (total > 0) - (total < 0)

    def _pair(self, better: int, worse: int, way: Sequence[_Edge]) -> Pair:
        one, other = self._sides[better][0], self._sides[worse][0]
        below = {side.prompt_id: side for side in reversed(self._sides[worse])}
        for side in self._sides[better]:
            if side.prompt_id in below:  # answers to the very same prompt, if there are such
                one, other = side, below[side.prompt_id]
                break
        said_at = max(edge.said_at for edge in way if edge.said_at is not None)
        events = sorted({event for edge in way for event in edge.events})
        people = sorted({person for edge in way for person in edge.people})
        by_guide = any(edge.by_guide for edge in way)
        return Pair(self.name, one, other, tuple(events), tuple(people), said_at, self._held_out, by_guide)


def _two_of(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    ordered = sorted(numbers)
    return ((a, b) for place, a in enumerate(ordered) for b in ordered[place + 1 :])


def _reach(numbers: Iterable[int], edges: Iterable[tuple[int, int]]) -> dict[int, set[int]]:
    """What each leads to, over however many edges (Warshall 1962)."""
    reach: dict[int, set[int]] = {number: set() for number in numbers}
    for a, b in edges:
        reach[a].add(b)
    for over in reach:
        for below in reach.values():
            if over in below:
                below |= reach[over]
    return reach


def _way(a: int, b: int, edges: dict[tuple[int, int], _Edge]) -> list[_Edge]:
    """The edges of a shortest way, the first of these by number."""
    ways: dict[int, list[tuple[int, int]]] = {a: []}
    reached = [a]
    for at in reached:
        for edge in sorted(edge for edge in edges if edge[0] == at):
            if edge[1] not in ways:
                ways[edge[1]] = [*ways[at], edge]
                reached.append(edge[1])
    return [edges[edge] for edge in ways[b]]


def _over_share(pairs: Sequence[Pair], share: float) -> list[Pair]:
    """Those that are too many of one person alone, the oldest."""
    alone: dict[str, list[Pair]] = {}
    for pair in pairs:
        if len(pair.people) == 1:
            alone.setdefault(pair.people[0], []).append(pair)
    people = {person for pair in pairs for person in pair.people}
    if not people:
        return []
    together = len(pairs) - sum(len(own) for own in alone.values())
    share = max(share, 1 / len(people))
    most = len(pairs)
    # What is taken from one makes the whole smaller, and so everybody's share of it.
    while (
        less := max(1, floor(share * (together + sum(min(len(own), most) for own in alone.values())) + 1e-9))
    ) < most:
        most = less
    return [
        pair
        for _, own in sorted(alone.items())
        for pair in sorted(own, key=lambda one: (one.said_at, one.better, one.worse))[: max(0, len(own) - most)]
    ]
