"""The sources of an answer, as the page draws them."""

from datetime import UTC, datetime, timedelta

import pytest

from api.client import Answer, Source
from api.ui.sources import Sources, draw_sources, source_words
from api.ui.words import Lang

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)  # a Thursday
PASSAGE = Source("p1", "passage", 0.5, document_id="d1", title="Road Law", place="article 91")


def correction(days: float) -> Source:
    said_at = (NOW - timedelta(days=days)).isoformat().replace("+00:00", "Z")
    return Source("c1", "correction", 0.9, said_at=said_at, age_s=days * 86400)


@pytest.mark.parametrize(
    ("source", "english", "chinese"),
    [
        (correction(0.9 / 86400), "from a correction made 1 s before", "来自 1 秒前的一条纠正"),
        (correction(0.1), "from a correction of today", "来自今天的一条纠正"),
        (correction(2), "from a correction of Tuesday", "来自星期二的一条纠正"),
        (correction(6), "from a correction of Friday", "来自星期五的一条纠正"),
        (correction(7), "from a correction of 2026-11-19", "来自2026-11-19的一条纠正"),
        (PASSAGE, "Road Law, article 91", "Road Law，article 91"),
        (Source("p2", "passage", 0.5, title="Road Law"), "Road Law", "Road Law"),
        (Source("p3", "passage", 0.5), "from a document", "来自一份文档"),
        (Source("c2", "correction", 0.5, said_at="?", age_s=99), "from a correction of –", "来自–的一条纠正"),
    ],
)
def test_a_source_is_named_in_the_readers_language(source: Source, english: str, chinese: str) -> None:
    assert (source_words(source, "en", NOW), source_words(source, "zh", NOW)) == (english, chinese)


def drawn(lang: Lang = "en", **more: object) -> str:
    answer = Answer("c", "roads@1", ("rpl_1",), "noria.conversations-0@1", **more)  # type: ignore[arg-type]
    return draw_sources(Sources.of(answer), "rpl_1", lang, NOW)


def test_where_nothing_is_recalled_nothing_is_drawn() -> None:
    assert drawn() == "" and drawn(recall="recalled") == ""


def test_an_absent_memory_and_a_declined_question_are_told() -> None:
    assert "memory was not available" in drawn(recall="unavailable")
    assert "the model was not asked" in drawn(recall="recalled", declined=True)


def test_no_word_of_a_source_is_markup() -> None:
    attack = "<script>{{x}}</script>\" onclick='x'"
    sources = Sources("recalled", (Source(attack, "passage", 0.5, title=attack, place=attack),))
    sources.opened = {attack: {"state": "stands", "text": attack, "question": attack}}
    sources.reading = attack
    html = draw_sources(sources, attack, "en", NOW)
    assert "<script" not in html and "{" not in html and "onclick='" not in html
