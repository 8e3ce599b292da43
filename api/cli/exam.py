"""`noria exam`: the questions that candidates are examined on."""

from pathlib import Path

import click
import msgspec

from api.cli.bringing import FILE, check, retire_command, tell_import
from api.cli.context import domain_option, json_option, print_json, print_table, the_domain, the_door
from api.formats.checking import brought, good
from api.items import read_question
from api.sending import Import


@click.group("exam", short_help="Add the questions that candidates are examined on.")
def exam_group() -> None:
    """A domain's exam. Nothing is ever trained on these questions."""


@exam_group.command("add")
@click.argument("file", type=FILE, metavar="FILE.jsonl")
@click.option("--kind", type=click.Choice(["held-out", "general"]), required=True, help="What the questions examine.")
@domain_option
@json_option
def add(file: Path, kind: str, domain: str | None, as_json: bool) -> None:
    """Add exam questions from a file: one JSON object a line, {"question", "answer", "keys": [...]}.

    Every line is checked first; one that is wrong is named, and nothing is sent. Adding the same again changes nothing, and
    what was added can be retired by the id that is printed.

    \b
    Example: noria exam add quiz.jsonl --kind general --domain road-traffic
    """
    questions = brought(file, read_question)
    checked = check(questions)
    with the_door() as door:
        name = the_domain(door, domain)
        import_ = Import(file.name, "exam", name)
        said = import_.send(
            ((place, msgspec.to_builtins(item) | {"kind": kind.replace("-", "_")}) for place, item in good(questions)),
            lambda batch: door.add_exam(name, batch, import_.id),
        )
    tell_import(said, "questions added", checked, as_json)


@exam_group.command("list")
@domain_option
@json_option
def list_exam(domain: str | None, as_json: bool) -> None:
    """List the questions in force, with their ids. They are shown in clear.

    \b
    Example: noria exam list --domain road-traffic
    """
    with the_door() as door:
        said = door.exam(the_domain(door, domain))
    if as_json:
        print_json(said)
        return
    print_table(
        ["id", "kind", "question", "answer"],
        [[row["item_id"], row["kind"].replace("_", "-"), row["question"], row["answer"]] for row in said["data"]],
        empty="no question in force",
    )
    click.echo(f"{said['retired']} retired, {said['erased']} erased", err=True)


exam_group.add_command(
    retire_command(
        "questions",
        "exam",
        """Retire exam questions: no later exam asks them. A round in flight goes on as it began.

        \b
        Examples:
          noria exam retire 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --reason "two answers are right"
          noria exam retire --import 4be1c0d2f7f14c0f8f2a2b0a5f0f3f11
        """,
    )
)


COMMANDS = [exam_group]
