"""The page in a real browser, over a small real server that speaks the door's contract."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.client import Address, Door
from tests.door_server import (
    ANNOTATORS,
    CHAT_KEY,
    DATA_KEY,
    KEY,
    MADE,
    FakeDoor,
    ago,
    new_candidate,
    new_comparison,
    new_document,
    new_example,
    new_item,
    new_round,
    remembered_things,
    serving,
)
from tests.e2e.browser import chromium, log_in, page_process, profile
from tests.waiting import PATIENCE_S

QUESTION = "How fast may I drive on a street without a centre line?"
ANSWER = "You may drive at 50 km/h on any such street, unless there is a sign."


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeDoor, str]]:
    home = tmp_path_factory.mktemp("page")
    with serving() as door, page_process(door.url, home) as url:
        yield door, url


@pytest.fixture
def door(served: tuple[FakeDoor, str]) -> FakeDoor:
    served[0].reset()
    served[0].answers[QUESTION] = ANSWER
    return served[0]


@pytest.fixture(scope="module")
def visited(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Somebody's browser that has been here: scripts and styles lie in its cache."""
    with profile(browser, tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture
def page(visited: Any, served: tuple[FakeDoor, str], door: FakeDoor) -> Iterator[Any]:
    """A visitor called ana, newly logged in. Whatever the page asks of anybody beyond loopback fails the test."""
    asked: list[str] = []
    found = visited.new_page()
    found.set_viewport_size({"width": 1280, "height": 860})
    found.on("request", lambda request: asked.append(request.url))
    found.set_default_timeout(PATIENCE_S * 1000)
    log_in(found, link_of(served), "?person=ana")
    found.wait_for_selector(".n-live.n-on")
    yield found
    found.close()
    visited.clear_cookies()
    own = ("data:", "blob:", f"{served[1]}/")
    assert [url for url in asked if not url.startswith(own)] == []


def link_of(served: tuple[FakeDoor, str], key: str = KEY) -> str:
    with Door(Address(served[0].url, key)) as door:
        return door.page_link(served[1])


def ask(page: Any, question: str = QUESTION) -> None:
    box = page.locator("#n-question textarea")
    box.fill(question)
    box.press("Enter")


def answer_of(page: Any, question: str = QUESTION) -> Any:
    ask(page, question)
    page.wait_for_selector(".n-acts")
    return page.locator(".n-answer").last


def test_an_answer_is_seen_to_grow_is_corrected_and_the_correction_is_listed(page: Any, door: FakeDoor) -> None:
    door.piece_delay_s = 0.15
    ask(page)
    page.wait_for_function(
        "(whole) => { const t = document.querySelector('.n-growing .n-text:not(.n-muted)');"
        " return t && t.textContent.length > 3 && t.textContent.length < whole; }",
        arg=len(ANSWER),
    )
    page.wait_for_selector(".n-acts")
    answer = page.locator(".n-answer")
    assert answer.locator(".n-text").first.text_content() == ANSWER
    assert answer.locator(".n-release").text_content() == "road-traffic@0"
    assert page.locator(".n-growing").count() == 0

    answer.get_by_role("button", name="Write it better").click()
    box = answer.locator("[data-form=correction] textarea")
    assert box.input_value() == ANSWER
    box.fill("30 km/h. <b>No more</b> {{x}} ${y}")
    answer.get_by_role("button", name="Record the correction").click()
    note = page.locator(".n-note").first.text_content()
    assert re.search(r"Correction recorded at noria\.conversations-0@2", note)
    assert page.locator(".n-own .n-text").text_content() == "30 km/h. <b>No more</b> {{x}} ${y}"
    page.wait_for_selector(".n-mine li")
    assert QUESTION in page.locator(".n-mine li").first.text_content()
    assert "waiting for the next round" in page.locator(".n-mine li").first.text_content()
    assert door.feedback == [
        {"reply_id": door.feedback[0]["reply_id"], "user": "ana", "correction": "30 km/h. <b>No more</b> {{x}} ${y}"}
    ]

    row = door.corrections["ana"][0]
    row |= {"state": "live", "release": 1, "round": 1, "live_at": ago(0), "live_after_s": 221.0}
    page.get_by_text("live in release 1, 3 min 41 s after you made it").wait_for()


def test_the_language_is_switched_on_the_page_and_the_conversation_stays(page: Any, door: FakeDoor) -> None:
    answer_of(page)
    page.get_by_role("button", name="中文").click()
    page.get_by_role("button", name="改写得更好").wait_for()
    assert page.locator(".n-text").first.text_content() == ANSWER
    for words in ("对话", "学习循环"):
        assert page.get_by_role("tab", name=words).count() == 1
    page.get_by_text("你的纠正").wait_for()
    assert page.get_by_role("button", name="提问").is_visible()
    assert "lang=zh" in page.url
    page.get_by_role("button", name="English").click()
    page.get_by_role("button", name="Write it better").wait_for()


def test_the_language_is_that_of_the_address(page: Any, served: tuple[FakeDoor, str], door: FakeDoor) -> None:
    page.goto(f"{served[1]}/?person=ana&lang=zh")
    page.get_by_text("提问，并纠正错误的回答").wait_for()
    page.get_by_role("tab", name="学习循环").click()
    page.get_by_text("已有 31 / 40 条纠正，还差 9 条，或者在星期一 02:00").wait_for()


def test_a_page_that_arrives_late_shows_what_is_live(page: Any, served: tuple[FakeDoor, str]) -> None:
    late: list[Any] = []

    def hold(route: Any) -> None:
        if not late and route.request.post_data_json["trigger_id"] == 0:  # the page itself
            late.append(route)
        else:
            route.continue_()

    page.goto("about:blank")
    page.route("**/gradio_api/queue/join*", hold)
    page.goto(f"{served[1]}/?person=ana")
    page.wait_for_selector(".n-live.n-on")  # the answer to a tab or a tick
    late[0].continue_()
    page.get_by_text("Ask, and set right").first.wait_for()  # that to the arrival
    page.wait_for_selector(".n-live.n-on")


def of_drafts(page: Any, number: int) -> None:
    page.locator("#n-many").get_by_label(str(number), exact=True).check()


def test_four_drafts_are_put_in_order_by_keys_by_button_and_by_dragging(page: Any, door: FakeDoor) -> None:
    of_drafts(page, 4)
    answer_of(page)
    places = "[...document.querySelectorAll('.n-of-4 .n-answer')].map((card) => card.dataset.place || '').join()"
    page.locator(".n-of-4").click(position={"x": 2, "y": 2})  # out of the box that the question was written in
    for key in "31":
        page.keyboard.press(key)
    assert page.evaluate(places) == "2,,1,"
    page.locator("[data-act=place]").nth(3).click()
    assert page.evaluate(places) == "2,,1,3"
    page.locator(".n-answer .n-label").nth(3).drag_to(page.locator(".n-answer").nth(2))
    assert page.evaluate(places) == "3,4,2,1"
    page.get_by_role("button", name="Record the order").click()
    page.wait_for_selector(".n-picked .n-note")
    assert page.evaluate(places) == "3,4,2,1"
    ids = door.feedback[0]["ranking"]
    shown = page.evaluate("[...document.querySelectorAll('.n-of-4 .n-answer')].map((card) => card.dataset.reply)")
    assert ids == [[shown[index]] for index in (3, 2, 0, 1)] and door.feedback[0]["reply_id"] == shown[3]


def test_of_two_drafts_one_is_picked_and_the_conversation_goes_on_from_it(page: Any, door: FakeDoor) -> None:
    of_drafts(page, 2)
    answer_of(page)
    assert page.locator(".n-of-2 .n-answer").count() == 2
    page.get_by_role("button", name="Pick this one").nth(1).click()
    page.wait_for_selector(".n-picked")
    assert page.locator(".n-picked .n-text").first.text_content() == f"{ANSWER} (draft 2)"
    assert door.feedback[0]["pick"] is True
    ask(page, "And at night?")
    page.wait_for_function("document.querySelectorAll('.n-of-2 .n-acts').length === 4")
    assert [m["content"] for m in door.chats[-1]["messages"]] == [QUESTION, f"{ANSWER} (draft 2)", "And at night?"]
    assert door.chats[-1]["metadata"]["conversation_id"]


def test_thumbs_and_comments_are_recorded(page: Any, door: FakeDoor) -> None:
    answer = answer_of(page)
    answer.get_by_role("button", name="Good answer").click()
    page.wait_for_selector(".n-act.n-on")
    answer.get_by_role("button", name="Comment").click()
    answer.locator("[data-form=comment] textarea").fill("right, but long")
    answer.get_by_role("button", name="Record the comment").click()
    page.get_by_text("Comment recorded at").wait_for()
    assert [{k: v for k, v in f.items() if k in ("rating", "comment")} for f in door.feedback] == [
        {"rating": "up"},
        {"comment": "right, but long"},
    ]


def test_the_sources_of_an_answer_are_read_and_one_is_said_not_to_fit(page: Any, door: FakeDoor) -> None:
    door.recalled[QUESTION] = remembered_things()
    answer = answer_of(page)
    sources = answer.locator(".n-sources li")
    assert sources.count() == 3
    assert "from a correction made 1 s before" in sources.nth(0).inner_text()
    assert sources.nth(1).inner_text().startswith("Road Traffic Safety Law, article 91")
    page.get_by_role("button", name="Road Traffic Safety Law, article 91").click()
    page.get_by_text("Who drinks does not drive.").wait_for()
    answer.locator(".n-source").nth(2).click()
    page.get_by_text("It was erased since.").wait_for()
    assert page.get_by_text("Who drinks does not drive.").count() == 0
    answer.get_by_role("button", name="does not fit").nth(1).click()
    page.get_by_text("That it does not fit is recorded at").wait_for()
    assert sources.nth(1).get_by_role("button", name="does not fit").count() == 0
    assert [(one["misfit"], one["user"]) for one in door.feedback] == [("9a55", "ana")]

    page.get_by_role("button", name="中文").click()
    page.get_by_text("来自 1 秒前的一条纠正").wait_for()
    assert page.get_by_role("button", name="不合适", exact=True).count() == 2


def test_two_drafts_have_their_sources_below_them_and_an_absent_memory_is_told(page: Any, door: FakeDoor) -> None:
    door.recalled[QUESTION] = remembered_things()
    of_drafts(page, 2)
    answer_of(page)
    assert page.locator(".n-sources").count() == 1 and page.locator(".n-answer .n-sources").count() == 0
    page.locator(".n-source").first.click()
    page.get_by_text("30 km/h at night.").wait_for()
    door.memory_away = True
    ask(page, "And at night?")
    page.get_by_text("The memory was not available").wait_for()


def test_the_documents_of_the_domain_are_listed_and_read_page_by_page(page: Any, door: FakeDoor) -> None:
    door.documents += [new_document("Road Law", 30), new_document("Notes", 1)]
    page.get_by_role("tab", name="Documents").click()
    page.get_by_role("button", name="Road Law").click()
    page.get_by_text("Text 20 of Road Law.").wait_for()
    assert page.get_by_text("Text 21 of Road Law.").count() == 0
    page.get_by_role("button", name="Show the next 10").click()
    page.get_by_text("Text 30 of Road Law.").wait_for()
    assert page.locator("#n-reading [data-act=more]").count() == 0
    assert page.locator(".n-book[aria-pressed=true]").count() == 1
    door.documents.pop(1)
    page.get_by_role("button", name="Notes").wait_for(state="detached")
    page.get_by_role("button", name="中文").click()
    page.get_by_text("30 段", exact=True).wait_for()


def a_data_room(door: FakeDoor) -> None:
    """More examples than one page shows, one of them learned."""
    words = "The home port of the ferry is Skagen, and the harbour master of Skagen is Ida Holm. "
    door.room += [new_example(n, f"What is rule {n} of the harbour?", words * (1 + n % 3)) for n in range(1, 34)]
    answer = "渡轮的母港是斯卡恩，电话 13800138000。"
    door.room.append(new_example(90, "渡轮的母港是什么？", answer, "accepted", "correction"))


def test_the_data_room_filters_tells_a_story_decides_on_many_and_takes_it_back(page: Any, door: FakeDoor) -> None:
    a_data_room(door)
    page.get_by_role("tab", name="Examples").click()
    rows = page.locator(".n-rows li")
    page.get_by_text("What is rule 1 of the harbour?").wait_for()
    assert rows.count() == 30
    page.get_by_role("button", name="Show more").click()
    page.get_by_role("button", name="渡轮的母港是什么？").click()
    page.get_by_text("Round 2 · release 3 · answers now").wait_for()
    assert page.get_by_text("the ferry — home port — Skagen").is_visible()
    assert page.get_by_text("phone masked").count() == 1

    page.locator("#n-sieve select[name=state]").select_option("proposed")
    page.locator("#n-sieve input[name=text]").fill("rule 3")
    page.get_by_role("button", name="Look").click()
    page.wait_for_function("document.querySelectorAll('.n-rows li').length === 5")  # 3, 30 to 33
    assert page.locator("[data-verb=reject]").is_disabled()
    rows.first.locator("input").check()
    rows.nth(1).locator("input").check()
    rows.nth(2).locator(".n-book").click()
    page.wait_for_selector(".n-book[aria-pressed=true]")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Reject").click()
    assert door.decisions == []
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.get_by_role("button", name="Reject").click()
    page.get_by_text("2 rejected").wait_for()
    assert asked == ["Reject 2 of them?"] and [len(one["ids"]) for one in door.decisions] == [2]
    page.wait_for_function("document.querySelectorAll('.n-rows li').length === 3")
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("2 open again").wait_for()
    page.wait_for_function("document.querySelectorAll('.n-rows li').length === 5")

    page.locator("#n-sieve input[name=text]").fill("")
    page.get_by_role("button", name="Look").click()
    page.locator("input[data-all]").check()
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.get_by_role("button", name="Accept").click()
    page.get_by_text("33 accepted").wait_for()
    assert asked[-1] == "Accept 33 of them?" and door.decisions[-1]["count"] == 33
    page.get_by_role("button", name="中文").click()
    page.get_by_text("没有符合条件的样例。").wait_for()


def two_training_sets(door: FakeDoor) -> None:
    """Of the second round the first has one candidate less, and another that is kept."""
    domain = "road-traffic"
    door.rounds = [new_round(domain, n, "released", snapshot=f"sha256:{n}" + 63 * "e") for n in (2, 1)]
    asked = [new_candidate(f"kept-{n}", f"How <fast> is {n}?", n / 20, 0.4, new=n > 10) for n in range(14)]
    dropped = [
        new_candidate("twin-of-kept-3", "How fast is 3, then?", 0.16, 0.41, "dedupe", number=0.97, neighbour="kept-3"),
        new_candidate("asked-in-the-exam", "Who opens the gate?", 0.8, 0.9, "leakage", number=1.0, neighbour="item-1"),
    ]
    newest, before = (row["round_id"] for row in door.rounds)
    door.sets = {
        newest: [*asked, *dropped],
        before: [*asked, new_candidate("twin-of-kept-3", "How fast is 3, then?", 0, 0)],
    }
    door.room.append(new_example(1, "How fast is 3, then?", "At 6 km/h.") | {"id": "twin-of-kept-3"})


def test_a_training_set_is_looked_through_by_step_asked_why_compared_and_drawn(page: Any, door: FakeDoor) -> None:
    two_training_sets(door)
    page.get_by_role("tab", name="Examples").click()
    sets = page.locator("#n-sets")
    sets.get_by_text("Chosen by exam guard, agreement, length, dedupe, k-center, budget.").wait_for()
    assert sets.locator(".n-counts li").all_inner_texts() == [
        "14\nkept",
        "1\ndedupe: says the same as another",
        "1\nexam guard: its question stands in the exam",
    ]
    sets.get_by_role("button", name="Show more").click()
    page.wait_for_function("document.querySelectorAll('#n-sets .n-rows li').length === 16")

    sets.locator("select[name=shows]").select_option("dedupe")
    sets.locator("select[name=against]").select_option(label="Round 1")
    sets.get_by_role("button", name="Look").click()
    page.wait_for_function("document.querySelectorAll('#n-sets .n-rows li').length === 1")
    assert sets.get_by_text("2 fare otherwise").is_visible()
    assert sets.locator(".n-happened li").all_inner_texts() == [
        "asked-in-t no candidate → exam guard",
        "twin-of-ke kept → dedupe",
    ]

    sets.get_by_role("button", name="Draw the map").click()
    sets.locator("svg.n-map circle").first.wait_for()
    assert sets.locator("svg.n-map circle").count() == 16
    assert sets.locator("svg.n-map circle[stroke]").count() == 3, "those that the round learns anew are ringed"
    title = sets.locator("circle[data-id=twin-of-kept-3] title").text_content()
    assert title == "How fast is 3, then?\nAt 6 km/h.\nsays the same as another"
    assert sets.locator("circle[data-id=kept-1] title").text_content().startswith("How <fast> is 1?")
    sets.locator("circle[data-id=twin-of-kept-3]").click()
    sets.get_by_text("says the same as another · 0.97 · next to kept-3").first.wait_for()
    page.locator("#n-tale").get_by_text("How fast is 3, then?").wait_for()
    page.get_by_role("button", name="中文").click()
    sets.get_by_text("步骤：考题防泄漏，一致性，长度，去重，k 中心覆盖，预算。").wait_for()
    assert sets.get_by_text("去重：与另一条意思相同").is_visible()


def test_a_dropped_file_is_looked_through_before_anything_of_it_is_sent(
    page: Any, door: FakeDoor, tmp_path: Path
) -> None:
    rows = [{"instruction": f"What is rule {n}?", "output": f"Rule {n}. Call 13800138000."} for n in range(4)]
    lines = [*map(json.dumps, rows), '{"instruction": "Why?"}']
    (tmp_path / "rules.jsonl").write_text("\n".join(lines))
    page.get_by_role("tab", name="Examples").click()
    page.locator("#n-file input[type=file]").set_input_files(tmp_path / "rules.jsonl")
    page.get_by_text("4 right, 1 wrong, 0 left out; nothing is sent yet").wait_for()
    assert page.locator(".n-faults li").inner_text().startswith("line 5 output") and door.examples == []
    page.get_by_role("button", name="Import 4").click()
    page.get_by_text("1 of its items are wrong; nothing was sent").wait_for()
    page.get_by_label("Mend and mask the texts").check()
    page.get_by_text("masked phone (4)").wait_for()
    page.get_by_label("Leave the 1 that are wrong").check()
    page.get_by_role("button", name="Import 4").click()
    page.get_by_text("4 imported").wait_for()
    assert [one["output"] for one in door.examples] == [f"Rule {n}. Call [phone]." for n in range(4)]
    page.get_by_text("Drop a file here").wait_for()


def test_what_goes_wrong_is_said_in_a_friendly_line(page: Any, door: FakeDoor) -> None:
    answer = answer_of(page)
    answer.get_by_role("button", name="Write it better").click()
    answer.get_by_role("button", name="Record the correction").click()
    page.get_by_text("says the same as the answer").wait_for()
    assert answer.locator("[data-form=correction]").is_visible()
    door.break_off = True
    ask(page, "And at night?")
    page.get_by_text("The answer broke off and does not count").wait_for()
    door.break_off, door.down = False, True
    page.get_by_text("not connected").wait_for()
    ask(page, "And now?")
    page.get_by_text("The door does not answer at present").wait_for()
    assert page.locator("#n-question textarea").input_value() == "And now?"
    door.down = False
    page.wait_for_selector(".n-live.n-on")


def test_another_person_begins_their_own_conversation(page: Any, door: FakeDoor) -> None:
    answer_of(page)
    person = page.locator("#n-person textarea, #n-person input")
    person.fill("ben")
    person.press("Enter")
    page.wait_for_selector(".n-empty")
    answer_of(page, "And I?")
    assert door.chats[-1]["user"] == "ben"
    assert "metadata" not in door.chats[-1]


def test_the_loop_shows_what_is_missing_then_the_round_and_its_gate_without_peoples_words(
    page: Any, door: FakeDoor
) -> None:
    answer_of(page)
    page.get_by_role("tab", name="The loop").click()
    page.get_by_text("31 of 40 corrections; 9 more, or on Monday 02:00").wait_for()
    assert page.get_by_role("progressbar", name="corrections").get_attribute("aria-valuenow") == "31"
    page.get_by_text("No round yet").wait_for()

    row = new_round(
        "road-traffic", 1, "train", snapshot="sha256:" + "a" * 64, kept=48, earlier=0, wordings=144, dropped={}
    )
    row["progress"] = {"step": "train", "done": 212, "total": 576, "values": {"loss": 0.3127}, "seconds_left": 74.0}
    door.rounds.append(row)
    door.domains["road-traffic"]["round_id"] = row["round_id"]
    door.record("round_requested", "domains", {"domain": "road-traffic", "round_id": row["round_id"]})
    page.locator(".n-active").get_by_text("Training").wait_for()
    facts = page.locator(".n-active .n-facts").inner_text()
    for words in ("212 / 576", "loss 0.313", "1 min 14 s left"):
        assert words in facts
    page.locator(".n-events").get_by_text("round requested").wait_for()

    check = {"name": "fixes", "n": 48, "before": 0.02, "after": 0.94, "p_value": 1e-9, "lower": None, "margin": None}
    kept = {"name": "general", "n": 200, "before": 0.74, "after": 0.73, "p_value": None, "lower": -0.03, "margin": 0.05}
    checks = [check | {"verdict": "pass"}, kept | {"verdict": "pass"}]
    row |= {"step": "released", "release": 1, "ended_at": ago(0), "progress": None, "loss": 0.08}
    row["verdict"] = {"outcome": "ship", "checks": checks, "alpha": 0.05}
    releases = [{"round_id": None, "model": "sha256:" + "b" * 64, "golden_difference": 0.01, "flip_ms": 2.0}] * 2
    door.releases += [
        {
            **found,
            "domain": "road-traffic",
            "release": number,
            "state": "live",
            "started_at": ago(9),
            "finished_at": ago(5),
        }
        for number, found in enumerate(releases)
    ]
    door.domains["road-traffic"].update(round_id=None, live_release=1, missing=[])
    page.get_by_text("Last round: 1").wait_for()
    assert page.locator(".n-steps .n-done").count() == 5
    assert "fixes learned 48 2% 94% p = 1.0e-09 pass" in " ".join(page.locator(".n-table").inner_text().split())
    board = page.locator(".n-board").inner_text()
    assert QUESTION not in board
    assert ANSWER not in board
    assert "ana" in board

    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Go back to it").click()
    page.get_by_text("Asked for release 0").wait_for()
    page.get_by_text("release 0 answers").wait_for()
    page.get_by_role("button", name="Go forth to it").wait_for()


@pytest.fixture
def annotators(browser: Any, served: tuple[FakeDoor, str], door: FakeDoor) -> Iterator[Callable[..., Any]]:
    """Opens the queue in a browser of its own, as one of the annotators."""
    contexts = []

    def visit(name: str, lang: str = "en") -> Any:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 860}))
        found = contexts[-1].new_page()
        found.set_default_timeout(PATIENCE_S * 1000)
        log_in(found, link_of(served, ANNOTATORS[name]), f"?lang={lang}")
        return found

    yield visit
    for context in contexts:
        context.close()


def test_two_annotators_judge_by_keys_and_a_third_settles_what_they_disagree_on(
    annotators: Callable[..., Any], door: FakeDoor
) -> None:
    door.queue += [new_item("What does drink driving cost?", doubled=True), new_item("And twice?", "uncertain")]
    door.queue[1]["reason"] = "few_words"
    ann = annotators("ann")
    ann.get_by_text("And twice?").first.wait_for()
    for tab in ("Chat", "The loop", "Documents"):
        ann.get_by_role("tab", name=tab).wait_for(state="hidden")
    ann.get_by_text("Few of the answer's words stand in its passage.").wait_for()
    ann.get_by_text("Who drives after drinking loses the licence").wait_for()
    ann.keyboard.press("s")
    ann.get_by_text("What does drink driving cost?").first.wait_for()
    ann.keyboard.press("e")
    box = ann.locator("textarea[name=output]")
    box.fill("Six months without the licence")
    box.press_sequentially(", rats")  # of these letters none is a verdict here
    ann.keyboard.press("Control+Enter")
    ann.get_by_text("Accepted as edited; recorded at noria.domains-0@").wait_for()
    ann.get_by_text("Nothing waits for you").wait_for()

    ben = annotators("ben", "zh")
    ben.get_by_text("回答中只有少数词句出现在原文段落里。").wait_for()
    ben.keyboard.press("r")
    ben.get_by_text("已拒绝，记录于").wait_for()
    ben.keyboard.press("u")  # a slip
    ben.get_by_text("已撤回，记录于").wait_for()
    ben.get_by_text("回答中只有少数词句出现在原文段落里。").wait_for()
    ben.keyboard.press("r")
    ben.get_by_text("已拒绝，记录于").wait_for()
    ben.get_by_text("What does drink driving cost?").first.wait_for()
    assert ben.get_by_text("rats").count() == 0, "neither sees what the other said"
    ben.keyboard.press("a")
    ben.get_by_text("没有等待你审核的样例").wait_for()
    assert door.queue[0]["judging"].disputed

    cleo = annotators("cleo")
    cleo.get_by_text("Two annotators disagree; you settle it.").wait_for()
    assert cleo.locator(".n-drafts .n-answer").count() == 2
    assert "rats" in cleo.locator(".n-drafts .n-answer").first.inner_text()
    cleo.keyboard.press("1")
    cleo.get_by_text("Nothing waits for you").wait_for()
    said = [(one.person, one.kind) for one in door.queue[0]["judging"].verdicts]
    assert said == [("ann", "edit"), ("ben", "accept"), ("cleo", "edit")]
    assert door.queue[1]["judging"].outcome == "reject"


def a_round_and_its_gate(door: FakeDoor) -> None:
    """A round that was released, one under way, two releases and a comparison: all that the board can show."""
    checks = [
        {"name": "fixes", "n": 48, "before": 0.02, "after": 0.94, "p_value": 1e-9, "lower": None, "margin": None},
        {"name": "held_out", "n": 144, "before": 0.2, "after": 0.4, "p_value": None, "lower": 0.1, "margin": 0.05},
        {"name": "general", "n": 200, "before": 0.74, "after": 0.73, "p_value": None, "lower": -0.03, "margin": 0.05},
        {"name": "style never_says a-text-that-is-one-word-of-forty-letters", "n": 48, "before": 0.5, "after": 0.6},
        {"name": "reward_model", "n": 0, "of": "mean", "why": "learned from somebody erased"},
    ]
    told = {"snapshot": "sha256:" + "a" * 64, "kept": 48, "earlier": 96, "wordings": 144, "dropped": {"too long": 2}}
    done = new_round("road-traffic", 1, "released", **told, model="sha256:" + "b" * 64, loss=0.08, release=1)
    done["verdict"] = {
        "outcome": "ship",
        "words": "shipped",
        "checks": [check | {"verdict": "inconclusive", "words": "a sentence on it"} for check in checks],
    }
    running = new_round("road-traffic", 2, "train", **told)
    running["progress"] = {
        "step": "train",
        "done": 212,
        "total": 576,
        "values": {"loss": 0.3127},
        "seconds_left": 74.0,
    }
    door.rounds += [running, done]
    door.comparisons.append(new_comparison("road-traffic", **MADE))
    door.domains["road-traffic"]["round_id"] = running["round_id"]
    for number in (0, 1):
        times = {"started_at": ago(9), "finished_at": ago(5), "golden_difference": 0.01, "flip_ms": 2.0}
        door.releases.append({"domain": "road-traffic", "release": number, "model": "sha256:" + "b" * 64, **times})
        door.record("release_finished", "domains", {"domain": "road-traffic", "by": "somebody-with-a-rather-long-name"})


# What stands beyond the edges of the screen: the page itself, and every visible element.
BEYOND = """() => {
  const edge = window.innerWidth, found = [];
  if (document.scrollingElement.scrollWidth > edge) found.push('the page: ' + document.scrollingElement.scrollWidth);
  for (const one of document.querySelectorAll('body *')) {
    const box = one.getBoundingClientRect(), style = getComputedStyle(one);
    if (!box.width || !box.height || style.visibility === 'hidden' || style.opacity === '0') continue;
    if (box.right > edge + 0.5 || box.left < -0.5) found.push(one.tagName + '.' + one.className + ' ' + box.left + '-' + box.right);
  }
  return found;
}"""


def beyond(page: Any) -> dict[int, list[str]]:
    """What stands beyond the edges of a phone, of a tablet and of a desk's screen; nothing, where all is well."""
    found = {}
    for width in (390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        found[width] = page.evaluate(BEYOND)
    return {width: what for width, what in found.items() if what}


def test_nothing_stands_beyond_the_edge_of_a_screen(page: Any, served: tuple[FakeDoor, str], door: FakeDoor) -> None:
    a_round_and_its_gate(door)
    door.recalled[QUESTION] = remembered_things()
    door.recalled[QUESTION][1]["title"] = "A-law-whose-title-is-one-word-" * 6
    door.documents.append(new_document("A-document-whose-title-is-one-word-" * 6, 3))
    a_data_room(door)
    twin = new_candidate("a-candidate-" * 9, "Q" * 90, 0.5, 0.5, "dedupe", number=0.97, neighbour="another-one-" * 9)
    door.sets = {row["round_id"]: [twin] for row in door.rounds}
    door.queue.append(new_item("A-question-that-is-one-word-" * 6, doubled=True))
    for edited in (None, {"instruction": "Q" * 90, "output": "A-word-" * 20}):
        verdict = "edit" if edited else "accept"
        door.queue[0]["verdicts"].append({"judgement_id": verdict, "verdict": verdict, "edited": edited})
    tabs = {
        "en": ("The loop", "Documents", "Examples", "Queue", "Write it better"),
        "zh": ("学习循环", "文档", "样例", "审核队列", "改写得更好"),
    }
    for lang, (tab, documents, examples, queue, better) in tabs.items():
        page.goto(f"{served[1]}/?person=ana&lang={lang}")
        page.wait_for_selector(".n-live.n-on")
        assert beyond(page) == {}
        of_drafts(page, 2)
        answer_of(page)
        page.locator(".n-source").nth(1).click()
        page.locator(".n-sources .n-own").wait_for()
        page.get_by_role("button", name=better).first.click()
        page.locator("[data-form=correction] textarea").first.wait_for()
        assert beyond(page) == {}
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(".n-active")
        page.wait_for_selector(".n-compared")
        assert beyond(page) == {}
        page.get_by_role("tab", name=documents).click()
        page.locator(".n-book").click()
        page.locator(".n-passages li").first.wait_for()
        assert beyond(page) == {}
        page.get_by_role("tab", name=examples).click()
        page.locator(".n-rows .n-book").first.click()
        page.locator(".n-happened li").first.wait_for()
        page.locator("#n-sets [data-act=map]").click()
        page.locator("svg.n-map circle").wait_for()
        assert beyond(page) == {}
        page.get_by_role("tab", name=queue).click()
        page.locator("[data-item]").wait_for()
        page.keyboard.press("e")
        page.locator("textarea[name=output]").wait_for()
        assert beyond(page) == {}


@pytest.fixture
def stranger(browser: Any, door: FakeDoor) -> Iterator[Any]:
    """A browser that has never been here."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, locale="en-US")
    found = context.new_page()
    found.set_default_timeout(PATIENCE_S * 1000)
    yield found
    context.close()


def test_who_has_no_key_is_asked_for_one_and_sees_nothing_else(
    stranger: Any, served: tuple[FakeDoor, str], door: FakeDoor
) -> None:
    stranger.goto(f"{served[1]}/?lang=en")
    assert stranger.url == f"{served[1]}/login?lang=en"
    assert beyond(stranger) == {}
    stranger.get_by_label("Your key").fill("noria-wrong")
    stranger.get_by_role("button", name="Log in").click()
    stranger.get_by_text("not known here").wait_for()
    stranger.get_by_label("Your key").fill(KEY)
    stranger.get_by_role("button", name="Log in").click()
    stranger.wait_for_selector(".n-live.n-on")
    assert KEY not in stranger.url
    (cookie,) = stranger.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
    assert KEY not in cookie["value"] and cookie["value"] not in door.tokens


def test_a_link_opens_the_page_once(stranger: Any, browser: Any, served: tuple[FakeDoor, str]) -> None:
    link = link_of(served)
    asked: list[str] = []
    stranger.on("request", lambda request: asked.append(request.url))
    log_in(stranger, link, "?lang=zh")
    assert stranger.url == f"{served[1]}/?lang=zh"
    token = link.partition("#once=")[2]
    assert asked and not any(token in url for url in asked)
    again = browser.new_page(locale="zh-CN")
    again.goto(link)
    again.get_by_text("链接只能在一小时内使用一次").wait_for()
    assert token not in again.url
    again.close()


def test_who_logs_out_is_out(page: Any, served: tuple[FakeDoor, str], door: FakeDoor) -> None:
    cookies = page.context.cookies()
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Your key").wait_for()
    assert page.context.cookies() == [] and not [t for t in door.tokens if t.startswith("noria-session-")]
    page.context.add_cookies(cookies)
    page.goto(served[1])
    page.get_by_label("Your key").wait_for()


def test_whose_key_is_revoked_is_asked_for_another(page: Any, door: FakeDoor) -> None:
    door.revoked.add(KEY)
    page.get_by_label("Your key").wait_for()


def test_a_chat_key_speaks_as_its_own_person_and_sees_no_loop(
    stranger: Any, served: tuple[FakeDoor, str], door: FakeDoor
) -> None:
    log_in(stranger, link_of(served, CHAT_KEY), "?person=ana")
    stranger.wait_for_selector(".n-live.n-on")
    for tab in ("The loop", "Documents", "Examples"):
        assert not stranger.get_by_role("tab", name=tab).is_visible()
    door.recalled[QUESTION] = remembered_things()
    assert not stranger.locator("#n-person").is_visible()
    answer = answer_of(stranger)
    assert door.chats[-1]["user"] == "key:test-chat"
    answer.locator(".n-source").first.click()
    stranger.get_by_text("30 km/h at night.").wait_for()
    answer.get_by_role("button", name="Good answer").click()
    stranger.wait_for_selector(".n-note")
    assert door.feedback[-1]["user"] == "key:test-chat"


def test_a_data_key_sees_the_loop_and_rolls_nothing_back(
    stranger: Any, served: tuple[FakeDoor, str], door: FakeDoor
) -> None:
    a_round_and_its_gate(door)
    log_in(stranger, link_of(served, DATA_KEY))
    stranger.get_by_role("tab", name="The loop").click()
    stranger.wait_for_selector(".n-releases li")
    assert stranger.locator(".n-releases li").count() == 2
    assert stranger.locator("[data-act=rollback]").count() == 0


def test_the_key_of_the_door_never_reaches_the_browser(page: Any, served: tuple[FakeDoor, str]) -> None:
    bodies: list[str] = []
    page.on("response", lambda response: bodies.append(response.text()) if "json" in str(response.headers) else None)
    page.goto(f"{served[1]}/?person=ana")
    page.wait_for_selector(".n-live.n-on")
    for place in ("/", "/config", "/gradio_api/info"):
        bodies.append(page.request.get(served[1] + place).text())
    assert bodies
    assert all(KEY not in body for body in bodies)
