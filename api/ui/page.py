"""The page: five tabs, chat, the loop, documents, examples and the queue, over the door. Everything that a person says lives in
their session's memory only."""

import secrets
import time
from collections.abc import Callable, Generator
from typing import Any

import gradio as gr
from msgspec import Struct, field

from api.client import BROKE_OFF, BUSY, Answer, Door, Json, NotNow, Piece, Refused
from api.ui.board import clock, draw_board, draw_mine
from api.ui.documents import LISTED, Reading, draw_passages, draw_shelf, open_document, read_on
from api.ui.dropped import Dropped
from api.ui.entry import VISITOR, Visitor
from api.ui.examples import (
    Room,
    bring,
    check_bringable,
    decide,
    draw_file,
    draw_rows,
    draw_sieve,
    draw_story,
    enter,
    look_for,
    look_on,
    look_through,
    undo,
)
from api.ui.icons import WHEEL
from api.ui.markup import safe
from api.ui.queue import Work, draw_item, draw_line
from api.ui.sets import ask_why, draw_map, draw_sets, enter_sets, look_on_in_set
from api.ui.style import (
    BOARD_SCRIPT,
    FONTS,
    HEAD_SCRIPT,
    LINE_SCRIPT,
    LIVE_SCRIPT,
    MONO,
    QUEUE_SCRIPT,
    ROOM_SCRIPT,
    SHELF_SCRIPT,
    THREAD_SCRIPT,
)
from api.ui.thread import Thread, Turn, draw_live, draw_thread
from api.ui.words import Lang, domain_choices, known, language_of, say
from streams.errors import Invalid, Unavailable

DRAFTS = [1, 2, 4, 6, 9]  # of an answer; 4 to 9 are what a ranking is made of
REFRESH_S = 2.0
SLOWEST_REFRESH_S = 10.0  # of a tab in which nothing changes
SLOWER = 1.5  # times as long after each time that nothing had changed
DRAW_EVERY_S = 0.06  # how often a growing answer is drawn
ROUNDS_READ = 20
COMPARISONS_READ = 5
CORRECTIONS_SHOWN = 50
EVENTS_READ = 300
EVENTS_KEPT = 120
LONGEST_QUESTION = 8000
# Nothing of the page is an interface for programs; the door is.
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class Feed(Struct):
    """The last events of a domain, and where to go on from."""

    domain: str = ""
    next: str | None = None
    events: list[Json] = field(default_factory=list)


class Seen(Struct):
    """What the browser shows already: what has not changed is not sent again. `every_s`: how often it looks; None: the person has
    just done something, so that it looks often again."""

    drawn: dict[str, str] = field(default_factory=dict)
    feed: Feed = field(default_factory=Feed)
    every_s: float | None = REFRESH_S

    def update(self, name: str, html: str) -> Any:
        if self.drawn.get(name) == html:
            return gr.skip()
        self.drawn[name] = html
        return html

    def pace(self, shown: dict[str, str]) -> Any:
        """How often to look from now on, given what was shown before this look."""
        before = self.every_s
        quiet = self.drawn == shown and before is not None
        self.every_s = min(SLOWEST_REFRESH_S, before * SLOWER) if quiet and before is not None else REFRESH_S
        return gr.skip() if self.every_s == before else self.every_s


class Page:
    """The handlers of one page process. What belongs to one browser comes in as arguments and goes out again; who visits comes
    with the request, and what is asked of the door is asked with their key."""

    def __init__(self, door: Door, dropped: Dropped) -> None:
        self._door = door
        self._dropped = dropped

    # chat

    def ask(
        self,
        question: str,
        thread: Thread,
        domain: str | None,
        person: str,
        drafts: int,
        lang: Lang,
        request: gr.Request,
    ) -> Generator[tuple[Any, ...]]:
        """Yields (thread drawn, growing answer drawn, question box, thread, trouble line)."""
        visitor = visitor_of(request)
        question, person = question.strip()[:LONGEST_QUESTION], speaker(visitor, person)
        missing = "err_empty" if not question else "err_person" if not person else "err_domain" if not domain else None
        if missing is not None or domain is None:
            yield gr.skip(), "", gr.skip(), thread, _trouble(say(lang, missing or "err_domain"))
            return
        if (thread.domain, thread.person) != (domain, person):
            thread = Thread(domain=domain, person=person)
        thread.turns = [turn for turn in thread.turns if turn.trouble is None]
        texts = [""] * drafts
        # The empty thread's words make room for the first question.
        standing = draw_thread(thread, lang) if thread.turns else ""
        yield standing, draw_live(question, texts, lang), "", thread, ""
        drawn_at = time.monotonic()
        try:
            for said in self._acting(visitor).chat(
                domain,
                thread.messages(question),
                person=person,
                conversation_id=thread.conversation_id,
                drafts=drafts,
            ):
                match said:
                    case Piece():
                        texts[said.index] += said.text
                        if time.monotonic() - drawn_at >= DRAW_EVERY_S:
                            yield gr.skip(), draw_live(question, texts, lang), gr.skip(), thread, gr.skip()
                            drawn_at = time.monotonic()
                    case Answer():
                        thread.answered(question, texts, said)
        except (Invalid, Unavailable) as error:
            thread.turns.append(Turn(question, [], trouble=trouble_of(error)))
            yield draw_thread(thread, lang), "", question, thread, ""
            return
        yield draw_thread(thread, lang), "", gr.skip(), thread, ""

    def react(
        self, thread: Thread, lang: Lang, seen: Seen, request: gr.Request, event: gr.EventData
    ) -> tuple[Any, ...]:
        """What a person thinks of an answer: (thread drawn, thread, their corrections drawn, trouble line, what is shown)."""
        door = self._acting(visitor_of(request))
        said: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        act, text = str(said.get("act")), str(said.get("text") or "")
        found = thread.find(str(said.get("reply")))
        if found is None:
            return gr.skip(), thread, gr.skip(), gr.skip(), seen
        turn, draft = found
        memory = str(said.get("memory") or "")
        order = [str(reply_id) for reply_id in said.get("order") or ()]
        if act == "source":
            return self._open_source(door, thread, turn, draft.reply_id, memory, lang, seen)
        what: dict[str, Any]
        match act:
            case "up" | "down":
                what, note = {"rating": act}, f"recorded_rating_{act}"
            case "pick":
                what, note = {"pick": True}, "recorded_pick"
            case "ranking" if turn.can_be_ordered:
                what, note = {"ranking": [[reply_id] for reply_id in order]}, "recorded_ranking"
            case "misfit" if turn.sources.has(memory):
                what, note = {"misfit": memory}, "recorded_misfit"
            case "correction" | "comment":
                what, note = {act: text.strip()}, f"recorded_{act}"
                if not text.strip():
                    return gr.skip(), thread, gr.skip(), _trouble(say(lang, "err_empty")), seen
                if act == "correction" and text.strip() == draft.text.strip():
                    return gr.skip(), thread, gr.skip(), _trouble(say(lang, "err_same")), seen
            case _:
                return gr.skip(), thread, gr.skip(), gr.skip(), seen
        try:
            given = door.feedback(
                draft.reply_id, person=thread.person, idempotency_key=f"page-{secrets.token_hex(12)}", **what
            )
        except (Invalid, Unavailable) as error:
            return gr.skip(), thread, gr.skip(), _trouble(words_of(error, lang)), seen
        match act:
            case "up" | "down":
                draft.rating = act
            case "pick":
                for other in turn.drafts:
                    other.picked = other is draft
            case "ranking":
                turn.put_in_order(order)
            case "correction":
                draft.correction = text.strip()
            case "comment":
                draft.comments.append(text.strip())
            case "misfit":
                turn.sources.rejected.add(memory)
        draft.notes.append((note, given.position))
        mine = self._mine(door, thread, thread.person, lang, seen) if act == "correction" else gr.skip()
        seen.every_s = None
        return draw_thread(thread, lang), thread, mine, "", seen

    def _open_source(
        self, door: Door, thread: Thread, turn: Turn, reply_id: str, memory: str, lang: Lang, seen: Seen
    ) -> tuple[Any, ...]:
        """Show the words of a source, or hide them. They are asked for anew each time: some may be gone."""
        sources = turn.sources
        if sources.reading == memory or not sources.has(memory):
            sources.reading = None
        else:
            try:
                sources.opened = {str(one["id"]): one for one in door.recalled(reply_id)["data"]}
            except (Invalid, Unavailable) as error:
                return gr.skip(), thread, gr.skip(), _trouble(words_of(error, lang)), seen
            sources.reading = memory
        return draw_thread(thread, lang), thread, gr.skip(), "", seen

    def begin_again(self, lang: Lang) -> tuple[Any, ...]:
        thread = Thread()
        return draw_thread(thread, lang), "", thread, ""

    def begin_again_as(self, thread: Thread, person: str, lang: Lang, request: gr.Request) -> tuple[Any, ...]:
        """Another person begins their own conversation."""
        if not thread.turns or thread.person == speaker(visitor_of(request), person):
            return gr.skip(), gr.skip(), thread, gr.skip()
        return self.begin_again(lang)

    # the loop

    def roll_back(self, domain: str | None, lang: Lang, request: gr.Request, event: gr.EventData) -> str:
        said: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        if said.get("act") != "rollback" or not isinstance(said.get("to"), int) or not domain:
            return ""
        try:
            answer = self._acting(visitor_of(request)).roll_back(domain, said["to"])
        except (Invalid, Unavailable) as error:
            return _trouble(words_of(error, lang))
        words = say(lang, "rolled", release=said["to"], position=answer.get("position"))
        return f'<p class="n-note">{safe(words)}</p>'

    # documents

    def browse(
        self, domain: str | None, reading: Reading, lang: Lang, seen: Seen, request: gr.Request, event: gr.EventData
    ) -> tuple[Any, ...]:
        """Open a document, or read on in it: (passages drawn, what is read, what is shown)."""
        said: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        door = self._acting(visitor_of(request))
        try:
            match said.get("act"):
                case "document" if domain:
                    reading = open_document(door, domain, str(said.get("id")))
                case "more" if reading.next is not None and reading.domain == domain:
                    read_on(door, reading)
        except (Invalid, Unavailable) as error:
            return seen.update("passages", _trouble(words_of(error, lang))), reading, seen
        seen.every_s = None
        return seen.update("passages", draw_passages(reading, lang)), reading, seen

    # examples

    def visit_room(
        self, domain: str | None, room: Room, lang: Lang, seen: Seen, request: gr.Request, event: gr.EventData
    ) -> tuple[Any, ...]:
        """What a person does in the data room: (filters, rows, story, file and sets drawn, the room, what is shown)."""
        said: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        visitor = visitor_of(request)
        if domain and room.domain == domain:
            room.trouble = ""
            try:
                room = self._in_room(self._acting(visitor), visitor, room, said)
            except (Invalid, Unavailable) as error:
                room.trouble = words_of(error, lang)
        seen.every_s = None
        return (*self._drawn_room(room, visitor, lang, seen), room, seen)

    def _in_room(self, door: Door, visitor: Visitor, room: Room, said: dict[str, Any]) -> Room:
        """Raises Invalid, Refused, Unavailable."""
        id_ = str(said.get("id") or "")
        match said.get("act"):
            case "look-for" if isinstance(said.get("wanted"), dict):
                wanted = {str(name): str(words).strip() for name, words in said["wanted"].items()}
                return look_for(door, room, wanted)
            case "more" if room.next is not None:
                look_on(door, room)
            case "story":
                room.story = door.example(room.domain, id_)
            case "sets" if isinstance(said.get("wanted"), dict):
                wanted = {str(name): str(chosen) for name, chosen in said["wanted"].items()}
                room.sets = enter_sets(door, room.domain, wanted, room.sets)
            case "more-lines" if room.sets.next is not None:
                look_on_in_set(door, room.sets)
            case "map":
                draw_map(door, room.sets)
            case "why":
                ask_why(door, room.sets, id_)
                if room.sets.why is not None and room.sets.why["kind"] == "example":
                    room.story = door.example(room.domain, id_)
            case "decide" if isinstance(said.get("ids"), list):
                return decide(door, room, str(said.get("verb")), [str(one) for one in said["ids"]], said.get("count"))
            case "undo":
                return undo(door, room, id_)
            case "look" | "bring" as act:
                if said.get("trouble"):
                    raise Invalid(str(said["trouble"]))
                path = self._dropped.of(visitor.session)
                if path is None:
                    room.file = None
                    raise Invalid("the file is not here any more; drop it again")
                languages = list(door.domain(room.domain)["languages"]) if said.get("clean") else None
                if act == "look":
                    room.file = None
                    room.file = look_through(path, languages)
                    return room
                check_bringable(room, bool(said.get("skip")))
                brought = bring(door, room, path, bool(said.get("skip")), languages, str(said.get("person") or ""))
                self._dropped.put_away(visitor.session)
                return brought
            case "put-away":
                room.file = None
                self._dropped.put_away(visitor.session)
        return room

    def _drawn_room(self, room: Room, visitor: Visitor, lang: Lang, seen: Seen) -> tuple[Any, ...]:
        return (
            seen.update("sieve", draw_sieve(room, lang)),
            seen.update("rows", draw_rows(room, lang)),
            seen.update("tale", draw_story(room, lang)),
            seen.update("file", draw_file(room, lang, visitor.names_persons)),
            seen.update("sets", draw_sets(room.sets, lang)),
        )

    # the queue

    def judge(self, work: Work, lang: Lang, seen: Seen, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        """What an annotator says of what they hold: (what was recorded, the next one drawn, what they hold, what is shown)."""
        said: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        door = self._acting(visitor_of(request))
        try:
            recorded = work.judge(door, said)
            note = ""
            if recorded is not None:
                note = f'<p class="n-note">{safe(say(lang, recorded[0], position=recorded[1]))}</p>'
            work.hold(door, work.domain, work.person)
        except (Invalid, Unavailable) as error:
            if isinstance(error, Refused) and error.status == 409:
                work.item = None  # somebody else was quicker
            return _trouble(words_of(error, lang)), gr.skip(), work, seen
        seen.every_s = None
        return note, seen.update("item", draw_item(work.item, lang, work.last)), work, seen

    def choose(self, event: gr.EventData) -> Any:
        """Another domain, whose queue is to be shown."""
        said: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        return gr.update(value=str(said.get("domain")))

    # what goes on by itself

    def refresh(
        self,
        tab: str,
        domain: str | None,
        person: str,
        thread: Thread,
        reading: Reading,
        room: Room,
        work: Work,
        lang: Lang,
        seen: Seen,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """(head, domain choice, corrections, board, documents, passages, the five parts of the data room, the room, how many wait
        in the queue, what is held drawn, what is held, what is shown, seconds until the next look). A door that is away shows in
        the head; the rest stays."""
        before = dict(seen.drawn)
        visitor = visitor_of(request)
        door = self._acting(visitor)
        tab = "queue" if visitor.only_annotates else tab
        try:
            listed = door.queues() if visitor.only_annotates else door.domains()
            rows = {str(row["domain"]): row for row in listed}
            choices = domain_choices(rows.values())
            names = [name for _, name in choices]
            chosen = domain if domain in names else (names[0] if names else None)
            status = None if chosen is None else door.status(chosen) if visitor.sees_the_loop else rows[chosen]
            picked: Any = gr.skip()
            if seen.drawn.get("domains") != repr((choices, chosen)):
                seen.drawn["domains"] = repr((choices, chosen))
                picked = gr.update(choices=choices, value=chosen)
            mine: Any = gr.skip()
            board: Any = gr.skip()
            shelf: Any = gr.skip()
            passages: Any = gr.skip()
            parts: tuple[Any, ...] = (gr.skip(),) * 5
            line: Any = gr.skip()
            item: Any = gr.skip()
            if tab == "chat":
                mine = self._mine(door, thread, speaker(visitor, person), lang, seen)
            elif tab == "documents" and chosen and visitor.sees_the_loop:
                if reading.domain != chosen:
                    reading = Reading()  # another domain's
                shelf = seen.update("shelf", draw_shelf(door.first_documents(chosen, LISTED), reading, lang, _minute))
                passages = seen.update("passages", draw_passages(reading, lang))
            elif tab == "examples" and chosen and visitor.sees_the_loop:
                if room.domain != chosen:
                    room = enter(door, chosen, {})
                    room.sets = enter_sets(door, chosen, {})
                parts = self._drawn_room(room, visitor, lang, seen)
            elif tab == "queue" and chosen and visitor.annotates:
                work.hold(door, chosen, speaker(visitor, person) or None if visitor.names_persons else None)
                line = seen.update("line", draw_line(choices, chosen, door.queue(chosen), lang))
                item = seen.update("item", draw_item(work.item, lang, work.last))
            elif chosen and status is not None and visitor.sees_the_loop:
                board = seen.update("board", self._board(visitor, chosen, status, lang, seen))
            elif not chosen:
                board = seen.update("board", _trouble(say(lang, "err_domain")))
                item = seen.update("item", _trouble(say(lang, "err_domain")))
        except (Invalid, Unavailable) as error:
            board = gr.skip() if seen.drawn.get("board") else seen.update("board", _trouble(words_of(error, lang)))
            head = seen.update("head", draw_head(lang, None, False, visitor))
            skipped = gr.skip()
            return head, skipped, skipped, board, *(skipped,) * 7, room, skipped, skipped, work, seen, seen.pace(before)
        head = seen.update("head", draw_head(lang, status, True, visitor))
        return head, picked, mine, board, shelf, passages, *parts, room, line, item, work, seen, seen.pace(before)

    def _acting(self, visitor: Visitor) -> Door:
        return self._door.acting(visitor.token)

    def _mine(self, door: Door, thread: Thread, person: str, lang: Lang, seen: Seen) -> Any:
        if not person:
            return gr.skip()
        questions = {draft.reply_id: turn.question for turn in thread.turns for draft in turn.drafts}
        try:
            mine = door.corrections(person, CORRECTIONS_SHOWN)
        except Refused as error:
            if error.status != 404:
                raise
            mine = {"data": [], "total": 0}  # somebody new, who has said nothing yet
        return seen.update("mine", draw_mine(mine["data"], mine["total"], questions, lang))

    def _board(self, visitor: Visitor, domain: str, status: Json, lang: Lang, seen: Seen) -> str:
        door = self._acting(visitor)
        rounds = door.rounds(domain, ROUNDS_READ)
        releases = door.releases(domain)
        feed = seen.feed
        if feed.domain != domain or feed.next is None:
            feed = seen.feed = Feed(domain)
        page = door.events(domain=domain, after=feed.next, limit=EVENTS_READ)
        kept = [shown for shown in page["data"] if shown["event"].get("type") != "noria.order_progressed"]
        feed.events = (feed.events + kept)[-EVENTS_KEPT:]
        feed.next = page["next"]
        compared = door.comparisons(domain, COMPARISONS_READ)
        bases = door.base_comparisons(domain, COMPARISONS_READ)
        return draw_board(status, rounds, releases, compared, bases, feed.events, lang, visitor.rolls_back)


def _minute(text: Any) -> str:
    return clock(text, with_day=True)


def visitor_of(request: gr.Request) -> Visitor:
    """Who asks; nobody comes here without a session."""
    asked: Any = request.request
    visitor: Visitor = asked.scope[VISITOR]
    return visitor


def speaker(visitor: Visitor, named: str) -> str:
    """Whom a visitor speaks as: whoever they name, where their key may name anybody."""
    return named.strip() if visitor.names_persons else visitor.person


def words_of(error: Invalid | Unavailable, lang: Lang) -> str:
    """An error of the door as a friendly line."""
    key, message = trouble_of(error)
    return say(lang, key, message=message) if message else say(lang, key)


def trouble_of(error: Invalid | Unavailable) -> tuple[str, str]:
    """The key of the words for an error, and the door's own words where they say more."""
    match error:
        case NotNow(code="no_engine"):
            return "err_engine", ""
        case NotNow(code=code) if code == BROKE_OFF:
            return "err_broke", ""
        case NotNow(code=code) if code in BUSY:
            return "err_queue", ""
        case Unavailable():
            return "err_down", ""
        case Refused(status=401):
            return "err_session", ""
        case Refused(code=str(code)) if known(f"problem_{code}"):
            return f"problem_{code}", str(error)
        case Refused(status=403):
            return "err_key", ""
        case _:
            return "err_said", str(error)


def draw_head(lang: Lang, status: Json | None, connected: bool, visitor: Visitor) -> str:
    live = status.get("live_release") if status is not None else None
    if not connected:
        words, state = say(lang, "door_down"), "n-off"
    elif live is None:
        words, state = say(lang, "no_release"), ""
    else:
        words, state = say(lang, "live", release=live), "n-on"
    who = say(lang, "visitor", name=visitor.name, role=visitor.role)
    turning = " n-turns" if status is not None and status.get("round") else ""
    # Gradio goes on showing the button of a tab that is made invisible after it was drawn: the style hides that of the chat.
    turning += " n-annotates" if visitor.only_annotates else ""
    buttons = "".join(
        f'<button type="button" data-lang="{tag}" aria-pressed="{"true" if tag == lang else "false"}">{name}</button>'
        for tag, name in (("en", "English"), ("zh", "中文"))
    )
    return (
        f'<div class="n-head{turning}">{WHEEL}<div><h1>{safe(say(lang, "title"))}</h1>'
        f'<p>{safe(say(lang, "tagline"))}</p></div><div class="n-right"><span class="n-live {state}">{safe(words)}</span>'
        f'<span class="n-lang" role="group" aria-label="language">{buttons}</span>'
        f'<form class="n-out" method="post" action="/logout"><span title="{safe(who)}">{safe(visitor.name)}</span>'
        f'<button class="n-plain">{safe(say(lang, "logout"))}</button></form></div></div>'
    )


def _trouble(words: str) -> str:
    return f'<p class="n-trouble" role="alert">{safe(words)}</p>'


def theme() -> Any:
    """A calm theme of the system's own fonts."""
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=FONTS,
        font_mono=MONO,
    ).set(
        body_background_fill="var(--n-ground)",
        body_background_fill_dark="var(--n-ground)",
        button_primary_background_fill="var(--n-accent)",
        button_primary_background_fill_hover="var(--n-accent-ink)",
        button_primary_background_fill_dark="var(--n-accent)",
        button_primary_background_fill_hover_dark="var(--n-accent-ink)",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#062b28",
        block_label_text_size="13px",
        input_background_fill="var(--n-card)",
        input_background_fill_dark="var(--n-ground)",
    )


def build(door: Door, dropped: Dropped) -> Any:
    """The page's blocks, not yet served."""
    page = Page(door, dropped)
    with gr.Blocks(title="Noria", analytics_enabled=False, fill_width=True) as blocks:
        lang = gr.State("en")
        tab = gr.State("chat")
        thread = gr.State(Thread())
        seen = gr.State(Seen())
        reading = gr.State(Reading())
        room = gr.State(Room())
        work = gr.State(Work())
        remembered = gr.BrowserState("", storage_key="noria-person")
        head = gr.HTML(js_on_load=HEAD_SCRIPT, elem_id="n-head")
        with gr.Tabs(elem_id="n-tabs") as tabs:
            with gr.Tab(say("en", "tab_chat"), id="chat") as chat_tab, gr.Row():
                with gr.Column(scale=7, min_width=460):
                    with gr.Column(elem_id="n-talk"):
                        talk = gr.HTML(js_on_load=THREAD_SCRIPT, elem_id="n-thread")
                        growing = gr.HTML(js_on_load=LIVE_SCRIPT, elem_id="n-growing")
                    with gr.Row(elem_id="n-composer"):
                        question = gr.Textbox(
                            show_label=False, container=False, lines=1, max_lines=6, scale=8, elem_id="n-question"
                        )
                        send = gr.Button(variant="primary", scale=0, elem_id="n-send")
                    trouble = gr.HTML(js_on_load="", elem_id="n-trouble")
                with gr.Column(scale=3, min_width=280, elem_id="n-side"):
                    with gr.Column(elem_id="n-who"):
                        domain = gr.Dropdown(
                            choices=[], label=say("en", "domain"), interactive=True, elem_id="n-domain"
                        )
                        person = gr.Textbox(label=say("en", "person"), max_lines=1, max_length=128, elem_id="n-person")
                        many = gr.Radio(
                            choices=DRAFTS, value=1, label=say("en", "many_drafts"), interactive=True, elem_id="n-many"
                        )
                        new = gr.Button(variant="secondary", size="sm", elem_id="n-new")
                    mine = gr.HTML(js_on_load="", elem_id="n-mine")
            with gr.Tab(say("en", "tab_loop"), id="loop", visible=False) as loop_tab:
                told = gr.HTML(js_on_load="", elem_id="n-told")
                board = gr.HTML(js_on_load=BOARD_SCRIPT, elem_id="n-loop")
            with gr.Tab(say("en", "tab_documents"), id="documents", visible=False) as documents_tab, gr.Row():
                with gr.Column(scale=3, min_width=280):
                    shelf = gr.HTML(js_on_load=SHELF_SCRIPT, elem_id="n-documents")
                with gr.Column(scale=7, min_width=300):
                    passages = gr.HTML(js_on_load=SHELF_SCRIPT, elem_id="n-reading")
            with gr.Tab(say("en", "tab_queue"), id="queue", visible=False) as queue_tab:
                line = gr.HTML(js_on_load=LINE_SCRIPT, elem_id="n-line")
                judged = gr.HTML(js_on_load="", elem_id="n-judged")
                item = gr.HTML(js_on_load=QUEUE_SCRIPT, elem_id="n-item")

            with gr.Tab(say("en", "tab_examples"), id="examples", visible=False) as examples_tab:
                sieve = gr.HTML(js_on_load=ROOM_SCRIPT, elem_id="n-sieve")
                with gr.Row():
                    with gr.Column(scale=6, min_width=300):
                        rows = gr.HTML(js_on_load=ROOM_SCRIPT, elem_id="n-rows")
                    with gr.Column(scale=4, min_width=300):
                        tale = gr.HTML(js_on_load=ROOM_SCRIPT, elem_id="n-tale")
                        file = gr.HTML(js_on_load=ROOM_SCRIPT, elem_id="n-file")
                sets = gr.HTML(js_on_load=ROOM_SCRIPT, elem_id="n-sets")

        tabbed = [chat_tab, loop_tab, documents_tab, examples_tab, queue_tab]
        spoken = [*tabbed, domain, person, many, new, question, send, talk]

        def speak(tongue: Lang, current: Thread) -> list[Any]:
            """Everything that stands on the page in words, in `tongue`."""
            return [
                gr.update(label=say(tongue, "tab_chat")),
                gr.update(label=say(tongue, "tab_loop")),
                gr.update(label=say(tongue, "tab_documents")),
                gr.update(label=say(tongue, "tab_examples")),
                gr.update(label=say(tongue, "tab_queue")),
                gr.update(label=say(tongue, "domain")),
                gr.update(label=say(tongue, "person"), info=say(tongue, "person_info")),
                gr.update(label=say(tongue, "many_drafts")),
                gr.update(value=say(tongue, "new")),
                gr.update(placeholder=say(tongue, "ask_placeholder")),
                gr.update(value=say(tongue, "send")),
                draw_thread(current, tongue),
            ]

        def arrive(known: str, current: Thread, request: gr.Request) -> list[Any]:
            """Nothing that `refresh` draws: whichever of two answers comes last would stand, and what the other drew be taken for
            drawn."""
            asked = dict(request.query_params)
            tongue = language_of(asked.get("lang"), request.headers.get("accept-language"))
            visitor = visitor_of(request)
            named = (asked.get("person") or known or f"guest-{secrets.token_hex(3)}")[:128]
            words = speak(tongue, current)
            words[spoken.index(person)] = gr.update(
                value=speaker(visitor, named),
                label=say(tongue, "person"),
                info=say(tongue, "person_info"),
                visible=visitor.names_persons,
            )
            for found, name, sees in (
                (loop_tab, "tab_loop", visitor.sees_the_loop),
                (documents_tab, "tab_documents", visitor.sees_the_loop),
                (examples_tab, "tab_examples", visitor.sees_the_loop),
                (queue_tab, "tab_queue", visitor.annotates),
            ):
                words[spoken.index(found)] = gr.update(label=say(tongue, name), visible=sees)
            return [tongue, gr.update(selected="queue") if visitor.only_annotates else gr.skip(), *words]

        def switch(current: Thread, shown: Seen, event: gr.EventData) -> list[Any]:
            said = event._data if isinstance(event._data, dict) else {}
            tongue = language_of(str(said.get("lang") or ""), None)
            shown.drawn = {"domains": shown.drawn.get("domains", "")}
            return [tongue, shown, "", "", "", *speak(tongue, current)]

        timer = gr.Timer(REFRESH_S)
        refreshed = {
            "fn": page.refresh,
            "inputs": [tab, domain, person, thread, reading, room, work, lang, seen],
            "outputs": [
                head,
                domain,
                mine,
                board,
                shelf,
                passages,
                sieve,
                rows,
                tale,
                file,
                sets,
                room,
                line,
                item,
                work,
                seen,
                timer,
            ],
            **HIDDEN,
        }
        listen: Callable[..., Any] = blocks.load
        listen(arrive, [remembered, thread], [lang, tabs, *spoken], **HIDDEN).then(**refreshed)
        head.said(switch, [thread, seen], [lang, seen, trouble, told, judged, *spoken], **HIDDEN).then(**refreshed)
        timer.tick(**refreshed, concurrency_limit=16)
        chat_tab.select(lambda: "chat", None, tab, **HIDDEN).then(**refreshed)
        loop_tab.select(lambda: "loop", None, tab, **HIDDEN).then(**refreshed)
        documents_tab.select(lambda: "documents", None, tab, **HIDDEN).then(**refreshed)
        queue_tab.select(lambda: "queue", None, tab, **HIDDEN).then(**refreshed)
        line.said(page.choose, None, domain, **HIDDEN).then(**refreshed)
        item.said(page.judge, [work, lang, seen], [judged, item, work, seen], **HIDDEN).then(**refreshed)
        for shown in (shelf, passages):
            shown.said(page.browse, [domain, reading, lang, seen], [passages, reading, seen], **HIDDEN).then(
                **refreshed
            )
        examples_tab.select(lambda: "examples", None, tab, **HIDDEN).then(**refreshed)
        for shown in (sieve, rows, tale, file, sets):
            shown.said(
                page.visit_room,
                [domain, room, lang, seen],
                [sieve, rows, tale, file, sets, room, seen],
                concurrency_limit=8,
                **HIDDEN,
            )
        domain.input(page.begin_again, [lang], [talk, growing, thread, trouble], **HIDDEN).then(**refreshed)
        person.change(lambda who: who.strip(), person, remembered, **HIDDEN)
        gr.on(
            [person.submit, person.blur],
            page.begin_again_as,
            [thread, person, lang],
            [talk, growing, thread, trouble],
            **HIDDEN,
        ).then(**refreshed)
        gr.on(
            [question.submit, send.click],
            page.ask,
            [question, thread, domain, person, many, lang],
            [talk, growing, question, thread, trouble],
            concurrency_limit=32,
            **HIDDEN,
        )
        talk.said(
            page.react, [thread, lang, seen], [talk, thread, mine, trouble, seen], concurrency_limit=32, **HIDDEN
        ).then(**refreshed)
        new.click(page.begin_again, [lang], [talk, growing, thread, trouble], **HIDDEN)
        board.said(page.roll_back, [domain, lang], [told], **HIDDEN).then(**refreshed)
    return blocks
