"""The card of a candidate: all that is known of how a round's model was made and of what it scores, as values and as a page.

The headings follow Mitchell et al. 2019, "Model Cards for Model Reporting", arXiv 1810.03993. No words of people stand in it. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streams.recipes import Recipe

CURVE_FILE = "loss.svg"
CALIBRATION_FILE = "calibration.svg"
Card = dict[str, Any]
_WIDTH, _HEIGHT, _EDGE = 640, 240, 40  # of the picture, in its own units


def card_of(
    round_: Mapping[str, Any],
    recipe: Recipe,
    start: int | None,
    start_model: str | None,
    licence: str | None,
) -> Card:
    """Of a round's row. `start`, `start_model`: the release whose weights it started from (None: the base), and their digest;
    `licence`: the base's, where it is known."""
    training = round_["training"] or {}
    return {
        "model": round_["model"],
        "adapter": round_["adapter"],
        "domain": round_["domain"],
        "round": round_["number"],
        "round_id": round_["round_id"],
        "outcome": round_["step"],
        "release": round_["release"],
        "asked_at": round_["requested_at"],
        "base": {"release": start, "model": start_model, "first": round_["base_model"], "licence": licence},
        "data": {
            "snapshot": round_["snapshot"],
            "pin": round_["pin"],
            "opening": round_["opening"],
            "new": round_["kept"],
            "earlier": round_["earlier"],
            "wordings": round_["wordings"],
            "dropped": round_["dropped"],
            "preferred": (
                {name: round_[name] for name in ("pairs", "pairs_held_out", "labels", "held")}
                if round_["read"] is not None
                else None
            ),
        },
        "recipe": msgspec.to_builtins(recipe),
        "training": training,
        "evaluation": {"rows": round_["evaluation"], "verdict": round_["verdict"]},
        "rebuild": round_["rebuild"],
    }


def card_page(card: Card) -> str:
    """The card in Markdown. The pictures it names are `curve`'s and `calibration`'s."""
    base, data, training = card["base"], card["data"], card["training"]
    released = f"release {card['domain']}@{card['release']}" if card["release"] is not None else card["outcome"]
    made = training.get("made_with") or {}
    took = {
        "steps": training.get("steps"),
        "rows": training.get("rows"),
        "tokens": training.get("tokens"),
        "seconds": training.get("duration_s"),
        "CPU seconds": training.get("cpu_s"),
        **({"row by row": training["fallback"]} if training.get("fallback") else {}),
        **(training.get("metrics") or {}),
    }
    parts = [
        f"# {card['domain']}, round {card['round']}: {released}",
        _table(
            {
                "model": card["model"],
                "adapter": card["adapter"],
                "trained from": _started_from(card),
                "base": base["first"],
                "licence of the base": base["licence"] or "not stated",
                "round": card["round_id"],
                "asked for": card["asked_at"],
            }
        ),
        "## Training data",
        _table(
            {
                "snapshot": data["snapshot"],
                "the log up to": data["pin"],
                "new examples": "the opening round's own material" if data["opening"] else data["new"],
                "earlier examples": data["earlier"],
                "wordings": data["wordings"],
                "left out": _listed(data["dropped"] or {}),
                **(
                    {
                        "pairs": data["preferred"]["pairs"],
                        "pairs held out": data["preferred"]["pairs_held_out"],
                        "labels": data["preferred"]["labels"],
                        "held back": _listed(data["preferred"]["held"] or {}),
                    }
                    if data["preferred"] is not None
                    else {}
                ),
            }
        ),
        "## Recipe",
        _table(card["recipe"]),
        "## Training",
        _table(
            {
                **took,
                **{name: value for name, value in made.items() if name != "libraries"},
                **made.get("libraries", {}),
            }
        ),
    ]
    losses = training.get("losses") or ()
    if losses:
        parts += [
            f"Loss of each epoch, nats an answer token: {', '.join(f'{loss:.3g}' for loss in losses)}.",
            f"![loss of each epoch]({CURVE_FILE})",
        ]
    if card["outcome"] == "kept":
        parts += ["## Reward model", *_reward(training)]
    else:
        parts += ["## Evaluation", *_evaluation(card["evaluation"])]
    return "\n\n".join(parts) + "\n"


def _reward(training: Mapping[str, Any]) -> list[str]:
    told = training.get("metrics") or {}
    if "accuracy" not in told:
        return ["Too few rankings to hold any out: how often it is right is not known."]
    right = (
        f"Of {told['held_out_pairs']:.0f} pairs of {told['held_out_rankings']:.0f} rankings that were held out, it puts the better"
        f" answer first in {told['accuracy']:.1%} (95 %: {told['accuracy_low']:.1%} to {told['accuracy_high']:.1%})."
    )
    rows = [f"| {one['pairs']} | {one['predicted']:.3f} | {one['won']:.3f} |" for one in training["calibrated"]]
    table = "\n".join(["| pairs | predicted | won |", "| --- | --- | --- |", *rows])
    return [right, table, f"![how sure it is, and how often it is right]({CALIBRATION_FILE})"]


def _started_from(card: Card) -> str:
    release, model = card["base"]["release"], card["base"]["model"]
    return f"the base, {model}" if release is None else f"{card['domain']}@{release}, {model}"


def curve(losses: Sequence[float]) -> str:
    """The loss of each epoch as a picture (SVG)."""
    most = max((loss for loss in losses), default=0.0) or 1.0
    apart = (_WIDTH - 2 * _EDGE) / max(1, len(losses) - 1)
    points = [
        (_EDGE + number * apart, _HEIGHT - _EDGE - loss / most * (_HEIGHT - 2 * _EDGE))
        for number, loss in enumerate(losses)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    foot = _HEIGHT - _EDGE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
        f'<path d="M{_EDGE} {_EDGE}V{foot}H{_WIDTH - _EDGE}" fill="none" stroke="#888"/>'
        f'<g fill="#1a6" stroke="none">{dots}</g><polyline points="{line}" fill="none" stroke="#1a6" stroke-width="2"/>'
        f'<text x="{_EDGE}" y="{_EDGE - 8}">loss, nats an answer token</text>'
        f'<text x="{_EDGE - 6}" y="{_EDGE + 4}" text-anchor="end">{most:.3g}</text>'
        f'<text x="{_EDGE - 6}" y="{foot + 4}" text-anchor="end">0</text>'
        f'<text x="{_EDGE}" y="{foot + 18}">epoch 1</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{foot + 18}" text-anchor="end">{len(losses)}</text></svg>\n'
    )


def calibration(bins: Sequence[Mapping[str, Any]]) -> str:
    """How sure a reward model is against how often it is right, as a picture (SVG); on the grey line both are the same."""
    wide, high = _WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE
    foot = _HEIGHT - _EDGE
    points = [(_EDGE + (one["predicted"] - 0.5) * 2 * wide, foot - one["won"] * high, one["pairs"]) for one in bins]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 + min(9.0, pairs**0.5):.1f}"/>' for x, y, pairs in points)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
        f'<path d="M{_EDGE} {_EDGE}V{foot}H{_WIDTH - _EDGE}" fill="none" stroke="#888"/>'
        f'<path d="M{_EDGE} {foot - high / 2}L{_WIDTH - _EDGE} {_EDGE}" fill="none" stroke="#888"/>'
        f'<g fill="#1a6" stroke="none">{dots}</g><polyline points="{line}" fill="none" stroke="#1a6" stroke-width="2"/>'
        f'<text x="{_EDGE}" y="{_EDGE - 8}">share in which the better answer won</text>'
        f'<text x="{_EDGE - 6}" y="{_EDGE + 4}" text-anchor="end">1</text>'
        f'<text x="{_EDGE - 6}" y="{foot + 4}" text-anchor="end">0</text>'
        f'<text x="{_EDGE}" y="{foot + 18}">sure to 0.5</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{foot + 18}" text-anchor="end">1</text></svg>\n'
    )


def _evaluation(found: Mapping[str, Any]) -> list[str]:
    verdict = found["verdict"]
    if verdict is None:
        return ["The gate has not judged it."]
    checks = verdict.get("checks") or []
    names = list(dict.fromkeys(name for check in checks for name in check))
    rows = [f"| {' | '.join(name.replace('_', ' ') for name in names)} |", "|" + " --- |" * len(names)]
    rows += [f"| {' | '.join(_shown(check.get(name)) for name in names)} |" for check in checks]
    said = f"{verdict['outcome']}: {verdict.get('words', '')}".rstrip(": ")
    return [said, "\n".join(rows), f"Answers, sealed: {found['rows']}"] if checks else [said]


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return " ".join(str(one) for one in value) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return _listed(value)
    return str(value).replace("|", "\\|").replace("\n", " ")
