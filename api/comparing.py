"""A comparison as it is shown: shares with their intervals beside the counts, and one table for the command line and the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from api.ui.words import Lang, known, say
from streams.facts.comparisons import SETS, UNTAUGHT, VARIANTS, wilson
from streams.gate import GENERAL, HELD_OUT

Json = dict[str, Any]
_COSTS = ("prompt_tokens", "completion_tokens", "seconds")


def with_shares(row: Mapping[str, Any]) -> Json:
    """The row with `share`, `low` and `high` (of the 95 % interval) beside the counts of each variant of a set; and under `costs`
    what an answer of each variant cost, on average over all sets."""
    if row["bases"] is not None:
        bases = {
            name: one | {"sets": {of: _with_share(answers) for of, answers in one["sets"].items()}}
            for name, one in row["bases"].items()
        }
        return {**row, "bases": bases, "costs": None}
    if row["sets"] is None:
        return {**row, "costs": None}
    sets = {name: {v: _with_share(one) for v, one in variants.items()} for name, variants in row["sets"].items()}
    found = {v: _costs([of_set[v] for of_set in sets.values() if v in of_set]) for v in VARIANTS}
    return {**row, "sets": sets, "costs": {v: costs for v, costs in found.items() if costs}}


def _with_share(answers: Json) -> Json:
    n, right = answers["n"], answers["right"]
    low, high = wilson(right, n)
    return {**answers, "share": right / n if n else None, "low": low, "high": high}


def _costs(answers: list[Json]) -> Json:
    """Of each question alike, whatever its set."""
    found = {}
    for name in _COSTS:
        told = [one for one in answers if one[name] is not None]
        if total := sum(one["n"] for one in told):
            found[name] = sum(one[name] * one["n"] for one in told) / total
    return found


def comparison_table(row: Mapping[str, Any], lang: Lang) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of a comparison that was made, as the door shows it: a set a line, a variant a column, and what they cost."""
    variants = [v for v in VARIANTS if any(v in of_set for of_set in row["sets"].values())]
    heads = [say(lang, "col_set"), say(lang, "col_n"), *(say(lang, f"variant_{v}") for v in variants)]
    lines = []
    for name in SETS:
        if name in row["sets"]:
            of_set = row["sets"][name]
            cells = [_cell(of_set.get(v)) for v in variants]
            title = say(lang, f"compared_{name}" if known(f"compared_{name}") else f"set_{name}")
            lines.append([title, str(of_set[variants[0]]["n"]), *cells])
    costs = row["costs"]
    if any("prompt_tokens" in one for one in costs.values()):
        tokens = [_tokens(costs.get(v, {})) for v in variants]
        lines.append([say(lang, "compared_tokens"), "", *tokens])
    if any("seconds" in one for one in costs.values()):
        seconds = [f"{costs[v]['seconds']:.2f}" if "seconds" in costs.get(v, {}) else "–" for v in variants]
        lines.append([say(lang, "compared_seconds"), "", *seconds])
    return heads, lines


def base_table(row: Mapping[str, Any], lang: Lang) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of a comparison of bases that was made, as the door shows it: a base a line. The domain's questions are its
    corrections and its held-out ones, together."""
    columns = ("base", "domain", "general", "fertility", "speed", "memory", "round", "context", "licence", "family")
    heads = [say(lang, f"bases_{name}") for name in columns]
    lines = []
    for name, one in row["bases"].items():
        asked = [one["sets"][of] for of in (UNTAUGHT, HELD_OUT) if of in one["sets"]]
        domain = {"n": sum(a["n"] for a in asked), "right": sum(a["right"] for a in asked)}
        cells = [
            name,
            _cell(_with_share(domain)),
            _cell(one["sets"].get(GENERAL)),
            f"{one['tokens_per_character']:.2f}",
            f"{one['tokens_per_s']:.0f}" if one["tokens_per_s"] >= 10 else f"{one['tokens_per_s']:.1f}",
            f"{one['memory_gb']:.2f}",
            _round(one["training"], lang),
            f"{one['context_tokens']:,}",
            one["licence"] or "–",
            f"{one['family']}, {_parameters(one['parameters'])}, {one['engine']}",
        ]
        lines.append(cells)
    return heads, lines


def _round(training: Json | None, lang: Lang) -> str:
    if training is None:
        return "–"
    took = f"{training['peak_gb']:.1f} GB, {training['seconds'] / 60:.1f} min"
    return took if training["fits"] else f"{took}; {say(lang, 'bases_no_room')}"


def _parameters(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of GitHub's Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in row)} |" for row in rows)


def _cell(answers: Json | None) -> str:
    """`83% (55–95)`."""
    if answers is None or answers["share"] is None:
        return "–"
    return f"{answers['share']:.0%} ({100 * answers['low']:.0f}–{100 * answers['high']:.0f})"


def _tokens(costs: Json) -> str:
    if "prompt_tokens" not in costs or "completion_tokens" not in costs:
        return "–"
    return f"{costs['prompt_tokens']:.0f} + {costs['completion_tokens']:.0f}"
