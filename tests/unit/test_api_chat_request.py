"""A chat request, checked without a server."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.chat_request import parse_chat, parse_model
from api.errors import ApiError
from streams.engine_client import ANY_SEED
from streams.engines import beyond

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
        *(
            "tools",
            "tool_choice",
            "logprobs",
            "top_logprobs",
            "presence_penalty",
            "frequency_penalty",
            "response_format",
        ),
        *("repetition_penalty", "top_k", "min_p", "logit_bias"),
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
        drawn = chat.sampling
        assert 1 <= chat.drafts <= 4 and 1 <= drawn.max_tokens <= 1024 and 0 <= drawn.temperature <= 2
        assert 0 <= drawn.seed < ANY_SEED and drawn.logprobs in (None, *range(21))
        assert chat.messages[-1]["role"] == "user"


def test_the_defaults_are_said() -> None:
    chat = parse_chat({"model": "d", "messages": HI}, "key:test")
    assert (chat.sampling.max_tokens, chat.sampling.temperature, chat.sampling.top_p, chat.drafts) == (
        256,
        0.7,
        0.95,
        1,
    )
    assert chat.person == "key:test" and chat.new_conversation and not chat.stream and chat.release is None


SENT_BACK = {
    "a null where nothing is": {"refusal": None, "tool_calls": None, "function_call": None, "audio": None},
    "an empty list of citations": {"annotations": [], "refusal": None},
    "an empty list of tool calls": {"tool_calls": []},
    "what a reasoning model thought": {"reasoning_content": "hm", "reasoning": "hm"},
    "a name": {"name": "bot"},
    "a mark for a cache": {"cache_control": {"type": "ephemeral"}},
}


@pytest.mark.parametrize("more", SENT_BACK.values(), ids=SENT_BACK)
def test_an_answer_that_a_client_sends_back_is_a_turn(more: dict[str, Any]) -> None:
    given_back = {"role": "assistant", "content": "x", **more}
    chat = parse_chat({"model": "d", "messages": [*HI, given_back, *HI]}, "p")
    assert chat.messages == (*HI, {"role": "assistant", "content": "x"}, *HI)


@pytest.mark.parametrize("content", ["", None, []])
def test_an_empty_answer_in_the_history_is_a_turn(content: Any) -> None:
    chat = parse_chat({"model": "d", "messages": [*HI, {"role": "assistant", "content": content}, *HI]}, "p")
    assert chat.messages == (*HI, {"role": "assistant", "content": ""}, *HI)


def test_a_refusal_sent_back_is_what_was_answered() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "I cannot say."}
    chat = parse_chat({"model": "d", "messages": [*HI, refused, *HI]}, "p")
    assert chat.messages[1] == {"role": "assistant", "content": "I cannot say."}


def test_a_developer_is_the_system_and_an_empty_system_message_is_none() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "system", "content": ""}, *HI]
    assert parse_chat({"model": "d", "messages": messages}, "p").messages == (
        {"role": "system", "content": "Be brief."},
        *HI,
    )


def test_a_part_may_be_marked_for_a_cache() -> None:
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    chat = parse_chat({"model": "d", "messages": [{"role": "user", "name": "ann", "content": [part]}]}, "p")
    assert chat.messages == tuple(HI)


@pytest.mark.parametrize(
    "neutral",
    [
        {"tool_choice": "none"},
        {"tool_choice": "auto", "tools": []},
        {"parallel_tool_calls": False},
        {"top_logprobs": 0},
        {"logprobs": False, "top_logprobs": 0},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"metadata": {"ticket": "A-17", "conversation_id": "c1"}},
        {"max_tokens": 8, "max_completion_tokens": 8},
        {
            "store": True,
            "service_tier": "flex",
            "verbosity": "medium",
            "prediction": {"type": "content", "content": "x"},
        },
        {"prompt_cache_key": "k", "safety_identifier": "ann"},
        {"response_format": {"type": "text"}, "logit_bias": {}, "modalities": ["text"]},
    ],
    ids=str,
)
def test_what_changes_no_answer_is_taken(neutral: dict[str, Any]) -> None:
    plain = parse_chat({"model": "d", "messages": HI, "seed": 1, "max_tokens": 8}, "p")
    chat = parse_chat({"model": "d", "messages": HI, "seed": 1, "max_tokens": 8, **neutral}, "p")
    assert chat.sampling == plain.sampling and chat.messages == plain.messages


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ({"top_p": 0}, {"top_p": 0}),
        ({"top_k": 5, "min_p": 0.1}, {"top_k": 5, "min_p": 0.1}),
        ({"top_k": 0}, {"top_k": -1}),
        ({"frequency_penalty": 1.5, "presence_penalty": -2}, {"frequency_penalty": 1.5, "presence_penalty": -2}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"logit_bias": {"50256": -100}}, {"logit_bias": {50256: -100}}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"stop": "#"}, {"stop": ("#",)}),
    ],
    ids=str,
)
def test_what_an_engine_can_do_is_asked_of_it(asked: dict[str, Any], drawn: dict[str, Any]) -> None:
    sampling = parse_chat({"model": "d", "messages": HI, **asked}, "p").sampling
    assert {name: getattr(sampling, name) for name in drawn} == drawn


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**32 - 1, 2**32, 2**63 - 1])
def test_a_seed_of_64_bits_becomes_always_the_same_of_those_that_engines_take(seed: int) -> None:
    first, again = (parse_chat({"model": "d", "messages": HI, "seed": seed}, "p").sampling.seed for _ in range(2))
    assert first == again and 0 <= first < ANY_SEED


TOOL = {"type": "function", "function": {"name": "look"}}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "none"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "look"}]}, "functions"),
        (
            {"messages": [*HI, {"role": "assistant", "content": None, "tool_calls": [TOOL]}, *HI]},
            "messages[1].tool_calls",
        ),
        ({"messages": [*HI, {"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[1].role"),
    ],
)
def test_tools_are_refused_with_that_word(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat({"model": "d", "messages": HI, **asked}, "p")
    assert (caught.value.status, caught.value.param) == (400, param) and "tools" in caught.value.message


def held_to(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def test_a_json_schema_is_asked_of_the_engine_whole() -> None:
    schema = {
        "$defs": {"day": {"type": "string", "format": "date"}},
        "type": "object",
        "title": "Visit",
        "properties": {
            "day": {"$ref": "#/$defs/day"},
            "floor": {"type": "integer", "minimum": 0, "maximum": 9},
            "who": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]},
            "kinds": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1},
        },
        "required": ["day"],
        "additionalProperties": False,
    }
    sampling = parse_chat({"model": "d", "messages": HI, **held_to(schema)}, "p").sampling
    assert sampling.response_format is not None
    assert sampling.response_format["json_schema"]["schema"] == schema


def nested(depth: int) -> dict[str, Any]:
    return {"type": "array", "items": nested(depth - 1)} if depth else {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ([], ""),
        ({"type": "thing"}, ".type"),
        ({"type": ["string", []]}, ".type"),
        ({"type": "array", "uniqueItems": True}, ".uniqueItems"),
        ({"type": "number", "minimum": 1}, ".minimum"),
        ({"type": "string", "pattern": "^a+$"}, ".pattern"),
        ({"type": "string", "format": "email"}, ".format"),
        ({"properties": {"a": {"not": {}}}}, ".properties.a.not"),
        ({"oneOf": [{}]}, ".oneOf"),
        ({"anyOf": [{"type": "string"}, {"if": {}}]}, ".anyOf[1].if"),
        ({"$ref": "https://example.com/schema"}, ".$ref"),
        (nested(17), ".items" * 17),
        ({"enum": ["x" * 20_000]}, ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_answer_can_be_held_to_is_refused_by_its_place_in_the_schema(schema: Any, part: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat({"model": "d", "messages": HI, **held_to(schema)}, "p")
    assert (caught.value.status, caught.value.param) == (400, f"response_format.json_schema.schema{part}")


def test_what_a_lightllm_engine_cannot_do_has_a_name_and_a_llamacpp_engine_can_do_all() -> None:
    cannot = {
        "min_p": {"min_p": 0.1},
        "logit_bias": {"logit_bias": {"5": 1}},
        "logprobs": {"logprobs": True},
        "response_format": {"response_format": {"type": "json_object"}},
        "frequency_penalty": {"frequency_penalty": -1},
        "presence_penalty": {"presence_penalty": -1},
        "repetition_penalty": {"repetition_penalty": 0.9},
    }
    for name, asked in cannot.items():
        sampling = parse_chat({"model": "d", "messages": HI, **asked}, "p").sampling
        assert beyond("lightllm", sampling) == name and beyond("llamacpp", sampling) is None
    can = {"top_k": 5, "frequency_penalty": 1, "presence_penalty": 1, "repetition_penalty": 1.1, "seed": 4, "top_p": 0}
    assert beyond("lightllm", parse_chat({"model": "d", "messages": HI, **can}, "p").sampling) is None


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
