"""The words that texts are compared by, and what a text is worth by them."""

import numpy as np
import pytest

from workers.recall.lexical import Frequencies, Lexical, Terms, count_terms, without_terms
from workers.recall.words import number_of, terms_of


def test_words_are_the_same_whatever_their_case_width_and_punctuation() -> None:
    assert terms_of("Speed-Limit: 120 km/h!") == ["speed", "limit", "120", "km", "h"]
    assert terms_of("ＳＰＥＥＤ　ｌｉｍｉｔ") == ["speed", "limit"]
    assert terms_of("STRASSE straße") == ["strasse", "strasse"]
    assert terms_of(" ,。 ") == []


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("暂扣六个月", ["暂", "扣", "六", "个", "月", "暂扣", "扣六", "六个", "个月"]),
        ("停车！停", ["停", "车", "停车", "停"]),
        ("とまれ", ["と", "ま", "れ", "とま", "まれ"]),
        ("ขับ", ["ข", "ั", "บ", "ขั", "ับ"]),
        ("速度120公里", ["速", "度", "速度", "120", "公", "里", "公里"]),
        ("C1驾照", ["c1", "驾", "照", "驾照"]),
    ],
)
def test_where_words_are_not_spaced_every_character_and_every_pair_is_a_term(text: str, terms: list[str]) -> None:
    assert terms_of(text) == terms


def test_a_word_without_end_is_cut_and_a_lone_surrogate_is_a_term_like_another() -> None:
    assert [len(term) for term in terms_of("x" * 100_000)] == [64]
    assert number_of("\ud800") != number_of("x")


def weighed(texts: dict[int, str]) -> tuple[Frequencies, list[Terms]]:
    frequencies, terms = Frequencies(), [count_terms([text]) for text in texts.values()]
    for each in terms:
        frequencies.add(each)
    return frequencies, terms


def test_a_text_is_worth_the_more_the_more_and_the_rarer_the_words_are_that_it_shares_with_the_question() -> None:
    texts = {1: "the belt in the car", 2: "the light and the car", 3: "the helmet", 4: "a b c"}
    frequencies, terms = weighed(texts)
    shares = frequencies.shares(frequencies.ask("the belt in the car"), terms)
    assert shares[0] > shares[1] > shares[2] > shares[3] == 0
    assert shares.min() >= 0 and shares.max() <= 1
    # A word that nothing holds is part of what was asked, and answered by none.
    assert frequencies.shares(frequencies.ask("the belt in the zebra"), terms)[0] < shares[0]


def test_what_a_text_is_worth_is_bm25_over_the_most_that_the_question_allows() -> None:
    frequencies, terms = weighed({1: "belt belt car", 2: "light"})
    asked = frequencies.ask("belt")
    weight = np.log(1 + (2 - 1 + 0.5) / 1.5)
    expected = weight * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2)) / (weight * 2.2)
    assert frequencies.shares(asked, terms) == pytest.approx([expected, 0.0])


def test_a_text_removed_leaves_no_trace_in_the_weights() -> None:
    frequencies, terms = weighed({1: "the belt", 2: "the light"})
    alone, _ = weighed({1: "the belt"})
    frequencies.remove(terms[1])
    assert vars(frequencies) == vars(alone)


def test_a_part_can_be_taken_out_of_counted_texts() -> None:
    whole, rest = count_terms(["the belt the", "the light"]), count_terms(["the light"])
    left = without_terms(whole, count_terms(["the belt the"]))
    assert left.numbers.tolist() == rest.numbers.tolist() and left.counts.tolist() == rest.counts.tolist()
    assert whole.length == 5


def test_texts_are_found_by_their_words_as_soon_as_they_are_written_and_no_longer_when_removed() -> None:
    lexical = Lexical()
    frequencies, terms = weighed({7: "the belt in the car", 9: "the light"})
    lexical.write(dict(zip((7, 9), terms, strict=True)), [])
    assert lexical.nearest(frequencies.ask("a belt"), 5) == [7]
    assert sorted(lexical.nearest(frequencies.ask("the"), 5)) == [7, 9]
    assert lexical.nearest(frequencies.ask("zebra"), 5) == []
    lexical.write({}, [7])
    assert lexical.nearest(frequencies.ask("the belt"), 5) == [9]


def test_a_very_long_question_is_searched_by_its_rarest_words() -> None:
    lexical = Lexical()
    texts = {key: f"common{key % 200} " + "filler" for key in range(400)} | {999: "needle"}
    frequencies, terms = weighed(texts)
    lexical.write(dict(zip(texts, terms, strict=True)), [])
    question = " ".join(f"common{n}" for n in range(200)) + " filler needle"
    assert lexical.nearest(frequencies.ask(question), 1) == [999]
