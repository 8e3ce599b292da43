"""The training sets of a domain as the data room shows them: how one was chosen, what became of each candidate, what is otherwise
than in another, and the map."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from api.client import Door, Json, Refused
from api.maps import cut, draw_svg, legend
from api.ui.markup import card, safe
from api.ui.words import Lang, choice_reason, choice_step, say

ROUNDS_READ = 50
LINES_AT_ONCE = 12
CHANGES_SHOWN = 12
ID_SHOWN = 10


class Sets(Struct):
    """What a person looks at; in a session's memory only. `wanted`: `round` and `against` (ids), and `shows`: "", "kept", or the
    step that kept back. `why`: all that is said of one candidate; `map`: once it was asked for."""

    rounds: list[Json] = field(default_factory=list)
    wanted: dict[str, str] = field(default_factory=dict)
    about: Json | None = None
    lines: list[Json] = field(default_factory=list)
    next: int | None = None
    changes: list[Json] | None = None
    why: Json | None = None
    map: Json | None = None
    trouble: str = ""


def enter_sets(door: Door, domain: str, wanted: Mapping[str, str], before: Sets | None = None) -> Sets:
    """The newest, unless another is wanted. What was drawn `before` of the same one stays. Raises Refused, Unavailable."""
    sets = Sets(rounds=[row for row in door.rounds(domain, ROUNDS_READ) if row["snapshot"] is not None])
    if not sets.rounds:
        return sets
    sets.wanted = {name: wanted.get(name) or "" for name in ("round", "shows", "against")}
    if sets.wanted["round"] not in {row["round_id"] for row in sets.rounds}:
        sets.wanted["round"] = sets.rounds[0]["round_id"]
    if before is not None and before.wanted.get("round") == sets.wanted["round"]:
        sets.map, sets.why = before.map, before.why
    try:
        sets.about = door.snapshot(sets.wanted["round"])
        look_on_in_set(door, sets)
        if sets.wanted["against"]:
            sets.changes = door.snapshot_changes(sets.wanted["round"], sets.wanted["against"])
    except Refused as error:  # its files are gone, say; the rest of the room is there
        sets.trouble = str(error)
    return sets


def look_on_in_set(door: Door, sets: Sets) -> None:
    """The next lines. Raises Refused, Unavailable."""
    shows = sets.wanted["shows"]
    filter_: dict[str, str] = {"kept": "true"} if shows == "kept" else {"kept": "false", "step": shows} if shows else {}
    page = door.snapshot_page(sets.wanted["round"], sets.next or 0, LINES_AT_ONCE, **filter_)
    sets.lines += page["data"]
    sets.next = page["next"]


def draw_map(door: Door, sets: Sets) -> None:
    """Raises Refused, Unavailable."""
    sets.map = door.snapshot_map(sets.wanted["round"])


def ask_why(door: Door, sets: Sets, candidate: str) -> None:
    """Raises Refused, Unavailable."""
    (sets.why, *_) = door.snapshot_lines(sets.wanted["round"], candidate)


def draw_sets(sets: Sets, lang: Lang) -> str:
    if not sets.rounds:
        return card(say(lang, "sets_title"), f'<p class="n-muted">{safe(say(lang, "sets_none"))}</p>')
    trouble = f'<p class="n-trouble" role="alert">{safe(sets.trouble)}</p>' if sets.trouble else ""
    body = _form(sets, lang) + trouble
    if sets.about is not None:
        about = _about(sets.about, lang) + _why(sets, lang) + _changes(sets, lang) + _lines(sets, lang)
        body += f'<div class="n-set"><div>{about}</div><div>{_map(sets, lang)}</div></div>'
    return card(say(lang, "sets_title"), body)


def _form(sets: Sets, lang: Lang) -> str:
    numbers = [(row["round_id"], say(lang, "current_round", number=row["number"])) for row in sets.rounds]
    steps = (
        [] if sets.about is None else [one["step"] for one in sets.about["counts"] if not one["kept"] and one["step"]]
    )
    shows = [("", say(lang, "sets_all")), ("kept", say(lang, "sets_kept"))]
    shows += [(step, say(lang, "sets_by", step=choice_step(lang, step))) for step in dict.fromkeys(steps)]
    others = [("", say(lang, "sets_nothing")), *(one for one in numbers if one[0] != sets.wanted["round"])]
    fields = "".join(
        f"<label>{safe(say(lang, f'sets_{name}'))}<select name='{name}'>{_options(found, sets.wanted[name])}</select></label>"
        for name, found in (("round", numbers), ("shows", shows), ("against", others))
    )
    button = f'<button class="n-primary">{safe(say(lang, "room_look"))}</button>'
    return f'<form class="n-sieve" data-of="sets">{fields}{button}</form>'


def _options(found: list[tuple[str, str]], chosen: str) -> str:
    return "".join(
        f'<option value="{safe(value)}"{" selected" if value == chosen else ""}>{safe(words)}</option>'
        for value, words in found
    )


def _about(about: Json, lang: Lang) -> str:
    steps = say(lang, "comma").join(choice_step(lang, step["step"]) for step in about["selection"])
    counted = ""
    for one in about["counts"]:
        if one["kept"]:
            words = say(lang, "sets_kept")
        else:
            words = f"{choice_step(lang, one['step'])}{say(lang, 'colon')}{choice_reason(lang, one['reason'])}"
        kind = (
            ""
            if one["kind"] == "example"
            else f' <span class="n-muted">{safe(say(lang, "sets_" + one["kind"]))}</span>'
        )
        counted += f'<li><b class="n-num">{one["candidates"]}</b><span>{safe(words)}{kind}</span></li>'
    return (
        f'<p class="n-muted n-small">{safe(say(lang, "sets_chosen_by", steps=steps))}'
        f' <code>{safe(str(about["snapshot"]).removeprefix("sha256:")[:10])}</code></p><ul class="n-counts">{counted}</ul>'
    )


def _why(sets: Sets, lang: Lang) -> str:
    if sets.why is None:
        return ""
    return f'<p class="n-note n-did">{_became(sets.why, lang, None)}</p>'


def _lines(sets: Sets, lang: Lang) -> str:
    lines = "".join(
        f'<li><button type="button" class="n-book" data-act="why" data-id="{safe(line["id"])}">'
        f'<span class="n-small">{_became(line, lang)}</span></button></li>'
        for line in sets.lines
    )
    more = ""
    if sets.next is not None:
        more = f'<button type="button" class="n-plain" data-act="more-lines">{safe(say(lang, "room_more"))}</button>'
    return f'<ul class="n-rows">{lines}</ul>{more}'


def _became(line: Json, lang: Lang, most: int | None = ID_SHOWN) -> str:
    """What became of a candidate, as HTML. `most`: characters of an id that are shown; None: all."""
    facts = [] if line["kept"] else [choice_reason(lang, line["reason"])]
    if line["number"] is not None:
        facts.append(f"{line['number']:g}")
    if line["neighbour"] is not None:
        facts.append(say(lang, "sets_beside", id=line["neighbour"][:most]))
    words = say(lang, "sets_kept") if line["kept"] else choice_step(lang, line["step"])
    chip = f'<span class="n-chip {"n-good" if line["kept"] else "n-warn"}">{safe(words)}</span>'
    return f"{chip} <code>{safe(line['id'][:most])}</code> {safe(' · '.join(facts))}"


def _changes(sets: Sets, lang: Lang) -> str:
    if sets.changes is None:
        return ""
    if not sets.changes:
        return f'<p class="n-note">{safe(say(lang, "sets_as_before"))}</p>'
    lines = "".join(
        f"<li><code>{safe(one['id'][:ID_SHOWN])}</code> {_fares(one['before'], lang)} → {_fares(one['after'], lang)}</li>"
        for one in sets.changes[:CHANGES_SHOWN]
    )
    title = say(lang, "sets_changed", n=len(sets.changes))
    return f'<h4 class="n-part">{safe(title)}</h4><ul class="n-happened n-small">{lines}</ul>'


def _fares(line: Json | None, lang: Lang) -> str:
    if line is None:
        return safe(say(lang, "sets_no_candidate"))
    return safe(say(lang, "sets_kept") if line["kept"] else choice_step(lang, line["step"]))


def _map(sets: Sets, lang: Lang) -> str:
    if sets.map is None:
        return (
            f'<button type="button" class="n-plain" data-act="map">{safe(say(lang, "sets_map"))}</button>'
            f'<p class="n-muted n-small">{safe(say(lang, "sets_map_words"))}</p>'
        )

    def words(one: Json) -> str:
        became: Any = say(lang, "sets_kept") if one["kept"] else choice_reason(lang, one["reason"])
        return f"{cut(one['question'])}\n{cut(one['answer'])}\n{became}"

    entries = "".join(
        f'<li><i style="background:{colour}"></i>'
        f"{safe(say(lang, 'sets_by', step=choice_step(lang, step)) if step else say(lang, 'sets_kept'))} {n}</li>"
        for step, colour, n in legend(sets.map)
    )
    left_out = f" {say(lang, 'sets_left_out', n=sets.map['left_out'])}" if sets.map["left_out"] else ""
    return (
        f'{draw_svg(sets.map, words, safe)}<ul class="n-legend n-small">{entries}</ul>'
        f'<p class="n-muted n-small">{safe(say(lang, "sets_map_words"))}{safe(left_out)}</p>'
    )
