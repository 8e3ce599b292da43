"""What every command that brings a file shares: what it holds is checked and told before anything is sent, and can be retired."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import click

from api.cli.context import domain_option, json_option, print_json, printable, the_domain, the_door
from api.client import Json
from api.formats.checking import Brought, Checked
from streams.errors import Invalid

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PATH = click.Path(exists=True, path_type=Path)
SHOWN_FAULTS = 10

T = TypeVar("T")


def tell_import(said: Json, done: str, checked: Checked, as_json: bool, formats: Sequence[str] = ()) -> None:
    if as_json:
        print_json(said | counts(checked, formats))
        return
    recorded = f"; recorded at {said['position']} as import {said['import']}" if said["position"] else ""
    click.echo(f"{said['added']} {done}, {said['known']} were there already{recorded}")
    tell_checked(checked)


def counts(checked: Checked, formats: Sequence[str]) -> Json:
    return {
        "set_aside": dict(sorted(checked.aside.items())),
        "faulty": checked.faulty,
        "left_out": dict(sorted(checked.left_out.items())),
        "mended": dict(sorted(checked.mended.items())),
        "formats": list(formats),
    }


def tell_checked(checked: Checked) -> None:
    for words, counts in (
        ("columns that are no part of an item were left in the file", checked.aside),
        ("cleaning mended", checked.mended),
        ("left out, named above", checked.left_out),
    ):
        if counts:
            said = ", ".join(f"{printable(name)} ({number})" for name, number in sorted(counts.items()))
            click.echo(f"{words}: {said}", err=True)
    if checked.faulty:
        click.echo(f"{checked.faulty} items are wrong, and were left in the file", err=True)


def check(found: Brought[T], skip_faulty: bool = False) -> Checked:
    """Read all of it once and name every item that is wrong. Raises Invalid where there is one, or nothing at all."""
    checked = look(found)
    if checked.faulty and not skip_faulty:
        items = checked.faulty + checked.good + checked.left_out.total()
        raise Invalid(f"{checked.faulty} of {items} items of {found.name} are wrong; nothing was sent")
    if not checked.good:
        raise Invalid(f"{found.name} holds nothing{' that is right' if checked.faulty or checked.left_out else ''}")
    return checked


def look(found: Brought[T]) -> Checked:
    checked = Checked()
    for taken in found.items():
        checked.add(taken)
        if taken.fault and checked.faulty <= SHOWN_FAULTS:
            click.echo(f"{found.name} {taken.place}: {printable(taken.fault)}", err=True)
        elif taken.left_out and checked.left_out[taken.left_out] <= SHOWN_FAULTS:
            click.echo(f"{found.name} {taken.place}: left out: {taken.left_out}", err=True)
    return checked


def retire_command(what: str, group: str, help_: str) -> click.Command:
    @click.command("retire", help=help_, short_help=f"Retire {what}, or all of an import.")
    @click.argument("items", nargs=-1, metavar="[ID]...")
    @click.option("--import", "import_id", metavar="IMPORT", help="All that this import brought.")
    @click.option("--reason", default="", metavar="TEXT", help="Why; it stands on the log in clear.")
    @domain_option
    @json_option
    def retire(items: tuple[str, ...], import_id: str | None, reason: str, domain: str | None, as_json: bool) -> None:
        if bool(items) == (import_id is not None):
            raise click.UsageError("give either ids, or an import")
        body: Json = {"items": list(items)} if items else {"import": import_id}
        with the_door() as door:
            said = door.retire(the_domain(door, domain), group, body | {"reason": reason})
        if as_json:
            print_json(said)
            return
        known = f", {said['known']} were already" if said["known"] else ""
        click.echo(f"{said['retired']} {what} retired{known}; recorded at {said['position'] or 'no new place'}")

    return retire
