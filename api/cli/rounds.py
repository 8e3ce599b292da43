"""`noria round` and `noria release`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from api.cards import CALIBRATION_FILE, CURVE_FILE, calibration, card_page, curve
from api.cli.context import (
    domain_option,
    json_option,
    moment,
    print_json,
    print_table,
    seconds_between,
    short,
    shown,
    span,
    the_domain,
    the_door,
)
from api.client import Door
from api.ui.words import waits_words
from streams.errors import Invalid
from streams.settings import home_of


@click.group("round", short_help="Start, list, show, cancel or rebuild rounds, and their cards.")
def round_group() -> None:
    """Rounds: attempts to make a better model."""


@round_group.command("start")
@domain_option
@click.option("--opening", is_flag=True, help="Teach to use what is recalled, from general material, and nothing else.")
@click.option(
    "--recipe", metavar="METHOD|JSON", help='Train so, and not as the policy says: full, or {"method": "full", …}.'
)
@click.option(
    "--adapter",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Train nothing: judge this LoRA adapter in PEFT's format, trained elsewhere, and ship it if it passes.",
)
@click.option("--from-base", is_flag=True, help="Train from the domain's base, on all corrections that count.")
@click.option(
    "--base", metavar="NAME", help="Train so from another base (`noria base list`), and move the domain to it."
)
@json_option
def start(
    domain: str | None,
    opening: bool,
    recipe: str | None,
    adapter: Path | None,
    from_base: bool,
    base: str | None,
    as_json: bool,
) -> None:
    """Start a round now, whatever the thresholds and quiet hours say.

    \b
    Example: noria round start --domain road-traffic
    """
    if recipe is not None and adapter is not None:
        raise click.UsageError("give either a recipe or an adapter")
    wanted = None if recipe is None else _recipe(recipe)
    with the_door() as door:
        name = the_domain(door, domain)
        if adapter is not None:
            wanted = {"method": "brought", "adapter": _take_in(adapter)}
        said = door.start_round(name, opening, wanted, from_base, base)
    if as_json:
        print_json(said)
    else:
        click.echo(f"asked for; recorded at {said.get('position')}")


def _recipe(given: str) -> dict[str, Any]:
    """A recipe by its method alone, or whole. Raises Invalid where it is neither."""
    if not given.lstrip().startswith("{"):
        return {"method": given}
    try:
        found: dict[str, Any] = json.loads(given)
    except ValueError as error:
        raise Invalid(f"the recipe is no JSON: {error}") from None
    return found


def _take_in(adapter: Path) -> str:
    """The digest of an adapter, once it lies among the artifacts of this machine. Raises Invalid saying what is wrong with it."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "workers.trainer.brought",
        "--home",
        str(home_of(os.environ)),
        "--adapter",
        str(adapter),
    ]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise Invalid(f"the adapter is not taken: {said[-1] if said else f'exit code {done.returncode}'}")
    return str(json.loads(done.stdout)["adapter"])


@round_group.command("list")
@domain_option
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@json_option
def list_(domain: str | None, limit: int, as_json: bool) -> None:
    """List rounds, the newest first.

    \b
    Example: noria round list --limit 5
    """
    with the_door() as door:
        rows = door.rounds(domain, limit)
    if as_json:
        print_json({"data": rows})
        return
    print_table(
        ["domain", "round", "step", "because", "asked", "took", "id"],
        [
            [
                row["domain"],
                row["number"],
                f"{row['step']} {progress_words(row.get('progress'))}".strip(),
                in_words(row["reasons"]),
                moment(row["requested_at"]),
                took(row),
                row["round_id"],
            ]
            for row in rows
        ],
        empty="no round yet; `noria status` says what is still missing",
    )


@round_group.command("show")
@click.argument("round_", metavar="ROUND")
@domain_option
@json_option
def show(round_: str, domain: str | None, as_json: bool) -> None:
    """Show one round: its snapshot, training, exam and the gate's table. ROUND is its id or its number.

    \b
    Example: noria round show 2
    """
    with the_door() as door:
        row = find_round(door, round_, domain)
    if as_json:
        print_json(row)
        return
    for name, value in round_lines(row):
        click.echo(f"{name:<12}{value}")
    checks = (row.get("verdict") or {}).get("checks") or []
    if checks:
        click.echo()
        print_gate(checks)


@round_group.command("card")
@click.argument("round_", metavar="ROUND")
@domain_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Write card.md, card.json and {CURVE_FILE} into this folder.",
)
@json_option
def card(round_: str, domain: str | None, out: Path | None, as_json: bool) -> None:
    """Show the card of what a round made, in Markdown: data, recipe, training, scores. ROUND is its id or its number.

    \b
    Example: noria round card 2 --out cards/round-2
    """
    with the_door() as door:
        found = door.card(str(find_round(door, round_, domain)["round_id"]))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "card.md").write_text(card_page(found), encoding="utf-8")
        (out / "card.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (out / CURVE_FILE).write_text(curve(found["training"].get("losses") or ()), encoding="utf-8")
        if bins := found["training"].get("calibrated"):
            (out / CALIBRATION_FILE).write_text(calibration(bins), encoding="utf-8")
    if as_json:
        print_json(found)
    elif out is not None:
        click.echo(f"written to {out}")
    else:
        click.echo(card_page(found), nl=False)


@round_group.command("cancel")
@click.argument("round_", metavar="ROUND")
@domain_option
@json_option
def cancel(round_: str, domain: str | None, as_json: bool) -> None:
    """Cancel the round under way, before its release is swapped in. ROUND is its id or its number.

    \b
    Example: noria round cancel 2
    """
    with the_door() as door:
        said = door.cancel_round(str(find_round(door, round_, domain)["round_id"]))
    if as_json:
        print_json(said)
    else:
        click.echo(f"cancelled; recorded at {said.get('position')}")


@round_group.command("rebuild")
@click.argument("round_", metavar="ROUND")
@domain_option
@json_option
def rebuild(round_: str, domain: str | None, as_json: bool) -> None:
    """Make again what a round made: the same training, from the log. ROUND is its id or its number.

    It comes out the same, byte by byte, and what the policy had removed is there again. On another kind of machine, with other
    libraries, or without somebody who was erased since, it comes out different: that is told, with what is another, and it is not
    kept. `noria round show` says how far it is and what came of it.

    \b
    Example: noria round rebuild 2 --domain road-traffic
    """
    with the_door() as door:
        row = find_round(door, round_, domain)
        said = door.rebuild_round(str(row["round_id"]))
    if as_json:
        print_json(said)
    else:
        show_it = f"noria round show {row['number']} --domain {row['domain']}"
        click.echo(f"asked for; recorded at {said.get('position')}. How far it is: {show_it}")


@click.group("release", short_help="List releases, or go back to one.")
def release_group() -> None:
    """Releases: model versions that passed the gate."""


@release_group.command("list")
@domain_option
@json_option
def list_releases(domain: str | None, as_json: bool) -> None:
    """List releases; the live one answers.

    \b
    Example: noria release list --domain road-traffic
    """
    with the_door() as door:
        rows = door.releases(domain)
    if as_json:
        print_json({"data": rows})
        return
    print_table(
        ["release", "state", "since", "model", "golden difference", "switch (ms)", "round"],
        [
            [
                f"{row['domain']}@{row['release']}",
                row["state"],
                moment(row.get("finished_at") or row.get("started_at")),
                short(row.get("model")),
                row.get("golden_difference"),
                row.get("flip_ms"),
                row.get("round_id"),
            ]
            for row in rows
        ],
        empty="no release yet",
    )


@release_group.command("rollback")
@click.argument("to", type=click.IntRange(min=0))
@domain_option
@json_option
def rollback(to: int, domain: str | None, as_json: bool) -> None:
    """Let release TO answer again (back or forth). Running requests end where they began.

    \b
    Example: noria release rollback 1 --domain road-traffic
    """
    with the_door() as door:
        name = the_domain(door, domain)
        said = door.roll_back(name, to)
    if as_json:
        print_json(said)
    else:
        click.echo(f"asked to go to {name}@{to}; recorded at {said.get('position')}")


def find_round(door: Door, given: str, domain: str | None) -> dict[str, Any]:
    """A round by its id, or by its number in a domain. Raises Invalid when there is none."""
    if not given.isdigit():
        return door.round(given)
    name = the_domain(door, domain)
    for row in door.rounds(name, 1000):
        if row["number"] == int(given):
            return row
    raise Invalid(f"{name} has no round {given}")


def in_words(reasons: Iterable[Mapping[str, Any]]) -> str:
    """As the door puts them."""
    return "; ".join(str(one["words"]) for one in reasons)


def took(row: dict[str, Any]) -> str:
    seconds = seconds_between(row["requested_at"], row.get("ended_at"))
    return "–" if seconds is None else span(seconds)


def round_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known of a round, as (name, value)."""
    lines = [
        ("round", f"{row['number']} of {row['domain']} ({row['round_id']})"),
        ("step", f"{row['step']} {progress_words(row.get('progress'))}".strip()),
        ("because", shown(in_words(row["reasons"]))),
        ("asked", f"{moment(row['requested_at'])}, {'took' if row.get('ended_at') else 'running for'} {took(row)}"),
        ("from", f"{row['domain']}@{row['base_release']}"),
    ]
    if row.get("snapshot"):
        dropped = shown(row.get("dropped") or {})
        lines += [
            ("snapshot", str(row["snapshot"])),
            ("kept", f"{row['kept']} new, {row['wordings']} wordings, {row['earlier']} earlier; dropped: {dropped}"),
        ]
        if row.get("read") is not None:
            said = f"{row['pairs']}, and {row['pairs_held_out']} held out; held back: {shown(row['held'])}"
            lines += [("pairs", said), ("labels", str(row["labels"]))]
    if row.get("loss") is not None:
        lines.append(("loss", shown(row["loss"])))
    if row.get("model"):
        lines.append(("model", str(row["model"])))
    if row.get("failure"):
        lines.append(("failed", shown(f"{row['last_step']}: {row['failure']}")))
    verdict = row.get("verdict")
    if verdict:
        lines.append(("gate", f"{verdict['outcome']}: {shown(verdict['words'])}"))
    if row.get("release") is not None:
        lines.append(("release", f"{row['domain']}@{row['release']}"))
    if row.get("removed_at"):
        lines.append(("removed", f"model and adapter, {moment(row['removed_at'])}"))
    if row.get("rebuild"):
        lines.append(("rebuild", rebuild_words(row["rebuild"])))
    return lines


def rebuild_words(rebuild: dict[str, Any]) -> str:
    """What came of making a candidate again."""
    at = moment(rebuild["at"])
    match rebuild["outcome"]:
        case "under_way":
            return f"under way since {at}"
        case "equal":
            return f"the same again, {at}"
        case "differs":
            gone, otherwise = rebuild["erased"], rebuild.get("differences")
            without = [f"without {gone} examples and wordings that were erased"] if gone else []
            others = [
                f"{one['what']} {one['after'] or 'none'} for {one['before'] or 'none'}" for one in otherwise or ()
            ] or (["with the same libraries, on the same kind of machine"] if otherwise is not None else [])
            why = "; ".join([*without, *others]) or "on another kind of machine?"
            return f"it came out different, and was not kept, {at} ({why}): {rebuild['model']}"
        case "failed":
            return f"failed, {at}: {shown(rebuild['failure'])}"
        case outcome:
            return f"{outcome}, {at}"


def progress_words(progress: dict[str, Any] | None) -> str:
    """`(training 120 of 300, loss 0.21, 45 s left)`."""
    if not progress:
        return ""
    if progress.get("waits_for"):
        return f"({waits_words('en', progress['waits_for'])})"
    said = [f"{progress['done']} of {progress['total']}"]
    said += [f"{name} {shown(value)}" for name, value in (progress.get("values") or {}).items()]
    if progress.get("seconds_left") is not None:
        said.append(f"{span(progress['seconds_left'])} left")
    return f"({', '.join(said)})"


def print_gate(checks: list[dict[str, Any]]) -> None:
    """The gate's table, a check a row, whatever columns the gate gives it."""
    columns = list(dict.fromkeys(name for check in checks for name in check))
    print_table(
        [column.replace("_", " ") for column in columns], [[c.get(column) for column in columns] for c in checks]
    )


COMMANDS = [round_group, release_group]
