"""The teacher: an endpoint of the policy's that words training material.

Each answer is kept, sealed with the domain's key, under a digest of what was asked, before anything is made of it: whoever takes
a build up after a `kill -9` pays for no answer twice but for those that were on their way. What the network or a busy server spoils
is asked again, ever more seldom; what the teacher itself spoils (broken off, refused, not what its protocol says) is dropped with
its reason, and counted.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import httpx
import msgspec
from msgspec import Struct
from sqlalchemy import Engine, text

from streams.endpoints import Teacher
from streams.errors import Erased, Invalid, Unavailable
from streams.recalled import BYTES_A_TOKEN
from streams.sealed import Sealed
from streams.sealing import Keyring, common_digest, domain_subject, open_sealed, seal
from streams.store import postgres_trouble

TRIES = 6
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
ANSWER_S = 180.0
ANSWER_TOKENS = 1024
ANSWER_BYTES = 4 * 1024 * 1024

TRUNCATED = "the teacher's answer was broken off"
REFUSED = "the teacher refused"
MALFORMED = "the teacher's answer is not what its protocol says"
SPENT = "the policy's tokens are spent"

A = TypeVar("A")


class Answer(Struct, frozen=True):
    """`fault`: why it is of no use; `text` is empty then."""

    text: str
    fault: str | None = None
    tokens: int = 0

    def __repr__(self) -> str:
        return f"Answer({self.fault or 'fine'})"


class Sampling(Struct, frozen=True, kw_only=True):
    """How an answer is drawn. What is left out is left to the teacher."""

    temperature: float = 0.0
    max_tokens: int = ANSWER_TOKENS
    top_p: float | None = None
    presence_penalty: float | None = None


SURE = Sampling()


class Counts(Struct):
    """Of one build. `tokens`: of the `calls`, by the teacher's own count."""

    calls: int = 0
    cached: int = 0
    tokens: int = 0


class _Message(Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(Struct):
    total_tokens: int | None = None


class _Completion(Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class Desk:
    """Where a build asks its teacher. `wait`: between two tries; it ends, or raises, when the build is not wanted any more."""

    def __init__(
        self,
        teacher: Teacher | None,
        key: str,
        domain: str,
        build_id: UUID,
        database: Engine,
        keyring: Keyring,
        wait: Callable[[float], None],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.counts = Counts()
        self.in_flight = teacher.in_flight if teacher else 1
        self.teacher = teacher
        self._domain = domain
        self._build_id = str(build_id)
        self._database = database
        self._keyring = keyring
        self._wait = wait
        self._lock = threading.Lock()
        self._there: set[str] | None = None
        # What reads and keeps answers goes on beside the requests, so that there are always as many of these as there may be.
        self._pool = ThreadPoolExecutor(2 * self.in_flight, thread_name_prefix="teacher")
        self._free = threading.Semaphore(self.in_flight)
        self._closing = threading.Event()
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(ANSWER_S, connect=10.0),
            transport=transport,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self.in_flight),
        )

    def close(self) -> None:
        """What is under way is waited for: it is paid, and kept. Nothing else is asked."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._http.close()

    def ask_all(self, asked: Iterable[tuple[A, str]], sampling: Sampling = SURE) -> Iterator[tuple[A, Answer]]:
        """The answer to each prompt, in their order, with what came along with it; as many under way as the policy allows.

        Raises as `ask` does."""
        waiting: deque[tuple[A, Future[Answer]]] = deque()
        for about, prompt in asked:
            waiting.append((about, self.start(partial(self.ask, prompt, sampling))))
            # The first of them may take long: others are asked meanwhile, but not without end.
            while len(waiting) >= 4 * self.in_flight or (waiting and waiting[0][1].done()):
                first, answer = waiting.popleft()
                yield first, answer.result()
        while waiting:
            first, answer = waiting.popleft()
            yield first, answer.result()

    def start(self, job: Callable[[], A]) -> Future[A]:
        """Let a job that asks, as often as it must, be done beside others; each waits for one answer at a time."""
        return self._pool.submit(job)

    def ask(self, prompt: str, sampling: Sampling = SURE) -> Answer:
        """The answer to one prompt. Raises Invalid where the teacher will never answer (there is none, its key is refused, there is
        no such model), Unavailable where it does not at present."""
        teacher = self.teacher
        if teacher is None:
            raise Invalid("the builder asks a teacher, and the domain's policy names none")
        body = {
            "model": teacher.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        } | {name: value for name in ("top_p", "presence_penalty") if (value := getattr(sampling, name)) is not None}
        asked = msgspec.json.encode([self._domain, teacher.base_url, body])
        with postgres_trouble():
            call = common_digest(asked, self._keyring)
        kept = self._kept(call)
        if kept is not None:
            build_id, answer = kept
            with self._lock:
                if build_id == self._build_id:  # paid before whoever began this build died
                    self.counts.calls += 1
                    self.counts.tokens += answer.tokens
                else:
                    self.counts.cached += 1
            return answer
        with self._free:
            if self._closing.is_set():
                raise CancelledError
            with self._lock:
                if self.counts.tokens >= teacher.tokens:
                    return Answer("", SPENT)
            answer = self._asked(teacher, body)
            with self._lock:
                self.counts.calls += 1
                self.counts.tokens += answer.tokens
        self._keep(call, answer)
        return answer

    def _asked(self, teacher: Teacher, body: dict[str, Any]) -> Answer:
        wait_s = FIRST_WAIT_S
        for number in range(1, TRIES + 1):
            try:
                return self._try(teacher, body)
            except Unavailable:
                if number == TRIES:
                    raise
            self._wait(wait_s * random.uniform(0.5, 1.0))  # not all at once again
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        raise AssertionError("the last try returns or raises")

    def _try(self, teacher: Teacher, body: dict[str, Any]) -> Answer:
        """What the teacher says of a refusal is not repeated: it may quote people's words."""
        url = f"{teacher.base_url.rstrip('/')}/chat/completions"
        said = bytearray()
        try:
            with self._http.stream("POST", url, json=body) as response:
                status = response.status_code
                if status in (408, 425, 429) or status >= 500:
                    raise Unavailable(f"the teacher {teacher.model} answers with status {status}")
                if status != 200:
                    raise Invalid(f"the teacher {teacher.model} refuses with status {status}")
                for piece in response.iter_bytes():
                    said += piece
                    if len(said) > ANSWER_BYTES:
                        return Answer("", MALFORMED)
        except httpx.HTTPError as error:
            raise Unavailable(f"the teacher {teacher.model} does not answer: {type(error).__name__}") from None
        return read_answer(bytes(said), len(msgspec.json.encode(body)))

    def _kept(self, call: str) -> tuple[str, Answer] | None:
        if call not in self._calls():
            return None
        with postgres_trouble(), self._database.connect() as connection:
            row = connection.execute(
                text("SELECT build_id, answer FROM work.teacher_calls WHERE call = :call"), {"call": call}
            ).one_or_none()
        if row is None:
            return None
        try:
            with postgres_trouble():
                words = open_sealed(msgspec.convert(row.answer, Sealed), self._keyring)
        except Erased:
            return None
        answer = msgspec.json.decode(words, type=Answer)
        # What was spoiled for another build may go better today.
        return (row.build_id, answer) if answer.fault is None or row.build_id == self._build_id else None

    def _calls(self) -> set[str]:
        """Those whose answers are kept: read once, so that what is new costs the database no look. Nobody else asks for a domain
        meanwhile: it has one build at a time."""
        with self._lock:
            if self._there is None:
                asked = text("SELECT call FROM work.teacher_calls WHERE domain = :domain")
                with postgres_trouble(), self._database.connect() as connection:
                    self._there = set(connection.execute(asked, {"domain": self._domain}).scalars())
            return self._there

    def _keep(self, call: str, answer: Answer) -> None:
        with postgres_trouble():
            # Before a connection is taken: whoever holds one and waits for the keyring's may wait for another who does the same.
            key = self._keyring.key_for(domain_subject(self._domain))
        sealed = seal(msgspec.json.encode(answer).decode(), key, f"teacher {call}")
        with postgres_trouble(), self._database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO work.teacher_calls (call, domain, build_id, answer, made_at)"
                    " VALUES (:call, :domain, :build_id, :answer, now()) ON CONFLICT (call) DO UPDATE"
                    " SET build_id = excluded.build_id, answer = excluded.answer, made_at = excluded.made_at"
                ),
                {
                    "call": call,
                    "domain": self._domain,
                    "build_id": self._build_id,
                    "answer": msgspec.json.encode(sealed).decode(),
                },
            )
        self._calls().add(call)


def read_answer(said: bytes, asked_bytes: int) -> Answer:
    """What a body of status 200 says. Where it does not tell what it cost, that is reckoned by the bytes."""
    try:
        completion = msgspec.json.decode(said, type=_Completion)
        choice = completion.choices[0]
    except (msgspec.MsgspecError, IndexError, RecursionError, UnicodeDecodeError):
        return Answer("", MALFORMED, (asked_bytes + len(said)) // BYTES_A_TOKEN)
    used = completion.usage.total_tokens if completion.usage is not None else None
    tokens = max(used or 0, 0) or (asked_bytes + len(said)) // BYTES_A_TOKEN
    words = (choice.message.content or "").strip()
    if choice.finish_reason == "content_filter" or choice.message.refusal:
        return Answer("", REFUSED, tokens)
    if choice.finish_reason == "length":
        return Answer("", TRUNCATED, tokens)
    return Answer(words, None, tokens) if words else Answer("", MALFORMED, tokens)
