"""The command line, `noria`. Process commands look at this machine; all the others go through the door."""

import click

from api.cli import (
    backup,
    bases,
    compare,
    data_room,
    documents,
    domains,
    events,
    exam,
    examples,
    keys,
    labels,
    log,
    material,
    people,
    plan,
    preferences,
    processes,
    quarantine,
    queue,
    recall,
    rounds,
    snapshots,
    style,
)
from api.cli.context import Guarded


@click.group(cls=Guarded, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="noria", prog_name="noria")
@click.option("--debug", is_flag=True, help="Show where a fault of noria happened.")
def main(debug: bool) -> None:
    """A wheel that the stream turns: a model that learns from people's corrections, round after round.

    \b
    Start here:
      noria up                     start everything on this machine
      noria status                 what runs, and why the next round has not come yet
      noria chat                   ask
      noria events tail -f         watch the log

    Exit codes: 0 done, 1 refused or failed, 2 used wrongly, 3 not running or not available.
    """


for module in (
    processes,
    keys,
    people,
    log,
    events,
    bases,
    domains,
    exam,
    examples,
    data_room,
    labels,
    documents,
    material,
    queue,
    preferences,
    style,
    recall,
    rounds,
    snapshots,
    plan,
    compare,
    quarantine,
    backup,
):
    for command in module.COMMANDS:
        main.add_command(command)
