"""A schema that is filled by the fast way holds what `Store.apply` writes, row for row, also where the log holds something odd."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine

from streams import replay
from streams.facts.conversations import PromptAsked
from streams.facts.people import PersonErased
from streams.log import MemoryLog
from streams.replay import rebuild, verify
from tests.integration.by_hand import AT, ByHand, change, empty, live_domain, message, rows, talk


@pytest.fixture
def world(database: Engine) -> ByHand:
    empty(database)
    world = ByHand(database, MemoryLog())
    live_domain(world, "roads", corrections=3)
    return world


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What has been filled by `Store.apply`, record by record as the log has it."""
    made: list[str] = []
    apply = replay.apply_upto

    def counted(store, log, upto, progress):  # type: ignore[no-untyped-def]
        made.append(store._schema)
        return apply(store, log, upto, progress)

    monkeypatch.setattr(replay, "apply_upto", counted)
    yield made


def odd(text: str) -> list[PromptAsked]:
    asked = talk("roads", text, text)[0]
    assert isinstance(asked, PromptAsked)
    return [replace(asked, so_far=text)]


def test_what_copy_reads_as_marks_is_text_in_every_table(world: ByHand, slowly: list[str]) -> None:
    texts = [
        "tab\there",
        "line\nhere",
        "return\rhere",
        "back\\slash",
        "\\N",
        "\\.",
        "",
        "\\",
        "a\\\tb",
        "\x01\x1b",
        "汉字 🙂",
        '"{}"',
    ]
    for text in texts:
        world.say(*odd(text), *talk("roads", f"person {text}", f"c {text}"))
    world.settle()
    assert verify(world.database, world.log).equal and not slowly
    assert {text for (text,) in rows(world.database, "SELECT so_far FROM noria_shadow.prompts")} == {*texts, None}


def test_an_event_that_stands_twice_far_apart_has_its_effect_once(
    world: ByHand, slowly: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.loading.REMEMBERED_IDS", 2)
    erased = message(PersonErased(domain="roads", person="bob", kids=("k",), by="operator"), id=UUID(int=7))
    world.log.append([erased], 1)
    again = [message(event, id=uuid4()) for event in talk("roads", "ann", "c")]
    world.log.append(again, 1)
    for number in range(6):
        world.say(*talk("roads", f"p{number}"), at=AT + timedelta(minutes=number))
    world.log.append([erased, *again], 1)
    world.settle()
    assert verify(world.database, world.log).equal and not slowly


def test_a_prompt_under_an_id_that_another_has_changes_no_row_of_the_first(world: ByHand, slowly: list[str]) -> None:
    (first,), (second,) = odd("c"), odd("c")
    world.say(first, replace(second, release=7), *talk("roads", "ann", "c"))
    world.settle()
    assert rows(world.database, "SELECT release FROM noria.prompts") == [(0,)]
    assert verify(world.database, world.log).equal and slowly == ["noria_shadow"]


def test_what_no_index_holds_is_left_out_as_the_live_reader_left_it_out(world: ByHand, slowly: list[str]) -> None:
    long = "".join(uuid4().hex for _ in range(200))  # cannot be pressed together
    world.say(*odd(long), *talk("roads", "ann"))
    world.settle()
    assert [record.key for record in world.quarantined()] != []
    assert verify(world.database, world.log).equal and slowly == ["noria_shadow"]


def test_a_rebuilt_schema_has_the_keys_and_indexes_of_the_live_one(world: ByHand) -> None:
    rebuild(world.database, world.log, world.store.positions())
    query = (
        "SELECT tablename, indexname, replace(indexdef, ' ON ' || :schema || '.', '') FROM pg_indexes"
        " WHERE schemaname = :schema ORDER BY indexname"
    )
    live, shadow = (rows(world.database, query, schema=schema) for schema in ("noria", "noria_shadow"))
    assert live == shadow != []
    change(world.database, "DROP SCHEMA noria_shadow CASCADE")
