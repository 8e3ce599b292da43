"""What an answer was given with, as it is drawn under it: each source in a line, opened when somebody wants to read it."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from msgspec import Struct, field

from api.client import Answer, Json, Source
from api.ui.icons import CHECK
from api.ui.markup import safe
from api.ui.words import Lang, day_words, say, span

FRESH_S = 60.0  # so old is a correction of which is said how old it is, and not of which day


class Sources(Struct):
    """The sources of one prompt's answer, in a session's memory only. `opened`: what the door said of them, once somebody wanted to
    read one; `reading`: the one that is open; `rejected`: those that the person said do not fit."""

    recall: str = "off"
    recalled: tuple[Source, ...] = ()
    declined: bool = False
    opened: dict[str, Json] = field(default_factory=dict)
    reading: str | None = None
    rejected: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, answer: Answer) -> "Sources":
        return cls(answer.recall, answer.recalled, answer.declined)

    def has(self, memory_id: str) -> bool:
        return any(source.id == memory_id for source in self.recalled)


def draw_sources(sources: Sources, reply_id: str, lang: Lang, now: datetime) -> str:
    """Nothing, where nothing is recalled. `reply_id`: of the reply that what is said of a source is said of."""
    if sources.recall == "unavailable":
        return f'<p class="n-sources n-muted n-small">{safe(say(lang, "memory_away"))}</p>'
    if sources.declined:
        return f'<p class="n-sources n-muted n-small">{safe(say(lang, "declined"))}</p>'
    if not sources.recalled:
        return ""
    lines = "".join(_line(source, sources, lang, now) for source in sources.recalled)
    title = f'<div class="n-label">{safe(say(lang, "sources"))}</div>'
    return f'<div class="n-sources" data-reply="{safe(reply_id)}">{title}<ul>{lines}</ul></div>'


def source_words(source: Source, lang: Lang, now: datetime) -> str:
    """`from a correction of Tuesday`, `Road Traffic Safety Law, article 91`."""
    if source.kind == "correction":
        if source.age_s < FRESH_S:
            return say(lang, "source_fresh", age=span(lang, max(1.0, source.age_s)))
        return say(lang, "source_correction", day=_day(source.said_at, lang, now))
    parts = [part for part in (source.title, source.place) if part]
    return say(lang, "comma").join(parts) or say(lang, "source_document")


def _day(said_at: str, lang: Lang, now: datetime) -> str:
    try:
        at = datetime.fromisoformat(said_at.replace("Z", "+00:00")).astimezone(now.tzinfo)
    except ValueError:
        return "–"
    if at.date() == now.date():
        return say(lang, "today")
    if now.date() - at.date() < timedelta(days=7):
        return day_words(lang, at.weekday())
    return f"{at:%Y-%m-%d}"


def _line(source: Source, sources: Sources, lang: Lang, now: datetime) -> str:
    name = safe(source.id)
    is_open = sources.reading == source.id
    opens = (
        f'<button type="button" class="n-source" data-act="source" data-memory="{name}"'
        f' aria-expanded="{"true" if is_open else "false"}">{safe(source_words(source, lang, now))}</button>'
    )
    if source.id in sources.rejected:
        rejects = f'<span class="n-rejected">{CHECK} {safe(say(lang, "misfit_said"))}</span>'
    else:
        rejects = (
            f'<button type="button" class="n-act n-misfit" data-act="misfit" data-memory="{name}">'
            f"{safe(say(lang, 'misfit'))}</button>"
        )
    words = _words(sources.opened.get(source.id), lang) if is_open else ""
    return f"<li>{opens}{rejects}{words}</li>"


def _words(one: Mapping[str, object] | None, lang: Lang) -> str:
    if one is None or one.get("state") != "stands":
        state = "erased" if one is not None and one.get("state") == "erased" else "removed"
        return f'<div class="n-own n-quiet n-muted n-small">{safe(say(lang, f"source_{state}"))}</div>'
    question = f'<div class="n-label">{safe(one["question"])}</div>' if one.get("question") else ""
    return f'<div class="n-own n-quiet">{question}<div class="n-text">{safe(one.get("text") or "")}</div></div>'
