"""What every command shares: the door, the one place where errors become a line and an exit code, and how things are shown."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.client import Door, Refused, open_door
from streams.errors import Invalid, Unavailable

F = TypeVar("F", bound=Callable[..., Any])

REFUSED = 1
USAGE = 2
NOT_RUNNING = 3


class Guarded(click.Group):
    """The command group whose commands never end in a traceback: one clear line on stderr, and an exit code.

    0 done, 1 refused or failed, 2 used wrongly, 3 not running or not available at present.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Refused as error:
            where = f" (field {error.param})" if error.param and not error.message.startswith(error.param) else ""
            _leave(ctx, f"refused: {error.message}{where}", REFUSED)
        except Unavailable as error:
            _leave(ctx, str(error), NOT_RUNNING)
        except Invalid as error:
            _leave(ctx, str(error), REFUSED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, KeyboardInterrupt, EOFError):
            raise
        except OSError as error:
            _leave(ctx, f"{error.filename or 'input or output'}: {error.strerror or error}", REFUSED)
        except UnicodeError as error:
            # Python keeps such bytes of a command line as halves of surrogate pairs.
            if isinstance(error, UnicodeEncodeError) and not any("\ud800" <= c <= "\udfff" for c in error.object):
                raise
            _leave(ctx, "what was given (a word of the command line, or standard input) is not UTF-8", USAGE)
        except RecursionError:
            if ctx.params.get("debug"):
                raise
            _leave(ctx, "what was given is nested too deep", REFUSED)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            _leave(
                ctx, f"this is a fault of noria: {type(error).__name__}: {error} (noria --debug shows where)", REFUSED
            )


def _leave(ctx: click.Context, line: str, code: int) -> None:
    click.echo(f"noria: {' '.join(line.split())}", err=True)
    ctx.exit(code)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def domain_option(command: F) -> F:
    return click.option(
        "-d",
        "--domain",
        metavar="DOMAIN",
        envvar="NORIA_DOMAIN",
        help="Which domain; may be left out when there is one.",
    )(command)


@contextmanager
def the_door() -> Iterator[Door]:
    with open_door() as door:
        yield door


def the_domain(door: Door, given: str | None) -> str:
    """`given`, or the only domain there is. Raises click.UsageError when the choice is not clear."""
    if given:
        return given
    names = [str(row["domain"]) for row in door.domains() if not row.get("retired_at")]
    if len(names) == 1:
        return names[0]
    if not names:
        raise Invalid("there is no domain yet; make one with `noria domain create`")
    raise click.UsageError(f"say which domain with --domain: {', '.join(names)}")


def confirm_by_name(warning: str, name: str, done: str) -> None:
    """Have what cannot be undone confirmed by its name, typed again. Raises Invalid; nothing was `done` then."""
    click.echo(warning, err=True)
    try:
        again = click.prompt("Type the name again to go on", default="", show_default=False, err=True)
    except click.Abort:
        again = ""
    if again != name:
        raise Invalid(f"that is not the name; nothing was {done}")


def print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_json_line(value: Any) -> None:
    click.echo(msgspec.json.encode(value).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "none") -> None:
    """Rows under headings; `empty` says what it means that there are none."""
    if not rows:
        click.echo(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        # What a person copies from the table is never cut.
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[escape(shown(cell)) for cell in row])
    console().print(table)


def console() -> Console:
    """Where tables go; a pipe gets wide, plain lines."""
    out = click.get_text_stream("stdout")
    width = None if out.isatty() else 200
    return Console(file=out, width=width, highlight=False, soft_wrap=False)


def shown(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case str():
            return printable(value)
        case list() | tuple():
            return ", ".join(shown(item) for item in value) or "–"
        case dict():
            return ", ".join(f"{key} {shown(item)}" for key, item in value.items()) or "–"
        case _:
            return str(value)


def printable(words: str) -> str:
    """Words from elsewhere cannot move the cursor or colour a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in words)


def moment(text: Any) -> str:
    """An RFC 3339 time in local time, without the fraction."""
    if not text:
        return "–"
    try:
        at = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return shown(text)
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """A length of time as people say it: `3 min 41 s`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, left = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {left} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def seconds_between(start: Any, end: Any) -> float | None:
    try:
        first = datetime.fromisoformat(str(start).replace("Z", "+00:00"))
        last = datetime.fromisoformat(str(end).replace("Z", "+00:00")) if end else datetime.now(UTC)
    except ValueError:
        return None
    return (last - first).total_seconds()


def short(digest: Any) -> str:
    """A digest as a person tells two apart."""
    return str(digest).removeprefix("sha256:")[:12] if digest else "–"


def interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
