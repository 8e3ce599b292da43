"""Why a round begins or not yet, and what the gate said, in the reader's words: the log holds codes and values."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from api.ui.words import LANGUAGES, Lang, day_words
from streams.gate import PREFERENCE, SKILL, TITLES
from streams.hacking import SIGNS
from streams.reasons import Code

# In English and Chinese. `more`: what is missing from `have` to `need`.
_WORDS: dict[Code, tuple[str, str]] = {
    "corrections_enough": (
        "{have} corrections (the policy asks for {need})",
        "已有 {have} 条纠正（策略要求 {need} 条）",
    ),
    "preferences_enough": (
        "{have} preferences (the policy asks for {need})",
        "已有 {have} 条偏好（策略要求 {need} 条）",
    ),
    "release_old": (
        "the release is more than {days:g} days old and {fresh} things are new",
        "当前版本已超过 {days:g} 天，且有 {fresh} 条新内容",
    ),
    "schedule_due": ("the schedule ({cron}) and {fresh} new things", "到了定时（{cron}），且有 {fresh} 条新内容"),
    "asked_for": ("asked for by {by}", "由 {by} 手动发起"),
    "opening": (
        "the domain is new: the model learns to use what is recalled",
        "新领域的启蒙轮：让模型学会使用召回的内容",
    ),
    "opening_asked_for": (
        "an opening round, asked for by {by}: the model learns to use what is recalled",
        "由 {by} 发起的启蒙轮：让模型学会使用召回的内容",
    ),
    "from_base": (
        "from the base, with all corrections: every {every} rounds",
        "每 {every} 轮一次：从基础模型出发，学习全部纠正",
    ),
    "from_base_asked_for": ("from the base, with all corrections", "从基础模型出发，学习全部纠正"),
    "base_asked_for": (
        "to the base {base}: from there, with all corrections",
        "换用基础模型 {base}：从它出发，学习全部纠正",
    ),
    "in_words": ("{words}", "{words}"),
    "corrections": ("{have} of {need} corrections; {more} more", "已有 {have} / {need} 条纠正，还差 {more} 条"),
    "preferences": ("{have} of {need} preferences; {more} more", "已有 {have} / {need} 条偏好，还差 {more} 条"),
    "people": ("{have} of {need} people; {more} more", "已有 {have} / {need} 位参与者，还差 {more} 位"),
    "named_people": (
        "the {named} whom services named count {count} (thresholds.named_people)",
        "服务密钥代表的 {named} 位参与者{count}（thresholds.named_people）",
    ),
    "release_old_at": ("the release is {days:g} days old at {at}", "当前版本将于 {at} 满 {days:g} 天"),
    "release_old_nothing_new": (
        "the release is more than {days:g} days old, but nothing is new",
        "当前版本已超过 {days:g} 天，但没有新内容",
    ),
    "schedule_at": ("or on {day} {clock}", "或者在{day} {clock}"),
    "schedule_never": ("the schedule ({cron}) has no time to come", "定时（{cron}）不会再有时间"),
    "budget_used": (
        "the budget of {rounds} rounds a day is used until {until}",
        "每天 {rounds} 轮的预算已用完，直到 {until}",
    ),
    "quiet_hours": ("quiet hours last until {until}", "静默时段持续到 {until}"),
    "settling": (
        "due, and waiting until nothing new has come for {settle_s:g} s",
        "条件已满足，等待 {settle_s:g} 秒内不再有新内容",
    ),
    "round_under_way": ("round {round} is under way ({step})", "第 {round} 轮正在进行"),
    "no_release": ("no release answers yet", "尚无版本应答"),
    "not_created": ("the domain has not been created", "领域尚未创建"),
    "retired": ("the domain has been retired", "领域已停用"),
}
_COUNT = {"one": ("as one a key", "，每个密钥只计为一位"), "none": ("not at all", "不计入")}


def reason_words(lang: Lang, reason: Mapping[str, Any]) -> str:
    """One reason; a code that is not known here, or that lacks a value, is shown as it is."""
    number, values = LANGUAGES.index(lang), dict(reason["values"])
    try:
        if "need" in values:
            values["more"] = values["need"] - values["have"]
        if "count" in values:
            values["count"] = _COUNT[values["count"]][number]
        for name in {"at", "until"} & values.keys():
            at = datetime.fromisoformat(values[name])
            values["day"] = day_words(lang, at.weekday())
            values["clock"] = f"{at:%H:%M}"
            values[name] = f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return _WORDS[reason["code"]][number].format(**values)
    except (LookupError, TypeError, ValueError):
        return " ".join([str(reason["code"]), *(f"{name}={value}" for name, value in reason["values"].items())])


def reasons_words(lang: Lang, reasons: Iterable[Mapping[str, Any]]) -> str:
    return ("; " if lang == "en" else "；").join(reason_words(lang, one) for one in reasons)


def with_words(reasons: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each with its words in English beside it, for whoever reads the door's answers without a table of codes."""
    return [{**one, "words": reason_words("en", one)} for one in reasons]


_LEARNED = {SKILL: "the skill is", PREFERENCE: "what people prefer is"}


def verdict_words(verdict: Mapping[str, Any]) -> str:
    """What the gate said of a candidate and why, in English."""
    outcome, checks = verdict["outcome"], verdict["checks"]
    if outcome == "ship":
        passed = {check["name"] for check in checks if check["verdict"] == "pass"}
        learned = next((words for name, words in _LEARNED.items() if name in passed), "the fixes are")
        return f"shipped: {learned} learned, and nothing that must be kept was lost"
    wanted = "fail" if outcome == "refuse" else "inconclusive"
    said = "; ".join(_check_words(check, verdict.get("alpha")) for check in checks if check["verdict"] == wanted)
    return f"refused: {said}" if outcome == "refuse" else f"not shipped, the evidence is not enough: {said}"


_SIGNS = {sign.name for sign in SIGNS}


def _check_words(check: Mapping[str, Any], alpha: float | None) -> str:
    title, n = TITLES.get(check["name"], check["name"]), check["n"]
    if not n:
        return f"{title}: no question to judge by"
    said = f"{title}: {round(check['before'] * n)} of {n} before, {round(check['after'] * n)} of {n} after"
    if check["name"] in _SIGNS:
        confidence = "" if alpha is None else f" with {1 - alpha:.0%} confidence"
        return f"{said}; a rise of more than {check['margin']:.0%} is certain{confidence} (lower bound {check['lower']:+.3f})"
    if check["margin"] is not None:
        sure = "is certain" if check["verdict"] == "fail" else "cannot be ruled out"
        confidence = "" if alpha is None else f" with {1 - alpha:.0%} confidence"
        return (
            f"{said}; a fall of more than {check['margin']:.0%} {sure}{confidence} (lower bound {check['lower']:+.3f})"
        )
    if check["p_value"] is None:
        return f"{said}; too few to judge by (gate.least_pairs)"
    p = "below 0.0001" if check["p_value"] < 0.0001 else f"{check['p_value']:.4f}"
    return f"{said}; p = {p}: {'worse than before' if check['verdict'] == 'fail' else 'could be chance'}"
