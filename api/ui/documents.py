"""The documents of a domain as the page shows them: which there are, and the passages of the one that is read.

A document may have a hundred thousand passages: they are asked of the door a page at a time.
"""

from typing import Any

from msgspec import Struct, field

from api.client import Door, Json
from api.ui.markup import card, safe
from api.ui.words import Lang, say

LISTED = 200
PASSAGES_AT_ONCE = 20


class Reading(Struct):
    """The document that a person reads, as far as they have read it; in a session's memory only. `next`: the passage that comes
    next."""

    domain: str = ""
    document_id: str = ""
    title: str = ""
    retired: bool = False
    total: int = 0
    passages: list[Json] = field(default_factory=list)
    next: int | None = None


def open_document(door: Door, domain: str, document_id: str) -> Reading:
    """Raises Refused, Unavailable."""
    page = door.passages(domain, document_id, limit=PASSAGES_AT_ONCE)
    return Reading(
        domain=domain,
        document_id=document_id,
        title=str(page["title"] or page["name"]),
        retired=page["retired"] is not None,
        total=int(page["passages"]),
        passages=page["data"],
        next=page["next"],
    )


def read_on(door: Door, reading: Reading) -> None:
    """The next page of its passages. Raises Refused, Unavailable."""
    page = door.passages(reading.domain, reading.document_id, since=reading.next or 0, limit=PASSAGES_AT_ONCE)
    reading.passages += page["data"]
    reading.next = page["next"]


def draw_shelf(page: Json, reading: Reading, lang: Lang, moment: Any) -> str:
    """The documents in force: `page`, the first of the door's list. `moment`: writes a time as this machine's clock has it."""
    rows = page["data"]
    if not rows:
        return card(say(lang, "documents"), f'<p class="n-muted">{safe(say(lang, "documents_none"))}</p>')
    lines = "".join(_document(row, row["document_id"] == reading.document_id, lang, moment) for row in rows)
    more = ""
    if page["more"]:
        more = f'<p class="n-muted n-small">{safe(say(lang, "documents_more", shown=len(rows)))}</p>'
    count = f'<span class="n-count">{len(rows)}{"+" if more else ""}</span>'
    return card(say(lang, "documents"), f'<ul class="n-shelf">{lines}</ul>{more}', count)


def _document(row: Json, is_open: bool, lang: Lang, moment: Any) -> str:
    added = say(lang, "document_added", time=moment(row["added_at"]), by=row["by"])
    passages = say(lang, "document_passages", passages=row["passages"])
    return (
        f'<li><button type="button" class="n-book" data-act="document" data-id="{safe(row["document_id"])}"'
        f' aria-pressed="{"true" if is_open else "false"}"><span class="n-mine-title">{safe(row["title"] or row["name"])}</span>'
        f'<span class="n-small n-muted">{safe(row["name"])} · {safe(passages)}</span>'
        f'<span class="n-small n-muted">{safe(added)}</span></button></li>'
    )


def draw_passages(reading: Reading, lang: Lang) -> str:
    if not reading.document_id:
        return card(say(lang, "tab_documents"), f'<p class="n-muted">{safe(say(lang, "document_choose"))}</p>')
    lines = "".join(
        f'<li><div class="n-label">{safe(one["place"] or one["number"] + 1)}</div>'
        f'<div class="n-text">{safe(str(one["text"]).strip())}</div></li>'
        for one in reading.passages
    )
    more = ""
    if reading.next is not None:
        following = min(PASSAGES_AT_ONCE, reading.total - len(reading.passages))
        words = say(lang, "passages_more", more=following)
        more = f'<button type="button" class="n-plain" data-act="more">{safe(words)}</button>'
    gone = f'<p class="n-muted n-small">{safe(say(lang, "document_gone"))}</p>' if reading.retired else ""
    count = f'<span class="n-count">{safe(say(lang, "document_passages", passages=reading.total))}</span>'
    return card(reading.title, f'{gone}<ol class="n-passages">{lines}</ol>{more}', count)
