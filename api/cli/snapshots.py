"""`noria snapshot`: what a round was taught, and why each candidate is in it or not."""

from pathlib import Path
from typing import Any

import click
import msgspec

from api.cli.context import domain_option, json_option, print_json, print_table, short, the_domain, the_door
from api.cli.rounds import find_round
from api.client import Door
from api.formats.writing import write_for_oneself
from api.maps import draw_html, draw_png, legend
from streams.errors import Invalid


@click.group("snapshot", short_help="Training sets: what a round was taught, and why.")
def snapshot_group() -> None:
    """The training sets of rounds: what became of each candidate, by which step, with which number, next to which other."""


@snapshot_group.command("list")
@domain_option
@json_option
def list_(domain: str | None, as_json: bool) -> None:
    """List the training sets that rounds have chosen, the newest first.

    \b
    Example: noria snapshot list --domain road-traffic
    """
    with the_door() as door:
        rows = [row for row in door.rounds(the_domain(door, domain), 1000) if row["snapshot"] is not None]
    names = ("round_id", "number", "snapshot", "kept", "earlier", "dropped", "pairs", "requested_at")
    if as_json:
        print_json([{name: row[name] for name in names} for row in rows])
        return
    print_table(
        ("round", "snapshot", "new", "earlier", "dropped", "pairs"),
        [
            (
                str(row["number"]),
                short(row["snapshot"]),
                str(row["kept"]),
                str(row["earlier"]),
                str(sum((row["dropped"] or {}).values())),
                str(row["pairs"] or 0),
            )
            for row in rows
        ],
        empty="no round has chosen a training set yet",
    )


@snapshot_group.command("show")
@click.argument("round_", metavar="ROUND")
@domain_option
@json_option
def show(round_: str, domain: str | None, as_json: bool) -> None:
    """Show by which steps the training set of ROUND (id or number) was chosen, and how many candidates each kept back.

    \b
    Example: noria snapshot show 2 --domain road-traffic
    """
    with the_door() as door:
        found = door.snapshot(find_round(door, round_, domain)["round_id"])
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['snapshot']}: {found['new']} new and {found['rows'] - found['new']} earlier rows")
    click.echo(f"chosen by {', '.join(step['step'] for step in found['selection'])}")
    for one in found["counts"]:
        why = f"{one['step'] or 'before'}: {one['reason']}" if not one["kept"] else "kept"
        click.echo(f"{one['candidates']:>8}  {one['kind']:<8} {why}")


@snapshot_group.command("diff")
@click.argument("before", metavar="ROUND")
@click.argument("after", metavar="ROUND")
@domain_option
@json_option
def diff(before: str, after: str, domain: str | None, as_json: bool) -> None:
    """Show which candidates fare otherwise in the training set of the second ROUND than in that of the first.

    \b
    Example: noria snapshot diff 1 2 --domain road-traffic
    """
    with the_door() as door:
        first, second = (str(find_round(door, one, domain)["round_id"]) for one in (before, after))
        found = door.snapshot_changes(second, first)
    if as_json:
        print_json(found)
        return
    for one in found:
        click.echo(f"{one['kind']:<8} {one['id']}  {_fares(one['before'])} -> {_fares(one['after'])}")
    if not found:
        click.echo("every candidate fares as before")


@snapshot_group.command("why")
@click.argument("example", metavar="EXAMPLE")
@click.option("--round", "round_", metavar="ROUND", help="In its training set; the newest if left out.")
@domain_option
@json_option
def why(example: str, round_: str | None, domain: str | None, as_json: bool) -> None:
    """Say why EXAMPLE (an id of `noria snapshot export`, a pair, a passage) is in a training set, or is not.

    \b
    Example: noria snapshot why 4be1c0d2f7f14c0f8f2a2b0a5f0f3f11 --domain road-traffic
    """
    with the_door() as door:
        found = _newest(door, domain) if round_ is None else find_round(door, round_, domain)
        lines = door.snapshot_lines(found["round_id"], example)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        beside = f", next to {line['neighbour']}" if line["neighbour"] is not None else ""
        number = f" ({line['number']:g}{beside})" if line["number"] is not None else beside
        step = f" by {line['step']}" if line["step"] else ""
        often = f", shown {line['weight']:g} times" if line["weight"] is not None else ""
        click.echo(f"round {found['number']}: {_fares(line)}{step}{number}{often}")


@snapshot_group.command("export")
@click.argument("round_", metavar="ROUND")
@click.argument("out", type=click.Path(path_type=Path))
@domain_option
def export(round_: str, out: Path, domain: str | None) -> None:
    """Write the rows of ROUND's training set as JSON lines in Alpaca's fields. The file holds people's words in clear.

    \b
    Example: noria snapshot export 2 taught.jsonl --domain road-traffic
    """
    with the_door() as door:
        said = door.snapshot_rows(find_round(door, round_, domain)["round_id"])
    write_for_oneself(out, b"".join(msgspec.json.encode(row) + b"\n" for row in said["data"]))
    click.echo(f"{len(said['data'])} rows written to {out}; {said['erased']} open no more", err=True)


@snapshot_group.command("map")
@click.argument("round_", metavar="ROUND")
@click.option("--png", type=click.Path(path_type=Path), help="Write it as a picture, without words.")
@click.option(
    "--html", type=click.Path(path_type=Path), help="Write it as a page that shows each one's words, in clear."
)
@domain_option
def map_(round_: str, png: Path | None, html: Path | None, domain: str | None) -> None:
    """Draw the examples of ROUND's training set, near to each other where they mean the same, coloured by what became of them.

    \b
    Example: noria snapshot map 2 --png map.png --html map.html --domain road-traffic
    """
    if png is None and html is None:
        raise click.UsageError("say where to write it: --png FILE, --html FILE or both")
    with the_door() as door:
        found = door.snapshot_map(find_round(door, round_, domain)["round_id"])
    if png is not None:
        write_for_oneself(png, draw_png(found))
    if html is not None:
        write_for_oneself(html, draw_html(found).encode())
    for step, _, n in legend(found):
        click.echo(f"{n:>8}  {f'kept back by {step}' if step else 'kept'}")
    if found["left_out"]:
        click.echo(f"{found['left_out']:>8}  not on the map", err=True)


def _newest(door: Door, domain: str | None) -> dict[str, Any]:
    name = the_domain(door, domain)
    for row in door.rounds(name, 1000):
        if row["snapshot"] is not None:
            return row
    raise Invalid(f"no round of {name} has chosen a training set yet")


def _fares(line: dict[str, Any] | None) -> str:
    if line is None:
        return "no candidate"
    return "kept" if line["kept"] else str(line["reason"])


COMMANDS = [snapshot_group]
