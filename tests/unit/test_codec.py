"""The wire format: every event and order there and back, as CloudEvents; what cannot be read is refused by name of field,
never with a word of what stood there; old versions are lifted."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import cloudevents.core.formats.json as cloudevents_json
import pytest
from cloudevents.core.v1.event import CloudEvent
from jsonschema import Draft202012Validator
from msgspec.structs import replace

from streams.codec import (
    OPERATIONS_TYPES,
    RENAMED,
    VERSIONS,
    Data,
    decode,
    decode_order,
    encode,
    encode_order,
    is_of_domain,
    key_of,
    name_of,
    schemas,
    topic_of,
)
from streams.errors import Invalid
from streams.events import Event
from streams.facts.bases import BaseAdded
from streams.facts.conversations import (
    DraftPicked,
    DraftsRanked,
    PromptAsked,
    RecallRejected,
    ReplyCommented,
    ReplyCorrected,
    ReplyDrafted,
    ReplyRated,
)
from streams.facts.domains import ClockTicked, PolicySet
from streams.facts.examples import ExampleAccepted
from streams.facts.rounds import RoundRequested
from streams.orders import Order
from streams.personal import KINDS
from streams.policy import Policy, Thresholds
from streams.recalled import Recall
from streams.selection import USUAL
from tests.samples import EVENTS, ORDERS, START, enveloped, id_of

SCHEMAS = schemas()
SECRET = "my neighbour's name is Octavia"


def kind(value: object) -> str:
    return type(value).__name__


def wire(event: Event = EVENTS[3], **changed: Any) -> dict[str, Any]:
    """An event as it stands on the wire, with attributes changed; None removes one."""
    found: dict[str, Any] = json.loads(encode(enveloped(event))) | changed
    return {name: value for name, value in found.items() if value is not None}


def refusal(value: dict[str, Any] | bytes, **more: Any) -> str:
    with pytest.raises(Invalid) as caught:
        decode(value if isinstance(value, bytes) else json.dumps(value).encode(), **more)
    return str(caught.value)


def order_on_wire(order: Order) -> bytes:
    return encode_order(order, source="/noria/streams", time=START, causation_id=id_of("cause"))


@pytest.mark.parametrize("event", EVENTS, ids=kind)
def test_every_event_comes_back_as_it_was(event: Event) -> None:
    for cause in (None, id_of("cause")):
        envelope = enveloped(event, cause=cause)
        assert decode(encode(envelope)) == envelope


@pytest.mark.parametrize("event", EVENTS, ids=kind)
def test_an_event_is_a_cloud_event_that_any_reader_can_follow(event: Event) -> None:
    found = wire(event)
    name = name_of(event)
    assert found["specversion"] == "1.0" and found["type"] == f"noria.{name}" and re.fullmatch(r"[a-z_]+", name)
    assert found["id"] == str(id_of("event")) and found["source"] == "/noria/api"
    assert found["subject"] == key_of(event) and found["correlationid"] == "correlation"
    assert found["time"] == "2026-11-02T09:00:00Z" and found["datacontenttype"] == "application/json"
    assert found["dataschema"] == f"urn:noria:{name}:{VERSIONS.get(name, 1)}"
    assert "causationid" not in found, "an event that nothing caused says so by silence"
    caused = encode(enveloped(event, cause=id_of("cause")))
    read = cloudevents_json.JSONFormat().read(CloudEvent, caused)
    assert read.get_type() == f"noria.{name}" and read.get_time() == START
    assert read.get_extension("causationid") == str(id_of("cause"))
    assert read.get_data() == found["data"]


@pytest.mark.parametrize("event", EVENTS, ids=kind)
def test_an_event_stands_on_the_topic_and_under_the_key_of_what_it_is_about(event: Event) -> None:
    if type(event) in (
        PromptAsked,
        ReplyDrafted,
        DraftPicked,
        DraftsRanked,
        RecallRejected,
        ReplyRated,
        ReplyCorrected,
        ReplyCommented,
    ):
        assert (topic_of(event), key_of(event), is_of_domain(event)) == ("noria.conversations", "cnv_1", False)
    elif type(event) is BaseAdded:
        assert (topic_of(event), key_of(event), is_of_domain(event)) == ("noria.domains", "@bases", True)
    else:
        assert (topic_of(event), key_of(event), is_of_domain(event)) == ("noria.domains", "allotments", True)


def test_a_time_of_another_zone_is_written_and_read_as_utc() -> None:
    there = START.astimezone(timezone(timedelta(hours=8)))
    assert encode(enveloped(EVENTS[0], at=there)) == encode(enveloped(EVENTS[0]))
    read = decode(json.dumps(wire(time="2026-11-02T17:00:00+08:00")).encode())
    assert read.time == START and read.time.tzinfo is UTC


def test_an_event_whose_time_has_no_zone_is_not_written() -> None:
    with pytest.raises(ValueError, match="aware"):
        encode(enveloped(EVENTS[0], at=datetime(2026, 11, 2, 9, 0)))


def test_what_a_newer_writer_added_beside_is_passed_over() -> None:
    envelope = enveloped(EVENTS[3])
    found = wire(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    found["data"]["mood"] = "sunny"
    assert decode(json.dumps(found).encode()) == envelope


# What cannot be read


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"id": "17"}, r"UUID - at `\$\.id`"),
        ({"id": None}, "`id`"),
        ({"source": 4}, r"at `\$\.source`"),
        ({"subject": None}, "`subject`"),
        ({"subject": "cnv_2"}, "subject is not the key of reply_rated"),
        ({"correlationid": None}, "`correlationid`"),
        ({"causationid": "that"}, r"UUID - at `\$\.causationid`"),
        ({"data": None}, "`data`"),
        ({"data": ["a list"]}, "`object`"),
        ({"specversion": "0.3"}, "specversion"),
        ({"type": "noria.reply_sung"}, "type is not one of noria's"),
        ({"type": "other.reply_rated"}, "type is not one of noria's"),
        ({"dataschema": "urn:noria:reply_corrected:1"}, "dataschema does not name a version of reply_rated"),
        ({"dataschema": "urn:noria:reply_rated:0"}, "dataschema does not name a version of reply_rated"),
        ({"dataschema": "urn:noria:reply_rated:newest"}, "dataschema does not name a version of reply_rated"),
        ({"dataschema": "urn:noria:reply_rated:2"}, "reply_rated has version 2; this reader knows versions up to 1"),
        ({"time": "yesterday"}, "time"),
        ({"time": "2026-11-02T09:00:00"}, "time has no zone"),
        ({"time": "0001-01-01T00:00:00+10:00"}, "time"),
        ({"time": "9999-12-31T23:59:59-10:00"}, "time"),
        ({"time": "9000-01-01T00:00:00Z"}, "time is not from 1970 to 8999"),
        ({"time": "1969-12-31T23:59:59Z"}, "time is not from 1970 to 8999"),
    ],
    ids=str,
)
def test_an_envelope_that_cannot_be_read_is_refused_by_the_name_of_the_field(
    changed: dict[str, Any], words: str
) -> None:
    assert re.search(words, refusal(wire(**changed)))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rating", "four", r"Expected `int`, got `str` - at `\$\.rating`"),
        ("scale", "apples", r"at `\$\.scale`"),
        ("person", None, r"Expected `str`, got `null` - at `\$\.person`"),
    ],
)
def test_data_that_does_not_fit_its_event_is_refused_by_the_name_of_the_field(
    field: str, value: object, words: str
) -> None:
    found = wire()
    found["data"][field] = value
    assert re.search(words, refusal(found))
    del found["data"][field]
    assert f"`{field}`" in refusal(found)


@pytest.mark.parametrize("event", [e for e in EVENTS if isinstance(e, ClockTicked | ExampleAccepted)], ids=kind)
def test_a_moment_within_an_event_must_have_a_zone_for_it_is_compared_with_others(event: Event) -> None:
    field = "at" if isinstance(event, ClockTicked) else "said_at"
    found = wire(event)
    found["data"][field] = "2026-11-02T09:00:00"
    assert f"$.{field}" in refusal(found)
    found["data"][field] = "9999-12-31T23:59:59-12:00"  # the year 10000 in UTC
    assert refusal(found) == f"{field} is not from 1970 to 8999"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{",
        b'"text"',
        b'{"specversion": "1.0"}',
        encode(enveloped(EVENTS[3]))[:-1],
        encode(enveloped(EVENTS[3])).replace(b'"ana"', b'"\xff"'),
        encode(enveloped(EVENTS[3])).replace(b'"data":{', b'"data":{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b","),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_bytes_that_are_no_event_are_refused_and_nothing_else_is_raised(value: bytes) -> None:
    assert refusal(value)


def leaves(found: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(found, dict):
        for name, value in found.items():
            yield from leaves(value, (*path, name))
    elif isinstance(found, list):
        for at, value in enumerate(found):
            yield from leaves(value, (*path, at))
    else:
        yield path


def spoiled(found: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of `found` with the leaf at `path` replaced, or, with a name for value, a field added beside it."""
    copy = json.loads(json.dumps(found))
    place = copy
    for step in path[:-1]:
        place = place[step]
    if isinstance(value, dict) and isinstance(place, dict):
        place.update(value)
    else:
        place[path[-1]] = value
    return copy


@pytest.mark.parametrize("event", EVENTS, ids=kind)
def test_the_reason_of_a_refusal_never_repeats_what_stood_there(event: Event) -> None:
    found = wire(event)
    refused = 0
    for path in leaves(found):
        for value in (SECRET, [SECRET], {SECRET: SECRET}):
            try:
                decode(json.dumps(spoiled(found, path, value)).encode())
            except Invalid as error:
                refused += 1
                assert "Octavia" not in str(error) and "neighbour" not in str(error)
                assert error.__suppress_context__ or error.__context__ is None, "nor does its traceback"
    assert refused


@pytest.mark.parametrize("order", ORDERS, ids=kind)
def test_the_reason_why_an_order_is_refused_never_repeats_what_stood_there(order: Order) -> None:
    found = json.loads(order_on_wire(order))
    for path in leaves(found):
        for value in (SECRET, [SECRET], {SECRET: SECRET}):
            try:
                decode_order(json.dumps(spoiled(found, path, value)).encode())
            except Invalid as error:
                assert "Octavia" not in str(error) and "neighbour" not in str(error)


# Versions


def with_scale(data: Data) -> Data:
    """From a first version that knew only thumbs."""
    return {**data, "scale": "thumb"}


def with_number(data: Data) -> Data:
    """From a second version that wrote the rating as a word."""
    return {**data, "rating": {"up": 1, "down": -1}[data["rating"]]}


LIFTS = {("reply_rated", 1): with_scale, ("reply_rated", 2): with_number}


def old_rating(version: int) -> dict[str, Any]:
    found = wire(dataschema=f"urn:noria:reply_rated:{version}")
    found["data"]["rating"] = "up"
    if version == 1:
        del found["data"]["scale"]
    else:
        found["data"]["scale"] = "thumb"
    return found


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_version_is_lifted_step_by_step_to_the_newest(version: int) -> None:
    value = json.dumps(old_rating(version)).encode()
    event = decode(value, versions={"reply_rated": 3}, lifts=LIFTS).event
    assert isinstance(event, ReplyRated) and (event.rating, event.scale) == (1, "thumb")


@pytest.mark.parametrize("event", [PolicySet, RoundRequested])
def test_a_policy_that_was_set_when_everybody_counted_goes_on_to_count_everybody(event: type) -> None:
    (new,) = [found for found in EVENTS if type(found) is event]
    value = wire(new)
    assert value["data"]["policy"]["thresholds"].pop("named_people") == "one"
    value["dataschema"] = f"{value['dataschema'].rpartition(':')[0]}:3"
    if "reasons" in value["data"]:
        value["data"]["reason"] = "asked for by ann"  # in a sentence, then
        del value["data"]["reasons"]
    old = decode(json.dumps(value).encode()).event
    assert isinstance(old, PolicySet | RoundRequested) and old.policy.thresholds.named_people == "each"
    del value["data"]["policy"]["thresholds"]
    bare = decode(json.dumps(value).encode()).event
    assert isinstance(bare, PolicySet | RoundRequested)
    assert bare.policy.thresholds == Thresholds(named_people="each")


def test_a_field_that_a_later_version_brought_into_a_policy_a_recipe_or_a_gate_is_passed_over() -> None:
    for event in (event for event in EVENTS if isinstance(event, PolicySet | RoundRequested)):
        found = wire(event)
        policy = found["data"]["policy"]
        for part in (policy, policy["recipe"], policy["gate"], policy["thresholds"], policy["keep"]):
            part["moon"] = "waxing"
        assert decode(json.dumps(found).encode()).event == event


def test_the_newest_version_is_not_lifted() -> None:
    value = json.dumps(wire(dataschema="urn:noria:reply_rated:3")).encode()
    assert decode(value, versions={"reply_rated": 3}, lifts=LIFTS).event == EVENTS[3]


def test_a_version_above_the_newest_is_refused() -> None:
    words = refusal(wire(dataschema="urn:noria:reply_rated:4"), versions={"reply_rated": 3}, lifts=LIFTS)
    assert words == "reply_rated has version 4; this reader knows versions up to 3"


def test_an_old_version_that_cannot_be_lifted_is_refused_and_stops_nothing() -> None:
    for rating in (SECRET, None, [SECRET]):
        found = old_rating(1)
        found["data"]["rating"] = rating
        words = refusal(found, versions={"reply_rated": 3}, lifts=LIFTS)
        assert words.startswith("reply_rated of version 2 cannot be lifted") and "Octavia" not in words


def test_a_lift_that_is_missing_is_our_own_bug_and_stops_the_reader() -> None:
    with pytest.raises(KeyError):
        decode(json.dumps(old_rating(1)).encode(), versions={"reply_rated": 3}, lifts={})


def test_what_a_lift_leaves_unfit_is_refused_by_the_name_of_the_field() -> None:
    found = old_rating(1)
    found["data"]["rating"] = 1
    lifts = {("reply_rated", 1): lambda data: data}
    assert "`scale`" in refusal(found, versions={"reply_rated": 2}, lifts=lifts)


def test_every_version_ever_written_can_be_lifted() -> None:
    from streams.codec import LIFTS as lifts

    assert set(lifts) == {(name, v) for name, newest in VERSIONS.items() for v in range(1, newest)}
    assert set(VERSIONS) <= {name.partition(".")[0] for name in SCHEMAS}


# Orders and schemas


@pytest.mark.parametrize("order", ORDERS, ids=kind)
def test_every_order_comes_back_as_it_was_and_is_a_cloud_event(order: Order) -> None:
    value = order_on_wire(order)
    assert decode_order(value) == order
    read = cloudevents_json.JSONFormat().read(CloudEvent, value)
    assert read.get_id() == read.get_subject() == str(order.order_id)
    assert read.get_time() == START and read.get_extension("causationid") == str(id_of("cause"))
    assert read.get_extension("correlationid") == (order.round_id or order.domain)


def test_an_order_is_read_by_its_version_as_an_event_is() -> None:
    found = json.loads(order_on_wire(ORDERS[0]))
    name, _, version = found["dataschema"].rpartition(":")
    assert int(version) == 8, "of select_snapshot"
    older = found | {"dataschema": f"{name}:1", "data": dict(found["data"])}
    for added in ("base_model", "recipe", "recall", "opening", "mask", "selection"):
        del older["data"][added]
    first = replace(ORDERS[0], base_model=None, recipe=None, recall=Recall(), opening=False, mask=(), selection=USUAL)
    assert decode_order(json.dumps(older).encode()) == first
    with pytest.raises(Invalid, match="version 9; this reader knows versions up to 8"):
        decode_order(json.dumps(found | {"dataschema": f"{name}:9"}).encode())


@pytest.mark.parametrize("changed", [{"data": {"kind": "sing"}}, {"data": {}}, {"data": 1}, {"id": None}], ids=str)
def test_an_order_that_cannot_be_read_is_refused(changed: dict[str, Any]) -> None:
    found = json.loads(order_on_wire(ORDERS[0])) | changed
    with pytest.raises(Invalid):
        decode_order(json.dumps(found).encode())


def on_wire() -> dict[str, dict[str, Any]]:
    events = {f"{name_of(e)}.v{VERSIONS.get(name_of(e), 1)}": wire(e) for e in EVENTS}
    asked = [json.loads(order_on_wire(order)) for order in ORDERS]
    return events | {".v".join(found["dataschema"].split(":")[2:]): found for found in asked}


ON_WIRE = on_wire()


def test_there_is_a_schema_of_every_event_and_order() -> None:
    former = {f"{name}.v{version}" for name, newest in VERSIONS.items() for version in range(1, newest)}
    former |= {f"{older}.v1" for older in RENAMED}
    operations = {f"{name}.v1" for name in OPERATIONS_TYPES}
    assert set(SCHEMAS) == set(ON_WIRE) | former | operations


@pytest.mark.parametrize("name", sorted(ON_WIRE))
def test_what_is_written_is_valid_by_its_schema_and_what_is_spoiled_is_not(name: str) -> None:
    found = ON_WIRE[name]
    validator = Draft202012Validator(SCHEMAS[name], format_checker=Draft202012Validator.FORMAT_CHECKER)
    validator.validate(found)
    assert not validator.is_valid(found | {"type": "noria.other"})
    assert not validator.is_valid(found | {"dataschema": f"urn:noria:{name.partition('.')[0]}:99"})
    assert not validator.is_valid({k: v for k, v in found.items() if k != "data"})
    assert not validator.is_valid(found | {"id": "seventeen"})
    assert not validator.is_valid(found | {"data": {k: v for k, v in found["data"].items() if k != "domain"}})


def test_a_policy_of_a_time_before_masking_masks_nothing_and_a_new_one_all() -> None:
    found = wire(PolicySet(domain="d", policy=Policy(), by="ops"))
    assert decode(json.dumps(found).encode()).event.policy.mask == KINDS  # type: ignore[union-attr]
    del found["data"]["policy"]["mask"]
    found["dataschema"] = "urn:noria:policy_set:9"
    assert decode(json.dumps(found).encode()).event.policy.mask == ()  # type: ignore[union-attr]
