"""The data room as the page shows it: the table of a domain's examples with its filters, the story of one, what was decided on
many, and the file that was dropped to be imported.

Rows are asked of the door a page at a time; nothing that is ticked is kept here, the browser has that.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from api.client import Door, Json
from api.formats.checking import Brought, Checked, examples, good
from api.items import Example
from api.sending import Import
from api.ui.board import clock
from api.ui.made_of import draw_source
from api.ui.markup import card, safe
from api.ui.sets import Sets
from api.ui.words import Lang, event_name, known, say
from streams.errors import Invalid

ROWS_AT_ONCE = 30
SHOWN_CHARACTERS = 240
SHOWN_ITEMS = 3
SHOWN_FAULTS = 10
STATES = ("accepted", "proposed", "rejected", "retired", "erased", "masked")
VERBS = {"accept": "n-primary", "reject": "n-plain", "retire": "n-plain"}
_CHIPS = {"accepted": "n-good", "proposed": "n-now", "rejected": "n-bad", "retired": "n-warn", "erased": "n-bad"}


class LookedThrough(Struct):
    """A dropped file after it was looked through: of which formats it is, its first items, and what is wrong with which line."""

    name: str
    formats: tuple[str, ...]
    first: list[tuple[str, Example]]
    faults: list[tuple[str, str]]
    checked: Checked
    clean: bool


class Room(Struct):
    """What a person looks at; in a session's memory only. `sources`: all that were seen here; `told`: the last decision or import,
    and what came of it."""

    domain: str = ""
    wanted: dict[str, str] = field(default_factory=dict)
    rows: list[Json] = field(default_factory=list)
    next: int | None = None
    stopped: bool = False
    searched: int = 0
    counts: list[Json] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)
    story: Json | None = None
    told: Json | None = None
    file: LookedThrough | None = None
    sets: Sets = field(default_factory=Sets)
    trouble: str = ""

    @property
    def total(self) -> int | None:
        """How many the filter finds; None: only opening them would tell."""
        of_words = self.wanted.get("text") or self.wanted.get("state") == "masked"
        return None if of_words else sum(one["n"] for one in self.counts)


def enter(door: Door, domain: str, wanted: Mapping[str, str], after: str | None = None) -> Room:
    """The newest rows that a filter finds; not before the position `after`. Raises Refused, Unavailable."""
    room = Room(domain=domain, wanted={name: words for name, words in wanted.items() if words})
    page = door.examples_table(domain, room.wanted, ROWS_AT_ONCE, after=after)
    room.counts = page["counts"]
    room.sources = {one["source"] for one in room.counts}
    _take(room, page)
    return room


def look_for(door: Door, room: Room, wanted: Mapping[str, str], after: str | None = None) -> Room:
    """As `enter`, of whoever is in already: the file that they have dropped stays. Raises Refused, Unavailable."""
    found = enter(door, room.domain, wanted, after)
    found.file, found.sets, found.sources = room.file, room.sets, found.sources | room.sources
    return found


def look_on(door: Door, room: Room) -> None:
    """The next rows. Raises Refused, Unavailable."""
    _take(room, door.examples_table(room.domain, room.wanted, ROWS_AT_ONCE, room.next))


def _take(room: Room, page: Json) -> None:
    room.rows += page["data"]
    room.next, room.stopped = page["next"], page["stopped"]
    room.searched += page["searched"]


def decide(door: Door, room: Room, verb: str, ids: list[str], count: int | None) -> Room:
    """`ids`, or all `count` that the filter finds. Raises Refused, Unavailable."""
    body: Json = {"verb": verb, "ids": ids} if ids else {"verb": verb, "filter": room.wanted, "count": count}
    return _told(door, room, door.decide_examples(room.domain, body))


def undo(door: Door, room: Room, decision: str) -> Room:
    return _told(door, room, door.undo_decision(room.domain, decision))


def _told(door: Door, room: Room, said: Json) -> Room:
    found = look_for(door, room, room.wanted, said["position"])
    found.told = said
    return found


def look_through(path: Path, languages: list[str] | None) -> LookedThrough:
    """What a dropped file holds; nothing of it is sent. `languages`: cleaned as for a domain of these. Raises Invalid."""
    found = examples(path, languages=languages)
    seen = LookedThrough(path.name, found.formats, [], [], Checked(), languages is not None)
    for taken in found.items():
        seen.checked.add(taken)
        if taken.item is not None and len(seen.first) < SHOWN_ITEMS:
            seen.first.append((taken.place, taken.item))
        elif taken.fault and len(seen.faults) < SHOWN_FAULTS:
            seen.faults.append((taken.place, taken.fault))
    return seen


def bring(door: Door, room: Room, path: Path, skip_faulty: bool, languages: list[str] | None, person: str) -> Room:
    """Import what is right of it. Raises Invalid, Refused, Unavailable."""
    found: Brought[Example] = examples(path, languages=languages)
    import_ = Import(path.name, "examples", room.domain)
    rows = ((place, msgspec.to_builtins(item)) for place, item in good(found, skip_faulty))
    said = import_.send(rows, lambda batch: door.import_examples(room.domain, batch, person or None, import_.id))
    after = look_for(door, room, room.wanted, said["position"])
    after.told, after.file = said, None
    return after


def draw_sieve(room: Room, lang: Lang) -> str:
    """The filters. They are drawn as they were last asked for."""
    fields = _choice("state", STATES, room.wanted.get("state", ""), lang)
    fields += _choice("source", sorted(room.sources), room.wanted.get("source", ""), lang)
    for name in ("person", "text"):
        words = say(lang, f"room_{name}")
        fields += (
            f'<label>{safe(words)}<input name="{name}" value="{safe(room.wanted.get(name, ""))}" maxlength="128"'
            ' autocomplete="off"></label>'
        )
    return f'<form class="n-sieve">{fields}<button class="n-primary">{safe(say(lang, "room_look"))}</button></form>'


def _choice(name: str, values: Any, chosen: str, lang: Lang) -> str:
    options = f'<option value="">{safe(say(lang, "room_any"))}</option>' + "".join(
        f'<option value="{safe(value)}"{" selected" if value == chosen else ""}>{safe(_word(lang, name, value))}</option>'
        for value in values
    )
    return f'<label>{safe(say(lang, f"room_{name}"))}<select name="{name}">{options}</select></label>'


def _word(lang: Lang, name: str, value: str) -> str:
    key = f"room_{name}_{value}"
    return say(lang, key) if known(key) else value


def draw_rows(room: Room, lang: Lang) -> str:
    told = _draw_told(room.told, lang) if room.told is not None else ""
    trouble = f'<p class="n-trouble" role="alert">{safe(room.trouble)}</p>' if room.trouble else ""
    if not room.rows:
        body = f'<p class="n-muted">{safe(say(lang, "room_none"))}</p>'
    else:
        open_ = (room.story or {}).get("id")
        lines = "".join(_row(row, row["id"] == open_, lang) for row in room.rows)
        body = f'{_bulk(room, lang)}<ul class="n-rows">{lines}</ul>'
    end = ""
    if room.stopped:
        end = f'<p class="n-muted n-small">{safe(say(lang, "room_stopped", searched=room.searched))}</p>'
    if room.next is not None:
        words = say(lang, "room_search_on" if room.stopped else "room_more")
        end += f'<button type="button" class="n-plain" data-act="more">{safe(words)}</button>'
    total = f"{len(room.rows)}{'+' if room.next is not None else ''}" if room.total is None else str(room.total)
    return card(say(lang, "room_title"), told + trouble + body + end, f'<span class="n-count">{total}</span>')


def _bulk(room: Room, lang: Lang) -> str:
    """Each verb says in the browser how many it is about: of what is ticked, or of all that the filter finds."""
    all_ = ""
    if room.total is not None and room.total > len(room.rows):
        words = say(lang, "room_all_found", n=room.total)
        all_ = f'<label class="n-tick"><input type="checkbox" data-all="{room.total}">{safe(words)}</label>'
    buttons = "".join(
        f'<button type="button" class="{kind}" data-verb="{verb}" data-sure="{safe(say(lang, f"room_{verb}_sure", n="[n]"))}"'
        f" disabled>{safe(say(lang, f'room_{verb}'))}</button>"
        for verb, kind in VERBS.items()
    )
    shown = say(lang, "room_all_shown")
    return (
        f'<div class="n-bulk"><label class="n-tick"><input type="checkbox" data-shown>{safe(shown)}</label>{all_}'
        f'<span class="n-bulk-acts">{buttons}</span></div>'
    )


def _row(row: Json, is_open: bool, lang: Lang) -> str:
    who = f" · {safe(row['person'])}" if row["person"] else ""
    edited = f" · {safe(say(lang, 'room_edited'))}" if row["edited"] else ""
    masked = "".join(
        f' <span class="n-chip n-warn">{safe(say(lang, "room_masks", kind=_word(lang, "personal", kind)))}</span>'
        for kind in row["masked"]
    )
    question, answer = (_cut(row[name]) or say(lang, "room_no_words") for name in ("question", "answer"))
    return (
        f'<li><input type="checkbox" data-id="{safe(row["id"])}" aria-label="{safe(question)}">'
        f'<button type="button" class="n-book" data-act="story" data-id="{safe(row["id"])}"'
        f' aria-pressed="{"true" if is_open else "false"}">'
        f'<span class="n-mine-title">{safe(question)}</span><span class="n-answered">{safe(answer)}</span>'
        f'<span class="n-small n-muted">{_chip(row["state"], lang)} {safe(_word(lang, "source", row["source"]))}'
        f"{who}{edited}{masked}</span></button></li>"
    )


def _chip(state: str, lang: Lang) -> str:
    return f'<span class="n-chip {_CHIPS.get(state, "")}">{safe(_word(lang, "state", state))}</span>'


def _cut(words: str) -> str:
    return words if len(words) <= SHOWN_CHARACTERS else f"{words[:SHOWN_CHARACTERS]}…"


def _draw_told(said: Json, lang: Lang) -> str:
    names = ("added", "accepted", "rejected", "retired", "reopened", "known", "held")
    done = [say(lang, f"room_did_{name}", n=said[name]) for name in names if said.get(name)]
    words = say(lang, "comma").join(done) or say(lang, "room_did_nothing")
    id_ = str(said.get("import") or said.get("decision") or "")
    button = ""
    if said.get("position"):
        words += say(lang, "room_recorded", position=said["position"])
        button = (
            f'<button type="button" class="n-plain" data-act="undo" data-id="{safe(id_)}">'
            f"{safe(say(lang, 'room_undo'))}</button>"
        )
    return f'<p class="n-note n-did">{safe(words)} <code>{safe(id_)}</code> {button}</p>'


def draw_story(room: Room, lang: Lang) -> str:
    story = room.story
    if story is None:
        return card(say(lang, "room_story"), f'<p class="n-muted">{safe(say(lang, "room_choose"))}</p>')
    turns = story["messages"]
    if turns is None:
        talk = f'<p class="n-muted">{safe(say(lang, "room_no_words"))}</p>'
    else:
        said = [*((turn["role"], turn["content"]) for turn in turns), ("assistant", story["answer"])]
        talk = "".join(
            f'<div class="n-said"><div class="n-label">{safe(_word(lang, "role", role))}</div>'
            f'<div class="n-text">{safe(words)}</div></div>'
            for role, words in said
        )
    parts = (
        talk
        + _part(say(lang, "room_from"), _origin(story["came_from"], lang))
        + _part(say(lang, "room_happened"), _happened(story["happened"], lang))
        + _part(say(lang, "room_learned"), _learned(story["learned"], lang))
    )
    return card(say(lang, "room_story"), parts, _chip(story["state"], lang))


def _part(title: str, body: str) -> str:
    return f'<h4 class="n-part">{safe(title)}</h4>{body}'


def _origin(came: Json, lang: Lang) -> str:
    facts = [_word(lang, "source", came["source"])]
    for name in ("by", "asked_by", "teacher", "import", "build_id", "conversation_id"):
        if came.get(name):
            facts.append(f"{say(lang, f'room_origin_{name}')} {came[name]}")
    if came.get("release") is not None:
        facts.append(say(lang, "release_n", release=came["release"]))
    sources = "".join(f'<li class="n-own n-quiet">{draw_source(one, lang)}</li>' for one in came.get("made_of", ()))
    return f'<p class="n-small n-ids">{safe(" · ".join(facts))}</p>' + (
        f'<ul class="n-made-of">{sources}</ul>' if sources else ""
    )


def _happened(rows: list[Json], lang: Lang) -> str:
    lines = ""
    for one in rows:
        facts = (event_name(lang, one["what"]), one["by"], one.get("reason"))
        words = " · ".join(str(fact) for fact in facts if fact)
        at, position = clock(one["at"], with_day=True), str(one["position"]).removeprefix("noria.")
        lines += f"<li><time>{at}</time> {safe(words)} <code>{safe(position)}</code></li>"
    return f'<ul class="n-happened n-small">{lines}</ul>'


def _learned(rows: list[Json], lang: Lang) -> str:
    if not rows:
        return f'<p class="n-muted n-small">{safe(say(lang, "room_not_learned"))}</p>'
    lines = ""
    for one in rows:
        facts = [say(lang, "current_round", number=one["number"])]
        if one["release"] is not None:
            facts.append(say(lang, "release_n", release=one["release"]))
        if one["answers"]:
            facts.append(say(lang, "room_answers"))
        digest = str(one["snapshot"] or "").removeprefix("sha256:")[:10]
        lines += f"<li>{safe(' · '.join(facts))} <code>{safe(digest)}</code></li>"
    return f'<ul class="n-happened n-small">{lines}</ul>'


def draw_file(room: Room, lang: Lang, names_persons: bool) -> str:
    """Where a file is dropped; and what it holds, before anything of it is sent."""
    seen = room.file
    if seen is None:
        return card(
            say(lang, "room_import"),
            f'<label class="n-drop">{safe(say(lang, "room_drop"))}<input type="file" data-file></label>'
            f'<p class="n-muted n-small">{safe(say(lang, "room_drop_words"))}</p>',
        )
    checked = seen.checked
    counted = say(lang, "room_holds", good=checked.good, faulty=checked.faulty, left_out=checked.left_out.total())
    first = "".join(
        f'<li><div class="n-label">{safe(place)}</div><div class="n-text">{safe(_cut(_asked(item)))}</div>'
        f'<div class="n-text n-muted">{safe(_cut(item.output))}</div></li>'
        for place, item in islice(seen.first, SHOWN_ITEMS)
    )
    faults = "".join(f"<li><b>{safe(place)}</b> {safe(words)}</li>" for place, words in seen.faults)
    if faults:
        faults = f'<p class="n-label">{safe(say(lang, "room_faults"))}</p><ul class="n-faults n-small">{faults}</ul>'
    mended = ", ".join(f"{name} ({n})" for name, n in sorted((checked.mended + checked.left_out).items()))
    person = (
        f'<label>{safe(say(lang, "room_said_by"))}<input name="person" maxlength="128"></label>'
        if names_persons
        else ""
    )
    ready = checked.good > 0
    return card(
        seen.name,
        f'<p class="n-small">{safe("; ".join(seen.formats))}</p><p><b>{safe(counted)}</b></p>'
        + (f'<p class="n-small n-muted">{safe(mended)}</p>' if mended else "")
        + f'<ol class="n-passages">{first}</ol>{faults}<form class="n-bring">'
        + _tick("clean", say(lang, "room_clean"), seen.clean)
        + (_tick("skip", say(lang, "room_skip", n=checked.faulty), False) if checked.faulty else "")
        + f'{person}<div class="n-form-acts">'
        + (f'<button class="n-primary">{safe(say(lang, "room_bring", n=checked.good))}</button>' if ready else "")
        + f'<button type="button" class="n-plain" data-act="put-away">{safe(say(lang, "cancel"))}</button></div></form>',
    )


def _tick(name: str, words: str, ticked: bool) -> str:
    mark = " checked" if ticked else ""
    return f'<label class="n-tick"><input type="checkbox" name="{name}"{mark}>{safe(words)}</label>'


def _asked(item: Example) -> str:
    return "\n".join(words for words in (item.instruction, item.input) if words.strip())


def check_bringable(room: Room, skip_faulty: bool) -> None:
    """Raises Invalid, as the command line does: a file with something wrong in it goes in whole or by the person's word."""
    if room.file is not None and room.file.checked.faulty and not skip_faulty:
        raise Invalid(f"{room.file.checked.faulty} of its items are wrong; nothing was sent")
