"""An example file of every version of every event and order ever written: it still reads, and fits the published schema.

A file is never changed once its version is in use. A new version comes with a new file; the old ones stay and are lifted.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator

from streams.codec import (
    EVENT_TYPES,
    OPERATIONS_TYPES,
    RENAMED,
    decode,
    decode_order,
    encode,
    encode_operation,
    encode_order,
    name_of,
    newest_version,
    read_operation,
    schemas,
)
from streams.sealed import Sealed
from streams.sealing import PersonKey, open_sealed

FILES = sorted((Path(__file__).parents[1] / "examples" / "events").glob("*.json"))
SCHEMAS = schemas()
NEWEST = {key.partition(".")[0]: newest_version(key.partition(".")[0]) for key in SCHEMAS}
EXPECTED = {f"{name}.v{version}" for name, newest in NEWEST.items() for version in range(1, newest + 1)}


def name(path: Path) -> str:
    return path.name.removesuffix(".json")


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


class ExampleKeys:
    """The keys under which the words of the examples were sealed: nobody's."""

    def key_for(self, subject: str) -> PersonKey:
        return self.find(subject)

    def find(self, kid: str) -> PersonKey:
        return PersonKey(kid, hashlib.sha256(b"example key " + kid.encode()).digest())


def sealed_in(found: Any) -> Iterator[Sealed]:
    if isinstance(found, dict):
        if set(found) == {"kid", "ref", "jwe"}:
            yield Sealed(**found)
        for value in found.values():
            yield from sealed_in(value)
    elif isinstance(found, list):
        for value in found:
            yield from sealed_in(value)


def test_every_version_of_every_event_and_order_has_an_example() -> None:
    assert {name(path) for path in FILES} == EXPECTED


@pytest.mark.parametrize("path", FILES, ids=name)
def test_an_example_is_what_its_name_says(path: Path) -> None:
    kind, _, version = name(path).partition(".v")
    found = content(path)
    assert found["type"] == f"noria.{kind}" and found["dataschema"] == f"urn:noria:{kind}:{version}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_an_example_still_reads_and_says_the_same_when_written_again(path: Path) -> None:
    kind, _, version = name(path).partition(".v")
    found = content(path)
    since = RENAMED.get(kind, kind)
    if since in EVENT_TYPES:
        envelope = decode(path.read_bytes())
        assert name_of(envelope.event) == since and type(envelope.event) is EVENT_TYPES[since]
        again, newest = encode(envelope), decode(encode(envelope))
        assert newest == envelope
    elif kind in OPERATIONS_TYPES:
        at, event = read_operation(path.read_bytes())
        again = encode_operation(event, id=UUID(found["id"]), source=found["source"], time=at)
        assert read_operation(again) == (at, event)
    else:
        order = decode_order(path.read_bytes())
        time, cause = datetime.fromisoformat(found["time"]), UUID(found["causationid"])
        again = encode_order(order, source=found["source"], time=time, causation_id=cause)
        assert decode_order(again) == order
    if since == kind and int(version) == NEWEST[kind]:
        assert json.loads(again) == found


@pytest.mark.parametrize("path", [path for path in FILES if name(path) in SCHEMAS], ids=name)
def test_an_example_of_the_newest_version_fits_the_published_schema(path: Path) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name(path)])
    Draft202012Validator(SCHEMAS[name(path)], format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        content(path)
    )


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_words_in_an_example_are_sealed_and_open_with_their_key(path: Path) -> None:
    for sealed in sealed_in(content(path)["data"]):
        assert len(open_sealed(sealed, ExampleKeys())) > 5 and sealed.ref.count("#") == 1


def test_the_examples_hold_enough_sealed_words_to_show_every_place_that_has_some() -> None:
    holding = {name(path).partition(".")[0] for path in FILES if list(sealed_in(content(path)["data"]))}
    assert holding == {
        "prompt_asked",
        "reply_drafted",
        "reply_corrected",
        "reply_commented",
        "exam_item_added",
        "passage_added",
        "document_added",
        "triple_added",
        "seed_added",
        "example_proposed",
        "example_accepted",
        "proposal_judged",
        "preference_accepted",
        "ranking_accepted",
    }
