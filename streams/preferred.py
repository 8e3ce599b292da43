"""What people said of a domain's answers, opened and ranked: what a preference snapshot and an export begin with."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from msgspec import Struct

from streams.alike import words_of
from streams.errors import Erased, Invalid
from streams.history import Before, Message, Part, Whole, open_whole
from streams.rankings import PERSON_SHARE, Answer, Asked, Comparison, Held, Pair, Ranked, Rating, rank
from streams.reading.preferences import Brought, Feedback, SaidOfAnswers
from streams.sealed import Sealed
from streams.sealing import Keys, open_sealed

ERASED = "erased"
IN_THE_EXAM = "its question stands in the exam"
RETIRED = "its correction was retired"
UNREADABLE = "no conversation that can be read"
REPLACED = "replaced by a newer correction of the same person"
TAUGHT = "held out, but its question is learned from a correction"
TOO_LONG = "longer than the recipe's row_tokens"


class Preferred(Struct, frozen=True):
    """Lives in memory only. By prompt: its whole and its messages in clear; by answer: its words, sealed and in clear. `held` holds
    what made no pair before anything was ranked, too."""

    ranked: Ranked
    held: tuple[Held, ...]
    wholes: Mapping[str, Whole]
    messages: Mapping[str, list[Message]]
    sealed: Mapping[str, Sealed]
    texts: Mapping[str, str]

    def __repr__(self) -> str:
        return "Preferred(sealed)"

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return self.ranked.pairs


def counted(held: tuple[Held, ...]) -> dict[str, int]:
    """How many were held back, by reason."""
    return dict(sorted(Counter(one.reason for one in held).items()))


def preferred(
    said: SaidOfAnswers,
    before: Before,
    keys: Keys,
    domain: str,
    forbidden: frozenset[tuple[str, ...]] = frozenset(),
    person_share: float = PERSON_SHARE,
) -> Preferred:
    """`forbidden`: the words of questions that nothing is learned from. Raises Unavailable while keys cannot be read."""
    found = _Opening(said, before, keys, forbidden)
    asked = [one for prompt_id in sorted(said.feedback) if (one := found.prompt(prompt_id)) is not None]
    asked += [one for brought in said.brought if (one := found.brought(brought)) is not None]
    ranked = rank(asked, person_share, domain)
    return Preferred(ranked, (*found.held, *ranked.held), found.wholes, found.messages, found.sealed, found.texts)


class _Opening:
    def __init__(self, said: SaidOfAnswers, before: Before, keys: Keys, forbidden: frozenset[tuple[str, ...]]) -> None:
        self._said, self._before, self._keys, self._forbidden = said, before, keys, forbidden
        self.held: list[Held] = []
        self.wholes: dict[str, Whole] = {}
        self.messages: dict[str, list[Message]] = {}
        self.sealed: dict[str, Sealed] = {}
        self.texts: dict[str, str] = {}

    def prompt(self, prompt_id: str) -> Asked | None:
        """With what was said of its answers; None if nothing can be learned of it."""
        feedback, prompt = self._said.feedback[prompt_id], self._said.prompts.get(prompt_id)
        try:
            if prompt is None:
                raise Invalid("feedback on what is not known, as only a foreign writer gives it")
            whole, messages = self._opened(self._before.whole(prompt.messages, prompt.follows))
        except (Erased, Invalid) as error:
            self._hold(ERASED if isinstance(error, Erased) else UNREADABLE, feedback)
            return None
        question = messages[-1]["content"]
        if words_of(question) in self._forbidden:
            self._hold(IN_THE_EXAM, feedback)
            return None
        drafts = {draft.reply_id: draft.text for draft in self._said.drafts.get(prompt_id, ())}
        answers = [answer for reply_id, text in drafts.items() if (answer := self._answer(reply_id, text)) is not None]
        own = self._newest_corrections(feedback)
        comparisons, ratings = [], []
        for one in feedback:
            match one.kind:
                case "pick":
                    others = tuple(id_ for id_ in drafts if id_ != one.reply_id)
                    comparisons.append(_comparison(one, (one.reply_id,), others))
                case "ranking" if one.ranking:
                    comparisons.append(_comparison(one, *one.ranking))
                case "rating" if one.rating is not None:
                    ratings.append(_rating(one))
                case "correction" if one.event_id in self._said.retired:
                    self._hold(RETIRED, [one])
                case "correction" if one.event_id not in own:
                    self._hold(REPLACED, [one])
                case "correction" if one.text is not None:
                    answer = self._answer(one.event_id, one.text)
                    if answer is None:
                        self._hold(ERASED, [one])
                    else:
                        answers.append(answer)
                        comparisons.append(_comparison(one, (one.event_id,), (one.reply_id,)))
        self.wholes[prompt_id], self.messages[prompt_id] = whole, messages
        return Asked(
            prompt_id=prompt_id,
            question=question,
            context=_context(messages),
            answers=tuple(answers),
            comparisons=tuple(comparisons),
            ratings=tuple(ratings),
        )

    def brought(self, ranking: Brought) -> Asked | None:
        """It is its own event, and its answers are numbered."""
        event_id, name = str(UUID(ranking.ranking_id)), ranking.ranking_id
        try:
            whole, messages = self._opened((Part(ranking.prompt),))
        except (Erased, Invalid) as error:
            self.held.append(Held(ERASED if isinstance(error, Erased) else UNREADABLE, (event_id,)))
            return None
        if words_of(messages[-1]["content"]) in self._forbidden:
            self.held.append(Held(IN_THE_EXAM, (event_id,)))
            return None
        answers = [self._answer(f"{name}#{number}", sealed) for number, sealed in enumerate(ranking.answers)]
        self.wholes[name], self.messages[name] = whole, messages
        said: dict[str, Any] = {"event_id": event_id, "person": ranking.person, "said_at": ranking.said_at}
        tiers = tuple(tuple(f"{name}#{number}" for number in tier) for tier in ranking.tiers)
        alone = ranking.good is not None
        rating = Rating(**said, answer_id=f"{name}#0", rating=1 if ranking.good else -1, scale="thumb")
        return Asked(
            prompt_id=name,
            question=messages[-1]["content"],
            context=_context(messages),
            answers=tuple(answer for answer in answers if answer is not None),
            comparisons=() if alone else (Comparison(**said, tiers=tiers, by_guide=ranking.source == "style"),),
            ratings=(rating,) if alone else (),
        )

    def _opened(self, whole: Whole) -> tuple[Whole, list[Message]]:
        messages = open_whole(whole, self._keys)
        if not messages or messages[-1]["role"] != "user":
            raise Invalid("the last message is not the person's")
        return whole, messages

    def _answer(self, answer_id: str, sealed: Sealed) -> Answer | None:
        try:
            words = open_sealed(sealed, self._keys)
        except (Erased, Invalid):
            return None
        self.sealed[answer_id], self.texts[answer_id] = sealed, words
        return Answer(answer_id, words)

    def _hold(self, reason: str, feedback: list[Feedback]) -> None:
        self.held.append(Held(reason, tuple(one.event_id for one in feedback)))

    def _newest_corrections(self, feedback: list[Feedback]) -> set[str]:
        newest = {(one.person, one.reply_id): one.event_id for one in feedback if one.kind == "correction"}
        return set(newest.values())


def _context(messages: list[Message]) -> str:
    return "\n".join(message["content"] for message in messages[:-1])


def _comparison(said: Feedback, *tiers: tuple[str, ...]) -> Comparison:
    return Comparison(event_id=said.event_id, person=said.person, said_at=said.given_at, tiers=tiers)


def _rating(said: Feedback) -> Rating:
    assert said.rating is not None
    return Rating(
        event_id=said.event_id,
        person=said.person,
        said_at=said.given_at,
        answer_id=said.reply_id,
        rating=said.rating,
        scale="thumb" if said.scale == "thumb" else "stars",
    )
