"""A steady load of chat requests, and what it saw: requests, failures, and answers that mixed two versions."""

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct, field

from api.client import Door
from deploy.demo.people import Said, ask
from streams.errors import Invalid, Unavailable

CLIENTS = 6  # more than an engine has slots
ANSWER_TOKENS = 8  # short, so that many are under way when a route is flipped
PERSON = "load"


class Answered(Struct, frozen=True):
    """`asked_at` on the monotonic clock, in seconds."""

    question: str
    release: str
    text: str
    asked_at: float
    took_s: float
    longest_pause_s: float


class Seen(Struct):
    """What the load saw so far. `failures` are the door's own words."""

    answers: list[Answered] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return len(self.answers) + len(self.failures)

    @property
    def largest_pause_s(self) -> float:
        """The longest that anybody waited for the first, the next or the last piece of an answer."""
        return max((answer.longest_pause_s for answer in self.answers), default=0.0)


class Load:
    """People who ask one question after another, all at once, from `start` to `stop`."""

    def __init__(self, url_and_key: Door, domain: str, questions: Sequence[str], pause_s: float = 0.1) -> None:
        self._door = url_and_key
        self._domain = domain
        self._questions = list(questions)
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.seen = Seen()

    @property
    def started(self) -> bool:
        return bool(self._threads)

    def start(self) -> None:
        self._stopping.clear()
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, requests: int, deadline_s: float = 180.0) -> None:
        """Return after so many more requests, or when `deadline_s` have passed."""
        enough, until = self.seen.requests + requests, time.monotonic() + deadline_s
        while self.seen.requests < enough and time.monotonic() < until:
            time.sleep(0.05)

    def mixed(self) -> int:
        """How many answers are not what the release that they name says to the same question (greedily).

        It is asked alone and, where that is not the answer, beside others: in company an engine adds up in another order, and a
        near tie may fall otherwise (measured: the base's answer to one question of 12).
        """
        says: dict[tuple[str, str], set[str]] = {}
        found = 0
        for answer in self.seen.answers:
            place = (answer.release, answer.question)
            if place not in says:
                says[place] = self._says(*place, at_once=1)
            if answer.text not in says[place]:
                for at_once in range(2, CLIENTS + 1):
                    says[place] |= self._says(*place, at_once)
            found += answer.text not in says[place]
        return found

    def _says(self, release: str, question: str, at_once: int) -> set[str]:
        with ThreadPoolExecutor(at_once) as callers:
            said = [callers.submit(self._one, release, question, PERSON) for _ in range(at_once)]
            return {one.result().texts[0] for one in said}

    def _one(self, model: str, question: str, person: str, patience_s: float = 60.0) -> Said:
        return ask(self._door, model, question, person, patience_s=patience_s, answer_tokens=ANSWER_TOKENS)

    def _ask(self, number: int) -> None:
        for question in itertools.islice(itertools.cycle(self._questions), number, None):
            if self._stopping.is_set():
                return
            asked_at = time.monotonic()
            try:
                said = self._one(self._domain, question, f"{PERSON}-{number}", patience_s=0)
                took_s = time.monotonic() - asked_at
                self.seen.answers.append(
                    Answered(question, said.release, said.texts[0], asked_at, took_s, said.longest_pause_s)
                )
            except (Invalid, Unavailable) as error:
                self.seen.failures.append(str(error))
            time.sleep(self._pause_s)
