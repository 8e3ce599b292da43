"""What one key may take of a door: counted by key, given back as time goes on, and never in the way of another key."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from api.chat_request import HIGHEST_DRAFTS
from api.errors import ApiError
from api.keys import Caller
from api.limits import KEYS, Limits
from streams.errors import Invalid
from streams.settings import KeyLimits, from_env

ANN = Caller("k1", "ann", frozenset({"chat"}), "ann")
BOB = Caller("k2", "bob", frozenset({"chat"}), "bob")
APP = Caller("k3", "app", frozenset({"chat"}))
GIVEN = KeyLimits(requests=(60, 120), tokens=(600, 6000), queue_percent=(25, 75), open=(2, 3), waits=(1, 2))


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Limits:
    return Limits(GIVEN, clock)


def refusal(call: object, *given: object) -> ApiError:
    with pytest.raises(ApiError) as refused:
        call(*given)  # type: ignore[operator]
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    assert refused.value.body["error"]["type"] == "rate_limit_error"
    return refused.value


def test_requests_are_counted_by_key_and_come_back_one_by_one(limits: Limits, clock: Clock) -> None:
    for _ in range(60):
        limits.count_request(ANN)
    refused = refusal(limits.count_request, ANN)
    assert refused.message == "this key may take 60 requests a minute (NORIA_LIMIT_REQUESTS)"
    assert refused.headers["Retry-After"] == "1"
    limits.count_request(BOB)
    clock.now_s += 1.0
    limits.count_request(ANN)
    refusal(limits.count_request, ANN)
    clock.now_s += 3600.0
    for _ in range(60):
        limits.count_request(ANN)
    refusal(limits.count_request, ANN)


def test_a_key_that_names_whom_it_speaks_for_has_limits_of_its_own(limits: Limits) -> None:
    for _ in range(120):
        limits.count_request(APP)
    refusal(limits.count_request, APP)


def test_a_prompt_larger_than_what_is_left_is_answered_and_waited_for_afterwards(limits: Limits, clock: Clock) -> None:
    limits.take_tokens(ANN, 1200)
    assert refusal(limits.take_tokens, ANN, 1).headers["Retry-After"] == "61"
    clock.now_s += 60.0
    refusal(limits.take_tokens, ANN, 1)
    clock.now_s += 1.0
    limits.take_tokens(ANN, 1)


def test_tokens_are_settled_by_what_the_engine_counted(limits: Limits) -> None:
    limits.take_tokens(ANN, 500)
    limits.settle_tokens(ANN, 100)
    refusal(limits.take_tokens, ANN, 1)
    limits.settle_tokens(ANN, -50)
    limits.take_tokens(ANN, 50)
    refusal(limits.take_tokens, ANN, 1)
    limits.settle_tokens(ANN, -10_000)  # never more than a minute's
    limits.take_tokens(ANN, 600)
    refusal(limits.take_tokens, ANN, 1)


def test_what_is_held_is_free_again_once_however_often_it_is_released(limits: Limits) -> None:
    first, _ = limits.hold_open(ANN), limits.hold_open(ANN)
    assert "NORIA_LIMIT_OPEN" in refusal(limits.hold_open, ANN).message
    limits.hold_open(BOB)
    first()
    first()
    limits.hold_open(ANN)
    refusal(limits.hold_open, ANN)


def test_a_key_takes_its_share_of_each_engines_queue_and_one_request_always_fits(limits: Limits) -> None:
    held = [limits.hold_drafts(ANN, "roads@0", 3, 48) for _ in range(4)]
    assert "12 drafts" in refusal(limits.hold_drafts, ANN, "roads@0", 1, 48).message
    limits.hold_drafts(ANN, "ward@0", 12, 48)
    limits.hold_drafts(BOB, "roads@0", 12, 48)
    limits.hold_drafts(APP, "roads@0", 36, 48)
    held[0]()
    limits.hold_drafts(ANN, "roads@0", 3, 48)
    limits.hold_drafts(ANN, "small@0", HIGHEST_DRAFTS, 4)


def test_waits_are_free_again_when_they_end(limits: Limits) -> None:
    with limits.waiting(ANN), limits.waiting(BOB):
        assert "NORIA_LIMIT_WAITS" in refusal(limits.waiting(ANN).__enter__).message
    with pytest.raises(ValueError), limits.waiting(ANN):
        raise ValueError
    with limits.waiting(ANN):
        pass


def test_keys_without_number_take_no_memory_without_bound(limits: Limits) -> None:
    for number in range(KEYS + 100):
        limits.count_request(Caller(f"k{number}", "n", frozenset(), "p"))
        limits.hold_open(Caller(f"k{number}", "n", frozenset(), "p"))()
    assert (len(limits._buckets), len(limits._held)) == (KEYS, 0)


def settings_of(home: Path, more: Mapping[str, str]) -> KeyLimits:
    there = {"NORIA_KAFKA": "k:1", "NORIA_DATABASE_URL": "postgresql://", "NORIA_DOOR": "http://d:1"}
    return from_env({"NORIA_HOME": str(home), **there, **more}).key_limits


def test_limits_are_settings_of_one_number_or_two(tmp_path: Path) -> None:
    assert settings_of(tmp_path, {}) == KeyLimits()
    found = settings_of(tmp_path, {"NORIA_LIMIT_OPEN": "5", "NORIA_LIMIT_QUEUE_PERCENT": "10, 90"})
    assert (found.open, found.queue_percent, found.waits) == ((5, 5), (10, 90), KeyLimits().waits)
    for wrong in ("", "0", "1,2,3", "many", "1,-1"):
        with pytest.raises(Invalid, match="NORIA_LIMIT_TOKENS must be"):
            settings_of(tmp_path, {"NORIA_LIMIT_TOKENS": wrong})
