"""What the demo's load counts as an answer of two versions."""

from collections import Counter
from typing import Any

import pytest

from api.client import Door
from deploy.demo import load
from deploy.demo.people import Said


def test_an_answer_is_mixed_only_if_its_release_says_it_neither_alone_nor_beside_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: Counter[str] = Counter()

    def ask(_door: Door, release: str, *_: Any, **__: Any) -> Said:
        asked[release] += 1
        text = f"{release} alone" if asked[release] == 1 else f"{release} beside others"
        return Said(release=release, texts=(text,), reply_ids=("r",), conversation_id="c")

    monkeypatch.setattr(load, "ask", ask)
    seen = load.Load(None, "roads", [])  # type: ignore[arg-type]
    for release, text in (("1", "1 alone"), ("1", "1 beside others"), ("2", "2 alone"), ("2", "1 alone")):
        seen.seen.answers.append(load.Answered("How?", release, text, 0.0, 0.1))
    assert seen.mixed() == 1
