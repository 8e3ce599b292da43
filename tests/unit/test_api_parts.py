"""Routes, error shapes, positions, names and the Alpaca shape, each on its own."""

import threading
from typing import Any

import pytest

from api.errors import ApiError, refusal_of
from api.formats.turns import messages_of, to_alpaca
from api.items import read_example
from api.keys import ROLES, Caller, hash_of
from api.routing import NoEngine, NotServed, QueueFull, Route, Routes, Served
from api.ui.words import domain_choices
from api.wire import check_domain, check_person, parse_position
from streams.errors import Invalid, Unavailable
from streams.log import Position


def test_domains_of_equal_titles_are_told_apart_on_the_page_and_retired_ones_are_no_choice() -> None:
    titles = {"a": "Pumps", "b": "Pumps", "c": "Roads", "d": ""}
    rows = [{"domain": domain, "title": title} for domain, title in titles.items()]
    rows.append({"domain": "e", "title": "Roads", "retired_at": "2026-11-24T02:00:00Z"})
    assert domain_choices(rows) == [("Pumps (a)", "a"), ("Pumps (b)", "b"), ("Roads", "c"), ("d", "d")]


def routes(state: str = "ready", wanted: bool = True) -> Routes:
    found = Routes("postgresql://nowhere", limit=4)
    found._routes = {"d": Route(1, "d@1", 7)}
    found._engines = {
        "d@1": Served("d@1", "d", 1, state, "http://one", "m", True, "llamacpp", [], 2048),
        "d@0": Served("d@0", "d", 0, "ready", "http://zero", "m", wanted, "llamacpp", [], 2048),
    }
    return found


def test_a_request_is_pinned_to_the_release_that_is_live_or_named() -> None:
    found = routes()
    assert found.pin("d", None, 1).name == "d@1" and found.pin("d", 0, 2).name == "d@0"
    assert found.table()[2] == {"d@1": 1, "d@0": 2}
    found.unpin("d@0")
    found.unpin("d@0")
    found.unpin("d@1")
    assert found.table()[2] == {}


def test_a_request_in_flight_stays_with_its_engine_when_the_route_is_flipped() -> None:
    found = routes()
    pin = found.pin("d", None, 1)
    found._routes = {"d": Route(2, "d@2", 8)}
    assert found.address(pin.engine_id) == "http://one" and found.lives(pin.engine_id)


def test_the_queue_has_an_end_and_a_refused_request_is_not_counted() -> None:
    found = routes()
    found.pin("d", None, 3)
    with pytest.raises(QueueFull):
        found.pin("d", None, 2)
    assert found.pin("d", None, 1) and found.table()[2] == {"d@1": 4}


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_an_engine_that_does_not_live_takes_nothing(state: str) -> None:
    with pytest.raises(NoEngine):
        routes(state).pin("d", None, 1)


@pytest.mark.parametrize("state", ["asked", "starting"])
def test_an_engine_that_comes_is_waited_for(state: str) -> None:
    found = routes(state)
    assert found.address(found.pin("d", None, 1).engine_id) is None and found.lives("d@1")


def test_a_release_that_is_to_be_stopped_takes_nothing_new() -> None:
    with pytest.raises(NotServed):
        routes(wanted=False).pin("d", 0, 1)
    with pytest.raises(NotServed) as caught:
        routes().pin("nobody", None, 1)
    assert not caught.value.known


def test_the_count_is_right_under_many_threads() -> None:
    found = Routes("postgresql://nowhere", limit=10_000)
    found._routes, found._engines = routes()._routes, routes()._engines

    def many() -> None:
        for _ in range(300):
            found.unpin(found.pin("d", None, 1).engine_id)

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.table()[2] == {}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ApiError(418, "tea"), 418),
        (Invalid("no"), 422),
        (Unavailable("the log does not answer"), 503),
        (Unavailable("PostgreSQL does not answer"), 503),
        (KeyError("somebody's words"), 500),
    ],
)
def test_every_error_has_an_answer_in_one_shape(
    error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = refusal_of(error)
    assert refusal.status == status and set(refusal.body["error"]) == {"message", "type", "param", "code"}
    assert ("Retry-After" in refusal.headers) is (status == 503)
    assert "somebody's" not in caplog.text and "somebody's" not in str(refusal.body)


def test_a_role_may_do_what_it_holds_and_an_annotator_nothing_else() -> None:
    def may(*roles: str) -> list[str]:
        return [role for role in ROLES if Caller("1", "k", frozenset(roles)).may(role)]

    assert may("chat") == ["chat"] and may("annotator") == ["annotator"] and may() == []
    assert may("data") == ["chat", "annotator", "data"] and may("operator") == list(ROLES)
    assert Caller("1", "app", frozenset()).person == "key:app" and len(hash_of("x")) == 64


def test_a_position_is_read_as_it_is_written() -> None:
    assert parse_position("noria.domains-1@42") == Position("noria.domains", 1, 42)
    for text in ("", "noria.domains-1", "x-1@2", "noria.domains-1@-1", "noria.domains-1@2 "):
        with pytest.raises(ApiError):
            parse_position(text)


@pytest.mark.parametrize("person", ["ann", "key:local", "李雷", "a b", "a@b.c", "x" * 128])
def test_names_of_people(person: str) -> None:
    assert check_person(person) == person


@pytest.mark.parametrize("person", ["", " a", "a ", "a/b", "a\\b", "a\nb", "a\x00", "x" * 129])
def test_no_names_of_people(person: str) -> None:
    with pytest.raises(ApiError):
        check_person(person)


@pytest.mark.parametrize("domain", ["", "-a", "A", "a_b", "a.b", "a" * 64, "ä", "a\n"])
def test_no_names_of_domains(domain: str) -> None:
    with pytest.raises(ApiError):
        check_domain(domain)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"instruction": "a", "output": "b"}, {"instruction": "a"}),
        ({"instruction": "a", "input": "i", "output": "b"}, {"instruction": "a\ni"}),
        ({"instruction": "a", "output": "b", "system": "s"}, {"instruction": "a", "system": "s"}),
        (
            {"instruction": "a", "output": "b", "history": [("q", "r"), ("s", "t")]},
            {"instruction": "a", "history": (("q", "r"), ("s", "t"))},
        ),
    ],
)
def test_the_alpaca_shape_goes_in_and_comes_out(item: dict[str, Any], expected: dict[str, Any]) -> None:
    out = to_alpaca(messages_of(read_example(item).item), item["output"])
    assert out == {"input": "", "output": "b", "system": "", "history": (), **expected}


@pytest.mark.parametrize(
    ("turns", "history"),
    [
        (("assistant Welcome.",), (("", "Welcome."),)),
        (("user a", "assistant one", "assistant two"), (("a", "one"), ("", "two"))),
        (("user a", "user b", "assistant one"), (("a", ""), ("b", "one"))),
        (("assistant x", "assistant y", "user a", "assistant z"), (("", "x"), ("", "y"), ("a", "z"))),
    ],
)
def test_every_turn_of_a_conversation_comes_out_and_in_again(turns: tuple[str, ...], history: Any) -> None:
    messages = [{"role": role, "content": words} for role, _, words in (turn.partition(" ") for turn in turns)]
    messages.append({"role": "user", "content": "And now?"})
    out = to_alpaca(messages, "So.")
    assert out["history"] == history
    assert messages_of(read_example(out).item) == messages
