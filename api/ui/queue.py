"""The queue as the page shows it: the one proposal that an annotator holds, beside what it was made of, and what may be said of
it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from api.client import Door, Json
from api.ui.icons import BACK, CHECK, CROSS, PEN, SKIP, WHEEL
from api.ui.made_of import draw_source
from api.ui.markup import card, safe
from api.ui.words import Lang, known, say
from streams.annotation import PLACES

RENEW_S = 300.0  # so long an annotator looks at an item before the door is told that they still do
FIELDS = ("instruction", "input", "output")


class Work(Struct):
    """What an annotator holds, in a session's memory only; the door remembers it, too."""

    domain: str = ""
    person: str | None = None
    item: Json | None = None
    asked_at: float = 0.0
    last: str | None = None  # what was judged last

    def hold(self, door: Door, domain: str, person: str | None) -> None:
        """Have something to look at, if anything waits. Raises Refused, Unavailable."""
        another = (self.domain, self.person) != (domain, person)
        if another or self.item is None or time.monotonic() - self.asked_at > RENEW_S:
            self.item = door.next_in_queue(domain, person)
            self.domain, self.person, self.asked_at = domain, person, time.monotonic()
            self.last = None if another else self.last

    def judge(self, door: Door, said: Mapping[str, Any]) -> tuple[str, str] | None:
        """Say what the page was told of it: (key of the words for what was recorded, where); None, where that was not of this item,
        or nothing is recorded of it. Raises Refused, Unavailable."""
        item, act = self.item, said.get("act")
        if act == "take-back" and self.last is not None:
            recorded = door.take_back(self.domain, self.last, self.person)
            self.last, self.item = None, None
            return "judged_back", str(recorded["position"])
        if item is None or said.get("item") != item["proposal_id"]:
            return None
        self.item = None
        if act == "skip":
            door.skip(self.domain, item["proposal_id"], self.person)
            return None
        body: Json = {"verdict": act}
        if act == "take":
            body = {"takes": str(said.get("takes"))}
        elif act == "edit":
            fields = said.get("fields") or {}
            body["edited"] = {"system": (item["proposal"] or {}).get("system", "")} | {
                name: str(fields.get(name, "")) for name in FIELDS
            }
        try:
            recorded = door.judge(self.domain, item["proposal_id"], body, self.person)
        except Exception:
            self.item = item  # what was typed stays on the screen
            raise
        self.last = item["proposal_id"]
        return f"judged_{recorded['verdict']}", str(recorded["position"])


def draw_line(domains: Sequence[tuple[str, str]], domain: str, standing: Json, lang: Lang) -> str:
    """How many wait, and how far annotators agree. `domains`: (what is shown, domain) of those that may be chosen."""
    waiting, agreed = standing["waiting"], standing["agreement"]
    chips = "".join(
        f'<span class="n-chip">{safe(say(lang, f"waits_{name}"))} <b>{waiting[name]}</b></span>' for name in PLACES
    )
    second = ""
    if waiting["second"]:
        second = f'<span class="n-muted n-small">{safe(say(lang, "queue_second", second=waiting["second"]))}</span>'
    if not agreed["items"]:
        alpha = say(lang, "alpha_none")
    else:
        value = "–" if agreed["alpha"] is None else f"{agreed['alpha']:.2f}"
        alpha = say(lang, "alpha", alpha=value, items=agreed["items"], agreed=agreed["agreed"])
    choices = ""
    if len(domains) > 1:
        choices = "".join(
            f'<button type="button" class="n-plain" data-act="domain" data-id="{safe(name)}"'
            f' aria-pressed="{"true" if name == domain else "false"}">{safe(shown)}</button>'
            for shown, name in domains
        )
        choices = f'<div class="n-waits n-choices">{choices}</div>'
    return (
        f'{choices}<div class="n-waits">{chips}{second}<span class="n-alpha n-muted n-small">{safe(alpha)}</span></div>'
    )


def draw_item(item: Json | None, lang: Lang, last: str | None = None) -> str:
    """`last`: what was judged last, if that may be taken back."""
    back = _act("take-back", say(lang, "take_back"), BACK, "u") if last is not None else ""
    if item is None:
        acts = f'<div class="n-acts n-judge" data-item="">{back}</div>' if back else ""
        return (
            f'<div class="n-empty">{WHEEL}<h3>{safe(say(lang, "queue_empty"))}</h3>'
            f"<p>{safe(say(lang, 'queue_empty_words'))}</p>{acts}</div>"
        )
    proposal = item["proposal"] or {}
    kind = {"disputed": "n-bad", "uncertain": "n-warn", "hard": "n-warn"}.get(item["waits"], "")
    chip = f'<span class="n-chip {kind}">{safe(say(lang, "waits_" + item["waits"]))}</span>'
    by = f'<p class="n-muted n-small">{safe(say(lang, "proposed_by", builder=item["builder"]))}</p>'
    said = _verdicts(item["verdicts"], proposal, lang)
    body = f"{by}{_why(item, lang)}{_fields(proposal, lang)}{said}{_acts(lang, back)}{_form(proposal, lang)}"
    sources = "".join(f"<li>{draw_source(one, lang)}</li>" for one in item["sources"])
    return (
        f'<div class="n-board"><div class="n-col" data-item="{safe(item["proposal_id"])}">'
        f"{card(say(lang, 'queue_title'), body, chip)}</div>"
        f'<div class="n-col n-side">{card(say(lang, "made_from"), f"<ul class=n-passages>{sources}</ul>")}</div></div>'
    )


def _why(item: Json, lang: Lang) -> str:
    words = []
    if item["state"] in ("accepted", "edited"):
        words.append(say(lang, "looked_at_again"))
    if item["reason"]:
        key = f"concern_{item['reason']}"
        words.append(say(lang, key) if known(key) else str(item["reason"]))
    if item["verdicts"]:
        words.append(say(lang, "annotators_disagree"))
    return "".join(f'<p class="n-why">{safe(one)}</p>' for one in words)


def _fields(example: Json, lang: Lang) -> str:
    return "".join(
        f'<div class="n-label">{safe(say(lang, f"field_{name}"))}</div><div class="n-text">{safe(example[name])}</div>'
        for name in ("system", *FIELDS)
        if example.get(name)
    )


def _verdicts(verdicts: Sequence[Json], proposal: Json, lang: Lang) -> str:
    """What two said who disagree, side by side: of an edit, what is another than it was proposed."""
    if not verdicts:
        return ""
    shown = "".join(
        f'<div class="n-answer"><div class="n-label">'
        f"{safe(say(lang, 'annotator', number=number, verdict=say(lang, 'said_' + one['verdict'])))}</div>"
        f"{_fields(_changed(one['edited'] or {}, proposal), lang)}"
        f'<div class="n-acts">{_act("take", say(lang, "take"), CHECK, str(number), one["judgement_id"])}</div></div>'
        for number, one in enumerate(verdicts, 1)
    )
    return f'<div class="n-drafts n-of-{len(verdicts)}">{shown}</div>'


def _changed(edited: Json, proposal: Json) -> Json:
    return {name: words for name, words in edited.items() if words != proposal.get(name)}


def _acts(lang: Lang, back: str) -> str:
    buttons = [
        _act("accept", say(lang, "accept"), CHECK, "a"),
        _act("open-edit", say(lang, "edit"), PEN, "e"),
        _act("reject", say(lang, "reject"), CROSS, "r"),
        _act("skip", say(lang, "skip"), SKIP, "s"),
        back,
    ]
    return f'<div class="n-acts n-judge">{"".join(buttons)}</div>'


def _act(act: str, words: str, icon: str, key: str, takes: str = "") -> str:
    return (
        f'<button type="button" class="n-act" data-act="{act}" data-key="{key}" data-takes="{safe(takes)}"'
        f' aria-keyshortcuts="{key}">{icon}<span>{safe(words)}</span><kbd>{key}</kbd></button>'
    )


def _form(proposal: Json, lang: Lang) -> str:
    boxes = "".join(
        f'<label class="n-label">{safe(say(lang, f"field_{name}"))}'
        f'<textarea name="{name}" rows="{_rows(str(proposal.get(name) or ""))}">{safe(proposal.get(name) or "")}</textarea></label>'
        for name in FIELDS
    )
    return (
        f'<div class="n-form" hidden>{boxes}<div class="n-form-acts">'
        f'<button type="button" class="n-primary" data-act="edit">{safe(say(lang, "accept_edited"))} <kbd>Ctrl ⏎</kbd></button>'
        f'<button type="button" class="n-plain" data-act="close">{safe(say(lang, "cancel"))} <kbd>Esc</kbd></button></div></div>'
    )


def _rows(text: str) -> int:
    return min(10, max(2, text.count("\n") + len(text) // 35 + 1))
