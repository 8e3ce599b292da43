"""The data room (`noria examples`): all of a domain's examples as one table, the story of one, and decisions on many at once."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from api.cli.context import (
    domain_option,
    json_option,
    moment,
    print_json,
    print_table,
    shown,
    the_domain,
    the_door,
)
from api.cli.examples import examples_group
from api.client import Json
from streams.errors import Invalid

F = TypeVar("F", bound=Callable[..., Any])
STATES = ("accepted", "proposed", "rejected", "retired", "erased", "masked")


def filter_options(command: F) -> F:
    for option in (
        click.option("--text", metavar="TEXT", help="With this in its question or answer; case is passed over."),
        click.option("--brought", metavar="ID", help="That came by this import, build or decision."),
        click.option("--person", metavar="ID", help="That this person said, or decided on."),
        click.option("--source", metavar="SOURCE", help="correction, import, or the name of a builder."),
        click.option(
            "--state", type=click.Choice(STATES), help="As it stands; masked: accepted, and a training masks something."
        ),
    ):
        command = option(command)
    return command


@examples_group.command("list")
@filter_options
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--before", type=int, metavar="PLACE", help="Go on from where the last page ended.")
@domain_option
@json_option
def list_examples(limit: int, before: int | None, domain: str | None, as_json: bool, **wanted: str | None) -> None:
    """List examples and proposals, the newest first, in clear, with how many there are of each source and state.

    \b
    Examples:
      noria examples list --state proposed --source self-kg --domain road-traffic
      noria examples list --text helmet --json --domain road-traffic
    """
    with the_door() as door:
        said = door.examples_table(the_domain(door, domain), wanted, limit, before)
    if as_json:
        print_json(said)
        return
    rows = [
        [row["id"], row["state"], row["source"], row["person"], row["question"], row["answer"]] for row in said["data"]
    ]
    print_table(["id", "state", "source", "person", "asks", "answers"], rows, empty="none")
    if said["counts"] is not None:
        counts = [f"{one['n']} {one['source']} {one['state']}" for one in said["counts"]]
        click.echo(f"of all texts: {', '.join(counts) or 'none'}", err=True)
    if said["stopped"]:
        click.echo(f"the search stopped after {said['searched']} of them", err=True)
    if said["next"] is not None:
        click.echo(f"there are more: --before {said['next']}", err=True)


@examples_group.command("show")
@click.argument("example_id", metavar="ID")
@domain_option
@json_option
def show(example_id: str, domain: str | None, as_json: bool) -> None:
    """Show one example, or proposal: its words, where it came from, who touched it and when, and what has learned it.

    \b
    Example: noria examples show 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --domain road-traffic
    """
    with the_door() as door:
        story = door.example(the_domain(door, domain), example_id)
    if as_json:
        print_json(story)
        return
    for turn in story["messages"] or [{"role": "words", "content": "erased"}]:
        click.echo(f"{turn['role']}: {shown(turn['content'])}")
    click.echo(f"assistant: {shown(story['answer'])}")
    click.echo(f"\n{story['state']}{', edited' if story['edited'] else ''}")
    came = {name: value for name, value in story["came_from"].items() if name != "made_of" and value is not None}
    click.echo("came from " + ", ".join(f"{name} {shown(value)}" for name, value in came.items()))
    for one in story["came_from"].get("made_of", ()):
        click.echo(f"  made of {_source(one)}")
    rows = [
        [moment(one["at"]), one["what"], one["by"], one.get("reason"), one["position"], one["in"]]
        for one in story["happened"]
    ]
    print_table(["when", "what", "by", "reason", "position", "in"], rows)
    if story["learned"]:
        print_table(
            ["round", "step", "release", "answers now", "snapshot"],
            [[one["number"], one["step"], one["release"], one["answers"], one["snapshot"]] for one in story["learned"]],
        )
    else:
        click.echo("no round has learned it")


def _source(one: Json) -> str:
    if one.get("gone"):
        return f"a {one['kind']} that is gone"
    match one["kind"]:
        case "passage":
            return f"a passage of {shown(one['title'])}, {shown(one['place'])}: {shown(one['text'])}"
        case kind:
            return f"a {kind}: " + shown(one[kind])


@examples_group.command("decide")
@click.argument("verb", type=click.Choice(["accept", "reject", "retire"]))
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filter_options
@click.option("--reason", default="", metavar="TEXT", help="Why; it stands on the log in clear.")
@click.option("--yes", is_flag=True, help="Do not ask whether that many are meant.")
@domain_option
@json_option
def decide(
    verb: str,
    ids: tuple[str, ...],
    reason: str,
    yes: bool,
    domain: str | None,
    as_json: bool,
    **wanted: str | None,
) -> None:
    """Accept, reject or retire many at once: by their ids, or all that a filter finds. It is one decision, which
    `noria examples undo` takes back.

    \b
    Examples:
      noria examples decide reject --source self-qa --text "this article" --domain road-traffic
      noria examples decide retire 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --reason "repealed" --domain road-traffic
    """
    given = {name: value for name, value in wanted.items() if value}
    if bool(ids) == bool(given):
        raise click.UsageError("give either ids, or a filter")
    body: Json = {"verb": verb, "reason": reason}
    with the_door() as door:
        name = the_domain(door, domain)
        if ids:
            body["ids"] = list(ids)
        else:
            body |= {"filter": given, "count": _counted(door.examples_table(name, given, 1000), given)}
            if not yes:
                click.confirm(f"{verb} {body['count']} of them?", abort=True, err=True)
        said = door.decide_examples(name, body)
    _tell(said, as_json)


def _counted(page: Json, given: Json) -> int:
    """How many the filter finds. Raises Invalid where a search cannot say."""
    if "text" not in given and given.get("state") != "masked":
        return sum(one["n"] for one in page["counts"])
    if page["next"] is not None:
        raise Invalid("there are more than 1000 of them, or the search ended before they did; narrow the filter")
    return len(page["data"])


@examples_group.command("undo")
@click.argument("decision", metavar="ID")
@domain_option
@json_option
def undo(decision: str, domain: str | None, as_json: bool) -> None:
    """Take back a decision, or an import. What it accepted is retired, what it decided is open again, and what it retired comes
    again, as a new item with the same words. A release that has learned something does not unlearn it.

    \b
    Example: noria examples undo decision-5f6d0a1e4c7b4b7f9a4e5c1d2b3a4f60 --domain road-traffic
    """
    with the_door() as door:
        said = door.undo_decision(the_domain(door, domain), decision)
    _tell(said, as_json)


def _tell(said: Json, as_json: bool) -> None:
    if as_json:
        print_json(said)
        return
    done = [f"{said[name]} {name}" for name in ("accepted", "rejected", "retired", "reopened") if said[name]]
    known = f", {said['known']} passed over" if said["known"] else ""
    known += f", {said['held']} left to the annotators who judge them" if said.get("held") else ""
    click.echo(f"{', '.join(done) or 'nothing to do'}{known}")
    if said["position"]:
        click.echo(f"recorded at {said['position']}; to take it back: noria examples undo {said['decision']}", err=True)


COMMANDS: list[click.Command] = []
