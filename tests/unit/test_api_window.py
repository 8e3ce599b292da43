"""What of a conversation is shown to an engine whose window does not hold it all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.window import Messages, Window
from streams.engine_client import ContextExceeded

SYSTEM = {"role": "system", "content": "s" * 400}


def turn(role: str, tokens: int) -> dict[str, str]:
    return {"role": role, "content": "w" * (tokens * 4)}


def count(messages: Messages) -> int:
    return sum(3 + len(message["content"]) // 4 for message in messages)


def never(messages: Messages) -> int:
    raise AssertionError("nothing to count")


def test_what_fits_for_certain_is_not_counted() -> None:
    messages = [turn("user", 10)]
    assert Window(messages, 2048, 256).shown(never) == messages


def test_room_is_kept_for_the_answer_where_turns_can_be_left_out() -> None:
    messages = [SYSTEM, turn("user", 100), turn("assistant", 100), turn("user", 100)]
    assert Window(messages, 450, 8).shown(count) == messages
    window = Window(messages, 450, 256)
    assert window.shown(count) == [SYSTEM, messages[-1]] and window.left_out == 2


def test_a_last_message_that_fits_alone_is_shown_even_where_little_room_is_left() -> None:
    assert Window([turn("user", 380)], 400, 256).shown(count) == [turn("user", 380)]
    with pytest.raises(ContextExceeded) as caught:
        Window([turn("user", 1), turn("user", 500)], 400, 256).shown(count)
    assert (caught.value.prompt_tokens, caught.value.context_tokens) == (503, 400)


roles = st.sampled_from(["system", "user", "assistant"])
turns = st.lists(st.tuples(roles, st.integers(0, 120)), max_size=12)


@given(turns, st.integers(64, 1024), st.integers(1, 256))
def test_the_fewest_oldest_turns_are_left_out(said: list[tuple[str, int]], context: int, answer: int) -> None:
    messages = [turn(role, tokens) for role, tokens in [*said, ("user", 10)]]
    system = [message for message in messages if message["role"] == "system"]
    spoken = [message for message in messages if message["role"] != "system"]
    window = Window(messages, context, answer)
    may_be_first = [n for n, message in enumerate(spoken) if n == 0 or message["role"] == "user"]
    fits = [n for n in may_be_first if count(system + spoken[n:]) <= context - min(answer, context // 4)]
    try:
        shown = window.shown(count)
    except ContextExceeded:
        assert count(system + spoken[-1:]) >= context
        return
    assert [message for message in shown if message["role"] == "system"] == system
    assert [message for message in shown if message["role"] != "system"] == spoken[window.left_out :]
    assert window.left_out == (fits or may_be_first[-1:])[0]
