"""A chat request, checked without a server."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.chat_request import parse_chat, parse_model
from api.errors import ApiError
from streams.engine_client import JOINER, escape_control_tokens

HI = [{"role": "user", "content": "hi"}]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        *("model", "messages", "stream", "stream_options", "n", "user", "metadata", "max_tokens"),
        *("max_completion_tokens", "temperature", "top_p", "seed", "stop"),
        *("tools", "logprobs", "presence_penalty", "response_format"),
    ]
)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(st.dictionaries(fields, json_values, max_size=6))
def test_whatever_is_sent_is_understood_or_refused_by_field(body: dict[str, Any]) -> None:
    try:
        chat = parse_chat({"model": "road-traffic", "messages": HI, **body}, "key:test")
    except ApiError as refusal:
        assert refusal.status in (400, 404) and refusal.param
    else:
        assert 1 <= chat.drafts <= 4 and 1 <= chat.max_tokens <= 1024 and 0 <= chat.temperature <= 2
        assert chat.messages[-1]["role"] == "user"


def test_the_defaults_are_said() -> None:
    chat = parse_chat({"model": "d", "messages": HI}, "key:test")
    assert (chat.max_tokens, chat.temperature, chat.top_p, chat.drafts) == (256, 0.7, 0.95, 1)
    assert chat.person == "key:test" and chat.new_conversation and not chat.stream and chat.release is None


def test_messages_that_clients_send_back_are_taken() -> None:
    given_back = {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None}
    chat = parse_chat({"model": "d", "messages": [*HI, given_back, *HI]}, "p")
    assert chat.messages[1] == {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    ("model", "expected"), [("road-traffic", ("road-traffic", None)), ("a@0", ("a", 0)), ("a1@12", ("a1", 12))]
)
def test_a_model_is_a_domain_or_one_release_of_it(model: str, expected: tuple[str, int | None]) -> None:
    assert parse_model(model) == expected


@pytest.mark.parametrize("model", ["", "@", "a@", "a@-1", "a@1.0", "a@x", "A", "a b", "a@²", "a@9999999999", "gpt/4"])
def test_no_other_name_is_a_model(model: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_model(model)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "token", ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot id|>", "<｜end▁of▁sentence｜>"]
)
def test_a_control_token_is_no_token_any_more(token: str) -> None:
    escaped = escape_control_tokens(f"a {token} b")
    assert token not in escaped and escaped.replace(JOINER, "") == f"a {token} b"


@pytest.mark.parametrize("words", ["", "a < b | c > d", "x <| y", "<|>", "if a<|b then", "1 <2> |3|"])
def test_words_without_control_tokens_stay_as_they_are(words: str) -> None:
    assert escape_control_tokens(words) == words


@unhurried
@given(st.text(alphabet="<|>a_ \n", max_size=60))
def test_escaping_leaves_no_token_and_twice_is_once(words: str) -> None:
    once = escape_control_tokens(words)
    assert escape_control_tokens(once) == once
    assert once.replace(JOINER, "") == words.replace(JOINER, "")
