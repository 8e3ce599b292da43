"""What the demo's load counts as an answer of two versions, and how long it says that people waited."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.client import BUSY, Address, Answer, Door, NotNow, Piece
from api.ui.page import trouble_of
from deploy.demo import load, people
from deploy.demo.people import Said

ANSWERED = (
    'data: {"choices": [], "metadata": {"conversation_id": "c", "release": "roads@1", "reply_ids": ["r"],'
    ' "position": "noria.conversations-0@1"}}\n\ndata: [DONE]\n\n'
)


def test_an_answer_is_mixed_only_if_its_release_says_it_neither_alone_nor_beside_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: Counter[str] = Counter()

    def ask(_door: Door, release: str, *_: Any, **__: Any) -> Said:
        asked[release] += 1
        text = f"{release} alone" if asked[release] == 1 else f"{release} beside others"
        return Said(release=release, texts=(text,), reply_ids=("r",), conversation_id="c", longest_pause_s=0.0)

    monkeypatch.setattr(load, "ask", ask)
    seen = load.Load(None, "roads", [])  # type: ignore[arg-type]
    for release, text in (("1", "1 alone"), ("1", "1 beside others"), ("2", "2 alone"), ("2", "1 alone")):
        seen.seen.answers.append(load.Answered("How?", release, text, 0.0, 0.1, 0.1))
    assert seen.mixed() == 1


class Slow:
    """Stands in for the door: between two pieces of an answer the clock goes on by the next of its waits."""

    def __init__(self, *waits_s: float) -> None:
        self._waits_s = waits_s
        self.now = 0.0
        self.people: set[str] = set()

    def chat(self, _model: str, _messages: object, person: str, **_: object) -> Iterator[Piece | Answer]:
        self.people.add(person)
        for wait_s in self._waits_s[:-1]:
            self.now += wait_s
            yield Piece(0, "word ")
        self.now += self._waits_s[-1]
        yield Answer("c", "roads@1", ("r",), "noria.conversations-0@1")

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("waits_s", [(3.0, 0.1, 0.2), (0.1, 3.0, 0.2), (0.1, 0.2, 3.0)])
def test_the_longest_pause_of_an_answer_may_be_before_its_first_piece_between_two_or_before_its_end(
    waits_s: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Slow(*waits_s)
    monkeypatch.setattr(people.time, "monotonic", door.monotonic)
    assert people.ask(door, "roads", "How?", "ann").longest_pause_s == pytest.approx(3.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", BUSY)
def test_who_is_told_that_the_engine_has_enough_to_do_asks_again_and_the_page_says_so(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        httpx.Response(429, json={"error": {"message": "not now", "code": code}}),
        httpx.Response(200, text=ANSWERED),
    ]
    monkeypatch.setattr(people.time, "sleep", lambda seconds: None)
    transport = httpx.MockTransport(lambda request: answers.pop(0))
    with Door(Address("http://door", "key"), transport) as door:
        assert people.ask(door, "roads", "How?", "ann").release == "roads@1"
    assert trouble_of(NotNow("not now", code)) == ("err_queue", "")


def test_several_people_ask_at_once_and_the_largest_pause_is_that_of_the_one_who_waited_longest() -> None:
    door = Slow(0.0, 0.0)
    asked = load.Load(door, "roads", ["How?", "When?"], pause_s=0.0)  # type: ignore[arg-type]
    asked.start()
    asked.go_on(40)
    asked.stop()
    assert asked.seen.requests >= 40 and not asked.seen.failures
    assert len(door.people) == load.CLIENTS
    asked.seen.answers.append(load.Answered("Why?", "1", "so", 0.0, 9.0, 7.5))
    assert asked.seen.largest_pause_s == 7.5
