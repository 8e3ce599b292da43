"""The door's way of refusing at once while the log is down, on a clock of the test's own."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast
from uuid import uuid4

import msgspec
import pytest
from sqlalchemy import Engine

from api.recording import REFUSE_FOR_S, Recorder
from streams.codec import MAX_EVENT_BYTES, envelope_for
from streams.continuity import Continuity
from streams.envelope import Envelope
from streams.errors import Invalid, LoginRefused, Unavailable
from streams.facts.rounds import RoundAsked
from streams.log import LostHistory, MemoryLog, Message, Position


class Log(MemoryLog):
    """A log that can be taken down in two ways: the port closed, or open with nobody behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.open = True
        self.acknowledges = True
        self.knows_me = True
        self.tries = 0

    def answers(self, timeout_s: float = 0.5) -> bool:
        return self.open

    def append(self, messages: Sequence[Message], timeout_s: float) -> list[Position]:
        self.tries += 1
        if not self.knows_me:
            raise LoginRefused("Kafka refused the login")
        if not self.acknowledges:
            raise Unavailable("the log did not acknowledge")
        return super().append(messages, timeout_s)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


class Seen(Continuity):
    """What is found when the log is looked at."""

    def __init__(self) -> None:
        self.lost: str | None = None
        self.doubts = 0

    def doubt(self) -> None:
        self.doubts += 1

    def check(self) -> None:
        if self.lost is not None:
            raise LostHistory(self.lost)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def recorder(log: Log, clock: Clock, seen: Seen) -> Recorder:
    return Recorder(log, cast(Engine, None), clock, clock.pause, seen)


def envelope() -> Envelope:
    event = RoundAsked(domain="d", by="key:test")
    return envelope_for(event, id=uuid4(), source="/test", time=datetime.now(UTC), correlation_id="d")


def test_what_is_appended_has_its_position(recorder: Recorder) -> None:
    first, second = recorder.append([envelope(), envelope()])
    assert second.offset == first.offset + 1


def test_a_closed_port_is_found_out_before_anything_is_sent(recorder: Recorder, log: Log) -> None:
    log.open = False
    with pytest.raises(Unavailable):
        recorder.append([envelope()])
    assert log.tries == 0


def test_whoever_asks_first_is_told_what_an_append_would_find_out(recorder: Recorder, log: Log, clock: Clock) -> None:
    recorder.check()
    log.open = False
    with pytest.raises(Unavailable):
        recorder.check()
    log.open, log.acknowledges = True, False
    recorder.check()
    with pytest.raises(Unavailable):
        recorder.append([envelope()])
    with pytest.raises(Unavailable):
        recorder.check()
    clock.now += REFUSE_FOR_S
    recorder.check()


def test_a_log_that_does_not_acknowledge_is_left_alone_for_a_while_and_then_tried(
    recorder: Recorder, log: Log, clock: Clock
) -> None:
    log.acknowledges = False
    for _ in range(5):
        with pytest.raises(Unavailable):
            recorder.append([envelope()])
    assert log.tries == 1
    with pytest.raises(Unavailable):
        recorder.ends("noria.domains")
    clock.now += REFUSE_FOR_S
    log.acknowledges = True
    assert recorder.append([envelope()]) and log.tries == 2
    assert recorder.append([envelope()]) and recorder.ends("noria.domains")


def test_one_at_a_time_tries_whether_the_log_is_back(recorder: Recorder, log: Log, clock: Clock) -> None:
    log.acknowledges = False
    with pytest.raises(Unavailable):
        recorder.append([envelope()])
    clock.now += REFUSE_FOR_S
    refused: list[bool] = []

    def while_one_tries(timeout_s: float = 0.5) -> bool:
        with pytest.raises(Unavailable):
            recorder.append([envelope()])
        refused.append(True)
        return True

    log.acknowledges = True
    log.answers = while_one_tries  # type: ignore[method-assign]
    assert recorder.append([envelope()]) and refused == [True] and log.tries == 2


def test_an_answer_that_is_there_waits_for_the_log_under_the_same_id(
    recorder: Recorder, log: Log, clock: Clock
) -> None:
    log.open = False
    opens_at = 5.0
    log.answers = lambda timeout_s=0.5: clock.now >= opens_at  # type: ignore[method-assign]
    assert recorder.append_patiently([envelope()], 20.0)
    assert opens_at <= clock.now < opens_at + REFUSE_FOR_S + 1

    log.answers = lambda timeout_s=0.5: False  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        recorder.append_patiently([envelope()], 3.0)


def test_an_error_that_is_a_bug_does_not_close_the_door(recorder: Recorder, log: Log) -> None:
    with pytest.raises(AttributeError):
        recorder.append([cast(Envelope, None)])
    assert recorder.append([envelope()])


def test_a_log_that_is_not_the_one_that_was_read_takes_nothing_until_it_is(
    recorder: Recorder, log: Log, seen: Seen
) -> None:
    seen.lost = "noria.domains-0: it ends at offset 3, and was read up to 5"
    recorder.look()
    for refused in (recorder.check, lambda: recorder.append([envelope()])):
        with pytest.raises(LostHistory, match=r"noria\.domains-0"):
            refused()
    assert log.tries == 0
    seen.lost = None
    recorder.look()
    recorder.append([envelope()])


def test_what_comes_back_is_looked_at_before_the_first_word_is_written_to_it(
    recorder: Recorder, log: Log, clock: Clock, seen: Seen
) -> None:
    log.open = False
    with pytest.raises(Unavailable):
        recorder.append([envelope()])
    assert seen.doubts == 1
    log.open, seen.lost = True, "noria.domains-0: it ends at offset 3, and was read up to 5"
    clock.now += REFUSE_FOR_S
    for _ in range(2):
        with pytest.raises(LostHistory):
            recorder.append([envelope()])
    assert log.tries == 0


def test_a_refused_login_is_told_apart_from_a_log_that_is_away_until_the_log_takes_something(
    recorder: Recorder, log: Log, clock: Clock
) -> None:
    log.knows_me = False
    with pytest.raises(LoginRefused):
        recorder.append([envelope()])
    assert recorder.refused == "Kafka refused the login"
    log.knows_me = True
    clock.now += REFUSE_FOR_S
    recorder.append([envelope()])
    assert recorder.refused is None


def test_an_event_that_no_log_takes_is_refused_and_holds_nobody_up(recorder: Recorder, log: Log, clock: Clock) -> None:
    large = msgspec.structs.replace(envelope(), event=RoundAsked(domain="d", by="x" * MAX_EVENT_BYTES))
    log.open = False
    with pytest.raises(Unavailable):
        recorder.append([envelope()])
    log.open = True
    clock.now += REFUSE_FOR_S
    with pytest.raises(Invalid, match=r"round_asked would have 1,000,\d+ bytes"):
        recorder.append([large])
    recorder.append([envelope()])
