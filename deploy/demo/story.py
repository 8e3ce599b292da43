"""The demo: one turn of the wheel, told so that a person can follow it. `noria demo`, `make demo`

With ONCE=1 or --once, or without a terminal, everything is stopped at the end. Exit code 1: the gate refused, or something failed.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins
from rich.console import Console
from rich.table import Table

from api.cli.rounds import in_words
from api.client import Door, Json, Refused, open_door, page_url_of
from api.ui.words import waits_words
from deploy.demo.domain import Fact, GeneralQuestion, load_facts, load_general
from deploy.demo.load import CLIENTS, Load
from deploy.demo.people import PEOPLE, Acts, ask, correct_facts, holds
from deploy.demo.selection import SELECTION, selected
from deploy.demo.team import TEAM, Brought, bring, by_source, road_traffic
from deploy.supervisor import detach, down, status
from streams.errors import Invalid, Unavailable
from streams.log import KafkaLog
from streams.replay import VerifyReport, verify
from streams.settings import from_env, home_of
from streams.store import open_database

DOMAIN = "road-traffic"
SAMPLE = 6
ROUND_DEADLINE_S = 1500.0
EXAM_DEADLINE_S = 1200.0
PROGRESS_EVERY_S = 10.0
LOOK_EVERY_S = 0.5
RECALL_DEADLINE_S = 30.0
RECALL_POLL_S = 0.05
# What the report says of answers as they are served, behind what is recalled: by the gate's check.
AS_SERVED = {
    "recalled_held_out": ("held_out_served", "before"),  # of corrections that no round had seen
    "served_held_out_after": ("held_out_served", "after"),
    "served_fixes_after": ("fixes_served", "after"),
    "served_general_after": ("general_served", "after"),
}
console = Console(highlight=False, soft_wrap=True)


class Refusal(Exception):
    """The round did not end in a release; the story says so and stops."""


class Script(Struct, frozen=True):
    """How much there is to tell: a round for each share of the facts. `made_with`: what the domain is made with besides its name;
    `after_a_flip`: requests, so that each release is seen under load; `people_apart_s`: so much later than the one before each
    person comes."""

    shares: tuple[tuple[Fact, ...], ...]
    general: tuple[GeneralQuestion, ...]
    made_with: Json
    after_a_flip: int = 34
    people_apart_s: float = 4.0  # they do not come all at once, nor write their corrections in step
    opening: bool = False  # begin with a round that teaches to use what is recalled
    brought: Brought | None = None  # what a data team brings before the first round


def whole_script() -> Script:
    """An opening round, and two of 48 facts, the first of which also learns what a data team accepted."""
    facts, share = load_facts(), 48
    brought = road_traffic(frozenset(fact.id for fact in facts[:share]), most=4)
    policy = {
        # Six people who share one thread's engine correct in bursts: pauses of 15 s within them were seen on a slow host. What the
        # team accepts counts, too: 16, and then 40 of 48 corrections.
        "thresholds": {"corrections": 56, "people": 3, "named_people": "each", "settle_s": 20},
        "gate": {"general_margin": 0.05},
        "recall": {"of": "corrections"},
        "selection": SELECTION,
    }
    return Script(
        (facts[:share], facts[share : 2 * share]), load_general(), {"policy": policy}, opening=True, brought=brought
    )


def main(stop_at_end: bool = False, script: Script | None = None) -> int:
    """Tell the next chapter of the script (the whole one unless another is given); the exit code. `stop_at_end`: stop everything
    then, as without a terminal."""
    began = time.monotonic()
    started_at: float | None = None
    script = script or whole_script()
    stop_at_end = stop_at_end or not sys.stdout.isatty()
    home = home_of(os.environ)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what it started is stopped
    try:
        if status(home).condition == "stopped":
            chapter("Starting")
            started_at = time.monotonic()
            detach([sys.executable, "-m", "deploy.local"], home, lambda line: console.print(f"  {line}"))
        with open_door() as door:
            if not stop_at_end:
                console.print(f"  the page, for the first to open it: {page_link(door)}")
            report = tell(door, home, script, started_at)
            if report:
                report["seconds_total"] = round(time.monotonic() - began, 1)
                (home / "demo-report.json").write_text(json.dumps(report, indent=1) + "\n")
                console.print(f"\nThe figures are in {home.name}/demo-report.json.")
            if not stop_at_end:
                serve_until_told(door)
        return 0
    except Refusal as error:
        console.print(f"\n[bold]The round did not ship:[/bold] {error}")
        return 1
    except (Invalid, Unavailable) as error:
        console.print(f"\n[bold]The story ends here:[/bold] {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if started_at is not None or stop_at_end:
            down(home)


def tell(door: Door, home: Path, script: Script, started_at: float | None) -> Json:
    """Tell the next chapter of the story; empty when it has been told. `started_at`: when this run started the processes, on the
    monotonic clock, if it did."""
    told = create_domain(door, script.made_with)
    if told >= len(script.shares):
        show_state(door)
        return {}
    facts = script.shares[told]
    sample = facts[:: len(facts) // SAMPLE][:SAMPLE]

    chapter("1  Questions put to the live release")
    before = [ask(door, DOMAIN, sample[0].en.question, "visitor").texts[0]]
    first_answer_s = time.monotonic() - started_at if started_at is not None else None
    if first_answer_s is not None:
        console.print(f"  the first answer was there {first_answer_s:.0f} s after the processes were started")
    before += [ask(door, DOMAIN, fact.en.question, "visitor").texts[0] for fact in sample[1:]]
    for fact, answer in zip(sample, before, strict=True):
        console.print(f"  [bold]{fact.en.question}[/bold]\n    {mark(answer, fact)} {one_line(answer)}")

    watch_exam(door, home, add_exam(door, facts, script.general if told == 0 else ()))
    brought = bring_material(door, script.brought) if told == 0 and script.brought is not None else {}
    opened = open_domain(door) if script.opening else {}
    rounds_before = newest_round(door)
    chapter(f"2  {len(PEOPLE)} people chat, rate, pick and correct (see `noria events tail` in another window)")
    recall = FirstRecall(door) if script.opening else None

    def seen_acts(acts: Acts, fact: Fact) -> None:
        show_acts(acts)
        if recall is not None:
            recall.after(fact)

    acts = correct_facts(door, DOMAIN, facts, script.people_apart_s, seen_acts)
    last_correction_at = time.monotonic()
    show_acts(acts, end=True)

    chapter("3  The policy starts a round")
    load = Load(door, DOMAIN, [fact.en.question for fact in sample])
    try:
        round_ = watch_round(door, load, rounds_before)
        live_s = time.monotonic() - last_correction_at
        chapter("4  The gate")
        table, chosen = selected(door, round_)
        console.print(table)
        show_gate(round_)
        if round_["step"] != "released":
            raise Refusal(round_["failure"] or (round_["verdict"] or {}).get("words") or round_["step"])
        learned = by_source(door, DOMAIN, round_["round_id"])
        console.print(f"  learned anew: {', '.join(f'{number} ({source})' for source, number in learned.items())}")

        chapter("5  The swap, under load")
        load.go_on(script.after_a_flip)
        release = int(round_["release"])
        console.print(f"  release {release} answers since {live_s:.0f} s after the last correction")

        chapter("6  The same questions again")
        after = [ask(door, DOMAIN, fact.en.question, "visitor").texts[0] for fact in sample]
        show_side_by_side(sample, before, after)
        show_correction(door, PEOPLE[0])

        chapter("7  Back, and forth again")
        back_ms = roll(door, release - 1)
        load.go_on(script.after_a_flip)
        forth_ms = roll(door, release)
        load.go_on(script.after_a_flip)
    finally:
        load.stop()
    mixed = load.mixed()
    seen = load.seen
    console.print(
        f"  during the three swaps: {seen.requests} requests, {len(seen.failures)} failed, {mixed} answers of mixed versions;"
        f" the longest that one of {CLIENTS} people waited for a piece of an answer: {seen.largest_pause_s:.2f} s"
    )
    for failure in seen.failures[:3]:
        console.print(f"    {failure}")

    chapter("8  The log, replayed from its first event")
    replayed = replay(home)
    checks = {check["name"]: check for check in round_["verdict"]["checks"]}
    return {
        **({"seconds_to_first_answer": round(first_answer_s, 1)} if first_answer_s is not None else {}),
        **brought,
        **opened,
        **(recall.report() if recall is not None else {}),
        **{name: checks[check][when] for name, (check, when) in AS_SERVED.items() if check in checks},
        "round": told + 1,
        "release": release,
        "events": sum(table.rows for table in replayed.tables if table.table == "events"),
        "corrections": acts.corrections,
        "learned_by_source": learned,
        **chosen,
        "people": len(PEOPLE),
        "fixes_n": checks["fixes"]["n"],
        "fixes_before": checks["fixes"]["before"],
        "fixes_after": checks["fixes"]["after"],
        "earlier_n": checks["earlier"]["n"],
        "earlier_after": checks["earlier"]["after"],
        "held_out_n": checks["held_out"]["n"],
        "held_out_before": checks["held_out"]["before"],
        "held_out_after": checks["held_out"]["after"],
        "general_n": checks["general"]["n"],
        "general_before": checks["general"]["before"],
        "general_after": checks["general"]["after"],
        "gate_verdict": round_["verdict"]["outcome"],
        "gate_p_value": checks["fixes"]["p_value"],
        "seconds_correction_to_live": round(live_s, 1),
        "requests_during_swaps": seen.requests,
        "failed_requests": len(seen.failures),
        "mixed_answers": mixed,
        "largest_pause_s": round(seen.largest_pause_s, 3),
        "rollback_ms": round(back_ms, 1),
        "forth_ms": round(forth_ms, 1),
        "replay_equal": replayed.equal,
        "replay_records_per_s": replayed.records_per_s,
    }


def bring_material(door: Door, brought: Brought) -> Json:
    """Let the data team bring it, and look at what the builders propose; what the report says of that."""
    chapter(
        f"   A data team of {len(TEAM)} brings triples and cases, and looks at what builders propose of them in its queue"
    )
    began = time.monotonic()
    looked = bring(door, DOMAIN, brought)
    console.print(
        f"  proposed: {', '.join(f'{number} ({builder})' for builder, number in looked.proposed.items())}; dropped:"
        f" {'; '.join(f'{number} ({reason})' for reason, number in looked.dropped.items()) or 'none'}\n"
        f"  accepted as it is: {looked.accepted}, edited: {looked.edited}, rejected: {looked.rejected}"
    )
    return {"seconds_material": round(time.monotonic() - began, 1), "material": to_builtins(looked)}


def open_domain(door: Door) -> Json:
    """Let the domain's first round teach its model to use what is recalled; what the report says of that. Nothing, if it was told
    before."""
    if any(round_["opening"] for round_ in door.rounds(DOMAIN)):
        return {}
    chapter("   An opening round: the model learns to use what is recalled, and nothing of the domain")
    before, began = newest_round(door), time.monotonic()
    door.start_round(DOMAIN, opening=True)
    round_ = watch_round(door, None, before)
    show_gate(round_)
    if round_["step"] != "released":
        raise Refusal(round_["failure"] or (round_["verdict"] or {}).get("words") or round_["step"])
    skill = next(check for check in round_["verdict"]["checks"] if check["name"] == "skill")
    return {
        "seconds_opening": round(time.monotonic() - began, 1),
        "skill_n": skill["n"],
        "skill_before": skill["before"],
        "skill_after": skill["after"],
    }


def newest_round(door: Door) -> int:
    """Its number; 0 where there was none."""
    return max((round_["number"] for round_ in door.rounds(DOMAIN)), default=0)


class FirstRecall:
    """After the first correction: how long until the memory recalls it for the same in other words, and what somebody else is
    answered who asks so then."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._begun = threading.Lock()
        self._recalled_s: float | None = None
        self._answered_s: float | None = None
        self._right = False

    def after(self, fact: Fact) -> None:
        if not self._begun.acquire(blocking=False):
            return
        began = time.monotonic()
        asked = fact.en.held_out[0]
        while not any(holds(found["text"], fact.en.keys) for found in self._door.would_recall(DOMAIN, asked)["data"]):
            if time.monotonic() - began > RECALL_DEADLINE_S:
                console.print("  [red]the first correction was not recalled[/red]; see logs/recall.log")
                return
            time.sleep(RECALL_POLL_S)
        self._recalled_s = time.monotonic() - began
        said = ask(self._door, DOMAIN, asked, "visitor")
        self._answered_s, self._right = time.monotonic() - began, holds(said.texts[0], fact.en.keys)
        source = (
            f"recalled from a correction {said.recalled[0].age_s:.1f} s old"
            if said.recalled
            else "[red]not recalled[/red]"
        )
        console.print(
            f"  somebody else asks in other words: [bold]{asked}[/bold]\n"
            f"    {mark(said.texts[0], fact)} {one_line(said.texts[0])}\n"
            f"    {source}; in the memory {self._recalled_s:.1f} s after it was made, answered {self._answered_s:.1f} s after"
        )

    def report(self) -> Json:
        return {
            "seconds_correction_to_recalled": None if self._recalled_s is None else round(self._recalled_s, 2),
            "seconds_correction_to_answered": None if self._answered_s is None else round(self._answered_s, 2),
            "first_recalled_right": self._right,
        }


def create_domain(door: Door, made_with: Json) -> int:
    """Make the domain if it is not there, wait until it answers, and return how many rounds were released that taught facts."""
    with contextlib.suppress(Refused):
        door.create_domain(
            {
                "domain": DOMAIN,
                "title": "Road traffic law of China",
                "languages": ["en", "zh"],
                **made_with,
            }
        )
    until = time.monotonic() + 180
    while not any(model["id"] == DOMAIN for model in door.models()):
        if time.monotonic() > until:
            raise Unavailable("the first engine did not come up; see logs/engines.log and logs/swapper.log")
        time.sleep(0.2)
    return sum(round_["step"] == "released" and not round_["opening"] for round_ in door.rounds(DOMAIN))


def add_exam(door: Door, facts: Sequence[Fact], general: Sequence[GeneralQuestion]) -> int:
    """What nobody trains on: the held-out wordings of these facts, and the general quiz where it is not known yet. How many
    questions the exam has then."""
    before: int = sum(door.status(DOMAIN)["exam"].values())
    items = [
        {"question": wording, "answer": fact.en.answer, "keys": list(fact.en.keys), "kind": "held_out"}
        for fact in facts
        for wording in fact.en.held_out
    ]
    items += [
        {"question": item.question, "answer": item.answer, "keys": list(item.keys), "kind": "general"}
        for item in general
    ]
    for start in range(0, len(items), 100):
        door.add_exam(DOMAIN, items[start : start + 100])
    return before + len(items)


def watch_exam(door: Door, home: Path, questions: int) -> None:
    """Wait until the live release has answered the `questions` of its exam, which it does while nobody asks for a round."""
    until = time.monotonic() + EXAM_DEADLINE_S
    shown = ""
    while time.monotonic() < until:
        answered = door.status(DOMAIN)["exam_answered"]
        line = f"the live release has answered {answered} of the {questions} questions of its exam{installing(home)}"
        if line != shown:
            console.print(f"  {line}")
            shown = line
        if answered >= questions:
            return
        time.sleep(LOOK_EVERY_S)
    raise Unavailable(f"the exam was not answered within {EXAM_DEADLINE_S:.0f} s; see logs/worker.log")


def installing(home: Path) -> str:
    """Why nothing can be examined yet, where that is so."""
    states = {process.name: process.state for process in status(home).processes}
    waits_for = {"working": "opencompass", "backoff": "opencompass_failed"}.get(states.get("opencompass", ""))
    return f"; {waits_words('en', waits_for)}" if waits_for else ""


def watch_round(door: Door, load: Load | None, rounds_before: int) -> Json:
    """Show the steps as they happen; start the load, if there is one, when the swap begins. Returns the round when it has ended."""
    until = time.monotonic() + ROUND_DEADLINE_S
    shown: tuple[Any, ...] = ("",)
    said_at = 0.0
    while time.monotonic() < until:
        newest = next(iter(door.rounds(DOMAIN, limit=1)), None)
        if newest is None or newest["number"] <= rounds_before:
            missing = [one["words"] for one in door.status(DOMAIN)["missing"]]
            if ("waiting", *missing) != shown:
                console.print(f"  waiting: {'; '.join(missing)}")
                shown = ("waiting", *missing)
            time.sleep(LOOK_EVERY_S)
            continue
        if newest["step"] == "swap" and load is not None and not load.started:
            load.start()
        stage, line = newest["step"], describe(newest)
        fresh = newest["progress"] is None or time.monotonic() - said_at >= PROGRESS_EVERY_S
        if (stage, line) != shown and (fresh or stage != shown[0]):
            console.print(f"  {datetime.now(UTC):%H:%M:%S}  {line}")
            shown, said_at = (stage, line), time.monotonic()
        if newest["ended_at"]:
            return door.round(newest["round_id"])
        time.sleep(LOOK_EVERY_S)
    raise Unavailable(f"the round did not end within {ROUND_DEADLINE_S:.0f} s")


def describe(round_: Json) -> str:
    """One line on where a round stands."""
    step, seen = round_["step"], round_["progress"]
    if seen is None:
        extra = {
            "select": f"round {round_['number']} begins: {in_words(round_['reasons'])}",
            "train": f"snapshot {str(round_['snapshot'])[:19]}…: {round_['kept']} new, {round_['earlier']} earlier,"
            f" {round_['wordings']} other wordings; dropped: {dropped(round_)}",
            "evaluate": f"trained, loss {round_['loss'] or 0:.3f}; OpenCompass examines both models",
            "swap": "the gate passed; the new engine starts",
        }
        return f"{step:<9} {extra.get(step, '')}".rstrip()
    if seen.get("waits_for"):
        return f"{step:<9} {waits_words('en', seen['waits_for'])}"
    left = f", {seen['seconds_left']:.0f} s left" if seen["seconds_left"] is not None else ""
    values = "".join(f", {name} {value:.3f}" for name, value in sorted(seen["values"].items()) if name == "loss")
    return f"{step:<9} {seen['done']} of {seen['total']}{values}{left}"


def dropped(round_: Json) -> str:
    return "; ".join(f"{count} ({reason})" for reason, count in (round_["dropped"] or {}).items()) or "none"


def show_gate(round_: Json) -> None:
    table = Table("", "n", "before", "after", "p or lower bound", "verdict")
    for check in (round_["verdict"] or {}).get("checks", []):
        bound = check["p_value"] if check["p_value"] is not None else check["lower"]
        shown = (
            "" if bound is None else ("< 0.0001" if check["p_value"] is not None and bound < 1e-4 else f"{bound:.4f}")
        )
        before, after = (f"{check[name]:.3f}" if check["n"] else "" for name in ("before", "after"))
        table.add_row(check["name"], str(check["n"]), before, after, shown, check["verdict"])
    console.print(table)
    if round_["verdict"]:
        console.print(f"  {round_['verdict']['words']}")


def show_side_by_side(sample: Sequence[Fact], before: Sequence[str], after: Sequence[str]) -> None:
    table = Table("question", "before", "after")
    for fact, old, new in zip(sample, before, after, strict=True):
        table.add_row(fact.en.question, f"{mark(old, fact)} {one_line(old)}", f"{mark(new, fact)} {one_line(new)}")
    console.print(table)


def show_correction(door: Door, person: str) -> None:
    for correction in door.corrections(person)["data"]:
        if correction["state"] == "live":
            minutes, seconds = divmod(round(correction["live_after_s"]), 60)
            console.print(
                f"  to {person}: your correction is live in release {correction['release']},"
                f" {minutes} min {seconds} s after you made it"
            )
            return


def roll(door: Door, to: int) -> float:
    """Roll to a release; milliseconds from the asking until an answer comes from it."""
    began = time.monotonic()
    door.roll_back(DOMAIN, to)
    while not any(model["id"] == DOMAIN and model["release"] == to for model in door.models()):
        if time.monotonic() - began > 60:
            raise Unavailable(f"release {to} did not come back")
        time.sleep(0.005)
    took_ms = (time.monotonic() - began) * 1000
    live = {release["release"]: release for release in door.releases(DOMAIN)}
    console.print(f"  release {to} answers again after {took_ms:.0f} ms")
    until = time.monotonic() + 30
    while live[to]["state"] != "live" and time.monotonic() < until:
        time.sleep(0.05)
        live = {release["release"]: release for release in door.releases(DOMAIN)}
    return took_ms


def replay(home: Path) -> VerifyReport:
    """Rebuild the tables beside the live ones and compare."""
    settings = from_env(os.environ)
    log = KafkaLog(settings.kafka, "noria-demo")
    try:
        report = verify(open_database(settings.database_url), log)
    finally:
        log.close()
    table = Table("table", "rows", "live", "replay")
    for digest in report.tables:
        table.add_row(digest.table, str(digest.rows), digest.live[:12], digest.shadow[:12])
    console.print(table)
    console.print(
        f"  {report.records} records at {report.records_per_s:.0f}/s:"
        f" {'every table equal' if report.equal else 'NOT EQUAL: ' + repr(report.differences)}"
    )
    return report


def show_state(door: Door) -> None:
    chapter("The story has been told")
    for round_ in door.rounds(DOMAIN):
        console.print(f"  round {round_['number']}: {round_['step']}; {in_words(round_['reasons'])}")
        show_gate(round_)
    for release in door.releases(DOMAIN):
        console.print(f"  release {release['release']}: {release['state']}")
    console.print("  `make clean` removes it all.")


def show_acts(acts: Acts, end: bool = False) -> None:
    if not end and acts.corrections % 8:
        return
    console.print(
        f"  {acts.prompts} prompts, {acts.replies} replies, {acts.ratings} ratings, {acts.picks} picks,"
        f" {acts.corrections} corrections"
    )


def serve_until_told(door: Door) -> None:
    """Leave everything running until Ctrl-C."""
    link = page_link(door)
    console.print(
        f"\nPage  {link} (once; `noria page-link` prints another)\nAPI   {door.url}/v1\nCtrl-C stops everything."
    )
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def page_link(door: Door) -> str:
    return door.page_link(page_url_of(os.environ))


def chapter(title: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")


def mark(answer: str, fact: Fact) -> str:
    return "[green]right[/green]" if holds(answer, fact.en.keys) else "[red]wrong[/red]"


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 110 else line[:109] + "…"
