"""`noria domain` and `noria policy`."""

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from api.cli.context import (
    confirm_by_name,
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
from api.cli.files import read_text
from api.client import Json
from streams.engines import ENGINES
from streams.errors import Invalid

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("domain", short_help="Create, list and show domains.")
def domain_group() -> None:
    """Domains: each has its own people, data, policy, exam and releases."""


@domain_group.command("create")
@click.argument("domain")
@click.option("--title", help="How people call it.")
@click.option(
    "--language", "languages", multiple=True, metavar="TAG", help="A language tag like en or zh; may be repeated."
)
@click.option("--system-prompt", metavar="TEXT", help="Said to the model before every conversation.")
@click.option("--base", "--base-model", "base_model", metavar="NAME", help="A base (`noria base list`), or a digest.")
@click.option("--engine", type=click.Choice(list(ENGINES)), help="What serves it.")
@click.option(
    "--replay-prompts", type=FILE, metavar="FILE", help="General prompts, one a line: what must not be forgotten."
)
@click.option("--policy", type=FILE, metavar="FILE", help="A policy in JSON; the default policy otherwise.")
@click.option("--opening", is_flag=True, help="Begin with a round that teaches to use what is recalled.")
@json_option
def create(
    domain: str,
    title: str | None,
    languages: tuple[str, ...],
    system_prompt: str | None,
    base_model: str | None,
    engine: str | None,
    replay_prompts: Path | None,
    policy: Path | None,
    opening: bool,
    as_json: bool,
) -> None:
    """Create DOMAIN (a-z, 0-9 and -). Its release 0 is the base model.

    \b
    Example: noria domain create hospital-devices --title "Hospital devices" --language en --language zh
    """
    body: Json = {
        "domain": domain,
        "title": title,
        "languages": list(languages) or None,
        "system_prompt": system_prompt,
        "base_model": base_model,
        "engine": engine,
        "replay_prompts": _lines(replay_prompts) if replay_prompts is not None else None,
        "policy": _object_in(policy) if policy is not None else None,
        "opening": opening or None,
    }
    with the_door() as door:
        said = door.create_domain({name: value for name, value in body.items() if value is not None})
    if as_json:
        print_json(said)
    else:
        click.echo(f"{domain} created; recorded at {said.get('position')}")


@domain_group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List domains.

    \b
    Example: noria domain list
    """
    with the_door() as door:
        rows = door.domains()
    if as_json:
        print_json({"data": rows})
        return
    told = ("domain", "title", "languages", "live_release", "corrections", "people")
    print_table(
        [*(name.replace("_", " ") for name in told), "retired"],
        [[*(row[name] for name in told), moment(row.get("retired_at"))] for row in rows],
        empty="no domain yet; make one with `noria domain create`",
    )


@domain_group.command("retire")
@click.argument("domain")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for the name again.")
@json_option
def retire(domain: str, yes: bool, as_json: bool) -> None:
    """Retire DOMAIN: it takes no chats and begins no rounds any more, and its engines stop. It cannot be undone; its log stays.

    \b
    Example: noria domain retire hospital-devices --yes
    """
    if not yes:
        confirm_by_name(f"{printable(domain)} will answer nobody any more, for good. Its log stays.", domain, "retired")
    with the_door() as door:
        said = door.retire_domain(domain)
    if as_json:
        print_json(said)
    elif said["known"]:
        click.echo(f"{domain} had been retired")
    else:
        click.echo(f"{domain} retired; recorded at {said['position']}")


@domain_group.command("show")
@click.argument("domain", required=False)
@json_option
def show(domain: str | None, as_json: bool) -> None:
    """Show one domain.

    \b
    Example: noria domain show road-traffic
    """
    with the_door() as door:
        row = door.domain(the_domain(door, domain))
    if as_json:
        print_json(row)
        return
    for name, value in row.items():
        if name not in ("policy", "position"):
            click.echo(f"{name.replace('_', ' '):<16}{shown(value)}")


@click.group("policy", short_help="Show or set when rounds start and what the gate asks.")
def policy_group() -> None:
    """A domain's policy: thresholds, schedule, quiet hours, budget, recipe and gate margins."""


@policy_group.command("show")
@domain_option
@json_option
def show_policy(domain: str | None, as_json: bool) -> None:
    """Show the policy in force; with --json as a file that `policy set` takes.

    \b
    Example: noria policy show --domain road-traffic
    """
    with the_door() as door:
        policy = door.policy(the_domain(door, domain))
    if as_json:
        print_json(policy)
        return
    for name, value in flat(policy):
        click.echo(f"{name:<36}{shown(value)}")


@policy_group.command("set")
@click.argument("what", nargs=-1, required=True, metavar="FILE.json | KEY=VALUE...")
@domain_option
@json_option
def set_policy(what: tuple[str, ...], domain: str | None, as_json: bool) -> None:
    """Set the policy: whole, from a JSON file (what it leaves out is the default), or some keys of the one in force.

    \b
    Examples:
      noria policy set policy.json --domain road-traffic
      noria policy set thresholds.corrections=20 thresholds.people=3
      noria policy set schedule.cron="0 2 * * 1" schedule.timezone=Asia/Shanghai
      noria policy set quiet_hours=null
    """
    pairs = [word for word in what if "=" in word]
    if pairs and len(pairs) != len(what):
        raise click.UsageError("give either one JSON file, or KEY=VALUE pairs")
    if not pairs and len(what) != 1:
        raise click.UsageError("give one JSON file")
    whole = None if pairs else _object_in(Path(what[0]))
    with the_door() as door:
        name = the_domain(door, domain)
        policy = changed(door.policy(name), pairs) if whole is None else whole
        said = door.set_policy(name, policy)
    if as_json:
        print_json(said)
    else:
        click.echo(f"set; recorded at {said.get('position')}")


def flat(value: Json, before: str = "") -> list[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as `[("a.b", 1)]`."""
    found: list[tuple[str, Any]] = []
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            found += flat(inner, f"{before}{name}.")
        else:
            found.append((f"{before}{name}", inner))
    return found


def changed(policy: Json, pairs: list[str]) -> Json:
    """`policy` with `a.b=value` pairs set; a value is JSON, or else a plain word. Raises click.UsageError."""
    for pair in pairs:
        path, _, text = pair.partition("=")
        names = path.strip().split(".")
        if not all(names):
            raise click.UsageError(f"{pair!r} is not KEY=VALUE")
        try:
            value: Any = msgspec.json.decode(text)
        except msgspec.DecodeError:
            value = text
        inside = policy
        for name in names[:-1]:
            if not isinstance(inside.get(name), dict):
                inside[name] = {}
            inside = inside[name]
        inside[names[-1]] = value
    return policy


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _read(path).splitlines() if line.strip()]


def _object_in(path: Path) -> Json:
    words = _read(path)
    try:
        found = msgspec.json.decode(words.encode())
    except msgspec.DecodeError as error:
        raise Invalid(f"{path} is not JSON: {error}") from error

    def no_name_twice(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        for number, name in enumerate(names):
            if name in names[:number]:  # whichever of the two counts, somebody meant the other
                raise Invalid(f"{path} has {name!r} twice in one object")

    json.loads(words, object_pairs_hook=no_name_twice)
    if not isinstance(found, dict):
        raise Invalid(f"{path} must hold one JSON object")
    return found


def _read(path: Path) -> str:
    if not path.exists():
        raise click.UsageError(f"there is no file {path}")
    return read_text(path)


COMMANDS = [domain_group, policy_group]
