"""Whatever the text, its passages hold all of it."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.passages import MOST_CHARACTERS, Passage, passages_of

LINES = st.one_of(
    st.sampled_from(
        [
            "",
            "",
            "# One",
            "## Two",
            "### ",
            "---",
            "===",
            "```",
            "第一章 总则",
            "第一条　甲。",
            "第二条 乙",
            "\f",
            "Article 1. A",
            "Article 2",
            "Section 3 B",
            "Chapter II",
            "   ",
            "long。" * 200,
            "word " * 150,
            "z" * 700,
        ]
    ),
    st.text(max_size=30),
)


@given(st.lists(LINES, max_size=25).map("\n".join))
@settings(max_examples=150, deadline=None)
def test_whatever_the_text_each_of_its_characters_stands_in_a_passage(text: str) -> None:
    found = passages_of(text)
    covered: set[int] = set()
    for number, one in enumerate(found):
        assert one == Passage(number, one.place, one.start, one.end, text[one.start : one.end])
        assert one.text == one.text.strip() and 0 < len(one.text) <= MOST_CHARACTERS
        covered.update(range(one.start, one.end))
    assert [n for n, character in enumerate(text) if not character.isspace() and n not in covered] == []
    assert all(a.start < b.start and a.end < b.end for a, b in pairwise(found))
    assert passages_of(text) == found
