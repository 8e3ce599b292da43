"""`noria compare`."""

import time

import click

from api.cli.context import domain_option, json_option, moment, print_json, print_table, shown, the_domain, the_door
from api.client import Door, Json
from api.comparing import comparison_table
from streams.errors import Invalid

_LOOK_EVERY_S = 1.0


@click.command("compare")
@domain_option
@click.option("--wait", is_flag=True, help="Wait until it is made, and print the table.")
@json_option
def compare(domain: str | None, wait: bool, as_json: bool) -> None:
    """Compare the base model with the live release, each bare and with what is recalled, on corrections and exam.

    What was answered before, in a round or a comparison, is not asked again. It waits its turn behind a round that is under way.

    \b
    Example: noria compare --domain road-traffic --wait
    """
    with the_door() as door:
        name = the_domain(door, domain)
        said = door.compare(name)
        if not wait:
            if as_json:
                print_json(said)
            else:
                words = "one is under way" if said["known"] else f"asked for; recorded at {said['position']}"
                click.echo(f"{words}. The table: noria compare --domain {name} --wait")
            return
        row = _ended(door, name, said["position"])
    if row["outcome"] != "made":
        raise Invalid(f"the comparison came to nothing ({row['outcome']}): {shown(row['failure'])}")
    if as_json:
        print_json(row)
        return
    heads, lines = comparison_table(row, "en")
    print_table(heads, lines)
    click.echo(
        f"base model and {name}@{row['release']}, {moment(row['ended_at'])}; right answers with 95 % intervals (Wilson)",
        err=True,
    )


def _ended(door: Door, domain: str, position: str | None) -> Json:
    """The newest comparison, once it has ended: the one that was asked for, or the one that was under way then."""
    while True:
        row = next(iter(door.comparisons(domain, limit=1, after=position)), None)
        if row is None:
            raise Invalid("the domain did not take it up: it has been retired, or nothing answers there any more")
        if row["outcome"] != "under_way":
            return row
        time.sleep(_LOOK_EVERY_S)


COMMANDS = [compare]
