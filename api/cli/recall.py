"""`noria recall`: what a memory recalls for a question, and from which score on it is good enough, by the domain's own exam."""

from collections.abc import Iterator, Sequence

import click
import msgspec
from msgspec.structs import replace
from rich.console import Console

from api.cli.context import domain_option, json_option, moment, print_json, print_table, printable, the_domain, the_door
from api.client import Door, Json
from api.thresholds import GENERAL_RECALLED, Asked, Row, Share, Table, share, table
from streams.errors import Invalid
from streams.recalled import MOST_MEMORIES, Recall
from streams.scoring import is_right

FIELD = "recall.least"  # of the policy


@click.group("recall", short_help="See what is recalled for a question, and from which score on it should be.")
def recall_group() -> None:
    """What a domain's memory recalls: its corrections and the passages of its documents, as the policy's `recall` says."""


@recall_group.command("ask")
@click.argument("question")
@click.option("--most", type=click.IntRange(1, MOST_MEMORIES), help="So many at most, and not as the policy says.")
@click.option("--least", type=click.FloatRange(0, 1), help="From this score on, and not from the policy's.")
@domain_option
@json_option
def ask(question: str, most: int | None, least: float | None, domain: str | None, as_json: bool) -> None:
    """Say what would be recalled for QUESTION now, a line each. No model is asked, and nothing is recorded.

    \b
    Example: noria recall ask --domain devices --least 0 "How often is the pump checked?"
    """
    with the_door() as door:
        said = door.would_recall(the_domain(door, domain), question, most=most, least=least)
    if as_json:
        print_json(said)
        return
    for one in said["data"]:
        line = f"{one['score']:.4f}  {one['kind']:<10}  {_source(one)}: {one['text']}"
        click.echo(printable(" ".join(line.split("\n"))))
    if not said["data"]:
        click.echo("nothing is recalled for it", err=True)


def _source(one: Json) -> str:
    if one["kind"] == "correction":
        return f"corrected {moment(one['said_at'])}"
    return ", ".join(part for part in (one["title"], one["place"]) if part) or "a document"


@recall_group.command("calibrate")
@domain_option
@json_option
def calibrate(domain: str | None, as_json: bool) -> None:
    """Ask the memory every question of the domain's exam, and propose from which score on a memory is good enough.

    Of the held-out questions whose answer a memory holds, the table says for each least score of how many a right memory comes
    first, and of how many one is recalled at all; of the general questions, for how many anything is recalled. Proposed is the
    lowest score at which at most 2 % of the general questions recall something. The policy is not changed.

    \b
    Example: noria recall calibrate --domain devices
    """
    with the_door() as door:
        name = the_domain(door, domain)
        recall = msgspec.convert(door.policy(name).get("recall", {}), Recall)
        exam = door.exam(name)["data"]
        if not exam:
            raise Invalid("the exam has no question yet; add some with `noria exam add`")
        with Console(stderr=True).status("asking the memory the questions of the exam"):
            found = _asked(door, name, recall, exam)
    if as_json:
        print_json({"domain": name, "field": FIELD, **msgspec.to_builtins(found)})
        return
    now = "calibrated" if recall.least is None else str(recall.least)
    print_table(
        ["least", "right one first", "right one recalled", "general ones that recall anything"],
        [_cells(f"now: {now}", found.now), *[_cells(f"{row.least:.2f}", row) for row in found.rows]],
    )
    click.echo()
    for line in _said(found, name):
        click.echo(line)


def _asked(door: Door, domain: str, recall: Recall, exam: Sequence[Json]) -> Table:
    """Each question is asked twice: without a least score, and as the policy has it."""
    held_out, general = ([item for item in exam if item["kind"] == kind] for kind in ("held_out", "general"))

    def answers(item: Json, least: float | None) -> Asked:
        data = door.would_recall(domain, item["question"], least=least)["data"]
        return Asked(tuple(one["score"] for one in data), tuple(_is_right(item, one["text"]) for one in data))

    anyhow, now = ([answers(item, least) for item in held_out] for least in (0.0, None))
    missed = [number for number, asked in enumerate(anyhow) if not any(asked.right)]
    texts = _texts(door, domain, recall) if missed else []
    for number in missed:
        # What the search has not found may be there all the same.
        held = any(_is_right(held_out[number], text) for text in texts)
        anyhow[number], now[number] = replace(anyhow[number], held=held), replace(now[number], held=held)
    return table(anyhow, [answers(item, 0.0) for item in general], now, [answers(item, None) for item in general])


def _is_right(item: Json, text: str) -> bool:
    return is_right(text, item["answer"], item["keys"])


def _texts(door: Door, domain: str, recall: Recall) -> list[str]:
    """Of everything that could be recalled, by the policy."""
    texts: list[str] = []
    if "correction" in recall.kinds:
        texts += [one["output"] for one in door.examples(domain)["data"]]
    if "passage" in recall.kinds:
        for document in door.documents(domain)["data"]:
            texts += [one["text"] for one in door.document(domain, document["document_id"])["data"]]
    return texts


def _cells(least: str, row: Row) -> list[str]:
    return [least, *[_share(one) for one in (row.first, row.within, row.general)]]


def _share(said: Share) -> str:
    """`80 % (65 to 90)`."""
    if not said.n:
        return "–"
    return f"{100 * said.k / said.n:.0f} % ({100 * said.low:.0f} to {100 * said.high:.0f})"


def _said(found: Table, domain: str) -> Iterator[str]:
    answerable = found.held_out - found.unanswerable
    yield f"{found.held_out} held-out and {found.general} general questions; in brackets the interval at 95 %"
    if found.unanswerable:
        yield f"of {found.unanswerable} held-out questions no memory holds the answer; they are in no share"
    may = f"{GENERAL_RECALLED:.0%}".replace("%", " %")
    if not found.general:
        yield "without a general question no least score can be proposed; add some with `noria exam add --kind general`"
        return
    if found.proposal is None:
        yield f"at every score more than {may} of the general questions recall something"
        return
    row, lost = found.proposal.row, found.proposal.lost
    yield (
        f"proposed: {FIELD} {row.least:g}, from which on {row.general.k} of {row.general.n} general questions recall something"
        f" ({_share(row.general)})"
    )
    if answerable:
        yield f"what it costs: {lost} of {answerable} held-out questions lose what is right"
    else:
        yield "what it costs cannot be told: there is no held-out question whose answer a memory holds"
    if not found.enough:
        yield (
            f"{found.general} general questions are too few to tell {may}: if none of them recalled anything, it could still be"
            f" {100 * share(0, found.general).high:.1f} %; {found.wanted} would do"
        )
    yield f"to set it: noria policy set {FIELD}={row.least:g} --domain {domain}"


COMMANDS = [recall_group]
