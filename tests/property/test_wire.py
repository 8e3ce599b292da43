"""Whatever an event holds, it survives the wire; whatever bytes come, they are an event or are refused, and nothing else."""

import json
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.codec import decode, decode_order, encode, encode_order, envelope_for
from streams.errors import Invalid
from streams.events import Event
from streams.orders import Order
from tests.property.strategies import EVENTS, MOMENTS, ORDERS
from tests.samples import EVENTS as SAMPLES
from tests.samples import START, enveloped, id_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(EVENTS, st.uuids(), MOMENTS, st.text(max_size=9), st.none() | st.uuids())
def test_any_event_survives_the_wire(event: Event, id: Any, time: Any, correlation_id: str, cause: Any) -> None:
    envelope = envelope_for(
        event, id=id, source="/noria/test", time=time, correlation_id=correlation_id, causation_id=cause
    )
    value = encode(envelope)
    assert decode(value) == envelope
    assert encode(decode(value)) == value


@given(ORDERS)
def test_any_order_survives_the_wire(order: Order) -> None:
    assert decode_order(encode_order(order, source="/s", time=START, causation_id=id_of("cause"))) == order


@given(st.sampled_from(SAMPLES), st.sampled_from(["data", "time", "subject", "type", "id", "dataschema"]), JSON)
def test_any_json_in_the_place_of_a_field_is_read_or_refused(event: Event, name: str, value: object) -> None:
    found = json.loads(encode(enveloped(event))) | {name: value}
    try:
        decode(json.dumps(found).encode())
    except Invalid:
        pass


@given(st.sampled_from(SAMPLES), st.data())
def test_bytes_that_were_changed_anywhere_are_read_or_refused(event: Event, data: st.DataObject) -> None:
    value = bytearray(encode(enveloped(event)))
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(value[: data.draw(st.integers(0, len(value)))] if data.draw(st.booleans()) else value))
    except Invalid:
        pass


@given(st.text(max_size=30))
def test_any_time_is_read_as_utc_or_refused(time: str) -> None:
    found = json.loads(encode(enveloped(SAMPLES[0]))) | {"time": time}
    try:
        assert decode(json.dumps(found).encode()).time.utcoffset() == timedelta()
    except Invalid:
        pass
