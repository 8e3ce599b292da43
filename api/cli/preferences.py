"""`noria preferences`: what people prefer, shown and taken elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from api.cli.bringing import PATH, check, retire_command, tell_import
from api.cli.context import domain_option, json_option, print_json, the_domain, the_door
from api.client import Json
from api.formats import label_studio
from api.formats.checking import brought, good
from api.formats.writing import write_for_oneself
from api.items import Preference, Read, read_preference
from api.preference_files import llamafactory_folder, trl_preferences, trl_unpaired
from api.sending import Import


@click.group("preferences", short_help="What people prefer: pairs, and what is held back.")
def preferences_group() -> None:
    """What people's picks, orders, ratings and corrections come to."""


def _share_option(command: click.decorators.FC) -> click.decorators.FC:
    return click.option(
        "--person-share",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="SHARE",
        help="How many of the pairs may rest on one person alone (0.5).",
    )(command)


@preferences_group.command("show")
@_share_option
@domain_option
@json_option
def show(person_share: float | None, domain: str | None, as_json: bool) -> None:
    """Say how many pairs there are, and what is held back and why.

    \b
    Example: noria preferences show --domain road-traffic
    """
    with the_door() as door:
        said = door.preferences(the_domain(door, domain), person_share)
    rankings = len({pair["ranking"] for pair in said["pairs"]})
    if as_json:
        print_json(
            {"pairs": len(said["pairs"]), "rankings": rankings, "labels": len(said["labels"]), "held": said["held"]}
        )
        return
    by_guide = sum(pair["by_guide"] for pair in said["pairs"])
    of_these = f", {by_guide} of them by the style guide" if by_guide else ""
    click.echo(
        f"{len(said['pairs'])} pairs of {rankings} questions{of_these}; {len(said['labels'])} answers good or bad"
    )
    for reason, number in said["held"].items():
        click.echo(f"{number:>6}  {reason}")


@preferences_group.command("export")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--unpaired", is_flag=True, help="Answers with whether they are good (KTO), instead of pairs.")
@click.option(
    "--llamafactory", is_flag=True, help="Make OUT a folder of LLaMA-Factory's: a ranking and a KTO data set."
)
@_share_option
@domain_option
def export(out: Path, unpaired: bool, llamafactory: bool, person_share: float | None, domain: str | None) -> None:
    """Export the pairs as JSON lines that trl reads (prompt, chosen, rejected). The file holds people's words in clear.

    \b
    Examples:
      noria preferences export pairs.jsonl --domain road-traffic
      noria preferences export factory --llamafactory --domain road-traffic
    """
    if unpaired and llamafactory:
        raise click.UsageError("--llamafactory makes both")
    with the_door() as door:
        said = door.preferences(the_domain(door, domain), person_share)
    pairs, labels = said["pairs"], said["labels"]
    held = f"; {sum(said['held'].values())} held back (noria preferences show)"
    if llamafactory:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, words in llamafactory_folder(pairs, labels).items():
            write_for_oneself(out / name, words.encode())
        click.echo(f"{len(pairs)} pairs and {len(labels)} labels written to {out}{held}", err=True)
        return
    rows: Sequence[Json] = trl_unpaired(labels) if unpaired else trl_preferences(pairs)
    write_for_oneself(out, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    click.echo(f"{len(rows)} {'labels' if unpaired else 'pairs'} written to {out}{held}", err=True)


@preferences_group.command("import")
@click.argument("file", type=PATH, metavar="FILE|FOLDER")
@click.option("-p", "--person", metavar="ID", help="Whose words they are; the key's own name if left out.")
@domain_option
@json_option
def import_(file: Path, person: str | None, domain: str | None, as_json: bool) -> None:
    """Import pairs, or answers with whether they are good: rows of trl's preference and unpaired sets, or of LLaMA-Factory's
    ranking and KTO files, or a folder of its; or tasks of Label Studio in which answers were compared or ranked. Importing the same
    again changes nothing.

    Every item is checked first; one that is wrong is named, and nothing is sent. What was imported can be taken back by the id
    that is printed.

    \b
    Example: noria preferences import pairs.jsonl --person team-a --domain road-traffic
    """
    found = brought(file, _read)
    checked = check(found)
    with the_door() as door:
        name = the_domain(door, domain)
        sending = Import(file.name, "preferences", name)
        said = sending.send(
            ((place, _row(item)) for place, item in good(found)),
            lambda batch: door.import_preferences(name, batch, person, sending.id),
        )
    tell_import(said, "preferences imported", checked, as_json, found.formats)


def _row(item: Preference) -> Json:
    prompt = msgspec.to_builtins(item.messages)
    if item.good is not None:
        return {"prompt": prompt, "completion": item.answers[0], "label": item.good}
    return {"prompt": prompt, "ranked": list(item.answers)}


def _read(raw: Any) -> Read[Preference]:
    """A row of any of these files. Raises ItemFault, LeftOut."""
    return read_preference(label_studio.preference(raw) if label_studio.holds_preference(raw) else raw)


preferences_group.add_command(
    retire_command(
        "preferences",
        "preferences",
        """Retire preferences that were imported: no later round learns them.

        \b
        Example: noria preferences retire --import 4be1c0d2f7f14c0f8f2a2b0a5f0f3f11
        """,
    )
)

COMMANDS = [preferences_group]
