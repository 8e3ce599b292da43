"""A text becomes passages by its own structure."""

from itertools import pairwise

from streams.passages import MOST_CHARACTERS, OVERLAP, passages_of

LAW_ZH = """病区设备管理办法

第一章 总则

第一条　为了保证病区设备的安全，制定本办法。

第二条　本办法适用于本院各病区。第九条另有规定的，从其规定。
依照
第九条规定办理的，不适用前款。

第二章　检查

第一节　日常检查

第九条之一　注射泵每七日检查一次。
（一）检查电池；
（二）检查管路。

第一百二十条（附则）　本办法自公布之日起施行。
"""
LAW_EN = """# Ward Devices Act

CHAPTER I General

Article 1. This Act keeps the devices of a ward safe.

Article 2 Pumps
A pump is checked every seven days. Under
Article 1 of this Act nobody is excused.

Chapter II Penalties

Section 1 Fines

**Article 3-1** Whoever leaves a pump unchecked pays 50.
"""
MANUAL = """Read this first.

# The pump

## Upkeep

### Filters

Change the filter each month.

```
# this is no heading
```

Cleaning
--------
Wipe it.

## Alarms
"""


def places(text: str) -> list[tuple[str, str]]:
    return [(one.place, one.text) for one in passages_of(text)]


def test_a_chinese_statute_is_cut_at_its_articles_and_a_mention_of_one_is_not_taken_for_it() -> None:
    found = places(LAW_ZH)
    assert [place for place, _ in found] == ["", "第一条", "第二条", "第九条之一", "第一百二十条"]
    assert found[1][1].startswith("第一章 总则")  # a heading with nothing under it stands before what it is above
    assert found[2][1].endswith("第九条规定办理的，不适用前款。")
    assert found[3][1].startswith("第二章　检查") and found[3][1].endswith("（二）检查管路。")


def test_an_english_statute_is_cut_at_its_articles() -> None:
    found = places(LAW_EN)
    assert [place for place, _ in found] == ["Article 1", "Article 2", "Article 3-1"]
    assert found[0][1].startswith("# Ward Devices Act")
    assert found[1][1].endswith("Article 1 of this Act nobody is excused.")


def test_sections_are_what_a_statute_is_cut_at_where_it_has_no_articles() -> None:
    found = places("§ 1 Scope\nAll wards.\n\n§ 2 Pumps\nEach week.\n")
    assert found == [("§ 1", "§ 1 Scope\nAll wards."), ("§ 2", "§ 2 Pumps\nEach week.")]


def test_an_article_that_is_a_heading_keeps_the_headings_inside_of_it() -> None:
    found = places("## Article 1: Pumps\nOne.\n### Exceptions\nNone.\n## Article 2\nTwo.\n## Annex\nForms.\n")
    assert [place for place, _ in found] == ["Article 1", "Article 2", "Annex"]
    assert found[0][1].endswith("### Exceptions\nNone.")


def test_articles_of_the_same_name_are_told_apart_by_the_headings_above_them() -> None:
    law = "# {} Law\n\nArticle 1 All.\n\nArticle 2 Nobody.\n\n"
    found = [place for place, _ in places(law.format("Road") + law.format("Rail"))]
    assert found == ["Road Law > Article 1", "Road Law > Article 2", "Rail Law > Article 1", "Rail Law > Article 2"]


def test_a_manual_is_cut_at_its_headings_and_each_passage_names_all_that_are_above_it() -> None:
    found = places(MANUAL)
    assert [place for place, _ in found] == ["", "The pump > Upkeep > Filters", "The pump > Cleaning"]
    assert "# this is no heading" in found[1][1]
    assert found[1][1].startswith("# The pump")
    assert found[2][1].endswith("## Alarms")  # the last heading has nothing to stand before


def test_a_page_is_the_place_of_what_has_no_heading() -> None:
    assert places("one\n\ftwo\n") == [("p. 1", "one\n\x0ctwo")]
    long = "A sentence of the first page. " * 30
    assert [place for place, _ in places(f"{long}\n\f{long}\n\f# Head\nthree")] == ["p. 1"] * 2 + ["p. 2"] * 2 + [
        "Head"
    ]


def test_a_long_article_is_cut_between_sentences_and_each_piece_keeps_its_place() -> None:
    sentence = "驾驶人应当按照规定检查设备，并且记录检查的结果。"
    found = passages_of(f"第一条　{sentence * 60}\n第二条　短。")
    pieces = [one for one in found if one.place == "第一条"]
    assert len(pieces) == 3
    assert all(len(one.text) <= MOST_CHARACTERS and one.text.endswith("。") for one in pieces)
    for one, following in pairwise(pieces):
        assert 0 < one.end - following.start <= OVERLAP
        assert following.text.startswith("驾驶人")  # whole sentences, those that the piece before ends with


def test_words_are_not_cut_where_there_are_spaces_and_what_has_none_is_cut_by_length() -> None:
    words = passages_of("filter " * 500)
    assert all(set(one.text.split()) == {"filter"} for one in words)
    assert [len(one.text) for one in passages_of("x" * 1500)] == [600, 600, 500]


def test_a_text_of_blanks_has_no_passage() -> None:
    assert passages_of("") == passages_of(" \n\n\t \f ") == []


def test_a_hundred_thousand_articles_are_as_many_passages() -> None:
    found = passages_of("".join(f"Article {n}. Pump {n} is checked on day {n}.\n\n" for n in range(1, 100_001)))
    assert len(found) == 100_000
    assert found[-1].place == "Article 100000"
