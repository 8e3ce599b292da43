"""People who chat, pick, rate, comment and correct through the door, and try again when it cannot, as a real client would."""

import threading
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID, uuid5

from msgspec import Struct, field

from api.client import Answer, Door, Given, Refused
from streams.errors import Unavailable
from tests.local_noria import until
from tests.waiting import PATIENCE_S

PEOPLE = ("ada", "bo", "chen", "dalia", "emeka", "fumiko")
# All ask the same and all contradict each other, so every round ends at its first step: a model is not taught to guess.
QUESTION = "How fast may I drive past a school?"
TRY_AGAIN_S = 0.1
TOO_MANY_REQUESTS = 429
Result = TypeVar("Result")


class Acknowledged(Struct):
    """What the door has said is recorded, by event id; `at` is the place on the log that it named."""

    at: dict[str, str] = field(default_factory=dict)
    replies: set[str] = field(default_factory=set)
    feedback: set[str] = field(default_factory=set)
    corrections: set[str] = field(default_factory=set)
    picks: set[str] = field(default_factory=set)
    exam_items: set[str] = field(default_factory=set)
    refusals: int = 0  # how often the door could not, and was asked again

    @property
    def events(self) -> int:
        """How many of these events there are; the prompts before the replies are not among them."""
        return len(self.replies) + len(self.feedback) + len(self.exam_items)

    def add(self, other: "Acknowledged") -> None:
        """What another crowd was told."""
        for name in ("replies", "feedback", "corrections", "picks", "exam_items"):
            getattr(self, name).update(getattr(other, name))
        self.at.update(other.at)
        self.refusals += other.refusals


class Crowd:
    """Shared by all people of one domain. `pace` keeps them from running ahead of whoever makes their life hard."""

    def __init__(self, door: Door, domain: str) -> None:
        self.said = Acknowledged()
        self._door = door
        self._domain = domain
        self._changed = threading.Condition()
        self._allowed = 0
        self._over = False

    def allow(self, events: int) -> None:
        """Let people go on until so many events are acknowledged."""
        with self._changed:
            self._allowed = events
            self._changed.notify_all()

    def disperse(self) -> None:
        """Nobody begins anything any more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def reached(self, events: int) -> bool:
        """Whether so many events came to be acknowledged."""
        with self._changed:
            return self._changed.wait_for(lambda: self._over or self.said.events >= events, PATIENCE_S)

    def live(self, person: str, chats: int, ratings: int, corrections: int) -> None:
        """One person's life: in each chat two drafts, one pick, so many ratings with a comment, so many corrections."""
        for chat in range(chats):
            answer = self._persist(lambda: self._ask(person))
            events = {str(UUID(hex=reply_id.removeprefix("rpl_"))) for reply_id in answer.reply_ids}
            with self._changed:
                self.said.replies |= events
                self.said.at[str(UUID(hex=answer.reply_ids[-1].removeprefix("rpl_")))] = answer.position
                self._changed.notify_all()
            first = answer.reply_ids[0]
            picked = self._give(person, first, f"{chat} pick", pick=True)
            self.said.picks.add(picked.event_id)
            for number in range(ratings):
                self._give(person, first, f"{chat} rate {number}", rating=1 + number % 5, comment=f"comment {number}")
            for number in range(corrections):
                words = f"{person} says {chat * corrections + number + 1} kilometres an hour."
                corrected = self._give(person, first, f"{chat} correct {number}", correction=words)
                self.said.corrections.add(corrected.event_id)

    def add_exam(self, number: int, items: int) -> None:
        """A data team's share: so many exam items, in one request."""
        said = [
            {"question": f"Question {number}.{item}?", "answer": f"Answer {item}", "kind": "general"}
            for item in range(items)
        ]
        added = self._persist(lambda: self._door.add_exam(self._domain, said))
        with self._changed:
            self.said.exam_items |= set(added["ids"])
            self._changed.notify_all()

    def _ask(self, person: str) -> Answer:
        messages = [{"role": "user", "content": QUESTION}]
        answers = self._door.chat(self._domain, messages, person=person, drafts=2, more={"max_tokens": 4})
        return next(part for part in answers if isinstance(part, Answer))

    def _give(
        self,
        person: str,
        reply_id: str,
        key: str,
        *,
        rating: int | None = None,
        pick: bool | None = None,
        correction: str | None = None,
        comment: str | None = None,
    ) -> Given:
        """Feedback, sent again under the same key until the door says that it is recorded."""
        given = self._persist(
            lambda: self._door.feedback(
                reply_id,
                person=person,
                rating=rating,
                pick=pick,
                correction=correction,
                comment=comment,
                idempotency_key=f"{self._domain} {person} {key}".replace(" ", "-"),
            )
        )
        with self._changed:
            self.said.feedback.add(given.event_id)
            last = given.event_id
            if rating is not None and comment is not None:
                last = str(uuid5(UUID(given.event_id), "comment"))
                self.said.feedback.add(last)
            self.said.at[last] = given.position
            self._changed.notify_all()
        return given

    def _persist(self, act: Callable[[], Result]) -> Result:
        """Wait for one's turn, then act until the door accepts. What it refuses for good is an error of this test."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self.said.events < self._allowed)
            assert not self._over, "the test was broken off"

        def attempt() -> list[Result]:
            try:
                return [act()]
            except Unavailable:
                pass
            except Refused as error:
                if error.status != TOO_MANY_REQUESTS:
                    raise
            with self._changed:
                self.said.refusals += 1
                self._changed.wait(TRY_AGAIN_S)
            return []

        found: list[Result] = until(attempt, "the door accepts")
        return found[0]
