"""`noria triples`, `noria seeds`, `noria build`, and what people say of proposed examples (`noria examples`)."""

import time
from pathlib import Path

import click
import msgspec

from api.cli.bringing import FILE, check, retire_command, tell_import
from api.cli.context import (
    REFUSED,
    domain_option,
    json_option,
    moment,
    print_json,
    print_table,
    printable,
    shown,
    the_domain,
    the_door,
)
from api.cli.examples import examples_group
from api.cli.triple_files import read_triples
from api.client import Json
from api.formats.checking import Checked, brought, good
from api.items import read_seed
from api.sending import Import
from streams.builders import BUILDERS
from streams.errors import Invalid

_LOOK_EVERY_S = 1.0


@click.group("triples", short_help="Bring the facts of a knowledge graph.")
def triples_group() -> None:
    """Facts as subject, predicate and object, of which `noria build self-kg` makes examples."""


@triples_group.command("add")
@click.argument("file", type=FILE)
@domain_option
@json_option
@click.pass_context
def add_triples(context: click.Context, file: Path, domain: str | None, as_json: bool) -> None:
    """Add triples from CSV (a header with subject, predicate, object), JSON lines or RDF (.ttl, .nt, .n3, .rdf, .xml, .jsonld).

    A line that is wrong is named, the others are added, and the exit code is 1. Adding the same again changes nothing, and what
    was added can be retired by the id that is printed.

    \b
    Example: noria triples add facts.csv --domain road-traffic
    """
    found = read_triples(file)
    for fault in found.faults:
        click.echo(f"{file.name} {printable(fault)}", err=True)
    if not found.triples:
        raise Invalid(f"{file.name} holds no triple that can be read; nothing was sent")
    with the_door() as door:
        name = the_domain(door, domain)
        sending = Import(file.name, "triples", name)
        items = ((place, msgspec.to_builtins(triple)) for place, triple in found.triples)
        said = sending.send(items, lambda batch: door.add_triples(name, batch, sending.id))
    tell_import(said, "triples added", Checked(good=len(found.triples), faulty=len(found.faults)), as_json)
    if found.faults:
        context.exit(REFUSED)


@triples_group.command("list")
@domain_option
@json_option
def list_triples(domain: str | None, as_json: bool) -> None:
    """List the triples in force, with their ids.

    \b
    Example: noria triples list --domain road-traffic
    """
    with the_door() as door:
        said = door.triples(the_domain(door, domain))
    if as_json:
        print_json(said)
        return
    columns = ["triple_id", "subject", "predicate", "object"]
    print_table(columns, [[row[name] for name in columns] for row in said["data"]], empty="no triple in force")
    click.echo(f"{said['retired']} retired, {said['erased']} erased", err=True)


triples_group.add_command(
    retire_command(
        "triples",
        "triples",
        """Retire triples: no later build reads them. What was proposed of them stays, until it is rejected.

        \b
        Example: noria triples retire --import 4be1c0d2f7f14c0f8f2a2b0a5f0f3f11
        """,
    )
)


@click.group("seeds", short_help="Bring what people wrote for builders to start from.")
def seeds_group() -> None:
    """Legal syllogisms (`noria build syllogism`), tasks (`self-instruct`) and questions to decline (`declining`)."""


@seeds_group.command("add")
@click.argument("file", type=FILE, metavar="FILE.jsonl")
@domain_option
@json_option
def add_seeds(file: Path, domain: str | None, as_json: bool) -> None:
    """Add seeds, one JSON object a line; its fields tell its kind.

    \b
    a syllogism  {"major": {"law", "article", "rule"}, "minor", "conclusion": {"article", "result"}}
    a task       {"instruction", "instances": [{"input", "output"}], "is_classification"}
    to decline   {"question"}

    Every line is checked first; one that is wrong is named, and nothing is sent. The conclusion of a syllogism must rest on the
    article of its major premise.

    \b
    Example: noria seeds add syllogisms.jsonl --domain road-traffic
    """
    seeds = brought(file, read_seed)
    checked = check(seeds)
    with the_door() as door:
        name = the_domain(door, domain)
        sending = Import(file.name, "seeds", name)
        items = ((place, msgspec.to_builtins(item)) for place, item in good(seeds))
        said = sending.send(items, lambda batch: door.add_seeds(name, batch, sending.id))
    tell_import(said, "seeds added", checked, as_json)


@seeds_group.command("list")
@domain_option
@json_option
def list_seeds(domain: str | None, as_json: bool) -> None:
    """List the seeds in force, with their ids.

    \b
    Example: noria seeds list --domain road-traffic
    """
    with the_door() as door:
        said = door.seeds(the_domain(door, domain))
    if as_json:
        print_json(said)
        return
    rows = [[row["seed_id"], row["kind"], _seed_words(row)] for row in said["data"]]
    print_table(["id", "kind", "says"], rows, empty="no seed in force")
    click.echo(f"{said['retired']} retired, {said['erased']} erased", err=True)


def _seed_words(row: Json) -> str:
    if row["kind"] == "syllogism":
        return f"{row['major']['law']} {row['major']['article']}: {row['minor']}"
    return str(row["instruction" if row["kind"] == "task" else "question"])


seeds_group.add_command(
    retire_command(
        "seeds",
        "seeds",
        """Retire seeds: no later build reads them. What was proposed of them stays, until it is rejected.

        \b
        Example: noria seeds retire --import 4be1c0d2f7f14c0f8f2a2b0a5f0f3f11
        """,
    )
)


@click.group("build", short_help="Make proposed examples of triples, syllogisms and documents.")
def build_group() -> None:
    """Builders propose examples; nothing is learned of them until a person accepts them (`noria examples`)."""


def _builder_command(name: str, help_: str) -> click.Command:
    @click.command(name, help=f"{help_}\n\n\b\nExample: noria build {name} --domain road-traffic --wait")
    @click.option("--most", type=click.IntRange(1), metavar="N", help="Propose no more than so many.")
    @click.option("--wait", is_flag=True, help="Wait until it is made, and say what came of it.")
    @domain_option
    @json_option
    def build(most: int | None, wait: bool, domain: str | None, as_json: bool) -> None:
        with the_door() as door:
            into = the_domain(door, domain)
            said = door.build(into, name, most)
            if not wait:
                if as_json:
                    print_json(said)
                    return
                words = "it is under way" if said["known"] else f"asked for; recorded at {said['position']}"
                click.echo(f"{words}. What came of it: noria build show {said['build_id']} --domain {into}")
                return
            door.builds(into, limit=1, after=said["position"])
            while (row := door.shown_build(into, said["build_id"]))["outcome"] == "under_way":
                time.sleep(_LOOK_EVERY_S)
        if row["outcome"] != "made":
            raise Invalid(f"the build came to nothing ({row['outcome']}): {shown(row['failure'])}")
        _tell_build(row, into, as_json)

    return build


for _name, _help in (
    (
        "self-kg",
        "Questions and answers from triples, by templates in both languages; one hop, and two that share an entity.",
    ),
    ("syllogism", "Examples in three steps from the syllogisms that were brought as seeds."),
    ("cases", "More syllogisms: cases that the teacher makes up for the articles of documents."),
    ("self-instruct", "Tasks like those that were brought as seeds, and answers, by the teacher (Self-Instruct)."),
    ("declining", "How the domain declines the questions that were brought as seeds, in the words of its policy."),
    ("style", "Accepted answers as the policy's style asks for them, worded by the teacher."),
    ("rewordings", "Accepted examples as others ask them: from people's prompts, and from a teacher if there is one."),
    (
        "self-qa",
        "Questions and answers from the passages of documents, by the teacher that the policy names (Self-QA).",
    ),
):
    assert _name in BUILDERS
    build_group.add_command(_builder_command(_name, _help))


@build_group.command("list")
@domain_option
@json_option
def list_builds(domain: str | None, as_json: bool) -> None:
    """List the builds, the newest first.

    \b
    Example: noria build list --domain road-traffic
    """
    with the_door() as door:
        rows = door.builds(the_domain(door, domain))
    if as_json:
        print_json(rows)
        return
    print_table(
        ["id", "builder", "asked", "outcome", "proposed", "dropped"],
        [
            [
                row["build_id"],
                row["builder"],
                moment(row["asked_at"]),
                row["outcome"],
                shown(row["proposed"]),
                str(sum((row["dropped"] or {}).values())),
            ]
            for row in rows
        ],
        empty="no build yet",
    )


@build_group.command("show")
@click.argument("build_id", metavar="BUILD")
@domain_option
@json_option
def show_build(build_id: str, domain: str | None, as_json: bool) -> None:
    """Show what came of a build, or how far it is.

    \b
    Example: noria build show 0c7d8e6e-4f0a-5a43-8a1a-0f6f6d3a9b11 --domain road-traffic
    """
    with the_door() as door:
        name = the_domain(door, domain)
        row = door.shown_build(name, build_id)
    _tell_build(row, name, as_json)


@build_group.command("undo")
@click.argument("build_id", metavar="BUILD")
@domain_option
@json_option
def undo_build(build_id: str, domain: str | None, as_json: bool) -> None:
    """Reject all that a build proposed, and retire what was accepted of it. A release that has learned it does not unlearn it.

    \b
    Example: noria build undo 0c7d8e6e-4f0a-5a43-8a1a-0f6f6d3a9b11 --domain road-traffic
    """
    with the_door() as door:
        said = door.undo_build(the_domain(door, domain), build_id)
    _tell_decided(said, as_json)


@examples_group.command("proposed")
@click.option("--build", "build_id", metavar="BUILD", help="Of this build only.")
@click.option(
    "--state",
    type=click.Choice(["proposed", "accepted", "edited", "rejected", "all"]),
    default="proposed",
    show_default=True,
    help="What was said of them.",
)
@click.option("--limit", type=click.IntRange(1, 5000), default=100, show_default=True, help="At most so many.")
@domain_option
@json_option
def proposed(build_id: str | None, state: str, limit: int, domain: str | None, as_json: bool) -> None:
    """List proposed examples, with their ids. They are shown in clear.

    \b
    Example: noria examples proposed --domain road-traffic
    """
    with the_door() as door:
        said = door.proposals(the_domain(door, domain), state, build_id, limit)
    if as_json:
        print_json(said)
        return
    rows = [[row["proposal_id"], row["builder"], row["state"], _asked(row), row["output"]] for row in said["data"]]
    print_table(["id", "builder", "state", "asks", "answers"], rows, empty="none")
    if said["next"] is not None:
        click.echo(f"there are more than {limit}: --limit", err=True)


@examples_group.command("accept")
@click.argument("proposals", nargs=-1, metavar="[ID]...")
@click.option("--build", "build_id", metavar="BUILD", help="All of this build that nobody has decided on.")
@domain_option
@json_option
def accept(proposals: tuple[str, ...], build_id: str | None, domain: str | None, as_json: bool) -> None:
    """Accept proposed examples: the next rounds learn them. One that was rejected may be accepted, too.

    \b
    Examples:
      noria examples accept 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --domain road-traffic
      noria examples accept --build 0c7d8e6e-4f0a-5a43-8a1a-0f6f6d3a9b11 --domain road-traffic
    """
    body = _named(proposals, build_id)
    with the_door() as door:
        said = door.decide(the_domain(door, domain), "accept", body)
    _tell_decided(said, as_json)


@examples_group.command("reject")
@click.argument("proposals", nargs=-1, metavar="[ID]...")
@click.option("--build", "build_id", metavar="BUILD", help="All of this build that nobody has decided on.")
@click.option("--reason", default="", metavar="TEXT", help="Why; it stands on the log in clear.")
@domain_option
@json_option
def reject(proposals: tuple[str, ...], build_id: str | None, reason: str, domain: str | None, as_json: bool) -> None:
    """Reject proposed examples. What became an example by one that is named is retired.

    \b
    Example: noria examples reject 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --reason "the article is repealed" --domain road-traffic
    """
    body = _named(proposals, build_id)
    with the_door() as door:
        said = door.decide(the_domain(door, domain), "reject", body | {"reason": reason})
    _tell_decided(said, as_json)


def _named(proposals: tuple[str, ...], build_id: str | None) -> Json:
    if bool(proposals) == (build_id is not None):
        raise click.UsageError("give either ids, or a build")
    return {"proposals": list(proposals)} if proposals else {"build": build_id}


def _asked(row: Json) -> str:
    return f"{row['instruction']} {row['input']}".strip()


def _tell_decided(said: Json, as_json: bool) -> None:
    if as_json:
        print_json(said)
        return
    done = [f"{said[name]} {name}" for name in ("accepted", "rejected", "retired") if said.get(name)]
    known = f", {said['known']} were already" if said["known"] else ""
    known += f", {said['held']} are left to the annotators who judge them" if said.get("held") else ""
    click.echo(f"{', '.join(done) or 'nothing to do'}{known}; recorded at {said['position'] or 'no new place'}")


def _tell_build(row: Json, domain: str, as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    if row["outcome"] == "under_way":
        progress = row["progress"]
        so_far = f": {progress['done']} of {progress['total']}" if progress else ""
        click.echo(f"under way{so_far}")
        return
    if row["outcome"] != "made":
        click.echo(f"{row['outcome']}: {shown(row['failure'])}")
        return
    asked = row["calls"] + row["cached"]
    calls = f"; {row['calls']} calls, {row['cached']} kept answers, {row['tokens']} tokens" if asked else ""
    click.echo(f"{row['proposed']} proposed, {row['known']} known before, {row['duration_s']:g} s{calls}")
    for reason, number in row["dropped"].items():
        click.echo(f"{number:>6}  {reason}")
    click.echo(f"look at them: noria examples proposed --build {row['build_id']} --domain {domain}", err=True)


COMMANDS = [triples_group, seeds_group, build_group]
