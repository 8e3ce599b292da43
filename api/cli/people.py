"""What people do: ask, rate, correct, pick; and be forgotten."""

import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec

from api.cli.context import (
    confirm_by_name,
    domain_option,
    interactive,
    json_option,
    print_json,
    print_table,
    printable,
    span,
    the_domain,
    the_door,
)
from api.client import Answer, Door, Given, Piece, Rating, Source
from streams.errors import Invalid, Unavailable
from streams.rankings import MOST_ANSWERS

HELP = """\
  /good, /bad         rate the last answer
  /better WORDS       write the last answer better
  /comment WORDS      say something about it
  /pick N             pick draft N
  /misfit N           source N does not fit
  /new                begin a new conversation
  /quit               leave (so does Ctrl-D)"""


@click.command("chat", short_help="Ask the live release; interactively without a question.")
@click.argument("question", required=False)
@domain_option
@click.option("--release", type=click.IntRange(min=0), help="Ask this release instead of the live one.")
@click.option("-p", "--person", metavar="ID", envvar="NORIA_PERSON", help="Who asks (an opaque id).")
@click.option(
    "-n", "--drafts", type=click.IntRange(1, MOST_ANSWERS), default=1, show_default=True, help="Drafts to pick from."
)
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 gives the likeliest words.")
@click.option("--max-tokens", type=click.IntRange(1), help="How long an answer may be.")
@json_option
def chat(
    question: str | None,
    domain: str | None,
    release: int | None,
    person: str | None,
    drafts: int,
    temperature: float | None,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Ask, and see the answer as it is made. QUESTION may be - for standard input.

    \b
    Examples:
      noria chat "How fast may I drive in a city street without a centre line?"
      noria chat --domain road-traffic --person ana
      noria chat --json --temperature 0 "May I phone while driving?"
    """
    if question == "-":
        question = click.get_text_stream("stdin").read()
    if question is not None and not question.strip():
        raise click.UsageError("the question is empty")
    if question is None and as_json:
        raise click.UsageError("--json needs a question")
    if question is None and not interactive():
        raise click.UsageError("give a question, or run this in a terminal")
    more = {k: v for k, v in (("temperature", temperature), ("max_tokens", max_tokens)) if v is not None}
    with the_door() as door:
        name = the_domain(door, domain)
        talk = Talk(door, name if release is None else f"{name}@{release}", person, drafts, more)
        if question is None:
            converse(talk)
            return
        answer = talk.ask(question, None if as_json else _write)
        if as_json:
            print_json({"drafts": talk.texts, **msgspec.to_builtins(answer)})
        else:
            click.echo()
            click.echo(
                f"[{answer.release}, recorded at {answer.position}, reply {' '.join(answer.reply_ids)}]", err=True
            )
            for line in source_lines(answer):
                click.echo(line, err=True)


class Talk:
    """One conversation through the door."""

    def __init__(self, door: Door, model: str, person: str | None, drafts: int, more: dict[str, Any]) -> None:
        self.door = door
        self.person = person
        self.texts: list[str] = []
        self.last: Answer | None = None
        self._model = model
        self._drafts = drafts
        self._more = more
        self._messages: list[dict[str, str]] = []
        self._chosen = 0

    def ask(self, question: str, write: Callable[[str], None] | None) -> Answer:
        """Ask, writing the answer as it comes (several drafts: each when it is whole). What failed is not kept."""
        messages = [*self._messages, {"role": "user", "content": question}]
        texts = [""] * self._drafts
        conversation_id = self.last.conversation_id if self.last is not None else None
        answer: Answer | None = None
        for said in self.door.chat(
            self._model,
            messages,
            person=self.person,
            conversation_id=conversation_id,
            drafts=self._drafts,
            more=self._more,
        ):
            if isinstance(said, Piece):
                texts[said.index] += said.text
                if write is not None and self._drafts == 1:
                    write(said.text)
            else:
                answer = said
        if answer is None:
            raise Unavailable("the answer broke off before its end; it does not count")
        if write is not None and self._drafts > 1:
            write("\n\n".join(f"draft {number}: {text.strip()}" for number, text in enumerate(texts, 1)))
        self.last, self.texts, self._chosen = answer, texts, 0
        self._messages = [*messages, {"role": "assistant", "content": texts[0]}]
        return answer

    def give(self, **what: Any) -> Given:
        """Feedback on the last answer (on the picked draft, if one was picked)."""
        if self.last is None:
            raise Invalid("ask something first")
        return self.door.feedback(self.last.reply_ids[self._chosen], person=self.person, **what)

    def pick(self, number: int) -> Given:
        if self.last is None or not 1 <= number <= len(self.texts):
            raise Invalid(f"pick a draft from 1 to {len(self.texts)}")
        self._chosen = number - 1
        given = self.give(pick=True)
        self._messages[-1] = {"role": "assistant", "content": self.texts[self._chosen]}
        return given

    def reject(self, number: int) -> Given:
        """Source `number` of the last answer did not fit."""
        if self.last is None or not 1 <= number <= len(self.last.recalled):
            raise Invalid("the last answer has no such source")
        return self.give(misfit=self.last.recalled[number - 1].id)

    def forget(self) -> None:
        self.last, self.texts, self._messages, self._chosen = None, [], [], 0


def converse(talk: Talk) -> None:
    click.echo("Ask, or /help. Every answer can be rated and written better; what you say is recorded.")
    while True:
        try:
            said = input("\nyou> ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if not said:
            continue
        try:
            if said.startswith("/"):
                if not act(talk, said):
                    return
                continue
            answer = talk.ask(said, _write)
            click.secho(f"\n[{answer.release} · {answer.position}]", dim=True)
            for line in source_lines(answer):
                click.secho(line, dim=True)
            if answer.messages_left_out:
                left_out = answer.messages_left_out
                click.secho(f"[too long for the model: the oldest {left_out} messages were left out]", dim=True)
        except KeyboardInterrupt:
            click.secho("\n[stopped; the answer does not count]", dim=True)
        except (Invalid, Unavailable) as error:
            click.echo(f"\nnoria: {error}", err=True)


def act(talk: Talk, said: str) -> bool:
    """A line that begins with /. False: leave."""
    name, _, words = said.partition(" ")
    words = words.strip()
    given: Given | None = None
    match name:
        case "/quit" | "/exit":
            return False
        case "/good":
            given = talk.give(rating="up")
        case "/bad":
            given = talk.give(rating="down")
        case "/better":
            given = talk.give(correction=words)
        case "/comment":
            given = talk.give(comment=words)
        case "/pick":
            given = talk.pick(int(words) if words.isdigit() else 0)
        case "/misfit":
            given = talk.reject(int(words) if words.isdigit() else 0)
        case "/new":
            talk.forget()
            click.secho("[a new conversation]", dim=True)
        case _:
            click.echo(HELP)
    if given is not None:
        click.secho(f"[recorded at {given.position}]", dim=True)
    return True


def source_lines(answer: Answer) -> list[str]:
    """What the answer was given with, a line each; and that the memory was away, if it was."""
    if answer.recall == "unavailable":
        return ["[the memory was not available: nothing was recalled for this answer]"]
    return [f"[{number}] {_source_words(source)}" for number, source in enumerate(answer.recalled, 1)]


def _source_words(source: Source) -> str:
    """`from a correction, 3 min 41 s old (score 0.88, 0f3a…)`."""
    if source.kind == "correction":
        age = f"{source.age_s:.1f} s" if source.age_s < 10 else span(source.age_s)
        said = f"a correction, {age} old"
    else:
        said = ", ".join(part for part in (source.title, source.place) if part) or "a document"
    return f"from {printable(' '.join(said.split()))} (score {source.score:.2f}, {source.id})"


def _write(words: str) -> None:
    sys.stdout.write(printable(words))
    sys.stdout.flush()


@click.group("feedback", short_help="Rate, correct or pick a reply.")
def feedback_group() -> None:
    """Say what you think of a reply. A reply's id comes with the answer (`noria chat`)."""


def _person_option(command: Any) -> Any:
    return click.option("-p", "--person", metavar="ID", envvar="NORIA_PERSON", help="Whose reply it is.")(command)


def _key_option(command: Any) -> Any:
    return click.option("--key", metavar="KEY", help="Idempotency key: said twice under one key, recorded once.")(
        command
    )


def _text_of(words: str | None) -> str:
    text = click.get_text_stream("stdin").read() if words in (None, "-") else str(words)
    if not text.strip():
        raise click.UsageError("the text is empty")
    return text.rstrip("\n")


def _said(given: Given, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(given))
    else:
        click.echo(f"{'had been recorded' if given.duplicate else 'recorded'} at {given.position}")


@feedback_group.command("rate")
@click.argument("reply_id", metavar="REPLY")
@click.argument("rating", type=click.Choice(["up", "down", "1", "2", "3", "4", "5"]))
@click.option("--comment", metavar="WORDS", help="Say why.")
@_person_option
@_key_option
@json_option
def rate(reply_id: str, rating: str, comment: str | None, person: str | None, key: str | None, as_json: bool) -> None:
    """Rate a reply: up, down, or 1 to 5.

    \b
    Example: noria feedback rate rpl_0a1b up --person ana
    """
    value: Rating = int(rating) if rating.isdigit() else ("up" if rating == "up" else "down")
    with the_door() as door:
        _said(door.feedback(reply_id, person=person, rating=value, comment=comment, idempotency_key=key), as_json)


@feedback_group.command("correct")
@click.argument("reply_id", metavar="REPLY")
@click.argument("words", metavar="TEXT", required=False)
@_person_option
@_key_option
@json_option
def correct(reply_id: str, words: str | None, person: str | None, key: str | None, as_json: bool) -> None:
    """Write a reply better. TEXT is read from standard input when it is left out or -.

    \b
    Example: noria feedback correct rpl_0a1b "30 km/h." --person ana
    """
    text = _text_of(words)
    with the_door() as door:
        _said(door.feedback(reply_id, person=person, correction=text, idempotency_key=key), as_json)


@feedback_group.command("comment")
@click.argument("reply_id", metavar="REPLY")
@click.argument("words", metavar="TEXT", required=False)
@_person_option
@_key_option
@json_option
def comment(reply_id: str, words: str | None, person: str | None, key: str | None, as_json: bool) -> None:
    """Say something about a reply. TEXT is read from standard input when it is left out or -.

    \b
    Example: noria feedback comment rpl_0a1b "Right, but too long." --person ana
    """
    text = _text_of(words)
    with the_door() as door:
        _said(door.feedback(reply_id, person=person, comment=text, idempotency_key=key), as_json)


@feedback_group.command("pick")
@click.argument("reply_id", metavar="REPLY")
@_person_option
@_key_option
@json_option
def pick(reply_id: str, person: str | None, key: str | None, as_json: bool) -> None:
    """Pick this draft among those of its question.

    \b
    Example: noria feedback pick rpl_0a1b --person ana
    """
    with the_door() as door:
        _said(door.feedback(reply_id, person=person, pick=True, idempotency_key=key), as_json)


@feedback_group.command("rank")
@click.argument("replies", metavar="REPLY...", nargs=-1, required=True)
@_person_option
@_key_option
@json_option
def rank(replies: tuple[str, ...], person: str | None, key: str | None, as_json: bool) -> None:
    """Put drafts of one question in order, the best first. Those that are equally good are joined by `=`.

    \b
    Example: noria feedback rank rpl_0a1b rpl_0c2d=rpl_0e3f rpl_0a4b --person ana
    """
    ranking = [tier.split("=") for tier in replies]
    with the_door() as door:
        _said(door.feedback(ranking[0][0], person=person, ranking=ranking, idempotency_key=key), as_json)


@feedback_group.command("misfit")
@click.argument("reply_id", metavar="REPLY")
@click.argument("memory_id", metavar="MEMORY")
@click.option("--comment", metavar="WORDS", help="Say why.")
@_person_option
@_key_option
@json_option
def misfit(
    reply_id: str, memory_id: str, comment: str | None, person: str | None, key: str | None, as_json: bool
) -> None:
    """Say that what was recalled for a reply does not fit it. MEMORY is the id that stands with the source (`noria chat`).

    \b
    Example: noria feedback misfit rpl_0a1b 5d2c --person ana
    """
    with the_door() as door:
        _said(door.feedback(reply_id, person=person, misfit=memory_id, comment=comment, idempotency_key=key), as_json)


@feedback_group.command("sources")
@click.argument("reply_id", metavar="REPLY")
@json_option
def sources(reply_id: str, as_json: bool) -> None:
    """What was recalled for a reply, and what became of it.

    \b
    Example: noria feedback sources rpl_0a1b
    """
    with the_door() as door:
        said = door.recalled(reply_id)
    if as_json:
        print_json(said)
        return
    print_table(
        ["memory", "kind", "score", "state", "says"],
        [[one["id"], one["kind"], f"{one['score']:.2f}", one["state"], _first_words(one)] for one in said["data"]],
        empty="nothing was recalled for it" if said["recall"] != "unavailable" else "the memory was not available",
    )


def _first_words(one: dict[str, Any]) -> str:
    words = " ".join(str(one.get("text") or "–").split())
    return printable(words if len(words) <= 60 else f"{words[:59]}…")


@feedback_group.command("list")
@click.argument("person")
@json_option
def list_corrections(person: str, as_json: bool) -> None:
    """What became of the corrections of PERSON.

    \b
    Example: noria feedback list ana
    """
    with the_door() as door:
        said = door.corrections(person)
    if as_json:
        print_json(said)
        return
    rows = said["data"]
    print_table(
        ["domain", "state", "reply", "event"],
        [[row["domain"], state_words(row), row["reply_id"], row["event_id"]] for row in rows],
        empty=f"{person} has corrected nothing yet",
    )
    if said["total"] > len(rows):
        click.echo(f"the newest {len(rows)} of {said['total']}", err=True)


def state_words(row: dict[str, Any]) -> str:
    """`live in release 2 after 3 min 41 s`."""
    match row["state"]:
        case "live":
            after = row.get("live_after_s")
            return f"live in release {row['release']}" + (f" after {span(after)}" if after is not None else "")
        case "in_round":
            return f"in round {row['round']}"
        case other:
            return str(other)


@click.command("erase", short_help="Erase a person: destroy their key and purge what holds their words.")
@click.argument("person")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for the id again.")
@json_option
def erase(person: str, yes: bool, as_json: bool) -> None:
    """Destroy PERSON's key. What they said stays sealed on the log and in the tables and opens no more; no restore that is given
    the journal of erasures brings it back, and it cannot be undone.

    Copies of the destroyed key, wrapped by the master key, are left in older backups and in PostgreSQL's write-ahead log: run
    `noria keys rotate` afterwards, which makes them useless (deploy/backup.md).

    \b
    Example: noria erase ana
    """
    if not yes:
        warning = f"What {printable(person)} said will be gone for ever, and no restore that is given the journal brings it back."
        confirm_by_name(warning, person, "erased")
    with the_door() as door:
        said = door.erase(person)
    if as_json:
        print_json(said)
        return
    click.echo(
        f"erased: {printable(person)}; {len(said.get('kids', []))} key(s) destroyed, recorded at {said.get('position')}"
    )
    click.echo(f"domains: {', '.join(said.get('domains', [])) or 'none'}; examples retired: {said.get('examples', 0)}")
    learned = said.get("learned_by") or []
    if learned:
        click.echo("releases, candidates and reward models that learned from them:")
        print_table(
            ["release", "round", "ended", "examples", "preferences"],
            [
                [
                    f"{r['domain']}@{r['release']}" if r.get("release") is not None else "–",
                    r["number"],
                    r.get("step") or "–",
                    r["examples"],
                    r.get("preferences", 0),
                ]
                for r in learned
            ],
        )
    else:
        click.echo("no release learned from them")
    places = said.get("places") or []
    if places:
        click.echo(f"places that the workers purge now: {len(places)}")


COMMANDS = [chat, feedback_group, erase]
