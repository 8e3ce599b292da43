"""Whether an instruction is new is decided as `rouge_score` would have it, whatever stands there."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.builder.novelty import MOST, Kept, rouge_l, tokens_of

scorer = pytest.importorskip("rouge_score.rouge_scorer")
WORDS = st.sampled_from(["a", "the", "Fine", "fine", "licence", "x9", "路", "口", "罚", "é", "İ", "—", "42", "ﬁ"])
TEXTS = st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30)


class Characters:
    """What `rouge_score` is told to cut texts by where they are Chinese."""

    def tokenize(self, text: str) -> list[str]:
        return tokens_of(text)


PLAIN = scorer.RougeScorer(["rougeL"], use_stemmer=False)
WITH_CHINESE = scorer.RougeScorer(["rougeL"], tokenizer=Characters())


@given(TEXTS)
def test_without_chinese_the_tokens_are_its_own(text: str) -> None:
    from rouge_score.tokenize import tokenize

    assert [one for one in tokens_of(text) if one.isascii()] == tokenize(text, None)


@example(["a b c d e f g h i j", "a b c d e f g x y z"])  # 0.7 itself
@given(st.lists(TEXTS, min_size=1, max_size=25))
def test_the_same_instructions_are_kept(texts: Sequence[str]) -> None:
    kept, slowly = Kept(), list[str]()
    for text in texts:
        by_rouge = max((WITH_CHINESE.score(one, text)["rougeL"].fmeasure for one in slowly), default=0.0) <= MOST
        assert kept.is_new(text) == by_rouge
        if by_rouge:
            slowly.append(text)
            kept.add(text)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 60))
def test_the_score_is_the_same_to_the_last_bit(asked: int, kept: int, common: int) -> None:
    common = min(asked, kept, common)
    shared = [f"s{number}" for number in range(common)]
    left = " ".join([*shared, *(f"a{number}" for number in range(asked - common))])
    right = " ".join([*(f"k{number}" for number in range(kept - common)), *shared])
    assert rouge_l(common, asked, kept) == PLAIN.score(right, left)["rougeL"].fmeasure
