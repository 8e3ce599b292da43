"""What looks at this machine: processes up and down, how things stand, whether the tables equal the log, the demo."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from api.cli.context import NOT_RUNNING, json_option, print_json, print_table, shown, span
from api.cli.quarantine import parked_lines, stopped_lines
from api.cli.rounds import in_words, progress_words
from api.client import Refused, open_door, page_url_of
from streams.disk import DiskUse, disk_use
from streams.errors import Invalid, Unavailable
from streams.settings import from_env, home_of


@click.command("up", short_help="Start everything on this machine.")
@click.option("--detach", is_flag=True, help="Come back once everything is ready; `noria down` stops it.")
@json_option
def up(detach: bool, as_json: bool) -> None:
    """Start what is not given from elsewhere: Kafka, PostgreSQL, streams, relay, workers, engines, door and page.

    When all is ready, a link is printed that opens the page as this machine's operator, once (`noria page-link` prints another).
    It stays in the foreground until Ctrl-C, restarts what dies, and stops everything when it is stopped.

    \b
    Examples:
      noria up
      noria up --detach --json
      NORIA_KAFKA=broker:9092 NORIA_DATABASE_URL=postgresql://… noria up
    """
    from deploy import local, supervisor

    home = home_of(os.environ)
    if supervisor.status(home).condition != "stopped":
        raise Invalid("noria runs here already: see `noria status`, or stop it with `noria down`")

    def say(line: str) -> None:
        ready = line.startswith("ready:")
        if as_json and ready:
            print_json(_facts(home) | {"page_link": _page_link()})
        else:
            click.echo(line, err=as_json)
            if ready:
                click.echo(f"the page, for the first to open it within an hour: {_page_link()}")

    if detach:
        supervisor.detach([sys.executable, "-m", "deploy.local"], home, say)
    else:
        local.up(home, say=say)


@click.command("down", short_help="Stop everything that `noria up` started.")
@json_option
def down(as_json: bool) -> None:
    """Stop everything that `noria up` started here. What was recorded stays.

    \b
    Example: noria down
    """
    from deploy import supervisor

    stopped = supervisor.down(home_of(os.environ))
    if as_json:
        print_json({"stopped": stopped})
    else:
        click.echo("stopped" if stopped else "nothing runs here")


@click.command("status", short_help="What runs, and why the next round has not come yet.")
@json_option
def status(as_json: bool) -> None:
    """Show the processes, and for each domain the live release, the round under way, or what is still missing for one.

    \b
    Example: noria status
    """
    from deploy import supervisor

    found = supervisor.status(home_of(os.environ))
    domains: list[dict[str, Any]] = []
    quarantined: int | None = None
    stopped: dict[str, Any] = {"stopped": [], "parked": []}
    trouble: str | None = None
    try:
        with open_door() as door:
            trouble = door.trouble()
            domains = [door.status(str(row["domain"])) for row in door.domains()]
            stopped = door.quarantine(0)
            quarantined = stopped["count"]
    except Refused as error:
        if error.status != 403:  # the key may see domains and no more
            raise
    except Unavailable as error:
        trouble = str(error)
    use = _disk_use()
    if as_json:
        processes = msgspec.to_builtins(found.processes)
        counted = {"domains": domains, "quarantined": quarantined, "trouble": trouble}
        counted |= {name: stopped.get(name, []) for name in ("stopped", "parked")}
        disk = msgspec.to_builtins(use)
        print_json({"condition": found.condition, "processes": processes, **counted, "disk": disk})
    else:
        if found.processes:
            print_table(
                ["process", "state", "pid", "restarts", "for", "address"],
                [
                    [p.name, p.state, p.pid, p.restarts, _since(p.since) if p.pid else None, p.address or None]
                    for p in found.processes
                ],
            )
            click.echo()
        for line in [line for one in domains for line in domain_lines(one)]:
            click.echo(line)
        if use is not None:
            kinds = ", ".join(f"{kind} {_size(size)}" for kind, size in use.kinds.items())
            click.echo(f"disk: {_size(use.free)} free of {_size(use.total)}; {kinds}")
        if quarantined:
            click.echo(f"{quarantined} records could not be read or met a bug: `noria quarantine list` names them")
        for line in (*parked_lines(stopped), *stopped_lines(stopped)):
            click.echo(line)
        if not domains and trouble is None:
            click.echo("no domain yet; make one with `noria domain create`")
    if trouble is not None:
        click.echo(f"noria: {trouble}", err=True)
        sys.exit(NOT_RUNNING)


def _disk_use() -> DiskUse | None:
    """None where nothing was ever started."""
    try:
        return disk_use(from_env(os.environ))
    except Invalid:
        return None


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def domain_lines(found: dict[str, Any]) -> list[str]:
    """How one domain stands, in words."""
    if found.get("retired_at"):
        return [shown(f"{found['domain']}: retired")]
    live = found.get("live_release")
    serving = found.get("serving") or {}
    state = f" ({serving['state']})" if serving.get("state") not in (None, "ready") else ""
    answers = f"release {live} answers{state}" if live is not None else "no release answers yet"
    lines = [f"{found['domain']}: {answers}"]
    round_ = found.get("round")
    if round_:
        progress = progress_words(round_.get("progress"))
        lines.append(
            f"  round {round_['number']}: {round_['step']} {progress}".rstrip()
            + f"; because {in_words(round_['reasons'])}"
        )
    elif found.get("due"):
        lines.append("  a round is due and starts now")
    else:
        lines.append(f"  why not yet: {why_not_yet(found)}")
    ended = next((r for r in found.get("rounds") or [] if r.get("ended_at")), None)
    if ended:
        release = f" → release {ended['release']}" if ended["step"] == "released" else ""
        failure = f" at {ended['last_step']}: {ended['failure']}" if ended.get("failure") else ""
        lines.append(f"  last round: {ended['number']}, {ended['step']}{release}{failure}")
    return [shown(line) for line in lines]


def why_not_yet(found: dict[str, Any]) -> str:
    """`31 of 40 corrections; 9 more, or on Monday 02:00`."""
    missing = [str(one["words"]) for one in found.get("missing") or []]
    return ", ".join(missing) or "nothing is asked for: every threshold is off and there is no schedule"


@click.command("verify", short_help="Rebuild the tables from the log and compare.")
@json_option
def verify(as_json: bool) -> None:
    """Replay the log from its first event into a shadow schema and compare every table with the live one.

    Exit code 0: equal. 1: they differ, and the first differing row of each table is named.

    \b
    Example: noria verify
    """
    from streams import replay
    from streams.log import KafkaLog
    from streams.store import open_database

    try:
        settings = from_env(os.environ)
    except Invalid as error:
        raise Unavailable(str(error)) from error
    database = open_database(settings.database_url)
    log = KafkaLog(settings.kafka, "noria-verify")
    progress = sys.stderr.isatty() and not as_json

    def tell(done: int, total: int) -> None:
        if progress:
            click.echo(f"\r{done} of {total} events", nl=False, err=True)

    try:
        report = replay.verify(database, log, tell)
    finally:
        log.close()
        database.dispose()
        if progress:
            click.echo(err=True)
    if as_json:
        print_json(msgspec.to_builtins(report))
        sys.exit(0 if report.equal else 1)
    print_table(
        ["table", "rows", "live", "replayed", "equal"],
        [[t.table, t.rows, t.live[:12], t.shadow[:12], t.equal] for t in report.tables],
    )
    click.echo(f"\n{report.records} events replayed, {report.records_per_s:,.0f} a second")
    for difference in report.differences:
        key = ", ".join(f"{name}={value}" for name, value in difference.key.items())
        columns = f"; columns {', '.join(difference.columns)}" if difference.columns else ""
        click.echo(f"noria: {difference.table} differs at {key} ({difference.where}{columns})", err=True)
    for what, ids in (("implied and not said", report.unsaid), ("said and not implied", report.unexplained)):
        if ids:
            click.echo(f"noria: {len(ids)} messages {what}, the first is {ids[0]}", err=True)
    for other in report.otherwise:
        what = "the beginning" if other.what == "round" else "the gate's word"
        words = f"{what} of round {other.number} of {other.domain}: {other.recorded or 'none'}"
        click.echo(f"today's code would decide otherwise on {words}; now {other.today or 'none'}")
    if report.equal:
        click.echo("equal: the tables are what the log says")
    sys.exit(0 if report.equal else 1)


@click.command("demo", short_help="Tell the whole story on a small domain.")
@click.option("--once", is_flag=True, envvar="ONCE", help="Stop everything at the end instead of serving.")
def demo(once: bool) -> None:
    """Start everything, let six simulated people correct 48 answers, and show the round that follows, up to its release.

    \b
    Example: noria demo --once
    """
    try:
        from deploy.demo import story
    except ImportError as error:
        raise Invalid(f"the demo is not part of this installation ({error})") from error
    sys.exit(story.main(stop_at_end=once))


def _facts(home: Path) -> dict[str, Any]:
    """What a script wants to know of what runs: addresses (without the database's password) and processes."""
    from deploy import supervisor

    found = supervisor.status(home)
    written: dict[str, Any] = msgspec.json.decode((home / "run" / "noria.json").read_bytes())
    addresses = {name: address for name, address in written.items() if name != "database_url"}
    return {"condition": found.condition, **addresses, "processes": msgspec.to_builtins(found.processes)}


def _page_link() -> str:
    """A link that opens the page; how to get one, where there is none."""
    try:
        with open_door() as door:
            return door.page_link(page_url_of(os.environ))
    except (Invalid, Unavailable) as error:
        return f"none ({error}); try `noria page-link`"


def _since(at: float) -> str:
    return span(time.time() - at)


COMMANDS = [up, down, status, verify, demo]
