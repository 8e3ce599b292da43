"""One person's conversation as the page holds it, in memory only, and as it is drawn."""

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from msgspec import Struct, field

from api.client import Answer
from api.ui.icons import BUBBLE, CHECK, ORDER, PEN, THUMB_DOWN, THUMB_UP, WHEEL
from api.ui.markup import safe
from api.ui.sources import Sources, draw_sources
from api.ui.words import Lang, say


class Draft(Struct):
    """One draft of an answer, and what its person has said of it."""

    text: str
    reply_id: str = ""
    rating: str | None = None
    picked: bool = False
    place: int | None = None  # in the order that its person put the drafts in
    correction: str | None = None
    comments: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)  # (key of the words, position on the log)


class Turn(Struct):
    """A question with its answers; `trouble`: why there is none, as (key of the words, the door's message)."""

    question: str
    drafts: list[Draft]
    release: str = ""
    position: str = ""
    trouble: tuple[str, str] | None = None
    sources: Sources = field(default_factory=Sources)
    id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def chosen(self) -> Draft | None:
        """The draft that the conversation goes on from."""
        if self.trouble is not None or not self.drafts:
            return None
        return next((draft for draft in self.drafts if draft.picked), self.drafts[0])

    @property
    def can_be_ordered(self) -> bool:
        """Of two, picking one says it all."""
        return len(self.drafts) > 2

    def put_in_order(self, reply_ids: Sequence[str]) -> None:
        for draft in self.drafts:
            draft.place = reply_ids.index(draft.reply_id) + 1 if draft.reply_id in reply_ids else None
            draft.picked = draft.place == 1


class Thread(Struct):
    """A conversation. A new one gets its id from the door with the first answer."""

    turns: list[Turn] = field(default_factory=list)
    conversation_id: str | None = None
    domain: str = ""
    person: str = ""

    def messages(self, question: str) -> list[dict[str, str]]:
        """What the model is asked: the turns so far, with the drafts that were chosen, and the question."""
        found: list[dict[str, str]] = []
        for turn in self.turns:
            chosen = turn.chosen
            if chosen is not None and chosen.text.strip():
                found.append({"role": "user", "content": turn.question})
                found.append({"role": "assistant", "content": chosen.text})
        return [*found, {"role": "user", "content": question}]

    def answered(self, question: str, texts: Sequence[str], answer: Answer) -> None:
        drafts = [Draft(text, reply_id) for text, reply_id in zip(texts, answer.reply_ids, strict=True)]
        self.turns.append(Turn(question, drafts, answer.release, answer.position, sources=Sources.of(answer)))
        self.conversation_id = answer.conversation_id

    def find(self, reply_id: str) -> tuple[Turn, Draft] | None:
        for turn in self.turns:
            for draft in turn.drafts:
                if draft.reply_id == reply_id:
                    return turn, draft
        return None


def draw_thread(thread: Thread, lang: Lang) -> str:
    if not thread.turns:
        return (
            f'<div class="n-empty">{WHEEL}<h3>{safe(say(lang, "empty_title"))}</h3>'
            f"<p>{safe(say(lang, 'empty_words'))}</p></div>"
        )
    return "".join(_turn(turn, lang) for turn in thread.turns)


def draw_live(question: str, texts: Sequence[str], lang: Lang) -> str:
    """The turn that is being answered."""
    inner = "".join(
        f'<div class="n-answer n-growing">{_heading(number, len(texts), lang)}'
        f'<div class="n-text">{safe(text)}<span class="n-caret"></span></div></div>'
        if text
        else f'<div class="n-answer n-growing">{_heading(number, len(texts), lang)}'
        f'<div class="n-text n-muted">{safe(say(lang, "thinking"))}<span class="n-caret"></span></div></div>'
        for number, text in enumerate(texts, 1)
    )
    return f'<div class="n-turn">{_question(question)}<div class="n-drafts n-of-{len(texts)}">{inner}</div></div>'


def _question(question: str) -> str:
    return f'<div class="n-question"><div class="n-bubble">{safe(question)}</div></div>'


def _heading(number: int, total: int, lang: Lang, turn: Turn | None = None, picked: bool = False) -> str:
    """Which of several drafts this is, whether it was picked, and who gave it."""
    if total == 1:
        return ""
    chip = f' <span class="n-chip n-good">{CHECK} {safe(say(lang, "picked"))}</span>' if picked else ""
    release = _release(turn) if turn is not None else ""
    handle = ' draggable="true"' if turn is not None and turn.can_be_ordered else ""
    return f'<div class="n-label"{handle}>{safe(say(lang, "draft", number=number))}{chip}{release}</div>'


def _release(turn: Turn) -> str:
    return f'<span class="n-release" title="{safe(turn.position)}">{safe(turn.release)}</span>'


def _turn(turn: Turn, lang: Lang) -> str:
    if turn.trouble is not None:
        key, message = turn.trouble
        words = say(lang, key, message=message) if message else say(lang, key)
        body = f'<div class="n-trouble" role="alert">{safe(words)}</div>'
        return f'<div class="n-turn">{_question(turn.question)}{body}</div>'
    someone_picked = any(draft.picked for draft in turn.drafts)
    drafts = "".join(_draft(turn, draft, number, someone_picked, lang) for number, draft in enumerate(turn.drafts, 1))
    # Of several drafts they are the same, and stand below them.
    below = _sources(turn, lang) if len(turn.drafts) > 1 else ""
    order = _order(lang) if turn.can_be_ordered else ""
    whole = f'<div class="n-drafts n-of-{len(turn.drafts)}">{drafts}</div>{order}{below}'
    return f'<div class="n-turn" data-turn="{turn.id}">{_question(turn.question)}{whole}</div>'


def _order(lang: Lang) -> str:
    """What goes with the places that the page's script gives the drafts."""
    return (
        f'<div class="n-order"><span class="n-muted">{safe(say(lang, "order_hint"))}</span>'
        f'<button type="button" class="n-primary" data-act="ranking" disabled>{safe(say(lang, "record_order"))}</button>'
        f'<button type="button" class="n-plain" data-act="clear-order">{safe(say(lang, "clear_order"))}</button></div>'
    )


def _sources(turn: Turn, lang: Lang) -> str:
    """On this machine's clock."""
    chosen = turn.chosen
    return draw_sources(turn.sources, chosen.reply_id, lang, datetime.now().astimezone()) if chosen is not None else ""


def _draft(turn: Turn, draft: Draft, number: int, someone_picked: bool, lang: Lang) -> str:
    several = len(turn.drafts) > 1
    place = f' data-place="{draft.place}"' if draft.place is not None else ""
    classes = "n-answer" + (" n-picked" if draft.picked else " n-passed" if someone_picked else "")
    parts = [
        f'<div class="{classes}" data-reply="{safe(draft.reply_id)}"{place}>',
        _heading(number, len(turn.drafts), lang, turn, draft.picked),
    ]
    parts.append(f'<div class="n-text">{safe(draft.text.strip())}</div>')
    if draft.correction is not None:
        parts.append(
            f'<div class="n-own"><div class="n-label">{PEN} {safe(say(lang, "corrected"))}</div>'
            f'<div class="n-text">{safe(draft.correction)}</div></div>'
        )
    parts += [
        f'<div class="n-own n-quiet"><div class="n-text">{BUBBLE} {safe(words)}</div></div>' for words in draft.comments
    ]
    if not several:
        parts.append(_sources(turn, lang))
    parts.append(f'<div class="n-acts">{_acts(draft, several, someone_picked, turn.can_be_ordered, lang)}')
    parts.append(f"{'' if several else _release(turn)}</div>")
    parts.append(_form(draft, "correction", draft.correction or draft.text.strip(), lang))
    parts.append(_form(draft, "comment", "", lang))
    parts += [
        f'<div class="n-note">{CHECK} {_recorded(key, position, lang)}</div>' for key, position in draft.notes[-3:]
    ]
    parts.append("</div>")
    return "".join(parts)


def _recorded(key: str, position: str, lang: Lang) -> str:
    mark = "\0"
    before, _, after = say(lang, key, position=mark).partition(mark)
    return f"{safe(before)}<code>{safe(position)}</code>{safe(after)}"


def _acts(draft: Draft, several: bool, someone_picked: bool, in_order: bool, lang: Lang) -> str:
    def button(act: str, words: str, icon: str, label: bool = False, on: bool = False) -> str:
        shown = f"<span>{safe(words)}</span>" if label else ""
        pressed = f' aria-pressed="{"true" if on else "false"}"' if act in ("up", "down") else ""
        state = " n-on" if on else ""
        return (
            f'<button type="button" class="n-act{state}" data-act="{act}" title="{safe(words)}"'
            f' aria-label="{safe(words)}"{pressed}>{icon}{shown}</button>'
        )

    found = []
    if several and not someone_picked:
        found.append(button("pick", say(lang, "pick"), CHECK, label=True))
    if in_order:
        found.append(button("place", say(lang, "place"), ORDER))
    found.append(button("up", say(lang, "up"), THUMB_UP, on=draft.rating == "up"))
    found.append(button("down", say(lang, "down"), THUMB_DOWN, on=draft.rating == "down"))
    found.append(button("open-correction", say(lang, "better"), PEN, label=True))
    found.append(button("open-comment", say(lang, "comment"), BUBBLE, label=not several))
    return "".join(found)


def _form(draft: Draft, kind: str, text: str, lang: Lang) -> str:
    placeholder = say(lang, "correct_placeholder" if kind == "correction" else "comment_placeholder")
    save = say(lang, "save_correction" if kind == "correction" else "save_comment")
    rows = min(10, max(2, text.count("\n") + len(text) // 70 + 1))
    return (
        f'<div class="n-form" data-form="{kind}" hidden>'
        f'<textarea rows="{rows}" placeholder="{safe(placeholder)}" aria-label="{safe(placeholder)}">{safe(text)}</textarea>'
        f'<div class="n-form-acts"><button type="button" class="n-primary" data-act="{kind}">{safe(save)}</button>'
        f'<button type="button" class="n-plain" data-act="close">{safe(say(lang, "cancel"))}</button></div></div>'
    )
