"""How the demo's rounds choose what they learn, by every step there is, and what the report says of it."""

from datetime import datetime

from rich.table import Table

from api.client import Door, Json

# Nuggets ranks what builders proposed: at most 24 examples on 16 tasks, and 0.15 seconds of a core for each pair: less than
# a minute. As many general tokens as the usual recipe's twelve rows are beside those of these facts.
SELECTION: list[Json] = [
    {"step": "leakage", "overlap": 0.9},
    {"step": "agreement"},
    {"step": "length"},
    {"step": "dedupe", "cosine": 0.95},
    {"step": "k_center", "k": 96},
    {"step": "nuggets", "tasks": 16, "most": 24},
    {"step": "hard", "weight": 1.5},
    {"step": "budget", "tokens": 20_000},
    {"step": "mixing", "general": 0.3},
]
EVENTS_AT_ONCE = 500


def selected(door: Door, round_: Json) -> tuple[Table, Json]:
    """By step how many examples it has kept back and why, to be shown; and what the report says of it."""
    counts = [one for one in door.snapshot(round_["round_id"])["counts"] if one["kind"] == "example"]
    kept = sum(one["candidates"] for one in counts if one["kept"])
    table = Table("step", "kept back", "why")
    dropped = dict[str, int]()
    for step in ["opened", *(one["step"] for one in SELECTION if one["step"] != "mixing")]:
        here = [one for one in counts if not one["kept"] and one["step"] == step]
        dropped[step] = sum(one["candidates"] for one in here)
        table.add_row(step, str(dropped[step]), "; ".join(f"{one['candidates']} ({one['reason']})" for one in here))
    table.add_row("kept", str(kept), "")
    return table, {
        "selected": kept,
        "dropped_by_step": dropped,
        "seconds_selection": round(_seconds(door, round_), 1),
    }


def _seconds(door: Door, round_: Json) -> float:
    """From when the round began until its training set stood on the log."""
    after = "beginning"
    while True:
        page = door.events(domain=round_["domain"], after=after, limit=EVENTS_AT_ONCE)
        for one in page["data"]:
            event = one["event"]
            if event["type"] == "noria.snapshot_selected" and event["data"]["round_id"] == round_["round_id"]:
                began, ended = (datetime.fromisoformat(at) for at in (round_["requested_at"], event["time"]))
                return (ended - began).total_seconds()
        after = page["next"]
