"""A text cut into passages by its own structure: what is recalled, and what training material is built from.

The articles of a statute (第…条, Article, Section), else headings (of Markdown, and of chapters), else length. What is longer
than a passage may be is cut at the ends of sentences, and each piece begins with the last words of the one before. The same
text always gives the same passages, and every character that is not blank stands in at least one.

Lines are read here and not by a parser of Markdown: nothing is wanted but where headings stand, as offsets in the text, and a
hundred thousand articles must not take a minute.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from msgspec import Struct

MOST_CHARACTERS = 600
OVERLAP = 100
_LABEL_CHARACTERS = 80  # of one heading in a place; a longer line that begins like a chapter is a sentence about one
_PLACE_CHARACTERS = 240
_NO_HEADING = 99  # the level of an article that is no heading of Markdown: any heading ends it

_ZH = "0-9０-９〇零一二三四五六七八九十百千万两"
_EN = r"(\d{1,6}[A-Za-z]?(?:[.-]\d{1,4})*|[IVXLCDM]{1,9})(?=[.:)\]*_]|\s*$|\s*[–—-]|\s+[^a-z\s])"
# A line that begins with one of these and goes on as a sentence ("第五条规定", "Article 5 says") is none.
_ARTICLE = re.compile(
    rf"第[{_ZH}]{{1,12}}条(?:之[{_ZH}]{{1,4}})?(?=[\s:：*_【（(《]|$)|(?:Article|ARTICLE|Art\.)\s{{1,4}}{_EN}"
)
_SECTION = re.compile(rf"(?:Section|SECTION|Sec\.|§)\s{{0,4}}{_EN}")
_CHAPTERS = (
    (11, re.compile(rf"第[{_ZH}]{{1,8}}编(?=[\s:：]|$)|(?:Part|PART|Book|BOOK|Title|TITLE)\s{{1,4}}{_EN}")),
    (12, re.compile(rf"第[{_ZH}]{{1,8}}分编(?=[\s:：]|$)")),
    (13, re.compile(rf"第[{_ZH}]{{1,8}}章(?=[\s:：]|$)|(?:Chapter|CHAPTER)\s{{1,4}}{_EN}")),
    (14, re.compile(rf"第[{_ZH}]{{1,8}}节(?=[\s:：]|$)")),
)
_LINE = re.compile(r"[^\n]+")
_INK = re.compile(r"\S")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-{3,})[ \t]*$")
_SENTENCE = r"(?:[。！？；!?;…]|\.(?=\s))[\"'”’」』）)]*"
# Where a piece may end, the best first.
_BORDERS = tuple(re.compile(one) for one in (r"\n[^\S\n]*\n", _SENTENCE, r"\n", r"[，、,:：]", r"\s"))


class Passage(Struct, frozen=True):
    """`text` is what stands from `start` to `end`, in characters of the whole text. `place`: the article ("第九十一条",
    "Article 91"), else the headings above it ("Upkeep > Filters"), else its page ("p. 12"), else nothing."""

    ordinal: int
    place: str
    start: int
    end: int
    text: str


class _Section(Struct):
    """A part of the text under one heading or article. `level`: 1 to 6 as in Markdown, from 11 chapters, 99 an article."""

    start: int
    level: int
    path: tuple[str, ...]
    article: str = ""
    bare: bool = False  # nothing but its heading so far


def passages_of(text: str) -> list[Passage]:
    """The passages of a text (plain, or Markdown; lines end with \\n, pages with \\f), in its order."""
    sections = _joined(text, _sections(text))
    often = Counter(section.article for section in sections)
    pages = [match.start() for match in re.finditer("\f", text)]
    found: list[Passage] = []
    for number, section in enumerate(sections):
        end = sections[number + 1].start if number + 1 < len(sections) else len(text)
        for first, last in _pieces(text, section.start, end):
            place = _place(section, often) or (f"p. {bisect_left(pages, first) + 1}" if pages else "")
            found.append(Passage(len(found), place, first, last, text[first:last]))
    return found


def _place(section: _Section, often: Counter[str]) -> str:
    """An article alone says where it stands, unless the text holds several of its name."""
    if section.article and often[section.article] == 1:
        return section.article
    return " > ".join([*section.path, section.article] if section.article else section.path)[-_PLACE_CHARACTERS:]


def _sections(text: str) -> list[_Section]:
    """The parts of the text, from one heading or article to the next; the first begins with the text."""
    is_article, chapters = _forms(text)
    sections = [_Section(0, 0, ())]
    headings: list[tuple[int, str]] = []
    for start, words, marked in _lines(text):
        article = is_article.match(words) if is_article is not None else None
        level = marked or next((level for level, form in chapters if form.match(words)), 0)
        here = sections[-1]
        if article is not None:
            level = marked or _NO_HEADING
        elif not level or (not marked and len(words) > _LABEL_CHARACTERS):
            here.bare = False
            continue
        elif here.article and level > here.level:
            continue  # a heading inside of an article
        while headings and headings[-1][0] >= level:
            headings.pop()
        if article is None:
            headings.append((level, words[:_LABEL_CHARACTERS]))
        path = tuple(label for _, label in headings)
        label = " ".join(article.group().split()) if article is not None else ""
        sections.append(_Section(start, level, path, label, bare=article is None))
    return sections


def _forms(text: str) -> tuple[re.Pattern[str] | None, tuple[tuple[int, re.Pattern[str]], ...]]:
    """How the articles of this text begin, and its chapters. One article is none: something else is called so."""
    counts: Counter[str] = Counter()
    for _, words, _ in _lines(text):
        counts["article"] += _ARTICLE.match(words) is not None
        counts["section"] += _SECTION.match(words) is not None
    if counts["article"] > 1:
        return _ARTICLE, (*_CHAPTERS, (14, _SECTION))
    return (_SECTION if counts["section"] > 1 else None), _CHAPTERS


def _lines(text: str) -> Iterator[tuple[int, str, int]]:
    """Of each line that is not blank: where it begins, its words without the marks of Markdown before and around them, and its
    level as a heading of Markdown (0: it is none)."""
    fence = ""
    blank_before, end_before, underline = True, -1, -1
    for match in _LINE.finditer(text):
        if match.start() == underline:
            continue
        line = match.group()
        blank_before, end_before = blank_before or match.start() > end_before + 1, match.end()
        bare = line.strip()
        if not bare:
            blank_before = True
            continue
        opens = _FENCE.match(line)
        if opens and fence in ("", opens.group(1)):
            fence = "" if fence else opens.group(1)
        level = 0 if fence or opens else _level(line)
        if not (level or fence or opens or not blank_before):
            level = _underlined(text, match.end())
            underline = match.end() + 1 if level else -1
        yield match.start(), _words(bare, level), level
        blank_before = False


def _level(line: str) -> int:
    """1 to 6 for a heading of Markdown, else 0."""
    marks = line.lstrip(" \f")
    level = len(marks) - len(marks.lstrip("#"))
    return level if 0 < level <= 6 and len(line) - len(marks) < 4 and marks[level : level + 1] in ("", " ", "\t") else 0


def _underlined(text: str, end: int) -> int:
    """1 or 2 where the line after the one that ends there makes a heading of it: Markdown's other form."""
    following = _LINE.match(text, end + 1)
    if following is None or not _UNDERLINE.match(following.group()):
        return 0
    return 1 if "=" in following.group() else 2


def _words(line: str, level: int) -> str:
    if level:
        line = line.lstrip("#").rstrip("#")
        return " ".join(line.replace("*", "").replace("`", "").split())
    return line.lstrip("*_ \t　")


def _joined(text: str, sections: list[_Section]) -> list[_Section]:
    """A heading with nothing under it is no passage: it stands before the first of what it is above."""
    found: list[_Section] = []
    begins: int | None = None
    for number, section in enumerate(sections):
        start, begins = section.start if begins is None else begins, None
        last = number + 1 == len(sections)
        if section.bare and not last:
            begins = start
        elif section.bare and found and _INK.search(text, found[-1].start, start):
            continue  # it ends the text, and so the section before
        else:
            section.start = start
            found.append(section)
    return found


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """From where to where each passage of a section goes: the whole, or what lies between ends of sentences."""
    ink = _INK.search(text, start, end)
    while ink is not None:
        start = ink.start()
        cut = end if end - start <= MOST_CHARACTERS else _last_border(text, start, end)
        yield start, start + len(text[start:cut].rstrip())
        ink = _INK.search(text, cut, end)
        if ink is not None and ink.start() - cut < OVERLAP:
            ink = _INK.search(text, _first_border(text, cut - OVERLAP, cut), end)


def _last_border(text: str, start: int, end: int) -> int:
    """Where the piece that begins at `start` is cut: at the last border of the best kind in its later half, or nearer than that
    where what is left over would be but a few words."""
    most = min(MOST_CHARACTERS, max(MOST_CHARACTERS // 2 + OVERLAP, (end - start) * 2 // 3))
    least = most // 2
    for border in _BORDERS:
        ends = [match.end() for match in border.finditer(text, start + least, start + most)]
        if ends:
            return ends[-1]
    return start + most


def _first_border(text: str, start: int, end: int) -> int:
    """Where the piece after the one that ends at `end` begins: with the first sentence within the overlap, else the first clause,
    else the first word."""
    for border in _BORDERS[1:]:
        for match in border.finditer(text, start, end):
            if text[match.end() : end].strip():
                return match.end()
    return start


def title_of(text: str, name: str) -> str:
    """What a document calls itself: the heading it begins with, else its file's name without the ending."""
    for _, words, level in _lines(text):
        if level == 1 and words:
            return words[:_PLACE_CHARACTERS]
        break
    return PurePosixPath(name).stem or name
