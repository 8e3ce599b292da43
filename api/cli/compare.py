"""`noria compare`."""

import time
from collections.abc import Callable

import click

from api.cli.context import domain_option, json_option, moment, print_json, print_table, shown, the_domain, the_door
from api.client import Json
from streams.errors import Invalid

_LOOK_EVERY_S = 1.0
_wait_option = click.option("--wait", is_flag=True, help="Wait until it is made, and print the table.")


@click.group("compare", invoke_without_command=True, short_help="Compare base model and live release, or bases.")
@domain_option
@_wait_option
@json_option
@click.pass_context
def compare(context: click.Context, domain: str | None, wait: bool, as_json: bool) -> None:
    """Compare the base model with the live release, each bare and with what is recalled, on corrections and exam.

    What was answered before, in a round or a comparison, is not asked again. It waits its turn behind a round that is under way.

    \b
    Example: noria compare --domain road-traffic --wait
    """
    if context.invoked_subcommand is not None:
        return
    with the_door() as door:
        name = the_domain(door, domain)
        said = door.compare(name)
        if not wait:
            _asked(said, f"noria compare --domain {name} --wait", as_json)
            return
        row = _ended(lambda: door.comparisons(name, limit=1, after=said["position"]))
    if as_json:
        print_json(row)
        return
    from api.comparing import comparison_table

    heads, lines = comparison_table(row, "en")
    print_table(heads, lines)
    click.echo(
        f"base model and {name}@{row['release']}, {moment(row['ended_at'])}; right answers with 95 % intervals (Wilson)",
        err=True,
    )


@compare.command("bases")
@click.argument("bases", metavar="BASE...", nargs=-1, required=True)
@domain_option
@_wait_option
@json_option
def compare_bases(bases: tuple[str, ...], domain: str | None, wait: bool, as_json: bool) -> None:
    """Compare bases with each other and with the domain's own, on what the domain asks: the table for choosing one, in Markdown.

    Each answers corrections and exam, bare; an engine of it is timed and weighed, its tokenizer read on the domain's text, and what
    a round would take here is reckoned. It waits its turn behind a round that is under way.

    \b
    Example: noria compare bases qwen3 glm4 --domain road-traffic --wait
    """
    with the_door() as door:
        name = the_domain(door, domain)
        said = door.compare_bases(name, bases)
        if not wait:
            _asked(said, f"noria compare bases {' '.join(bases)} --domain {name} --wait", as_json)
            return
        row = _ended(lambda: door.base_comparisons(name, limit=1, after=said["position"]))
    if as_json:
        print_json(row)
        return
    from api.comparing import base_table, markdown

    click.echo(markdown(*base_table(row, "en")))
    click.echo(f"for {name}, {moment(row['ended_at'])}; right answers with 95 % intervals (Wilson)", err=True)


def _asked(said: Json, again: str, as_json: bool) -> None:
    if as_json:
        print_json(said)
        return
    words = "one is under way" if said["known"] else f"asked for; recorded at {said['position']}"
    click.echo(f"{words}. The table: {again}")


def _ended(newest: Callable[[], list[Json]]) -> Json:
    """The newest comparison, once it has been made: the one that was asked for, or the one that was under way then."""
    while True:
        row = next(iter(newest()), None)
        if row is None:
            raise Invalid("the domain did not take it up: it has been retired, or nothing answers there any more")
        if row["outcome"] != "under_way":
            break
        time.sleep(_LOOK_EVERY_S)
    if row["outcome"] != "made":
        raise Invalid(f"the comparison came to nothing ({row['outcome']}): {shown(row['failure'])}")
    return row


COMMANDS = [compare]
