"""The loop as the page draws it: what the next round waits for, the round and its steps, the gate, releases, events.

No words of people stand here; ids of people and places on the log do.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from api.client import Json
from api.comparing import base_table, comparison_table
from api.reasons import reason_words, reasons_words
from api.ui.icons import CHECK, CROSS
from api.ui.markup import card, safe
from api.ui.words import Lang, event_name, known, say, span, waits_words
from streams.hacking import SIGNS
from streams.plan import UNDER_WAY
from streams.style import in_words, rule_of

_ENDS_GOOD = frozenset({"released", "kept"})
_QUIET_EVENTS = frozenset({"order_progressed", "clock_ticked", "passage_added"})
EVENTS_SHOWN = 14


def draw_board(
    status: Json,
    rounds: Sequence[Json],
    releases: Sequence[Json],
    compared: Sequence[Json],
    bases: Sequence[Json],
    events: Sequence[Json],
    lang: Lang,
    rolls_back: bool,
) -> str:
    """The whole tab, from what the door says of one domain. `rounds`, `compared`, `bases` (comparisons): the newest first;
    `rolls_back`: who looks may."""
    current = status.get("round")
    shown = current or (rounds[0] if rounds else None)
    judged = next((r for r in rounds if (r.get("verdict") or {}).get("checks")), None)
    return (
        '<div class="n-board"><div class="n-col">'
        + card(say(lang, "next_round"), _next(status, lang))
        + _round(shown, current is not None, lang)
        + _gate(judged, lang)
        + _compared(compared, lang)
        + _bases(bases, lang)
        + '</div><div class="n-col n-side">'
        + card(say(lang, "releases"), _releases(status, releases, lang, rolls_back))
        + card(say(lang, "events"), _events(events, lang))
        + "</div></div>"
    )


def _next(status: Json, lang: Lang) -> str:
    gathered, thresholds = status.get("gathered") or {}, status.get("thresholds") or {}
    bars = "".join(
        _bar(say(lang, name), int(gathered.get(name) or 0), int(thresholds[name]), lang)
        for name in ("corrections", "preferences", "people")
        if thresholds.get(name) is not None
    )
    missing = [reason_words(lang, one) for one in status.get("missing") or []]
    if status.get("due"):
        words = say(lang, "due_now")
    elif missing:
        words = ("，" if lang == "zh" else ", ").join(missing)
    else:
        words = say(lang, "nothing_asked")
    label = "" if status.get("due") or status.get("round") else f"<b>{safe(say(lang, 'why_not_yet'))}</b> "
    return f'{bars}<p class="n-why">{label}{safe(words)}</p>'


def _bar(name: str, have: int, need: int, lang: Lang) -> str:
    share = min(1.0, have / need) if need else 1.0
    done = " n-full" if have >= need else ""
    return (
        f'<div class="n-bar{done}"><div class="n-bar-words"><span>{safe(name)}</span>'
        f"<span>{safe(say(lang, 'of', have=have, need=need))}</span></div>"
        f'<div class="n-track" role="progressbar" aria-valuenow="{have}" aria-valuemin="0" aria-valuemax="{need}"'
        f' aria-label="{safe(name)}"><div style="width:{share:.1%}"></div></div></div>'
    )


def _round(row: Json | None, under_way: bool, lang: Lang) -> str:
    if row is None:
        return card(say(lang, "no_round"), f'<p class="n-muted">{safe(say(lang, "no_round_words"))}</p>')
    title = say(lang, "current_round" if under_way else "last_round", number=row["number"])
    end = str(row["step"])
    chip = ""
    if not under_way and known(f"end_{end}"):
        kind = "n-good" if end in _ENDS_GOOD else "n-bad" if end in ("failed", "refused") else ""
        chip = f'<span class="n-chip {kind}">{safe(say(lang, f"end_{end}"))}</span>'
    elif under_way:
        chip = f'<span class="n-chip n-now">{safe(span(lang, _seconds(row.get("requested_at"))))}</span>'
    steps = "".join(_step(step, row, under_way, lang) for step in UNDER_WAY)
    why = f"{say(lang, 'because')}{'' if lang == 'zh' else ' '}{reasons_words(lang, row['reasons'])}"
    failure = ""
    if row.get("failure"):
        words = say(lang, "failed_at", step=say(lang, f"step_{row['last_step']}"), failure=row["failure"])
        failure = f'<p class="n-trouble">{safe(words)}</p>'
    return card(title, f'<p class="n-muted">{safe(why)}</p><ol class="n-steps">{steps}</ol>{failure}', chip)


def _reached(row: Json) -> int:
    """The number of the step that the round stands at; one past the last when it was released."""
    step = str(row["step"])
    if step == "released":
        return len(UNDER_WAY)
    return UNDER_WAY.index(step if step in UNDER_WAY else row["last_step"])


def _step(step: str, row: Json, under_way: bool, lang: Lang) -> str:
    at, reached = UNDER_WAY.index(step), _reached(row)
    if at < reached:
        state, mark = "n-done", CHECK
    elif at > reached:
        state, mark = "n-later", str(at + 1)
    elif under_way:
        state, mark = "n-active", str(at + 1)
    else:
        state, mark = "n-stopped", CROSS
    facts = "".join(f"<div>{fact}</div>" for fact in _facts(step, row, lang) if fact)
    bar = _progress(row.get("progress"), lang) if state == "n-active" else ""
    return (
        f'<li class="{state}"><span class="n-mark">{mark}</span><div class="n-step-name">{safe(say(lang, f"step_{step}"))}</div>'
        f'<div class="n-facts">{bar}{facts}</div></li>'
    )


def _facts(step: str, row: Json, lang: Lang) -> list[str]:
    match step:
        case "select" if row.get("snapshot"):
            dropped = sum(int(number) for number in (row.get("dropped") or {}).values())
            reasons = ", ".join(f"{reason}: {number}" for reason, number in (row.get("dropped") or {}).items())
            title = f' title="{safe(reasons)}"' if reasons else ""
            return [
                safe(say(lang, "kept", kept=row.get("kept") or 0, wordings=row.get("wordings") or 0)),
                safe(say(lang, "earlier", earlier=row["earlier"])) if row.get("earlier") else "",
                safe(say(lang, "pairs", **{name: row.get(name) or 0 for name in ("pairs", "pairs_held_out", "labels")}))
                if row.get("read") is not None
                else "",
                f"<span{title}>{safe(say(lang, 'dropped', dropped=dropped))}</span>" if dropped else "",
                f"<code>{safe(_short(row['snapshot']))}</code>",
            ]
        case "train" if row.get("loss") is not None:
            return [
                safe(say(lang, "loss", loss=f"{row['loss']:.3f}")),
                f"<code>{safe(_short(row.get('model')))}</code>",
            ]
        case "gate" if row.get("verdict"):
            outcome = str(row["verdict"].get("outcome"))
            return (
                [safe(say(lang, f"outcome_{outcome}").partition(":")[0].partition("：")[0])]
                if known(f"outcome_{outcome}")
                else []
            )
        case "swap" if row.get("release") is not None and row["step"] == "released":
            return [safe(say(lang, "release_n", release=row["release"]))]
        case _:
            return []


def _progress(progress: Json | None, lang: Lang) -> str:
    waiting = '<div class="n-track n-thin n-waiting"><div></div></div>'
    if not progress:
        return waiting
    if progress.get("waits_for"):
        return f"{waiting}<div>{safe(waits_words(lang, progress['waits_for']))}</div>"
    done, total = int(progress.get("done") or 0), int(progress.get("total") or 0)
    share = min(1.0, done / total) if total else 0.0
    said = [f"{done} / {total}"]
    for name, value in (progress.get("values") or {}).items():
        said.append(say(lang, "loss", loss=f"{value:.3f}") if name == "loss" else f"{name} {value:.4g}")
    if progress.get("seconds_left") is not None:
        said.append(say(lang, "left", time=span(lang, float(progress["seconds_left"]))))
    words = "".join(f"<div>{safe(part)}</div>" for part in said)
    return f'<div class="n-track n-thin"><div style="width:{share:.1%}"></div></div>{words}'


def _gate(row: Json | None, lang: Lang) -> str:
    if row is None:
        return ""
    verdict = row["verdict"]
    heads = "".join(
        f'<th class="{kind}">{safe(say(lang, f"col_{name}"))}</th>'
        for name, kind in (
            ("set", ""),
            ("n", "n-num"),
            ("before", "n-num"),
            ("after", "n-num"),
            ("measure", ""),
            ("verdict", ""),
        )
    )
    lines = "".join(_check(check, lang) for check in verdict.get("checks") or [])
    outcome = str(verdict.get("outcome"))
    kind = {"ship": "n-good", "refuse": "n-bad"}.get(outcome, "n-warn")
    words = say(lang, f"outcome_{outcome}") if known(f"outcome_{outcome}") else outcome
    return card(
        say(lang, "gate_table", number=row["number"]),
        f'<table class="n-table"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>'
        f'<p class="n-verdict {kind}">{safe(words)}</p>',
    )


def _check(check: Json, lang: Lang) -> str:
    name = str(check.get("name"))
    title = say(lang, f"set_{name}") if known(f"set_{name}") else name
    if (rule := rule_of(name)) is not None:
        title = say(lang, "set_style", rule=in_words(rule, lang).rstrip(".。"))
    verdict = str(check.get("verdict"))
    key = f"verdict_{verdict.replace(' ', '_')}"
    kind = {"pass": "n-good", "fail": "n-bad", "inconclusive": "n-warn"}.get(verdict, "")
    n = int(check.get("n") or 0)
    measure = "–"
    if check.get("p_value") is not None:
        measure = say(lang, "p_value", value=_small(check["p_value"]))
    elif check.get("lower") is not None and check.get("margin") is not None:
        rises = name in {sign.name for sign in SIGNS}
        margin = check["margin"] if rises else -check["margin"]
        measure = say(lang, "rise" if rises else "bound", lower=_signed(check["lower"]), margin=_signed(margin))
    absent = ""
    if check.get("why") is not None:
        why = f"absent_{str(check['why']).replace(' ', '_')}"
        absent = f'<div class="n-muted n-small">{safe(say(lang, why) if known(why) else check["why"])}</div>'
    shown = _mean if check.get("of") == "mean" else _share
    return (
        f'<tr title="{safe(check.get("words") or "")}"><td>{safe(title)}{absent}</td>'
        + _cell(lang, "n", "n-num", str(n))
        + _cell(lang, "before", "n-num", shown(check.get("before"), n))
        + _cell(lang, "after", "n-num", shown(check.get("after"), n))
        + _cell(lang, "measure", "n-measure", safe(measure))
        + f'<td><span class="n-chip {kind}">{safe(say(lang, key) if known(key) else verdict)}</span></td></tr>'
    )


def _cell(lang: Lang, column: str, kind: str, shown: str) -> str:
    """On a small screen, where a table has no head, a cell says what it is."""
    return f'<td class="{kind}" data-name="{safe(say(lang, f"col_{column}"))}">{shown}</td>'


def _compared(rows: Sequence[Json], lang: Lang) -> str:
    """The newest comparison that was made, and what has become of one that was asked for since."""
    if not rows:
        return ""
    made = next((row for row in rows if row["outcome"] == "made"), None)
    table = _compared_table(*comparison_table(made, lang), lang) if made is not None else ""
    return card(say(lang, "compared", release=(made or rows[0])["release"]), _become_of(rows[0], lang) + table)


def _bases(rows: Sequence[Json], lang: Lang) -> str:
    """As `_compared`, of bases."""
    if not rows:
        return ""
    made = next((row for row in rows if row["outcome"] == "made"), None)
    table = _compared_table(*base_table(made, lang), lang) if made is not None else ""
    return card(say(lang, "bases_compared"), _become_of(rows[0], lang) + table)


def _become_of(newest: Json, lang: Lang) -> str:
    """What has become of a comparison that was asked for, if it was not made."""
    if newest["outcome"] == "under_way":
        words = say(lang, "compared_under_way", time=clock(newest["asked_at"]))
        return f'<p class="n-muted">{safe(words)}</p>'
    if newest["outcome"] == "failed":
        return f'<p class="n-trouble">{safe(say(lang, "compared_failed", failure=newest["failure"]))}</p>'
    return ""


def _compared_table(heads: Sequence[str], lines: Sequence[Sequence[str]], lang: Lang) -> str:
    shown_heads = "".join(f'<th class="{"n-num" if place else ""}">{safe(h)}</th>' for place, h in enumerate(heads))
    shown_lines = "".join(
        f"<tr><td>{safe(line[0])}</td>"
        + "".join(
            f'<td class="n-num" data-name="{safe(head)}">{safe(cell)}</td>'
            for head, cell in zip(heads[1:], line[1:], strict=True)
        )
        + "</tr>"
        for line in lines
    )
    return (
        f'<table class="n-table n-compared"><thead><tr>{shown_heads}</tr></thead><tbody>{shown_lines}</tbody></table>'
        f'<p class="n-muted n-small">{safe(say(lang, "compared_how"))}</p>'
    )


def _releases(status: Json, releases: Sequence[Json], lang: Lang, rolls_back: bool) -> str:
    finished = [row for row in releases if row.get("finished_at")]
    if not releases:
        return f'<p class="n-muted">{safe(say(lang, "releases_none"))}</p>'
    live = status.get("live_release")
    lines = []
    for row in sorted(releases, key=lambda row: -int(row["release"])):
        number = int(row["release"])
        state = "live" if number == live else "retired" if row in finished else "started"
        state = "removed" if row.get("state") == "removed" else state
        chip = f'<span class="n-chip {"n-good" if state == "live" else ""}">{safe(say(lang, f"rel_{state}"))}</span>'
        button = ""
        if state == "retired" and rolls_back:
            words = say(lang, "roll_back" if live is not None and number < live else "roll_forth")
            sure = say(lang, "roll_sure", release=number)
            button = (
                f'<button type="button" class="n-plain" data-act="rollback" data-to="{number}"'
                f' data-sure="{safe(sure)}">{safe(words)}</button>'
            )
        of = say(lang, "base_release") if number == 0 else _short(row.get("model"))
        flip = (
            f" · {safe(say(lang, 'switch'))} {float(row['flip_ms']):.0f} ms" if row.get("flip_ms") is not None else ""
        )
        since = clock(row.get("finished_at") or row.get("started_at"), with_day=True)
        lines.append(
            f'<li><span class="n-number">{number}</span><div class="n-grow"><div>{chip} <code>{safe(of)}</code></div>'
            f'<div class="n-muted n-small">{since}{flip}</div></div>'
            f"{button}</li>"
        )
    return f'<ul class="n-releases">{"".join(lines)}</ul>'


def _events(events: Sequence[Json], lang: Lang) -> str:
    lines = []
    for shown in reversed(events):
        event = shown.get("event") or {}
        kind = str(event.get("type") or "").removeprefix("noria.")
        if kind in _QUIET_EVENTS:
            continue
        data = event.get("data") or {}
        who = data.get("person") or data.get("by") or ""
        lines.append(
            f'<li class="{_colour(kind)}"><time>{clock(event.get("time"))}</time>'
            f'<span class="n-kind">{safe(event_name(lang, kind))}</span><span class="n-who">{safe(who)}</span>'
            f"<code>{safe(str(shown.get('position') or '').removeprefix('noria.'))}</code></li>"
        )
        if len(lines) == EVENTS_SHOWN:
            break
    if not lines:
        return f'<p class="n-muted">{safe(say(lang, "events_none"))}</p>'
    return f'<ul class="n-events">{"".join(lines)}</ul>'


def _colour(kind: str) -> str:
    if kind in ("order_failed", "gate_refused", "person_erased", "round_cancelled"):
        return "n-e-bad"
    if kind.startswith(("release", "gate", "rollback")):
        return "n-e-good"
    if kind.startswith(("round", "snapshot", "candidate", "order")):
        return "n-e-round"
    if kind in (
        "reply_corrected",
        "reply_rated",
        "draft_picked",
        "drafts_ranked",
        "reply_commented",
        "example_accepted",
        "preference_accepted",
    ):
        return "n-e-said"
    return ""


def draw_mine(rows: Sequence[Json], total: int, questions: dict[str, str], lang: Lang) -> str:
    """The newest of a person's corrections, of which there are `total`, with where each stands in the loop. `questions`: by reply,
    where known."""
    if not rows:
        body = f'<p class="n-muted">{safe(say(lang, "mine_empty"))}</p>'
    else:
        body = f'<ul class="n-mine">{"".join(_correction(row, questions, lang) for row in rows)}</ul>'
    count = f'<span class="n-count">{total}</span>' if rows else ""
    return card(say(lang, "mine"), body, count)


def _correction(row: Json, questions: dict[str, str], lang: Lang) -> str:
    at = clock(row.get("given_at"))
    title = questions.get(str(row.get("reply_id"))) or say(lang, "correction_of", time=at)
    return (
        f'<li class="n-s-{safe(row["state"])}"><div class="n-mine-title">{safe(title)}</div>'
        f'<div class="n-small"><span class="n-dot"></span>{safe(state_words(row, lang))}</div></li>'
    )


def state_words(row: Json, lang: Lang) -> str:
    """`live in release 2, 3 min 41 s after you made it`."""
    state = str(row["state"])
    if state == "live" and row.get("live_after_s") is not None:
        after = span(lang, float(row["live_after_s"]))
        return say(lang, "state_live_after", release=row["release"], after=after)
    key = f"state_{state}"
    return say(lang, key, round=row.get("round"), release=row.get("release")) if known(key) else state


def clock(text: Any, with_day: bool = False) -> str:
    """A moment on this machine's clock."""
    at = _moment(text)
    if at is None:
        return "–"
    return at.astimezone().strftime("%Y-%m-%d %H:%M" if with_day else "%H:%M:%S")


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None


def _seconds(since: Any) -> float:
    at = _moment(since)
    return (datetime.now(UTC) - at).total_seconds() if at is not None else 0.0


def _share(value: Any, n: int) -> str:
    return f"{float(value):.0%}" if value is not None and n else "–"


def _mean(value: Any, n: int) -> str:
    return f"{float(value):.3g}".replace("-", "−") if value is not None and n else "–"


def _small(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _short(digest: Any) -> str:
    return str(digest or "").removeprefix("sha256:")[:10]
