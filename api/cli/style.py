"""`noria style`: pairs of answers made by the domain's style guide."""

import click

from api.cli.context import domain_option, json_option, print_json, the_domain, the_door


@click.group("style", short_help="Pairs of answers by the domain's style guide.")
def style_group() -> None:
    """The style guide of a domain (`style` of its policy) as pairs of answers."""


@style_group.command("pairs")
@domain_option
@json_option
def pairs(domain: str | None, as_json: bool) -> None:
    """Make pairs of the answers that are there: of two to one prompt, which keeps more of the guide. No teacher is asked.

    They are learned as what people prefer is, where people say nothing of the two. Making the same again changes nothing; what
    was made can be taken back by the id that is printed.

    \b
    Examples:
      noria style pairs --domain road-traffic
      noria policy set 'style=[{"rule": "at_most_words", "value": 30}, {"rule": "no_opener"}]' --domain road-traffic
      noria preferences retire --import 4be1c0d2f7f14c0f8f2a2b0a5f0f3f11 --domain road-traffic
    """
    with the_door() as door:
        said = door.style_pairs(the_domain(door, domain))
    if as_json:
        print_json(said)
        return
    recorded = f"; recorded at {said['position']} as import {said['import']}" if said["position"] else ""
    click.echo(
        f"{said['added']} pairs made of the answers to {said['prompts']} prompts,"
        f" {said['known']} were there already{recorded}"
    )


COMMANDS = [style_group]
